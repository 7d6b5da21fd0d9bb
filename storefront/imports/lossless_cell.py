"""The lossless cell: a column of JSON in exported files, for values that Shopify's columns cannot represent (round trip).

It is empty for most products. It holds the fields that an import would otherwise read as something else: tags with commas, a
variant name that differs from its options, a hidden variant, more than three options.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, assert_never

import orjson
from pydantic_core import SchemaValidator, ValidationError, core_schema

from storefront.core.casing import to_camel_case
from storefront.core.currencies import MAX_FRACTION_DIGITS, MAX_INTEGER_DIGITS
from storefront.imports.csv_columns import PRODUCT_FIELD_NAMES
from storefront.models import PRODUCT_FIELDS, VARIANT_FIELDS
from storefront.models.writable_fields import (
    Amount,
    Boolean,
    Choice,
    Html,
    Integer,
    ItemList,
    Slug,
    Text,
    TextMap,
    Url,
    ValueType,
    Weight,
    WritableField,
)
from storefront.writes.validation import InvalidValueError, validate_url

# The name of the column in files whose formulas are quoted (against CSV injection), and in files where they are not.
QUOTED_COLUMN, UNQUOTED_COLUMN = "Storefront", "Storefront (formulas as they are)"
# Prefixes of formulas in common spreadsheets; an apostrophe before a cell marks it as text.
FORMULA_PREFIXES = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
APOSTROPHE = "'"

_AMOUNT_PATTERN = rf"^[0-9]{{1,{MAX_INTEGER_DIGITS}}}(\.[0-9]{{1,{MAX_FRACTION_DIGITS}}})?$"

# Validation errors of one cell beyond which they are only counted.
MAX_LISTED_ERRORS = 100


def quote_formula(cell: str) -> str:
    """Quote a cell that a spreadsheet would read as a formula. Cells with a leading apostrophe get one more: it is reversible."""
    return APOSTROPHE + cell if cell.startswith((*FORMULA_PREFIXES, APOSTROPHE)) else cell


def unquote_formula(cell: str) -> str:
    """The inverse of `quote_formula`."""
    return cell.removeprefix(APOSTROPHE)


@dataclass(frozen=True, slots=True)
class LosslessCell:
    """A parsed cell: fields with the types of rows. `product` is only on the first row of a product."""

    product: Mapping[str, Any] | None = None
    variant: Mapping[str, Any] | None = None


def _reject_nul(text: str) -> str:
    # Postgres cannot store NUL.
    if "\0" in text:
        raise ValueError("must not contain the character NUL")
    return text


def _lower_text(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _check_url(text: str) -> str:
    try:
        return validate_url(text)
    except InvalidValueError as error:
        raise ValueError(str(error)) from None


def build_text_schema(max_characters: int, min_characters: int = 0) -> core_schema.CoreSchema:
    text = core_schema.str_schema(max_length=max_characters, min_length=min_characters)
    return core_schema.no_info_after_validator_function(_reject_nul, text)


def _build_schema(value_type: ValueType) -> core_schema.CoreSchema:
    """The limits of a declaration. Formats of other texts than URLs are not validated: those of other columns are not, either."""
    match value_type:
        case Text() | Html() | Slug():
            return build_text_schema(value_type.max_characters)
        case Url():
            return core_schema.no_info_after_validator_function(_check_url, build_text_schema(value_type.max_characters))
        case Amount():
            amount = core_schema.str_schema(pattern=_AMOUNT_PATTERN)
            return core_schema.no_info_after_validator_function(Decimal, amount)
        case Integer():
            return core_schema.int_schema(ge=value_type.minimum, le=value_type.maximum)
        case Boolean():
            return core_schema.bool_schema()
        case Choice():
            # The API has them in upper case.
            return core_schema.no_info_before_validator_function(_lower_text, core_schema.literal_schema(list(value_type.values)))
        case ItemList():
            return core_schema.list_schema(_build_schema(value_type.item), max_length=value_type.max_items)
        case TextMap():
            name, value = _build_schema(value_type.name), _build_schema(value_type.value)
            return core_schema.dict_schema(name, value, max_length=value_type.max_items)
        case Weight():
            members = {
                "value": core_schema.str_schema(pattern=r"^[0-9]{1,7}\.[0-9]{3}$"),
                "unit": _build_schema(Choice(value_type.units)),
            }
            fields = {name: core_schema.typed_dict_field(member) for name, member in members.items()}
            return core_schema.typed_dict_schema(fields, extra_behavior="forbid")
    assert_never(value_type)


def _build_field_schema(field: WritableField) -> core_schema.CoreSchema:
    if field.is_nullable:
        return core_schema.nullable_schema(_build_schema(field.value_type))
    if isinstance(field.value_type, Text):
        return build_text_schema(field.value_type.max_characters, field.value_type.min_characters)
    return _build_schema(field.value_type)


def build_fields_schema(fields: Iterable[WritableField], ignored_names: Iterable[str]) -> core_schema.CoreSchema:
    """A dict of some of the fields by their names in GraphQL, as they are stored; None is allowed."""
    members = {
        field.name: core_schema.typed_dict_field(_build_field_schema(field), required=False, validation_alias=field.graphql_name)
        for field in fields
    }
    ignored = {name: core_schema.typed_dict_field(core_schema.any_schema(), required=False) for name in ignored_names}
    schema = core_schema.typed_dict_schema(members | ignored, extra_behavior="forbid")

    def drop_ignored_fields(values: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if name in members}

    return core_schema.nullable_schema(core_schema.no_info_after_validator_function(drop_ignored_fields, schema))


# Files exported by earlier releases have them, which follow from the variants now.
FORMER_PRODUCT_FIELDS = ("price", "compareAtPrice", "inventory")
_CELL_FIELDS: dict[str, tuple[Iterable[WritableField], Iterable[str]]] = {
    "product": ([field for field in PRODUCT_FIELDS if field.name in PRODUCT_FIELD_NAMES], FORMER_PRODUCT_FIELDS),
    "variant": (VARIANT_FIELDS, ()),
}
_CELL_VALIDATOR = SchemaValidator(
    core_schema.typed_dict_schema(
        {
            name: core_schema.typed_dict_field(build_fields_schema(fields, ignored_names), required=False)
            for name, (fields, ignored_names) in _CELL_FIELDS.items()
        },
        extra_behavior="forbid",
    )
)


def parse_cell(cell: str) -> LosslessCell:
    """Parse a cell. Raises ValueError with the first problem."""
    try:
        return LosslessCell(**_CELL_VALIDATOR.validate_json(cell, strict=True))
    except ValidationError as error:
        # To format many thousands of errors takes longer than validation.
        if (count := error.error_count()) > MAX_LISTED_ERRORS:
            raise ValueError(f"JSON: {count:,} of its values are not as they should be") from None
        first = error.errors(include_input=False, include_url=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'JSON'}: {first['msg']}") from None


def render_cell(product: Mapping[str, Any], variant: Mapping[str, Any] | None) -> str:
    """Render the cell; empty if there are no fields."""
    content = ({"product": to_json_fields(product)} if product else {}) | (
        {"variant": to_json_fields(variant)} if variant is not None else {}
    )
    return orjson.dumps(content).decode() if content else ""


def to_json_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields by their names in GraphQL, with amounts as text."""
    return {to_camel_case(name): str(value) if isinstance(value, Decimal) else value for name, value in fields.items()}
