"""Which store a mutation is about, before it takes a connection: its writers queue for it in the process."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import text

from storefront.core.db.database import Database, Statement, compile_statement

# Rows whose stores are remembered: a row never moves to another store.
MAX_CACHED_ROWS = 20_000
_ID_FIELDS = ("productId", "variantId", "id")

_store_ids_by_row: OrderedDict[str, str] = OrderedDict()


async def find_store_id(database: Database, values: Mapping[str, Any]) -> str | None:
    """The id of the store that an input is about; None where it names none, or nothing that is there.

    One statement the first time that a process writes to a row, none afterwards.
    """
    config_id = values.get("configId")
    if config_id is not None:
        return str(config_id)
    row_id = _find_row_id(values)
    if row_id is None:
        return None
    if row_id in _store_ids_by_row:
        _store_ids_by_row.move_to_end(row_id)
    else:
        for row in await database.fetch(_select_store_id(), {"id": row_id}):
            _store_ids_by_row[row_id] = row.config_id
            while len(_store_ids_by_row) > MAX_CACHED_ROWS:
                _store_ids_by_row.popitem(last=False)
    return _store_ids_by_row.get(row_id)


def _find_row_id(values: Mapping[str, Any]) -> str | None:
    for name in _ID_FIELDS:
        if isinstance(row_id := values.get(name), str):
            return row_id
    for rows in values.values():
        # A bulk is of one store: its first row stands for all.
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
UNION ALL SELECT p.config_id FROM product_variants v JOIN products p ON p.id = v.product_id WHERE v.id = CAST(:id AS uuid)
UNION ALL SELECT p.config_id FROM reviews r JOIN products p ON p.id = r.product_id WHERE r.id = CAST(:id AS uuid)
"""
        )
    )
