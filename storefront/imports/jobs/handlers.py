"""Handlers of the kinds of jobs, which resume from the last checkpoint. Statements raise LeaseLost once the lease is lost."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from tempfile import TemporaryFile
from time import monotonic
from typing import Any, BinaryIO, cast

from sqlalchemy import bindparam, select

from storefront.core.db.database import Database, Statement, compile_statement
from storefront.core.encryption import DecryptionError, Vault
from storefront.core.leases import Lease
from storefront.core.net.shopify_client import API_VERSION, ShopifyClient, ShopInfo
from storefront.core.storage.base import ObjectStorage, StorageError, StoredObject
from storefront.feed.pubsub import PubSub
from storefront.imports import exports
from storefront.imports.exports import ExportSummary, export_products
from storefront.imports.jobs import queue
from storefront.imports.jobs.checkpoints import JobCheckpointer, record_progress
from storefront.imports.jobs.queue import JobFailed
from storefront.imports.product_writer import DEFAULT_MAX_REJECTED_ROWS, ImportSummary, import_products
from storefront.imports.shopify import store as shopify_store
from storefront.imports.shopify.csv_file import MAX_ROWS, UnreadableFileError, read_csv_products_cooperatively
from storefront.models import configs
from storefront.models.rows import JobRow

EXPORT_CONTENT_TYPE = "text/csv; charset=utf-8"
# Seconds after which an incomplete batch of a slow source is written, so that a resumed job need not fetch it again.
FLUSH_AFTER_SECONDS = 1.0
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

    def publish_job_change(self, job: JobRow) -> None:
        """Notify the subscriptions to a job."""
        self.pubsub.publish(job.id)


async def run_job(dependencies: JobDependencies, job: JobRow, lease: Lease) -> Mapping[str, Any]:
    """Run a job; returns the columns to store on success. Raises JobFailed, LeaseLost, Cancelled, and errors of its parts."""
    if job.kind == "export":
        return await _run_export(dependencies, job, lease)
    await (_import_shop if job.source == "shopify_store" else _import_file)(dependencies, job, lease)
    return {}


async def delete_upload(dependencies: JobDependencies, job: JobRow) -> None:
    """Delete the uploaded file of a finished import. If this fails, `sweep_files` deletes it later."""
    if job.kind == "import" and job.object_key:
        with suppress(StorageError):
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


async def _import_file(dependencies: JobDependencies, job: JobRow, lease: Lease) -> None:
    checkpoint = job.checkpoint or {}
    async with _temporary_file() as file:
        async with dependencies.objects.open(cast(str, job.object_key)) as reader:
            stamp = _format_stamp(reader.stored_object)
            if checkpoint.get("stamp", stamp) != stamp:
                raise JobFailed("uploadId: the file was replaced while it was imported. Import it again.", "uploadId")
            await queue.set_total(dependencies.database, lease, reader.stored_object.size)
            # Checked here as well: not every object store enforces the size of a presigned URL.
            async for chunk in _limit_bytes(reader.chunks, dependencies.max_bytes):
                await asyncio.to_thread(file.write, chunk)
        await _import_items(
            dependencies,
            job,
            lease,
            _read_items(dependencies, file, job, checkpoint),
            tracks_handles=True,
            extra={"stamp": stamp},
        )


@asynccontextmanager
async def _temporary_file() -> AsyncIterator[BinaryIO]:
    """A temporary file. It is closed in a thread: freeing a gigabyte takes 50 ms, which would block the event loop."""
    file = TemporaryFile()  # noqa: SIM115  closed in a thread
    try:
        yield file
    finally:
        await asyncio.to_thread(file.close)


async def _limit_bytes(chunks: AsyncIterator[bytes], max_bytes: int) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > max_bytes:
            raise JobFailed(f"uploadId: the file has more than {max_bytes:,} bytes. Import it in parts.", "uploadId")
        yield chunk


def _format_stamp(stored: StoredObject) -> str:
    return f"{stored.size} {stored.modified_at.isoformat()}"


def _read_items(dependencies: JobDependencies, file: BinaryIO, job: JobRow, checkpoint: Mapping[str, Any]) -> AsyncIterator[Any]:
    resume_point = checkpoint if "offset" in checkpoint else None
    try:
        # The checkpoints store seen handles, so that memory is bounded for any file.
        return read_csv_products_cooperatively(
            file, cast(str, job.file_name), resume_point, remember_handles=False, max_rows=dependencies.max_rows
        )
    except UnreadableFileError as error:
        raise JobFailed(str(error)) from None


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
    checkpointer = JobCheckpointer(lease, tracks_handles=tracks_handles, extra={**extra, "forgiven": rejected_before_retry})
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
        dry_run=bool(job.options.get("preview")),
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


@cache
def _select_store_statement() -> Statement:
    return compile_statement(select(configs.c.integrations, configs.c.currency).where(configs.c.id == bindparam("id")))


# ------------------------------------------------------------------------------------------------- exports


async def _run_export(dependencies: JobDependencies, job: JobRow, lease: Lease) -> Mapping[str, Any]:
    # Exports restart from the beginning: a partial file cannot be resumed.
    await queue.restart_job(dependencies.database, lease, await exports.count_products(dependencies.database, job.config_id))
    key = f"exports/{job.config_id}/{job.id}.csv"
    size = await dependencies.objects.put(key, _render_export(dependencies, job, lease), EXPORT_CONTENT_TYPE)
    return {"object_key": key, "object_size": size}


async def _render_export(dependencies: JobDependencies, job: JobRow, lease: Lease) -> AsyncIterator[bytes]:
    summary, reported, next_report_at = ExportSummary(), ExportSummary(), 0.0
    quote_formulas = bool(job.options.get("quoteFormulas", True))

    async def report_progress() -> None:
        nonlocal reported, next_report_at
        rows, rejected, reported_issue_count = (
            summary.products - reported.products,
            summary.rejected - reported.rejected,
            len(reported.issues),
        )
        await record_progress(
            dependencies.database,
            lease,
            summary.products,
            rows=rows,
            rejected=rejected,
            issues=summary.issues[reported_issue_count:],
        )
        reported, next_report_at = replace(summary, issues=[*summary.issues]), monotonic() + PROGRESS_INTERVAL_SECONDS
        dependencies.publish_job_change(job)

    async for chunk in export_products(dependencies.database, job.config_id, quote_formulas=quote_formulas, summary=summary):
        yield chunk
        if monotonic() > next_report_at:
            await report_progress()
    await report_progress()
