"""Keyset pagination: a page starts after the last row of the previous one, so that page 900 costs the same as page 1.

A cursor holds the sort value and the id of its row, and a digest of its list.
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

from storefront.core.currencies import MAX_FRACTION_DIGITS, MAX_INTEGER_DIGITS
from storefront.core.db.database import Row
from storefront.core.errors import InvalidInput
from storefront.core.ids import parse_id

# datetime.fromisoformat accepts more formats than Postgres.
_TIMESTAMP_PATTERN = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z", re.ASCII)
_AMOUNT_PATTERN = re.compile(rf"[0-9]{{1,{MAX_INTEGER_DIGITS}}}(\.[0-9]{{1,{MAX_FRACTION_DIGITS}}})?")


@dataclass(frozen=True, slots=True)
class Cursor:
    """The row that a page starts after. `extra` is state that a list passes from page to page."""

    value: str | int | float
    id: str
    extra: str | None = None


@dataclass(frozen=True, slots=True)
class SortKey:
    """A sort key: its column, and the validation of its values in cursors."""

    column: ColumnElement[Any]
    is_valid_value: Callable[[object], bool]


@dataclass(frozen=True, slots=True)
class Window:
    """The requested part of a list: `limit` rows after the cursor, or before it if `backward`."""

    limit: int
    cursor: str | None = None
    backward: bool = False

    @property
    def argument_name(self) -> str:
        """The GraphQL argument of the cursor."""
        return "before" if self.backward else "after"


class Page(NamedTuple):
    """Rows in list order, and whether there are more on either side."""

    rows: Sequence[Row]
    has_next: bool
    has_previous: bool
    encode_cursor: Callable[[Row], str]


def build_page(rows: Sequence[Row], window: Window, encode_row: Callable[[Row], str]) -> Page:
    """Build a page from rows in the window's direction; a row beyond the limit means that there are more."""
    has_more, page_rows = len(rows) > window.limit, rows[: window.limit]
    has_cursor = window.cursor is not None
    if window.backward:
        return Page(page_rows[::-1], has_cursor, has_more, encode_row)
    return Page(page_rows, has_more, has_cursor, encode_row)


def order_by_key(key: ColumnElement[Any], tie_breaker: ColumnElement[Any], descending: bool) -> list[ColumnElement[Any]]:
    """Order by key, then id, in the same direction: one index serves both directions."""
    return [key.desc(), tie_breaker.desc()] if descending else [key.asc(), tie_breaker.asc()]


def is_behind_cursor(key: ColumnElement[Any], tie_breaker: ColumnElement[Any], descending: bool) -> ColumnElement[bool]:
    """Whether a row comes after the cursor: parameters `cursor_value` and `cursor_id`."""
    row_key = tuple_(key, tie_breaker)
    cursor_key = tuple_(bindparam("cursor_value", type_=key.type), bindparam("cursor_id", type_=tie_breaker.type))
    return row_key < cursor_key if descending else row_key > cursor_key


def is_timestamp(value: object) -> bool:
    """Whether a cursor's value is a timestamp in the format of rows."""
    try:
        return (
            isinstance(value, str) and _TIMESTAMP_PATTERN.fullmatch(value) is not None and datetime.fromisoformat(value).year > 0
        )
    except ValueError:
        return False


def is_money_amount(value: object) -> bool:
    """Whether a cursor's value is an amount in the format of rows."""
    return isinstance(value, str) and _AMOUNT_PATTERN.fullmatch(value) is not None


def is_count(value: object) -> bool:
    """Whether a cursor's value is a number of things."""
    return type(value) is int and 0 <= value < 2**31


def build_parameters(window: Window, cursor: Cursor | None) -> dict[str, Any]:
    """The parameters of a page's statement. It reads one row beyond the limit, to know whether there are more."""
    cursor_parameters = {} if cursor is None else {"cursor_value": cursor.value, "cursor_id": cursor.id}
    return {"limit": window.limit + 1, **cursor_parameters}


def decode_window_cursor(window: Window, digests: Iterable[str], is_valid_value: Callable[[object], bool]) -> Cursor | None:
    """The window's cursor, or None. Raises InvalidInput unless it belongs to every list: with several parents it cannot."""
    if window.cursor is None:
        return None
    cursor, *_ = [decode_cursor(window.cursor, list_digest, window.argument_name, is_valid_value) for list_digest in digests]
    return cursor


def compute_list_digest(*components: object) -> str:
    """A short digest of a list's identity: its parent, sort and filter."""
    return hashlib.blake2b(repr(components).encode(), digest_size=6).hexdigest()


def encode_cursor(list_digest: str, cursor: Cursor) -> str:
    """Encode a cursor as opaque, URL-safe text."""
    fields = [list_digest, cursor.value, cursor.id] + ([cursor.extra] if cursor.extra else [])
    return urlsafe_b64encode(orjson.dumps(fields)).decode().rstrip("=")


def decode_cursor(text: str, list_digest: str, argument: str, is_valid_value: Callable[[object], bool]) -> Cursor:
    """Decode a client's cursor. Raises InvalidInput if it is malformed or belongs to another list."""
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
