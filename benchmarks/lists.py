"""Live lists: what an event of `productList` costs beside one of `productFeed`, and a change to a thousand different lists."""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import psycopg

from benchmarks.fanout import EARLY, Crowd, Scene, listening, measure_memory, read_received, write_changes
from benchmarks.report import Cell, Table, err
from benchmarks.stage import Stage, at, cpu_seconds

# What a delivery and an idle listener of a list may cost.
MAX_DELIVERY_MICROSECONDS, MAX_MEMORY_RATIO = 25.0, 1.2
# Lists of the thousand that have the product that changes.
TOUCHED_LISTS = 10
LIST_PRODUCTS = 20
# Changes that touch all lists, and the seconds from one to the next.
SLOW_CHANGES, SLOW_INTERVAL = 5, 10.0
# Listeners that end before any change are never done.
NEVER = 1_000_000

_NEWEST = """SELECT p.config_id::text, array_agg(p.id::text ORDER BY p.created_at DESC, p.id DESC)
  FROM products p JOIN configs c ON c.id = p.config_id WHERE is_published AND status = 'active'
  GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 1"""


@dataclass(frozen=True, slots=True)
class Audience:
    """Listeners with the same document: those that receive each change, and those that receive none."""

    name: str
    document: str
    crowd: Crowd
    reached: Sequence[Mapping[str, Any]]
    unreached: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Run:
    """CPU of the server and of Postgres per change in ms, the server's per delivery in µs, kB per idle listener, and the
    milliseconds until the last listener had a change.
    """

    server: float
    postgres: float
    delivery: float
    memory: float
    p50: float
    p99: float


_COLUMNS = {
    "server": "ms of CPU per change",
    "postgres": "ms of Postgres per change",
    "delivery": "µs of CPU per delivery",
    "memory": "kB per idle listener",
    "p50": "p50 ms to the last",
    "p99": "p99 ms to the last",
}


def measure(stage: Stage, crowd: Crowd, rounds: int) -> Iterator[Table]:
    """Equal lists beside the feed, and different lists of one store, in turns."""
    with psycopg.connect(stage.url) as connection:
        [(store, newest)] = connection.execute(_NEWEST).fetchall()
    audiences = _build_audiences(store, newest, crowd)
    runs: dict[str, list[Run]] = {audience.name: [] for audience in audiences}
    for number in range(rounds):
        for audience in audiences:
            with err.status(f"round {number + 1} of {rounds}: {audience.name}"):
                runs[audience.name].append(_run(stage, Scene(stage.url, store, newest[0], audience.crowd), audience))
    medians = {
        name: {column: median(getattr(run, column) for run in found) for column in _COLUMNS} for name, found in runs.items()
    }
    rows: list[list[Cell]] = [[name, *cells.values(), _judge(name, medians)] for name, cells in medians.items()]
    yield Table(
        "lists",
        f"{crowd.listeners:,} listeners of live lists",
        ("listeners", *_COLUMNS.values(), "what has to hold"),
        rows,
        f"Medians of {rounds} rounds in turns, one process, {crowd.changes} changes of a price, ten a second (of all lists: "
        f"{SLOW_CHANGES}, one every {SLOW_INTERVAL:.0f} seconds), in a store of {len(newest):,} products. Every listener "
        "received every change of its list once, in order, or this would have failed.",
    )


def _build_audiences(store: str, newest: Sequence[str], crowd: Crowd) -> list[Audience]:
    page, count = {"configId": store}, crowd.listeners
    # All of them contain the newest product, and each is another list.
    overlapping = [
        {**page, "filter": {"minPrice": f"{number / 1000:.3f}"[:-1]}, "first": 1 + number % 100} for number in range(count)
    ]
    others = newest[1:]
    windows = [
        [others[(number * 7 + step) % len(others)] for step in range(LIST_PRODUCTS)] for number in range(count - TOUCHED_LISTS)
    ]
    picked = [{**page, "filter": {"ids": ids}, "first": 1 + number // len(others)} for number, ids in enumerate(windows)]
    touched = [{**page, "filter": {"ids": [newest[0], *others[number : number + 5]]}} for number in range(TOUCHED_LISTS)]
    return [
        Audience("the feed", "feed", crowd, [page] * count),
        Audience("one list", "list", crowd, [page] * count),
        Audience(f"different lists, {TOUCHED_LISTS} of them touched", "list", crowd, touched, picked),
        # Changes that come while lists are evaluated are taken together: here each is evaluated before the next one.
        Audience(
            "different lists, all touched", "list", replace(crowd, changes=SLOW_CHANGES, interval=SLOW_INTERVAL), overlapping
        ),
    ]


def _judge(name: str, medians: Mapping[str, Mapping[str, float]]) -> Cell:
    if name != "one list":
        return ""
    cost, memory = medians[name]["delivery"], medians[name]["memory"] / medians["the feed"]["memory"]
    mark = "✓" if cost <= MAX_DELIVERY_MICROSECONDS and memory <= MAX_MEMORY_RATIO else "✗"
    return f"{mark} ≤ {MAX_DELIVERY_MICROSECONDS:.0f} µs; {memory:.2f}× the feed's memory (≤ {MAX_MEMORY_RATIO}×)"


def _run(stage: Stage, scene: Scene, audience: Audience) -> Run:
    changes = scene.crowd.changes
    with stage.server(STOREFRONT_BROADCAST_URL=stage.url, STOREFRONT_MAX_LIVE_LISTS="2000") as (port, pid), ExitStack() as stack:
        warm_up = {"configId": scene.store}
        stack.enter_context(listening(port, audience.document, [warm_up] * EARLY, NEVER))
        time.sleep(1)
        before = measure_memory(pid)
        if audience.unreached:
            stack.enter_context(listening(port, audience.document, audience.unreached, NEVER))
        listeners = stack.enter_context(listening(port, audience.document, audience.reached, changes))
        time.sleep(2)
        count = len(audience.reached) + len(audience.unreached)
        memory = (measure_memory(pid) - before) / count / 1000
        used, used_postgres = cpu_seconds(pid), cpu_seconds(stage.postmaster)
        commits = asyncio.run(write_changes(scene))
        waits, _ = read_received(listeners, commits)
        server, postgres = cpu_seconds(pid) - used, cpu_seconds(stage.postmaster) - used_postgres
    deliveries = (len(audience.reached) + EARLY) * changes
    per_change = 1000 / changes
    return Run(server * per_change, postgres * per_change, server * 1e6 / deliveries, memory, at(waits, 0.5), at(waits, 0.99))
