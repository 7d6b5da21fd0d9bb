"""Variants of many products at once."""

from collections.abc import Iterable, Sequence
from functools import cache, lru_cache, partial
from typing import Any

from sqlalchemy import UUID, Boolean, ColumnElement, FromClause, Select, Text, bindparam, select
from sqlalchemy.dialects.postgresql import JSONB

from storefront.core.cache_dependencies import INHERITED_DEPENDENCY
from storefront.core.db.database import Connection, Database, Statement, compile_statement
from storefront.core.errors import InvalidInput
from storefront.models import configs, products, variants
from storefront.models.row_keys import (
    RowKey,
    are_of_single_store,
    bind_keys,
    bind_store,
    build_key_parameters,
    build_store_parameters,
    depend_on_stores,
    get_store,
    have_single_store,
    is_any_store,
    is_row_of_key,
)
from storefront.models.rows import VariantRow
from storefront.queries import keyset
from storefront.queries.batching import align_by_key, group_by_parent
from storefront.queries.fields import (
    PRODUCT_COLUMNS_OF_VARIANT,
    VARIANT_COLUMN_NAMES,
    VARIANT_SORT_KEYS,
    build_variant_columns,
    fold_json,
    order_variants,
    select_variants,
)
from storefront.queries.paging import load_page_per_parent, select_of_keys, select_per_parent
from storefront.queries.projection import MAX_CACHED_STATEMENTS, RequestedColumns
from storefront.queries.visibility import any_of_ids, is_product_visible, is_variant_available

# All but the attributes as JSON documents and the unique key have them.
_ROW_COLUMN_NAMES = frozenset(VARIANT_COLUMN_NAMES) - {"attribute_list", "attributes_key"}


async def load_variants_of_products(
    database: Database,
    keys: Sequence[RowKey],
    window: keyset.Window,
    sort: str,
    available_only: bool,
    columns: RequestedColumns = None,
    *,
    is_owner: bool,
) -> list[keyset.Page]:
    """A page of variants for each product, by a key of VARIANT_SORT_KEYS. Raises InvalidInput for a cursor of another list."""
    shape = (are_of_single_store(keys), available_only, is_owner, columns, sort, window.backward)
    return await load_page_per_parent(
        database,
        partial(_select_of_products, *shape),
        window,
        f"variants {sort} {available_only}",
        [key.id for key in keys],
        "product_id",
        build_key_parameters(keys),
        key_column=sort,
        is_valid_value=VARIANT_SORT_KEYS[sort].is_valid_value,
    )


@lru_cache(MAX_CACHED_STATEMENTS)
def _select_of_products(
    is_single_store: bool,
    available_only: bool,
    is_owner: bool,
    columns: RequestedColumns,
    sort: str,
    backward: bool,
    has_cursor: bool,
) -> Statement:
    names = _ROW_COLUMN_NAMES if columns is None else {*columns, "id", "config_id", "product_id", sort}
    key = bind_keys(is_single_store)
    rows = _select_of_key(names, key, is_single_store, available_only=available_only, is_owner=is_owner)
    if has_cursor:
        rows = rows.where(keyset.is_behind_cursor(VARIANT_SORT_KEYS[sort].column, variants.c.id, descending=backward))
    page = rows.order_by(*order_variants(sort, descending=backward)).limit(bindparam("limit"))
    return compile_statement(select_per_parent(key, page), depends_on=INHERITED_DEPENDENCY)


def _select_of_key(
    names: Iterable[str], key: FromClause, is_single_store: bool, *, available_only: bool, is_owner: bool
) -> Select[Any]:
    """Columns of the variants of the product with a key of `bind_keys`. The product is read only if one is computed from it."""
    store = get_store(key, is_single_store)
    columns = build_variant_columns(names, store, is_owner=is_owner)
    rows = select_variants(columns, store, key, available_only=available_only)
    is_product_read = not PRODUCT_COLUMNS_OF_VARIANT.keys().isdisjoint(names)
    return rows.where(is_row_of_key(products, key, is_single_store)) if is_product_read else rows


async def load_variant_of_products(
    database: Database, keys: Sequence[RowKey], lookup_name: str, value: str, *, is_owner: bool
) -> list[VariantRow | None]:
    """The first variant of each product with this `id`, `sku` or all these `attributes` (a JSON object, in any case), or None."""
    statement = _select_in_product(lookup_name, is_owner, are_of_single_store(keys))
    rows = await database.fetch(statement, {**build_key_parameters(keys), "wanted": value})
    return align_by_key(rows, [key.id for key in keys], "product_id")


_LOOKUPS_IN_PRODUCT: dict[str, ColumnElement[bool]] = {
    "id": variants.c.id == bindparam("wanted", type_=UUID),
    "sku": variants.c.sku == bindparam("wanted", type_=Text),
    "attributes": variants.c.folded_attributes.op("@>", return_type=Boolean())(fold_json(bindparam("wanted", type_=JSONB))),
}


@cache
def _select_in_product(lookup_name: str, is_owner: bool, is_single_store: bool) -> Statement:
    key = bind_keys(is_single_store)
    rows = _select_of_key(_ROW_COLUMN_NAMES, key, is_single_store, available_only=not is_owner, is_owner=is_owner)
    first = rows.where(_LOOKUPS_IN_PRODUCT[lookup_name]).order_by(*order_variants()).limit(1)
    return compile_statement(select_per_parent(key, first, name="first"), depends_on=INHERITED_DEPENDENCY)


async def load_visible_variants(
    database: Database, keys: Sequence[RowKey], owned_store_ids: Sequence[str]
) -> list[VariantRow | None]:
    """The variants with these keys that the viewer may see."""
    parameters = {**build_key_parameters(keys), "owned": list(owned_store_ids)}
    rows = await database.fetch(_select_visible(are_of_single_store(keys)), parameters)
    return align_by_key(rows, [key.id for key in keys])


# Handles in the error of an ambiguous SKU.
MAX_NAMED_PRODUCTS = 5


class AmbiguousSku(InvalidInput):
    """Several variants have a SKU by which one is looked up. The message names products that have them, by their handles."""

    def __init__(self, sku: str, handles: Sequence[str]) -> None:
        super().__init__(
            "by.sku", f"several variants have the SKU {sku!r}. They belong to {', '.join(handles)}: look one up by id."
        )


async def load_variant_by_sku(database: Database, config_id: str, sku: str, owned_store_ids: Sequence[str]) -> VariantRow | None:
    """The variant of a store with this SKU that the viewer may see. Raises AmbiguousSku if several have it."""
    [rows] = await load_variants_by_sku(database, [config_id], sku, owned_store_ids, limit=2)
    if len(rows) > 1:
        raise (await load_ambiguous_sku_errors(database, [config_id], sku, owned_store_ids))[config_id]
    return rows[0] if rows else None


async def load_variants_by_sku(
    database: Database, config_ids: Sequence[str], sku: str, owned_store_ids: Sequence[str], limit: int
) -> list[list[VariantRow]]:
    """The variants of each store with this SKU that the viewer may see, oldest first; at most `limit` of each."""
    parameters = {**build_store_parameters(config_ids), "sku": sku, "owned": list(owned_store_ids), "limit": limit}
    rows = await database.fetch(_select_by_sku(have_single_store(config_ids)), parameters)
    return group_by_parent(rows, config_ids, "config_id")


async def load_ambiguous_sku_errors(
    database: Database, config_ids: Sequence[str], sku: str, owned_store_ids: Sequence[str]
) -> dict[str, AmbiguousSku]:
    """The error of each store in which several variants have the SKU, by the id of the store."""
    parameters = {**build_store_parameters(config_ids), "sku": sku, "owned": list(owned_store_ids)}
    rows = await database.fetch(_select_handles_of_sku(have_single_store(config_ids)), parameters)
    handles_by_store = zip(config_ids, group_by_parent(rows, config_ids, "config_id"), strict=True)
    return {key: AmbiguousSku(sku, [row.handle for row in store_rows]) for key, store_rows in handles_by_store}


@cache
def _select_visible(is_single_store: bool) -> Statement:
    rows = select_of_keys(_select_visible_rows(get_store(variants, is_single_store)), variants, is_single_store)
    return compile_statement(rows, depends_on=depend_on_stores(is_single_store))


@cache
def _select_by_sku(is_single_store: bool) -> Statement:
    store = bind_store() if is_single_store else configs.c.id
    oldest = _select_with_sku(store).order_by(*order_variants("created_at")).limit(bindparam("limit"))
    per_store = select_per_parent(configs, oldest, is_any_store(configs.c.id, is_single_store))
    return compile_statement(per_store, depends_on=depend_on_stores(is_single_store))


@cache
def _select_handles_of_sku(is_single_store: bool) -> Statement:
    store = bind_store() if is_single_store else configs.c.id
    rows = _select_with_sku(store).with_only_columns(products.c.config_id, products.c.handle).distinct()
    ordered = rows.order_by(products.c.handle).limit(MAX_NAMED_PRODUCTS)
    per_store = select_per_parent(configs, ordered, is_any_store(configs.c.id, is_single_store))
    return compile_statement(per_store, depends_on=depend_on_stores(is_single_store))


def _select_with_sku(store: ColumnElement[Any]) -> Select[Any]:
    return _select_visible_rows(store).where(variants.c.config_id == store, variants.c.sku == bindparam("sku"))


def _select_visible_rows(store: ColumnElement[Any]) -> Select[Any]:
    is_owner = store == any_of_ids("owned")
    is_product = (products.c.config_id == store) & (products.c.id == variants.c.product_id)
    rows = select(*build_variant_columns(_ROW_COLUMN_NAMES, store, is_owner=is_owner))
    visible = rows.select_from(variants.join(products, is_product))
    return visible.where(is_product_visible(store) & (is_variant_available() | is_owner))


async def load_variants_by_keys(connection: Connection, keys: Sequence[RowKey]) -> list[VariantRow]:
    """Variants of one store, as the transaction of their owner that wrote them reads them."""
    return await connection.fetch(_select_by_keys(), build_key_parameters(keys))


@cache
def _select_by_keys() -> Statement:
    is_product = (products.c.config_id == bind_store()) & (products.c.id == variants.c.product_id)
    columns = build_variant_columns(_ROW_COLUMN_NAMES, bind_store(), is_owner=True)
    rows = select(*columns).select_from(variants.join(products, is_product))
    return compile_statement(select_of_keys(rows, variants, is_single_store=True))
