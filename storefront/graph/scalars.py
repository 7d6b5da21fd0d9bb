"""Custom scalars. Rows have their values as text, so output is not parsed; input is validated strictly."""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from types import NoneType
from typing import Any, NewType, cast

import strawberry
from graphql import EnumValueNode, FloatValueNode, GraphQLError, IntValueNode, ListValueNode, ObjectValueNode
from strawberry.types.scalar import ScalarDefinition

Position = NewType("Position", int)
FileSize = NewType("FileSize", int)
JSON = NewType("JSON", object)
CurrencyCode = NewType("CurrencyCode", str)
# Sanitised, as it is stored.
HTML = NewType("HTML", str)

# ASCII digits only: `\d` matches the digits of all scripts.
_DECIMAL_PATTERN = re.compile(r"(-?)([0-9]+)(?:\.([0-9]+))?")
_CURRENCY_PATTERN = re.compile(r"[A-Za-z]{3}")
_DIGITS_PATTERN = re.compile(r"[0-9]+")
_DATETIME_PATTERN = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(?P<zone>[Zz]|[+-][0-9]{2}:[0-9]{2})?"
)

MAX_DIGITS, MAX_DECIMALS = 20, 10
MAX_POSITION = 10**18 - 1
# Larger integers are not exact in JavaScript.
MAX_FILE_SIZE = 2**53 - 1


def format_datetime(at: datetime) -> datetime:
    """A time as RFC 3339 text, which is what rows have and clients receive."""
    return cast(datetime, at.isoformat(timespec="seconds").replace("+00:00", "Z"))


class _InvalidScalarError(Exception):
    """What is wrong with a value. The message never quotes it: it may be a misplaced secret."""


def _parse_decimal(value: object) -> Decimal:
    text = _require_digits(value)
    matched = _DECIMAL_PATTERN.fullmatch(text)
    if matched is None:
        raise _InvalidScalarError(_describe_form_fault(text, "digits, a point and more digits, perhaps after a minus sign"))
    _, integer_digits, decimals = matched.groups()
    if len(integer_digits) > MAX_DIGITS and (digits := len(integer_digits.lstrip("0"))) > MAX_DIGITS:
        raise _InvalidScalarError(f"it is too large: at most {MAX_DIGITS} digits before the point, not {digits:,}")
    if decimals and len(decimals) > MAX_DECIMALS:
        raise _InvalidScalarError(f"it is too precise: at most {MAX_DECIMALS} digits behind the point, not {len(decimals):,}")
    return Decimal(text)


def _parse_position(value: object) -> int:
    text = _require_digits(value)
    if text[:1] == "-" and _DIGITS_PATTERN.fullmatch(text, 1):
        raise _InvalidScalarError("it is negative")
    if not _DIGITS_PATTERN.fullmatch(text):
        raise _InvalidScalarError(_describe_form_fault(text, "digits alone"))
    # int() raises for more than 4,300 digits.
    if len(text) > 18 and len(text.lstrip("0")) > 18:
        raise _InvalidScalarError(f"it is too large: at most {MAX_POSITION}")
    return int(text.lstrip("0") or "0")


def _parse_currency(value: object) -> str:
    """Text of the form of a code. Which codes there are is validated with the rest of a mutation's input."""
    if not isinstance(value, str):
        raise _InvalidScalarError(f"it is {_describe_json_type(value)}")
    if not _CURRENCY_PATTERN.fullmatch(value):
        raise _InvalidScalarError(_describe_form_fault(value, "three letters"))
    return value


def _parse_file_size(value: object) -> int:
    if isinstance(value, float):
        # JSON readers turn integers of more than 64 bits into floating-point numbers.
        raise _InvalidScalarError("it is a floating-point number, or too large")
    if isinstance(value, str):
        raise _InvalidScalarError("it is text; send it as a number")
    # bool is a subclass of int.
    if isinstance(value, bool) or not isinstance(value, int):
        raise _InvalidScalarError(f"it is {_describe_json_type(value)}")
    if value < 0:
        raise _InvalidScalarError("it is negative")
    if value > MAX_FILE_SIZE:
        raise _InvalidScalarError(f"it is too large: at most {MAX_FILE_SIZE}")
    return value


def _require_digits(value: object) -> str:
    """The text of a string or an integer. Raises _InvalidScalarError."""
    if isinstance(value, str):
        return value
    # bool is a subclass of int.
    if isinstance(value, int) and not isinstance(value, bool):
        return _format_int(value)
    if isinstance(value, float):
        raise _InvalidScalarError("it is a floating-point number, which is not exact, or too large a one; send it as text")
    raise _InvalidScalarError(f"it is {_describe_json_type(value)}")


def _format_int(value: int) -> str:
    try:
        return str(value)
    except ValueError:
        raise _InvalidScalarError("it has thousands of digits") from None


def _describe_form_fault(text: str, form: str) -> str:
    """Why text does not have an expected form."""
    if not text:
        return "it is empty"
    if text != text.strip():
        return "it begins or ends with white space"
    if not text.isascii():
        return "it has characters that are not ASCII; digits are 0 to 9"
    return f"it is not of the form: {form}"


def _parse_datetime(value: object) -> str:
    if not isinstance(value, str):
        raise _InvalidScalarError(f"it is {_describe_json_type(value)}")
    matched = _DATETIME_PATTERN.fullmatch(value)
    if matched is None:
        raise _InvalidScalarError(
            _describe_form_fault(value, "YYYY-MM-DDThh:mm:ss, perhaps a fraction, and Z or an offset such as +02:00")
        )
    if not matched["zone"]:
        raise _InvalidScalarError("it has no time zone: add Z, or an offset such as +02:00")
    try:
        return datetime.fromisoformat(value.upper()).astimezone(UTC).isoformat()
    except ValueError:
        raise _InvalidScalarError("there is no such day or time") from None
    except OverflowError:
        raise _InvalidScalarError("it lies outside of the years 1 to 9999 in UTC") from None


def _describe_json_type(value: object) -> str:
    """The JSON type of a value, with its article."""
    kinds = ((bool, "a boolean"), (int | float, "a number"), (dict, "an object"), (list, "a list"), (NoneType, "null"))
    return next((name for kind, name in kinds if isinstance(value, kind)), "no text")


def _make_value_parser(expected: str, parse: Callable[[object], Any]) -> Callable[[object], Any]:
    """A parser of variable values; it raises GraphQLError with what is expected and what is wrong."""

    def parse_value(value: object) -> Any:
        try:
            return parse(value)
        except _InvalidScalarError as error:
            raise GraphQLError(f"{expected}: {error}.") from None

    return parse_value


def _make_literal_parser(expected: str, parse: Callable[[object], Any]) -> Callable[[Any, Any], Any]:
    """A parser of literals; its errors have the location of the literal."""

    def parse_literal(node: Any, _: object = None) -> Any:
        try:
            return parse(_get_literal_value(node))
        except _InvalidScalarError as error:
            raise GraphQLError(f"{expected}: {error}.", node) from None

    return parse_literal


def _get_literal_value(node: Any) -> object:
    if isinstance(node, IntValueNode):
        # int() raises for more than 4,300 digits.
        if len(node.value) > 4_000:
            raise _InvalidScalarError("it has thousands of digits")
        return int(node.value)
    if isinstance(node, FloatValueNode):
        return float(node.value)
    if isinstance(node, EnumValueNode):
        raise _InvalidScalarError("it is not quoted")
    if isinstance(node, ObjectValueNode | ListValueNode):
        raise _InvalidScalarError("it is an object" if isinstance(node, ObjectValueNode) else "it is a list")
    return getattr(node, "value", None)


def _define_scalar(
    name: str,
    description: str,
    expected: str,
    parse: Callable[[object], Any],
    url: str | None = None,
    serialize: Callable[[Any], Any] = str,
) -> ScalarDefinition:
    return strawberry.scalar(
        name=name,
        description=description,
        specified_by_url=url,
        serialize=serialize,
        parse_value=_make_value_parser(expected, parse),
        parse_literal=_make_literal_parser(expected, parse),
    )


SCALARS: Mapping[object, ScalarDefinition] = {
    Decimal: _define_scalar(
        "Decimal",
        'Exact decimal as text, such as "19.90". Never a float.',
        'Decimal must be text such as "19.90"',
        _parse_decimal,
        "https://www.w3.org/TR/xmlschema-2/#decimal",
    ),
    datetime: _define_scalar(
        "DateTime",
        'Date and time as RFC 3339 text in UTC, such as "2026-11-22T10:00:00Z".',
        'DateTime must be RFC 3339 text with a time zone such as "2026-11-22T10:00:00Z"',
        _parse_datetime,
        "https://www.rfc-editor.org/rfc/rfc3339",
    ),
    Position: _define_scalar(
        "Position",
        "Commit position in a store's log: a non-negative integer as text. Gapless, in commit order.",
        'Position must be a non-negative integer as text such as "42"',
        _parse_position,
        "https://www.rfc-editor.org/rfc/rfc8259#section-6",
    ),
    CurrencyCode: _define_scalar(
        "CurrencyCode",
        'Three-letter ISO 4217 currency code, for example "EUR". Amounts in a currency have as many fraction digits as ISO 4217 '
        'defines for it: "19.90" EUR, "1990" JPY.',
        'CurrencyCode must be an ISO 4217 code such as "EUR"',
        _parse_currency,
        "https://www.iso.org/iso-4217-currency-codes.html",
    ),
    FileSize: _define_scalar(
        "FileSize",
        "Size in bytes, as a JSON integer of up to 2^53 - 1. Not an Int, whose limit is 2 GB.",
        "FileSize must be an integer number of bytes such as 1048576",
        _parse_file_size,
        serialize=int,
    ),
    HTML: strawberry.scalar(
        name="HTML",
        description="A fragment of HTML that is safe to insert into a page: text, structure and links, and nothing that loads or "
        "runs.",
        specified_by_url="https://html.spec.whatwg.org/multipage/",
        serialize=str,
    ),
    JSON: strawberry.scalar(
        name="JSON",
        description="Any JSON value.",
        specified_by_url="https://www.rfc-editor.org/rfc/rfc8259",
        serialize=lambda value: value,
        parse_value=lambda value: value,
    ),
}
