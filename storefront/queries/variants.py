"""Variants of many products at once."""

from collections.abc import Sequence
from functools import cache, lru_cache

from sqlalchemy import Boolean, ColumnElement, FromClause, and_, bindparam, func, not_, or_, select, true
from sqlalchemy.dialects.postgresql import JSONB

from storefront.core.cache_dependencies import WITHIN
from storefront.core.db.database import Connection, Database, Row, Statement, compiled
from storefront.models import products, variants
from storefront.queries.batching import by_key, by_parent
from storefront.queries.projection import MOST_STATEMENTS, Wanted, needed
from storefront.queries.visibility import available, ids

_in_stock = or_(not_(products.c.track_inventory), func.coalesce(variants.c.inventory, 1) > 0)
COLUMNS = [*(c for c in variants.c if c.name != "attribute_list"), _in_stock.label("in_stock")]


async def of_products(
    database: Database, keys: Sequence[str], limit: int, available_only: bool, columns: Wanted = None
) -> list[list[Row]]:
    """The first variants of each product, in the order they were made."""
    rows = await database.fetch(_of_products(available_only, columns), {"ids": list(keys), "limit": limit})
    return by_parent(rows, keys, "product_id")


@lru_cache(MOST_STATEMENTS)
def _of_products(available_only: bool, columns: Wanted) -> Statement:
    return _per_product([available()] if available_only else [], bindparam("limit"), columns)


async def by_attributes(database: Database, keys: Sequence[str], wanted: str, available_only: bool) -> list[Row | None]:
    """The variant of each product that has all these attributes, given as a JSON object; the first made of several."""
    rows = await database.fetch(_by_attributes(available_only), {"ids": list(keys), "wanted": wanted})
    return by_key(rows, keys, "product_id")


@cache
def _by_attributes(available_only: bool) -> Statement:
    fits = variants.c.attributes.op("@>", return_type=Boolean())(bindparam("wanted", type_=JSONB))
    return _per_product([fits, *([available()] if available_only else [])], 1)


def _per_product(wanted: list[ColumnElement[bool]], limit: object, columns: Wanted = None) -> Statement:
    mine = (
        select(*needed(COLUMNS, columns, "id", "product_id"))
        .where(and_(variants.c.product_id == products.c.id, *wanted))
        .correlate(products)
    )
    first: FromClause = mine.order_by(variants.c.created_at, variants.c.id).limit(limit).lateral("first")  # type: ignore[arg-type]
    return compiled(select(first).select_from(products.join(first, true())).where(products.c.id == ids("ids")), reads=WITHIN)


async def of_ids(connection: Connection, keys: Sequence[str]) -> list[Row]:
    """Variants by id, as the transaction that wrote them sees them."""
    return await connection.fetch(_of_ids(), {"ids": list(keys)})


@cache
def _of_ids() -> Statement:
    joined = variants.join(products, products.c.id == variants.c.product_id)
    return compiled(select(*COLUMNS).select_from(joined).where(variants.c.id == ids("ids")))
