"""Our own scalars. Rows carry their values as text already, so that what only passes through is never parsed."""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NewType, cast

import strawberry
from graphql import GraphQLError
from strawberry.types.scalar import ScalarDefinition

Position = NewType("Position", int)
JSON = NewType("JSON", object)

_AMOUNT = re.compile(r"-?\d{1,20}(\.\d{1,10})?")
_COUNT = re.compile(r"\d{1,18}")


def moment(at: datetime) -> datetime:
    """A moment as rows have it: text that goes to clients as it is."""
    return cast(datetime, at.isoformat(timespec="seconds").replace("+00:00", "Z"))


def _decimal(value: object) -> Decimal:
    # Booleans are integers to Python but not to anybody who reads a price.
    if isinstance(value, (str, int)) and not isinstance(value, bool) and _AMOUNT.fullmatch(str(value)):
        return Decimal(value)
    raise GraphQLError(f'Decimal must be text such as "19.90", not {value!r:.60}.')


def _moment(value: object) -> str:
    try:
        given = datetime.fromisoformat(value) if isinstance(value, str) else None
        if given is not None and given.tzinfo is not None:
            return given.astimezone(UTC).isoformat()
    except (ValueError, OverflowError):
        pass
    raise GraphQLError(f'DateTime must be RFC 3339 text with a time zone such as "2026-11-22T10:00:00Z", not {value!r:.60}.')


def _position(value: object) -> int:
    if isinstance(value, (str, int)) and not isinstance(value, bool) and _COUNT.fullmatch(str(value)):
        return int(value)
    raise GraphQLError(f'Position must be a non-negative integer as text such as "42", not {value!r:.60}.')


def _scalar(
    name: str, description: str, parse: Callable[[object], Any], serialize: Callable[[Any], Any], url: str
) -> ScalarDefinition:
    return strawberry.scalar(name=name, description=description, specified_by_url=url, serialize=serialize, parse_value=parse)


SCALARS: Mapping[object, ScalarDefinition] = {
    Decimal: _scalar(
        "Decimal",
        'Exact decimal as text, such as "19.90". Never a float.',
        _decimal,
        str,
        "https://www.w3.org/TR/xmlschema-2/#decimal",
    ),
    datetime: _scalar(
        "DateTime",
        'A moment as RFC 3339 text in UTC, such as "2026-11-22T10:00:00Z".',
        _moment,
        str,
        "https://www.rfc-editor.org/rfc/rfc3339",
    ),
    Position: _scalar(
        "Position",
        "Commit position in a store's log: a non-negative integer as text. Gapless, in commit order.",
        _position,
        str,
        "https://www.rfc-editor.org/rfc/rfc8259#section-6",
    ),
    JSON: _scalar("JSON", "Any JSON value.", lambda value: value, lambda value: value, "https://www.rfc-editor.org/rfc/rfc8259"),
}
