"""A process that does jobs until it is ended: `python -m tests.imports.workers URL FOLDER LEASE [SHOPIFY]`."""

import asyncio
import sys
from pathlib import Path

from storefront.core.db.database import Database
from storefront.core.encryption import Vault
from storefront.core.storage.disk import Disk
from storefront.feed.keyed_events import Stirs
from storefront.feed.pubsub import WakeUps
from storefront.imports.jobs.handlers import Means
from storefront.imports.jobs.worker import Hours, Workers

# Of the tests' own.
KEY = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="


def means(database: Database, folder: Path, shopify: str | None = None) -> Means:
    """What the jobs of a test are done with."""
    disk = Disk(folder, "http://localhost", "a secret of thirty-two characters")
    return Means(database, disk, Vault([KEY]), WakeUps("memory://"), shopify_url=shopify)


async def main(url: str, folder: str, lease: str, shopify: str | None = None) -> None:
    """Work."""
    async with Database(url, size=4) as database:
        hours = Hours(lease=float(lease), look=0.05, pause=0.05)
        async with Workers(means(database, Path(folder), shopify), Stirs(), 1, hours=hours).running():
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
