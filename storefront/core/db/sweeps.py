"""Deletes rows that have expired, in batches: a transaction each, so that none is long, however many rows there are.

After a long stop millions of rows may have expired. One statement for all of them would exceed the statement timeout, each time
anew, and meanwhile lock what it deletes.
"""

from collections.abc import Mapping
from functools import cache
from time import monotonic
from typing import Any

from sqlalchemy import BigInteger, Integer, bindparam, text

from storefront.core.db.database import Database, Statement, compile_statement

# Rows of one batch, and the seconds after which a sweep leaves the rest to its next run.
MAX_BATCH_ROWS, MAX_SWEEP_SECONDS = 5_000, 300.0
_LOCK_ID = 7312031


class Sweep:
    """A statement that deletes up to `limit` expired rows of a table, and returns how many.

    Its parameters are `limit` and, where it needs it, the `days` for which rows are retained.
    """

    def __init__(self, table: str, sql: str, *, batch_rows: int | None = None) -> None:
        self.table, self.batch_rows = table, batch_rows
        binds = [bindparam("limit", type_=BigInteger), *([bindparam("days", type_=Integer)] if ":days" in sql else [])]
        # The plan of many rows is not that of few.
        self.statement = compile_statement(text(sql).bindparams(*binds), needs_custom_plan=True)


def sweep_rows(table: str, is_expired_sql: str, *, order_by: str | None = None, batch_rows: int | None = None) -> Sweep:
    """A sweep of the rows for which a condition holds. `order_by`: the indexed column that the condition is about.

    Rows that others have locked are left to the next run. `batch_rows`: less than the usual number, for rows with many children.
    """
    order = f"ORDER BY {order_by}" if order_by else ""
    expired = f"SELECT ctid FROM {table} WHERE {is_expired_sql} {order} LIMIT :limit FOR UPDATE SKIP LOCKED"
    return Sweep(table, render_deletion(table, expired), batch_rows=batch_rows)


def render_deletion(table: str, select_ctids_sql: str) -> str:
    """SQL that deletes the rows with these ctids, and returns their number as `count`."""
    # As an array: a join would scan the table where the planner expects many rows.
    deletion = f"DELETE FROM {table} WHERE ctid = ANY(ARRAY({select_ctids_sql})) RETURNING 1"
    return f"WITH deleted AS ({deletion}) SELECT count(*) AS count FROM deleted"


async def run_sweep(database: Database, sweep: Sweep, parameters: Mapping[str, Any] | None = None) -> int:
    """Delete expired rows until there are none left, or MAX_SWEEP_SECONDS have passed; returns how many were deleted.

    An advisory lock admits one process at a time, so that two sweeps of a table neither wait for each other nor deadlock. The
    others return.
    """
    deadline = monotonic() + MAX_SWEEP_SECONDS
    deleted_count, batch_count = 0, 1
    while batch_count and monotonic() < deadline:
        batch_count = await _delete_batch(database, sweep, parameters or {})
        deleted_count += batch_count
    return deleted_count


async def _delete_batch(database: Database, sweep: Sweep, parameters: Mapping[str, Any]) -> int:
    async with database.transaction() as connection:
        [(has_lock,)] = await connection.fetch(_try_lock_statement(), {"table": sweep.table})
        if not has_lock:
            return 0
        batch_rows = min(sweep.batch_rows or MAX_BATCH_ROWS, MAX_BATCH_ROWS)
        [(count,)] = await connection.fetch(sweep.statement, {**parameters, "limit": batch_rows})
    return int(count)


@cache
def _try_lock_statement() -> Statement:
    return compile_statement(text(f"SELECT pg_try_advisory_xact_lock({_LOCK_ID}, hashtext(:table)) AS has_lock"))
