"""INSERT, UPDATE and DELETE: one statement per table and set of columns, compiled once."""

from collections.abc import Iterable, Mapping
from functools import cache
from types import MappingProxyType, SimpleNamespace
from typing import Any

import orjson
from sqlalchemy import JSON, ColumnElement, Table, bindparam, column, delete, func, insert, select, text, update
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
    """Convert values to statement parameters: values of JSON columns are serialized."""
    json_columns = _list_json_columns(table)
    return {name: _serialize_json(value) if name in json_columns else value for name, value in values.items()}


@cache
def _list_json_columns(table: Table) -> frozenset[str]:
    return frozenset(column.name for column in table.c if isinstance(column.type, JSON))


def insert_row(unit: UnitOfWork, table: Table, values: Mapping[str, Any]) -> PendingRow:
    """Enqueue the insert of a row with a new id and version 1."""
    row = {"id": new_id(), "version": 1, **values}
    statement = unit.enqueue(build_insert(table, sort_column_names(row)), convert_to_parameters(table, row))
    return PendingRow(SimpleNamespace(**row), statement)


def update_row(
    unit: UnitOfWork,
    table: Table,
    old: Row,
    values: Mapping[str, Any],
    *,
    is_changed: bool = False,
    unread_values: Mapping[str, Any] = MappingProxyType({}),
) -> PendingRow:
    """Enqueue the update of a locked row, with the next version. Does nothing if no value changes, unless `is_changed`.

    `unread_values`: of columns that rows are read without, written with the others.
    """
    changed_values = {name: value for name, value in values.items() if getattr(old, name) != value}
    if not (changed_values or is_changed):
        return PendingRow(old, None)
    written_values = {**changed_values, **unread_values}
    parameters = {**_get_key(table, old), **convert_to_parameters(table, written_values)}
    statement = unit.enqueue(build_update(table, sort_column_names(written_values)), parameters)
    state = old._replace(**changed_values, version=old.version + 1)
    return PendingRow(state, statement, [to_camel_case(name) for name in values if name in changed_values])


def delete_row(unit: UnitOfWork, table: Table, old: Row) -> None:
    """Enqueue the deletion of a row; foreign keys cascade."""
    unit.enqueue(build_delete(table), _get_key(table, old))


def _get_key(table: Table, row: Row) -> dict[str, Any]:
    return {column.name: getattr(row, column.name) for column in table.primary_key}


@cache
def build_insert(table: Table, names: ColumnNames, computed: tuple[tuple[str, str], ...] = ()) -> Statement:
    """Insert one row with these columns and `computed` pairs of column and SQL expression; returns the row."""
    assignments = {name: _bind_column(table, name) for name in names}
    row = insert(table).values({**assignments, **{name: text(sql) for name, sql in computed}})
    return compile_statement(row.returning(*list_returned_columns(table)))


@cache
def build_update(table: Table, names: ColumnNames) -> Statement:
    """Set these columns of the row with this primary key and increment its version; returns the row."""
    computed_values: dict[str, Any] = {"version": table.c.version + 1}
    if "updated_at" in table.c:
        computed_values["updated_at"] = text("now()")
    assignments = {name: _bind_column(table, name) for name in names} | computed_values
    row = update(table).where(*_match_key(table)).values(assignments)
    return compile_statement(row.returning(*list_returned_columns(table)))


def select_json_rows(table: Table, *names: str) -> TableValuedAlias:
    """The rows of the parameter `rows`, a JSON list of objects, as a table `entry` with these columns of `table`."""
    columns = (column(name, table.c[name].type) for name in names)
    # jsonb would sort the keys of the attributes of variants.
    rows = func.json_to_recordset(bindparam("rows", type_=JSON)).table_valued(*columns)
    return rows.render_derived(name="entry", with_types=True)


@cache
def build_insert_of_rows(table: Table, names: ColumnNames) -> Statement:
    """Insert the rows of the parameter `rows`, which all have these columns."""
    entry = select_json_rows(table, *names)
    return compile_statement(insert(table).from_select(names, select(*entry.c), include_defaults=False))


@cache
def build_delete(table: Table) -> Statement:
    """Delete the row with this primary key."""
    return compile_statement(delete(table).where(*_match_key(table)))


def _match_key(table: Table) -> list[ColumnElement[bool]]:
    return [column == _bind_column(table, column.name) for column in table.primary_key]


def sort_column_names(values: Iterable[str]) -> ColumnNames:
    """Sort column names, so that one set of columns is one cached statement."""
    return tuple(sorted(values))


def _serialize_json(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


def _bind_column(table: Table, name: str) -> ColumnElement[Any]:
    return bindparam(name, type_=table.c[name].type)
