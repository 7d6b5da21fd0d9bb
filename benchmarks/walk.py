"""Pagination through all products of a big store, in every sort order and both directions."""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.report import Cell, Table
from benchmarks.stage import STORE, Client, Log, Stage

KEYS = "CREATED_AT", "UPDATED_AT", "PRICE", "NAME", "POPULARITY", "RATING"
SAMPLES = 30
DEEP = 900

FORTH = """query Forth($store: ID!, $sort: ProductSortInput!, $first: Int!, $after: String, $search: String) {
  products(configId: $store, sort: $sort, first: $first, after: $after, search: $search) {
    nodes { id } pageInfo { hasNextPage endCursor } } }"""
BACK = """query Back($store: ID!, $sort: ProductSortInput!, $last: Int!, $before: String, $search: String) {
  products(configId: $store, sort: $sort, last: $last, before: $before, search: $search) {
    nodes { id } pageInfo { hasPreviousPage startCursor } } }"""


@dataclass(frozen=True, slots=True)
class Walker:
    """One order and direction, and the search that the list is of, if any."""

    client: Client
    key: str
    order: str
    forth: bool
    search: str | None = None

    def variables(self, size: int, cursor: str | None) -> dict[str, Any]:
        """The page of this size behind the cursor."""
        where = {"first": size, "after": cursor} if self.forth else {"last": size, "before": cursor}
        return {"store": STORE, "sort": {"key": self.key, "order": self.order}, "search": self.search} | where

    def page(self, size: int, cursor: str | None) -> tuple[list[str], str | None]:
        """Ids of a page in the direction of the walk, and the cursor that the next page is behind; None on the last."""
        found = self.client.ask(self.document, **self.variables(size, cursor))["products"]
        keys, info = [node["id"] for node in found["nodes"]], found["pageInfo"]
        if self.forth:
            return keys, info["endCursor"] if info["hasNextPage"] else None
        return keys[::-1], info["startCursor"] if info["hasPreviousPage"] else None

    @property
    def document(self) -> str:
        """The query of the direction."""
        return FORTH if self.forth else BACK


def walk(stage: Stage) -> Iterator[Table]:
    """What page 900 costs Postgres, as a ratio to page 1; and that a walk meets every product once."""
    rows: list[list[Cell]] = []
    with stage.serving() as client, stage.logged() as log:
        for key in KEYS:
            for order in ("DESC", "ASC"):
                rows += _both_ways(client, log, key, order)
        rows += _both_ways(client, log, "RELEVANCE", "DESC", "leather")
    columns = "order", "direction", "products", "deep page", "page 1, Postgres ms", "deep page, Postgres ms", "ratio"
    note = "Pages of 20. The ratio should be about 1; a search sorted by relevance ranks all that it finds for every page."
    yield Table("walk", "Walk through a store", columns, rows, note)


def _both_ways(client: Client, log: Log, key: str, order: str, search: str | None = None) -> list[list[Cell]]:
    forth, back = (Walker(client, key, order, way, search) for way in (True, False))
    met = _all(forth)
    if len(set(met)) != len(met) or _all(back) != met[::-1]:
        raise RuntimeError(f"Walking by {key} {order} misses or repeats products, or differs backwards.")
    name = f"{key} {order}" + (f', "{search}"' if search else "")
    pairs = ((one, way, _ratio(one, log, len(met))) for one, way in ((forth, "forwards"), (back, "backwards")))
    return [[name, way, len(met), *found] for _, way, found in pairs]


def _all(walker: Walker) -> list[str]:
    met, cursor = walker.page(100, None)
    while cursor is not None:
        more, cursor = walker.page(100, cursor)
        met += more
    return met


def _ratio(walker: Walker, log: Log, count: int) -> list[Cell]:
    deep = min(DEEP, count // 20 - 1)
    cursor, left = None, (deep - 1) * 20
    while left:
        step = min(100, left)
        cursor, left = walker.page(step, cursor)[1], left - step
    near, far = [], []
    for _ in range(SAMPLES):
        # In turns, so that disturbances affect both.
        near.append(_ms(walker, log, None))
        far.append(_ms(walker, log, cursor))
    return [deep, median(near), median(far), median(far) / median(near)]


def _ms(walker: Walker, log: Log, cursor: str | None) -> float:
    return sum(timed.ms for timed in log.times(walker.client, walker.document, **walker.variables(20, cursor)))
