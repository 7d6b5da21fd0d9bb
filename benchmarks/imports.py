"""Throughput, memory and responsiveness of one worker that imports and exports product files of several formats."""

import asyncio
import csv
import io
import os
import shutil
import tempfile
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, process_time, thread_time
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

import orjson
import psutil

from benchmarks.report import Cell, Table, err
from storefront.core.db import migrations
from storefront.core.db.database import Database
from storefront.core.db.embedded_postgres import embedded_postgres
from storefront.core.encryption import Vault, generate_key
from storefront.core.ids import new_id
from storefront.core.memory import tune_garbage_collection
from storefront.core.storage.disk import DiskStorage
from storefront.feed.keyed_events import KeyedEvents
from storefront.feed.pubsub import PubSub
from storefront.imports.jobs.handlers import JobDependencies
from storefront.imports.jobs.worker import WorkerPool

# Required rows per second of one worker for new products of a CSV file, the limit of extra megabytes for ten times the rows, and
# of milliseconds for which a callback may hold the event loop.
LEAST_ROWS, MOST_MB, MOST_HELD_MS = 5_000, 10, 20
COLUMNS = (
    *("Handle", "Title", "Body (HTML)", "Type", "Tags", "Option1 Name", "Option1 Value", "Variant SKU"),
    *("Variant Inventory Tracker", "Variant Inventory Qty", "Variant Price", "Image Src", "Image Position", "Status"),
)
WOO_COLUMNS = (
    *(
        "ID",
        "Type",
        "SKU",
        "Name",
        "Published",
        "Description",
        "Stock",
        "Regular price",
        "Categories",
        "Tags",
        "Images",
        "Parent",
    ),
    *("Attribute 1 name", "Attribute 1 value(s)"),
)
SIZES = ("S", "M", "L")


class Done(NamedTuple):
    """What a job took: seconds, seconds of CPU, the most megabytes of the process, and the longest callback in ms of CPU."""

    seconds: float
    cpu: float
    megabytes: float
    held_ms: float


def measure(rows: int) -> Iterator[Table]:
    """Files of a tenth of the rows, which warm up; then whole ones: CSV new, again, at other prices, its export; the others."""
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
        # As a server does.
        tune_garbage_collection()
        found, grown = dict[str, Done](), 0.0
        for name, write in FORMATS.items():
            small, store = await new_store(database), await new_store(database)
            before = await _done(means, small, write(rows // 10, 1), name)
            found[f"{name}, new products"] = await _done(means, store, write(rows, 1), name)
            if name == "csv":
                found["csv, the same again"] = await _done(means, store, write(rows, 1), name)
                found["csv, other prices"] = await _done(means, store, write(rows, 2), name)
                found["csv, export"] = await _done(means, store, None, name)
            ours = [done.megabytes for work, done in found.items() if work.startswith(f"{name},")]
            grown = max(grown, max(ours) - before.megabytes)
    cells: list[list[Cell]] = [
        [name, rows, rows / done.seconds, 1_000_000 * done.cpu / rows, done.held_ms] for name, done in found.items()
    ]
    rate, held = rows / found["csv, new products"].seconds, max(done.held_ms for done in found.values())
    note = f"""{_mark(rate >= LEAST_ROWS)} One worker has to import {LEAST_ROWS:,} new rows of CSV in a second, with Postgres on
the same machine. {_mark(grown <= MOST_MB)} While a whole file was imported or exported the process held {max(0.0, grown):.1f} MB
more than with a tenth of it, of at most {MOST_MB}. {_mark(held <= MOST_HELD_MS)} No callback held the event loop for more than
{MOST_HELD_MS} ms. Rows are variants, three to a product; a WooCommerce file has a row for each product besides. CPU is that of
the worker's process, and of a callback that of its thread; that of the process that unpacks workbooks is not counted."""
    return Table("imports", "Imports and exports", ("work", "rows", "rows/s", "CPU, ms for 1,000 rows", "held, ms"), cells, note)


@contextmanager
def _timing_callbacks() -> Iterator[list[float]]:
    """The longest callback of the event loop so far, in milliseconds of its thread's CPU: independent of other processes."""
    longest, step = [0.0], asyncio.Handle._run

    def run(handle: asyncio.Handle) -> None:
        began = thread_time()
        step(handle)
        longest[0] = max(longest[0], 1_000 * (thread_time() - began))

    asyncio.Handle._run = run  # type: ignore[method-assign, assignment]
    try:
        yield longest
    finally:
        asyncio.Handle._run = step  # type: ignore[method-assign]


async def new_store(database: Database) -> str:
    """A store and its owner."""
    user, store = new_id(), new_id()
    async with database.transaction() as connection:
        await connection.raw.execute("INSERT INTO users (id, email) VALUES (%s, %s)", [user, f"{user}@example.com"])
        values = [store, user, "Store", store]
        await connection.raw.execute("INSERT INTO configs (id, user_id, store_name, slug) VALUES (%s, %s, %s, %s)", values)
    return store


async def _done(means: JobDependencies, store: str, content: Iterator[bytes] | None, name: str) -> Done:
    """What a job took that imports this file, or exports the store."""
    kind, source = ("import", "shopify_csv") if content else ("export", "catalogue")
    key = f"{kind}s/{store}/{new_id()}.csv"
    if content:
        await means.objects.put(key, _iterate(content), "text/csv")
    async with means.database.transaction() as connection:
        await connection.raw.execute(
            "INSERT INTO jobs (id, config_id, user_id, kind, source, object_key, file_name) "
            "SELECT %s, id, user_id, %s, %s, %s, %s FROM configs WHERE id = %s",
            [new_id(), kind, source, key if content else None, f"shop.{name}", store],
        )
    watch = asyncio.create_task(_most())
    with _timing_callbacks() as longest:
        began, used = perf_counter(), process_time()
        await WorkerPool(means, KeyedEvents(), 1).run_next_job()
        took, cpu = perf_counter() - began, process_time() - used
    watch.cancel()
    most = await asyncio.gather(watch, return_exceptions=True)
    await _check(means.database, store)
    return Done(took, cpu, float(str(most[0])), longest[0])


async def _iterate(content: Iterator[bytes]) -> AsyncIterator[bytes]:
    for part in content:
        yield part


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


def _write_csv(rows: int, price: int) -> Iterator[bytes]:
    return _render_csv(COLUMNS, (_build_row(n, price) for n in range(rows)))


def _render_csv(header: Sequence[str], rows: Iterator[Sequence[Any]]) -> Iterator[bytes]:
    for row in (header, *rows):
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(row)
        yield line.getvalue().encode()


def _build_row(n: int, price: int) -> Sequence[Any]:
    product, size = divmod(n, len(SIZES))
    first = (f"Lantern {product}", _DESCRIPTION, "Lanterns", "copper, glass", "Size") if size == 0 else ("",) * 5
    variant = (SIZES[size], f"SKU-{n}", "shopify", n % 90, f"{price}{n % 90}.50", _get_image(n), size + 1)
    return (f"lantern-{product}", *first, *variant, "active" if size == 0 else "")


def _get_image(n: int) -> str:
    return f"https://cdn.example.com/{n}.jpg"


_DESCRIPTION = f"<p>{'Copper and glass, made by hand. ' * 8}</p>"


def _write_workbook(rows: int, price: int) -> Iterator[bytes]:
    file, main = io.BytesIO(), 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    relations = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = 'xmlns="http://schemas.openxmlformats.org/package/2006/relationships"'
    sheet_type = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"
    types = (
        '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        '<Default Extension="xml" ContentType="application/xml"/>'
        f'<Override PartName="/xl/workbook.xml" ContentType="{sheet_type}"/></Types>'
    )
    target = f'<Relationship Id="r1" Type="{relations}/'
    entry = '<sheet name="A" sheetId="1" r:id="r1"/>'
    sheet_relation = f'{target}worksheet" Target="worksheets/sheet1.xml"/>'
    parts = {
        "[Content_Types].xml": types,
        "_rels/.rels": f'<Relationships {package}>{target}officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook {main} xmlns:r="{relations}"><sheets>{entry}</sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f"<Relationships {package}>{sheet_relation}</Relationships>",
    }
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in parts.items():
            archive.writestr(name, text)
        with archive.open("xl/worksheets/sheet1.xml", "w") as sheet:
            sheet.write(f"<worksheet {main}><sheetData>".encode())
            for row in (COLUMNS, *(_build_row(n, price) for n in range(rows))):
                cells = "".join(f'<c t="inlineStr"><is><t>{escape(str(cell))}</t></is></c>' for cell in row)
                sheet.write(f"<row>{cells}</row>".encode())
            sheet.write(b"</sheetData></worksheet>")
    yield file.getvalue()


def _write_json_lines(rows: int, price: int) -> Iterator[bytes]:
    for product in range(-(-rows // len(SIZES))):
        numbers = range(product * len(SIZES), min(rows, (product + 1) * len(SIZES)))
        variants = [
            {
                "sku": f"SKU-{n}",
                "price": f"{price}{n % 90}.50",
                "inventory": n % 90,
                "attributes": {"Size": SIZES[n % len(SIZES)]},
            }
            for n in numbers
        ]
        values: dict[str, Any] = {"handle": f"lantern-{product}", "title": f"Lantern {product}", "descriptionHtml": _DESCRIPTION}
        values |= {"productType": "Lanterns", "tags": ["copper", "glass"], "status": "active"}
        yield orjson.dumps({**values, "images": [*map(_get_image, numbers)], "variants": variants}) + b"\n"


def _write_woocommerce(rows: int, price: int) -> Iterator[bytes]:
    all_sizes = ", ".join(SIZES)

    def build_rows() -> Iterator[Sequence[Any]]:
        for n in range(rows):
            product, size = divmod(n, len(SIZES))
            if size == 0:
                values: Sequence[Any] = (
                    1,
                    _DESCRIPTION,
                    "",
                    "",
                    "Lanterns",
                    "copper, glass",
                    _get_image(n),
                    "",
                    "Size",
                    all_sizes,
                )
                yield (f"{n}p", "variable", f"P-{product}", f"Lantern {product}", *values)
            values = (1, "", n % 90, f"{price}{n % 90}.50", "", "", _get_image(n), f"P-{product}", "Size", SIZES[size])
            yield (n, "variation", f"SKU-{n}", f"Lantern {product} - {SIZES[size]}", *values)

    return _render_csv(WOO_COLUMNS, build_rows())


# Each writes a file of so many rows at some prices.
FORMATS: dict[str, Callable[[int, int], Iterator[bytes]]] = {
    "csv": _write_csv,
    "xlsx": _write_workbook,
    "jsonl": _write_json_lines,
    "woocommerce.csv": _write_woocommerce,
}


def _mark(holds: bool) -> str:
    return "✓" if holds else "✗"
