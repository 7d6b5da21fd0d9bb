"""Single products, by id, handle or SKU."""

from collections.abc import Sequence
from functools import cache

from sqlalchemy import and_, bindparam, select

from storefront.core.database import Database, Row, Statement, compiled
from storefront.core.scopes import Found, Named
from storefront.models import products, variants
from storefront.queries.listing import COLUMNS
from storefront.queries.visibility import available, ids, visible_product


async def by_ids(database: Database, keys: Sequence[str], owned: Sequence[str]) -> list[Row | None]:
    """The visible products with these ids."""
    rows = {row.id: row for row in await database.fetch(_by_ids(), {"ids": list(keys), "owned": list(owned)})}
    return [rows.get(key) for key in keys]


@cache
def _by_ids() -> Statement:
    return compiled(select(*COLUMNS).where(products.c.id == ids("ids"), visible_product()), reads=Found("config_id", "ids"))


async def by_handle(database: Database, config_id: str, handle: str, owned: Sequence[str]) -> Row | None:
    """The visible product with this handle in a store."""
    rows = await database.fetch(_by_handle(), {"config_id": config_id, "handle": handle, "owned": list(owned)})
    return rows[0] if rows else None


@cache
def _by_handle() -> Statement:
    here = and_(products.c.config_id == bindparam("config_id"), products.c.handle == bindparam("handle"))
    return compiled(select(*COLUMNS).where(here, visible_product()), reads=Named("config_id"))


async def by_sku(database: Database, config_id: str, sku: str, owned: Sequence[str]) -> Row | None:
    """The visible product one of whose visible variants has this SKU; the first made where several have it."""
    rows = await database.fetch(_by_sku(), {"config_id": config_id, "sku": sku, "owned": list(owned)})
    return rows[0] if rows else None


@cache
def _by_sku() -> Statement:
    joined = products.join(variants, variants.c.product_id == products.c.id)
    here = and_(products.c.config_id == bindparam("config_id"), variants.c.sku == bindparam("sku"))
    seen = available() | (products.c.config_id == ids("owned"))
    found = select(*COLUMNS).select_from(joined).where(here, seen, visible_product())
    return compiled(found.order_by(variants.c.created_at, variants.c.id).limit(1), reads=Named("config_id"))
