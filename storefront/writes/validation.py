"""Validation rules for input values. A slice maps its fields to rules; all errors of an input are reported at once."""

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from tinycss2.color4 import parse_color

from storefront.core.currencies import AMOUNT_LIMIT, FRACTION_DIGITS
from storefront.core.handles import MAX_CHARACTERS_PER_LETTER, normalize_handle
from storefront.core.ids import parse_id
from storefront.core.net.network_policy import MAX_URL_CHARACTERS
from storefront.writes.custom_css import MAX_CHARACTERS, UnsafeCSSError, validate_stylesheet
from storefront.writes.field_errors import FieldError, InvalidInputReason, MutationRejected, make_invalid_input_error

Rule = Callable[[Any], Any]
Rules = Mapping[str, Rule]
# Of one list: the entries after so many are not looked at.
MAX_PROBLEMS = 100
# The path to a part of a value, its problem, and the reason for clients.
PathProblem = tuple[tuple[str, ...], str, InvalidInputReason]

# Names of fonts, quoted or not, separated by commas.
_FONT = r"""(?:"[\w ,'-]+"|'[\w ,"-]+'|[\w-][\w -]*)"""
_FONT_LIST = re.compile(rf"{_FONT}(?: *, *{_FONT})*")
_CONTROL_CHARACTER = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class InvalidValueError(Exception):
    """A value that breaks its rule, with one or more problems, each with the path to its part of the value."""

    def __init__(
        self,
        problem: str = "",
        reason: InvalidInputReason = InvalidInputReason.MALFORMED,
        *,
        problems: Sequence[PathProblem] = (),
    ) -> None:
        super().__init__(problem)
        self.problems = problems or [((), problem, reason)]


def validate_fields(rules: Rules, values: Mapping[str, Any], path: Sequence[str] = ()) -> tuple[dict[str, Any], list[FieldError]]:
    """The values as stored, and all errors with their paths."""
    valid_values: dict[str, Any] = {}
    field_errors: list[FieldError] = []
    for name, value in values.items():
        try:
            valid_values[name] = rules[name](value)
        except InvalidValueError as invalid_value:
            field_errors += [
                make_invalid_input_error([*path, name, *subpath], problem, reason)
                for subpath, problem, reason in invalid_value.problems
            ]
    return valid_values, field_errors


def require_valid_fields(rules: Rules, values: Mapping[str, Any], path: Sequence[str] = ()) -> dict[str, Any]:
    """The values as stored. Raises MutationRejected with all errors."""
    valid_values, field_errors = validate_fields(rules, values, path)
    if field_errors:
        raise MutationRejected(*field_errors)
    return valid_values


def pop_valid_field(valid_values: dict[str, Any], name: str, field_errors: Sequence[FieldError]) -> Any:
    """Remove a field that other checks of the input need. Raises MutationRejected with all errors if it is not valid."""
    if name not in valid_values:
        raise MutationRejected(*field_errors)
    return valid_values.pop(name)


def find_size_reason(size: int, minimum: int) -> InvalidInputReason:
    """The reason for a number of characters or items out of bounds."""
    if size == 0:
        return InvalidInputReason.REQUIRED
    return InvalidInputReason.TOO_SHORT if size < minimum else InvalidInputReason.TOO_LONG


# --------------------------------------------------------------------------------------------------- rules


def text_rule(max_characters: int, *, min_characters: int = 1) -> Rule:
    """Trimmed text without control characters, of `min_characters` to `max_characters`."""

    def validate_text(value: str) -> str:
        if _CONTROL_CHARACTER.search(value):
            raise InvalidValueError("must not contain control characters.")
        trimmed = value.strip()
        if not min_characters <= len(trimmed) <= max_characters:
            problem = f"must have {min_characters} to {max_characters:,} characters, not {len(trimmed):,}."
            raise InvalidValueError(problem, find_size_reason(len(trimmed), min_characters))
        return trimmed

    return validate_text


def html_rule(max_characters: int) -> Rule:
    """HTML of any kind. It is sanitised after the cheaper checks (`descriptions.py`)."""

    def validate_html(value: str) -> str:
        if len(value) > max_characters:
            problem = f"must have at most {max_characters:,} characters, not {len(value):,}."
            raise InvalidValueError(problem, InvalidInputReason.TOO_LONG)
        return value

    return validate_html


def optional_rule(inner_rule: Rule) -> Rule:
    """A rule that also accepts null."""
    return lambda value: None if value is None else inner_rule(value)


def non_null_rule(inner_rule: Rule) -> Rule:
    """A rule for fields that may be left out but not be null."""

    def validate_non_null(value: Any) -> Any:
        if value is None:
            raise InvalidValueError("must not be null. Leave the field out to keep its value.", InvalidInputReason.REQUIRED)
        return inner_rule(value)

    return validate_non_null


def validate_amount(value: Decimal) -> Decimal:
    """An amount of money in any currency. `writes/amounts.py` gives it the digits of its store's currency."""
    if not 0 <= value < AMOUNT_LIMIT:
        reason = InvalidInputReason.TOO_SMALL if value < 0 else InvalidInputReason.TOO_LARGE
        raise InvalidValueError(f"must be 0 or more, and below {AMOUNT_LIMIT:,}, not {value}.", reason)
    return value


def integer_rule(minimum: int, maximum: int) -> Rule:
    """An integer within these bounds."""

    def validate_integer(value: int) -> int:
        if not minimum <= value <= maximum:
            reason = InvalidInputReason.TOO_SMALL if value < minimum else InvalidInputReason.TOO_LARGE
            raise InvalidValueError(f"must be between {minimum:,} and {maximum:,}, not {value:,}.", reason)
        return value

    return validate_integer


def slug_rule(max_characters: int) -> Rule:
    """A name in URLs, in the form of `normalize_handle`."""

    def validate_slug(value: str) -> str:
        # Longer texts are not normalised.
        slug = normalize_handle(value) if len(value) <= MAX_CHARACTERS_PER_LETTER * max_characters else value
        if value and not slug:
            raise InvalidValueError("must have a letter or digit.")
        if not 1 <= len(slug) <= max_characters:
            problem = f'must have 1 to {max_characters} characters, as "my-store", not {len(slug):,}.'
            raise InvalidValueError(problem, find_size_reason(len(slug), 1))
        return slug

    return validate_slug


# URLs as most are: accepted by one match, as the checks below would.
_PLAIN_URL = re.compile(r"https?://[a-z0-9-]+(?:\.[a-z0-9-]+)*(?:/[A-Za-z0-9/._~%!$&'()*+,;=:@?-]*+)?", re.ASCII)


def validate_url(value: str) -> str:
    """An absolute http or https URL."""
    if len(value) <= MAX_URL_CHARACTERS and _PLAIN_URL.fullmatch(value):
        return value
    try:
        split_url = urlsplit(value)
        is_valid = split_url.scheme in ("http", "https") and split_url.hostname and (split_url.port or True)
    except ValueError:
        is_valid = False
    if not is_valid or len(value) > MAX_URL_CHARACTERS or _CONTROL_CHARACTER.search(value) or re.search(r"[\s<>\"\\]", value):
        raise InvalidValueError(
            f'must be a web address such as "https://example.com/mug.jpg", at most {MAX_URL_CHARACTERS:,} characters long.'
        )
    return value


def validate_host(value: str) -> str:
    """A host name."""
    if len(value) > 253 or not re.fullmatch(r"([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}", value):
        raise InvalidValueError('must be a host name such as "my-shop.myshopify.com".')
    return value


def pattern_rule(pattern: str, example: str) -> Rule:
    """Text that matches a pattern."""

    def validate_pattern(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise InvalidValueError(f'must look like "{example}".')
        return value

    return validate_pattern


def validate_currency(value: str) -> str:
    """The ISO 4217 code of a current currency."""
    if value not in FRACTION_DIGITS:
        problem = f'must be the ISO 4217 code of a currency such as "EUR", not {value[:20]!r}.'
        raise InvalidValueError(problem, InvalidInputReason.NOT_ALLOWED)
    return value


def validate_colour(value: str) -> str:
    """A CSS colour."""
    # Comments would be stored with the colour. The parser accepts unclosed brackets; browsers would not.
    is_well_formed = len(value) <= 100 and not re.search(r"[<\x00\ufeff]|/\*", value) and value.count("(") == value.count(")")
    if not is_well_formed or not _is_colour(value):
        raise InvalidValueError(f'must be a CSS colour such as "#1a2b3c" or "teal", not {value[:20]!r}.')
    return value.strip()


def _is_colour(value: str) -> bool:
    try:
        return parse_color(value) is not None
    except (ValueError, IndexError):
        # The parser raises these for an invalid `color()`.
        return False


def validate_font_family(value: str) -> str:
    """A CSS font-family value that cannot end its declaration."""
    trimmed = value.strip(" ")
    if len(trimmed) > 100 or not _FONT_LIST.fullmatch(trimmed):
        raise InvalidValueError(
            "must name fonts such as \"Inter, 'Open Sans', sans-serif\", at most 100 characters long: letters, digits, spaces, "
            "- and _, separated by commas; quotes come in pairs."
        )
    return trimmed


def validate_css(value: str) -> str:
    """A style sheet that is safe in a <style> element and loads no external resource."""
    stylesheet = text_rule(MAX_CHARACTERS, min_characters=0)(value)
    try:
        validate_stylesheet(stylesheet)
    except UnsafeCSSError as error:
        raise InvalidValueError(str(error), InvalidInputReason.NOT_ALLOWED) from error
    return str(stylesheet)


def list_rule(item_rule: Rule, max_items: int, *, distinct: bool = True) -> Rule:
    """A list of values under one rule; `distinct` drops duplicates."""

    def validate_list(values: Sequence[Any]) -> list[Any]:
        if len(values) > max_items:
            problem = f"must have at most {max_items:,} entries, not {len(values):,}."
            raise InvalidValueError(problem, InvalidInputReason.TOO_LONG)
        valid_items: list[Any] = []
        problems: list[PathProblem] = []
        for n, value in enumerate(values):
            try:
                valid_items.append(item_rule(value))
            except InvalidValueError as invalid_value:
                problems += [((str(n), *subpath), problem, reason) for subpath, problem, reason in invalid_value.problems]
                if len(problems) >= MAX_PROBLEMS:
                    break
        if problems:
            raise InvalidValueError(problems=problems[:MAX_PROBLEMS])
        return list(dict.fromkeys(valid_items)) if distinct else valid_items

    return validate_list


def object_rule(rules: Rules) -> Rule:
    """An object whose fields have rules."""

    def validate_object(value: Mapping[str, Any]) -> dict[str, Any]:
        valid_fields: dict[str, Any] = {}
        problems: list[PathProblem] = []
        for name, field_value in value.items():
            try:
                valid_fields[name] = rules[name](field_value)
            except InvalidValueError as invalid_value:
                problems += [((name, *subpath), problem, reason) for subpath, problem, reason in invalid_value.problems]
        if problems:
            raise InvalidValueError(problems=problems)
        return valid_fields

    return validate_object


def validate_id(value: str) -> str:
    """An id (UUID)."""
    parsed_id = parse_id(value)
    if parsed_id is None:
        raise InvalidValueError(f"{value[:40]!r} is not an id. Ids look like 018f0000-0000-7000-8000-000000000000.")
    return parsed_id


def accept_any(value: Any) -> Any:
    """A value that the GraphQL schema has validated."""
    return value


# The fields of an input that say which row it updates, and what the update is based on.
UPDATE_LOCK_RULES: Rules = {"id": validate_id, "expectedVersion": accept_any, "onConflict": accept_any}
