"""Checkpoints of jobs: progress, resume point, row errors and seen handles, committed in the transaction of each batch."""

import sqlite3
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import BigInteger, Boolean, Integer, Text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from storefront.core.db.database import Connection, Database, Row, Statement
from storefront.core.db.json_parameters import to_json
from storefront.core.leases import LEASE_PARAMETER_TYPES, Lease
from storefront.imports.csv_columns import sanitize_excerpt
from storefront.imports.jobs import queue
from storefront.imports.product_writer import MAX_ROW_ERRORS, BatchCounts, ProductBatch
from storefront.imports.row_types import RowError
from storefront.models.rows import JobRow


async def record_progress(
    database: Database, lease: Lease, done: int, *, rows: int, rejected: int, issues: Sequence[RowError]
) -> None:
    """Record the progress of a job without batches (an export). Raises LeaseLost and Cancelled."""
    async with database.transaction() as connection:
        row = await queue.lock_job(connection, lease)
        progress = {"done": done, "rows": rows, "rejected": rejected}
        _save_checkpoint(connection, lease, row, progress, None, issues)


class JobCheckpointer:
    """The Checkpointer of an import job: stores progress, row errors and handles with each batch."""

    def __init__(self, lease: Lease, *, tracks_handles: bool, extra: Mapping[str, Any] | None = None) -> None:
        """`tracks_handles`: the source may repeat a handle. `extra`: fields of every checkpoint."""
        self._lease, self._tracks_handles, self._extra = lease, tracks_handles, extra or {}
        self._job: JobRow | None = None
        self._earlier_lines: dict[str, int] = {}

    async def begin_batch(self, connection: Connection, batch: ProductBatch) -> dict[str, int]:
        """Lock the job; returns the handles that it has seen before, with their lines. Raises LeaseLost and Cancelled."""
        locked = connection.enqueue(queue.lock_job_statement(), self._lease.parameters)
        earlier_handles = (
            connection.enqueue(_select_handles_statement(), {"id": self._lease.row_id, "handles": list(batch.products)})
            if self._tracks_handles
            else None
        )
        await connection.flush()
        queue.check_lease(locked.rows, self._lease)
        self._job = locked.rows[0]
        self._earlier_lines = {row.handle: row.row for row in earlier_handles.rows} if earlier_handles else {}
        return self._earlier_lines

    def finish_batch(self, connection: Connection, batch: ProductBatch, counts: BatchCounts) -> None:
        """Save the checkpoint in the transaction of the batch."""
        new_products = (
            [product for product in batch.products.values() if product.handle not in self._earlier_lines]
            if self._tracks_handles
            else []
        )
        if new_products:
            columns = {
                "handles": [product.handle for product in new_products],
                "rows": [product.line for product in new_products],
            }
            connection.enqueue(_insert_handles_statement(), {"id": self._lease.row_id, **columns})
        progress = {name: getattr(counts, name) for name in ("rows", "created", "updated", "unchanged", "rejected")}
        # A batch of only rejected rows keeps the last resume point.
        resume_point = {**self._extra, **(batch.checkpoint.resume_point if batch.checkpoint else self._last_resume_point())}
        done = batch.checkpoint.progress if batch.checkpoint else None
        _save_checkpoint(connection, self._lease, self._job, {**progress, "done": done}, resume_point, counts.row_errors)

    def _last_resume_point(self) -> Mapping[str, Any]:
        """The resume point of the last checkpoint, if it is of the same source."""
        checkpoint = (self._job.checkpoint if self._job else None) or {}
        return checkpoint if self._extra.items() <= checkpoint.items() else {}


class SqliteHandleStore:
    """The Checkpointer of an import without a job: stores seen handles in a temporary SQLite file, so that memory is bounded."""

    def __init__(self) -> None:
        # An empty name is a temporary file, which SQLite deletes with the connection.
        self._sqlite = sqlite3.connect("", isolation_level=None)
        self._sqlite.execute("CREATE TABLE handles (handle TEXT PRIMARY KEY, line INTEGER) WITHOUT ROWID")
        self._last_batch: ProductBatch | None = None

    def __enter__(self) -> "SqliteHandleStore":
        return self

    def __exit__(self, *_: object) -> None:
        self._sqlite.close()

    async def begin_batch(self, _connection: Connection, batch: ProductBatch) -> dict[str, int]:
        """Returns the handles of the batch that an earlier one had already, with their lines there."""
        # A retried batch is passed again: it is known to be written once the next one begins.
        if self._last_batch is not None and self._last_batch is not batch:
            rows = [(product.handle, product.line) for product in self._last_batch.products.values()]
            with self._sqlite:
                self._sqlite.execute("BEGIN")
                self._sqlite.executemany("INSERT OR IGNORE INTO handles VALUES (?, ?)", rows)
        self._last_batch = batch
        cursor = self._sqlite.execute(
            "SELECT handle, line FROM handles WHERE handle IN (SELECT value FROM json_each(?))",
            [to_json(list(batch.products))],
        )
        return dict(cursor.fetchall())

    def finish_batch(self, _connection: Connection, _batch: ProductBatch, _counts: BatchCounts) -> None:
        """Does nothing: no state is committed with the batch."""


def _save_checkpoint(
    connection: Connection,
    lease: Lease,
    row: Row,
    progress: Mapping[str, Any],
    resume_point: Mapping[str, Any] | None,
    issues: Sequence[RowError],
) -> None:
    issue_count = (row.checkpoint or {}).get("issues", 0)
    new_issues = issues[: MAX_ROW_ERRORS - issue_count]
    if new_issues:
        rows = [_to_issue_row(issue_count + n, issue) for n, issue in enumerate(new_issues, 1)]
        connection.enqueue(_insert_issues_statement(), {"id": lease.row_id, "issues": to_json(rows)})
    checkpoint = to_json({**(resume_point or {}), "issues": issue_count + len(new_issues)})
    zero_counts = dict.fromkeys(("created", "updated", "unchanged"), 0)
    connection.enqueue(
        _save_checkpoint_statement(),
        {**lease.parameters, **zero_counts, **progress, "checkpoint": checkpoint, "is_durable": resume_point is not None},
    )


def _to_issue_row(number: int, issue: RowError) -> dict[str, Any]:
    # Column names and handles are untrusted input.
    handle, column = (sanitize_excerpt(value, 255) if value else None for value in (issue.handle, issue.column))
    columns = {"handle": handle, "field": column, "message": sanitize_excerpt(issue.problem, 1_000)}
    return {"number": number, "row": issue.line or None, **columns}


@cache
def _save_checkpoint_statement() -> Statement:
    counts = ("rows", "created", "updated", "unchanged", "rejected")
    return queue.build_statement(
        f"""
UPDATE jobs SET checkpoint = :checkpoint, done = coalesce(:done, done), {queue.LEASE_COLUMNS.extend_sql},
  {", ".join(f"{name} = {name} + :{name}" for name in counts)},
  attempts = CASE WHEN :is_durable THEN 0 ELSE attempts END, crashes = CASE WHEN :is_durable THEN 0 ELSE crashes END,
  position = CASE WHEN :created + :updated > 0 AND NOT coalesce(CAST(options ->> 'preview' AS boolean), false)
    THEN (SELECT position FROM store_positions WHERE config_id = jobs.config_id) ELSE position END
WHERE {queue.LEASE_COLUMNS.is_held_sql}
""",
        **LEASE_PARAMETER_TYPES,
        checkpoint=JSONB(),
        done=BigInteger(),
        # Progress of an export is lost when it restarts, so it does not reset the attempts.
        is_durable=Boolean(),
        **{name: Integer() for name in counts},
    )


@cache
def _select_handles_statement() -> Statement:
    sql = 'SELECT handle, "row" FROM job_handles WHERE job_id = :id AND handle = ANY(:handles)'
    return queue.build_statement(sql, id=LEASE_PARAMETER_TYPES["id"], handles=ARRAY(Text()))


@cache
def _insert_handles_statement() -> Statement:
    sql = 'INSERT INTO job_handles (job_id, handle, "row") SELECT :id, * FROM unnest(:handles, :rows)'
    return queue.build_statement(sql, id=LEASE_PARAMETER_TYPES["id"], handles=ARRAY(Text()), rows=ARRAY(Integer()))


@cache
def _insert_issues_statement() -> Statement:
    return queue.build_statement(
        """
INSERT INTO job_issues (job_id, number, "row", handle, field, message)
SELECT :id, issue.number, issue."row", issue.handle, issue.field, issue.message
FROM jsonb_to_recordset(:issues) AS issue (number integer, "row" integer, handle text, field text, message text)
""",
        id=LEASE_PARAMETER_TYPES["id"],
        issues=JSONB(),
    )
