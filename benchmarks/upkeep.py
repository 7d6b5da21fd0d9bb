"""Occasional work: loading a store's words, updating popularity, and server start."""

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable, Iterator

from benchmarks.report import Cell, Table
from benchmarks.stage import FOLDER, STORE, Client, Stage, cpu_seconds, free_port, process, serve_command
from storefront.analytics.commands import refresh_popularity
from storefront.core.db.database import Database
from storefront.queries.listing import Selection, StoreScope
from storefront.queries.search import parse_search
from storefront.queries.spelling import CorrectionBudget, SpellingCorrector
from storefront.queries.visibility import Audience

TYPOS = "linnen", "xylophone", "copppr mug"
START_WITHIN = 5.0

TRY = "{ configs(first: 1) { nodes { storeName products(first: 3) { nodes { title price } } } } }"


async def _timed(stage: Stage, work: Callable[[], Awaitable[object]]) -> list[Cell]:
    """Seconds by the clock, of CPU in this process, of CPU in Postgres; all as milliseconds."""
    began, cpu, postgres = time.perf_counter(), time.process_time(), cpu_seconds(stage.postmaster)
    await work()
    spent = time.perf_counter() - began, time.process_time() - cpu, cpu_seconds(stage.postmaster) - postgres
    return [1000 * seconds for seconds in spent]


def vocabulary(stage: Stage) -> Iterator[Table]:
    """Load a store's words for the first search without results, and correct searches with them."""

    async def measure() -> list[list[Cell]]:
        rows: list[list[Cell]] = []
        async with Database(stage.url, size=1) as database:
            for text in TYPOS:
                kept, selection = SpellingCorrector(), Selection(Audience.SHOPPER, search=parse_search(text))

                async def mend(kept: SpellingCorrector = kept, selection: Selection = selection) -> None:
                    await kept.correct_scopes(database, [StoreScope(STORE)], selection, CorrectionBudget())

                rows += [
                    [f"`{text}`, words read", *await _timed(stage, mend)],
                    [f"`{text}`, words kept", *await _timed(stage, mend)],
                ]
        return rows

    columns = "search", "ms", "CPU ms here", "CPU ms in Postgres"
    yield Table("vocabulary", "Words of a store", columns, asyncio.run(measure()), "One store, all its products.")


def popularity(stage: Stage) -> Iterator[Table]:
    """Counting popularity anew: every product changed, and none."""
    if not stage.sizes.events:
        return

    async def measure() -> list[list[Cell]]:
        async with Database(stage.url, size=1) as database:

            async def refresh() -> None:
                await refresh_popularity(database)

            return [[what, *await _timed(stage, refresh)] for what in ("all products change", "nothing changed")]

    stage.run("UPDATE products SET popularity = popularity + 1000000", "VACUUM ANALYZE products")
    rows = asyncio.run(measure())
    stage.settle()
    columns = "refresh", "ms", "CPU ms here", "CPU ms in Postgres"
    yield Table("popularity", f"Popularity from {stage.sizes.events:,} events", columns, rows)


def start(_: Stage) -> Iterator[Table]:
    """From the command to the first answer, with demo data: the first time and, what matters, later."""
    data = FOLDER / "start"
    shutil.rmtree(data, ignore_errors=True)
    rows: list[list[Cell]] = [[name, _start(str(data.resolve()))] for name in ("first", "second", "third")]
    shutil.rmtree(data)
    note = f"`storefront serve --demo` until a query is answered. The second must stay below {START_WITHIN:.0f} s."
    yield Table("start", "Cold start", ("start", "seconds"), rows, note)


def _start(data: str) -> float:
    port, began = free_port(), time.perf_counter()
    with process(serve_command(port, "--demo"), port, STOREFRONT_DATA_DIR=data):
        Client(port).ask(TRY)
        return time.perf_counter() - began
