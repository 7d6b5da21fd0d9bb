"""What is kept of a job with each batch: how far it has come, what it left out, and which handles it has had."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import orjson
from sqlalchemy import BigInteger, Integer, Text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from storefront.core.database import Connection, Database, Row, Statement
from storefront.imports import jobs
from storefront.imports.commands import MOST_TOLD, Batch, Tally
from storefront.imports.jobs import Claim
from storefront.imports.rows import Rejection


async def advance(database: Database, mine: Claim, done: int, rows: int, issues: Sequence[Rejection]) -> None:
    """Say how far it has come that has nothing else to say it with. Raises Lost and Cancelled."""
    async with database.transaction() as connection:
        row = await jobs.lock(connection, mine)
        facts = {"done": done, "rows": rows, "rejected": len(issues)}
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
        locked = connection.send(jobs.held(), self._mine.parameters)
        had = connection.send(_had(), {"id": self._mine.job_id, "handles": list(batch.products)}) if self._handles else None
        await connection.flush()
        jobs.judge(locked.rows, self._mine)
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
        assert batch.mark is not None  # noqa: S101  batches end at marks
        place = {**self._extra, **batch.mark.place}
        _keep(connection, self._mine, self._row, {**facts, "done": batch.mark.done}, place, tally.rejections)


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
    connection.send(_advance(), {**mine.parameters, **nothing, **facts, "checkpoint": checkpoint})


def _issue(number: int, issue: Rejection) -> dict[str, Any]:
    # Names of columns and handles come from the file.
    handle, column = (value[:255] if value else None for value in (issue.handle, issue.column))
    return {"number": number, "row": issue.line or None, "handle": handle, "field": column, "message": issue.problem[:1_000]}


@cache
def _advance() -> Statement:
    counts = ("rows", "created", "updated", "unchanged", "rejected")
    return jobs.statement(
        f"""
UPDATE jobs SET checkpoint = :checkpoint, done = :done, attempts = 0, lease_until = {jobs.UNTIL},
  {", ".join(f"{name} = {name} + :{name}" for name in counts)},
  position = CASE WHEN :created + :updated > 0 AND NOT coalesce(CAST(options ->> 'preview' AS boolean), false)
    THEN (SELECT position FROM store_positions WHERE config_id = jobs.config_id) ELSE position END
WHERE id = :id AND worker = :worker
""",
        **jobs.MINE,
        checkpoint=JSONB(),
        done=BigInteger(),
        **{name: Integer() for name in counts},
    )


@cache
def _had() -> Statement:
    sql = 'SELECT handle, "row" FROM job_handles WHERE job_id = :id AND handle = ANY(:handles)'
    return jobs.statement(sql, id=jobs.MINE["id"], handles=ARRAY(Text()))


@cache
def _remember() -> Statement:
    sql = 'INSERT INTO job_handles (job_id, handle, "row") SELECT :id, * FROM unnest(:handles, :rows)'
    return jobs.statement(sql, id=jobs.MINE["id"], handles=ARRAY(Text()), rows=ARRAY(Integer()))


@cache
def _tell() -> Statement:
    return jobs.statement(
        """
INSERT INTO job_issues (job_id, number, "row", handle, field, message)
SELECT :id, issue.number, issue."row", issue.handle, issue.field, issue.message
FROM jsonb_to_recordset(:issues) AS issue (number integer, "row" integer, handle text, field text, message text)
""",
        id=jobs.MINE["id"],
        issues=JSONB(),
    )
