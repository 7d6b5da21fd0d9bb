"""Reads the rows that posting lists consist of, and brings them up to date by the log. Each statement has one snapshot.

A transaction that writes what facets depend on appends to the log as its last step. So the rows of a snapshot are those of the
position that the snapshot has.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cache
from uuid import UUID

from sqlalchemy import BigInteger, Integer, bindparam, func, literal_column, select, text, true

from storefront.core.cache_dependencies import ParameterDependency
from storefront.core.db.database import LONG_STATEMENT_MS, Database, Row, Statement, compile_statement
from storefront.models import positions, products
from storefront.models.columns import Uuid
from storefront.models.row_keys import depend_on_stores
from storefront.queries.listing import (
    Selection,
    StatementShape,
    StoreScope,
    build_parent_rows,
    build_product_source,
    get_parent_store,
)

# Rows of one round trip: they take a few milliseconds, also if each has as many variants as a product may have.
ROWS_PER_FETCH = 40
# What a request catches up with: log entries, and available variants of the products that these name. After more of them the
# index is built anew.
MAX_CHANGES, MAX_CHANGED_VARIANTS = 500, 10_000

# Of a product and its available variants, the oldest one first: what `StorePostings.add_product` takes.
_PRODUCT_COLUMNS_SQL = """
  uuid_send(product.id) AS id, product.status, product.vendor, product.product_type, product.category_paths, product.tags,
  product.price, product.max_price, product.variants_available, product.in_stock, product.rating,
  (
    SELECT json_agg(json_build_array(
      variant.id, CAST(variant.price AS text), CAST(variant.attributes AS text), CAST(variant.folded_attributes AS text)
    ) ORDER BY variant.id)
    FROM product_variants AS variant
    WHERE variant.config_id = product.config_id AND variant.product_id = product.id AND variant.is_available
  )::text AS variants
"""
_STORE_COLUMNS_SQL = """
  coalesce((SELECT position FROM store_positions WHERE config_id = {store}), 0) AS log_position,
  coalesce((SELECT is_published FROM configs WHERE id = {store}), false) AS is_published
"""
# Entries without a product are about the store: only another currency concerns its products. One that names no field may be about
# anything.
_IS_RESET_SQL = "product_id IS NULL AND (changed_fields = '{}' OR 'currency' = ANY(changed_fields))"


async def count_products(database: Database, config_id: str, limit: int) -> int:
    """The number of products of a store, counted up to a limit."""
    [row] = await database.fetch(_select_count(), {"config_id": config_id, "limit": limit})
    return int(row.total)


@cache
def _select_count() -> Statement:
    sql = "SELECT count(*) AS total FROM (SELECT FROM products WHERE config_id = :config_id LIMIT :limit) AS product"
    return compile_statement(text(sql).bindparams(bindparam("config_id", type_=Uuid), bindparam("limit", type_=Integer)))


@asynccontextmanager
async def reading_store(database: Database, config_id: str) -> AsyncIterator[AsyncIterator[list[Row]]]:
    """The batches of all products of a store, in the order of their ids, from one snapshot.

    Each row has `log_position` and `is_published` of the store. A store without products has one row without an id.
    """
    # DECLARE takes no parameters.
    store = f"CAST('{UUID(config_id)}' AS uuid)"
    query = f"""
SELECT store.*, {_PRODUCT_COLUMNS_SQL}
FROM (SELECT {_STORE_COLUMNS_SQL.format(store=store)}) AS store
LEFT JOIN products AS product ON product.config_id = {store}
ORDER BY product.id"""
    declaration = Statement(f"DECLARE facet_rows NO SCROLL CURSOR FOR {query}".replace("%", "%%"), {}, needs_custom_plan=True)
    async with database.transaction(statement_timeout=LONG_STATEMENT_MS) as connection:
        connection.enqueue(declaration)

        async def iterate_batches() -> AsyncIterator[list[Row]]:
            while rows := await connection.fetch(_FETCH):
                yield rows

        yield iterate_batches()


_FETCH = Statement(f"FETCH {ROWS_PER_FETCH} FROM facet_rows", {}, needs_custom_plan=True)


async def load_changed_products(database: Database, config_id: str, after: int) -> list[Row]:
    """What has changed in a store since a position: one row at least, with the state of the store, and one for each product.

    `entry_count`: the number of log entries, at most MAX_CHANGES + 1. `is_reset`: whether one of them may concern all products.
    `variant_count`: available variants of the products. `changed_id`: the product, which exists no longer where `id` is null; of
    more than MAX_CHANGES or MAX_CHANGED_VARIANTS there is none.
    """
    return await database.fetch(_select_changed_products(), {"config_id": config_id, "after": after})


@cache
def _select_changed_products() -> Statement:
    sql = f"""
WITH entry AS MATERIALIZED (
  SELECT product_id, {_IS_RESET_SQL} AS is_reset FROM changes
  WHERE config_id = :config_id AND position > :after ORDER BY position LIMIT {MAX_CHANGES + 1}
)
SELECT store.*, changed.changed_id, product.*
FROM (
  SELECT {_STORE_COLUMNS_SQL.format(store=":config_id")},
    (SELECT count(*) FROM entry) AS entry_count, coalesce((SELECT bool_or(is_reset) FROM entry), false) AS is_reset,
    coalesce((
      SELECT sum(variants_available) FROM products WHERE config_id = :config_id AND id IN (SELECT product_id FROM entry)
    ), 0) AS variant_count
) AS store
LEFT JOIN LATERAL (
  SELECT DISTINCT product_id, uuid_send(product_id) AS changed_id FROM entry
  WHERE product_id IS NOT NULL AND store.entry_count <= {MAX_CHANGES} AND NOT store.is_reset
    AND store.variant_count <= {MAX_CHANGED_VARIANTS}
) AS changed ON true
LEFT JOIN LATERAL (
  SELECT {_PRODUCT_COLUMNS_SQL} FROM products AS product WHERE product.config_id = :config_id AND product.id = changed.product_id
) AS product ON true"""
    parameters = bindparam("config_id", type_=Uuid), bindparam("after", type_=BigInteger)
    return compile_statement(text(sql).bindparams(*parameters), depends_on=ParameterDependency("config_id"))


async def load_search_hits(database: Database, scopes: Sequence[StoreScope], selection: Selection) -> list[Row]:
    """What the search of a selection finds in each scope: the `log_position`, and `ids`, one after the other, or null.

    Filters are not applied.
    """
    unfiltered = selection.without_all_filters()
    statement = _select_search_hits(StatementShape.from_selection(unfiltered, scopes))
    return await database.fetch(statement, unfiltered.build_parameters(scopes))


@cache
def _select_search_hits(shape: StatementShape) -> Statement:
    parent = build_parent_rows(shape)
    source, conditions = build_product_source(shape, parent)
    store = get_parent_store(shape, parent)
    position = select(positions.c.position).where(positions.c.config_id == store).correlate_except(positions).scalar_subquery()
    ids = func.string_agg(func.uuid_send(products.c.id), literal_column("''::bytea")).label("ids")
    hits = select(ids).select_from(source).where(*conditions).correlate(parent).lateral("hits")
    return compile_statement(
        select(func.coalesce(position, literal_column("0")).label("log_position"), hits.c.ids)
        .select_from(parent.join(hits, true()))
        .order_by(parent.c.number),
        depends_on=depend_on_stores(shape.is_single_store),
    )
