"""Fetches images of products that are hosted elsewhere, and stores them as uploads are stored, in place of their remote URLs.

An image that cannot be fetched keeps its URL. Fetching a product again fetches what is still remote, so that it may be
interrupted at any point: objects of images that no product got are deleted by garbage collection, as those of uploads.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import JSONB

from storefront.core.db.database import Database, Statement, compile_statement
from storefront.core.db.json_parameters import to_json
from storefront.core.errors import Unavailable
from storefront.core.ids import new_id
from storefront.core.image_processing import ImageProcessor, UnusableImageError, detect_content_type
from storefront.core.net.safe_http import HttpSession, SafeHttpClient
from storefront.core.storage.base import ObjectStorage
from storefront.core.url_templates import encode_url
from storefront.media.commands import UPLOAD_URL_SECONDS, mark_confirmed_statement
from storefront.media.upload_processing import ProcessedUpload, discard_upload, store_image
from storefront.models import image_uploads, images
from storefront.models import products as product_table
from storefront.models.row_keys import RowKey, bind_store_type
from storefront.models.rows import ProductRow
from storefront.queries.images import MEDIA_PATH, build_image_address
from storefront.writes.authorization import lock_own_product
from storefront.writes.changelog import record_child_change, record_product_change
from storefront.writes.sql import build_insert, convert_to_parameters, sort_column_names, update_row
from storefront.writes.transaction import MutationRequest, PendingRow, UnitOfWork, execute_mutation

# Concurrent downloads of a session, each of at most `max_bytes` in memory, and the seconds that each may take.
MAX_CONCURRENT_DOWNLOADS, DOWNLOAD_TIMEOUT_SECONDS = 4, 30.0
# Images that are stored together: of a product with more, the first ones are shown sooner.
MAX_BATCH_IMAGES = 20
# Failures in a row after which a host is given up for the session: a shop that is gone must not take a timeout per image.
MAX_HOST_FAILURES = 5
# Attempts while the image processor is busy with uploads, and the seconds between them.
MAX_PROCESSING_ATTEMPTS, PROCESSING_RETRY_SECONDS = 20, 1.0
REQUEST_HEADERS = {"accept": "image/avif,image/webp,image/png,image/jpeg,image/gif,*/*;q=0.1", "user-agent": "storefront"}


@dataclass(frozen=True, slots=True)
class ImageProblem:
    """Why an image was not fetched."""

    url: str
    problem: str


class _FetchError(Exception):
    """An image cannot be fetched. The message says why."""


class RemoteImages:
    """Fetches remote images. `max_bytes`: of an image. `base_url`: of the images of this server."""

    def __init__(
        self,
        database: Database,
        objects: ObjectStorage,
        image_processor: ImageProcessor,
        http_client: SafeHttpClient,
        max_bytes: int,
        base_url: str,
    ) -> None:
        self.database, self.objects, self.image_processor = database, objects, image_processor
        self.max_bytes, self.base_url = max_bytes, base_url
        self._http_client = http_client

    def list_remote_urls(self, urls: Sequence[str]) -> list[str]:
        """Those of these URLs that are not of this server."""
        return [url for url in urls if not url.startswith(f"{self.base_url}{MEDIA_PATH}/")]

    @asynccontextmanager
    async def session(self, config_id: str, actor_id: str) -> AsyncIterator["RemoteImageSession"]:
        """A session that fetches the images of a store's products on behalf of its owner."""
        async with self._http_client.session(
            MAX_CONCURRENT_DOWNLOADS, config_id, allow_http=True, timeout_seconds=DOWNLOAD_TIMEOUT_SECONDS
        ) as http:
            yield RemoteImageSession(self, http, config_id, actor_id)


class RemoteImageSession:
    """Fetches the images of one store."""

    def __init__(self, remote_images: RemoteImages, http: HttpSession, config_id: str, actor_id: str) -> None:
        self._parts, self._http, self._config_id, self._actor_id = remote_images, http, config_id, actor_id
        self._failures_by_host = Counter[str]()

    async def fetch_images(self, product_id: str, urls: Sequence[str]) -> tuple[int, list[ImageProblem]]:
        """Fetch these images of a product; returns how many it shows now, and why others could not be fetched.

        Raises StorageError, and errors of the database.
        """
        count, problems = 0, list[ImageProblem]()
        for start in range(0, len(urls), MAX_BATCH_IMAGES):
            batch = urls[start : start + MAX_BATCH_IMAGES]
            results = await asyncio.gather(*map(self._fetch, batch))
            stored = {url: result for url, result in zip(batch, results, strict=True) if isinstance(result, _StoredImage)}
            problems += [result for result in results if isinstance(result, ImageProblem)]
            count += await self._attach(product_id, stored) if stored else 0
        return count, problems

    async def _fetch(self, url: str) -> "_StoredImage | ImageProblem":
        try:
            content = await self._download(url)
            content_type = detect_content_type(content)
            if content_type is None:
                raise _FetchError("is no JPEG, PNG, WebP, AVIF or GIF")
            return await self._store(content, content_type)
        except (_FetchError, UnusableImageError) as error:
            return ImageProblem(url, f"the image {error}")

    async def _download(self, url: str) -> bytes:
        host = urlsplit(url).hostname or ""
        if self._failures_by_host[host] >= MAX_HOST_FAILURES:
            raise _FetchError(f"was not fetched: {MAX_HOST_FAILURES} others of its host could not be before")
        result = await self._http.get(encode_url(url).partition("#")[0], self._parts.max_bytes, REQUEST_HEADERS)
        self._failures_by_host[host] = self._failures_by_host[host] + 1 if result.is_unreachable else 0
        if result.content is None:
            raise _FetchError(result.error)
        return result.content

    async def _store(self, content: bytes, content_type: str) -> "_StoredImage":
        for attempt in range(1, MAX_PROCESSING_ATTEMPTS + 1):
            try:
                image = await self._parts.image_processor.process_upload(content, content_type)
                break
            except Unavailable:
                if attempt == MAX_PROCESSING_ATTEMPTS:
                    raise
                await asyncio.sleep(PROCESSING_RETRY_SECONDS)
        # An upload of its own, by which garbage collection finds what is left of an interrupted run.
        row = {"id": new_id(), "config_id": self._config_id, "content_type": content_type, "size": len(content)}
        expiry = (("expires_at", f"now() + interval '{UPLOAD_URL_SECONDS} seconds'"),)
        statement = build_insert(image_uploads, sort_column_names(row), expiry)
        await self._parts.database.fetch(statement, convert_to_parameters(image_uploads, row))
        key = RowKey(self._config_id, str(row["id"]))
        return _StoredImage(key.id, await store_image(self._parts.database, self._parts.objects, key, image))

    async def _attach(self, product_id: str, stored: Mapping[str, "_StoredImage"]) -> int:
        """Have the product show stored images instead of their URLs; returns how many it still showed."""
        request = MutationRequest(self._actor_id, "fetchImages", {"productId": product_id})
        command = partial(_replace_images, stored=stored, base_url=self._parts.base_url)
        result = await execute_mutation(self._parts.database, request, command)
        shown = {row for row in result.rows if isinstance(row, str)}
        for url, image in stored.items():
            if url not in shown:
                # The product was changed or deleted meanwhile.
                await discard_upload(self._parts.objects, None, image.upload.place)
        return len(shown)


@dataclass(frozen=True, slots=True)
class _StoredImage:
    id: str
    upload: ProcessedUpload


async def _replace_images(
    unit: UnitOfWork, values: Mapping[str, Any], *, stored: Mapping[str, _StoredImage], base_url: str
) -> Sequence[Any]:
    """Returns the URLs that were replaced."""
    product = await lock_own_product(unit, values["productId"], ["productId"])
    addresses = {
        url: build_image_address(base_url, image.id, image.upload.columns["token"], image.upload.columns["extension"])
        for url, image in stored.items()
        if url in product.images
    }
    if not addresses:
        return []
    for url in addresses:
        key = {"config_id": product.config_id, "id": stored[url].id}
        row = {**key, "product_id": product.id, "alt": product.image_alts.get(url), "source_url": url}
        row |= stored[url].upload.columns
        unit.enqueue(build_insert(images, sort_column_names(row)), convert_to_parameters(images, row))
        unit.enqueue(mark_confirmed_statement(), key)
    await _replace_variant_images(unit, product, addresses)
    change = _replace_product_images(unit, product, addresses)
    record_product_change(unit, "product_updated", product, change.state, ["images"])
    return [*addresses]


def _replace_product_images(unit: UnitOfWork, product: ProductRow, addresses: Mapping[str, str]) -> PendingRow:
    # The alternative texts of hosted images are in their own rows.
    columns = {
        "images": [addresses.get(url, url) for url in product.images],
        "image_alts": {url: alt for url, alt in product.image_alts.items() if url not in addresses},
    }
    return update_row(unit, product_table, product, columns)


async def _replace_variant_images(unit: UnitOfWork, product: ProductRow, addresses: Mapping[str, str]) -> None:
    rows = to_json([{"url": url, "address": address} for url, address in addresses.items()])
    parameters = {"config_id": product.config_id, "product_id": product.id, "rows": rows}
    for variant in await unit.fetch(_update_variants_statement(), parameters):
        record_child_change(unit, product, variant, ["variants.image"])


@cache
def _update_variants_statement() -> Statement:
    sql = """
UPDATE product_variants SET image = replaced.address, version = version + 1, updated_at = now()
FROM jsonb_to_recordset(:rows) AS replaced (url text, address text)
WHERE config_id = :config_id AND product_id = CAST(:product_id AS uuid) AND image = replaced.url
RETURNING id, version
"""
    return compile_statement(text(sql).bindparams(bind_store_type(is_single_store=True), bindparam("rows", type_=JSONB)))
