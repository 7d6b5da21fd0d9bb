"""Which store a mutation is about, before it takes a connection: its writers queue for it in the process."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import text

from storefront.core.db.database import Database, Statement, compiled

# Rows whose stores are remembered: a row never moves to another store.
MAX_REMEMBERED = 20_000
_IDS = ("productId", "variantId", "id")

_remembered: OrderedDict[str, str] = OrderedDict()


async def find_store(database: Database, values: Mapping[str, Any]) -> str | None:
    """The id of the store that an input is about; None where it names none, or nothing that is there.

    One statement the first time that a process writes to a row, none afterwards.
    """
    given = values.get("configId")
    if given is not None:
        return str(given)
    id_ = _find_id(values)
    if id_ is None:
        return None
    if id_ in _remembered:
        _remembered.move_to_end(id_)
    else:
        for row in await database.fetch(_store_of(), {"id": id_}):
            _remembered[id_] = row.config_id
            while len(_remembered) > MAX_REMEMBERED:
                _remembered.popitem(last=False)
    return _remembered.get(id_)


def _find_id(values: Mapping[str, Any]) -> str | None:
    for name in _IDS:
        if isinstance(found := values.get(name), str):
            return found
    for rows in values.values():
        # A bulk is of one store: its first row stands for all.
        if isinstance(rows, Sequence) and rows and isinstance(rows[0], Mapping) and isinstance(rows[0].get("id"), str):
            return str(rows[0]["id"])
    return None


@cache
def _store_of() -> Statement:
    return compiled(
        text(
            """
SELECT config_id FROM products WHERE id = CAST(:id AS uuid)
UNION ALL SELECT id FROM configs WHERE id = CAST(:id AS uuid)
UNION ALL SELECT p.config_id FROM product_variants v JOIN products p ON p.id = v.product_id WHERE v.id = CAST(:id AS uuid)
UNION ALL SELECT p.config_id FROM reviews r JOIN products p ON p.id = r.product_id WHERE r.id = CAST(:id AS uuid)
"""
        )
    )
