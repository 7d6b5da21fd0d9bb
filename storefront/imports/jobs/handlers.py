"""What each kind of job does, from where it was left. Knows no leases: it is told when the job is no longer its own."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from tempfile import TemporaryFile
from time import monotonic
from typing import Any, BinaryIO

from sqlalchemy import bindparam, select

from storefront.core.db.database import Database, Row, Statement, compiled
from storefront.core.encryption import Undecryptable, Vault
from storefront.core.net.shopify_client import VERSION, About, Shop
from storefront.core.storage.base import Objects, StorageFailed, Stored
from storefront.feed.pubsub import WakeUps
from storefront.imports import exports
from storefront.imports.exports import ExportSummary, export_products
from storefront.imports.jobs import queue
from storefront.imports.jobs.checkpoints import Kept, advance
from storefront.imports.jobs.queue import Claim, JobFailed
from storefront.imports.product_writer import MAX_REJECTED_ROWS, ImportSummary, import_products
from storefront.imports.shopify import store as shopify_store
from storefront.imports.shopify.csv_file import MAX_ROWS, UnreadableFile, read_in_turns
from storefront.models import configs

CSV = "text/csv; charset=utf-8"
# Seconds after which what has come of a slow source is written, so that whoever goes on need not ask for it again.
PATIENCE = 1.0
# Seconds between two words of how far an export has come.
WORD = 0.5
MAX_BYTES = 1_000_000_000
NOT_CONNECTED = (
    "integrations.shopify: no shop is connected. Set its domain and an access token with the scope read_products by updateConfig."
)


@dataclass(frozen=True, slots=True)
class Means:
    """What jobs are done with."""

    database: Database
    objects: Objects
    vault: Vault
    wakeups: WakeUps
    shopify_version: str = VERSION
    # In place of the shops' own hosts.
    shopify_url: str | None = None
    # Of a source: a file, or a shop's products with their variants. Files have at most so many bytes.
    max_rows: int = MAX_ROWS
    max_bytes: int = MAX_BYTES

    def tell(self, job: Row) -> None:
        """Wake whoever watches a job."""
        self.wakeups.publish(job.id)


async def run(means: Means, job: Row, mine: Claim) -> Mapping[str, Any]:
    """Do a job; returns what is to be kept of it. Raises JobFailed, Lost, Cancelled, and what its parts raise."""
    if job.kind == "export":
        return await _export(means, job, mine)
    await (_import_shop if job.source == "shopify_store" else _import_file)(means, job, mine)
    return {}


async def clear(means: Means, job: Row) -> None:
    """Remove what was uploaded for a job that is done. What cannot be removed now is when all old files are."""
    if job.kind == "import" and job.object_key:
        with suppress(StorageFailed):
            await means.objects.delete(job.object_key)


async def sweep_files(objects: Objects, *, days: int) -> int:
    """Remove the files of imports and exports of more than so many days ago, whatever became of these; returns how many."""
    before, found = datetime.now(UTC) - timedelta(days=days), 0
    for prefix in ("imports/", "exports/"):
        old = [stored.key async for stored in objects.list(prefix) if stored.modified < before]
        for key in old:
            await objects.delete(key)
        found += len(old)
    return found


# ------------------------------------------------------------------------------------------------- imports


async def _import_file(means: Means, job: Row, mine: Claim) -> None:
    checkpoint = job.checkpoint or {}
    async with _temporary_file() as file:
        async with means.objects.open(job.object_key) as reading:
            stamp = _stamp(reading.stored)
            if checkpoint.get("stamp", stamp) != stamp:
                raise JobFailed("uploadId: the file was replaced while it was imported. Import it anew.", "uploadId")
            await queue.set_total(means.database, mine, reading.stored.size)
            # Counted here, too: not every object store keeps to the size that an upload was signed for.
            async for chunk in _limit_bytes(reading.chunks, means.max_bytes):
                await asyncio.to_thread(file.write, chunk)
        await _bring(means, job, mine, _items(means, file, job, checkpoint), handles=True, extra={"stamp": stamp})


@asynccontextmanager
async def _temporary_file() -> AsyncIterator[BinaryIO]:
    """A file that is gone when it is closed. To give a gigabyte back takes the system 50 ms: not those of the event loop."""
    file = TemporaryFile()  # noqa: SIM115  closed in a thread
    try:
        yield file
    finally:
        await asyncio.to_thread(file.close)


async def _limit_bytes(chunks: AsyncIterator[bytes], most: int) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > most:
            raise JobFailed(f"uploadId: the file has more than {most:,} bytes. Import it in parts.", "uploadId")
        yield chunk


def _stamp(stored: Stored) -> str:
    return f"{stored.size} {stored.modified.isoformat()}"


def _items(means: Means, file: BinaryIO, job: Row, checkpoint: Mapping[str, Any]) -> AsyncIterator[Any]:
    place = checkpoint if "offset" in checkpoint else None
    try:
        # Which handles there were is kept with the job, however large the file.
        return read_in_turns(file, job.file_name, place, remembers=False, max_rows=means.max_rows)
    except UnreadableFile as error:
        raise JobFailed(str(error)) from None


async def _import_shop(means: Means, job: Row, mine: Claim) -> None:
    [store] = await means.database.fetch(_store(), {"id": job.config_id})
    domain, token = _access(means.vault, store.integrations)
    async with Shop(domain, token, version=means.shopify_version, base=means.shopify_url) as shop:
        _check_currency(await shop.about(), store.currency)
        await queue.set_total(means.database, mine, await shopify_store.count(shop))
        checkpoint = job.checkpoint or {}
        # Another shop has been connected since: its products are others.
        place = checkpoint if "cursor" in checkpoint and checkpoint.get("domain") == domain else None
        items = shopify_store.read(shop, place, max_rows=means.max_rows)
        await _bring(means, job, mine, items, handles=False, extra={"domain": domain})


def _access(vault: Vault, integrations: Mapping[str, Any] | None) -> tuple[str, str]:
    connected = (integrations or {}).get("shopify") or {}
    if not connected.get("accessToken"):
        raise JobFailed(NOT_CONNECTED, "integrations.shopify")
    try:
        return connected["domain"], vault.decrypt(connected["accessToken"])
    except Undecryptable:
        field = "integrations.shopify.accessToken"
        raise JobFailed(f"{field}: cannot be decrypted any more. Set it again with updateConfig.", field) from None


def _check_currency(about: About, currency: str) -> None:
    if about.currency != currency:
        raise JobFailed(
            f"currency: the shop {about.domain} has its prices in {about.currency}, and this store in {currency}. "
            f"Prices are not converted: give the store the currency {about.currency} with updateConfig first.",
            "currency",
        )


async def _bring(
    means: Means, job: Row, mine: Claim, items: AsyncIterator[Any], *, handles: bool, extra: Mapping[str, Any]
) -> None:
    # Of a job that was tried again only what it has rejected since counts.
    forgiven = (job.checkpoint or {}).get("forgiven", 0)
    keeper = Kept(mine, handles=handles, extra={**extra, "forgiven": forgiven})
    max_rejected = job.options.get("maxRejectedRows", MAX_REJECTED_ROWS)
    moved: list[int | None] = [None]

    def tell(summary: ImportSummary) -> None:
        if summary.position != moved[0]:
            means.wakeups.publish(job.config_id)
        moved[0] = summary.position
        means.tell(job)

    summary = await import_products(
        means.database,
        job.config_id,
        items,
        dry_run=bool(job.options.get("preview")),
        actor_id=job.user_id,
        client_mutation_id=job.options.get("clientMutationId"),
        keeper=keeper,
        max_rejected=max_rejected,
        rejected_before=job.rejected - forgiven,
        patience=PATIENCE,
        progress=tell,
    )
    if summary.stop:
        raise JobFailed(summary.stop.problem, summary.stop.field)


@cache
def _store() -> Statement:
    return compiled(select(configs.c.integrations, configs.c.currency).where(configs.c.id == bindparam("id")))


# ------------------------------------------------------------------------------------------------- exports


async def _export(means: Means, job: Row, mine: Claim) -> Mapping[str, Any]:
    # From the beginning, each time: of a file that was cut off nothing is kept.
    await queue.begin_again(means.database, mine, await exports.count(means.database, job.config_id))
    key = f"exports/{job.config_id}/{job.id}.csv"
    size = await means.objects.put(key, _parts(means, job, mine), CSV)
    return {"object_key": key, "object_size": size}


async def _parts(means: Means, job: Row, mine: Claim) -> AsyncIterator[bytes]:
    summary, told, due = ExportSummary(), ExportSummary(), 0.0
    quotes = bool(job.options.get("quoteFormulas", True))

    async def tell() -> None:
        nonlocal told, due
        rows, rejected, new = summary.products - told.products, summary.rejected - told.rejected, len(told.issues)
        await advance(means.database, mine, summary.products, rows=rows, rejected=rejected, issues=summary.issues[new:])
        told, due = replace(summary, issues=[*summary.issues]), monotonic() + WORD
        means.tell(job)

    async for part in export_products(means.database, job.config_id, quotes=quotes, summary=summary):
        yield part
        if monotonic() > due:
            await tell()
    await tell()
