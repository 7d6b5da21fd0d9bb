"""Single products, by id, handle or SKU."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import Select, bindparam, select

from storefront.core.cache_dependencies import Found, Named, Reads
from storefront.core.db.database import Database, Row, Statement, compiled
from storefront.models import products, variants
from storefront.queries.batching import by_key
from storefront.queries.json_sql import Document
from storefront.queries.projection import COLUMNS, MOST_STATEMENTS, needed
from storefront.queries.visibility import available, ids, visible_product


async def by_ids(
    database: Database, keys: Sequence[str], owned: Sequence[str], document: Document | None = None
) -> list[Row | None]:
    """The visible products with these ids. Of a document, here as below, each row has the `id` and what is written as `node`."""
    if len(keys) == 1:
        return [await _one(database, "id", {"id": keys[0], "owned": list(owned)}, document)]
    return by_key(await _all(database, "ids", {"ids": list(keys), "owned": list(owned)}, document), keys)


async def by_handle(
    database: Database, config_id: str, handle: str, owned: Sequence[str], document: Document | None = None
) -> Row | None:
    """The visible product with this handle in a store."""
    return await _one(database, "handle", {"config_id": config_id, "handle": handle, "owned": list(owned)}, document)


async def by_sku(
    database: Database, config_id: str, sku: str, owned: Sequence[str], document: Document | None = None
) -> Row | None:
    """The visible product one of whose visible variants has this SKU; the first made where several have it."""
    return await _one(database, "sku", {"config_id": config_id, "sku": sku, "owned": list(owned)}, document)


async def _one(database: Database, by: str, given: Mapping[str, Any], document: Document | None) -> Row | None:
    rows = await _all(database, by, given, document)
    return rows[0] if rows else None


async def _all(database: Database, by: str, given: Mapping[str, Any], document: Document | None) -> list[Row]:
    return await database.fetch(_found(by, document), given)


def _of_sku(rows: Select[Any]) -> Select[Any]:
    seen = available() | (products.c.config_id == ids("owned"))
    joined = rows.join_from(products, variants, variants.c.product_id == products.c.id)
    here = joined.where(products.c.config_id == bindparam("config_id"), variants.c.sku == bindparam("sku"), seen)
    return here.order_by(variants.c.created_at, variants.c.id).limit(1)


@dataclass(frozen=True, slots=True)
class _Question:
    """How products are asked for, and of which stores the answer is."""

    of: Callable[[Select[Any]], Select[Any]]
    reads: Reads


_BY = {
    # One key by itself: of a list Postgres knows the length only when it plans anew.
    "id": _Question(lambda rows: rows.where(products.c.id == bindparam("id")), Found("config_id")),
    "ids": _Question(lambda rows: rows.where(products.c.id == ids("ids")), Found("config_id", "ids")),
    "handle": _Question(
        lambda rows: rows.where(products.c.config_id == bindparam("config_id"), products.c.handle == bindparam("handle")),
        Named("config_id"),
    ),
    "sku": _Question(_of_sku, Named("config_id")),
}


@lru_cache(MOST_STATEMENTS)
def _found(by: str, document: Document | None) -> Statement:
    asked = _BY[by]
    columns = needed(COLUMNS, document.columns if document else None, "id", "config_id")
    rows = asked.of(select(*columns).where(visible_product()))
    if document is None:
        return compiled(rows, reads=asked.reads)
    product = rows.subquery("product")
    told = select(product.c.id, product.c.config_id, document.written(product).label("node"))
    return compiled(told, reads=asked.reads)
