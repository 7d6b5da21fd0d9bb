"""Job queue of imports and exports in Postgres: workers claim jobs under a lease, extend it by heartbeats, and finish them.

All that is written for a job locks its row first and checks the lease in the same transaction, see storefront/core/leases.py.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import BigInteger, Double, Integer, Text, bindparam, text
from sqlalchemy.dialects.postgresql import JSONB

from storefront.core.db.database import Connection, Database, Row, Statement, compile_statement
from storefront.core.db.json_parameters import to_json
from storefront.core.leases import LEASE_PARAMETER_TYPES, Lease, LeaseColumns, LeaseLost, fetch_held
from storefront.models import jobs
from storefront.models.rows import JobRow

# Pub/sub channel that announces queued jobs to idle workers. The channel of a single job is its id.
JOBS_CHANNEL = "jobs"
# Polling, for what pub/sub has lost, in seconds: workers look for queued jobs, subscriptions for the progress of one.
WORKER_POLL_INTERVAL_SECONDS, PROGRESS_POLL_INTERVAL_SECONDS = 2.0, 1.0
# Seconds after its last heartbeat when the lease of a job expires.
LEASE_SECONDS = 15.0
# Attempts of a job without progress in between.
MAX_JOB_ATTEMPTS = 6
# Poison job: it has killed its worker so many times at the same checkpoint. Fail it, to protect the other work of the process.
MAX_JOB_CRASHES = 2
# Jobs of one owner that run at a time, in all processes; and as many that fetch images.
MAX_RUNNING_JOBS_PER_OWNER = 1
# The statuses of a finished job.
TERMINAL_STATUSES = ("succeeded", "failed", "cancelled")
# Advisory lock of claims: the running jobs of an owner are counted and added to by one claim at a time.
_CLAIM_LOCK_ID = 7_312_029


def cancel_channel(job_id: str) -> str:
    """Pub/sub channel that tells the worker of a job to check whether it was cancelled."""
    return f"cancel {job_id}"


class Cancelled(Exception):
    """The owner has cancelled the job."""


class JobFailed(Exception):
    """The job cannot succeed. The message is for the owner; `field` names what to correct, in the store or in the source."""

    def __init__(self, problem: str, field: str | None = None) -> None:
        super().__init__(problem)
        self.field = field


async def claim_job(
    database: Database,
    worker_id: str,
    lease_seconds: float = LEASE_SECONDS,
    max_running_per_owner: int = MAX_RUNNING_JOBS_PER_OWNER,
    *,
    is_fetching_images: bool = False,
) -> JobRow | None:
    """Claim a queued job, or one whose lease has expired; None if no job may run.

    `is_fetching_images`: claim an import whose images are to be fetched, and else any other job. The two do not wait for each
    other: neither those of a store, of which one of the other jobs runs at a time, nor those of an owner.

    Fair between owners: first the owner with the fewest running jobs, then the one whose last job started the longest time ago;
    of an owner's jobs the oldest. So an owner with many jobs delays others by one job at most.
    """
    async with database.transaction() as connection:
        connection.enqueue(_lock_claims_statement(), {"lock": _CLAIM_LOCK_ID})
        rows = await connection.fetch(
            _claim_job_statement(is_fetching_images),
            {"worker": worker_id, "lease": lease_seconds, "max_running": max_running_per_owner},
        )
    return rows[0] if rows else None


async def heartbeat(database: Database, lease: Lease) -> None:
    """Heartbeat: extend the lease. Raises LeaseLost and Cancelled. Waits for no lock: a locked row is one being written to."""
    check_lease(await fetch_held(database, _heartbeat_statement(), lease), lease)


async def finish_job(
    database: Database, lease: Lease, status: str, error: Mapping[str, Any] | None = None, **columns: Any
) -> bool:
    """Set the terminal status of a job; False if its lease was lost."""
    values = {"object_key": None, "object_size": None, **columns}
    error_json = to_json(error) if error else None
    rows = await database.fetch(_finish_job_statement(), {**lease.parameters, "status": status, "error": error_json, **values})
    return bool(rows)


async def reschedule(database: Database, lease: Lease, seconds: float, error: Mapping[str, Any] | None = None) -> None:
    """Requeue a job: it may be claimed again after so many seconds."""
    error_json = to_json(error) if error else None
    await database.fetch(_reschedule_statement(), {**lease.parameters, "seconds": seconds, "error": error_json})


async def queue_image_fetching(database: Database, lease: Lease) -> None:
    """Requeue an import whose products are written, for its images to be fetched. Raises LeaseLost and Cancelled."""
    async with database.transaction() as connection:
        await lock_job(connection, lease)
        await connection.fetch(_queue_image_fetching_statement(), lease.row_key)


async def restart_job(database: Database, lease: Lease, total: int | None) -> None:
    """Discard checkpoint, counts and issues of a job that starts over. Raises LeaseLost and Cancelled."""
    async with database.transaction() as connection:
        await lock_job(connection, lease)
        connection.enqueue(_delete_issues_statement(), lease.row_key)
        await connection.fetch(_restart_job_statement(), {**lease.row_key, "total": total})


async def set_total(database: Database, lease: Lease, total: int) -> None:
    """Set how much there is to do, in the unit of `done`."""
    await database.fetch(_set_total_statement(), {**lease.parameters, "total": total})


async def lock_job(connection: Connection, lease: Lease) -> JobRow:
    """Lock the row of the job and return it. Raises LeaseLost and Cancelled."""
    rows = await connection.fetch(lock_job_statement(), lease.parameters)
    check_lease(rows, lease)
    return rows[0]


def check_lease(rows: Sequence[Row], lease: Lease) -> None:
    """Raise LeaseLost or Cancelled if the row of the job says so."""
    if not rows or rows[0].worker != lease.worker_id or rows[0].status != "running":
        raise LeaseLost
    if rows[0].is_cancelled:
        raise Cancelled


def build_statement(sql: str, **types: Any) -> Statement:
    """Compile SQL with the types of its parameters."""
    return compile_statement(text(sql).bindparams(*(bindparam(name, type_=type_) for name, type_ in types.items())))


LEASE_COLUMNS = LeaseColumns("worker", "lease_until", ("config_id", "id"))
# The types of the parameters that are the primary key of a job.
JOB_KEY_TYPES = {name: jobs.c[name].type for name in LEASE_COLUMNS.key}
_IS_JOB_SQL = "config_id = :config_id AND id = :id"
# Only running jobs have a worker.
_IS_RUNNING_SQL = f"{LEASE_COLUMNS.is_held_sql} AND status = 'running'"


@cache
def _claim_job_statement(is_fetching_images: bool) -> Statement:
    if is_fetching_images:
        is_in_phase, started_column, is_alone = "is_fetching_images", "images_started_at", "true"
    else:
        is_in_phase, started_column = "NOT is_fetching_images", "started_at"
        is_alone = """NOT EXISTS (SELECT FROM jobs AS other
          WHERE other.config_id = job.config_id AND other.status = 'running' AND NOT other.is_fetching_images)"""
    return build_statement(
        f"""
WITH owner AS MATERIALIZED (
  SELECT user_id, count(*) FILTER (WHERE status = 'running' AND lease_until >= now()) AS running,
    (SELECT max({started_column}) FROM jobs AS earlier WHERE earlier.user_id = active.user_id) AS served_at
  FROM jobs AS active WHERE status IN ('queued', 'running') AND {is_in_phase} GROUP BY user_id
)
UPDATE jobs SET status = 'running', {LEASE_COLUMNS.claim_sql}, attempts = attempts + 1,
  crashes = crashes + CAST(status = 'running' AS integer), {started_column} = coalesce({started_column}, now()), error = NULL
WHERE (config_id, id) = (
  SELECT job.config_id, job.id FROM jobs AS job JOIN owner ON owner.user_id = job.user_id AND owner.running < :max_running
  WHERE {is_in_phase} AND (
    (status = 'running' AND lease_until < now()) OR (status = 'queued' AND not_before <= now() AND {is_alone})
  )
  ORDER BY owner.running, owner.served_at NULLS FIRST, created_at, id LIMIT 1 FOR UPDATE OF job SKIP LOCKED
)
RETURNING *
""",
        worker=LEASE_PARAMETER_TYPES["worker"],
        lease=LEASE_PARAMETER_TYPES["lease"],
        max_running=Integer(),
    )


@cache
def _lock_claims_statement() -> Statement:
    return build_statement("SELECT pg_advisory_xact_lock(:lock)", lock=BigInteger())


@cache
def _heartbeat_statement() -> Statement:
    return build_statement(
        f"""
WITH beat AS (
  UPDATE jobs SET {LEASE_COLUMNS.extend_sql} WHERE config_id = :config_id AND id IN (
    SELECT id FROM jobs WHERE {_IS_RUNNING_SQL} FOR UPDATE SKIP LOCKED
  )
)
SELECT worker, status, is_cancelled FROM jobs WHERE {_IS_JOB_SQL}
""",
        **JOB_KEY_TYPES,
        **LEASE_PARAMETER_TYPES,
    )


@cache
def lock_job_statement() -> Statement:
    """Select and lock the row of a job whose lease is held."""
    # A claim by another worker, and a cancellation, wait until this transaction has ended.
    sql = f"SELECT worker, status, is_cancelled, checkpoint FROM jobs WHERE {LEASE_COLUMNS.is_held_sql} FOR NO KEY UPDATE"
    return build_statement(sql, **JOB_KEY_TYPES, worker=LEASE_PARAMETER_TYPES["worker"])


@cache
def _restart_job_statement() -> Statement:
    zeroed_counts = ", ".join(f"{name} = 0" for name in ("done", "rows", "created", "updated", "unchanged", "rejected"))
    sql = f"UPDATE jobs SET checkpoint = NULL, {zeroed_counts}, total = :total WHERE {_IS_JOB_SQL}"
    return build_statement(sql, **JOB_KEY_TYPES, total=BigInteger())


@cache
def _set_total_statement() -> Statement:
    sql = f"UPDATE jobs SET total = :total WHERE {LEASE_COLUMNS.is_held_sql}"
    return build_statement(sql, **JOB_KEY_TYPES, worker=LEASE_PARAMETER_TYPES["worker"], total=BigInteger())


@cache
def _finish_job_statement() -> Statement:
    return build_statement(
        f"""
WITH finished AS (
  UPDATE jobs SET status = :status, error = :error, {LEASE_COLUMNS.release_sql()}, finished_at = now(),
    object_key = coalesce(:object_key, object_key), object_size = coalesce(:object_size, object_size)
  WHERE {_IS_RUNNING_SQL} RETURNING id, status
),
-- A failed job may be retried, and needs its handles then.
forgotten AS (
  DELETE FROM job_handles WHERE config_id = :config_id AND job_id IN (SELECT id FROM finished WHERE status = 'succeeded')
)
SELECT id FROM finished
""",
        **JOB_KEY_TYPES,
        worker=LEASE_PARAMETER_TYPES["worker"],
        status=Text(),
        error=JSONB(),
        object_key=Text(),
        object_size=BigInteger(),
    )


@cache
def _reschedule_statement() -> Statement:
    return build_statement(
        f"""
UPDATE jobs SET status = 'queued', {LEASE_COLUMNS.release_sql()}, error = :error,
  not_before = now() + make_interval(secs => :seconds)
WHERE {_IS_RUNNING_SQL} RETURNING 1 AS one
""",
        **JOB_KEY_TYPES,
        worker=LEASE_PARAMETER_TYPES["worker"],
        seconds=Double(),
        error=JSONB(),
    )


@cache
def _queue_image_fetching_statement() -> Statement:
    # Attempts and crashes are counted since the last progress.
    sql = f"""
UPDATE jobs SET status = 'queued', is_fetching_images = true, {LEASE_COLUMNS.release_sql()}, attempts = 0, crashes = 0,
  error = NULL, not_before = now()
WHERE {_IS_JOB_SQL}
"""
    return build_statement(sql, **JOB_KEY_TYPES)


@cache
def _delete_issues_statement() -> Statement:
    return build_statement("DELETE FROM job_issues WHERE config_id = :config_id AND job_id = :id", **JOB_KEY_TYPES)
