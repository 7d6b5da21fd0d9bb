"""What the filters of lists depend on, as it was before a change: log entries keep it.

So the log tells for each filter whether a change brought a product into it or out of it (`queries/memberships.py`).
"""

from typing import Any

# The columns of a product, and of its variants, that filters depend on.
FILTERED_PRODUCT_COLUMNS = (
    *(
        "status",
        "category",
        "vendor",
        "product_type",
        "tags",
        "price",
        "max_price",
        "variants_available",
        "in_stock",
        "rating",
        "updated_at",
    ),
)
FILTERED_VARIANT_COLUMNS = ("price", "is_available", "attributes")

# The former values of the variants that a change wrote, by id. None: the variant did not exist.
FormerVariants = dict[str, dict[str, Any] | None]


def get_former_product(row: Any) -> dict[str, Any]:
    """The values of a product before a change, with its version then, from its row."""
    return {name: getattr(row, name) for name in ("version", *FILTERED_PRODUCT_COLUMNS)}


def get_former_variant(row: Any) -> dict[str, Any]:
    """The values of a variant before a change, from its row."""
    return {name: getattr(row, name) for name in FILTERED_VARIANT_COLUMNS}
