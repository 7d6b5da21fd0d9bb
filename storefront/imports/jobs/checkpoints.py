"""Checkpoints of jobs: progress, resume point, row errors and seen handles, committed in the transaction of each batch."""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import count, islice
from typing import Any

from sqlalchemy import BigInteger, Integer, Text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from storefront.core.db.database import Connection, Database, Row, Statement
from storefront.core.db.json_parameters import to_json
from storefront.core.leases import LEASE_PARAMETER_TYPES, Lease
from storefront.imports.changes import ProductChange
from storefront.imports.exports import ExportSummary
from storefront.imports.jobs import queue
from storefront.imports.product_writer import MAX_ROW_ERRORS, BatchCounts, ProductBatch
from storefront.imports.row_types import RowError, sanitize_excerpt
from storefront.models.rows import JobRow

# Changes of a dry run that are stored.
MAX_STORED_CHANGES = 100_000


async def record_done(database: Database, lease: Lease, done: int) -> None:
    """Record how much of a job is done between two checkpoints. Raises LeaseLost and Cancelled."""
    async with database.transaction() as connection:
        await queue.lock_job(connection, lease)
        await connection.fetch(_save_done_statement(), {**lease.parameters, "done": done})


async def record_export(
    database: Database, lease: Lease, resume_point: Mapping[str, Any], *, done: int, summary: ExportSummary
) -> None:
    """Save the checkpoint after a part of an export, which `summary` counts. Raises LeaseLost and Cancelled."""
    async with database.transaction() as connection:
        row = await queue.lock_job(connection, lease)
        progress = {"done": done, "rows": summary.products, "rejected": summary.rejected}
        _save_checkpoint(connection, lease, row, progress, resume_point, summary.issues)


async def record_images(database: Database, lease: Lease, progress: Mapping[str, Any], issues: Sequence[RowError] = ()) -> None:
    """Save the checkpoint of an import that fetches images: `progress`. Raises LeaseLost and Cancelled."""
    async with database.transaction() as connection:
        row = await queue.lock_job(connection, lease)
        resume_point = {**(row.checkpoint or {}), "images": progress}
        _save_checkpoint(connection, lease, row, {"done": None, "rows": 0, "rejected": 0}, resume_point, issues)


class JobCheckpointer:
    """The Checkpointer of an import job: stores progress, row errors and handles with each batch."""

    def __init__(
        self,
        lease: Lease,
        *,
        tracks_handles: bool,
        stores_changes: bool = False,
        stores_handles: bool = False,
        has_images: bool = False,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """`tracks_handles`: the source may repeat a handle. `stores_handles`: of products whose images are fetched.

        `stores_changes`: of a dry run. `has_images`: whether the source had images so far. `extra`: of every checkpoint.
        """
        self._lease, self._tracks_handles, self._extra = lease, tracks_handles, extra or {}
        self._stores_changes, self._stores_handles = stores_changes, stores_handles or tracks_handles
        self._has_images = has_images
        self._job: JobRow | None = None
        self._earlier_lines: dict[str, int] = {}

    async def begin_batch(self, connection: Connection, batch: ProductBatch) -> dict[str, int]:
        """Lock the job; returns the handles that it has seen before, with their lines. Raises LeaseLost and Cancelled."""
        locked = connection.enqueue(queue.lock_job_statement(), self._lease.parameters)
        earlier_handles = (
            connection.enqueue(_select_handles_statement(), {**self._lease.row_key, "handles": list(batch.products)})
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
            [product for product in batch.products.values() if product.key not in self._earlier_lines]
            if self._stores_handles
            else []
        )
        self._has_images = self._has_images or any(product.images for product in batch.products.values())
        if new_products:
            columns = {
                "handles": [product.key for product in new_products],
                "rows": [product.line for product in new_products],
            }
            connection.enqueue(_insert_handles_statement(), {**self._lease.row_key, **columns})
        progress = {name: getattr(counts, name) for name in ("rows", "created", "updated", "unchanged", "rejected")}
        # A batch of only rejected rows keeps the last resume point.
        last = batch.checkpoint.resume_point if batch.checkpoint else self._last_resume_point()
        resume_point = {**self._extra, **({"hasImages": True} if self._has_images else {}), **last}
        done = batch.checkpoint.progress if batch.checkpoint else None
        changes = counts.changes if self._stores_changes else ()
        _save_checkpoint(connection, self._lease, self._job, {**progress, "done": done}, resume_point, counts.row_errors, changes)

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
        # Whether the source had images.
        self.has_images = False

    def __enter__(self) -> "SqliteHandleStore":
        return self

    def __exit__(self, *_: object) -> None:
        self._sqlite.close()

    async def begin_batch(self, _connection: Connection, batch: ProductBatch) -> dict[str, int]:
        """Returns the handles of the batch that an earlier one had already, with their lines there."""
        # A retried batch is passed again: it is known to be written once the next one begins.
        if self._last_batch is not batch:
            self._insert_last_batch()
        self._last_batch = batch
        cursor = self._sqlite.execute(
            "SELECT handle, line FROM handles WHERE handle IN (SELECT value FROM json_each(?))",
            [to_json(list(batch.products))],
        )
        return dict(cursor.fetchall())

    def finish_batch(self, _connection: Connection, batch: ProductBatch, _counts: BatchCounts) -> None:
        """Nothing is committed with the batch."""
        self.has_images = self.has_images or any(product.images for product in batch.products.values())

    def list_handles(self, after: str, limit: int) -> list[str]:
        """The next handles of an import that has ended."""
        self._insert_last_batch()
        cursor = self._sqlite.execute("SELECT handle FROM handles WHERE handle > ? ORDER BY handle LIMIT ?", [after, limit])
        return [handle for (handle,) in cursor.fetchall()]

    def _insert_last_batch(self) -> None:
        if self._last_batch is None:
            return
        rows = [(product.key, product.line) for product in self._last_batch.products.values()]
        with self._sqlite:
            self._sqlite.execute("BEGIN")
            self._sqlite.executemany("INSERT OR IGNORE INTO handles VALUES (?, ?)", rows)


def _save_checkpoint(
    connection: Connection,
    lease: Lease,
    row: Row,
    progress: Mapping[str, Any],
    resume_point: Mapping[str, Any],
    issues: Sequence[RowError],
    changes: Sequence[ProductChange] = (),
) -> None:
    issue_count, change_count = ((row.checkpoint or {}).get(name, 0) for name in ("issues", "changes"))
    new_issues = issues[: MAX_ROW_ERRORS - issue_count]
    if new_issues:
        rows = [_to_issue_row(issue_count + n, issue) for n, issue in enumerate(new_issues, 1)]
        connection.enqueue(_insert_issues_statement(), {**lease.row_key, "issues": to_json(rows)})
    change_rows = [*islice(_build_change_rows(changes, change_count + 1), max(0, MAX_STORED_CHANGES - change_count))]
    if change_rows:
        connection.enqueue(_insert_changes_statement(), {**lease.row_key, "changes": to_json(change_rows)})
    counts = {"issues": issue_count + len(new_issues), "changes": change_count + len(change_rows)}
    checkpoint = to_json({**resume_point, **counts})
    zero_counts = dict.fromkeys(("created", "updated", "unchanged"), 0)
    connection.enqueue(
        _save_checkpoint_statement(),
        {**lease.parameters, **zero_counts, **progress, "checkpoint": checkpoint},
    )


def _to_issue_row(number: int, issue: RowError) -> dict[str, Any]:
    # Column names and handles are untrusted input.
    handle, column = (sanitize_excerpt(value, 255) if value else None for value in (issue.handle, issue.column))
    columns = {"handle": handle, "field": column, "message": sanitize_excerpt(issue.problem, 1_000)}
    return {"number": number, "row": issue.line or None, **columns}


def _build_change_rows(changes: Sequence[ProductChange], first_number: int) -> Iterator[dict[str, Any]]:
    numbers = count(first_number)
    for product in changes:
        for change in product.changes:
            columns = {"variant": change.variant, "field": change.field, "old_value": change.old, "new_value": change.new}
            identity = {"number": next(numbers), "row": product.line, "handle": product.handle, "kind": change.kind}
            yield identity | columns


@cache
def _save_checkpoint_statement() -> Statement:
    counts = ("rows", "created", "updated", "unchanged", "rejected")
    return queue.build_statement(
        f"""
UPDATE jobs SET checkpoint = :checkpoint, done = coalesce(:done, done), {queue.LEASE_COLUMNS.extend_sql},
  {", ".join(f"{name} = {name} + :{name}" for name in counts)},
  attempts = 0, crashes = 0,
  position = CASE WHEN :created + :updated > 0 AND NOT coalesce(CAST(options ->> 'preview' AS boolean), false)
    THEN (SELECT position FROM store_positions WHERE config_id = :config_id) ELSE position END
WHERE {queue.LEASE_COLUMNS.is_held_sql}
""",
        **queue.JOB_KEY_TYPES,
        **LEASE_PARAMETER_TYPES,
        checkpoint=JSONB(),
        done=BigInteger(),
        **{name: Integer() for name in counts},
    )


@cache
def _save_done_statement() -> Statement:
    sql = f"UPDATE jobs SET done = :done, {queue.LEASE_COLUMNS.extend_sql} WHERE {queue.LEASE_COLUMNS.is_held_sql}"
    return queue.build_statement(sql, **queue.JOB_KEY_TYPES, **LEASE_PARAMETER_TYPES, done=BigInteger())


@cache
def _select_handles_statement() -> Statement:
    sql = 'SELECT handle, "row" FROM job_handles WHERE config_id = :config_id AND job_id = :id AND handle = ANY(:handles)'
    return queue.build_statement(sql, **queue.JOB_KEY_TYPES, handles=ARRAY(Text()))


@cache
def _insert_handles_statement() -> Statement:
    sql = 'INSERT INTO job_handles (config_id, job_id, handle, "row") SELECT :config_id, :id, * FROM unnest(:handles, :rows)'
    sql += " ON CONFLICT DO NOTHING"
    return queue.build_statement(sql, **queue.JOB_KEY_TYPES, handles=ARRAY(Text()), rows=ARRAY(Integer()))


@cache
def _insert_issues_statement() -> Statement:
    return queue.build_statement(
        """
INSERT INTO job_issues (config_id, job_id, number, "row", handle, field, message)
SELECT :config_id, :id, issue.number, issue."row", issue.handle, issue.field, issue.message
FROM jsonb_to_recordset(:issues) AS issue (number integer, "row" integer, handle text, field text, message text)
""",
        **queue.JOB_KEY_TYPES,
        issues=JSONB(),
    )


@cache
def _insert_changes_statement() -> Statement:
    columns = 'number, "row", handle, kind, variant, field, old_value, new_value'
    return queue.build_statement(
        f"""
INSERT INTO job_changes (config_id, job_id, {columns}) SELECT :config_id, :id, {columns}
FROM jsonb_to_recordset(:changes) AS change (
  number integer, "row" integer, handle text, kind text, variant text, field text, old_value text, new_value text
)
""",
        **queue.JOB_KEY_TYPES,
        changes=JSONB(),
    )
