"""Variants of many products at once."""

from collections.abc import Sequence
from functools import cache, lru_cache

from sqlalchemy import Boolean, ColumnElement, FromClause, and_, bindparam, func, not_, or_, select, true
from sqlalchemy.dialects.postgresql import JSONB

from storefront.core.cache_dependencies import INHERITED_DEPENDENCY
from storefront.core.db.database import Connection, Database, Row, Statement, compile_statement
from storefront.models import products, variants
from storefront.queries.batching import align_by_key, group_by_parent
from storefront.queries.projection import MAX_CACHED_STATEMENTS, RequestedColumns, filter_columns
from storefront.queries.visibility import any_of_ids, is_variant_available

_IS_IN_STOCK = or_(not_(products.c.track_inventory), func.coalesce(variants.c.inventory, 1) > 0)
VARIANT_COLUMNS = [*(c for c in variants.c if c.name != "attribute_list"), _IS_IN_STOCK.label("in_stock")]


async def load_variants_of_products(
    database: Database, keys: Sequence[str], limit: int, available_only: bool, columns: RequestedColumns = None
) -> list[list[Row]]:
    """The first variants of each product, in the order they were made."""
    rows = await database.fetch(_select_of_products(available_only, columns), {"ids": list(keys), "limit": limit})
    return group_by_parent(rows, keys, "product_id")


@lru_cache(MAX_CACHED_STATEMENTS)
def _select_of_products(available_only: bool, columns: RequestedColumns) -> Statement:
    return _select_per_product([is_variant_available()] if available_only else [], bindparam("limit"), columns)


async def load_variants_by_attributes(
    database: Database, keys: Sequence[str], attributes: str, available_only: bool
) -> list[Row | None]:
    """The variant of each product that has all these attributes, given as a JSON object; the first made of several."""
    rows = await database.fetch(_select_by_attributes(available_only), {"ids": list(keys), "wanted": attributes})
    return align_by_key(rows, keys, "product_id")


@cache
def _select_by_attributes(available_only: bool) -> Statement:
    has_attributes = variants.c.attributes.op("@>", return_type=Boolean())(bindparam("wanted", type_=JSONB))
    return _select_per_product([has_attributes, *([is_variant_available()] if available_only else [])], 1)


def _select_per_product(conditions: list[ColumnElement[bool]], limit: object, columns: RequestedColumns = None) -> Statement:
    product_variants = (
        select(*filter_columns(VARIANT_COLUMNS, columns, "id", "product_id"))
        .where(and_(variants.c.product_id == products.c.id, *conditions))
        .correlate(products)
    )
    first_variants: FromClause = product_variants.order_by(variants.c.created_at, variants.c.id).limit(limit).lateral("first")  # type: ignore[arg-type]
    return compile_statement(
        select(first_variants).select_from(products.join(first_variants, true())).where(products.c.id == any_of_ids("ids")),
        depends_on=INHERITED_DEPENDENCY,
    )


async def load_variants_by_ids(connection: Connection, keys: Sequence[str]) -> list[Row]:
    """Variants by id, as the transaction that wrote them sees them."""
    return await connection.fetch(_select_by_ids(), {"ids": list(keys)})


@cache
def _select_by_ids() -> Statement:
    joined = variants.join(products, products.c.id == variants.c.product_id)
    return compile_statement(select(*VARIANT_COLUMNS).select_from(joined).where(variants.c.id == any_of_ids("ids")))
