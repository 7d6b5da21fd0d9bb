"""Validation rules for fields of products and variants, from their declarations."""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, assert_never

from storefront.core.casing import to_camel_case
from storefront.core.db.database import Row
from storefront.models import PRODUCT_FIELDS, VARIANT_FIELDS
from storefront.models.variant import fold_attributes, fold_case
from storefront.models.variant_summary import SETTABLE_COLUMNS
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
from storefront.writes.field_errors import FieldError, InvalidInputReason, MutationRejected, make_invalid_input_error
from storefront.writes.validation import (
    InvalidValueError,
    Rule,
    Rules,
    accept_any,
    html_rule,
    integer_rule,
    list_rule,
    non_null_rule,
    object_rule,
    optional_rule,
    slug_rule,
    text_rule,
    validate_amount,
    validate_url,
)


def build_rules(fields: Iterable[WritableField]) -> Rules:
    """The rules of fields, by their GraphQL names."""
    return {
        field.graphql_name: (optional_rule if field.is_nullable else non_null_rule)(_build_value_rule(field.value_type))
        for field in fields
    }


def _build_value_rule(value_type: ValueType) -> Rule:  # noqa: C901 - a case for each type of value
    match value_type:
        case Text():
            return text_rule(value_type.max_characters, min_characters=value_type.min_characters)
        case Html():
            return html_rule(value_type.max_characters)
        case Slug():
            return slug_rule(value_type.max_characters)
        case Url():
            return validate_url
        case Amount():
            return validate_amount
        case Integer():
            return integer_rule(value_type.minimum, value_type.maximum)
        case Boolean() | Choice():
            return accept_any
        case ItemList():
            return list_rule(_build_value_rule(value_type.item), value_type.max_items)
        case TextMap():
            return _text_map_rule(value_type)
        case Weight():
            return _validate_weight
    assert_never(value_type)


def _text_map_rule(text_map: TextMap) -> Rule:
    """A list of objects with name and value, as a mapping. Names differ in more than case."""
    pair_rule = object_rule({"name": _build_value_rule(text_map.name), "value": _build_value_rule(text_map.value)})
    pairs_rule = list_rule(pair_rule, text_map.max_items, distinct=False)

    def validate_pairs(pairs: Sequence[Mapping[str, str]]) -> dict[str, str]:
        valid_pairs = pairs_rule(pairs)
        if len({fold_case(pair["name"]) for pair in valid_pairs}) < len(valid_pairs):
            raise InvalidValueError("each name may be given once, in upper or lower case.", InvalidInputReason.DUPLICATE)
        return {pair["name"]: pair["value"] for pair in valid_pairs}

    return validate_pairs


def _validate_weight(weight: Mapping[str, Any]) -> dict[str, str]:
    value = weight["value"]
    if not 0 <= value < 10_000_000:
        reason = InvalidInputReason.TOO_SMALL if value < 0 else InvalidInputReason.TOO_LARGE
        problem = f"must be between 0 and 9999999.999, not {value}."
        raise InvalidValueError(problems=[(("value",), problem, reason)])
    if value != round(value, 3):
        problem = f"must have at most three decimals, not {value}."
        raise InvalidValueError(problems=[(("value",), problem, InvalidInputReason.MALFORMED)])
    return {"value": f"{abs(value):.3f}", "unit": weight["unit"]}


VARIANT_RULES = build_rules(VARIANT_FIELDS)
PRODUCT_RULES: Rules = {
    **build_rules(PRODUCT_FIELDS),
    **{name: VARIANT_RULES[name] for name in map(to_camel_case, SETTABLE_COLUMNS)},
}
# The default of the name is derived from the attributes.
VARIANT_CREATION_RULES: Rules = {**VARIANT_RULES, "name": optional_rule(VARIANT_RULES["name"])}


def find_contradictions(values: Mapping[str, Any], path: Sequence[str] = (), stored: Row | None = None) -> list[FieldError]:
    """Errors between the fields of a variant. Amounts are text.

    `stored` is the row that an update changes: its columns count where `values` has no field.
    """
    errors: list[FieldError] = []
    row = {to_camel_case(name): value for name, value in stored._asdict().items()} | dict(values) if stored else values
    compare_at_price = row.get("compareAtPrice")
    if compare_at_price is not None and Decimal(compare_at_price) < Decimal(row["price"]):
        problem = f"must not be below the price, which is {row['price']}. Give null for none."
        errors.append(make_invalid_input_error([*path, "compareAtPrice"], problem, InvalidInputReason.CONFLICTING))
    if (values.get("inventory") or 0) < 0 and row.get("inventoryPolicy") != "continue":
        problem = "must not be negative, unless inventoryPolicy is CONTINUE."
        errors.append(make_invalid_input_error([*path, "inventory"], problem, InvalidInputReason.TOO_SMALL))
    return errors


def find_equal_attributes(attributes_of_variants: Sequence[Mapping[str, str]]) -> list[FieldError]:
    """Errors of the variants of an input that have the attributes of an earlier one."""
    first_by_attributes: dict[frozenset[tuple[str, str]], int] = {}
    errors: list[FieldError] = []
    for n, attributes in enumerate(attributes_of_variants):
        if (first := first_by_attributes.setdefault(fold_attributes(attributes), n)) != n:
            problem = f"are those of variant {first}, apart from upper and lower case. Give each variant its own."
            errors.append(make_invalid_input_error(["variants", str(n), "attributes"], problem, InvalidInputReason.DUPLICATE))
    return errors


def find_image_errors(values: Mapping[str, Any], images: Sequence[str], path: Sequence[str] = ()) -> list[FieldError]:
    """The error of a variant whose image is none of its product's."""
    image = values.get("image")
    if image is None or image in images:
        return []
    problem = "must be one of the product's images. Give null to show those."
    return [make_invalid_input_error([*path, "image"], problem, InvalidInputReason.NOT_ALLOWED)]


def reject_contradictions(values: Mapping[str, Any], stored: Row | None = None) -> None:
    """Raises MutationRejected for errors between fields (`find_contradictions`)."""
    if errors := find_contradictions(values, stored=stored):
        raise MutationRejected(*errors)
