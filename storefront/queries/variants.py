"""Variants of many products at once."""

from collections.abc import Sequence
from functools import cache, lru_cache

from sqlalchemy import UUID, Boolean, ColumnElement, Text, bindparam, select
from sqlalchemy.dialects.postgresql import JSONB

from storefront.core.cache_dependencies import INHERITED_DEPENDENCY, ParameterDependency, RowDependency
from storefront.core.db.database import Connection, Database, Statement, compile_statement
from storefront.models import products, variants
from storefront.models.rows import VariantRow
from storefront.queries.batching import align_by_key, group_by_parent
from storefront.queries.fields import VARIANT_ORDER, list_variant_columns, select_variants
from storefront.queries.paging import select_per_parent
from storefront.queries.projection import MAX_CACHED_STATEMENTS, RequestedColumns, filter_columns
from storefront.queries.visibility import any_of_ids, is_product_visible, is_variant_available

# Without the attributes as JSON documents have them.
VARIANT_COLUMNS = [column for column in list_variant_columns() if column.key != "attribute_list"]


async def load_variants_of_products(
    database: Database, keys: Sequence[str], limit: int, available_only: bool, columns: RequestedColumns = None
) -> list[list[VariantRow]]:
    """The first variants of each product, in display order."""
    rows = await database.fetch(_select_of_products(available_only, columns), {"ids": list(keys), "limit": limit})
    return group_by_parent(rows, keys, "product_id")


@lru_cache(MAX_CACHED_STATEMENTS)
def _select_of_products(available_only: bool, columns: RequestedColumns) -> Statement:
    return _select_first(bindparam("limit"), available_only=available_only, columns=columns)


async def load_variant_of_products(
    database: Database, keys: Sequence[str], lookup_name: str, value: str, available_only: bool
) -> list[VariantRow | None]:
    """The first variant of each product with this `id`, `sku` or all these `attributes` (a JSON object); None for none."""
    rows = await database.fetch(_select_in_product(lookup_name, available_only), {"ids": list(keys), "wanted": value})
    return align_by_key(rows, keys, "product_id")


_LOOKUPS_IN_PRODUCT: dict[str, ColumnElement[bool]] = {
    "id": variants.c.id == bindparam("wanted", type_=UUID),
    "sku": variants.c.sku == bindparam("wanted", type_=Text),
    "attributes": variants.c.attributes.op("@>", return_type=Boolean())(bindparam("wanted", type_=JSONB)),
}


@cache
def _select_in_product(lookup_name: str, available_only: bool) -> Statement:
    return _select_first(1, _LOOKUPS_IN_PRODUCT[lookup_name], available_only=available_only)


async def load_visible_variants(
    database: Database, keys: Sequence[str], owned_store_ids: Sequence[str]
) -> list[VariantRow | None]:
    """The variants with these ids that the viewer may see, with the `config_id` of their store."""
    rows = await database.fetch(_select_visible("ids"), {"ids": list(keys), "owned": list(owned_store_ids)})
    return align_by_key(rows, keys)


async def load_variant_by_sku(database: Database, config_id: str, sku: str, owned_store_ids: Sequence[str]) -> VariantRow | None:
    """The oldest variant of a store with this SKU that the viewer may see."""
    rows = await database.fetch(_select_visible("sku"), {"config_id": config_id, "sku": sku, "owned": list(owned_store_ids)})
    return rows[0] if rows else None


@cache
def _select_visible(lookup_name: str) -> Statement:
    is_visible = is_product_visible() & (is_variant_available() | (products.c.config_id == any_of_ids("owned")))
    joined = variants.join(products, products.c.id == variants.c.product_id)
    rows = select(*VARIANT_COLUMNS, products.c.config_id).select_from(joined).where(is_visible)
    if lookup_name == "ids":
        return compile_statement(rows.where(variants.c.id == any_of_ids("ids")), depends_on=RowDependency("config_id", "ids"))
    in_store = rows.where(products.c.config_id == bindparam("config_id"), variants.c.sku == bindparam("sku"))
    return compile_statement(in_store.order_by(*VARIANT_ORDER).limit(1), depends_on=ParameterDependency("config_id"))


def _select_first(
    limit: object, *conditions: ColumnElement[bool], available_only: bool, columns: RequestedColumns = None
) -> Statement:
    selected = filter_columns(VARIANT_COLUMNS, columns, "id", "product_id")
    rows = select_variants(selected, products, *conditions, available_only=available_only).limit(limit)  # type: ignore[arg-type]
    return compile_statement(select_per_parent(products, rows, name="first"), depends_on=INHERITED_DEPENDENCY)


async def load_variants_by_ids(connection: Connection, keys: Sequence[str]) -> list[VariantRow]:
    """Variants by id, as the transaction that wrote them reads them."""
    return await connection.fetch(_select_by_ids(), {"ids": list(keys)})


@cache
def _select_by_ids() -> Statement:
    joined = variants.join(products, products.c.id == variants.c.product_id)
    return compile_statement(select(*VARIANT_COLUMNS).select_from(joined).where(variants.c.id == any_of_ids("ids")))
