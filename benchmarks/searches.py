"""Searches of every kind over the words of the demo products."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from statistics import median

from benchmarks.report import Cell, Table
from benchmarks.stage import STORE, Client, Log, Stage, at

KINDS: dict[str, tuple[str, ...]] = {
    "one word": ("teapot", "hammock", "percale", "turntable", "overshirt", "terracotta", "backpack"),
    "two words": ("linen shirt", "oak tray", "leather saddle", "desk lamp", "copper saucepan", "wool throw"),
    "phrase": ('"chelsea boots"', '"floor lamp"', '"opal glass" pendant', '"duvet cover"'),
    "exclusion": ("lamp -brass", "boots -suede", "notebook -leather -cloth", "throw -wool"),
    "or": ("hammock or tent", "teapot or carafe or mug"),
    "prefix": ("tea", "lin", "back", "ter", "st"),
    "accents": ("creme", "Crème brûlée", "lodz", "FJÄLLNÄS"),
    "typo": ("linnen", "leahter", "teapto", "copppr mug"),
    "no hit": ("xylophone", "qqqqq", "zzz -oak"),
    "very common": ("handmade", "drop", "made", "leather", "care"),
}
SAMPLES = 9

SEARCH = """query Search($store: ID!, $text: String!) {
  products(configId: $store, search: $text, first: 20) { totalCount correctedSearch nodes { id title price images } } }"""


@dataclass(frozen=True, slots=True)
class Searched:
    """One search: how much it found, and per sample the milliseconds of each of its statements in Postgres."""

    text: str
    hits: int
    samples: list[list[float]]

    @property
    def statements(self) -> list[float]:
        """Each statement's median over the samples."""
        usual = min(len(sample) for sample in self.samples)
        return [median(times) for times in zip(*(sample for sample in self.samples if len(sample) == usual), strict=True)]


def searches(stage: Stage) -> Iterator[Table]:
    """What each kind of search costs in Postgres, per statement and per request (page, total and, where needed, mending)."""
    with stage.serving() as client, stage.logged() as log:
        found = {kind: [_searched(client, log, text) for text in texts] for kind, texts in KINDS.items()}
    every = list(chain(*found.values()))
    columns = "search", "queries", "products found", *(f"{what} {part}" for what in ("statement", "request") for part in PARTS)
    note = "Milliseconds in Postgres; each statement's is the median of nine. The p50 of all requests should stay below 15."
    rows = [_row(kind, of_kind) for kind, of_kind in found.items()] + [_row("**all**", every)]
    yield Table("searches", "Searches", columns, rows, note)
    slowest = sorted(every, key=lambda one: -sum(one.statements))[:10]
    each: list[list[Cell]] = [
        [f"`{one.text}`", one.hits, len(one.statements), max(one.statements), sum(one.statements)] for one in slowest
    ]
    yield Table(
        "slowest-searches", "The slowest searches", ("search", "products found", "statements", "slowest", "request"), each
    )


PARTS = "p50", "p95", "max"


def _searched(client: Client, log: Log, text: str) -> Searched:
    hits = client.ask(SEARCH, store=STORE, text=text)["products"]["totalCount"]
    samples = [[timed.ms for timed in log.times(client, SEARCH, store=STORE, text=text)] for _ in range(SAMPLES)]
    return Searched(text, hits, samples)


def _row(kind: str, found: list[Searched]) -> list[Cell]:
    statements = [ms for one in found for ms in one.statements]
    requests = [sum(one.statements) for one in found]
    return [kind, len(found), int(median(one.hits for one in found)), *_spread(statements), *_spread(requests)]


def _spread(times: list[float]) -> list[float]:
    return [median(times), at(times, 0.95), max(times)]
