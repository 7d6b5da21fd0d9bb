"""Pages by key: a page starts behind the last row of the one before, so that page 900 costs what page 1 costs.

A cursor carries the sort value and key of its row and a digest of the list it belongs to.
"""

import hashlib
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import orjson
from sqlalchemy import ColumnElement, bindparam, tuple_

from storefront.core.db.database import Row
from storefront.core.errors import InvalidInput
from storefront.core.ids import parse_id

# Python reads more notations than Postgres does.
_TIMESTAMP_PATTERN = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Cursor:
    """The row that a page starts behind. `extra` is what the list itself has to remember from page to page."""

    value: str | int | float
    id: str
    extra: str | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """Which part of a list: `limit` rows behind the cursor, forwards or backwards."""

    limit: int
    cursor: str | None = None
    backward: bool = False

    @property
    def argument_name(self) -> str:
        """The name of the argument that the cursor came in."""
        return "before" if self.backward else "after"


class Page(NamedTuple):
    """Rows in the list's order, and whether there are more on either side."""

    rows: Sequence[Row]
    has_next: bool
    has_previous: bool
    encode_cursor: Callable[[Row], str]


def build_page(rows: Sequence[Row], window: Window, encode_row: Callable[[Row], str]) -> Page:
    """Make a page of rows read in the window's direction, one more than its limit where there are more."""
    has_more, page_rows = len(rows) > window.limit, rows[: window.limit]
    has_cursor = window.cursor is not None
    if window.backward:
        return Page(page_rows[::-1], has_cursor, has_more, encode_row)
    return Page(page_rows, has_more, has_cursor, encode_row)


def order_by_key(key: ColumnElement[Any], tie_breaker: ColumnElement[Any], descending: bool) -> list[ColumnElement[Any]]:
    """By key, then by id, both the same way: one index serves it in either direction."""
    return [key.desc(), tie_breaker.desc()] if descending else [key.asc(), tie_breaker.asc()]


def is_behind_cursor(key: ColumnElement[Any], tie_breaker: ColumnElement[Any], descending: bool) -> ColumnElement[bool]:
    """The rows behind the cursor: parameters `cursor_value` and `cursor_id`."""
    row_key = tuple_(key, tie_breaker)
    cursor_key = tuple_(bindparam("cursor_value", type_=key.type), bindparam("cursor_id", type_=tie_breaker.type))
    return row_key < cursor_key if descending else row_key > cursor_key


def is_timestamp(value: object) -> bool:
    """Whether a cursor's value is a point in time as rows have it."""
    try:
        return (
            isinstance(value, str) and _TIMESTAMP_PATTERN.fullmatch(value) is not None and datetime.fromisoformat(value).year > 0
        )
    except ValueError:
        return False


def build_parameters(window: Window, cursor: Cursor | None) -> dict[str, Any]:
    """What a windowed statement takes: one row more than the limit tells whether there is more."""
    cursor_parameters = {} if cursor is None else {"cursor_value": cursor.value, "cursor_id": cursor.id}
    return {"limit": window.limit + 1, **cursor_parameters}


def decode_window_cursor(window: Window, digests: Iterable[str], is_valid_value: Callable[[object], bool]) -> Cursor | None:
    """The window's cursor. It is of one list: under several parents it fits one at most, and for the others this raises."""
    if window.cursor is None:
        return None
    cursor, *_ = [decode_cursor(window.cursor, list_digest, window.argument_name, is_valid_value) for list_digest in digests]
    return cursor


def compute_list_digest(*components: object) -> str:
    """A short fingerprint of what a list is: its parent, sort and filter."""
    return hashlib.blake2b(repr(components).encode(), digest_size=6).hexdigest()


def encode_cursor(list_digest: str, cursor: Cursor) -> str:
    """The cursor as clients hold it: opaque, and safe in a URL."""
    fields = [list_digest, cursor.value, cursor.id] + ([cursor.extra] if cursor.extra else [])
    return urlsafe_b64encode(orjson.dumps(fields)).decode().rstrip("=")


def decode_cursor(text: str, list_digest: str, argument: str, is_valid_value: Callable[[object], bool]) -> Cursor:
    """Read a client's cursor; raises InvalidInput for one that is no cursor, or one of another list."""
    try:
        cursor_digest, value, row_id, *extra = orjson.loads(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        parsed_id = parse_id(row_id)
    except (ValueError, TypeError, AttributeError):
        raise InvalidInput(
            argument, "this is not a cursor. Take one from pageInfo or edges of this list, or leave it out."
        ) from None
    if cursor_digest != list_digest:
        raise InvalidInput(argument, "this cursor belongs to a list with another sort, filter or parent. Start again without it.")
    if parsed_id is None or not is_valid_value(value) or not all(isinstance(item, str) for item in extra):
        raise InvalidInput(argument, "this cursor was altered. Start again without it.")
    return Cursor(value, parsed_id, extra[0] if extra else None)
