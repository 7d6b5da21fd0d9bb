"""Memory of the document and plan caches, which have to be bounded."""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

import psutil
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from benchmarks.load import Request, drive_each
from benchmarks.report import Cell, Table, err
from benchmarks.stage import Client, Stage, body_of
from benchmarks.works import facts

MOST_MB = 50
CONNECTIONS = 8
STEPS = 10

# All names that a client may choose differ in each document.
DOCUMENT = """query Page{n}($store: ID!, $first: Int = 1, $all: Boolean = false) {{
  shop{n}: products(configId: $store, first: $first) {{
    nodes {{ ...Card{n} variants(first: 2) {{ nodes {{ id name price{n}: price }} }}
      reviews(first: 1) {{ nodes {{ rating }} }} }} }} }}
fragment Card{n} on Product {{ id title price compareAtPrice images inventory @include(if: $all) status createdAt }}"""


# Near the limits of 2,000 tokens, 500 fields and 100 aliases: the worst case for memory.
LARGE = "query Large{n}($store: ID!) {{ products(configId: $store, first: 1) {{ nodes {{ {edges} }} }} }}"
EDGE = """a{n}_{place}: variants(first: 1) {{
  nodes {{ id name price compareAtPrice inventory sku isAvailable inStock version createdAt }} }}"""
EDGES = 45

Write = Callable[[int], str]


def grow(stage: Stage, count: int) -> Iterator[Table]:
    """Send so many distinct documents, and look at the server's memory now and then; then a few that are as large as can be."""
    rows: list[list[Cell]] = []
    with stage.serving() as client, _bar() as bars:
        growth = _Growth(stage, client, facts(stage).store, bars)
        # Warm-up: modules, connections and statements stay, whatever the documents.
        growth.send("usual", _usual, 200)
        growth.begin()
        for kind, write, number in (("usual", _usual, count), ("large", _large, max(200, count // 200))):
            for _ in range(STEPS):
                growth.send(kind, write, number // STEPS)
                rows.append([f"{growth.sent[kind]:,} {kind}", growth.total / 1_000_000, growth.so_far / 1_000_000])
    holds = "✓" if float(rows[-1][2]) <= MOST_MB else "✗"
    note = f"{holds} The growth after all of them must stay below {MOST_MB} MB. Every document is parsed, validated, planned and \
executed; none comes twice. Large ones have {EDGES * 11:,} fields."
    yield Table("documents", "Distinct documents", ("documents", "RSS, MB", "growth, MB"), rows, note)


def _usual(number: int) -> str:
    return DOCUMENT.format(n=number)


def _large(number: int) -> str:
    return LARGE.format(n=number, edges=" ".join(EDGE.format(n=number, place=place) for place in range(EDGES)))


class _Growth:
    """A server's memory while it is sent documents."""

    def __init__(self, stage: Stage, client: Client, store: str, bars: Progress) -> None:
        self._process = psutil.Process(stage.pid)
        self._port, self._client, self._store, self._bars = stage.port, client, store, bars
        self._tasks: dict[str, TaskID] = {}
        self._next = 0
        self.sent = Counter[str]()
        self.begin()

    def begin(self) -> None:
        """Count from now on."""
        self._start = self.total
        self.sent.clear()

    @property
    def total(self) -> int:
        """Bytes of memory."""
        return int(self._process.memory_info().rss)

    @property
    def so_far(self) -> int:
        """Bytes that have come since `begin`."""
        return self.total - self._start

    def send(self, kind: str, write: Write, count: int) -> None:
        """Send so many more that were never sent before."""
        numbers = range(self._next, self._next + count)
        self._next += count
        # Check the first response: one with errors would measure nothing.
        self._client.ask(write(numbers[0]), store=self._store)
        drive_each(self._port, map(partial(self._request, write), numbers[1:]), CONNECTIONS)
        self.sent[kind] += count
        self._bars.update(self._task(kind), completed=self.sent[kind])

    def _request(self, write: Write, number: int) -> Request:
        return Request("POST", "/graphql", body_of(write(number), store=self._store), (("content-type", "application/json"),))

    def _task(self, kind: str) -> TaskID:
        if kind not in self._tasks:
            self._tasks[kind] = self._bars.add_task(f"{kind} documents", total=None)
        return self._tasks[kind]


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,}"), TimeElapsedColumn(), console=err
    )
