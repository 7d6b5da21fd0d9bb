"""INSERT, UPDATE and DELETE: one statement per table and set of columns, compiled once."""

from collections.abc import Iterable, Mapping
from functools import cache
from types import SimpleNamespace
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Table, bindparam, column, delete, func, insert, select, text, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.sql.selectable import TableValuedAlias

from storefront.core.casing import to_camel_case, to_snake_case
from storefront.core.db.database import Row, Statement, compile_statement
from storefront.core.ids import new_id
from storefront.queries.projection import list_returned_columns
from storefront.writes.transaction import PendingRow, UnitOfWork

ColumnNames = tuple[str, ...]


def convert_to_columns(values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert input field names to column names."""
    return {to_snake_case(name): value for name, value in values.items()}


def convert_to_parameters(table: Table, values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert values to statement parameters: values of jsonb columns are serialized."""
    json_columns = _list_json_columns(table)
    return {name: _serialize_json(value) if name in json_columns else value for name, value in values.items()}


@cache
def _list_json_columns(table: Table) -> frozenset[str]:
    return frozenset(column.name for column in table.c if isinstance(column.type, JSONB))


def insert_row(unit: UnitOfWork, table: Table, values: Mapping[str, Any]) -> PendingRow:
    """Enqueue the insert of a row with a new id and version 1."""
    row = {"id": new_id(), "version": 1, **values}
    statement = unit.enqueue(build_insert(table, sort_column_names(row)), convert_to_parameters(table, row))
    return PendingRow(SimpleNamespace(**row), statement)


def update_row(unit: UnitOfWork, table: Table, old: Row, values: Mapping[str, Any], *, is_changed: bool = False) -> PendingRow:
    """Enqueue the update of a locked row, with the next version. Does nothing if no value changes, unless `is_changed`."""
    changed_values = {name: value for name, value in values.items() if getattr(old, name) != value}
    if not (changed_values or is_changed):
        return PendingRow(old, None)
    statement = unit.enqueue(
        build_update(table, sort_column_names(changed_values)), {"id": old.id, **convert_to_parameters(table, changed_values)}
    )
    state = old._replace(**changed_values, version=old.version + 1)
    return PendingRow(state, statement, [to_camel_case(name) for name in values if name in changed_values])


def delete_row(unit: UnitOfWork, table: Table, old: Row) -> None:
    """Enqueue the deletion of a row; foreign keys cascade."""
    unit.enqueue(build_delete(table), {"id": old.id})


@cache
def build_insert(table: Table, names: ColumnNames, computed: tuple[tuple[str, str], ...] = ()) -> Statement:
    """Insert one row with these columns and `computed` pairs of column and SQL expression; returns the row."""
    assignments = {name: _bind_column(table, name) for name in names}
    row = insert(table).values({**assignments, **{name: text(sql) for name, sql in computed}})
    return compile_statement(row.returning(*list_returned_columns(table)))


@cache
def build_update(table: Table, names: ColumnNames) -> Statement:
    """Set these columns of the row `id` and increment its version; returns the row."""
    computed_values: dict[str, Any] = {"version": table.c.version + 1}
    if "updated_at" in table.c:
        computed_values["updated_at"] = text("now()")
    assignments = {name: _bind_column(table, name) for name in names} | computed_values
    row = update(table).where(table.c.id == bindparam("id")).values(assignments)
    return compile_statement(row.returning(*list_returned_columns(table)))


def select_json_rows(table: Table, *names: str) -> TableValuedAlias:
    """The rows of the parameter `rows`, a JSON list of objects, as a table `entry` with these columns of `table`."""
    columns = (column(name, table.c[name].type) for name in names)
    rows = func.jsonb_to_recordset(bindparam("rows", type_=JSONB)).table_valued(*columns)
    return rows.render_derived(name="entry", with_types=True)


@cache
def build_insert_of_rows(table: Table, names: ColumnNames) -> Statement:
    """Insert the rows of the parameter `rows`, which all have these columns."""
    entry = select_json_rows(table, *names)
    return compile_statement(insert(table).from_select(names, select(*entry.c), include_defaults=False))


@cache
def build_delete(table: Table) -> Statement:
    """Delete the row `id`."""
    return compile_statement(delete(table).where(table.c.id == bindparam("id")))


def sort_column_names(values: Iterable[str]) -> ColumnNames:
    """Sort column names, so that one set of columns is one cached statement."""
    return tuple(sorted(values))


def _serialize_json(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


def _bind_column(table: Table, name: str) -> ColumnElement[Any]:
    return bindparam(name, type_=table.c[name].type)
