"""Builds and writes the search documents of products whose fields or variants change."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from storefront.core.cooperative import run_in_thread_if_long
from storefront.core.db.database import LONG_STATEMENT_MS, Connection, Database, Statement, compile_statement
from storefront.core.db.pipeline import QueuedStatement
from storefront.models.search_document import SEARCHED_COLUMNS, SEARCHED_VARIANT_COLUMNS, build_search_vector, count_steps

_REBUILT_PRODUCTS = 500

# The codes of the variants of a product `key.id`, in their order.
_CODES_SQL = f"""ARRAY(
  SELECT given.code
  FROM product_variants AS v,
    unnest(ARRAY[{", ".join(f"v.{name}" for name in SEARCHED_VARIANT_COLUMNS)}]) WITH ORDINALITY AS given (code, n)
  WHERE v.config_id = :config_id AND v.product_id = key.id AND given.code <> '' ORDER BY v.position, v.id, given.n
) AS codes"""
_SELECT_CODES_SQL = f"SELECT key.id, {_CODES_SQL} FROM unnest(:ids) AS key (id)"
# What `build_search_vector` reads.
_SELECT_SEARCHED_SQL = f"""
SELECT key.id, {", ".join(f"p.{name}" for name in SEARCHED_COLUMNS)}, {_CODES_SQL}
FROM unnest(:ids) AS key (id) JOIN products AS p ON p.config_id = :config_id AND p.id = key.id
"""
_UPDATE_VECTORS_SQL = """
UPDATE products SET search_vector = written.vector::tsvector FROM unnest(:ids, CAST(:vectors AS text[])) AS written (id, vector)
WHERE products.config_id = :config_id AND products.id = written.id
"""
_SELECT_STORES_SQL = "SELECT id FROM configs ORDER BY id"
_SELECT_NEXT_IDS_SQL = f"""
SELECT id FROM products WHERE config_id = :config_id AND id > CAST(:after AS uuid)
ORDER BY id LIMIT {_REBUILT_PRODUCTS} FOR UPDATE
"""


def enqueue_codes(connection: Connection, config_id: str, product_ids: Sequence[str]) -> QueuedStatement:
    """Read the `codes` of the variants of products by their `id`, with the next statement that is awaited.

    After the statement that locks the products: in it, it would not see variants that were written while it waited.
    """
    return connection.enqueue(_select_codes(), {"config_id": config_id, "ids": [*product_ids]})


async def build_search_documents(
    connection: Connection,
    config_id: str,
    products: Sequence[Mapping[str, Any]],
    known_codes: Mapping[str, Sequence[str]],
) -> dict[str, str]:
    """The search documents of locked products of a store, by id: of `id` and the SEARCHED_COLUMNS, and their stored variants.

    Codes of variants that are not among the known ones are read.
    """
    codes = dict(known_codes)
    if unknown_ids := [product["id"] for product in products if product["id"] not in codes]:
        statement = enqueue_codes(connection, config_id, unknown_ids)
        await connection.flush()
        codes |= {row.id: row.codes for row in statement.rows}
    return {product["id"]: await _build_vector(product, codes[product["id"]]) for product in products}


async def write_search_documents(connection: Connection, config_id: str, product_ids: Sequence[str]) -> None:
    """Write the search documents of these locked products of a store, as they and their variants are stored now.

    The last statement is sent with the next one.
    """
    if not product_ids:
        return
    rows = await connection.fetch(_select_searched(), {"config_id": config_id, "ids": [*product_ids]})
    vectors = [await _build_vector(row._asdict(), row.codes) for row in rows]
    connection.enqueue(_update_vectors(), {"config_id": config_id, "ids": [row.id for row in rows], "vectors": vectors})


async def rebuild_search_documents(database: Database) -> int:
    """Write the search documents of all products; returns their number. Each batch is a transaction."""
    stores = await database.fetch(compile_statement(text(_SELECT_STORES_SQL)))
    return sum([await _rebuild_documents_of_store(database, store.id) for store in stores])


async def _rebuild_documents_of_store(database: Database, config_id: str) -> int:
    last_id, total = "00000000-0000-0000-0000-000000000000", 0
    while True:
        async with database.transaction(statement_timeout=LONG_STATEMENT_MS) as connection:
            rows = await connection.fetch(_select_next_ids(), {"config_id": config_id, "after": last_id})
            await write_search_documents(connection, config_id, [row.id for row in rows])
        if not rows:
            return total
        last_id, total = rows[-1].id, total + len(rows)


async def _build_vector(product: Mapping[str, Any], codes: Sequence[str]) -> str:
    return await run_in_thread_if_long(count_steps(product) + len(codes), build_search_vector, product, codes)


@cache
def _select_codes() -> Statement:
    return _compile(_SELECT_CODES_SQL)


@cache
def _select_searched() -> Statement:
    return _compile(_SELECT_SEARCHED_SQL)


@cache
def _update_vectors() -> Statement:
    return _compile(_UPDATE_VECTORS_SQL)


@cache
def _select_next_ids() -> Statement:
    return compile_statement(text(_SELECT_NEXT_IDS_SQL).bindparams(bindparam("config_id", type_=UUID)))


def _compile(sql: str) -> Statement:
    parameters: Any = (bindparam("config_id", type_=UUID), bindparam("ids", type_=ARRAY(UUID)))
    return compile_statement(text(sql).bindparams(*parameters))
