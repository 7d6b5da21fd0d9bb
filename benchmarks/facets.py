"""The facets of one big store, counted by the index and in SQL: CPU of each request, in the server and in Postgres together."""

import asyncio
import gc
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from time import process_time, sleep
from typing import Any

import psutil

from benchmarks.report import Cell, Table
from benchmarks.stage import STORE, Client, Stage, at, body_of, cpu_seconds
from storefront.core.db.database import Database
from storefront.queries.facet_index.counting import FacetCounter
from storefront.queries.facet_index.indexes import StoreIndex, build_index
from storefront.queries.facets import FILTERS_BY_FACET, list_fractions
from storefront.queries.listing import Selection, StoreScope, encode_attributes_filter
from storefront.queries.visibility import Audience

MAX_P50_MS, MAX_P95_MS, MAX_HOLD_MS = 15.0, 40.0, 20.0
WITHOUT_INDEX = {"STOREFRONT_FACET_INDEX_BYTES": "0", "STOREFRONT_RESPONSE_CACHE_BYTES": "0"}
WITH_INDEX = {"STOREFRONT_RESPONSE_CACHE_BYTES": "0"}
# Requests of the server with the index for each of the other, which takes a hundred times as long.
REQUESTS_PER_TURN = 10

_LIST = "query($store: ID!, $filter: ProductFilterInput, $search: String) { products(configId: $store, filter: $filter, \
search: $search, first: 1)"
_FACETS = {
    "categories": "categories { value count isSelected }",
    "vendors": "vendors { value count isSelected }",
    "product types": "productTypes { value count isSelected }",
    "tags": "tags { value count isSelected }",
    "attributes": "attributes { name values { value count isSelected } }",
    "price": "price { min max }",
    "price buckets": "priceBuckets { min max count isSelected }",
    "ratings": "ratings { minRating count isSelected }",
    "availability": "availability { inStock count isSelected }",
}
DOCUMENTS = {name: f"{_LIST} {{ nodes {{ id title price }} facets {{ {fields} }} }} }}" for name, fields in _FACETS.items()}
ALL = f"{_LIST} {{ nodes {{ id title price }} position facets {{ {' '.join(_FACETS.values())} }} }} }}"
WITHOUT_FACETS = f"{_LIST} {{ nodes {{ id title price }} position }} }}"


def measure(stage: Stage, rounds: int) -> Iterator[Table]:
    """All facets with none, one and two values chosen, each facet alone, after a write, and what the index takes."""
    with stage.server(**WITH_INDEX) as (port, pid), stage.server(**WITHOUT_INDEX) as (plain_port, plain_pid):
        servers = Server(stage, Client(port), pid), Server(stage, Client(plain_port), plain_pid)
        before = psutil.Process(pid).memory_info().rss
        servers[0].wait_for_index()
        grown = psutil.Process(pid).memory_info().rss - before
        selections = _list_selections(servers[1])
        _check(servers, selections)
        yield _compare(servers, selections, rounds)
        yield _compare_each(servers, selections, rounds)
    yield asyncio.run(_examine_index(stage, grown))


@dataclass(frozen=True, slots=True)
class Server:
    """A server over the stage."""

    stage: Stage
    client: Client
    pid: int

    def time(self, document: str, variables: Mapping[str, Any]) -> float:
        """Milliseconds of CPU that a request takes in the server and in Postgres."""
        body = body_of(document, store=STORE, **variables)
        before = self._read_cpu_ns()
        self.client.send(body)
        return (self._read_cpu_ns() - before) / 1e6

    def wait_for_index(self) -> None:
        """Ask until facets come from the index."""
        while self.time(DOCUMENTS["price buckets"], {}) > MAX_P95_MS:
            sleep(0.1)

    def _read_cpu_ns(self) -> int:
        postgres = psutil.Process(self.stage.postmaster)
        pids = [self.pid, postgres.pid, *(child.pid for child in postgres.children(recursive=True))]
        return sum(_read_cpu_ns(pid) for pid in pids)


def _read_cpu_ns(pid: int) -> int:
    """The CPU that all threads of a process have used. Unlike ticks, it tells what one request takes."""
    used = 0
    for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            used += int(thread.read_text().split()[0])
        except OSError:
            # It has ended since.
            continue
    return used


def _list_selections(server: Server) -> dict[str, list[dict[str, Any]]]:
    """The variables of requests, by what is chosen."""
    facets = server.client.ask(DOCUMENTS["attributes"], store=STORE)["products"]["facets"]["attributes"]
    values = {facet["name"].lower(): [value["value"] for value in facet["values"]] for facet in facets}
    random = Random(1)  # noqa: S311

    def choose(*names: str) -> dict[str, Any]:
        return {"filter": {"attributes": [{"name": name, "values": [random.choice(values[name])]} for name in names]}}

    categories = server.client.ask(DOCUMENTS["categories"], store=STORE)["products"]["facets"]["categories"]
    return {
        "nothing": [{}],
        "a colour": [choose("color") for _ in range(40)],
        "a colour and a size": [choose("color", "size") for _ in range(40)],
        "a category and a price": [
            {
                "filter": {
                    "categories": [random.choice(categories)["value"]],
                    "minPrice": "20",
                    "maxPrice": str(random.randint(30, 90)),
                }
            }
            for _ in range(40)
        ],
        "a search": [{"search": word} for word in ("leather", "linen", "mug", "oak chair", "soft")],
    }


def _check(servers: Sequence[Server], selections: Mapping[str, Sequence[dict[str, Any]]]) -> None:
    for variables in selections.values():
        for one in variables[:5]:
            found, expected = (server.client.ask(ALL, store=STORE, **one) for server in servers)
            if found != expected:
                raise RuntimeError(f"The facets differ for {json.dumps(one)}.")


def _compare(servers: tuple[Server, Server], selections: Mapping[str, Sequence[dict[str, Any]]], rounds: int) -> Table:
    rows: list[list[Cell]] = []
    for name, variables in selections.items():
        taken: tuple[list[float], list[float], list[float]] = [], [], []
        for number in range(rounds):
            # Another selection in each round: nothing is prepared for it.
            for n in range(REQUESTS_PER_TURN):
                chosen = variables[(number * REQUESTS_PER_TURN + n) % len(variables)]
                taken[0].append(servers[0].time(ALL, chosen))
                taken[1].append(servers[0].time(WITHOUT_FACETS, chosen))
            taken[2].append(servers[1].time(ALL, variables[number % len(variables)]))
        rows.append([name, *(at(found, part) for found in taken for part in (0.5, 0.95)), median(taken[2]) / median(taken[0])])
    two = next(row for row in rows if row[0] == "a colour and a size")
    holds = "✓" if float(two[1]) <= MAX_P50_MS and float(two[2]) <= MAX_P95_MS else "✗"
    note = f"""{holds} With two values chosen at most {MAX_P50_MS:g} ms at p50 and {MAX_P95_MS:g} ms at p95. Milliseconds of CPU
in the server and in Postgres together per request, which has all nine facets and one product; the product alone beside it."""
    columns = ("chosen", "index p50", "index p95", "product alone p50", "product alone p95", "SQL p50", "SQL p95", "SQL × index")
    return Table("facets", "All facets", columns, rows, note)


def _compare_each(servers: tuple[Server, Server], selections: Mapping[str, Sequence[dict[str, Any]]], rounds: int) -> Table:
    rows: list[list[Cell]] = []
    for facet, document in DOCUMENTS.items():
        row: list[Cell] = [facet]
        for name in ("nothing", "a colour and a size"):
            taken: tuple[list[float], list[float]] = [], []
            for number in range(rounds):
                for server, found in zip(servers, taken, strict=True):
                    found.append(server.time(document, selections[name][number % len(selections[name])]))
            row += [median(found) for found in taken]
        rows.append(row)
    columns = ("facet", "index", "SQL", "index, two chosen", "SQL, two chosen")
    return Table("each", "Each facet", columns, rows, "Medians, with the first product.")


async def _examine_index(stage: Stage, grown: int) -> Table:
    # As a server does: modules need not be traversed again.
    gc.collect()
    gc.freeze()
    async with Database(stage.url, size=2, statement_timeout=0) as database:
        before, began, began_in_postgres = psutil.Process().memory_info().rss, process_time(), cpu_seconds(stage.postmaster)
        index = await build_index(database, STORE)
        cpu, cpu_in_postgres = process_time() - began, cpu_seconds(stage.postmaster) - began_in_postgres
        grown_here = psutil.Process().memory_info().rss - before
        _, build_hold = await _watch(build_index(database, STORE))
        counting_hold = max([(await _watch(_count_all(index, selection)))[1] for selection in _list_hostile_selections(index)])
    products = index.latest.postings.product_count
    rows: list[list[Cell]] = [
        ["products", products],
        ["available variants", sum(map(len, index.latest.postings.variant_combinations))],
        ["memory of the server more than before, MB", grown / 1e6],
        ["memory of a process that builds it alone, MB", grown_here / 1e6],
        ["estimate, MB", index.memory_bytes / 1e6],
        ["bytes per product, measured", grown_here / products],
        ["CPU to build it, in the process, ms", cpu * 1_000],
        ["CPU to build it, in Postgres, ms", cpu_in_postgres * 1_000],
        ["longest hold of the event loop while it is built, ms of CPU", build_hold],
        ["longest hold of the event loop by filters of all values, ms of CPU", counting_hold],
    ]
    holds = "✓" if max(build_hold, counting_hold) <= MAX_HOLD_MS else "✗"
    return Table(
        "index", "The index", ("what", "figure"), rows, f"{holds} The event loop is held for at most {MAX_HOLD_MS:g} ms."
    )


async def _watch(work: Any) -> tuple[Any, float]:
    """The result of a coroutine, and the longest time that other tasks of the loop did not get, in milliseconds of CPU."""
    task, longest = asyncio.ensure_future(work), 0.0
    while not task.done():
        began = process_time()
        await asyncio.sleep(0)
        longest = max(longest, process_time() - began)
    return await task, longest * 1_000


async def _count_all(index: StoreIndex, selection: Selection) -> None:
    counter = FacetCounter(index.latest, StoreScope(STORE), selection)
    for facet in FILTERS_BY_FACET.keys() - {"category_texts"}:
        await counter.count(facet, list_fractions(10))


def _list_hostile_selections(index: StoreIndex) -> list[Selection]:
    postings = index.latest.postings
    pairs = [(name, value) for name, attribute in postings.attributes.items() for value in attribute.values]
    filters = {
        "attributes": encode_attributes_filter(pairs),
        "categories": tuple(postings.categories.products),
        "tags": tuple(postings.tags.products),
        "min_price": "0",
        "max_price": "99999999",
        "min_rating": 0.0,
    }
    chosen: list[dict[str, Any]] = [{}, filters, *({name: value} for name, value in filters.items())]
    return [Selection(audience, tuple(sorted(one.items()))) for one in chosen for audience in Audience]
