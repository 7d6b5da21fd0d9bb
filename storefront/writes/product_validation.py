"""Validation rules for fields of products and variants: mutations and imports share them."""

from collections.abc import Mapping, Sequence
from typing import Any

from storefront.core.casing import to_camel_case
from storefront.core.db.database import Row
from storefront.writes import validation
from storefront.writes.transaction import FieldError, MutationRejected, make_invalid_input_error
from storefront.writes.validation import (
    InvalidValueError,
    Rules,
    accept_any,
    integer_rule,
    list_rule,
    non_null_rule,
    optional_rule,
    text_rule,
    validate_money,
    validate_url,
)

MAX_INT32 = 2_147_483_647
MAX_VARIANTS = 250
MAX_IMAGES = 250
MAX_TAGS = 250
MAX_ATTRIBUTES = 10

INVENTORY_RULE = optional_rule(integer_rule(0, MAX_INT32))


_ATTRIBUTE_PAIRS_RULE = validation.list_rule(
    validation.object_rule({"name": text_rule(255), "value": text_rule(255)}), MAX_ATTRIBUTES, distinct=False
)


def validate_attributes(pairs: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Validate attributes. Raises InvalidValueError for duplicate names."""
    valid_pairs = _ATTRIBUTE_PAIRS_RULE(pairs)
    value_by_name = {pair["name"]: pair["value"] for pair in valid_pairs}
    if len(value_by_name) < len(valid_pairs):
        raise InvalidValueError("each name may be given once.")
    return value_by_name


VARIANT_RULES: Rules = {
    "name": non_null_rule(text_rule(255)),
    "price": non_null_rule(validate_money),
    "compareAtPrice": optional_rule(validate_money),
    "attributes": non_null_rule(validate_attributes),
    "inventory": INVENTORY_RULE,
    "sku": optional_rule(text_rule(255)),
    "isAvailable": non_null_rule(accept_any),
}

PRODUCT_RULES: Rules = {
    "title": non_null_rule(text_rule(255)),
    "handle": non_null_rule(validation.validate_slug),
    "description": optional_rule(text_rule(65_536, min_characters=0)),
    "price": non_null_rule(validate_money),
    "compareAtPrice": optional_rule(validate_money),
    "images": non_null_rule(list_rule(validate_url, MAX_IMAGES)),
    "category": optional_rule(text_rule(255)),
    "tags": non_null_rule(list_rule(text_rule(255), MAX_TAGS)),
    "inventory": INVENTORY_RULE,
    "trackInventory": non_null_rule(accept_any),
    "seoTitle": optional_rule(text_rule(255)),
    "seoDescription": optional_rule(text_rule(65_536, min_characters=0)),
    "status": non_null_rule(accept_any),
}


def find_contradictions(values: Mapping[str, Any], path: Sequence[str] = (), stored: Row | None = None) -> list[FieldError]:
    """Errors between the fields of a product or variant. Amounts are text with two decimals.

    `stored` is the row that an update changes: its columns count where `values` has no field.
    """
    row = {to_camel_case(name): value for name, value in stored._asdict().items()} | dict(values) if stored else values
    compare_at_price = row.get("compareAtPrice")
    if compare_at_price is not None and float(compare_at_price) < float(row["price"]):
        problem = f"must not be below the price, which is {row['price']}. Give null for none."
        return [make_invalid_input_error([*path, "compareAtPrice"], problem)]
    return []


def reject_contradictions(values: Mapping[str, Any], stored: Row | None = None) -> None:
    """Raises MutationRejected for errors between fields (`find_contradictions`)."""
    if errors := find_contradictions(values, stored=stored):
        raise MutationRejected(*errors)
