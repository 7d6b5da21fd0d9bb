"""Keyset pages, by creation time or another key: the statement and its execution, for one list or the lists of many parents."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, FromClause, Select, bindparam, select, true

from storefront.core.db.database import Database, Row, Statement
from storefront.models.row_keys import bind_keys, is_row_of_key
from storefront.queries import keyset
from storefront.queries.batching import group_by_parent


def limit_newest(
    rows: Select[Any], key: ColumnElement[Any], tie_breaker: ColumnElement[Any], *, has_cursor: bool, backward: bool = False
) -> Select[Any]:
    """A page of rows, newest first, behind the cursor if there is one; oldest first if `backward`.

    Parameter `limit`, and those of `is_behind_cursor`.
    """
    if has_cursor:
        rows = rows.where(keyset.is_behind_cursor(key, tie_breaker, descending=not backward))
    return rows.order_by(*keyset.order_by_key(key, tie_breaker, descending=not backward)).limit(bindparam("limit"))


def select_per_parent(parent: FromClause, rows: Select[Any], *conditions: ColumnElement[bool], name: str = "page") -> Select[Any]:
    """Run a query once for each parent row that meets the conditions (LATERAL). It is limited, or has OFFSET 0."""
    page = rows.correlate(parent).lateral(name)
    return select(page).select_from(parent.join(page, true())).where(*conditions)


def select_of_keys(rows: Select[Any], table: FromClause, is_single_store: bool) -> Select[Any]:
    """The rows of the keys of `bind_keys`, each found on its own. `rows` selects from `table`, without order and limit."""
    key = bind_keys(is_single_store)
    # OFFSET 0 is an optimization fence: the planner may otherwise read all rows of a store that it takes for small.
    return select_per_parent(key, rows.where(is_row_of_key(table, key, is_single_store)).offset(0), name="row")


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
    ids: Sequence[str],
    parent_column: str,
    parameters: Mapping[str, Any],
    key_column: str = "created_at",
    is_valid_value: Callable[[object], bool] = keyset.is_timestamp,
) -> list[keyset.Page]:
    """A page of each parent's list, in one statement. `build_statement` takes whether there is a cursor.

    `parameters` has the keys of the parents. `list_name` identifies the list of a parent, with its filters. Raises InvalidInput
    for a cursor that is invalid or belongs to another list; a cursor belongs to one parent.
    """
    digests = (keyset.compute_list_digest(list_name, id_) for id_ in ids)
    cursor = keyset.decode_window_cursor(window, digests, is_valid_value)
    rows = await database.fetch(build_statement(cursor is not None), {**parameters, **keyset.build_parameters(window, cursor)})

    def encode_row(row: Row) -> str:
        return _encode_cursor(keyset.compute_list_digest(list_name, getattr(row, parent_column)), row, key_column)

    return [keyset.build_page(page_rows, window, encode_row) for page_rows in group_by_parent(rows, ids, parent_column)]


def _encode_cursor(list_digest: str, row: Row, key_column: str) -> str:
    return keyset.encode_cursor(list_digest, keyset.Cursor(getattr(row, key_column), row.id))
