"""Keyset pages, by creation time or another key: the statement and its execution, for one list or the lists of many parents."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, FromClause, Select, bindparam, select, true

from storefront.core.db.database import Database, Row, Statement
from storefront.queries import keyset
from storefront.queries.batching import group_by_parent
from storefront.queries.visibility import any_of_ids


def limit_newest(
    rows: Select[Any], key: ColumnElement[Any], tie_breaker: ColumnElement[Any], *, has_cursor: bool, backward: bool = False
) -> Select[Any]:
    """A page of rows, newest first, behind the cursor if there is one; oldest first if `backward`.

    Parameter `limit`, and those of `is_behind_cursor`.
    """
    if has_cursor:
        rows = rows.where(keyset.is_behind_cursor(key, tie_breaker, descending=not backward))
    return rows.order_by(*keyset.order_by_key(key, tie_breaker, descending=not backward)).limit(bindparam("limit"))


def select_per_parent(parent: FromClause, rows: Select[Any], *, name: str = "page") -> Select[Any]:
    """Run a limited query once for each parent row (LATERAL). Parameter `ids`: the keys of the parents."""
    page = rows.correlate(parent).lateral(name)
    return select(page).select_from(parent.join(page, true())).where(parent.c.id == any_of_ids("ids"))


async def load_page(
    database: Database,
    build_statement: Callable[[bool], Statement],
    window: keyset.Window,
    list_digest: str,
    parameters: Mapping[str, Any],
    key_column: str = "created_at",
) -> keyset.Page:
    """A page of one list. `build_statement` takes whether there is a cursor.

    Raises InvalidInput for a cursor that is invalid or belongs to another list.
    """
    cursor = keyset.decode_window_cursor(window, [list_digest], keyset.is_timestamp)
    rows = await database.fetch(build_statement(cursor is not None), {**parameters, **keyset.build_parameters(window, cursor)})
    return keyset.build_page(rows, window, lambda row: _encode_cursor(list_digest, row, key_column))


async def load_page_per_parent(
    database: Database,
    build_statement: Callable[[bool], Statement],
    window: keyset.Window,
    list_name: object,
    keys: Sequence[str],
    parent_column: str,
    parameters: Mapping[str, Any] | None = None,
    key_column: str = "created_at",
    is_valid_value: Callable[[object], bool] = keyset.is_timestamp,
) -> list[keyset.Page]:
    """A page of each parent's list, in one statement. `build_statement` takes whether there is a cursor.

    `list_name` identifies the list of a parent, with its filters. Raises InvalidInput for a cursor that is invalid or belongs to
    another list; a cursor belongs to one parent.
    """
    digests = (keyset.compute_list_digest(list_name, key) for key in keys)
    cursor = keyset.decode_window_cursor(window, digests, is_valid_value)
    all_parameters = {"ids": list(keys), **(parameters or {}), **keyset.build_parameters(window, cursor)}
    rows = await database.fetch(build_statement(cursor is not None), all_parameters)

    def encode_row(row: Row) -> str:
        return _encode_cursor(keyset.compute_list_digest(list_name, getattr(row, parent_column)), row, key_column)

    return [keyset.build_page(page_rows, window, encode_row) for page_rows in group_by_parent(rows, keys, parent_column)]


def _encode_cursor(list_digest: str, row: Row, key_column: str) -> str:
    return keyset.encode_cursor(list_digest, keyset.Cursor(getattr(row, key_column), row.id))
