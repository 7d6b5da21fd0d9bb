"""Variants of many products at once."""

from collections.abc import Sequence
from functools import cache, lru_cache, partial
from typing import Any

from sqlalchemy import UUID, Boolean, ColumnElement, Select, Text, bindparam, select
from sqlalchemy.dialects.postgresql import JSONB

from storefront.core.cache_dependencies import INHERITED_DEPENDENCY, ParameterDependency, RowDependency
from storefront.core.db.database import Connection, Database, Statement, compile_statement
from storefront.core.errors import InvalidInput
from storefront.models import configs, products, variants
from storefront.models.rows import VariantRow
from storefront.queries import keyset
from storefront.queries.batching import align_by_key, group_by_parent
from storefront.queries.fields import (
    VARIANT_COLUMN_NAMES,
    VARIANT_SORT_KEYS,
    build_variant_columns,
    fold_json,
    order_variants,
    select_variants,
)
from storefront.queries.paging import load_page_per_parent, select_per_parent
from storefront.queries.projection import MAX_CACHED_STATEMENTS, RequestedColumns
from storefront.queries.visibility import any_of_ids, is_product_visible, is_variant_available

# All but the attributes as JSON documents and the unique key have them.
_ROW_COLUMN_NAMES = frozenset(VARIANT_COLUMN_NAMES) - {"attribute_list", "attributes_key"}


async def load_variants_of_products(
    database: Database,
    keys: Sequence[str],
    window: keyset.Window,
    sort: str,
    available_only: bool,
    columns: RequestedColumns = None,
    *,
    is_owner: bool,
) -> list[keyset.Page]:
    """A page of variants for each product, by a key of VARIANT_SORT_KEYS. Raises InvalidInput for a cursor of another list."""
    build_statement = partial(_select_of_products, available_only, is_owner, columns, sort, window.backward)
    return await load_page_per_parent(
        database,
        build_statement,
        window,
        f"variants {sort} {available_only}",
        keys,
        "product_id",
        key_column=sort,
        is_valid_value=VARIANT_SORT_KEYS[sort].is_valid_value,
    )


@lru_cache(MAX_CACHED_STATEMENTS)
def _select_of_products(
    available_only: bool, is_owner: bool, columns: RequestedColumns, sort: str, backward: bool, has_cursor: bool
) -> Statement:
    names = _ROW_COLUMN_NAMES if columns is None else {*columns, "id", "product_id", sort}
    selected = build_variant_columns(names, is_owner=is_owner)
    rows = select_variants(selected, products, available_only=available_only)
    if has_cursor:
        rows = rows.where(keyset.is_behind_cursor(VARIANT_SORT_KEYS[sort].column, variants.c.id, descending=backward))
    page = rows.order_by(*order_variants(sort, descending=backward)).limit(bindparam("limit"))
    return compile_statement(select_per_parent(products, page), depends_on=INHERITED_DEPENDENCY)


async def load_variant_of_products(
    database: Database, keys: Sequence[str], lookup_name: str, value: str, *, is_owner: bool
) -> list[VariantRow | None]:
    """The first variant of each product with this `id`, `sku` or all these `attributes` (a JSON object, in any case), or None."""
    rows = await database.fetch(_select_in_product(lookup_name, is_owner), {"ids": list(keys), "wanted": value})
    return align_by_key(rows, keys, "product_id")


_LOOKUPS_IN_PRODUCT: dict[str, ColumnElement[bool]] = {
    "id": variants.c.id == bindparam("wanted", type_=UUID),
    "sku": variants.c.sku == bindparam("wanted", type_=Text),
    "attributes": variants.c.folded_attributes.op("@>", return_type=Boolean())(fold_json(bindparam("wanted", type_=JSONB))),
}


@cache
def _select_in_product(lookup_name: str, is_owner: bool) -> Statement:
    columns = build_variant_columns(_ROW_COLUMN_NAMES, is_owner=is_owner)
    rows = select_variants(columns, products, _LOOKUPS_IN_PRODUCT[lookup_name], available_only=not is_owner)
    first = rows.order_by(*order_variants()).limit(1)
    return compile_statement(select_per_parent(products, first, name="first"), depends_on=INHERITED_DEPENDENCY)


async def load_visible_variants(
    database: Database, keys: Sequence[str], owned_store_ids: Sequence[str]
) -> list[VariantRow | None]:
    """The variants with these ids that the viewer may see, with the `config_id` of their store."""
    rows = await database.fetch(_select_visible(), {"ids": list(keys), "owned": list(owned_store_ids)})
    return align_by_key(rows, keys)


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
    parameters = {"ids": list(config_ids), "sku": sku, "owned": list(owned_store_ids), "limit": limit}
    return group_by_parent(await database.fetch(_select_by_sku(), parameters), config_ids, "config_id")


async def load_ambiguous_sku_errors(
    database: Database, config_ids: Sequence[str], sku: str, owned_store_ids: Sequence[str]
) -> dict[str, AmbiguousSku]:
    """The error of each store in which several variants have the SKU, by the id of the store."""
    parameters = {"ids": list(config_ids), "sku": sku, "owned": list(owned_store_ids)}
    rows = group_by_parent(await database.fetch(_select_handles_of_sku(), parameters), config_ids, "config_id")
    handles_by_store = zip(config_ids, rows, strict=True)
    return {key: AmbiguousSku(sku, [row.handle for row in store_rows]) for key, store_rows in handles_by_store}


@cache
def _select_visible() -> Statement:
    rows = _select_visible_rows().where(variants.c.id == any_of_ids("ids"))
    return compile_statement(rows, depends_on=RowDependency("config_id", "ids"))


@cache
def _select_by_sku() -> Statement:
    rows = _select_visible_rows().where(variants.c.config_id == configs.c.id, variants.c.sku == bindparam("sku"))
    oldest = rows.order_by(*order_variants("created_at")).limit(bindparam("limit"))
    return compile_statement(select_per_parent(configs, oldest), depends_on=ParameterDependency("ids"))


@cache
def _select_handles_of_sku() -> Statement:
    rows = _select_visible_rows().with_only_columns(products.c.config_id, products.c.handle).distinct()
    having_sku = rows.where(variants.c.config_id == configs.c.id, variants.c.sku == bindparam("sku"))
    ordered = having_sku.order_by(products.c.handle).limit(MAX_NAMED_PRODUCTS)
    return compile_statement(select_per_parent(configs, ordered), depends_on=ParameterDependency("ids"))


def _select_visible_rows() -> Select[Any]:
    is_owner = products.c.config_id == any_of_ids("owned")
    joined = variants.join(products, products.c.id == variants.c.product_id)
    rows = select(*build_variant_columns(_ROW_COLUMN_NAMES, is_owner=is_owner)).select_from(joined)
    return rows.where(is_product_visible() & (is_variant_available() | is_owner))


async def load_variants_by_ids(connection: Connection, keys: Sequence[str]) -> list[VariantRow]:
    """Variants by id, as the transaction of their owner that wrote them reads them."""
    return await connection.fetch(_select_by_ids(), {"ids": list(keys)})


@cache
def _select_by_ids() -> Statement:
    joined = variants.join(products, products.c.id == variants.c.product_id)
    columns = build_variant_columns(_ROW_COLUMN_NAMES, is_owner=True)
    return compile_statement(select(*columns).select_from(joined).where(variants.c.id == any_of_ids("ids")))
