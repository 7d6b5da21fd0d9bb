"""What the fields of products and variants may be, wherever they are written."""

from collections.abc import Mapping, Sequence
from typing import Any

from storefront.writes import validation
from storefront.writes.transaction import Failure, invalid
from storefront.writes.validation import Rules, Unfit, as_is, given, listed, money, optional, text, url, whole

MOST_INT = 2_147_483_647
MOST_VARIANTS = 250
MOST_IMAGES = 250
MAX_TAGS = 250
MAX_ATTRIBUTES = 10

STOCK = optional(whole(0, MOST_INT))


_PAIRS = validation.listed(validation.record({"name": text(255), "value": text(255)}), MAX_ATTRIBUTES, distinct=False)


def attributes(pairs: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Names and values, each name once."""
    clean = _PAIRS(pairs)
    found = {pair["name"]: pair["value"] for pair in clean}
    if len(found) < len(clean):
        raise Unfit("each name may be given once.")
    return found


VARIANT: Rules = {
    "name": given(text(255)),
    "price": given(money),
    "compareAtPrice": optional(money),
    "attributes": given(attributes),
    "inventory": STOCK,
    "sku": optional(text(255)),
    "isAvailable": given(as_is),
}

PRODUCT: Rules = {
    "title": given(text(255)),
    "handle": given(validation.slug),
    "description": optional(text(65_536, least=0)),
    "price": given(money),
    "compareAtPrice": optional(money),
    "images": given(listed(url, MOST_IMAGES)),
    "category": optional(text(255)),
    "tags": given(listed(text(255), MAX_TAGS)),
    "inventory": STOCK,
    "trackInventory": given(as_is),
    "seoTitle": optional(text(255)),
    "seoDescription": optional(text(65_536, least=0)),
    "status": given(as_is),
}


def contradictions(whole_: Mapping[str, Any], path: Sequence[str] = ()) -> list[Failure]:
    """Faults that only show when a row's fields are seen together. Amounts are text with two decimals."""
    compared = whole_.get("compareAtPrice")
    if compared is not None and float(compared) < float(whole_["price"]):
        problem = f"must not be below the price, which is {whole_['price']}. Give null for none."
        return [invalid([*path, "compareAtPrice"], problem)]
    return []
