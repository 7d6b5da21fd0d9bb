"""The cost of cached responses, beside servers that execute each request: the same page of 20 products."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from http.client import HTTPConnection
from statistics import median
from urllib.parse import urlencode

import orjson

from benchmarks import peers
from benchmarks.contest import BUSY, Contestant, Effort, Turn, check, pinned, turn
from benchmarks.load import Request, drive
from benchmarks.report import Cell, Table, err
from benchmarks.stage import Sizes, Stage
from benchmarks.works import Facts, Storefront, facts

SIZES = Sizes(20_000, 0, one_store=False)
WORK = "W1"

# How many times as much as the fastest that executes a server has to do that keeps answers; milliseconds of CPU for a 304.
LEAST, MOST_MS = 5.0, 0.4

EXECUTED, KEPT, STRICT = "storefront, executed", "storefront, kept", "storefront, kept, strict"
SHOWN, SHOWN_STRICTLY = "storefront, 304", "storefront, 304, strict"
OURS: Mapping[str, Mapping[str, str]] = {
    EXECUTED: {"STOREFRONT_RESPONSE_CACHE_BYTES": "0"},
    KEPT: {},
    STRICT: {"STOREFRONT_CACHE": "strict"},
}
PEERS = (peers.MERCURIUS, peers.POSTGRAPHILE)


class Shown(Storefront):
    """Ours, asked by GET by somebody who has the answer already and shows its ETag."""

    def __init__(self, known: Facts, port: int) -> None:
        super().__init__(known, "")
        self._port = port

    def requests(self, work: str) -> list[Request]:
        """The requests of a work, with the ETags of their answers."""
        return [self._shown(orjson.loads(request.body)) for request in super().requests(work)]

    def _shown(self, asked: Mapping[str, object]) -> Request:
        path = "/graphql?" + urlencode({"query": asked["query"], "variables": orjson.dumps(asked["variables"])})
        connection = HTTPConnection("127.0.0.1", self._port, timeout=60)
        connection.request("GET", path)
        tag = connection.getresponse().headers["etag"]
        connection.close()
        return Request("GET", path, headers=(("if-none-match", tag),))


def measure(stage: Stage, effort: Effort) -> Iterator[Table]:
    """The same page from what is kept, strictly so, executed each time, as 304, and by the two peers that are fastest at it."""
    known = facts(stage)
    with ExitStack() as stack:
        servers = {name: stack.enter_context(stage.server(**given)) for name, given in OURS.items()}
        ours = [Contestant(name, *server, Storefront(known, ""), _nothing) for name, server in servers.items()]
        rivals = stack.enter_context(peers.running(stage, known, PEERS))
        # A response to If-None-Match has no body to compare.
        shown = [
            Contestant(name, *servers[of], Shown(known, servers[of][0]), _nothing)
            for name, of in ((SHOWN, KEPT), (SHOWN_STRICTLY, STRICT))
        ]
        with pinned(stage, [*ours, *rivals]):
            check([*ours, *rivals], WORK)
            turns = _turns(stage, [*ours, *shown, *rivals], effort)
    yield _must_hold(turns)
    yield _figures(turns, effort)


def _nothing() -> None:
    """Nothing is made that would have to be removed."""


def _turns(stage: Stage, all_: Sequence[Contestant], effort: Effort) -> dict[str, list[Turn]]:
    for one in all_:
        drive(one.port, one.api.requests(WORK), BUSY, 1.5, least=100)
    turns: dict[str, list[Turn]] = {one.name: [] for one in all_}
    for number in range(effort.rounds):
        for one in all_:
            with err.status(f"round {number + 1} of {effort.rounds}: {one.name}"):
                turns[one.name].append(turn(stage, one, WORK, BUSY, effort))
    return turns


def _of(turns: Sequence[Turn], figure: str) -> float:
    return float(median(getattr(one, figure) for one in turns))


def _must_hold(turns: Mapping[str, Sequence[Turn]]) -> Table:
    fastest = max((_of(turns[name], "rate"), name) for name in PEERS)
    rows: list[list[Cell]] = []
    for name in (KEPT, STRICT):
        ratio = _of(turns[name], "rate") / fastest[0]
        bound = f" (≥ {LEAST:.3g}×)" if name == KEPT else ""
        rows.append(
            [f"{name}: requests per second, to {fastest[1]}", f"{_mark(ratio >= LEAST) if bound else ''}{ratio:.1f}×{bound}"]
        )
        less = _of(turns[fastest[1]], "server") / _of(turns[name], "server")
        rows.append([f"{name}: server CPU, to {fastest[1]}", f"{less:.1f}× less"])
    for name in (SHOWN, SHOWN_STRICTLY):
        cpu = _of(turns[name], "server")
        bound = f" (< {MOST_MS} ms)" if name == SHOWN else ""
        rows.append([f"{name}: server CPU", f"{_mark(cpu < MOST_MS) if bound else ''}{cpu:.2f} ms{bound}"])
    note = f"At {BUSY} connections, each server on one core; what has to hold stands in brackets."
    return Table("cached-must-hold", "What is kept, against the peers", ("", "in this run"), rows, note)


def _mark(holds: bool) -> str:
    return "✓ " if holds else "✗ "


def _figures(turns: Mapping[str, Sequence[Turn]], effort: Effort) -> Table:
    figures = "server", "postgres", "rate", "p50", "p99"
    rows: list[list[Cell]] = [[name, *(_of(found, figure) for figure in figures)] for name, found in turns.items()]
    columns = "server", "server CPU ms", "Postgres CPU ms", "req/s", "p50 ms", "p99 ms"
    note = f"Per request for the newest 20 products (W1), always the same, at {BUSY} connections; medians of {effort.rounds}."
    return Table("cached", "The same page again and again", columns, rows, note)
