"""Worker pool of the job queue: each worker claims a job, runs it under a lease, and retries it or fails it."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from storefront.core.db.database import DATABASE_ERRORS, is_transient
from storefront.core.ids import new_id
from storefront.core.leases import Lease, LeaseLost, run_with_heartbeats
from storefront.core.net.shopify_client import ShopifyError, ShopifyUnavailableError
from storefront.core.storage.base import ObjectNotFoundError, StorageError
from storefront.core.tasks import running_tasks
from storefront.feed.keyed_events import KeyedEvents
from storefront.imports.jobs import queue
from storefront.imports.jobs.handlers import JobDependencies, delete_working_files, run_job
from storefront.imports.jobs.queue import (
    JOBS_CHANNEL,
    LEASE_SECONDS,
    MAX_JOB_ATTEMPTS,
    MAX_JOB_CRASHES,
    MAX_RUNNING_JOBS_PER_OWNER,
    WORKER_POLL_INTERVAL_SECONDS,
    Cancelled,
    JobFailed,
)
from storefront.models.rows import JobRow

log = logging.getLogger("storefront")

# Seconds before a job is retried after a transient error; they double with each attempt.
MIN_RETRY_SECONDS, MAX_RETRY_SECONDS = 5.0, 300.0


def is_retryable(error: Exception) -> bool:
    """Whether the error is transient, so that a retry of the job may succeed."""
    return isinstance(error, ShopifyUnavailableError | StorageError) or is_transient(error)


@dataclass(frozen=True, slots=True)
class WorkerTimings:
    """Seconds of a lease, between two polls of the queue, and before the first retry."""

    lease_seconds: float = LEASE_SECONDS
    poll_interval_seconds: float = WORKER_POLL_INTERVAL_SECONDS
    min_retry_seconds: float = MIN_RETRY_SECONDS


class WorkerPool:
    """The workers of this process: so many jobs run at a time, and as many imports fetch images.

    These have workers of their own: an image host may take half a minute for each image, while others wait to be imported.
    """

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
        """`max_running_per_owner`: jobs of one owner that run at a time in all processes, and imports of one that fetch images.

        `task_name`: of the workers' tasks.
        """
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
        """Run the workers while this lasts. Jobs that still run then are requeued at once, and resume from their checkpoint."""
        phases = [False] if self._dependencies.image_fetcher is None else [False, True]
        workers = [self._run_worker(is_fetching_images) for is_fetching_images in phases for _ in range(self._worker_count)]
        async with running_tasks(*workers, name=self._task_name):
            yield

    async def _run_worker(self, is_fetching_images: bool) -> None:
        while True:
            try:
                has_run_job = await self.run_next_job(is_fetching_images=is_fetching_images)
            except Exception:
                # Any error: the worker has to go on with other jobs. This job is claimed again when its lease has expired.
                log.warning(
                    "a job could not be claimed or finished; the worker polls again in %s s",
                    self._timings.poll_interval_seconds,
                    exc_info=True,
                )
                has_run_job = False
            if not has_run_job:
                await self._keyed_events.wait(JOBS_CHANNEL, self._timings.poll_interval_seconds)

    async def run_next_job(self, *, is_fetching_images: bool = False) -> bool:
        """Claim one job and run it, or one phase of it; False if there was none. `is_fetching_images`: see `claim_job`."""
        worker_id = new_id()
        job = await queue.claim_job(
            self._dependencies.database,
            worker_id,
            self._timings.lease_seconds,
            self._max_running_per_owner,
            is_fetching_images=is_fetching_images,
        )
        if job is None:
            return False
        lease = Lease({"config_id": job.config_id, "id": job.id}, worker_id, self._timings.lease_seconds)
        await _JobRun(self._dependencies, self._keyed_events, self._timings, job, lease).run()
        return True


@dataclass(frozen=True, slots=True)
class _JobRun:
    dependencies: JobDependencies
    keyed_events: KeyedEvents
    timings: WorkerTimings
    job: JobRow
    lease: Lease

    async def run(self) -> None:
        """Run the job until it succeeds, fails, is cancelled or requeued, or its lease is lost; or to its next phase."""
        database, lease = self.dependencies.database, self.lease
        try:
            columns = await run_with_heartbeats(self._run_handler(), self._send_heartbeats(), task_name=_get_task_name())
            if columns is None:
                await queue.queue_image_fetching(database, lease)
                log.info("job %s (%s of store %s) is to fetch images", lease.row_id, self.job.kind, self.job.config_id)
                self.dependencies.pubsub.publish(JOBS_CHANNEL)
            elif await queue.finish_job(database, lease, "succeeded", **columns):
                log.info("job %s (%s of store %s) succeeded", lease.row_id, self.job.kind, self.job.config_id)
                await delete_working_files(self.dependencies, self.job)
        except LeaseLost:
            log.info("job %s: the lease was lost to another worker", lease.row_id)
        except Cancelled:
            await queue.finish_job(database, lease, "cancelled")
        except asyncio.CancelledError:
            # The process shuts down: the next worker need not wait until the lease expires. A failure must not replace the
            # cancellation, or the worker would go on.
            with suppress(*DATABASE_ERRORS):
                await queue.reschedule(database, lease, 0)
                self.dependencies.pubsub.publish(JOBS_CHANNEL)
            raise
        except Exception as error:
            await self._on_failure(error)
        finally:
            self.dependencies.publish_job_change(self.job)

    async def _run_handler(self) -> Mapping[str, Any] | None:
        if self.job.is_cancelled:
            raise Cancelled
        if self.job.crashes >= MAX_JOB_CRASHES:
            raise JobFailed(
                f"The job was stopped: {MAX_JOB_CRASHES} times the server's process ended while it ran at the same place. "
                "Split the source into parts, or tell the operator the id of the job."
            )
        if self.job.attempts > MAX_JOB_ATTEMPTS:
            raise JobFailed("The job was started several times and did not finish. Retry it, or tell the operator its id.")
        return await run_job(self.dependencies, self.job, self.lease)

    async def _send_heartbeats(self) -> NoReturn:
        while True:
            await self._wait_for_cancel_or_interval()
            # A heartbeat may fail: the lease lasts for three intervals.
            with suppress(*DATABASE_ERRORS):
                await queue.heartbeat(self.dependencies.database, self.lease)

    async def _wait_for_cancel_or_interval(self) -> None:
        await self.keyed_events.wait(queue.cancel_channel(self.lease.row_id), self.lease.seconds / 3)

    async def _on_failure(self, error: Exception) -> None:
        """Retry policy: a transient error requeues the job with exponential backoff, up to MAX_JOB_ATTEMPTS; others fail it."""
        attempts = self.job.attempts
        if is_retryable(error) and attempts < MAX_JOB_ATTEMPTS:
            retry_seconds = min(self.timings.min_retry_seconds * 2 ** (attempts - 1), MAX_RETRY_SECONDS)
            log.warning("job %s is retried in %.0f s (%s)", self.lease.row_id, retry_seconds, type(error).__name__)
            await queue.reschedule(self.dependencies.database, self.lease, retry_seconds, _describe_failure(error))
            return
        if not is_retryable(error) and not isinstance(error, JobFailed | ShopifyError | ObjectNotFoundError):
            log.error("job %s failed", self.lease.row_id, exc_info=error)
        else:
            log.info("job %s (%s of store %s) failed", self.lease.row_id, self.job.kind, self.job.config_id)
        await queue.finish_job(self.dependencies.database, self.lease, "failed", _describe_failure(error))


def _describe_failure(error: Exception) -> Mapping[str, Any]:
    """The error as its owner sees it: `message`, and `field` to correct."""
    if isinstance(error, JobFailed | ShopifyError):
        return {"message": str(error), "field": error.field}
    if isinstance(error, ObjectNotFoundError):
        return {"message": "uploadId: the file no longer exists. Upload it again.", "field": "uploadId"}
    if is_retryable(error):
        return {"message": "The database or the object store was not available. Try again later.", "field": None}
    return {"message": "An internal error occurred. Try again, or tell the operator the id of the job.", "field": None}


def _get_task_name() -> str | None:
    task = asyncio.current_task()
    return task.get_name() if task else None
