"""Appends to a store's log and reads it after a position."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache

import orjson
from sqlalchemy import bindparam, column, func, insert, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import insert as upsert

from storefront.core.database import Connection, Database, Row, Statement, compiled
from storefront.models import changes, positions


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One change as its command knows it. `was_visible` and `is_visible` say what a shopper could see, the store aside."""

    kind: str
    entity_id: str
    product_id: str | None = None
    version: int | None = None
    was_visible: bool = False
    is_visible: bool = False
    changed_fields: Sequence[str] = ()
    actor_id: str | None = None
    client_mutation_id: str | None = None


async def append(connection: Connection, config_id: str, entries: Sequence[Entry]) -> int:
    """Record the entries in order and return the position of the last one.

    Call it last in the transaction: from here to its commit every other writer of the same store waits.
    """
    claimed = {"config_id": config_id, "count": len(entries)}
    [(last,)] = await connection.fetch(_claim(), claimed)
    rows = orjson.dumps([{**asdict(entry), "position": last - len(entries) + n} for n, entry in enumerate(entries, 1)])
    await connection.fetch(_record(), {"config_id": config_id, "rows": rows.decode()})
    return int(last)


async def read(database: Database, config_id: str, after: int, limit: int) -> list[Row]:
    """The entries after a position, oldest first, at most `limit` of them."""
    return await database.fetch(_after(), {"config_id": config_id, "after": after, "limit": limit})


@cache
def _claim() -> Statement:
    count = bindparam("count", type_=positions.c.position.type)
    row = upsert(positions).values(config_id=bindparam("config_id"), position=count)
    taken = row.on_conflict_do_update(index_elements=["config_id"], set_={"position": positions.c.position + count})
    return compiled(taken.returning(positions.c.position))


@cache
def _record() -> Statement:
    names = ["position", "kind", "entity_id", "product_id", "version", "was_visible", "is_visible"]
    names += ["changed_fields", "actor_id", "client_mutation_id"]
    recordset = func.jsonb_to_recordset(bindparam("rows", type_=JSONB)).table_valued(
        *(column(n, changes.c[n].type) for n in names)
    )
    entry = recordset.render_derived(name="entry", with_types=True)
    chosen = select(bindparam("config_id", type_=changes.c.config_id.type), *entry.c)
    return compiled(insert(changes).from_select(["config_id", *names], chosen))


@cache
def _after() -> Statement:
    newer = (changes.c.config_id == bindparam("config_id")) & (changes.c.position > bindparam("after"))
    return compiled(select(changes).where(newer).order_by(changes.c.position).limit(bindparam("limit")))
