"""Measures servers side by side: the same operations in turns, in rounds, so that disturbances affect all of them."""

import http.client
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import psutil
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.load import Driven, Request, drive
from benchmarks.report import err
from benchmarks.stage import Stage, cpu_seconds
from benchmarks.works import Api

# The number of connections at which CPU is counted: enough to keep a server on one core busy.
BUSY = 16
CONNECTIONS = (1, BUSY, 64)


@dataclass(frozen=True, slots=True)
class Contestant:
    """A server that listens, and what removes the products that it was made to make."""

    name: str
    port: int
    pid: int
    api: Api
    clean: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured: rounds, and the seconds for each work in each of them."""

    rounds: int = 3
    seconds: float = 3.0
    works: Sequence[str] = ()
    connections: Sequence[int] = CONNECTIONS


@dataclass(frozen=True, slots=True)
class Turn:
    """One server at one work in one round: milliseconds of CPU per request, requests per second, milliseconds of waiting."""

    server: float
    postgres: float
    rate: float
    p50: float
    p99: float


@dataclass(slots=True)
class Score:
    """What a server did at a work: its turns by the number of connections, statements per request, bytes per answer."""

    turns: dict[int, list[Turn]] = field(default_factory=dict)
    statements: int = 0
    bytes: int = 0

    def of(self, name: str, connections: int = BUSY) -> float:
        """The median of a figure over the rounds."""
        return float(median(getattr(turn, name) for turn in self.turns[connections]))


@dataclass(slots=True)
class Outcome:
    """Scores by server and work, and the memory of each server at the end, in bytes."""

    scores: dict[tuple[str, str], Score]
    memory: dict[str, int]


def compare(stage: Stage, contestants: Sequence[Contestant], effort: Effort) -> Outcome:
    """Check that all say the same, then measure. Raises RuntimeError where answers differ."""
    steps = [
        (work, connections)
        for connections in (BUSY, *(other for other in effort.connections if other != BUSY))
        for work in effort.works
    ]
    # Other numbers of connections show latency, for which one round is enough.
    plan = [step for step in steps if step[1] == BUSY] * effort.rounds + [step for step in steps if step[1] != BUSY]
    scores = {(one.name, work): Score() for one in contestants for work in effort.works}
    with _bars() as bars, pinned(stage, contestants):
        bar = bars.add_task("checking", total=(len(effort.works) + len(plan)) * len(contestants))
        for work in effort.works:
            check(contestants, work)
            _warm(stage, contestants, work, scores)
            bars.advance(bar, len(contestants))
        for work, connections in plan:
            for one in contestants:
                bars.update(bar, description=f"{work} × {connections:<2} {one.name}")
                scores[one.name, work].turns.setdefault(connections, []).append(turn(stage, one, work, connections, effort))
                bars.advance(bar)
    memory = {one.name: _memory(one.pid) for one in contestants}
    return Outcome(scores, memory)


def _bars() -> Progress:
    columns = TextColumn("{task.description:<32}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(*columns, console=err)


# ------------------------------------------------------------------------------------------------ equality


def check(contestants: Sequence[Contestant], work: str) -> None:
    """What is faster because it says something else is not faster. Asked twice: just-in-time compilers start at the second."""
    first, *others = contestants
    expected = _answers(first, work)
    for one in others:
        for _ in range(2):
            for number, (theirs, ours) in enumerate(zip(_answers(one, work), expected, strict=True)):
                if theirs != ours:
                    raise RuntimeError(f"{one.name} answers {work}, request {number}, otherwise:\n{_difference(theirs, ours)}")
    for one in contestants:
        one.clean()


def _answers(one: Contestant, work: str) -> list[Any]:
    return [one.api.answer(work, _sent(one.port, request)) for request in one.api.requests(work)[:40]]


def _sent(port: int, request: Request) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(request.method, request.path, request.body or None, dict(request.headers))
    answer = connection.getresponse().read()
    connection.close()
    return answer


def _difference(theirs: Any, ours: Any) -> str:
    """The innermost part that differs."""
    pairs: Iterable[tuple[Any, Any]] = ()
    if isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        pairs = zip(theirs, ours, strict=True)
    elif isinstance(theirs, dict) and isinstance(ours, dict) and theirs.keys() == ours.keys():
        pairs = ((theirs[key], ours[key]) for key in theirs)
    inner = next((pair for pair in pairs if pair[0] != pair[1]), None)
    return _difference(*inner) if inner else f"{str(theirs)[:500]}\n{str(ours)[:500]}"


# ----------------------------------------------------------------------------------------------- measuring


def _warm(stage: Stage, contestants: Sequence[Contestant], work: str, scores: Mapping[tuple[str, str], Score]) -> None:
    for one in contestants:
        drive(one.port, one.api.requests(work), BUSY, 1.5, least=100 if work != "W4" else BUSY)
        score = scores[one.name, work]
        score.bytes = len(_sent(one.port, one.api.requests(work)[0]))
    with stage.logged() as log:
        for one in contestants:
            log.statements()
            _sent(one.port, one.api.requests(work)[0])
            scores[one.name, work].statements = len(log.statements())
    for one in contestants:
        one.clean()


def turn(stage: Stage, one: Contestant, work: str, connections: int, effort: Effort) -> Turn:
    """One server at one work, for some seconds."""
    requests = one.api.requests(work)
    before = cpu_seconds(one.pid), cpu_seconds(stage.postmaster)
    driven: Driven = drive(one.port, requests, connections, effort.seconds)
    after = cpu_seconds(one.pid), cpu_seconds(stage.postmaster)
    if work == "W5":
        one.clean()
    server, postgres = (1000 * (end - start) / len(driven.waits) for start, end in zip(before, after, strict=True))
    return Turn(server, postgres, driven.rate, driven.wait(0.5), driven.wait(0.99))


def _memory(pid: int) -> int:
    root = psutil.Process(pid)
    return sum(process.memory_info().rss for process in [root, *root.children(recursive=True)])


@contextmanager
def pinned(stage: Stage, contestants: Sequence[Contestant]) -> Iterator[None]:
    """Each server on one core, the same for all; Postgres and the client on the others. Where the system allows it."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2:
        yield
        return
    for one in contestants:
        _pin(one.pid, cores[:1])
    _pin(stage.postmaster, cores[1:])
    os.sched_setaffinity(0, cores[1:])
    try:
        yield
    finally:
        _pin(stage.postmaster, cores)
        os.sched_setaffinity(0, cores)


def _pin(pid: int, cores: list[int]) -> None:
    """Keep a process, its children and all their threads on these cores; what they start later stays there as well."""
    root = psutil.Process(pid)
    for process in [root, *root.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            for thread in process.threads():
                os.sched_setaffinity(thread.id, cores)
