"""Fan-out of the live feed to many listeners: this server and graphql-ws on Node, side by side."""

import asyncio
import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import psutil
import psycopg
from psycopg import AsyncConnection

from benchmarks.peers.setup import install_fanout_server
from benchmarks.plot import bars
from benchmarks.report import RESULTS, Cell, Table, err
from benchmarks.stage import Stage, at, cpu_seconds, free_port, process, serve_command
from storefront.core.db.database import Database
from storefront.feed import log
from storefront.feed.log import LogEntry
from storefront.feed.pubsub import CHANNEL_NAME
from storefront.serving.graphiql.assets import find_node_and_npm

# Seconds between changes: each reaches all listeners before the next one.
EVERY = 0.1
SETTLED_WITHIN = 30.0
# Warm-up listeners: the cost of the first one is not that of a listener.
EARLY = 50
# The limit of our cost relative to the better Node server.
MOST = 2.0

_STORE = """SELECT p.config_id::text, min(p.id::text) FROM products p JOIN configs c ON c.id = p.config_id
  WHERE is_published AND status = 'active' GROUP BY 1 ORDER BY 1 LIMIT 1"""
_CHANGE = "UPDATE products SET price = %s, version = version + 1 WHERE id = %s"


@dataclass(frozen=True, slots=True)
class Crowd:
    """How many listen, how many changes they receive, and the seconds from one to the next."""

    listeners: int = 1_000
    changes: int = 100
    interval: float = EVERY


@dataclass(frozen=True, slots=True)
class Scene:
    """The database, the store that is listened to, and the product that changes."""

    url: str
    store: str
    product: str
    crowd: Crowd


@dataclass(frozen=True, slots=True)
class Server:
    """How a server is started; without a command it is ours."""

    name: str
    command: list[str]
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Run:
    """What one server did in one round: microseconds of CPU per delivery, kB per idle listener, milliseconds until the last
    listener had a change, and seconds of CPU that the listeners themselves took.
    """

    cpu: float
    memory: float
    p50: float
    p99: float
    client: float


def compare(stage: Stage, crowd: Crowd, rounds: int) -> Iterator[Table]:
    """How late the last listener hears of a change, and what a delivery and an idle listener cost, side by side."""
    scene = _scene(stage.url, crowd)
    servers = _servers(stage.url)
    runs: dict[str, list[Run]] = {server.name: [] for server in servers}
    for number in range(rounds):
        for server in servers:
            with err.status(f"round {number + 1} of {rounds}: {server.name}"):
                runs[server.name].append(_run(server, scene))
    middle = {name: [median(getattr(run, what) for run in found) for what in _SHOWN] for name, found in runs.items()}
    if (crowd, rounds) == (Crowd(), 3):
        title = "1,000 listeners, 100 changes, ten a second (logarithmic; less is better)"
        bars(RESULTS / "fanout.svg", title, [*_SHOWN.values()], _columns(middle))
    yield Table(
        "fanout",
        f"{crowd.listeners:,} listeners, {crowd.changes} changes",
        ("server", *_SHOWN.values(), "what has to hold"),
        [[name, *cells, _mark(name, middle)] for name, cells in middle.items()],
        f"Medians of {rounds} rounds in turns, one process each, {crowd.interval * 1000:.0f} ms from change to change. Every "
        "listener got every change once, in order, or this would have failed. Milliseconds are from commit until the last "
        "listener has it.",
    )


_SHOWN = {
    "cpu": "µs of CPU per delivery",
    "memory": "kB per idle listener",
    "p50": "p50 ms to the last",
    "p99": "p99 ms to the last",
}


def _columns(middle: Mapping[str, list[float]]) -> dict[str, list[float]]:
    return {name: [round(cell, 1) for cell in cells] for name, cells in middle.items()}


def _mark(name: str, middle: Mapping[str, list[float]]) -> Cell:
    """Ours against the better of the others, in CPU and in memory."""
    if name != "storefront":
        return ""
    others = [cells for other, cells in middle.items() if other != name]
    ratios = [middle[name][place] / min(cells[place] for cells in others) for place in (0, 1)]
    mark = "✓" if max(ratios) <= MOST else "✗"
    return f"{mark} {ratios[0]:.2f}× the CPU, {ratios[1]:.2f}× the memory (≤ {MOST:.0f}×)"


def _scene(url: str, crowd: Crowd) -> Scene:
    with psycopg.connect(url) as connection:
        [(store, product)] = connection.execute(_STORE).fetchall()
    return Scene(url, store, product, crowd)


def _servers(url: str) -> list[Server]:
    ours = {"STOREFRONT_DATABASE_URL": url, "STOREFRONT_BROADCAST_URL": url, "STOREFRONT_POPULARITY_INTERVAL": "0"}
    node = [str(find_node_and_npm()[0]), str(install_fanout_server() / "server.mjs")]
    theirs = {"DATABASE_URL": url, "NODE_ENV": "production"}
    return [
        Server("storefront", [], ours),
        Server("graphql-ws, shared", node, theirs | {"SHARE": "1"}),
        Server("graphql-ws, default", node, theirs),
    ]


# ---------------------------------------------------------------------------------------------- one round


def _run(server: Server, scene: Scene) -> Run:
    port, crowd = free_port(), scene.crowd
    environment = {**server.environment, "PORT": str(port)}
    with process(server.command or serve_command(port), port, **environment) as running, ExitStack() as stack:
        feed = {"configId": scene.store}
        stack.enter_context(listening(port, "feed", [feed] * EARLY, crowd.changes))
        time.sleep(1)
        before = measure_memory(running.pid)
        listeners = stack.enter_context(listening(port, "feed", [feed] * crowd.listeners, crowd.changes))
        time.sleep(2)
        memory = (measure_memory(running.pid) - before) / crowd.listeners / 1000
        used = cpu_seconds(running.pid)
        commits = asyncio.run(write_changes(scene))
        waits, client = read_received(listeners, commits)
        cpu = (cpu_seconds(running.pid) - used) / ((crowd.listeners + EARLY) * len(commits))
    return Run(cpu * 1e6, memory, at(waits, 0.5), at(waits, 0.99), client)


@contextmanager
def listening(
    port: int, document: str, variables: Sequence[Mapping[str, Any]], changes: int
) -> Iterator["subprocess.Popen[str]"]:
    """A process of listeners, one for each of these variables, which ends when all have received so many changes."""
    command = [sys.executable, "-m", "benchmarks.listeners", str(port), str(changes)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as crowd:
        try:
            assert crowd.stdin is not None  # noqa: S101  it was asked for
            crowd.stdin.write(json.dumps({"document": document, "variables": variables}) + "\n")
            crowd.stdin.flush()
            if _line(crowd) != "ready":
                raise RuntimeError("the listeners could not connect")
            yield crowd
        finally:
            crowd.kill()


def _line(crowd: "subprocess.Popen[str]") -> str:
    assert crowd.stdout is not None  # noqa: S101  it was asked for
    if not select.select([crowd.stdout], [], [], SETTLED_WITHIN)[0]:
        raise RuntimeError(f"nothing from the listeners for {SETTLED_WITHIN:.0f} s: some did not receive every change")
    return crowd.stdout.readline().strip()


def read_received(listeners: "subprocess.Popen[str]", commits: Mapping[int, float]) -> tuple[list[float], float]:
    """For each change the milliseconds until the last listener had it; raises unless all of them had all, in order."""
    said: dict[str, Any] = json.loads(_line(listeners))
    last = dict.fromkeys(commits, 0.0)
    for positions, moments in said["heard"]:
        if positions != list(commits):
            raise RuntimeError(f"a listener heard {len(positions)} changes, not those {len(commits)} in order")
        for position, moment in zip(positions, moments, strict=True):
            last[position] = max(last[position], moment)
    return [1000 * (last[position] - moment) for position, moment in commits.items()], said["cpu"]


async def write_changes(scene: Scene) -> dict[int, float]:
    """The changes, by position, with the moment at which each was committed."""
    commits, entry = (
        {},
        LogEntry(
            kind="product_updated",
            entity_id=scene.product,
            product_id=scene.product,
            was_visible=True,
            is_visible=True,
            changed_fields=["price"],
        ),
    )
    async with Database(scene.url, size=1) as database, await AsyncConnection.connect(scene.url, autocommit=True) as waking:
        for number in range(scene.crowd.changes):
            due = time.monotonic() + scene.crowd.interval
            async with database.transaction() as connection:
                await connection.raw.execute(_CHANGE, [10 + number % 500, scene.product])
                position = await log.append_entries(connection, scene.store, [entry])
            commits[position] = time.monotonic()
            await waking.execute("SELECT pg_notify(%s, %s)", [CHANNEL_NAME, scene.store])
            await asyncio.sleep(max(0.0, due - time.monotonic()))
    return commits


def measure_memory(pid: int) -> int:
    """Bytes that a process and its children hold, but for what they share."""
    root = psutil.Process(pid)
    return sum(int(one.memory_full_info().uss) for one in [root, *root.children(recursive=True)])
