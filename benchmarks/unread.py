"""Clients that never read (backpressure): server memory during and after, and the latency of other clients."""

import asyncio
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

import psutil
import psycopg

from benchmarks.report import Cell, Table, err
from benchmarks.stage import Stage, at
from storefront.core.db.database import Database
from storefront.core.ids import uuid7
from storefront.feed import log
from storefront.feed.log import LogEntry

# Bytes of a client's receive buffer: what its kernel takes in its place says nothing about the server.
RECEIVE_BYTES = 4_096
CONNECTIONS, SOCKETS, OPERATIONS, STREAMS, EVENTS, PIPELINES, PIPELINED = 1_050, 10, 100, 200, 1_000, 100, 1_000
# Seconds after the attack by which the memory has to be back, and the part of the memory before by which it may be larger.
RECOVERY_SECONDS, MAX_GROWTH = 60.0, 0.1
SAMPLE_SECONDS = 0.05

SMALL = "{ configs(first: 1) { nodes { id storeName } } }"
# 600 kB: a long description of each product under as many names as may be.
PRODUCTS = 6
LARGE = f"query($c: ID!) {{ products(configId: $c) {{ nodes {{ {' '.join(f'a{n}: description' for n in range(5))} }} }} }}"
FEED = """subscription($c: ID!) { productFeed(configId: $c, after: "1") { ... on ProductUpdated {
  position product { id title description } } } }"""

Attack = Callable[[int, str, list[socket.socket]], None]


def measure(stage: Stage) -> Iterator[Table]:
    """Each attack against a server of its own."""
    with _store(stage.url) as store:
        yield _table(stage, store)


def _table(stage: Stage, store: str) -> Table:
    attacks: Mapping[str, Attack] = {
        f"{CONNECTIONS:,} connections, one cached answer each": _cached,
        f"{SOCKETS} WebSockets, {OPERATIONS} answers each": _answers,
        f"{STREAMS} event streams of {EVENTS:,} long changes": _streams,
        f"{PIPELINES} connections, {PIPELINED:,} pipelined requests each": _pipelined,
    }
    rows: list[list[Cell]] = []
    for name, attack in attacks.items():
        with err.status(name), stage.server() as (port, pid):
            rows.append([name, *_row(port, pid, store, attack)])
    holds = all(float(row[4]) <= (1 + MAX_GROWTH) * float(row[1]) for row in rows)
    note = f"""{"✓" if holds else "✗"} {RECOVERY_SECONDS:g} seconds after an attack the server's memory has to be within
{MAX_GROWTH:.0%} of what it was before. The attackers read nothing and keep their connections open; one that the server has
closed does not come back. Meanwhile another client sends one small query after the other, each on a connection of its own."""
    columns = (
        "attack",
        "MB before",
        "MB at the peak",
        "MB when it ends",
        "MB a minute later",
        "p99 before, ms",
        "p99 during, ms",
        "answers",
    )
    return Table("unread", "Answers that are not read", columns, rows, note)


def _row(port: int, pid: int, store: str, attack: Attack) -> list[Cell]:
    opened: list[socket.socket] = []
    # Warm-up: the large response is cached.
    for _ in range(20):
        _ask(port, LARGE, store)
        _ask(port, SMALL, store)
    before, quiet = _memory(pid), _waits(port, store, 3.0)
    with _sampled(pid) as samples:
        attacker = threading.Thread(target=attack, args=(port, store, opened))
        attacker.start()
        waits = _waits(port, store, 10.0)
        attacker.join()
        end = _memory(pid)
    later = time.monotonic() + RECOVERY_SECONDS
    while time.monotonic() < later:
        _ask(port, SMALL, store)
        time.sleep(0.25)
    after = _memory(pid)
    for one in opened:
        one.close()
    return [before, max(samples), end, after, 1_000 * at(quiet, 0.99), 1_000 * at(waits, 0.99), len(waits)]


# ------------------------------------------------------------------------------------------------- attacks


def _cached(port: int, store: str, opened: list[socket.socket]) -> None:
    for _ in range(CONNECTIONS):
        _send(_open(port, opened), _request(LARGE, {"c": store}))


def _answers(port: int, store: str, opened: list[socket.socket]) -> None:
    for _ in range(SOCKETS):
        one = _websocket(port, opened)
        messages = [
            {"type": "subscribe", "id": str(n), "payload": {"query": LARGE, "variables": {"c": store}}} for n in range(OPERATIONS)
        ]
        _send(one, b"".join(_frame(json.dumps(message).encode()) for message in [{"type": "connection_init"}, *messages]))


def _streams(port: int, store: str, opened: list[socket.socket]) -> None:
    for n in range(STREAMS):
        # Distinct requests: no response is shared.
        document = FEED.replace("title", f"title{n}: title")
        _send(_open(port, opened), _request(document, {"c": store}, accept="text/event-stream"))


def _pipelined(port: int, store: str, opened: list[socket.socket]) -> None:
    request = _request(LARGE, {"c": store})
    for _ in range(PIPELINES):
        one = _open(port, opened)
        one.setblocking(False)
        with suppress(OSError):
            one.sendall(request * PIPELINED)


# ------------------------------------------------------------------------------------------------- clients


def _open(port: int, opened: list[socket.socket]) -> socket.socket:
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
    one.settimeout(10)
    one.connect(("127.0.0.1", port))
    opened.append(one)
    return one


def _send(one: socket.socket, content: bytes) -> None:
    # The server closes the connection at its limit.
    with suppress(OSError):
        one.sendall(content)


def _request(document: str, variables: Mapping[str, str], accept: str = "application/json") -> bytes:
    body = json.dumps({"query": document, "variables": variables}).encode()
    head = f"POST /graphql HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\naccept: {accept}\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def _websocket(port: int, opened: list[socket.socket]) -> socket.socket:
    one = _open(port, opened)
    one.sendall(
        b"GET /graphql HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
        b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-protocol: graphql-transport-ws\r\n\r\n"
    )
    one.recv(4_096)
    return one


def _frame(text: bytes) -> bytes:
    # Masked with zeros, which changes nothing.
    size = len(text)
    length = struct.pack("!B", 0x80 | size) if size < 126 else struct.pack("!BH", 0x80 | 126, size)
    return b"\x81" + length + bytes(4) + text


def _ask(port: int, document: str, store: str) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=120) as one:
        one.sendall(_request(document, {"c": store}).replace(b"host: x", b"host: x\r\nconnection: close"))
        while one.recv(1_000_000):
            pass


def _waits(port: int, store: str, seconds: float) -> list[float]:
    waits, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.perf_counter()
        with suppress(ConnectionError):
            _ask(port, SMALL, store)
        waits.append(time.perf_counter() - began)
        time.sleep(0.005)
    return waits


# -------------------------------------------------------------------------------------------------- memory


def _memory(pid: int) -> float:
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return float(sum(process.memory_info().rss for process in processes) / 1_000_000)


@contextmanager
def _sampled(pid: int) -> Iterator[list[float]]:
    samples, over = [_memory(pid)], threading.Event()

    def sample() -> None:
        while not over.wait(SAMPLE_SECONDS):
            samples.append(_memory(pid))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


# --------------------------------------------------------------------------------------------------- rows


@contextmanager
def _store(url: str) -> Iterator[str]:
    """A store of products whose descriptions are long, with many changes of one. It is gone afterwards."""
    store, products = str(uuid7()), [str(uuid7()) for _ in range(PRODUCTS)]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            """INSERT INTO configs (id, user_id, store_name, slug, is_published)
            SELECT %s, id, 'Unread', %s, true FROM users LIMIT 1""",
            [store, store],
        )
        for number, product in enumerate(products):
            connection.execute(
                """INSERT INTO products (id, config_id, title, handle, price, max_price, description)
                VALUES (%s, %s, 'Long', %s, 10, 10, %s)""",
                [product, store, f"long-{number}", "long " * 4_000],
            )
        asyncio.run(_change(url, store, products[0]))
        try:
            yield store
        finally:
            connection.execute("DELETE FROM configs WHERE id = %s", [store])


async def _change(url: str, store: str, product: str) -> None:
    entry = LogEntry(kind="product_updated", entity_id=product, product_id=product, was_visible=True, is_visible=True)
    async with Database(url) as database, database.transaction() as connection:
        await log.append_entries(connection, store, [entry] * EVENTS)
