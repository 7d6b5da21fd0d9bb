"""Appends to a store's log and reads it after a position."""

from collections.abc import Mapping, Sequence
from enum import Enum
from functools import cache
from typing import Any, NamedTuple

import orjson
from sqlalchemy import BigInteger, bindparam, select, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID

from storefront.core.cache_dependencies import ParameterDependency
from storefront.core.db.database import DIALECT, Connection, Database, Statement, compile_statement
from storefront.core.db.pipeline import QueuedStatement
from storefront.core.db.sweeps import Sweep, render_deletion, run_sweep
from storefront.models import changes, configs, positions
from storefront.models.former_values import FormerVariants
from storefront.models.row_keys import build_store_parameters, depend_on_stores, have_single_store, is_any_store
from storefront.models.rows import ChangeRow

# The step by which `advance_positions` moves logs: more than a store changes in its lifetime.
POSITION_LEAP = 1_000_000_000


class GapReason(Enum):
    """Why a reader of a log has to read again what the log is about, instead of entries."""

    LOG_EXPIRED = "log_expired"
    TOO_FAR_BEHIND = "too_far_behind"
    VISIBILITY_CHANGED = "visibility_changed"
    DATA_REPLACED = "data_replaced"


def explain_gap(position: int, head: int) -> GapReason:
    """Why the entry after a position is missing in a log that ends at `head`.

    Only data from elsewhere, such as a restored backup, makes a log shorter than a position that was read from it, or moves it
    by POSITION_LEAP.
    """
    is_replaced = position > head or head - position >= POSITION_LEAP
    return GapReason.DATA_REPLACED if is_replaced else GapReason.LOG_EXPIRED


class LogEntry(NamedTuple):
    """A change. `was_visible` and `is_visible`: whether shoppers could see the product before and after, the store aside.

    `former_product` and `former_variants`: the values before an update that filters depend on.
    """

    kind: str
    entity_id: str
    product_id: str | None = None
    version: int | None = None
    was_visible: bool = False
    is_visible: bool = False
    changed_fields: Sequence[str] = ()
    actor_id: str | None = None
    client_mutation_id: str | None = None
    former_product: Mapping[str, Any] | None = None
    former_variants: FormerVariants | None = None


async def append_entries(connection: Connection, config_id: str, entries: Sequence[LogEntry]) -> int:
    """Append the entries in order; returns the position of the last one.

    Call it last in the transaction: until the commit it holds the lock that every writer of the store waits for.
    """
    statement = enqueue_append(connection, config_id, entries)
    await connection.flush()
    return get_last_position(statement)


def enqueue_append(connection: Connection, config_id: str, entries: Sequence[LogEntry]) -> QueuedStatement:
    """`append_entries`, sent with the next statement. Best with the commit: then the lock is held for no extra round trip."""
    rows = orjson.dumps([{**entry._asdict(), "n": n} for n, entry in enumerate(entries, 1)])
    return connection.enqueue(_insert_entries(), {"config_id": config_id, "count": len(entries), "rows": rows.decode()})


def get_last_position(statement: QueuedStatement) -> int:
    """The position of the last entry, once the statement has run."""
    return max(int(row.position) for row in statement.rows)


def enqueue_append_to_each(connection: Connection, config_ids: Sequence[str], entry: LogEntry) -> None:
    """Append the same entry to the logs of many stores, in one statement; last in the transaction, as `append_entries`.

    For changes that show in many stores and are not of a product: readers only see that the position has advanced.
    """
    if config_ids:
        connection.enqueue(_insert_entry_in_each(), {**entry._asdict(), "config_ids": list(config_ids)})


async def read_entries(database: Database, config_id: str, after: int, limit: int) -> list[ChangeRow]:
    """The entries after a position, oldest first, at most `limit` of them."""
    return await database.fetch(_select_after(), {"config_id": config_id, "after": after, "limit": limit})


async def load_last_positions(database: Database, config_ids: Sequence[str]) -> dict[str, int]:
    """The last position of each store's log by store id; without stores whose logs are empty."""
    statement = _select_positions(have_single_store(config_ids))
    return {row.config_id: row.position for row in await database.fetch(statement, build_store_parameters(config_ids))}


async def find_existing_stores(database: Database, config_ids: Sequence[str]) -> set[str]:
    """Those of some stores that exist, by id: a store whose log is empty has no position."""
    statement = _select_existing(have_single_store(config_ids))
    return {row.id for row in await database.fetch(statement, build_store_parameters(config_ids))}


@cache
def _select_existing(is_single_store: bool) -> Statement:
    return compile_statement(select(configs.c.id).where(is_any_store(configs.c.id, is_single_store)))


@cache
def _select_positions(is_single_store: bool) -> Statement:
    is_requested = is_any_store(positions.c.config_id, is_single_store)
    return compile_statement(select(positions).where(is_requested), depends_on=depend_on_stores(is_single_store))


async def delete_old_entries(database: Database, *, days: int) -> int:
    """Log retention: delete entries older than `days`; returns their number. Clients that resume before them must refetch.

    Each store's log is deleted from its beginning up to the first entry that is retained, so that it never has a gap inside:
    the time of an entry is that of the start of its transaction, and positions are in the order of commits.
    """
    return await run_sweep(database, _sweep_old_entries(), {"days": days})


# The stores of one batch. Each has an equal share of the batch's rows.
_MAX_SWEPT_STORES = 100
_IS_OLD_SQL = "occurred_at < now() - make_interval(days => :days)"
_OLD_ENTRIES_SQL = f"""
WITH store AS MATERIALIZED (
  SELECT config_id FROM store_positions AS log
  WHERE (SELECT {_IS_OLD_SQL} FROM changes WHERE config_id = log.config_id ORDER BY position LIMIT 1)
  LIMIT {_MAX_SWEPT_STORES}
)
SELECT entry.ctid FROM store CROSS JOIN LATERAL (
  SELECT ctid, bool_and({_IS_OLD_SQL}) OVER (ORDER BY position) AS is_expired
  FROM (
    SELECT ctid, position, occurred_at FROM changes WHERE config_id = store.config_id
    ORDER BY position LIMIT (SELECT greatest(1, :limit / count(*)) FROM store)
  ) AS oldest
) AS entry WHERE is_expired
"""


@cache
def _sweep_old_entries() -> Sweep:
    return Sweep("changes", render_deletion("changes", _OLD_ENTRIES_SQL))


async def advance_positions(database: Database) -> int:
    """Advance all logs past every position that clients may hold; returns the number of logs. Run after a database restore.

    The restored logs would assign those positions again, to other changes. So clients that hold one must refetch, and responses
    cached by position are invalid.
    """
    return len(await database.fetch(_update_positions()))


@cache
def _update_positions() -> Statement:
    return compile_statement(text(f"UPDATE store_positions SET position = position + {POSITION_LEAP} RETURNING 1 AS one"))


# What readers follow is the entry without former values, which a filter looks up (`queries/memberships.py`).
_READ_COLUMNS = [column for column in changes.c if not column.name.startswith("former_")]
# The columns of an entry.
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
    # Ordered by store id, so that two such writers never deadlock.
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
        select(*_READ_COLUMNS).where(is_newer).order_by(changes.c.position).limit(bindparam("limit")),
        depends_on=ParameterDependency("config_id"),
    )
