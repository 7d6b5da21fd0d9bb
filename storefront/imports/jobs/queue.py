"""Jobs as whoever runs them sees them: taken by one, kept while it lives, taken over when it is gone.

A job is whose `worker` it names. Whatever is written for it locks its row first and looks whether that is still so, in the same
transaction: of two who take themselves for its worker, one writes. So a lease only says when others may try; clocks that go
wrong, or a process that was thought dead, cost time and nothing else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import orjson
from sqlalchemy import BigInteger, Double, Integer, Text, bindparam, text
from sqlalchemy.dialects.postgresql import JSONB, UUID

from storefront.core.db.database import Connection, Database, Row, Statement, compiled

# The wake-up for whoever has time for jobs; that of one job is its id.
WORK = "jobs"
# Seconds for which a job is its worker's without a word from it.
LEASE = 15.0
# How often a job is begun again that does not get any further.
MOST_ATTEMPTS = 6
# Poison job: it has lost its worker so often at the same place. It is failed, for the sake of all other work of the process.
MAX_CRASHES = 2
# Jobs of one owner that run at a time, in all processes.
MAX_RUNNING_PER_OWNER = 1
# Of the advisory lock under which jobs are taken: those of an owner that run are counted and added to by one at a time.
_CLAIM_LOCK = 7_312_029


def second_thoughts(job_id: str) -> str:
    """The wake-up for whoever runs a job that is no longer wanted."""
    return f"cancel {job_id}"


class Lost(Exception):
    """The job is somebody else's by now, or gone with its store."""


class Cancelled(Exception):
    """Its owner has thought better of it."""


class JobFailed(Exception):
    """It cannot be done. `field` is what there is to mend, of the store or of the source; the message is for its owner."""

    def __init__(self, problem: str, field: str | None = None) -> None:
        super().__init__(problem)
        self.field = field


@dataclass(frozen=True, slots=True)
class Claim:
    """Who runs which job, and for how long it is theirs without a word."""

    job_id: str
    worker: str
    lease: float = LEASE

    @property
    def parameters(self) -> dict[str, Any]:
        """Of every statement about it."""
        return {"id": self.job_id, "worker": self.worker, "lease": self.lease}


async def claim(
    database: Database, worker: str, lease: float = LEASE, max_running_per_owner: int = MAX_RUNNING_PER_OWNER
) -> Row | None:
    """Take a job that waits, or whose worker is gone; None where there is none that may run.

    Of several owners it is one of whom the fewest jobs run; of these, the one whose last job began the longest time ago; of
    their jobs, the oldest. So an owner with many jobs delays others by one job at most.
    """
    async with database.transaction() as connection:
        connection.send(_claim_lock(), {"lock": _CLAIM_LOCK})
        rows = await connection.fetch(_claim(), {"worker": worker, "lease": lease, "most": max_running_per_owner})
    return rows[0] if rows else None


async def beat(database: Database, mine: Claim) -> None:
    """Say that it is being worked at; raises Lost and Cancelled. Waits for nobody: whoever has the row locked is at work."""
    rows = await database.fetch(_beat(), mine.parameters)
    judge(rows, mine)


async def finish(database: Database, mine: Claim, status: str, error: Mapping[str, Any] | None = None, **facts: Any) -> bool:
    """Say what has become of it; False where it was no longer the worker's."""
    given = {"object_key": None, "object_size": None, **facts}
    told = orjson.dumps(error).decode() if error else None
    rows = await database.fetch(_finish(), {**mine.parameters, "status": status, "error": told, **given})
    return bool(rows)


async def put_off(database: Database, mine: Claim, seconds: float, error: Mapping[str, Any] | None = None) -> None:
    """Leave it to whoever comes after so many seconds."""
    told = orjson.dumps(error).decode() if error else None
    await database.fetch(_put_off(), {**mine.parameters, "seconds": seconds, "error": told})


async def begin_again(database: Database, mine: Claim, total: int | None) -> None:
    """From the beginning: what was counted before is no longer so. Raises Lost and Cancelled."""
    async with database.transaction() as connection:
        await lock(connection, mine)
        connection.send(_forget_issues(), {"id": mine.job_id})
        await connection.fetch(_begin_again(), {"id": mine.job_id, "total": total})


async def set_total(database: Database, mine: Claim, total: int) -> None:
    """Say how much there is to do."""
    await database.fetch(_set_total(), {**mine.parameters, "total": total})


async def lock(connection: Connection, mine: Claim) -> Row:
    """The job's row, locked; raises Lost and Cancelled."""
    rows = await connection.fetch(held(), mine.parameters)
    judge(rows, mine)
    return rows[0]


def judge(rows: Sequence[Row], mine: Claim) -> None:
    """Raise Lost or Cancelled where the job's row, as it was read, says so."""
    if not rows or rows[0].worker != mine.worker or rows[0].status != "running":
        raise Lost
    if rows[0].is_cancelled:
        raise Cancelled


def statement(sql: str, **types: Any) -> Statement:
    """SQL with the types of its parameters."""
    return compiled(text(sql).bindparams(*(bindparam(name, type_=type_) for name, type_ in types.items())))


# The parameters of a claim.
MINE = {"id": UUID(as_uuid=False), "worker": UUID(as_uuid=False), "lease": Double()}
UNTIL = "now() + make_interval(secs => :lease)"


@cache
def _claim() -> Statement:
    return statement(
        f"""
WITH owner AS MATERIALIZED (
  SELECT user_id, count(*) FILTER (WHERE status = 'running' AND lease_until >= now()) AS running,
    (SELECT max(started_at) FROM jobs AS earlier WHERE earlier.user_id = active.user_id) AS served_at
  FROM jobs AS active WHERE status IN ('queued', 'running') GROUP BY user_id
)
UPDATE jobs SET status = 'running', worker = :worker, lease_until = {UNTIL}, attempts = attempts + 1,
  crashes = crashes + CAST(status = 'running' AS integer), started_at = coalesce(started_at, now()), error = NULL
WHERE id = (
  SELECT job.id FROM jobs AS job JOIN owner ON owner.user_id = job.user_id AND owner.running < :most
  WHERE (status = 'running' AND lease_until < now())
    OR (status = 'queued' AND not_before <= now()
        AND NOT EXISTS (SELECT FROM jobs AS other WHERE other.config_id = job.config_id AND other.status = 'running'))
  ORDER BY owner.running, owner.served_at NULLS FIRST, created_at, id LIMIT 1 FOR UPDATE OF job SKIP LOCKED
)
RETURNING *
""",
        worker=MINE["worker"],
        lease=Double(),
        most=Integer(),
    )


@cache
def _claim_lock() -> Statement:
    return statement("SELECT pg_advisory_xact_lock(:lock)", lock=BigInteger())


@cache
def _beat() -> Statement:
    return statement(
        f"""
WITH beat AS (
  UPDATE jobs SET lease_until = {UNTIL} WHERE id IN (
    SELECT id FROM jobs WHERE id = :id AND worker = :worker AND status = 'running' FOR UPDATE SKIP LOCKED
  )
)
SELECT worker, status, is_cancelled FROM jobs WHERE id = :id
""",
        **MINE,
    )


@cache
def held() -> Statement:
    """The job's row, locked, where it is still the worker's."""
    # To take the job from a worker, or to change its mind, is to wait for what it is writing.
    sql = "SELECT worker, status, is_cancelled, checkpoint FROM jobs WHERE id = :id AND worker = :worker FOR NO KEY UPDATE"
    return statement(sql, id=MINE["id"], worker=MINE["worker"])


@cache
def _begin_again() -> Statement:
    nothing = ", ".join(f"{name} = 0" for name in ("done", "rows", "created", "updated", "unchanged", "rejected"))
    sql = f"UPDATE jobs SET checkpoint = NULL, {nothing}, total = :total WHERE id = :id"
    return statement(sql, id=MINE["id"], total=BigInteger())


@cache
def _set_total() -> Statement:
    sql = "UPDATE jobs SET total = :total WHERE id = :id AND worker = :worker"
    return statement(sql, id=MINE["id"], worker=MINE["worker"], total=BigInteger())


@cache
def _finish() -> Statement:
    return statement(
        """
WITH finished AS (
  UPDATE jobs SET status = :status, error = :error, worker = NULL, lease_until = NULL, finished_at = now(),
    object_key = coalesce(:object_key, object_key), object_size = coalesce(:object_size, object_size)
  WHERE id = :id AND worker = :worker AND status = 'running' RETURNING id, status
),
-- What failed may be gone on with, and then has to know them.
forgotten AS (DELETE FROM job_handles WHERE job_id IN (SELECT id FROM finished WHERE status = 'succeeded'))
SELECT id FROM finished
""",
        id=MINE["id"],
        worker=MINE["worker"],
        status=Text(),
        error=JSONB(),
        object_key=Text(),
        object_size=BigInteger(),
    )


@cache
def _put_off() -> Statement:
    return statement(
        """
UPDATE jobs SET status = 'queued', worker = NULL, lease_until = NULL, error = :error,
  not_before = now() + make_interval(secs => :seconds)
WHERE id = :id AND worker = :worker AND status = 'running' RETURNING 1 AS one
""",
        id=MINE["id"],
        worker=MINE["worker"],
        seconds=Double(),
        error=JSONB(),
    )


@cache
def _forget_issues() -> Statement:
    return statement("DELETE FROM job_issues WHERE job_id = :id", id=MINE["id"])
