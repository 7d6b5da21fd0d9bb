"""A page of products with variants, reviews and the total, beside the floor for the same bytes."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

from benchmarks.report import Cell, Table
from benchmarks.stage import STORE, Client, Cost, Stage, body_of, free_port, process

ROUNDS = 3
SIMPLEST = "`{ __typename }`"

PAGE = """query Page($store: ID!, $first: Int!) { products(configId: $store, first: $first) { totalCount nodes {
  id title handle price compareAtPrice images category inventory status createdAt
  variants(first: 5) { nodes { id name price compareAtPrice inventory sku } }
  reviews(first: 3) { nodes { id rating title createdAt } } } } }"""
UNCOUNTED = PAGE.replace("totalCount ", "")


@dataclass(frozen=True, slots=True)
class Work:
    """A request that is sent over and over, and the process that answers it."""

    client: Client
    body: bytes
    pid: int


def pages(stage: Stage) -> Iterator[Table]:
    """Pages of 1, 20 and 100 products: statements, CPU, waiting, and the ratio to the floor."""
    with stage.serving() as client, _floor(stage) as (floor, floor_pid):
        works = {SIMPLEST: Work(client, body_of("{ __typename }"), stage.pid)}
        for first in (1, 20, 100):
            _check(client, floor, first)
            page, uncounted = (body_of(document, store=STORE, first=first) for document in (PAGE, UNCOUNTED))
            works[f"{first} products"] = Work(client, page, stage.pid)
            works[f"{first} products, no total"] = Work(client, uncounted, stage.pid)
            works[f"{first} products, floor"] = Work(floor, page, floor_pid)
        costs = _in_turn(stage, works)
        with stage.logged() as log:
            statements = {name: log.count(work.client, work.body) for name, work in works.items()}
    yield _table(costs, statements)


@contextmanager
def _floor(stage: Stage) -> Iterator[tuple[Client, int]]:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "benchmarks.floor:app", "--port", str(port), "--log-level", "warning"]
    with process(command, port, STOREFRONT_DATABASE_URL=stage.url, PYTHONPATH=os.getcwd()) as floor:
        yield Client(port), floor.pid


def _check(client: Client, floor: Client, first: int) -> None:
    """What is faster because it says something else is not faster."""
    ours, theirs = (one.ask(PAGE, store=STORE, first=first) for one in (client, floor))
    if ours != theirs:
        raise RuntimeError(f"The floor answers otherwise: {str(ours)[:700]} {str(theirs)[:700]}")


def _in_turn(stage: Stage, works: Mapping[str, Work]) -> dict[str, Cost]:
    """Each work in each of the rounds: a neighbour who is busy for ten seconds then slows all of them alike."""
    rounds: dict[str, list[Cost]] = {name: [] for name in works}
    for number in range(ROUNDS + 1):
        for name, work in works.items():
            cost = stage.cost(work.client.send, work.body, work.pid, seconds=1.5 if number else 0.3)
            # The first round only warms up: prepared statements, caches.
            rounds[name] += [cost] if number else []
    return {name: _median(costs) for name, costs in rounds.items()}


def _median(costs: list[Cost]) -> Cost:
    parts = zip(*((cost.server, cost.postgres, cost.p50, cost.p99) for cost in costs), strict=True)
    server, postgres, p50, p99 = (median(part) for part in parts)
    return Cost(server, postgres, p50, p99, sum(cost.requests for cost in costs))


def _table(costs: Mapping[str, Cost], statements: Mapping[str, int]) -> Table:
    columns = "request", "statements", "server CPU ms", "Postgres CPU ms", "p50 ms", "p99 ms", "× simplest", "× floor", "requests"
    rows: list[list[Cell]] = []
    for name, cost in costs.items():
        floor = costs.get(f"{name.partition(',')[0]}, floor")
        ratios: list[Cell] = [cost.server / costs[SIMPLEST].server, cost.server / floor.server if floor else "–"]
        rows.append([name, statements[name], cost.server, cost.postgres, cost.p50, cost.p99, *ratios, cost.requests])
    note = (
        "Variants (5) and reviews (3) of every product. Ratios of the server's CPU: to the simplest request and to the floor, "
        "a bare ASGI application that hands one JSON statement through and gives the same answer, value by value."
    )
    return Table("pages", "Pages", columns, rows, note)
