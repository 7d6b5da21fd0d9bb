"""The store of a mutation, found before it takes a connection: writers of a store queue in the process (bulkhead)."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from cachetools import LRUCache
from sqlalchemy import text

from storefront.core.db.database import Database, Statement, compile_statement

# Cached rows. They never expire: a row never moves to another store.
MAX_CACHED_ROWS = 20_000
_ID_FIELDS = ("productId", "id")

_store_ids_by_row: LRUCache[str, str] = LRUCache(MAX_CACHED_ROWS)


async def find_store_id(database: Database, values: Mapping[str, Any]) -> str | None:
    """The id of the store of an input; None if the input names no existing row.

    Takes one statement for the first write of a process to a row, none afterwards.
    """
    config_id = values.get("configId")
    if config_id is not None:
        return str(config_id)
    row_id = _find_row_id(values)
    if row_id is None:
        return None
    store_id = _store_ids_by_row.get(row_id)
    if store_id is None:
        for row in await database.fetch(_select_store_id(), {"id": row_id}):
            store_id = _store_ids_by_row[row_id] = str(row.config_id)
    return store_id


def _find_row_id(values: Mapping[str, Any]) -> str | None:
    for name in _ID_FIELDS:
        if isinstance(row_id := values.get(name), str):
            return row_id
    for rows in values.values():
        # A bulk mutation writes to one store: its first row decides.
        if isinstance(rows, Sequence) and rows and isinstance(rows[0], Mapping) and isinstance(rows[0].get("id"), str):
            return str(rows[0]["id"])
    return None


@cache
def _select_store_id() -> Statement:
    return compile_statement(
        text(
            """
SELECT config_id FROM products WHERE id = CAST(:id AS uuid)
UNION ALL SELECT id FROM configs WHERE id = CAST(:id AS uuid)
UNION ALL SELECT config_id FROM product_variants WHERE id = CAST(:id AS uuid)
UNION ALL SELECT config_id FROM reviews WHERE id = CAST(:id AS uuid)
"""
        )
    )
