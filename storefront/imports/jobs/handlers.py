"""Handlers of the kinds of jobs, which resume from the last checkpoint. Statements raise LeaseLost once the lease is lost."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from time import monotonic
from typing import Any, BinaryIO, cast

from sqlalchemy import bindparam, select

from storefront.core.db.database import Database, Statement, compile_statement
from storefront.core.encryption import DecryptionError, Vault
from storefront.core.leases import Lease
from storefront.core.net.shopify_client import API_VERSION, ShopifyClient, ShopInfo
from storefront.core.storage.base import ObjectStorage, StorageError, StoredObject, delete_prefix
from storefront.feed.pubsub import PubSub
from storefront.imports import exports
from storefront.imports.catalogue_file import FileOptions, open_catalogue
from storefront.imports.exports import ExportFormat, ExportPoint, ExportSummary, start_export
from storefront.imports.files.numbers import DecimalSeparator
from storefront.imports.files.opening import UnreadableFileError, open_temporary_file
from storefront.imports.jobs import queue
from storefront.imports.jobs.checkpoints import JobCheckpointer, record_done, record_export
from storefront.imports.jobs.image_fetching import ImageFetcher, fetch_images
from storefront.imports.jobs.queue import JobFailed
from storefront.imports.product_writer import DEFAULT_MAX_REJECTED_ROWS, ImportSummary, import_products
from storefront.imports.reports import render_report
from storefront.imports.shopify import store as shopify_store
from storefront.imports.shopify.csv_file import MAX_ROWS
from storefront.models import configs, jobs
from storefront.models.row_keys import RowKey, has_key
from storefront.models.rows import JobRow

REPORT_CONTENT_TYPE = "text/csv; charset=utf-8"
EXPORT_CONTENT_TYPES = {
    ExportFormat.SHOPIFY_CSV: REPORT_CONTENT_TYPE,
    ExportFormat.JSON_LINES: "application/jsonl; charset=utf-8",
}
# Seconds after which an incomplete batch of a slow source is written, so that a resumed job need not fetch it again.
FLUSH_AFTER_SECONDS = 1.0
# An export is written in parts of so many bytes or seconds, so that a resumed job need not begin again.
EXPORT_PART_BYTES, EXPORT_PART_SECONDS = 8_000_000, 5.0
# Seconds between two progress updates of an export.
PROGRESS_INTERVAL_SECONDS = 0.5
MAX_FILE_BYTES = 1_000_000_000
SHOP_NOT_CONNECTED_MESSAGE = (
    "integrations.shopify: no shop is connected. Set its domain and an access token with the scope read_products by updateConfig."
)


@dataclass(frozen=True, slots=True)
class JobDependencies:
    """The dependencies of job handlers."""

    database: Database
    objects: ObjectStorage
    vault: Vault
    pubsub: PubSub
    shopify_version: str = API_VERSION
    # Overrides the hosts of the shops (tests).
    shopify_url: str | None = None
    # Limits of a source: rows of a file, or variants of a shop; bytes of a file.
    max_rows: int = MAX_ROWS
    max_bytes: int = MAX_FILE_BYTES
    # None: images that are hosted elsewhere stay there.
    image_fetcher: ImageFetcher | None = None

    def publish_job_change(self, job: JobRow) -> None:
        """Notify the subscriptions to a job."""
        self.pubsub.publish(job.id)


async def run_job(dependencies: JobDependencies, job: JobRow, lease: Lease) -> Mapping[str, Any] | None:
    """Run a job; returns the columns to store on success, or None if an import has still to fetch images, in its next phase.

    Raises JobFailed, LeaseLost, Cancelled, and errors of its parts.
    """
    if job.kind == "export":
        return await _run_export(dependencies, job, lease)
    if job.is_fetching_images:
        await _fetch_images(dependencies, job, lease)
        return {}
    await (_import_shop if job.source == "shopify_store" else _import_file)(dependencies, job, lease)
    if _fetches_images(dependencies, job) and await _has_images(dependencies.database, job):
        return None
    return await _write_report(dependencies, job) if job.options.get("preview") else {}


async def delete_working_files(dependencies: JobDependencies, job: JobRow) -> None:
    """Delete the upload of a finished import, or the parts of an export. If this fails, `sweep_files` deletes them later."""
    with suppress(StorageError):
        if job.kind == "export":
            await delete_prefix(dependencies.objects, _get_parts_prefix(job))
        elif job.object_key:
            await dependencies.objects.delete(job.object_key)


async def sweep_files(objects: ObjectStorage, *, days: int) -> int:
    """Delete the files of imports and exports that are older than so many days; returns how many."""
    cutoff, removed_count = datetime.now(UTC) - timedelta(days=days), 0
    for prefix in ("imports/", "exports/"):
        old_keys = [stored.key async for stored in objects.list(prefix) if stored.modified_at < cutoff]
        for key in old_keys:
            await objects.delete(key)
        removed_count += len(old_keys)
    return removed_count


# ------------------------------------------------------------------------------------------------- imports


def _fetches_images(dependencies: JobDependencies, job: JobRow) -> bool:
    is_requested = job.options.get("fetchImages", False) and not job.options.get("preview")
    return bool(is_requested and dependencies.image_fetcher)


async def _has_images(database: Database, job: JobRow) -> bool:
    """Whether the source of an import that has written its products had images."""
    rows = await database.fetch(_select_checkpoint_statement(), RowKey(job.config_id, job.id)._asdict())
    return any((row.checkpoint or {}).get("hasImages") for row in rows)


async def _fetch_images(dependencies: JobDependencies, job: JobRow, lease: Lease) -> None:
    if dependencies.image_fetcher is None:
        return

    def report_progress() -> None:
        dependencies.pubsub.publish(job.config_id)
        dependencies.publish_job_change(job)

    await fetch_images(dependencies.database, dependencies.image_fetcher, job, lease, report_progress)


@cache
def _select_checkpoint_statement() -> Statement:
    return compile_statement(select(jobs.c.checkpoint).where(has_key(jobs)))


async def _import_file(dependencies: JobDependencies, job: JobRow, lease: Lease) -> None:
    checkpoint = job.checkpoint or {}
    async with open_temporary_file() as file:
        async with dependencies.objects.open(cast(str, job.object_key)) as reader:
            stamp = _format_stamp(reader.stored_object)
            if checkpoint.get("stamp", stamp) != stamp:
                raise JobFailed("uploadId: the file was replaced while it was imported. Import it again.", "uploadId")
            await queue.set_total(dependencies.database, lease, reader.stored_object.size)
            # Checked here as well: not every object store enforces the size of a presigned URL.
            async for chunk in _limit_bytes(reader.chunks, dependencies.max_bytes):
                await asyncio.to_thread(file.write, chunk)
        try:
            await _import_opened_file(dependencies, job, lease, file, stamp)
        except UnreadableFileError as error:
            raise JobFailed(str(error)) from None


async def _import_opened_file(dependencies: JobDependencies, job: JobRow, lease: Lease, file: BinaryIO, stamp: str) -> None:
    checkpoint, name = job.checkpoint or {}, cast(str, job.file_name)
    [store] = await dependencies.database.fetch(_select_store_statement(), {"id": job.config_id})
    options = FileOptions(
        job.options.get("archiveEntry"),
        DecimalSeparator(job.options.get("decimalSeparator", "auto")),
        job.options.get("columnMapping", {}),
        store.currency,
    )
    resume_point = checkpoint if "offset" in checkpoint else None
    limits = {"max_bytes": dependencies.max_bytes, "max_rows": dependencies.max_rows}
    async with open_catalogue(file, name, options, resume_point, **limits) as catalogue:
        # Progress counts bytes of the text.
        await queue.set_total(dependencies.database, lease, catalogue.size)
        await _import_items(dependencies, job, lease, catalogue.items, tracks_handles=True, extra={"stamp": stamp})


async def _limit_bytes(chunks: AsyncIterator[bytes], max_bytes: int) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > max_bytes:
            raise JobFailed(f"uploadId: the file has more than {max_bytes:,} bytes. Import it in parts.", "uploadId")
        yield chunk


def _format_stamp(stored: StoredObject) -> str:
    return f"{stored.size} {stored.modified_at.isoformat()}"


async def _import_shop(dependencies: JobDependencies, job: JobRow, lease: Lease) -> None:
    [store] = await dependencies.database.fetch(_select_store_statement(), {"id": job.config_id})
    domain, token = _decrypt_access_token(dependencies.vault, store.integrations)
    async with ShopifyClient(domain, token, version=dependencies.shopify_version, base_url=dependencies.shopify_url) as shop:
        _check_currency(await shop.fetch_shop_info(), store.currency)
        await queue.set_total(dependencies.database, lease, await shopify_store.count_shop_products(shop))
        checkpoint = job.checkpoint or {}
        # The resume point is invalid if another shop has been connected since.
        resume_point = checkpoint if "cursor" in checkpoint and checkpoint.get("domain") == domain else None
        items = shopify_store.read_shop_products(shop, resume_point, max_rows=dependencies.max_rows)
        await _import_items(dependencies, job, lease, items, tracks_handles=False, extra={"domain": domain})


def _decrypt_access_token(vault: Vault, integrations: Mapping[str, Any] | None) -> tuple[str, str]:
    integration = (integrations or {}).get("shopify") or {}
    if not integration.get("accessToken"):
        raise JobFailed(SHOP_NOT_CONNECTED_MESSAGE, "integrations.shopify")
    try:
        return integration["domain"], vault.decrypt(integration["accessToken"])
    except DecryptionError:
        field = "integrations.shopify.accessToken"
        raise JobFailed(f"{field}: cannot be decrypted. Set it again with updateConfig.", field) from None


def _check_currency(shop_info: ShopInfo, currency: str) -> None:
    if shop_info.currency != currency:
        raise JobFailed(
            f"currency: the shop {shop_info.domain} has its prices in {shop_info.currency}, and this store in {currency}. "
            f"Prices are not converted: give the store the currency {shop_info.currency} with updateConfig first.",
            "currency",
        )


async def _import_items(
    dependencies: JobDependencies,
    job: JobRow,
    lease: Lease,
    items: AsyncIterator[Any],
    *,
    tracks_handles: bool,
    extra: Mapping[str, Any],
) -> None:
    # After a retry only rows that were rejected since count towards the limit.
    rejected_before_retry = (job.checkpoint or {}).get("forgiven", 0)
    is_dry_run = bool(job.options.get("preview"))
    checkpointer = JobCheckpointer(
        lease,
        tracks_handles=tracks_handles,
        stores_changes=is_dry_run,
        stores_handles=_fetches_images(dependencies, job),
        has_images=(job.checkpoint or {}).get("hasImages", False),
        extra={**extra, "forgiven": rejected_before_retry},
    )
    max_rejected_rows = job.options.get("maxRejectedRows", DEFAULT_MAX_REJECTED_ROWS)
    last_position: list[int | None] = [None]

    def report_progress(summary: ImportSummary) -> None:
        if summary.position != last_position[0]:
            dependencies.pubsub.publish(job.config_id)
        last_position[0] = summary.position
        dependencies.publish_job_change(job)

    summary = await import_products(
        dependencies.database,
        job.config_id,
        items,
        dry_run=is_dry_run,
        delete_missing_variants=bool(job.options.get("deleteMissingVariants")),
        actor_id=job.user_id,
        client_mutation_id=job.options.get("clientMutationId"),
        checkpointer=checkpointer,
        max_rejected_rows=max_rejected_rows,
        previously_rejected_rows=job.rejected - rejected_before_retry,
        flush_after_seconds=FLUSH_AFTER_SECONDS,
        on_progress=report_progress,
    )
    if summary.stop:
        raise JobFailed(summary.stop.problem, summary.stop.field)


async def _write_report(dependencies: JobDependencies, job: JobRow) -> Mapping[str, Any]:
    """Write the report of a dry run; returns the columns to store."""
    key = f"imports/{job.config_id}/{job.id}-report.csv"
    size = await dependencies.objects.put(
        key, render_report(dependencies.database, RowKey(job.config_id, job.id)), REPORT_CONTENT_TYPE
    )
    return {"object_key": key, "object_size": size}


@cache
def _select_store_statement() -> Statement:
    return compile_statement(select(configs.c.integrations, configs.c.currency).where(configs.c.id == bindparam("id")))


# ------------------------------------------------------------------------------------------------- exports


async def _run_export(dependencies: JobDependencies, job: JobRow, lease: Lease) -> Mapping[str, Any]:
    export = await _open_export(dependencies, job, lease)
    while not export.is_complete:
        await export.write_part()
    # Parts are joined again if this is interrupted.
    key = f"exports/{job.config_id}/{job.id}.csv"
    size = await dependencies.objects.put(key, export.join_parts(), EXPORT_CONTENT_TYPES[export.format])
    return {"object_key": key, "object_size": size}


async def _open_export(dependencies: JobDependencies, job: JobRow, lease: Lease) -> "_Export":
    """The export at its last checkpoint; at its beginning if it has none, or if its parts were swept."""
    checkpoint = job.checkpoint or {}
    export_format = ExportFormat(job.options.get("format", "shopify_csv"))
    parts = checkpoint.get("parts", [])
    stored = {found.key async for found in dependencies.objects.list(_get_parts_prefix(job))} if parts else set()
    if parts and stored.issuperset(parts):
        point, done = ExportPoint(**checkpoint["point"]), checkpoint["products"]
        return _Export(dependencies, job, lease, export_format, point, parts, done, checkpoint["isComplete"])
    await queue.restart_job(dependencies.database, lease, await exports.count_products(dependencies.database, job.config_id))
    return _Export(
        dependencies, job, lease, export_format, await start_export(dependencies.database, job.config_id, export_format)
    )


def _get_parts_prefix(job: JobRow) -> str:
    return f"exports/{job.config_id}/{job.id}/"


@dataclass(slots=True)
class _Export:
    """An export between two of its parts, each an object of its own. A checkpoint follows each part."""

    dependencies: JobDependencies
    job: JobRow
    lease: Lease
    format: ExportFormat
    point: ExportPoint
    # Their keys.
    parts: list[str] = field(default_factory=list)
    products: int = 0
    is_complete: bool = False

    async def write_part(self) -> None:
        """Write the next part, and the checkpoint."""
        summary = ExportSummary()
        # A worker that has lost its lease may still be writing the part of the same number.
        key = f"{_get_parts_prefix(self.job)}{len(self.parts):06}-{self.lease.worker_id}"
        await self.dependencies.objects.put(key, self._render_part(summary), EXPORT_CONTENT_TYPES[self.format])
        self.parts.append(key)
        self.products += summary.products
        checkpoint = {"parts": self.parts, "point": asdict(self.point), "products": self.products, "isComplete": self.is_complete}
        await record_export(self.dependencies.database, self.lease, checkpoint, done=self.products, summary=summary)
        self.dependencies.publish_job_change(self.job)

    async def _render_part(self, summary: ExportSummary) -> AsyncIterator[bytes]:
        database, started_at, size = self.dependencies.database, monotonic(), 0
        next_report_at = started_at + PROGRESS_INTERVAL_SECONDS
        writer = self.point.create_writer(self.format, quote_formulas=bool(self.job.options.get("quoteFormulas", True)))
        if not self.parts:
            yield writer.render_header().encode()
        async with aclosing(exports.iterate_pages(database, self.job.config_id, writer, self.point, summary)) as pages:
            async for page in pages:
                yield page.content
                self.point, size = page.point, size + len(page.content)
                if size >= EXPORT_PART_BYTES or monotonic() - started_at > EXPORT_PART_SECONDS:
                    return
                if monotonic() > next_report_at:
                    next_report_at = monotonic() + PROGRESS_INTERVAL_SECONDS
                    await record_done(database, self.lease, self.products + summary.products)
                    self.dependencies.publish_job_change(self.job)
        self.is_complete = True

    async def join_parts(self) -> AsyncIterator[bytes]:
        """The whole file."""
        for key in self.parts:
            async with self.dependencies.objects.open(key) as reader:
                async for chunk in reader.chunks:
                    yield chunk
