"""The set-up: Postgres with the same rows at every run, and the server in its own process."""

import asyncio
import hashlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import psycopg

from storefront.analytics.commands import refresh_popularity
from storefront.analytics.rollups import roll_up
from storefront.core.db import migrations
from storefront.core.db.database import Database
from storefront.core.db.embedded_postgres import build_superuser_url, embedded_postgres
from storefront.demo.commands import seed

FOLDER = Path(".storefront") / "bench"
STORE = "01900000-0000-7000-8000-000000000001"
READY_WITHIN = 60.0

# The reference time of demo data, so that every run has the same rows.
ANCHOR = datetime(2026, 11, 22, tzinfo=UTC)

# Few products are wanted much and most hardly at all: many ties at the low end, whatever the events say.
POPULARITY = "UPDATE products SET popularity = (abs(hashtext(id::text)) % 100 / 10.0) ^ 4 / 10"
_LOGGED = re.compile(r"duration: ([\d.]+) ms  (parse|bind|execute|statement)[^:]*: (.*)")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many demo products and events there are, and whether one more store holds a copy of every product."""

    products: int = 20_000
    events: int = 0
    one_store: bool = True

    @property
    def name(self) -> str:
        """The folder of these rows under this schema: kept rows are never those of another."""
        return f"{self.products}-{self.events}-{'one' if self.one_store else 'many'}-{_schema()}"


@dataclass(frozen=True, slots=True)
class Timed:
    """A statement as Postgres saw it: how it begins, and the milliseconds for parsing, binding and running it."""

    sql: str
    ms: float


@dataclass(frozen=True, slots=True)
class Cost:
    """Per request: milliseconds of CPU in the server and in all of Postgres, and how long the client waited."""

    server: float
    postgres: float
    p50: float
    p99: float
    requests: int


# ---------------------------------------------------------------------------------------------- processes


def cpu_seconds(pid: int) -> float:
    """CPU that a process and its children have used so far, those that have ended included."""
    used = 0.0
    root = psutil.Process(pid)
    for process in [root, *root.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        used += times.user + times.system + times.children_user + times.children_system
    return float(used)


def free_port() -> int:
    """A port of the loopback device that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def process(command: list[str], port: int, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program that listens on the port while this lasts."""
    started = subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.DEVNULL)
    try:
        _wait(started, port)
        yield started
    finally:
        started.send_signal(signal.SIGTERM)
        started.wait(30)


def _wait(started: subprocess.Popen[bytes], port: int) -> None:
    end = time.monotonic() + READY_WITHIN
    while time.monotonic() < end and started.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise RuntimeError(f"{' '.join(started.args)} does not listen on port {port}.")  # type: ignore[arg-type]


def serve_command(port: int, *options: str) -> list[str]:
    """How a user starts the server."""
    return [str(Path(sys.executable).with_name("storefront")), "serve", "--port", str(port), *options]


class Client:
    """One connection to a server on this machine, kept open."""

    def __init__(self, port: int, path: str = "/graphql") -> None:
        self._path = path
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def send(self, body: bytes) -> bytes:
        """Post a body and return the answer's."""
        try:
            response = self._response(body)
        except (BrokenPipeError, http.client.RemoteDisconnected):
            # Nobody keeps a connection open for long that nothing comes over.
            self._connection.close()
            response = self._response(body)
        answer = response.read()
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {answer[:500]!r}")
        return answer

    def _response(self, body: bytes) -> http.client.HTTPResponse:
        self._connection.request("POST", self._path, body, {"content-type": "application/json"})
        return self._connection.getresponse()

    def ask(self, document: str, **variables: Any) -> Any:
        """The data of a GraphQL request."""
        answer = json.loads(self.send(body_of(document, **variables)))
        if "errors" in answer:
            raise RuntimeError(f"{answer['errors']} for {variables}")
        return answer["data"]


def body_of(document: str, **variables: Any) -> bytes:
    """A GraphQL request as it is sent."""
    return json.dumps({"query": document, "variables": variables}).encode()


# -------------------------------------------------------------------------------------------------- stage


@dataclass(slots=True)
class Stage:
    """The database, and the server in front of it while `serving` lasts."""

    url: str
    data: Path
    sizes: Sizes
    port: int = 0
    pid: int = 0

    @contextmanager
    def serving(self) -> Iterator[Client]:
        """The server as users start it, over this database, and a client of it. Nothing is answered from what is kept."""
        with self.server(STOREFRONT_RESPONSE_CACHE_BYTES="0") as (port, pid):
            self.port, self.pid = port, pid
            yield Client(port)

    @contextmanager
    def server(self, **options: str) -> Iterator[tuple[int, int]]:
        """A server over this database with these settings: its port and process."""
        port = free_port()
        quiet = {"STOREFRONT_DATABASE_URL": self.url, "STOREFRONT_POPULARITY_INTERVAL": "0"}
        with process(serve_command(port), port, **quiet, **options) as server:
            yield port, server.pid

    @property
    def postmaster(self) -> int:
        """The process that all of Postgres descends from."""
        return int((self.data / "postgres" / "postmaster.pid").read_text().split()[0])

    def postgres_version(self) -> str:
        """Which Postgres this is."""
        with psycopg.connect(self.url) as connection:
            return f"PostgreSQL {connection.info.server_version // 10_000}"

    def run(self, *statements: str) -> None:
        """SQL that belongs to no measurement."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def settle(self) -> None:
        """Give the products the popularity that all runs begin with. It was drawn, as few stores have events."""
        self.run(POPULARITY, "VACUUM ANALYZE products")

    def cost(self, send: Callable[[bytes], bytes], body: bytes, pid: int, seconds: float = 1.5, most: int = 1_500) -> Cost:
        """The same request over and over, for so many seconds or requests, whichever comes first."""
        waits: list[float] = []
        end = time.monotonic() + seconds
        before, before_postgres = cpu_seconds(pid), cpu_seconds(self.postmaster)
        while len(waits) < 20 or (len(waits) < most and time.monotonic() < end):
            began = time.perf_counter()
            send(body)
            waits.append(time.perf_counter() - began)
        used, used_postgres = cpu_seconds(pid) - before, cpu_seconds(self.postmaster) - before_postgres
        per = 1000 / len(waits)
        return Cost(used * per, used_postgres * per, 1000 * at(waits, 0.5), 1000 * at(waits, 0.99), len(waits))

    @contextmanager
    def logged(self) -> Iterator["Log"]:
        """Postgres writes down how long every statement took."""
        logged = ("log_min_duration_statement", "0"), ("log_parameter_max_length", "0")
        server = replace(self, url=build_superuser_url(self.url))
        server.run(*(f"ALTER SYSTEM SET {name} = {value}" for name, value in logged), "SELECT pg_reload_conf()")
        try:
            time.sleep(0.5)
            yield Log(self.data / "postgres.log")
        finally:
            server.run(*(f"ALTER SYSTEM RESET {name}" for name, _ in logged), "SELECT pg_reload_conf()")


class Log:
    """The log of Postgres, read on from where it was."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = path.stat().st_size

    def statements(self) -> list[Timed]:
        """What was logged since the last call."""
        with self._path.open("rb") as file:
            file.seek(self._position)
            text = file.read().decode()
            self._position = file.tell()
        found, ms = [], 0.0
        for took, step, sql in _LOGGED.findall(text.replace("\n\t", " ")):
            ms += float(took)
            if step in ("execute", "statement"):
                found.append(Timed(sql, ms))
                ms = 0.0
        return found

    def count(self, client: Client, body: bytes) -> int:
        """How many statements an answer takes."""
        self.statements()
        client.send(body)
        return len(self.statements())

    def times(self, client: Client, document: str, **variables: Any) -> list[Timed]:
        """Ask, and return what Postgres had to do for it."""
        self.statements()
        client.ask(document, **variables)
        return self.statements()


def at(values: list[float], part: float) -> float:
    """The value that this part of all values does not exceed."""
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


# ------------------------------------------------------------------------------------------------ setting


@contextmanager
def stage(sizes: Sizes) -> Iterator[Stage]:
    """The stage for these sizes, set once and kept for the next run."""
    data = FOLDER / sizes.name
    with embedded_postgres(data.resolve()) as url:
        found = Stage(url, data, sizes)
        if not (data / "ready").exists():
            _set(found)
            (data / "ready").touch()
        found.run("ANALYZE")
        yield found


def _schema() -> str:
    steps = sorted((migrations.MIGRATIONS_FOLDER / "versions").glob("*.py"))
    return hashlib.blake2b(b"".join(step.read_bytes() for step in steps), digest_size=4).hexdigest()


def _set(empty: Stage) -> None:
    print(f"setting the stage in {empty.data} (once, a minute or two)", file=sys.stderr)
    migrations.migrate(empty.url)

    async def fill() -> None:
        async with Database(empty.url, size=2, statement_timeout=0) as database:
            await seed(database, products=empty.sizes.products, events=empty.sizes.events, anchor=ANCHOR)
            await roll_up(database, wait=True)
            await refresh_popularity(database)

    asyncio.run(fill())
    if not empty.sizes.one_store:
        return empty.run("VACUUM FULL products", "VACUUM ANALYZE")
    # Copying rewrites each product several times; a store that grew slowly has no such bloat.
    return empty.run((Path(__file__).parent / "store.sql").read_text(), POPULARITY, "VACUUM FULL products", "VACUUM ANALYZE")
