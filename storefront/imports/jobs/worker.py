"""Does the jobs of all stores: in any process, as many at a time as the settings say, each of them in one process alone."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from storefront.core.db.database import DATABASE_ERRORS, Row, is_transient
from storefront.core.ids import new_id
from storefront.core.net.shopify_client import ShopifyError, ShopifyUnavailableError
from storefront.core.storage.base import ObjectNotFoundError, StorageError
from storefront.feed.keyed_events import KeyedEvents
from storefront.imports.jobs import queue
from storefront.imports.jobs.handlers import JobDependencies, delete_upload, run_job
from storefront.imports.jobs.queue import (
    JOBS_CHANNEL,
    LEASE_SECONDS,
    MAX_JOB_ATTEMPTS,
    MAX_JOB_CRASHES,
    MAX_RUNNING_JOBS_PER_OWNER,
    Cancelled,
    JobFailed,
    Lease,
    LeaseLost,
)

log = logging.getLogger("storefront")

# Seconds between looks for work that no wake-up told of.
POLL_INTERVAL_SECONDS = 2.0
# Seconds before a job is tried again that met with what may pass; they double.
MIN_RETRY_SECONDS, MAX_RETRY_SECONDS = 5.0, 300.0


def is_retryable(error: Exception) -> bool:
    """Whether the job may get further when it is tried again."""
    return isinstance(error, ShopifyUnavailableError | StorageError) or is_transient(error)


@dataclass(frozen=True, slots=True)
class WorkerTimings:
    """When there is work: seconds of a lease, between looks, and before the first new try."""

    lease_seconds: float = LEASE_SECONDS
    poll_interval_seconds: float = POLL_INTERVAL_SECONDS
    min_retry_seconds: float = MIN_RETRY_SECONDS


class WorkerPool:
    """As many as do jobs in this process at a time."""

    def __init__(
        self,
        dependencies: JobDependencies,
        keyed_events: KeyedEvents,
        worker_count: int,
        *,
        max_running_per_owner: int = MAX_RUNNING_JOBS_PER_OWNER,
        timings: WorkerTimings = WorkerTimings(),
        task_name: str | None = None,
    ) -> None:
        """`max_running_per_owner`: jobs of one owner that run at a time, in all processes; `name` is of their tasks."""
        self._dependencies, self._keyed_events, self._worker_count, self._timings, self._task_name = (
            dependencies,
            keyed_events,
            worker_count,
            timings,
            task_name,
        )
        self._max_running_per_owner = max_running_per_owner

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Work while this lasts. Jobs that are not done then are left to others at once, from where they are."""
        tasks = [asyncio.create_task(self._run_worker(), name=self._task_name) for _ in range(self._worker_count)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _run_worker(self) -> None:
        while True:
            try:
                has_run_job = await self.run_next_job()
            except Exception:
                # Whatever it was, there are other jobs; this one is taken again when its lease is over.
                log.warning(
                    "a job could not be taken or left; the next try is in %s s",
                    self._timings.poll_interval_seconds,
                    exc_info=True,
                )
                has_run_job = False
            if not has_run_job:
                await self._keyed_events.wait(JOBS_CHANNEL, self._timings.poll_interval_seconds)

    async def run_next_job(self) -> bool:
        """Do one job, if there is one."""
        worker_id = new_id()
        job = await queue.claim_job(
            self._dependencies.database, worker_id, self._timings.lease_seconds, self._max_running_per_owner
        )
        if job is None:
            return False
        await _JobRun(
            self._dependencies, self._keyed_events, self._timings, job, Lease(job.id, worker_id, self._timings.lease_seconds)
        ).run()
        return True


@dataclass(frozen=True, slots=True)
class _JobRun:
    dependencies: JobDependencies
    keyed_events: KeyedEvents
    timings: WorkerTimings
    job: Row
    lease: Lease

    async def run(self) -> None:
        """The job, to its end or to where it has to be left."""
        database, lease = self.dependencies.database, self.lease
        try:
            columns = await self._run_with_heartbeat()
            if await queue.finish_job(database, lease, "succeeded", **columns):
                log.info("job %s (%s of store %s) succeeded", lease.job_id, self.job.kind, self.job.config_id)
                await delete_upload(self.dependencies, self.job)
        except LeaseLost:
            log.info("job %s is somebody else's by now", lease.job_id)
        except Cancelled:
            await queue.finish_job(database, lease, "cancelled")
        except asyncio.CancelledError:
            # The process ends. Whoever comes next need not wait for the lease to end.
            await queue.reschedule(database, lease, 0)
            self.dependencies.pubsub.publish(JOBS_CHANNEL)
            raise
        except Exception as error:
            await self._on_failure(error)
        finally:
            self.dependencies.publish_job_change(self.job)

    async def _run_with_heartbeat(self) -> Mapping[str, Any]:
        """Do it, and see to it all the while that it is still ours and still wanted."""
        work = asyncio.create_task(self._run_handler(), name=self._get_task_name())
        heartbeat = asyncio.create_task(self._send_heartbeats(), name=self._get_task_name())
        try:
            await asyncio.wait({work, heartbeat}, return_when=asyncio.FIRST_COMPLETED)
            # Where both have come to an end the work itself is what counts.
            return await (work if work.done() else heartbeat)
        finally:
            work.cancel()
            heartbeat.cancel()
            await asyncio.gather(work, heartbeat, return_exceptions=True)

    @staticmethod
    def _get_task_name() -> str | None:
        task = asyncio.current_task()
        return task.get_name() if task else None

    async def _run_handler(self) -> Mapping[str, Any]:
        if self.job.is_cancelled:
            raise Cancelled
        if self.job.crashes >= MAX_JOB_CRASHES:
            raise JobFailed(
                f"It came to no end: {MAX_JOB_CRASHES} times the server's process ended while it ran at the same place. "
                "Split the source into parts, or tell the operator the id of the job."
            )
        if self.job.attempts > MAX_JOB_ATTEMPTS:
            raise JobFailed("it was begun several times and came to no end. Try it again, or tell the operator.")
        return await run_job(self.dependencies, self.job, self.lease)

    async def _send_heartbeats(self) -> Mapping[str, Any]:
        while True:
            await self._wait_for_cancel_or_interval()
            with suppress(*DATABASE_ERRORS):
                await queue.heartbeat(self.dependencies.database, self.lease)

    async def _wait_for_cancel_or_interval(self) -> None:
        await self.keyed_events.wait(queue.cancel_channel(self.lease.job_id), self.lease.seconds / 3)

    async def _on_failure(self, error: Exception) -> None:
        """It met with something: with what may pass it is tried again, but not for ever."""
        attempts = self.job.attempts
        if is_retryable(error) and attempts < MAX_JOB_ATTEMPTS:
            retry_seconds = min(self.timings.min_retry_seconds * 2 ** (attempts - 1), MAX_RETRY_SECONDS)
            log.warning("job %s is tried again in %.0f s (%s)", self.lease.job_id, retry_seconds, type(error).__name__)
            await queue.reschedule(self.dependencies.database, self.lease, retry_seconds, _describe_failure(error))
            return
        if not is_retryable(error) and not isinstance(error, JobFailed | ShopifyError | ObjectNotFoundError):
            log.error("job %s failed", self.lease.job_id, exc_info=error)
        else:
            log.info("job %s (%s of store %s) failed", self.lease.job_id, self.job.kind, self.job.config_id)
        await queue.finish_job(self.dependencies.database, self.lease, "failed", _describe_failure(error))


def _describe_failure(error: Exception) -> Mapping[str, Any]:
    """What its owner is told."""
    if isinstance(error, JobFailed | ShopifyError):
        return {"message": str(error), "field": error.field}
    if isinstance(error, ObjectNotFoundError):
        return {"message": "uploadId: the file is not there any more. Upload it anew.", "field": "uploadId"}
    if is_retryable(error):
        return {"message": "The database or the object store had no time. Try again later.", "field": None}
    return {"message": "Something went wrong on our side. Try again, or tell the operator the id of the job.", "field": None}
