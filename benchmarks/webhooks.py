"""Webhooks: how much CPU a message takes of the server and of Postgres, and how many go out in a second."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import orjson
import psycopg

from benchmarks.report import Cell, Table, err
from benchmarks.stage import Stage, cpu_seconds
from storefront.core.database import Database
from storefront.core.ids import new_id
from storefront.core.secrets import Vault, new_key
from storefront.feed.log import Entry, append
from storefront.webhooks.signing import new_secret

PRODUCT = (
    "query($productId: ID!) { product(by: {id: $productId}) { id title price inStock variants { id sku price inventory } } }"
)
ANSWER = b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n"
# Seconds that all of a round may take.
PATIENCE = 300.0

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
    key = new_key()
    options = {"ENCRYPTION_KEYS": key, "WEBHOOK_HTTP": "true", "WEBHOOK_NETWORKS": "127.0.0.1/32", "WEBHOOK_INTERVAL": "0.2"}
    async with _receiving(changes * hooks) as (port, done), Database(stage.url) as database:
        secret, url = Vault([key]).encrypt(new_secret()), f"http://127.0.0.1:{port}/"
        stage.run("DELETE FROM webhooks")
        with psycopg.connect(stage.url) as connection:
            for _ in range(hooks):
                connection.execute(_HOOK, [new_id(), store, url, query, secret, store])
        with stage.server(**{f"STOREFRONT_{name}": value for name, value in options.items()}) as (_, pid):
            await asyncio.sleep(1)
            before, began = (cpu_seconds(pid), cpu_seconds(stage.postmaster)), time.monotonic()
            await _change(database, store, products, changes)
            async with asyncio.timeout(PATIENCE):
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
        entries = [Entry(kind="product_updated", entity_id=id_, product_id=id_, **seen) for id_ in chosen]
        async with database.transaction() as connection:
            await append(connection, store, entries)


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
