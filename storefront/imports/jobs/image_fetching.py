"""The second phase of an import: fetches the images of its products that are hosted elsewhere.

It resumes after the last product: what is still remote of the next one is fetched. The first phase has left the handles. The
next job of the store may run meanwhile, and imports of it may fetch the images of the same products: each writer locks the
product, and replaces the URLs that it still shows.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Protocol

from sqlalchemy import Integer, Text
from sqlalchemy.dialects.postgresql import ARRAY

from storefront.core.db.database import Database, Statement
from storefront.core.leases import Lease
from storefront.imports.jobs import queue
from storefront.imports.jobs.checkpoints import record_images
from storefront.imports.row_types import RowError
from storefront.models.rows import JobRow

# Products that are looked up at a time, and images that an import fetches at most.
MAX_PAGE_PRODUCTS, MAX_FETCHED_IMAGES = 100, 100_000
IMAGES_FIELD = "images"


class ImageProblem(Protocol):
    """Why an image was not fetched."""

    @property
    def url(self) -> str:
        """Its URL."""

    @property
    def problem(self) -> str:
        """The reason."""


class ImageSession(Protocol):
    """Fetches the images of one store."""

    async def fetch_images(self, product_id: str, urls: Sequence[str], /) -> tuple[int, Sequence[ImageProblem]]:
        """Fetch images of a product; returns how many were replaced, and why others were not."""


class ImageFetcher(Protocol):
    """Fetches images that are hosted elsewhere."""

    def list_remote_urls(self, urls: Sequence[str], /) -> list[str]:
        """Those that are hosted elsewhere."""

    def session(self, config_id: str, actor_id: str, /) -> AbstractAsyncContextManager[ImageSession]:
        """A session for a store, on behalf of its owner."""


@dataclass(slots=True)
class ImageProgress:
    """The images that an import has fetched so far, and that it could not fetch; and the last product.

    `is_full`: it had more than MAX_FETCHED_IMAGES.
    """

    after: str = ""
    fetched: int = 0
    failed: int = 0
    is_full: bool = False


async def fetch_images(
    database: Database, fetcher: ImageFetcher, job: JobRow, lease: Lease, on_progress: Callable[[], None]
) -> None:
    """Fetch the images of the products of an import, from its checkpoint on. Raises LeaseLost and Cancelled."""
    progress = ImageProgress(**(job.checkpoint or {}).get("images", {}))
    async with fetcher.session(job.config_id, job.user_id) as session:
        while not progress.is_full and (keys := await _load_keys(database, lease, progress.after)):
            async for issues in fetch_images_of_products(database, fetcher, session, job.config_id, keys, progress):
                await record_images(database, lease, asdict(progress), issues)
                on_progress()
            progress.after = keys[-1]
            await record_images(database, lease, asdict(progress))


async def fetch_images_of_products(
    database: Database,
    fetcher: ImageFetcher,
    session: ImageSession,
    config_id: str,
    keys: Sequence[str],
    progress: ImageProgress,
) -> AsyncIterator[list[RowError]]:
    """Fetch the images of the products with these keys in an import. Yields what failed, after each that had remote ones."""
    for row in await database.fetch(_select_products_statement(), {"config_id": config_id, "keys": list(keys)}):
        progress.after = row.key
        if urls := fetcher.list_remote_urls(row.images):
            if progress.fetched >= MAX_FETCHED_IMAGES:
                progress.is_full = True
                problem = f"more than {MAX_FETCHED_IMAGES:,} images: those of this product and of others keep their addresses"
                yield [_build_issue(row, problem)]
                return
            count, problems = await session.fetch_images(row.id, urls)
            progress.fetched, progress.failed = progress.fetched + count, progress.failed + len(problems)
            yield [_build_issue(row, f"{problem.problem}: {problem.url}") for problem in problems]


def _build_issue(row: Any, problem: str) -> RowError:
    return RowError("", 0, problem, row.handle, IMAGES_FIELD)


async def _load_keys(database: Database, lease: Lease, after: str) -> list[str]:
    parameters = {**lease.row_key, "after": after, "limit": MAX_PAGE_PRODUCTS}
    return [row.handle for row in await database.fetch(_select_keys_statement(), parameters)]


@cache
def _select_keys_statement() -> Statement:
    sql = "SELECT handle FROM job_handles WHERE config_id = :config_id AND job_id = :id AND handle > :after"
    sql += " ORDER BY handle LIMIT :limit"
    return queue.build_statement(sql, **queue.JOB_KEY_TYPES, after=Text(), limit=Integer())


@cache
def _select_products_statement() -> Statement:
    # Rows without handles were found by their SKUs.
    sql = """
SELECT seen.key, product.id, product.handle, product.images
FROM unnest(:keys) WITH ORDINALITY AS seen (key, number)
CROSS JOIN LATERAL (
  SELECT id, handle, images FROM products WHERE config_id = :config_id AND handle = seen.key
  UNION ALL
  SELECT id, handle, images FROM products
  WHERE config_id = :config_id AND starts_with(seen.key, 'sku:') AND id IN (
    SELECT product_id FROM product_variants WHERE config_id = :config_id AND sku = substr(seen.key, 5)
  )
) AS product
ORDER BY seen.number
"""
    return queue.build_statement(sql, config_id=queue.JOB_KEY_TYPES["config_id"], keys=ARRAY(Text()))
