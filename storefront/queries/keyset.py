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
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z", re.ASCII)


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
    def argument(self) -> str:
        """The name of the argument that the cursor came in."""
        return "before" if self.backward else "after"


class Page(NamedTuple):
    """Rows in the list's order, and whether there are more on either side."""

    rows: Sequence[Row]
    has_next: bool
    has_previous: bool
    cursor_of: Callable[[Row], str]


def page_of(rows: Sequence[Row], window: Window, cursor_of: Callable[[Row], str]) -> Page:
    """Make a page of rows read in the window's direction, one more than its limit where there are more."""
    more, kept = len(rows) > window.limit, rows[: window.limit]
    behind = window.cursor is not None
    if window.backward:
        return Page(kept[::-1], behind, more, cursor_of)
    return Page(kept, more, behind, cursor_of)


def order(key: ColumnElement[Any], tie: ColumnElement[Any], descending: bool) -> list[ColumnElement[Any]]:
    """By key, then by id, both the same way: one index serves it in either direction."""
    return [key.desc(), tie.desc()] if descending else [key.asc(), tie.asc()]


def behind(key: ColumnElement[Any], tie: ColumnElement[Any], descending: bool) -> ColumnElement[bool]:
    """The rows behind the cursor: parameters `cursor_value` and `cursor_id`."""
    row = tuple_(key, tie)
    cursor = tuple_(bindparam("cursor_value", type_=key.type), bindparam("cursor_id", type_=tie.type))
    return row < cursor if descending else row > cursor


def is_moment(value: object) -> bool:
    """Whether a cursor's value is a point in time as rows have it."""
    try:
        return isinstance(value, str) and _MOMENT.fullmatch(value) is not None and datetime.fromisoformat(value).year > 0
    except ValueError:
        return False


def parameters(window: Window, cursor: Cursor | None) -> dict[str, Any]:
    """What a windowed statement takes: one row more than the limit tells whether there is more."""
    behind_it = {} if cursor is None else {"cursor_value": cursor.value, "cursor_id": cursor.id}
    return {"limit": window.limit + 1, **behind_it}


def resume(window: Window, digests: Iterable[str], is_value: Callable[[object], bool]) -> Cursor | None:
    """The window's cursor. It is of one list: under several parents it fits one at most, and for the others this raises."""
    if window.cursor is None:
        return None
    first, *_ = [decode(window.cursor, list_digest, window.argument, is_value) for list_digest in digests]
    return first


def digest(*parts: object) -> str:
    """A short fingerprint of what a list is: its parent, sort and filter."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=6).hexdigest()


def encode(list_digest: str, cursor: Cursor) -> str:
    """The cursor as clients hold it: opaque, and safe in a URL."""
    fields = [list_digest, cursor.value, cursor.id] + ([cursor.extra] if cursor.extra else [])
    return urlsafe_b64encode(orjson.dumps(fields)).decode().rstrip("=")


def decode(text: str, list_digest: str, argument: str, is_value: Callable[[object], bool]) -> Cursor:
    """Read a client's cursor; raises InvalidInput for one that is no cursor, or one of another list."""
    try:
        found, value, id_, *extra = orjson.loads(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        key = parse_id(id_)
    except (ValueError, TypeError, AttributeError):
        raise InvalidInput(
            argument, "this is not a cursor. Take one from pageInfo or edges of this list, or leave it out."
        ) from None
    if found != list_digest:
        raise InvalidInput(argument, "this cursor belongs to a list with another sort, filter or parent. Start again without it.")
    if key is None or not is_value(value) or not all(isinstance(item, str) for item in extra):
        raise InvalidInput(argument, "this cursor was altered. Start again without it.")
    return Cursor(value, key, extra[0] if extra else None)
