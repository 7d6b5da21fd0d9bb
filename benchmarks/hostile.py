"""The cost of hostile requests, their memory, and the latency of other clients meanwhile."""

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from itertools import pairwise
from statistics import median

import psutil

from benchmarks import unread
from benchmarks.attacks import ATTACKS, Attack
from benchmarks.report import Cell, Table, err
from benchmarks.stage import Stage, at, cpu_seconds

# Limits per attack: milliseconds of server CPU, and megabytes that a second run may add: caches filled by the first run do not
# grow further.
MOST_MS, MOST_MB = 50.0, 5.0
# Requests of each attack before anything is measured: as many as fill the document cache, which holds 150,000 characters of the
# documents that are valid, about 15 MB. What its growth leaves behind is bounded, and no leak.
WARM_UP_REQUESTS = 20
# The query of other clients, and the number of concurrent attackers.
SMALL = b'{"query": "{ configs(first: 1) { nodes { id storeName } } }"}'
ATTACKERS = 4
SLOW_SOCKETS = 200


def measure(stage: Stage, rounds: int, seconds: float) -> Iterator[Table]:
    """Each attack by itself, then others while attacks come."""
    with stage.serving():
        for name in ATTACKS:
            _cost(stage, name, 0, WARM_UP_REQUESTS)
        memory = [_memory(stage)]
        with err.status("attacks"):
            rows = [_row(stage, name, range(rounds)) for name in ATTACKS]
            memory.append(_memory(stage))
            for name in ATTACKS:
                _row(stage, name, range(rounds, 2 * rounds))
            memory.append(_memory(stage))
        worst = max(float(row[2]) for row in rows)
        count = sum(int(row[3]) for row in rows)
        first, more = (max(0.0, after - before) for before, after in pairwise(memory))
        note = f"""{_mark(worst <= MOST_MS)} Each attack may cost at most {MOST_MS:g} ms of the server's CPU. None comes twice, so
that nothing is known before. The first {count:,} left {first:.1f} MB behind, {_mark(more <= MOST_MB)} {count:,} others
{more:.1f}, of at most {MOST_MB:g}."""
        yield Table("attacks", "Attacks one by one", ("attack", "answer", "CPU, ms", "requests"), rows, note)
    with stage.serving(), err.status("others"):
        yield _others(stage, seconds)
    yield from unread.measure(stage)


def _row(stage: Stage, name: str, rounds: Sequence[int]) -> list[Cell]:
    costs = [_cost(stage, name, 100 + n, 10) for n in rounds]
    return [name, ATTACKS[name].code or "answered", median(costs), 10 * len(rounds)]


def _cost(stage: Stage, name: str, round_: int, requests: int) -> float:
    """Milliseconds of the server's CPU for one request."""
    bodies = [_body(ATTACKS[name], f"{round_}-{n}") for n in range(requests)]
    connection, used = HTTPConnection("127.0.0.1", stage.port, timeout=60), cpu_seconds(stage.pid)
    for body in bodies:
        _send(connection, body)
    return 1_000 * (cpu_seconds(stage.pid) - used) / requests


def _body(attack: Attack, mark: str) -> bytes:
    # In front, so that the flaw of the document stays the same.
    return json.dumps({"query": f"#{mark}\n{attack.query}", "variables": dict(attack.variables)}).encode()


def _send(connection: HTTPConnection, body: bytes) -> None:
    connection.request("POST", "/graphql", body, {"content-type": "application/json"})
    connection.getresponse().read()


def _memory(stage: Stage) -> float:
    """Megabytes that the server holds."""
    processes = [psutil.Process(stage.pid), *psutil.Process(stage.pid).children(recursive=True)]
    return float(sum(process.memory_info().rss for process in processes) / 1_000_000)


def _mark(holds: bool) -> str:
    return "✓" if holds else "✗"


# ------------------------------------------------------------------------------------------------ meanwhile


def _others(stage: Stage, seconds: float) -> Table:
    rows: list[list[Cell]] = []
    for title, attackers in (("nobody attacks", {}), *((name, {name: ATTACKS[name]}) for name in WORST), ("all kinds", ATTACKS)):
        with _attacked(stage, attackers) as sent:
            waits = _waits(stage, seconds)
        rows.append([title, 1_000 * at(waits, 0.5), 1_000 * at(waits, 0.99), len(waits), sum(sent)])
    with _slow(stage):
        waits = _waits(stage, seconds)
    rows.append(
        [f"{SLOW_SOCKETS} bodies that never end", 1_000 * at(waits, 0.5), 1_000 * at(waits, 0.99), len(waits), SLOW_SOCKETS]
    )
    note = f"""A small query over and over on one connection, while {ATTACKERS} others send attacks as fast as they are answered,
from the same two cores. With `STOREFRONT_RATE_LIMIT_ADDRESS` they would be refused unread."""
    return Table("others", "Others meanwhile", ("while", "p50, ms", "p99, ms", "answers", "attacks"), rows, note)


WORST = ("one object as often as may be", "an input of unknown fields", "fragments in ever new company")


def _waits(stage: Stage, seconds: float) -> list[float]:
    waits, end = [], time.monotonic() + seconds
    connection = HTTPConnection("127.0.0.1", stage.port, timeout=60)
    while time.monotonic() < end:
        began = time.perf_counter()
        _send(connection, SMALL)
        waits.append(time.perf_counter() - began)
        time.sleep(0.002)
    return waits


@contextmanager
def _attacked(stage: Stage, attacks: Mapping[str, Attack]) -> Iterator[list[int]]:
    """While this lasts attacks come; how many each attacker has sent."""
    over, sent = threading.Event(), [0] * ATTACKERS
    threads = [threading.Thread(target=_attack, args=(stage, attacks, over, sent, n)) for n in range(ATTACKERS if attacks else 0)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(0.3)
        yield sent
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _attack(stage: Stage, attacks: Mapping[str, Attack], over: threading.Event, sent: list[int], number: int) -> None:
    connection = HTTPConnection("127.0.0.1", stage.port, timeout=60)
    kinds = list(attacks.values())
    while not over.is_set():
        _send(connection, _body(kinds[sent[number] % len(kinds)], f"{number}-{sent[number]}"))
        sent[number] += 1


@contextmanager
def _slow(stage: Stage) -> Iterator[None]:
    """While this lasts many connections have begun to send a body, and send no more of it."""
    head = b"POST /graphql HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{"
    sockets = [HTTPConnection("127.0.0.1", stage.port) for _ in range(SLOW_SOCKETS)]
    for one in sockets:
        one.connect()
        one.sock.sendall(head)
    try:
        yield
    finally:
        for one in sockets:
            one.close()
