"""Single products by id, handle or SKU."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from sqlalchemy import ColumnElement, FromClause, Select, bindparam, column, func, select
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from storefront.core.db.database import Database, Statement, compile_statement
from storefront.core.handles import normalize_handle
from storefront.models import former_handles, products, variants
from storefront.models.row_keys import (
    RowKey,
    are_of_single_store,
    bind_store,
    build_key_parameters,
    build_store_parameters,
    depend_on_stores,
    get_store,
    have_single_store,
    is_any_store,
)
from storefront.models.rows import ProductRow
from storefront.queries.batching import align_by_key, group_by_parent
from storefront.queries.fields import is_variant_of_product
from storefront.queries.json_sql import DocumentRow, JsonDocument
from storefront.queries.paging import select_of_keys
from storefront.queries.projection import MAX_CACHED_STATEMENTS, PRODUCT_COLUMNS, filter_columns
from storefront.queries.variants import AmbiguousSku, load_ambiguous_sku_errors
from storefront.queries.visibility import any_of_ids, is_product_visible, is_variant_available


async def load_products_by_keys(
    database: Database, keys: Sequence[RowKey], owned_store_ids: Sequence[str], document: JsonDocument | None = None
) -> list[ProductRow | None]:
    """The visible products with these keys. With a document, rows have `id`, `config_id` and the JSON as `node`."""
    owned = {"owned": list(owned_store_ids)}
    if len(keys) == 1:
        return [await _load_one(database, "id", {**keys[0]._asdict(), **owned}, document)]
    lookup_name = "ids" if are_of_single_store(keys) else "ids of stores"
    rows = await _load_all(database, lookup_name, {**build_key_parameters(keys), **owned}, document)
    return align_by_key(rows, [key.id for key in keys])


async def load_product_by_handle(
    database: Database, config_id: str, handle: str, owned_store_ids: Sequence[str], document: JsonDocument | None = None
) -> ProductRow | None:
    """The visible product with this handle in a store, or the one that had it before."""
    parameters = {"config_id": config_id, "handle": normalize_handle(handle), "owned": list(owned_store_ids)}
    return await _load_one(database, "handle", parameters, document)


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
    """The visible product of each store with this `id`, present or former `handle`, or `sku`; AmbiguousSku if several have it."""
    if lookup_name == "handle":
        value = normalize_handle(value)
    parameters = {**build_store_parameters(config_ids), lookup_name: value, "owned": list(owned_store_ids)}
    name_in_stores = lookup_name if have_single_store(config_ids) else f"{lookup_name} in stores"
    rows = await _load_all(database, name_in_stores, parameters, document)
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


_ID, _HANDLE = (bindparam(name, type_=products.c[name].type) for name in ("id", "handle"))


def _filter_by_sku(rows: Select[Any], is_single_store: bool) -> Select[Any]:
    """At most two products of each store that have a visible variant with the SKU: two are too many."""
    store = get_store(products, is_single_store)
    is_variant_visible = is_variant_available() | (store == any_of_ids("owned"))
    joined = select(products.c.id, products.c.config_id).join_from(products, variants, is_variant_of_product(store))
    having_sku = joined.where(
        is_any_store(variants.c.config_id, is_single_store),
        variants.c.sku == bindparam("sku"),
        is_variant_visible,
        is_product_visible(store),
        is_any_store(products.c.config_id, is_single_store),
    )
    distinct = having_sku.distinct().subquery("having_sku")
    place = func.row_number().over(partition_by=distinct.c.config_id, order_by=distinct.c.id)
    placed = select(distinct.c.id, distinct.c.config_id, place.label("place")).subquery("placed")
    is_placed = (products.c.config_id == placed.c.config_id) & (products.c.id == placed.c.id) & (placed.c.place <= 2)
    return rows.join_from(products, placed, is_placed).where(is_any_store(products.c.config_id, is_single_store))


def _has_handle(config_id: ColumnElement[Any]) -> ColumnElement[bool]:
    """Whether a product of the store has the parameter `handle`, or had it before and no other has it now."""
    named = products.alias("named")
    present = select(named.c.id).where(named.c.config_id == config_id, named.c.handle == _HANDLE)
    is_former = (former_handles.c.config_id == config_id, former_handles.c.handle == _HANDLE)
    former = select(former_handles.c.product_id).where(*is_former)
    found_id = func.coalesce(present.scalar_subquery(), former.scalar_subquery())
    return (products.c.config_id == config_id) & (products.c.id == found_id)


def _filter_by_handle_in_stores(rows: Select[Any]) -> Select[Any]:
    store = func.unnest(bindparam("config_ids", type_=ARRAY(UUID))).table_valued(column("id", UUID)).render_derived(name="store")
    return rows.join_from(products, store, _has_handle(store.c.id))


@dataclass(frozen=True, slots=True)
class _ProductLookup:
    """A condition on products of one store, or of several."""

    filter_rows: Callable[[Select[Any]], Select[Any]]
    is_single_store: bool = True


_IN_STORE, _IN_STORES = (is_any_store(products.c.config_id, is_single_store) for is_single_store in (True, False))
_LOOKUPS = {
    # A scalar parameter: for an array the planner knows the length only in a custom plan.
    "id": _ProductLookup(lambda rows: rows.where(_IN_STORE, products.c.id == _ID)),
    "ids": _ProductLookup(lambda rows: select_of_keys(rows, products, is_single_store=True)),
    "handle": _ProductLookup(lambda rows: rows.where(_has_handle(bind_store()))),
    "sku": _ProductLookup(lambda rows: _filter_by_sku(rows, is_single_store=True)),
    "ids of stores": _ProductLookup(lambda rows: select_of_keys(rows, products, is_single_store=False), False),
    "id in stores": _ProductLookup(lambda rows: rows.where(_IN_STORES, products.c.id == _ID), False),
    "handle in stores": _ProductLookup(_filter_by_handle_in_stores, False),
    "sku in stores": _ProductLookup(lambda rows: _filter_by_sku(rows, is_single_store=False), False),
}


@lru_cache(MAX_CACHED_STATEMENTS)
def _select_products(lookup_name: str, document: JsonDocument | None) -> Statement:
    lookup = _LOOKUPS[lookup_name]
    store, dependency = get_store(products, lookup.is_single_store), depend_on_stores(lookup.is_single_store)
    if document is None:
        return compile_statement(
            lookup.filter_rows(select(*PRODUCT_COLUMNS).where(is_product_visible(store))), depends_on=dependency
        )
    of_product = partial(get_store, is_single_store=lookup.is_single_store)
    return compile_statement(_select_documents(document, lookup.filter_rows, of_product), depends_on=dependency)


def select_document_by_handle(document: JsonDocument, config_id: ColumnElement[Any]) -> Select[Any]:
    """The visible product of a store with the parameter `handle`, present or former, as its document `node`."""
    return _select_documents(document, lambda rows: rows.where(_has_handle(config_id)), lambda _: config_id)


def _select_documents(
    document: JsonDocument,
    filter_rows: Callable[[Select[Any]], Select[Any]],
    get_store_of: Callable[[FromClause], ColumnElement[Any]],
) -> Select[Any]:
    columns = filter_columns(PRODUCT_COLUMNS, document.columns, "id", "config_id")
    product = filter_rows(select(*columns).where(is_product_visible(get_store_of(products)))).subquery("product")
    node = document.render(DocumentRow(product, get_store_of(product))).label("node")
    return select(product.c.id, product.c.config_id, node)
