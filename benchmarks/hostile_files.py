"""The cost of hostile product files to a worker: the longest stall of its event loop, and its peak memory.

Each file is imported as a job in a process of its own, so that the peak of its memory is its own.
"""

import asyncio
import gc
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any

from benchmarks.imports import new_store
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

# Limits: milliseconds of CPU of one event loop step, and megabytes beyond those of a small file.
MAX_STALL_MS, MAX_GROWTH_MB = 20.0, 60.0
HEADER = b"Handle,Title,Option1 Name,Option1 Value,Variant Price,Image Src,Body (HTML)\n"
FIRST = b"mug,Mug,Size,S,5,https://cdn.example.com/1.jpg,Holds tea\n"

# The head of each file, and the part that is repeated up to its size.
FILES: dict[str, tuple[bytes, bytes]] = {
    "a sound file of few rows": (HEADER + FIRST, b""),
    "a quote that is opened again and again": (HEADER + b'a,b,"', b'x","\n'),
    "a quote that is never closed": (HEADER + FIRST + b'cup,"', b"word after word,\n"),
    "a quote never closed, short lines": (HEADER + FIRST + b'cup,"', b"\n"),
    "one line of letters": (HEADER + FIRST, b"x"),
    "a header without an end": (b"Handle,Title,", b"column,"),
    "quotes": (HEADER + FIRST, b'"'),
    "lines of quotes": (HEADER + FIRST, b'""""""""\n'),
    "commas in one line": (HEADER + FIRST, b","),
    "lines of commas": (HEADER + FIRST, b",,,,,,\n"),
    "long lines of short cells": (HEADER + FIRST, b"ab," * 16_000 + b"\n"),
    "line feeds": (HEADER + FIRST, b"\n"),
    "carriage returns": (HEADER + FIRST, b"\r"),
    "NUL characters": (HEADER + FIRST, b"\0"),
    "NUL in every handle": (HEADER, b"a\0b,Mug,,,5,,\n"),
    "bytes that are not UTF-8": (HEADER + FIRST, b"caf\xe9,Mug,,,5,,\n"),
    "UTF-16": ("\ufeffHandle,Title\n".encode("utf-16-le"), "mug,Mug\n".encode("utf-16-le")),
    "rows of one product with the same image": (HEADER + FIRST, b"mug,,,,,https://cdn.example.com/1.jpg,\n"),
    "rows that are rejected with long cells": (HEADER, b"%s,Mug,,,5,,\n" % (b"/" * 100_000)),
    "descriptions of spaces": (HEADER, b"cup,%s,,,5,,\n" % (b" " * 100_000)),
}
# Megabytes of files with valid rows, whose time goes into writes.
MAX_SOUND_MB = 4
# Files with distinct repetitions: {n} is the number.
NUMBERED: dict[str, tuple[bytes, bytes]] = {
    "a product of a million variants": (HEADER + FIRST, b"mug,,,V%d,5,,\n"),
    "products of 2,048 variants": (
        HEADER,
        b"p-%d,P,Size,S,5,,\n" + b"".join(b"p-%%d,,,V%d,5,,\n" % n for n in range(2_047)),
    ),
    "long image addresses": (HEADER, b"p-%d,P,,,5,https://cdn.example.com/" + b"a" * 2_000 + b",\n"),
}


def measure(megabytes: list[int]) -> Iterator[Table]:
    """Each file in each size."""
    folder = Path(tempfile.mkdtemp(prefix="storefront-"))
    try:
        with embedded_postgres(folder) as url, err.status("hostile files") as status:
            migrations.migrate(url)
            usual: dict[str, Any] = {}
            for size in megabytes:
                rows: list[list[Cell]] = []
                for name in (*FILES, *NUMBERED):
                    status.update(f"{size} MB of {name}")
                    found = _imported(url, folder, name, size)
                    usual = usual or found
                    rows.append([name, found["end"], found["rejected"], found["seconds"], found["stall"], found["peak"]])
                yield _table(size, rows, float(usual["peak"]))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _table(size: int, rows: list[list[Cell]], usual: float) -> Table:
    stall, grown = max(float(row[4]) for row in rows), max(float(row[5]) for row in rows) - usual
    note = f"""{_mark(stall <= MAX_STALL_MS)} No step of an import may hold the event loop for more than {MAX_STALL_MS:g} ms
of CPU: the longest held it for {stall:.1f}. {_mark(grown <= MAX_GROWTH_MB)} A worker holds {usual:.0f} MB for a sound file
of few rows, and may hold {MAX_GROWTH_MB:g} more: it held {grown:.1f} more at most. Of products of 2,048 variants there are
{MAX_SOUND_MB} MB in each file."""
    columns = ("file", "end", "rejected", "s", "longest step, ms of CPU", "peak RSS, MB")
    return Table(f"hostile-files-{size}", f"Hostile files of {size:,} MB", columns, rows, note)


def _imported(url: str, folder: Path, name: str, size: int) -> dict[str, Any]:
    words = [sys.executable, "-m", "benchmarks.hostile_files", url, str(folder / "files"), name, str(size)]
    done = subprocess.run(words, stdout=subprocess.PIPE, check=True)
    return dict(json.loads(done.stdout))


def _mark(holds: bool) -> str:
    return "✓" if holds else "✗"


# ------------------------------------------------------------------------------------------ in its own process


async def _run(url: str, folder: Path, name: str, size: int) -> dict[str, Any]:
    async with Database(url, size=4) as database:
        means = JobDependencies(
            database, DiskStorage(folder, "http://localhost", "a secret"), Vault([generate_key()]), PubSub("memory://")
        )
        store, job = await new_store(database), new_id()
        key = f"imports/{store}/{job}.csv"
        await means.objects.put(key, _content(name, size * 1_000_000), "text/csv")
        async with database.transaction() as connection:
            await connection.raw.execute(
                "INSERT INTO jobs (id, config_id, user_id, kind, source, object_key, file_name) "
                "SELECT %s, id, user_id, 'import', 'shopify_csv', %s, 'shop.csv' FROM configs WHERE id = %s",
                [job, key, store],
            )
        began = perf_counter()
        with _steps() as longest:
            await WorkerPool(means, KeyedEvents(), 1).run_next_job()
        seconds = perf_counter() - began
        await means.objects.delete(key)
        async with database.transaction() as connection:
            found = await connection.raw.execute("SELECT status, rejected, error FROM jobs WHERE id = %s", [job])
            [(status, rejected, error)] = await found.fetchall()
    end = f"{status}: {error['message'][:80]}" if error else status
    return {"end": end, "rejected": rejected, "seconds": seconds, "stall": 1_000 * longest[0], "peak": _peak()}


def _peak() -> float:
    """Megabytes that this process has held at most. Not what getrusage says: there a process begins with its parent's peak."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1_000


async def _content(name: str, size: int) -> AsyncIterator[bytes]:
    first, again = FILES.get(name) or NUMBERED[name]
    yield first
    left = size - len(first)
    if name in NUMBERED:
        left = min(left, MAX_SOUND_MB * 1_000_000)
        for n in count():
            part = again.replace(b"%d", b"%d" % n)
            if len(part) > left:
                return
            left -= len(part)
            yield part
    part = again * (1_000_000 // len(again)) if again else b""
    while part and left > 0:
        yield part[:left]
        left -= len(part)


@contextmanager
def _steps() -> Iterator[list[float]]:
    """The seconds of CPU that the longest step of the event loop took while this lasted."""
    longest, step = [0.0], asyncio.Handle._run

    def timed(self: asyncio.Handle) -> None:
        began = thread_time()
        step(self)
        longest[0] = max(longest[0], thread_time() - began)

    # As the server does: exclude existing objects from garbage collection.
    gc.collect()
    gc.freeze()
    asyncio.Handle._run = timed  # type: ignore[method-assign]
    try:
        yield longest
    finally:
        asyncio.Handle._run = step  # type: ignore[method-assign]


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_run(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])))))
