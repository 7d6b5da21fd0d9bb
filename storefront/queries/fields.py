"""Computed fields of a product: review summary, variants and reviews, each defined once.

Two paths read products: rows (column by column, then completed in Python) and JSON documents that Postgres renders
(`json_sql`). Both take these expressions, so that a field has the same value whichever path serves it.
"""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import (
    Boolean,
    ColumnElement,
    FromClause,
    Select,
    Text,
    and_,
    case,
    cast,
    func,
    literal_column,
    not_,
    null,
    or_,
    select,
)
from sqlalchemy.dialects.postgresql import JSONB

from storefront.models import configs, products, reviews, variants
from storefront.models.review import IS_PUBLISHED_RANGE
from storefront.models.rows import ProductRow
from storefront.queries import keyset
from storefront.queries.projection import list_returned_columns
from storefront.queries.visibility import is_review_published, is_variant_available

# The columns of a product that a field is computed from.
PRICE_RANGE_COLUMNS = ("config_id", "price", "max_price")
REVIEW_SUMMARY_COLUMNS = ("rating", "rating_counts")
VARIANT_COUNT_COLUMNS = ("variants_total", "variants_available")

CONTINUE_POLICY: ColumnElement[str] = literal_column("'continue'")
VARIANT_SORT_KEYS = {
    "position": keyset.SortKey(variants.c.position, keyset.is_count),
    "price": keyset.SortKey(variants.c.price, keyset.is_money_amount),
    "created_at": keyset.SortKey(variants.c.created_at, keyset.is_timestamp),
}
REVIEW_ORDER = tuple(keyset.order_by_key(reviews.c.created_at, reviews.c.id, descending=True))


def select_currency(config_id: ColumnElement[Any]) -> ColumnElement[str]:
    """The currency of a store."""
    config = configs.alias()
    return select(config.c.currency).where(config.c.id == config_id).correlate_except(config).scalar_subquery()


def select_review_summary(product: FromClause) -> dict[str, ColumnElement[Any]]:
    """`average` (null without reviews), `count`, and `distribution`: the number of reviews with 1, 2, 3, 4 and 5 stars."""
    # Without reviews the rating is 0, to sort by.
    return {
        "average": func.nullif(product.c.rating, 0),
        "count": select_review_count(product, None),
        "distribution": product.c.rating_counts,
    }


def get_review_summary(product: ProductRow) -> dict[str, Any]:
    """`select_review_summary` of a row that has REVIEW_SUMMARY_COLUMNS."""
    counts = product.rating_counts
    return {"average": product.rating or None, "count": sum(counts), "distribution": counts}


def select_review_count(product: FromClause, rating: int | None) -> ColumnElement[int]:
    """The number of reviews of a product, of all or with this number of stars."""
    counts: Any = product.c.rating_counts
    count: ColumnElement[int] = counts[1] + counts[2] + counts[3] + counts[4] + counts[5] if rating is None else counts[rating]
    return count


def get_review_count(product: ProductRow, rating: int | None) -> int:
    """`select_review_count` of a row that has `rating_counts`."""
    return sum(product.rating_counts) if rating is None else product.rating_counts[rating - 1]


def fold_json(value: ColumnElement[Any]) -> ColumnElement[Any]:
    """A JSON value without case, as in the column `folded_attributes`."""
    return func.lower(value.cast(Text)).cast(JSONB)


def get_variant_count_column(available_only: bool) -> str:
    """The column that counts the variants of a product's list."""
    return "variants_available" if available_only else "variants_total"


# The columns of a variant as clients read it, and the columns of its product that those of them are computed from.
VARIANT_COLUMN_NAMES = (*(str(column.key) for column in list_returned_columns(variants)), "image_alt", "in_stock", "currency")
PRODUCT_COLUMNS_OF_VARIANT = {
    "in_stock": "track_inventory",
    "image": "images",
    "image_alt": "image_alts",
}


def build_variant_columns(
    names: Iterable[str], config_id: ColumnElement[Any], product: FromClause = products, *, is_owner: bool | ColumnElement[bool]
) -> list[ColumnElement[Any]]:
    """Columns of VARIANT_COLUMN_NAMES of a variant of this store and product. `is_owner`: whether the viewer owns the store."""
    requested = set(names)
    return [_build_variant_column(name, config_id, product, is_owner) for name in VARIANT_COLUMN_NAMES if name in requested]


def _build_variant_column(
    name: str, config_id: ColumnElement[Any], product: FromClause, is_owner: bool | ColumnElement[bool]
) -> ColumnElement[Any]:
    match name:
        case "in_stock":
            # Not tracked, not counted (null), more than none left, or sold beyond stock.
            has_stock = func.coalesce(variants.c.inventory, 1) > 0
            return or_(not_(product.c.track_inventory), has_stock, variants.c.inventory_policy == CONTINUE_POLICY).label(name)
        case "currency":
            return select_currency(config_id).label(name)
        case "image":
            # The product may no longer have it.
            is_shown = product.c.images.op("?", return_type=Boolean())(variants.c.image)
            return case((is_shown, variants.c.image)).label(name)
        case "image_alt":
            return product.c.image_alts.op("->>", return_type=Text())(variants.c.image).label(name)
        case "cost":
            if is_owner is True:
                return variants.c.cost
            return (cast(null(), variants.c.cost.type) if is_owner is False else case((is_owner, variants.c.cost))).label(name)
    return variants.c[name]


def is_variant_of_product(config_id: ColumnElement[Any], product: FromClause = products) -> ColumnElement[bool]:
    """Whether a variant is of a product of this store."""
    return and_(variants.c.config_id == config_id, variants.c.product_id == product.c.id)


def select_variants(
    columns: list[ColumnElement[Any]],
    config_id: ColumnElement[Any],
    product: FromClause,
    *conditions: ColumnElement[bool],
    available_only: bool,
) -> Select[Any]:
    """The variants of a product of this store, without order. Correlated with `product`."""
    visible = [is_variant_available()] if available_only else []
    return select(*columns).where(is_variant_of_product(config_id, product), *conditions, *visible).correlate(product)


def order_variants(sort_key: str = "position", *, descending: bool = False) -> list[ColumnElement[Any]]:
    """The order of variants by a key of VARIANT_SORT_KEYS; ties by id."""
    key = VARIANT_SORT_KEYS[sort_key].column
    return keyset.order_by_key(key, variants.c.id, True) if descending else [key, variants.c.id]


def is_review_of_product(config_id: ColumnElement[Any], product: FromClause = products) -> ColumnElement[bool]:
    """Whether a review is of a product of this store."""
    return and_(reviews.c.config_id == config_id, reviews.c.product_id == product.c.id)


def select_reviews(
    columns: list[ColumnElement[Any]],
    config_id: ColumnElement[Any],
    product: FromClause,
    rating: ColumnElement[int] | None = None,
) -> Select[Any]:
    """The published reviews of a product of this store, of all or with this number of stars, without order. Correlated with
    `product`.
    """
    # The planner expects hardly any rows of one product. It would filter the reviews of all ratings if it could, and read them
    # all for a rare one.
    is_listed = [is_review_published()] if rating is None else [IS_PUBLISHED_RANGE, reviews.c.rating == rating]
    return select(*columns).where(*is_listed, is_review_of_product(config_id, product)).correlate(product)
