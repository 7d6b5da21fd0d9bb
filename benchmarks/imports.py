"""Throughput and memory of one worker that imports and exports a product file."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import psutil

from benchmarks.report import Cell, Table, err
from storefront.core.db import migrations
from storefront.core.db.database import Database
from storefront.core.db.embedded_postgres import embedded_postgres
from storefront.core.encryption import Vault, generate_key
from storefront.core.ids import new_id
from storefront.core.storage.disk import DiskStorage
from storefront.feed.keyed_events import KeyedEvents
from storefront.feed.pubsub import PubSub
from storefront.imports.jobs.handlers import JobDependencies
from storefront.imports.jobs.worker import WorkerPool

# Required rows per second of one worker, and the limit of extra megabytes for ten times the rows.
LEAST_ROWS, MOST_MB = 2_000, 10
HEADER = (
    "Handle,Title,Body (HTML),Type,Tags,Option1 Name,Option1 Value,Variant SKU,Variant Inventory Tracker,Variant Inventory Qty,"
    "Variant Price,Image Src,Image Position,Status\n"
)
SIZES = ("S", "M", "L")


def measure(rows: int) -> Iterator[Table]:
    """A file of a tenth of the rows, which warms up; then the whole one: new, the same again, at other prices; its export."""
    folder = Path(tempfile.mkdtemp(prefix="storefront-"))
    try:
        with embedded_postgres(folder) as url, err.status("imports"):
            migrations.migrate(url)
            yield asyncio.run(_measured(url, folder, rows))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _measured(url: str, folder: Path, rows: int) -> Table:
    async with Database(url, size=4) as database:
        disk = DiskStorage(folder / "files", "http://localhost", "none that anybody is told")
        means = JobDependencies(database, disk, Vault([generate_key()]), PubSub("memory://"))
        small, store = await new_store(database), await new_store(database)
        before = await _done(means, small, (rows // 10, 1))
        works = {"new products": 1, "the same again": 1, "other prices": 2}
        found = {name: await _done(means, store, (rows, price)) for name, price in works.items()}
        everything = found | {"export": await _done(means, store, None)}
    cells: list[list[Cell]] = [[name, rows, rows / took, 1_000_000 * cpu / rows] for name, (took, cpu, _) in everything.items()]
    slowest = min(rows / took for took, _, _ in found.values())
    grown = max(memory for _, _, memory in everything.values()) - before[2]
    note = f"""{_mark(slowest >= LEAST_ROWS)} One worker has to do {LEAST_ROWS:,} rows in a second, with Postgres on the same
machine. {_mark(grown <= MOST_MB)} While the whole file was imported and exported the process held {max(0.0, grown):.1f} MB
more than with a tenth of it, of at most {MOST_MB}. Rows are variants, three to a product. CPU is that of the worker's process."""
    return Table("imports", "Imports and exports", ("work", "rows", "rows/s", "CPU, ms for 1,000 rows"), cells, note)


async def new_store(database: Database) -> str:
    """A store and its owner."""
    user, store = new_id(), new_id()
    async with database.transaction() as connection:
        await connection.raw.execute("INSERT INTO users (id, email) VALUES (%s, %s)", [user, f"{user}@example.com"])
        values = [store, user, "Store", store]
        await connection.raw.execute("INSERT INTO configs (id, user_id, store_name, slug) VALUES (%s, %s, %s, %s)", values)
    return store


async def _done(means: JobDependencies, store: str, file: tuple[int, int] | None) -> tuple[float, float, float]:
    """Seconds, seconds of CPU, and megabytes at most that a job took."""
    kind, source = ("import", "shopify_csv") if file else ("export", "catalogue")
    key = f"{kind}s/{store}/{new_id()}.csv"
    if file:
        await means.objects.put(key, _file(*file), "text/csv")
    async with means.database.transaction() as connection:
        await connection.raw.execute(
            "INSERT INTO jobs (id, config_id, user_id, kind, source, object_key, file_name) "
            "SELECT %s, id, user_id, %s, %s, %s, 'shop.csv' FROM configs WHERE id = %s",
            [new_id(), kind, source, key if file else None, store],
        )
    watch = asyncio.create_task(_most())
    began, used = perf_counter(), process_time()
    await WorkerPool(means, KeyedEvents(), 1).run_next_job()
    took, cpu = perf_counter() - began, process_time() - used
    watch.cancel()
    most = await asyncio.gather(watch, return_exceptions=True)
    await _check(means.database, store)
    return took, cpu, float(str(most[0]))


async def _most() -> Any:
    """The megabytes that this process has held at most, told when it is cancelled."""
    process, most = psutil.Process(os.getpid()), 0.0
    try:
        while True:
            most = max(most, process.memory_info().rss / 1_000_000)
            await asyncio.sleep(0.05)
    except asyncio.CancelledError:
        return most


async def _check(database: Database, store: str) -> None:
    async with database.transaction() as connection:
        found = await connection.raw.execute("SELECT status, rejected, error FROM jobs WHERE config_id = %s", [store])
        for status, rejected, error in await found.fetchall():
            if status != "succeeded" or rejected:
                raise RuntimeError(f"{status}, {rejected} rows rejected: {error}")


async def _file(rows: int, price: int) -> AsyncIterator[bytes]:
    yield HEADER.encode()
    for n in range(rows):
        yield _row(n, price).encode()


def _row(n: int, price: int) -> str:
    product, size = divmod(n, len(SIZES))
    words = "Copper and glass, made by hand. " * 8
    first = f'Lantern {product},"<p>{words}</p>",Lanterns,"copper, glass",Size' if size == 0 else ",,,,"
    return (
        f"lantern-{product},{first},{SIZES[size]},SKU-{n},shopify,{n % 90},{price}{n % 90}.50,"
        f"https://cdn.example.com/{n}.jpg,{size + 1},{'active' if size == 0 else ''}\n"
    )


def _mark(holds: bool) -> str:
    return "✓" if holds else "✗"
