"""The plain writes: one statement per table and set of columns, compiled once."""

from collections.abc import Iterable, Mapping
from functools import cache
from types import SimpleNamespace
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Table, bindparam, delete, insert, text, update
from sqlalchemy.dialects.postgresql import JSONB

from storefront.core.casing import camel, snake
from storefront.core.db.database import Row, Statement, compiled
from storefront.core.ids import new_id
from storefront.writes.transaction import Unit, Written

Columns = tuple[str, ...]


def columns(values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of an input as columns."""
    return {snake(name): value for name, value in values.items()}


def as_parameters(table: Table, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as parameters: documents and lists become JSON where the column is one."""
    documents = _documents(table)
    return {name: _document(value) if name in documents else value for name, value in values.items()}


@cache
def _documents(table: Table) -> frozenset[str]:
    return frozenset(column.name for column in table.c if isinstance(column.type, JSONB))


def insert_row(unit: Unit, table: Table, values: Mapping[str, Any]) -> Written:
    """A new row with a key of its own, in its first version."""
    row = {"id": new_id(), "version": 1, **values}
    sent = unit.send(inserted(table, names(row)), as_parameters(table, row))
    return Written(SimpleNamespace(**row), sent)


def change_row(unit: Unit, table: Table, old: Row, values: Mapping[str, Any]) -> Written:
    """A row that is locked, with these values and a new version."""
    changed = {name: value for name, value in values.items() if getattr(old, name) != value}
    if not changed:
        return Written(old, None)
    sent = unit.send(updated(table, names(changed)), {"id": old.id, **as_parameters(table, changed)})
    state = old._replace(**changed, version=old.version + 1)
    return Written(state, sent, [camel(name) for name in values if name in changed])


def delete_row(unit: Unit, table: Table, old: Row) -> None:
    """Delete a row, and with it what the tables say goes with it."""
    unit.send(deleted(table), {"id": old.id})


@cache
def inserted(table: Table, names: Columns, computed: tuple[tuple[str, str], ...] = ()) -> Statement:
    """Insert one row with these columns, and those that are `computed` in SQL; returns the whole row."""
    given = {name: _parameter(table, name) for name in names}
    row = insert(table).values({**given, **{name: text(sql) for name, sql in computed}})
    return compiled(row.returning(*returned(table)))


@cache
def updated(table: Table, names: Columns) -> Statement:
    """Set these columns of the row `id` and raise its version; returns the whole row."""
    raised: dict[str, Any] = {"version": table.c.version + 1}
    if "updated_at" in table.c:
        raised["updated_at"] = text("now()")
    changed = {name: _parameter(table, name) for name in names} | raised
    row = update(table).where(table.c.id == bindparam("id")).values(changed)
    return compiled(row.returning(*returned(table)))


@cache
def deleted(table: Table) -> Statement:
    """Delete the row `id`."""
    return compiled(delete(table).where(table.c.id == bindparam("id")))


@cache
def returned(table: Table) -> tuple[ColumnElement[Any], ...]:
    """The columns that clients are told of: all but those that only indexes are made of."""
    return tuple(column for column in table.c if column.name not in ("search_vector", "sort_title"))


def names(values: Iterable[str]) -> Columns:
    """Column names in an order of their own: the same set is the same statement."""
    return tuple(sorted(values))


def _document(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


def _parameter(table: Table, name: str) -> ColumnElement[Any]:
    return bindparam(name, type_=table.c[name].type)
