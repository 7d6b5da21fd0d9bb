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

from storefront.core.db.database import Connection, Database, Row, Statement, compile_statement

# The wake-up for whoever has time for jobs; that of one job is its id.
JOBS_CHANNEL = "jobs"
# Seconds for which a job is its worker's without a word from it.
LEASE_SECONDS = 15.0
# How often a job is begun again that does not get any further.
MAX_JOB_ATTEMPTS = 6
# Poison job: it has lost its worker so often at the same place. It is failed, for the sake of all other work of the process.
MAX_JOB_CRASHES = 2
# Jobs of one owner that run at a time, in all processes.
MAX_RUNNING_JOBS_PER_OWNER = 1
# Of the advisory lock under which jobs are taken: those of an owner that run are counted and added to by one at a time.
_CLAIM_LOCK_ID = 7_312_029


def cancel_channel(job_id: str) -> str:
    """The wake-up for whoever runs a job that is no longer wanted."""
    return f"cancel {job_id}"


class LeaseLost(Exception):
    """The job is somebody else's by now, or gone with its store."""


class Cancelled(Exception):
    """Its owner has thought better of it."""


class JobFailed(Exception):
    """It cannot be done. `field` is what there is to mend, of the store or of the source; the message is for its owner."""

    def __init__(self, problem: str, field: str | None = None) -> None:
        super().__init__(problem)
        self.field = field


@dataclass(frozen=True, slots=True)
class Lease:
    """Who runs which job, and for how long it is theirs without a word."""

    job_id: str
    worker_id: str
    seconds: float = LEASE_SECONDS

    @property
    def parameters(self) -> dict[str, Any]:
        """Of every statement about it."""
        return {"id": self.job_id, "worker": self.worker_id, "lease": self.seconds}


async def claim_job(
    database: Database,
    worker_id: str,
    lease_seconds: float = LEASE_SECONDS,
    max_running_per_owner: int = MAX_RUNNING_JOBS_PER_OWNER,
) -> Row | None:
    """Take a job that waits, or whose worker is gone; None where there is none that may run.

    Of several owners it is one of whom the fewest jobs run; of these, the one whose last job began the longest time ago; of
    their jobs, the oldest. So an owner with many jobs delays others by one job at most.
    """
    async with database.transaction() as connection:
        connection.enqueue(_lock_claims_statement(), {"lock": _CLAIM_LOCK_ID})
        rows = await connection.fetch(
            _claim_job_statement(), {"worker": worker_id, "lease": lease_seconds, "most": max_running_per_owner}
        )
    return rows[0] if rows else None


async def heartbeat(database: Database, lease: Lease) -> None:
    """Say that it is being worked at; raises Lost and Cancelled. Waits for nobody: whoever has the row locked is at work."""
    rows = await database.fetch(_heartbeat_statement(), lease.parameters)
    check_lease(rows, lease)


async def finish_job(
    database: Database, lease: Lease, status: str, error: Mapping[str, Any] | None = None, **columns: Any
) -> bool:
    """Say what has become of it; False where it was no longer the worker's."""
    values = {"object_key": None, "object_size": None, **columns}
    error_json = orjson.dumps(error).decode() if error else None
    rows = await database.fetch(_finish_job_statement(), {**lease.parameters, "status": status, "error": error_json, **values})
    return bool(rows)


async def reschedule(database: Database, lease: Lease, seconds: float, error: Mapping[str, Any] | None = None) -> None:
    """Leave it to whoever comes after so many seconds."""
    error_json = orjson.dumps(error).decode() if error else None
    await database.fetch(_reschedule_statement(), {**lease.parameters, "seconds": seconds, "error": error_json})


async def restart_job(database: Database, lease: Lease, total: int | None) -> None:
    """From the beginning: what was counted before is no longer so. Raises Lost and Cancelled."""
    async with database.transaction() as connection:
        await lock_job(connection, lease)
        connection.enqueue(_delete_issues_statement(), {"id": lease.job_id})
        await connection.fetch(_restart_job_statement(), {"id": lease.job_id, "total": total})


async def set_total(database: Database, lease: Lease, total: int) -> None:
    """Say how much there is to do."""
    await database.fetch(_set_total_statement(), {**lease.parameters, "total": total})


async def lock_job(connection: Connection, lease: Lease) -> Row:
    """The job's row, locked; raises Lost and Cancelled."""
    rows = await connection.fetch(lock_job_statement(), lease.parameters)
    check_lease(rows, lease)
    return rows[0]


def check_lease(rows: Sequence[Row], lease: Lease) -> None:
    """Raise Lost or Cancelled where the job's row, as it was read, says so."""
    if not rows or rows[0].worker != lease.worker_id or rows[0].status != "running":
        raise LeaseLost
    if rows[0].is_cancelled:
        raise Cancelled


def build_statement(sql: str, **types: Any) -> Statement:
    """SQL with the types of its parameters."""
    return compile_statement(text(sql).bindparams(*(bindparam(name, type_=type_) for name, type_ in types.items())))


# The parameters of a claim.
LEASE_PARAMETER_TYPES = {"id": UUID(as_uuid=False), "worker": UUID(as_uuid=False), "lease": Double()}
LEASE_UNTIL_SQL = "now() + make_interval(secs => :lease)"


@cache
def _claim_job_statement() -> Statement:
    return build_statement(
        f"""
WITH owner AS MATERIALIZED (
  SELECT user_id, count(*) FILTER (WHERE status = 'running' AND lease_until >= now()) AS running,
    (SELECT max(started_at) FROM jobs AS earlier WHERE earlier.user_id = active.user_id) AS served_at
  FROM jobs AS active WHERE status IN ('queued', 'running') GROUP BY user_id
)
UPDATE jobs SET status = 'running', worker = :worker, lease_until = {LEASE_UNTIL_SQL}, attempts = attempts + 1,
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
        worker=LEASE_PARAMETER_TYPES["worker"],
        lease=Double(),
        most=Integer(),
    )


@cache
def _lock_claims_statement() -> Statement:
    return build_statement("SELECT pg_advisory_xact_lock(:lock)", lock=BigInteger())


@cache
def _heartbeat_statement() -> Statement:
    return build_statement(
        f"""
WITH beat AS (
  UPDATE jobs SET lease_until = {LEASE_UNTIL_SQL} WHERE id IN (
    SELECT id FROM jobs WHERE id = :id AND worker = :worker AND status = 'running' FOR UPDATE SKIP LOCKED
  )
)
SELECT worker, status, is_cancelled FROM jobs WHERE id = :id
""",
        **LEASE_PARAMETER_TYPES,
    )


@cache
def lock_job_statement() -> Statement:
    """The job's row, locked, where it is still the worker's."""
    # To take the job from a worker, or to change its mind, is to wait for what it is writing.
    sql = "SELECT worker, status, is_cancelled, checkpoint FROM jobs WHERE id = :id AND worker = :worker FOR NO KEY UPDATE"
    return build_statement(sql, id=LEASE_PARAMETER_TYPES["id"], worker=LEASE_PARAMETER_TYPES["worker"])


@cache
def _restart_job_statement() -> Statement:
    zeroed_counts = ", ".join(f"{name} = 0" for name in ("done", "rows", "created", "updated", "unchanged", "rejected"))
    sql = f"UPDATE jobs SET checkpoint = NULL, {zeroed_counts}, total = :total WHERE id = :id"
    return build_statement(sql, id=LEASE_PARAMETER_TYPES["id"], total=BigInteger())


@cache
def _set_total_statement() -> Statement:
    sql = "UPDATE jobs SET total = :total WHERE id = :id AND worker = :worker"
    return build_statement(sql, id=LEASE_PARAMETER_TYPES["id"], worker=LEASE_PARAMETER_TYPES["worker"], total=BigInteger())


@cache
def _finish_job_statement() -> Statement:
    return build_statement(
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
        id=LEASE_PARAMETER_TYPES["id"],
        worker=LEASE_PARAMETER_TYPES["worker"],
        status=Text(),
        error=JSONB(),
        object_key=Text(),
        object_size=BigInteger(),
    )


@cache
def _reschedule_statement() -> Statement:
    return build_statement(
        """
UPDATE jobs SET status = 'queued', worker = NULL, lease_until = NULL, error = :error,
  not_before = now() + make_interval(secs => :seconds)
WHERE id = :id AND worker = :worker AND status = 'running' RETURNING 1 AS one
""",
        id=LEASE_PARAMETER_TYPES["id"],
        worker=LEASE_PARAMETER_TYPES["worker"],
        seconds=Double(),
        error=JSONB(),
    )


@cache
def _delete_issues_statement() -> Statement:
    return build_statement("DELETE FROM job_issues WHERE job_id = :id", id=LEASE_PARAMETER_TYPES["id"])
