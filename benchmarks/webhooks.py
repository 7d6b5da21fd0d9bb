"""Webhooks: cost and rate of deliveries, and the delay of one owner while another saturates."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from statistics import median
from typing import Any

import orjson
import psycopg

from benchmarks.report import Cell, Table, err
from benchmarks.stage import Stage, at, cpu_seconds
from storefront.core.db.database import Database
from storefront.core.encryption import Vault, generate_key
from storefront.core.ids import new_id
from storefront.feed.log import LogEntry, append_entries
from storefront.webhooks.signing import generate_secret

PRODUCT = """query($productId: ID!) {
  product(by: {id: $productId}) { id title price inStock variants { nodes { id sku price inventory } } } }"""
ANSWER = b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n"
# The timeout of a round in seconds.
TIMEOUT_SECONDS = 300.0

_STORE = """SELECT p.config_id::text, array_agg(p.id::text) FROM products p JOIN configs c ON c.id = p.config_id
  WHERE is_published AND status = 'active' GROUP BY 1 ORDER BY count(*) DESC LIMIT 1"""
_HOOK = """INSERT INTO webhooks (id, config_id, url, topics, query, read_as, secret, position)
  SELECT %s, %s, %s, '{product.updated}', %s, 'shopper', %s,
         coalesce((SELECT position FROM store_positions WHERE config_id = %s), 0)"""


@dataclass(frozen=True, slots=True)
class Run:
    """Of one round: messages a second, and microseconds of CPU for each."""

    rate: float
    server: float
    postgres: float


def measure(stage: Stage, rounds: int, changes: int) -> Iterator[Table]:
    """One webhook and many that are told of the same changes, with a document and without."""
    with psycopg.connect(stage.url) as connection:
        [(store, products)] = connection.execute(_STORE).fetchall()
    rows: list[list[Cell]] = []
    for hooks, query in ((1, None), (1, PRODUCT), (8, PRODUCT)):
        runs = []
        for number in range(rounds):
            with err.status(f"{hooks} webhooks, round {number + 1} of {rounds}"):
                runs.append(asyncio.run(_run(stage, store, products[:200], hooks, query, changes // hooks)))
        what = "what happened alone" if query is None else "a product with its variants"
        rows.append([f"{hooks}", what, *(median(getattr(run, name) for run in runs) for name in ("rate", "server", "postgres"))])
    columns = ("webhooks", "message", "messages a second", "µs of CPU, server", "µs of CPU, Postgres")
    note = f"Medians of {rounds} rounds of {changes:,} messages. One process; the receiver, on the same machine, answers at once."
    yield Table("webhooks", f"{changes:,} messages", columns, rows, note)


async def _run(stage: Stage, store: str, products: list[str], hooks: int, query: str | None, changes: int) -> Run:
    key = generate_key()
    options = {"ENCRYPTION_KEYS": key, "WEBHOOK_HTTP": "true", "WEBHOOK_NETWORKS": "127.0.0.1/32", "WEBHOOK_INTERVAL": "0.2"}
    async with _receiving(changes * hooks) as (port, done), Database(stage.url) as database:
        secret, url = Vault([key]).encrypt(generate_secret()), f"http://127.0.0.1:{port}/"
        stage.run("DELETE FROM webhooks")
        with psycopg.connect(stage.url) as connection:
            for _ in range(hooks):
                connection.execute(_HOOK, [new_id(), store, url, query, secret, store])
        with stage.server(**{f"STOREFRONT_{name}": value for name, value in options.items()}) as (_, pid):
            await asyncio.sleep(1)
            before, began = (cpu_seconds(pid), cpu_seconds(stage.postmaster)), time.monotonic()
            await _change(database, store, products, changes)
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await done.wait()
            seconds = time.monotonic() - began
            # What came of the last ones is noted after they came.
            await asyncio.sleep(0.5)
            used = cpu_seconds(pid) - before[0], cpu_seconds(stage.postmaster) - before[1]
    number = changes * hooks
    return Run(number / seconds, 1e6 * used[0] / number, 1e6 * used[1] / number)


async def _change(database: Database, store: str, products: list[str], changes: int) -> None:
    for start in range(0, changes, len(products)):
        chosen = products[: changes - start]
        seen: dict[str, Any] = {"was_visible": True, "is_visible": True, "changed_fields": ["price"]}
        entries = [LogEntry(kind="product_updated", entity_id=id_, product_id=id_, **seen) for id_ in chosen]
        async with database.transaction() as connection:
            await append_entries(connection, store, entries)


@asynccontextmanager
async def _receiving(number: int) -> Any:
    """A receiver's port, and what is set once it has had so many messages. It reads as little as will do."""
    done, left = asyncio.Event(), number

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal left
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                orjson.loads(await reader.readexactly(length))
                writer.write(ANSWER)
                left -= 1
                if not left:
                    done.set()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async with await asyncio.start_server(converse, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], done


# ------------------------------------------------------------------------------------------------ fairness

# Webhooks of the owner who saturates (20 on each store), changes of a store before the measurement, products changed a second.
SLOW_WEBHOOKS, BACKLOG_CHANGES, CHANGES_A_SECOND = 40, 400, 20
# Seconds before the measurement, and between two changes of the other owner.
WARM_UP_SECONDS, CHANGE_INTERVAL_SECONDS = 5.0, 0.2

_OWNER = """WITH made AS (INSERT INTO users (id, email, name) VALUES (%s, %s, 'Owner') RETURNING id)
  INSERT INTO user_identities (issuer, subject, user_id) SELECT 'storefront', id::text, id FROM made"""
_STORES = """SELECT c.id::text, (array_agg(p.id::text))[1:100] FROM configs c JOIN products p ON p.config_id = c.id
  WHERE c.is_published AND p.status = 'active' GROUP BY 1 HAVING count(*) >= 20 ORDER BY count(*) DESC LIMIT 3"""

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


async def _answer_at_once(writer: asyncio.StreamWriter) -> None:
    writer.write(ANSWER)


async def _answer_late(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(5)
    writer.write(ANSWER)


async def _answer_never(_: asyncio.StreamWriter) -> None:
    await asyncio.sleep(TIMEOUT_SECONDS)


async def _trickle(writer: asyncio.StreamWriter) -> None:
    for character in b"HTTP/1.1 200 OK" + b"x" * 1_000:
        writer.write(bytes([character]))
        await writer.drain()
        await asyncio.sleep(0.1)


ANSWERS: Mapping[str, Answer] = {
    "answer after 5 s": _answer_late,
    "never answer": _answer_never,
    "trickle bytes": _trickle,
    "answer at once": _answer_at_once,
}


def measure_fairness(stage: Stage, changes: int) -> Iterator[Table]:
    """Milliseconds from commit to delivery for one owner, alone and while another owner's receivers misbehave."""
    kinds = ["nobody else", *ANSWERS, "refuse the connection", "never answer the connect"]
    rows: list[list[Cell]] = []
    for kind in kinds:
        with err.status(kind):
            waits = asyncio.run(_measure_waits(stage, kind, changes))
        rows.append([kind, 1_000 * at(waits, 0.5), 1_000 * at(waits, 0.99), 1_000 * max(waits), len(waits)])
    note = f"""Two owners, one process. One has {SLOW_WEBHOOKS} webhooks on two stores, with {BACKLOG_CHANGES} changes waiting
in each and {CHANGES_A_SECOND} more a second; the other has one webhook, a change every {CHANGE_INTERVAL_SECONDS:g} s, and a
receiver that answers at once."""
    columns = ("receivers of the other owner", "p50, ms", "p99, ms", "longest, ms", "messages")
    yield Table("fairness", f"From commit to delivery, {changes} messages", columns, rows, note)


async def _measure_waits(stage: Stage, kind: str, changes: int) -> list[float]:
    key = generate_key()
    options = {"ENCRYPTION_KEYS": key, "WEBHOOK_HTTP": "true", "WEBHOOK_NETWORKS": "127.0.0.1/32", "WEBHOOK_INTERVAL": "0.2"}
    *crowded, (store, products) = _stores_of_two_owners(stage)
    async with _timing(changes) as (port, arrived, done), _misbehaving(kind) as other, Database(stage.url) as database:
        secret = Vault([key]).encrypt(generate_secret())
        hooked = [(crowded[number % 2][0], other) for number in range(SLOW_WEBHOOKS if other else 0)]
        with psycopg.connect(stage.url) as connection:
            for id_, receiver in (*hooked, (store, port)):
                connection.execute(_HOOK, [new_id(), id_, f"http://127.0.0.1:{receiver}/", PRODUCT, secret, id_])
        for id_, ids in crowded:
            await _change(database, id_, ids, BACKLOG_CHANGES)
        with stage.server(**{f"STOREFRONT_{name}": value for name, value in options.items()}):
            saturation = asyncio.create_task(_saturate(database, crowded))
            await asyncio.sleep(WARM_UP_SECONDS)
            committed = []
            for number in range(changes):
                await _change(database, store, [products[number % len(products)]], 1)
                committed.append(time.monotonic())
                await asyncio.sleep(CHANGE_INTERVAL_SECONDS)
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await done.wait()
            saturation.cancel()
    # Positions are gapless: the n-th change has position n.
    return [moment - began for (_, moment), began in zip(sorted(arrived.items()), committed, strict=True)]


def _stores_of_two_owners(stage: Stage) -> list[Any]:
    """Three stores with ids of products, the first two of one owner; no store has webhooks."""
    saturating, waiting = new_id(), new_id()
    with psycopg.connect(stage.url) as connection:
        connection.execute("DELETE FROM webhooks")
        stores = connection.execute(_STORES).fetchall()
        for user in (saturating, waiting):
            connection.execute(_OWNER, [user, f"{user}@example.com"])
        for (id_, _), user in zip(stores, (saturating, saturating, waiting), strict=True):
            connection.execute("UPDATE configs SET user_id = %s WHERE id = %s", [user, id_])
    return stores


async def _saturate(database: Database, crowded: list[Any]) -> None:
    while True:
        for crowd, ids in crowded:
            await _change(database, crowd, ids, CHANGES_A_SECOND)
        await asyncio.sleep(1)


@asynccontextmanager
async def _timing(number: int) -> AsyncIterator[tuple[int, dict[int, float], asyncio.Event]]:
    """A receiver's port, the moment at which each position arrived, and what is set once so many have."""
    arrived: dict[int, float] = {}
    done = asyncio.Event()

    async def take(body: bytes, writer: asyncio.StreamWriter) -> None:
        arrived.setdefault(int(orjson.loads(body)["position"]), time.monotonic())
        writer.write(ANSWER)
        if len(arrived) == number:
            done.set()

    async with _listening(take) as port:
        yield port, arrived, done


@asynccontextmanager
async def _misbehaving(kind: str) -> AsyncIterator[int | None]:
    """The port of receivers of this kind, or None where there are none."""
    if kind in ANSWERS:
        async with _listening(lambda _, writer: ANSWERS[kind](writer)) as port:
            yield port
    elif kind == "refuse the connection":
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            yield bound.getsockname()[1]
    elif kind == "never answer the connect":
        with _full_backlog() as port:
            yield port
    else:
        yield None


@contextmanager
def _full_backlog() -> Iterator[int]:
    """A port whose accept queue is full: the kernel drops further connection requests."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        clients = [socket.socket() for _ in range(4)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex(listening.getsockname())
        try:
            yield listening.getsockname()[1]
        finally:
            for client in clients:
                client.close()


@asynccontextmanager
async def _listening(take: Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[int]:
    """A port at which each request's body is given to `take`."""
    tasks: set[asyncio.Task[None]] = set()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                await take(await reader.readexactly(length), writer)
        writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(converse(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
