"""Variants of many products at once."""

from collections.abc import Sequence
from functools import cache, lru_cache

from sqlalchemy import Boolean, ColumnElement, bindparam, select
from sqlalchemy.dialects.postgresql import JSONB

from storefront.core.cache_dependencies import INHERITED_DEPENDENCY
from storefront.core.db.database import Connection, Database, Statement, compile_statement
from storefront.models import products, variants
from storefront.models.rows import VariantRow
from storefront.queries.batching import align_by_key, group_by_parent
from storefront.queries.fields import list_variant_columns, select_variants
from storefront.queries.paging import select_per_parent
from storefront.queries.projection import MAX_CACHED_STATEMENTS, RequestedColumns, filter_columns
from storefront.queries.visibility import any_of_ids

# Without the attributes as JSON documents have them.
VARIANT_COLUMNS = [column for column in list_variant_columns() if column.key != "attribute_list"]


async def load_variants_of_products(
    database: Database, keys: Sequence[str], limit: int, available_only: bool, columns: RequestedColumns = None
) -> list[list[VariantRow]]:
    """The first variants of each product, oldest first."""
    rows = await database.fetch(_select_of_products(available_only, columns), {"ids": list(keys), "limit": limit})
    return group_by_parent(rows, keys, "product_id")


@lru_cache(MAX_CACHED_STATEMENTS)
def _select_of_products(available_only: bool, columns: RequestedColumns) -> Statement:
    return _select_first(bindparam("limit"), available_only=available_only, columns=columns)


async def load_variants_by_attributes(
    database: Database, keys: Sequence[str], attributes: str, available_only: bool
) -> list[VariantRow | None]:
    """The oldest variant of each product that has all these attributes (a JSON object); None where there is none."""
    rows = await database.fetch(_select_by_attributes(available_only), {"ids": list(keys), "wanted": attributes})
    return align_by_key(rows, keys, "product_id")


@cache
def _select_by_attributes(available_only: bool) -> Statement:
    has_attributes = variants.c.attributes.op("@>", return_type=Boolean())(bindparam("wanted", type_=JSONB))
    return _select_first(1, has_attributes, available_only=available_only)


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
