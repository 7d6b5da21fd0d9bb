"""What is kept of a job with each batch: how far it has come, what it left out, and which handles it has had."""

import sqlite3
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import orjson
from sqlalchemy import BigInteger, Boolean, Integer, Text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from storefront.core.db.database import Connection, Database, Row, Statement
from storefront.imports.csv_columns import quoted
from storefront.imports.jobs import queue
from storefront.imports.jobs.queue import Claim
from storefront.imports.product_writer import MOST_TOLD, Batch, Tally
from storefront.imports.row_types import Rejection


async def advance(database: Database, mine: Claim, done: int, *, rows: int, rejected: int, issues: Sequence[Rejection]) -> None:
    """Say how far it has come that has nothing else to say it with. Raises Lost and Cancelled."""
    async with database.transaction() as connection:
        row = await queue.lock(connection, mine)
        facts = {"done": done, "rows": rows, "rejected": rejected}
        _keep(connection, mine, row, facts, None, issues)


class Kept:
    """What is kept of an import with each batch: how far it has come, what it left out, which handles it has had."""

    def __init__(self, mine: Claim, *, handles: bool, extra: Mapping[str, Any] | None = None) -> None:
        """`handles`: whether the source may have one twice. `extra` stands in every checkpoint."""
        self._mine, self._handles, self._extra = mine, handles, extra or {}
        self._row: Row | None = None
        self._before: dict[str, int] = {}

    async def begin(self, connection: Connection, batch: Batch) -> dict[str, int]:
        """Make sure that the job is ours, and tell which handles it has had."""
        locked = connection.send(queue.held(), self._mine.parameters)
        had = connection.send(_had(), {"id": self._mine.job_id, "handles": list(batch.products)}) if self._handles else None
        await connection.flush()
        queue.judge(locked.rows, self._mine)
        self._row = locked.rows[0]
        self._before = {row.handle: row.row for row in had.rows} if had else {}
        return self._before

    def end(self, connection: Connection, batch: Batch, tally: Tally) -> None:
        """Keep the checkpoint with what was written."""
        new = [product for product in batch.products.values() if product.handle not in self._before] if self._handles else []
        if new:
            given = {"handles": [product.handle for product in new], "rows": [product.line for product in new]}
            connection.send(_remember(), {"id": self._mine.job_id, **given})
        facts = {name: getattr(tally, name) for name in ("rows", "created", "updated", "unchanged", "rejected")}
        # Where nothing but rejected rows has come, the import goes on from where it was.
        place = {**self._extra, **(batch.mark.place if batch.mark else self._place())}
        done = batch.mark.done if batch.mark else None
        _keep(connection, self._mine, self._row, {**facts, "done": done}, place, tally.rejections)

    def _place(self) -> Mapping[str, Any]:
        """The place of the last checkpoint, where it is one of the same source."""
        last = (self._row.checkpoint if self._row else None) or {}
        return last if self._extra.items() <= last.items() else {}


class HandlesOnDisk:
    """The handles that an import without a job has had, in a temporary file: memory does not grow with them."""

    def __init__(self) -> None:
        # An empty name is a file of SQLite's own, which is gone with the connection.
        self._file = sqlite3.connect("", isolation_level=None)
        self._file.execute("CREATE TABLE handles (handle TEXT PRIMARY KEY, line INTEGER) WITHOUT ROWID")
        self._last: Batch | None = None

    def __enter__(self) -> "HandlesOnDisk":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    async def begin(self, _connection: Connection, batch: Batch) -> dict[str, int]:
        """Returns the products of the batch that an earlier one had already, with their lines there."""
        # A batch that is tried again is still the last one: only with the next is it known to be written.
        if self._last is not None and self._last is not batch:
            rows = [(product.handle, product.line) for product in self._last.products.values()]
            with self._file:
                self._file.execute("BEGIN")
                self._file.executemany("INSERT OR IGNORE INTO handles VALUES (?, ?)", rows)
        self._last = batch
        found = self._file.execute(
            "SELECT handle, line FROM handles WHERE handle IN (SELECT value FROM json_each(?))",
            [orjson.dumps(list(batch.products)).decode()],
        )
        return dict(found.fetchall())

    def end(self, _connection: Connection, _batch: Batch, _tally: Tally) -> None:
        """Nothing has to be committed with the batch."""


def _keep(
    connection: Connection,
    mine: Claim,
    row: Row,
    facts: Mapping[str, Any],
    place: Mapping[str, Any] | None,
    issues: Sequence[Rejection],
) -> None:
    count = (row.checkpoint or {}).get("issues", 0)
    told = issues[: MOST_TOLD - count]
    if told:
        rows = [_issue(count + n, issue) for n, issue in enumerate(told, 1)]
        connection.send(_tell(), {"id": mine.job_id, "issues": orjson.dumps(rows).decode()})
    checkpoint = orjson.dumps({**(place or {}), "issues": count + len(told)}).decode()
    nothing = dict.fromkeys(("created", "updated", "unchanged"), 0)
    connection.send(
        _advance(), {**mine.parameters, **nothing, **facts, "checkpoint": checkpoint, "is_durable": place is not None}
    )


def _issue(number: int, issue: Rejection) -> dict[str, Any]:
    # Names of columns and handles come from the file.
    handle, column = (quoted(value, 255) if value else None for value in (issue.handle, issue.column))
    told = {"handle": handle, "field": column, "message": quoted(issue.problem, 1_000)}
    return {"number": number, "row": issue.line or None, **told}


@cache
def _advance() -> Statement:
    counts = ("rows", "created", "updated", "unchanged", "rejected")
    return queue.statement(
        f"""
UPDATE jobs SET checkpoint = :checkpoint, done = coalesce(:done, done), lease_until = {queue.UNTIL},
  {", ".join(f"{name} = {name} + :{name}" for name in counts)},
  attempts = CASE WHEN :is_durable THEN 0 ELSE attempts END, crashes = CASE WHEN :is_durable THEN 0 ELSE crashes END,
  position = CASE WHEN :created + :updated > 0 AND NOT coalesce(CAST(options ->> 'preview' AS boolean), false)
    THEN (SELECT position FROM store_positions WHERE config_id = jobs.config_id) ELSE position END
WHERE id = :id AND worker = :worker
""",
        **queue.MINE,
        checkpoint=JSONB(),
        done=BigInteger(),
        # An export that is begun again has come no further.
        is_durable=Boolean(),
        **{name: Integer() for name in counts},
    )


@cache
def _had() -> Statement:
    sql = 'SELECT handle, "row" FROM job_handles WHERE job_id = :id AND handle = ANY(:handles)'
    return queue.statement(sql, id=queue.MINE["id"], handles=ARRAY(Text()))


@cache
def _remember() -> Statement:
    sql = 'INSERT INTO job_handles (job_id, handle, "row") SELECT :id, * FROM unnest(:handles, :rows)'
    return queue.statement(sql, id=queue.MINE["id"], handles=ARRAY(Text()), rows=ARRAY(Integer()))


@cache
def _tell() -> Statement:
    return queue.statement(
        """
INSERT INTO job_issues (job_id, number, "row", handle, field, message)
SELECT :id, issue.number, issue."row", issue.handle, issue.field, issue.message
FROM jsonb_to_recordset(:issues) AS issue (number integer, "row" integer, handle text, field text, message text)
""",
        id=queue.MINE["id"],
        issues=JSONB(),
    )
