"""The scheduler of background work: periodic jobs (sweeps, roll-ups) and the workers that run queued imports and exports."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from time import monotonic

from storefront.analytics.commands import refresh_popularity, sweep_event_ids
from storefront.analytics.rollups import maintain_partitions, roll_up
from storefront.core.db.database import DATABASE_ERRORS
from storefront.core.settings import Settings
from storefront.core.storage.base import StorageError
from storefront.core.tasks import running_tasks
from storefront.feed.log import delete_old_entries
from storefront.graph.context import Context
from storefront.imports.job_commands import sweep_jobs
from storefront.imports.jobs import handlers
from storefront.imports.jobs.worker import WorkerPool
from storefront.media.garbage_collection import sweep_images
from storefront.media.remote_images import RemoteImages
from storefront.webhooks.commands import sweep_deliveries
from storefront.writes.transaction import delete_expired_keys

log = logging.getLogger("storefront")

SWEEP_INTERVAL_SECONDS, FIRST_RUN_DELAY_SECONDS = 3_600, 60

# Errors of periodic jobs that need no correction: the database, the object storage or the network is unavailable.
_TEMPORARY_ERRORS = (*DATABASE_ERRORS, StorageError, OSError)

# The name of the asyncio tasks of background work.
BACKGROUND_TASK_NAME = "storefront job"


@dataclass(frozen=True, slots=True)
class PeriodicJob:
    """Work that every process repeats at an interval."""

    name: str
    run: Callable[[], Awaitable[int]]
    interval_seconds: float


@asynccontextmanager
async def running_background_work(context: Context, options: Settings) -> AsyncIterator[None]:
    """Run the periodic jobs and the workers while this lasts; `context` is anonymous."""
    jobs = [_run_periodically(job) for job in build_periodic_jobs(context, options)]
    async with _build_worker_pool(context, options).running(), running_tasks(*jobs, name=BACKGROUND_TASK_NAME):
        yield


def build_periodic_jobs(context: Context, options: Settings) -> list[PeriodicJob]:
    """Every periodic job of a process with these settings. An interval of 0 turns a job off."""
    database, objects = context.database, context.media_config.objects
    sweeps: dict[str, Callable[[], Awaitable[int]]] = {
        "sweep of idempotency keys": partial(delete_expired_keys, database),
        "sweep of the changelog": partial(delete_old_entries, database, days=options.log_retention_days),
        "sweep of event ids": partial(sweep_event_ids, database),
        "sweep of webhook deliveries": partial(sweep_deliveries, database, days=options.webhook_log_days),
        "maintenance of event partitions": partial(maintain_partitions, database, days=options.event_retention_days),
        "sweep of images": partial(sweep_images, database, objects=objects),
        "sweep of jobs": partial(sweep_jobs, database, days=options.job_retention_days),
        "sweep of job files": partial(handlers.sweep_files, objects, days=options.job_retention_days),
    }
    jobs = [PeriodicJob(name, run, SWEEP_INTERVAL_SECONDS) for name, run in sweeps.items()]
    jobs.append(PeriodicJob("roll-up of events", partial(roll_up, database), options.rollup_interval))
    jobs.append(PeriodicJob("refresh of popularity", partial(refresh_popularity, database), options.popularity_interval))
    return [job for job in jobs if job.interval_seconds]


async def _run_periodically(job: PeriodicJob) -> None:
    # The first run comes early, because a process that restarts often never reaches a whole interval.
    await asyncio.sleep(min(job.interval_seconds, FIRST_RUN_DELAY_SECONDS))
    while True:
        started_at = monotonic()
        try:
            await job.run()
        except Exception as error:
            # Any error: otherwise the job would not run again before the process restarts.
            level = logging.WARNING if isinstance(error, _TEMPORARY_ERRORS) else logging.ERROR
            log.log(level, "%s failed; retrying in %s s", job.name, job.interval_seconds, exc_info=True)
        # Slow jobs run less often, with more to do at a time: no job takes more than a fifth of the time.
        await asyncio.sleep(max(job.interval_seconds, 4 * (monotonic() - started_at)))


def _build_worker_pool(context: Context, options: Settings) -> WorkerPool:
    media = context.media_config
    dependencies = handlers.JobDependencies(
        context.database,
        media.objects,
        context.vault,
        context.feed.wakeups,
        options.shopify_api_version,
        options.shopify_url,
        options.max_import_rows,
        options.max_import,
        _build_image_fetcher(context),
    )
    return WorkerPool(
        dependencies,
        context.feed.keyed_events,
        options.job_workers,
        max_running_per_owner=options.jobs_per_owner,
        task_name=BACKGROUND_TASK_NAME,
    )


def _build_image_fetcher(context: Context) -> RemoteImages | None:
    media, outbound = context.media_config, context.outbound
    if outbound is None:
        return None
    stores = context.database, media.objects, media.image_processor
    return RemoteImages(*stores, outbound.http_client, media.max_image_bytes, media.base_url)
