"""Appends to a store's log and reads it after a position."""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import orjson
from sqlalchemy import BigInteger, Integer, bindparam, select, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID

from storefront.core.cache_dependencies import ParameterDependency
from storefront.core.db.database import DIALECT, Connection, Database, Row, Statement, compile_statement
from storefront.core.db.pipeline import QueuedStatement
from storefront.models import changes

# How far positions leap: further than a store changes in its life.
POSITION_LEAP = 1_000_000_000


class LogEntry(NamedTuple):
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


async def append_entries(connection: Connection, config_id: str, entries: Sequence[LogEntry]) -> int:
    """Record the entries in order and return the position of the last one.

    Call it last in the transaction: from here to its commit every other writer of the same store waits.
    """
    statement = enqueue_append(connection, config_id, entries)
    await connection.flush()
    return get_last_position(statement)


def enqueue_append(connection: Connection, config_id: str, entries: Sequence[LogEntry]) -> QueuedStatement:
    """The same, sent along with what follows. Best with the commit: then the others wait for no trip of ours."""
    rows = orjson.dumps([{**entry._asdict(), "n": n} for n, entry in enumerate(entries, 1)])
    return connection.enqueue(_insert_entries(), {"config_id": config_id, "count": len(entries), "rows": rows.decode()})


def get_last_position(statement: QueuedStatement) -> int:
    """The position of the last entry, once they are written."""
    return max(int(row.position) for row in statement.rows)


def enqueue_append_to_each(connection: Connection, config_ids: Sequence[str], entry: LogEntry) -> None:
    """Send the same entry for the logs of many stores, in one statement; last in the transaction, as with `append`.

    For what shows in all of them and is nobody's product: who reads a log is told nothing of it, but that it has moved.
    """
    if config_ids:
        connection.enqueue(_insert_entry_in_each(), {**entry._asdict(), "config_ids": list(config_ids)})


async def read_entries(database: Database, config_id: str, after: int, limit: int) -> list[Row]:
    """The entries after a position, oldest first, at most `limit` of them."""
    return await database.fetch(_select_after(), {"config_id": config_id, "after": after, "limit": limit})


async def delete_old_entries(database: Database, *, days: int) -> int:
    """Forget entries of more than so many days ago; returns how many. Listeners that come for them are told to refetch."""
    return len(await database.fetch(_delete_old(), {"days": days}))


@cache
def _delete_old() -> Statement:
    deletion = text("DELETE FROM changes WHERE occurred_at < now() - make_interval(days => :days) RETURNING 1 AS one")
    return compile_statement(deletion.bindparams(bindparam("days", type_=Integer)))


async def advance_positions(database: Database) -> int:
    """Move all logs past every position that anybody may have been told; returns how many. For a database that was restored.

    Its logs would come by those positions again, with other changes. So whoever has one is told to refetch, and no answer that is
    kept by its position holds.
    """
    return len(await database.fetch(_update_positions()))


@cache
def _update_positions() -> Statement:
    return compile_statement(text(f"UPDATE store_positions SET position = position + {POSITION_LEAP} RETURNING 1 AS one"))


# What an entry says, by the columns.
_ENTRY_COLUMNS = [name for name in changes.c.keys() if name not in ("config_id", "position", "occurred_at")]  # noqa: SIM118


@cache
def _insert_entries() -> Statement:
    return compile_statement(
        text(
            f"""
WITH claimed AS (
  INSERT INTO store_positions (config_id, position) VALUES (:config_id, :count)
  ON CONFLICT (config_id) DO UPDATE SET position = store_positions.position + :count
  RETURNING position
)
INSERT INTO changes (config_id, position, {", ".join(_ENTRY_COLUMNS)})
SELECT :config_id, claimed.position - :count + entry.n, {", ".join(f"entry.{name}" for name in _ENTRY_COLUMNS)}
FROM claimed, jsonb_to_recordset(:rows)
  AS entry(n bigint, {", ".join(f"{name} {changes.c[name].type.compile(DIALECT)}" for name in _ENTRY_COLUMNS)})
RETURNING position
"""
        ).bindparams(bindparam("config_id", type_=UUID), bindparam("count", type_=BigInteger), bindparam("rows", type_=JSONB))
    )


@cache
def _insert_entry_in_each() -> Statement:
    column_types = {name: changes.c[name].type for name in _ENTRY_COLUMNS}
    # In the order of the stores, so that two such writers never wait for each other.
    return compile_statement(
        text(
            f"""
WITH claimed AS (
  INSERT INTO store_positions (config_id, position)
  SELECT id, 1 FROM configs WHERE id = ANY(:config_ids) ORDER BY id
  ON CONFLICT (config_id) DO UPDATE SET position = store_positions.position + 1
  RETURNING config_id, position
)
INSERT INTO changes (config_id, position, {", ".join(_ENTRY_COLUMNS)})
SELECT config_id, position, {", ".join(f"CAST(:{name} AS {kind.compile(DIALECT)})" for name, kind in column_types.items())}
FROM claimed
"""
        ).bindparams(bindparam("config_ids", type_=ARRAY(UUID)))
    )


@cache
def _select_after() -> Statement:
    is_newer = (changes.c.config_id == bindparam("config_id")) & (changes.c.position > bindparam("after"))
    return compile_statement(
        select(changes).where(is_newer).order_by(changes.c.position).limit(bindparam("limit")),
        depends_on=ParameterDependency("config_id"),
    )
