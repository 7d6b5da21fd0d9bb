"""Single products by id, handle or SKU."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import Select, bindparam, func, select

from storefront.core.cache_dependencies import CacheDependency, ParameterDependency, RowDependency
from storefront.core.db.database import Database, Statement, compile_statement
from storefront.models import products, variants
from storefront.models.rows import ProductRow
from storefront.queries.batching import align_by_key, group_by_parent
from storefront.queries.json_sql import JsonDocument
from storefront.queries.projection import MAX_CACHED_STATEMENTS, PRODUCT_COLUMNS, filter_columns
from storefront.queries.variants import AmbiguousSku, load_ambiguous_sku_errors
from storefront.queries.visibility import any_of_ids, is_product_visible, is_variant_available


async def load_products_by_ids(
    database: Database, keys: Sequence[str], owned_store_ids: Sequence[str], document: JsonDocument | None = None
) -> list[ProductRow | None]:
    """The visible products with these ids. With a document, rows have `id`, `config_id` and the JSON as `node`."""
    if len(keys) == 1:
        return [await _load_one(database, "id", {"id": keys[0], "owned": list(owned_store_ids)}, document)]
    return align_by_key(await _load_all(database, "ids", {"ids": list(keys), "owned": list(owned_store_ids)}, document), keys)


async def load_product_by_handle(
    database: Database, config_id: str, handle: str, owned_store_ids: Sequence[str], document: JsonDocument | None = None
) -> ProductRow | None:
    """The visible product with this handle in a store."""
    return await _load_one(
        database, "handle", {"config_id": config_id, "handle": handle, "owned": list(owned_store_ids)}, document
    )


async def load_product_by_sku(
    database: Database, config_id: str, sku: str, owned_store_ids: Sequence[str], document: JsonDocument | None = None
) -> ProductRow | None:
    """The visible product with a visible variant of this SKU. Raises AmbiguousSku if several products have one."""
    [found] = await load_product_of_stores(database, [config_id], "sku", sku, owned_store_ids, document)
    if isinstance(found, AmbiguousSku):
        raise found
    return found


async def load_product_of_stores(
    database: Database,
    config_ids: Sequence[str],
    lookup_name: str,
    value: str,
    owned_store_ids: Sequence[str],
    document: JsonDocument | None = None,
) -> list[ProductRow | AmbiguousSku | None]:
    """The visible product of each store with this `id`, `handle` or `sku`; AmbiguousSku if several have the SKU."""
    parameters = {"config_ids": list(config_ids), lookup_name: value, "owned": list(owned_store_ids)}
    rows = await _load_all(database, f"{lookup_name} in stores", parameters, document)
    rows_by_store = group_by_parent(rows, config_ids, "config_id")
    found = [matching[0] if matching else None for matching in rows_by_store]
    if ambiguous_ids := [key for key, matching in zip(config_ids, rows_by_store, strict=True) if len(matching) > 1]:
        errors = await load_ambiguous_sku_errors(database, ambiguous_ids, value, owned_store_ids)
        return [errors.get(key, row) for key, row in zip(config_ids, found, strict=True)]
    return found


async def _load_one(
    database: Database, lookup_name: str, parameters: Mapping[str, Any], document: JsonDocument | None
) -> ProductRow | None:
    rows = await _load_all(database, lookup_name, parameters, document)
    return rows[0] if rows else None


async def _load_all(
    database: Database, lookup_name: str, parameters: Mapping[str, Any], document: JsonDocument | None
) -> list[ProductRow]:
    return await database.fetch(_select_products(lookup_name, document), parameters)


_IN_STORES = products.c.config_id == any_of_ids("config_ids")


def _filter_by_sku(rows: Select[Any]) -> Select[Any]:
    """At most two products of each store that have a visible variant with the SKU: two are too many."""
    is_variant_visible = is_variant_available() | (products.c.config_id == any_of_ids("owned"))
    joined = select(products.c.id, products.c.config_id).join_from(products, variants, variants.c.product_id == products.c.id)
    having_sku = joined.where(
        variants.c.config_id == any_of_ids("config_ids"),
        variants.c.sku == bindparam("sku"),
        is_variant_visible,
        is_product_visible(),
        products.c.config_id == any_of_ids("config_ids"),
    )
    distinct = having_sku.distinct().subquery("having_sku")
    place = func.row_number().over(partition_by=distinct.c.config_id, order_by=distinct.c.id)
    placed = select(distinct.c.id, place.label("place")).subquery("placed")
    return rows.join_from(products, placed, placed.c.id == products.c.id).where(placed.c.place <= 2)


_IN_STORE = products.c.config_id == bindparam("config_id")
_HAS_HANDLE = products.c.handle == bindparam("handle")


@dataclass(frozen=True, slots=True)
class _ProductLookup:
    """A condition on products, and the cache dependency of its result."""

    filter_rows: Callable[[Select[Any]], Select[Any]]
    dependency: CacheDependency


_LOOKUPS = {
    # A scalar parameter: for an array the planner knows the length only in a custom plan.
    "id": _ProductLookup(lambda rows: rows.where(products.c.id == bindparam("id")), RowDependency("config_id")),
    "ids": _ProductLookup(lambda rows: rows.where(products.c.id == any_of_ids("ids")), RowDependency("config_id", "ids")),
    "handle": _ProductLookup(
        lambda rows: rows.where(_IN_STORE, _HAS_HANDLE),
        ParameterDependency("config_id"),
    ),
    "id in stores": _ProductLookup(
        lambda rows: rows.where(_IN_STORES, products.c.id == bindparam("id")), ParameterDependency("config_ids")
    ),
    "handle in stores": _ProductLookup(lambda rows: rows.where(_IN_STORES, _HAS_HANDLE), ParameterDependency("config_ids")),
    "sku in stores": _ProductLookup(_filter_by_sku, ParameterDependency("config_ids")),
}


@lru_cache(MAX_CACHED_STATEMENTS)
def _select_products(lookup_name: str, document: JsonDocument | None) -> Statement:
    lookup = _LOOKUPS[lookup_name]
    columns = filter_columns(PRODUCT_COLUMNS, document.columns if document else None, "id", "config_id")
    rows = lookup.filter_rows(select(*columns).where(is_product_visible()))
    if document is None:
        return compile_statement(rows, depends_on=lookup.dependency)
    product = rows.subquery("product")
    document_rows = select(product.c.id, product.c.config_id, document.render(product).label("node"))
    return compile_statement(document_rows, depends_on=lookup.dependency)
