"""A process that runs jobs until it is killed."""

import asyncio
from pathlib import Path

from storefront.core.db.database import Database
from storefront.core.encryption import Vault
from storefront.core.storage.disk import DiskStorage
from storefront.feed.keyed_events import KeyedEvents
from storefront.feed.pubsub import PubSub
from storefront.imports.jobs.handlers import JobDependencies
from storefront.imports.jobs.image_fetching import ImageFetcher
from storefront.imports.jobs.worker import WorkerPool, WorkerTimings

# A fixed key for tests.
KEY = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="


def make_dependencies(
    database: Database, folder: Path, shopify: str | None = None, image_fetcher: ImageFetcher | None = None
) -> JobDependencies:
    """The dependencies of the jobs of a test."""
    disk = DiskStorage(folder, "http://localhost", "a secret of thirty-two characters")
    return JobDependencies(database, disk, Vault([KEY]), PubSub("memory://"), shopify_url=shopify, image_fetcher=image_fetcher)


def run_jobs(url: str, folder: Path, lease_seconds: float, shopify: str | None) -> None:
    """Run a worker until the process is killed."""

    async def work() -> None:
        async with Database(url, size=4) as database:
            timings = WorkerTimings(lease_seconds=lease_seconds, poll_interval_seconds=0.05, min_retry_seconds=0.05)
            async with WorkerPool(make_dependencies(database, folder, shopify), KeyedEvents(), 1, timings=timings).running():
                await asyncio.Event().wait()

    asyncio.run(work())
