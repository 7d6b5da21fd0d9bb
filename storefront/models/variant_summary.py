"""What a product shows of its variants: price, stock and counts, stored with the product, so that lists never read variants.

Commands that write variants write it in the same transaction: with the product if they write that anyway (`summarize_variants`),
else by `SUMMARIZE_PRODUCTS_SQL`. Both give the same values.
"""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from storefront.models.writable_fields import MAX_INT32

SUMMARY_COLUMNS = (
    *("price", "compare_at_price", "max_price", "inventory", "total_inventory"),
    *("variants_total", "variants_available", "variants_in_stock"),
)
# The columns of a variant that the summary depends on.
SUMMARIZED_COLUMNS = ("id", "position", "price", "compare_at_price", "inventory", "inventory_policy", "is_available")
# The columns of the summary that inputs of products may set too, for variants that are all alike.
SETTABLE_COLUMNS = ("price", "compare_at_price", "inventory")


def summarize_variants(variants: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The SUMMARY_COLUMNS of a product with these variants (at least one): mappings with SUMMARIZED_COLUMNS.

    The price is that of the cheapest available variant, or of the cheapest one if none is available.
    """
    rows = list(variants)
    available = [row for row in rows if row["is_available"]]
    offered = available or rows
    cheapest = min(offered, key=lambda row: (Decimal(row["price"]), row["position"], row["id"]))
    counted = [row["inventory"] for row in rows if row["inventory"] is not None]
    total_inventory = max(-MAX_INT32, min(MAX_INT32, sum(counted)))
    return {
        "price": cheapest["price"],
        "compare_at_price": cheapest["compare_at_price"],
        "max_price": max(offered, key=lambda row: Decimal(row["price"]))["price"],
        "inventory": total_inventory if len(counted) == len(rows) else None,
        "total_inventory": total_inventory,
        "variants_total": len(rows),
        "variants_available": len(available),
        "variants_in_stock": sum(
            row["inventory"] is None or row["inventory"] > 0 or row["inventory_policy"] == "continue" for row in available
        ),
    }


# The summary of the product `changed.id` of the store that is the parameter `config_id`, in the FROM of a statement.
SUMMARY_SQL = f"""(
  SELECT
    (array_agg(v.price ORDER BY NOT v.is_available, v.price, v.position, v.id))[1] AS price,
    (array_agg(v.compare_at_price ORDER BY NOT v.is_available, v.price, v.position, v.id))[1] AS compare_at_price,
    coalesce(max(v.price) FILTER (WHERE v.is_available), max(v.price)) AS max_price,
    CASE WHEN bool_and(v.inventory IS NOT NULL) THEN
      greatest(-{MAX_INT32}, least({MAX_INT32}, sum(v.inventory)))::integer END AS inventory,
    greatest(-{MAX_INT32}, least({MAX_INT32}, coalesce(sum(v.inventory), 0)))::integer AS total_inventory,
    count(*)::integer AS variants_total,
    count(*) FILTER (WHERE v.is_available)::integer AS variants_available,
    count(*) FILTER (WHERE v.is_available AND (coalesce(v.inventory, 1) > 0 OR v.inventory_policy = 'continue'))::integer
      AS variants_in_stock
  FROM product_variants AS v WHERE v.config_id = CAST(:config_id AS uuid) AND v.product_id = changed.id
) AS summary"""

# Of the products of the store `config_id` with the ids of the parameter `ids`, which are locked. Products whose summary is right
# are not written.
SUMMARIZE_PRODUCTS_SQL = f"""
UPDATE products SET updated_at = now(),
  ({", ".join(SUMMARY_COLUMNS)}) = ({", ".join(f"summary.{name}" for name in SUMMARY_COLUMNS)})
FROM unnest(CAST(:ids AS uuid[])) AS changed (id) CROSS JOIN LATERAL {SUMMARY_SQL}
WHERE products.config_id = CAST(:config_id AS uuid) AND products.id = changed.id
  AND summary.variants_total > 0
  AND ({", ".join(f"products.{name}" for name in SUMMARY_COLUMNS)})
      IS DISTINCT FROM ({", ".join(f"summary.{name}" for name in SUMMARY_COLUMNS)})
"""
