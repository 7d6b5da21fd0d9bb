"""`bulkUpsertProducts` on servers that are killed in the middle of it: whole or not at all, and done once by its retries."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from storefront.core.db.database import Database
from storefront.feed import log
from tests.client import Client, token_of
from tests.factories import make_store, make_user
from tests.feed.processes import Server, running
from tests.products.test_bulk_upsert import list_errors, list_statuses, size, upsert

PRODUCTS = 40
READ = """query($c: ID!, $after: String) { products(configId: $c, first: 100, after: $after) {
  pageInfo { hasNextPage endCursor }
  nodes { handle title version price variants(availableOnly: false, first: 10) { nodes { name price inventory } } } } }"""

Shop = tuple[Client, str]


@dataclass
class Merchant:
    """An owner and their store, as they reach it through servers that come and go."""

    url: str
    folder: Path
    database: Database
    user: str
    store: str

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[tuple[Server, Shop]]:
        """A server in a process of its own, with its owner."""
        process = running(self.url, self.folder)
        # In a thread: requests to it are made by this loop.
        server = await asyncio.to_thread(process.__enter__)
        try:
            async with httpx.AsyncClient(base_url=server.address, timeout=60) as http:
                yield server, (Client(http, self.database, token_of(self.user)), self.store)
        finally:
            await asyncio.to_thread(process.__exit__, None, None, None)


@pytest.fixture
async def merchant(empty_url: str, tmp_path: Path, database: Database) -> Merchant:
    user = await make_user(database)
    return Merchant(empty_url, tmp_path, database, user, await make_store(database, user_id=user))


def build_rows(key: str, revision: int = 1) -> list[dict[str, Any]]:
    """Products with four variants each. The last one has no title and no price: as a new product it is rejected."""
    products = [
        {
            "handle": f"{key}-{n}",
            "title": f"Shirt {n}",
            "price": f"{revision}",
            "variants": [size(letter, inventory=revision) for letter in "SMLX"],
        }
        for n in range(PRODUCTS)
    ]
    return [*products, {"handle": f"{key}-nameless"}]


async def read_products(shop: Shop, key: str) -> dict[str, Any]:
    """The products with this prefix of their handles, by handle."""
    nodes, after = list[Any](), None
    while True:
        page = (await shop[0].ask(READ, c=shop[1], after=after))["products"]
        nodes += page["nodes"]
        after = page["pageInfo"]["endCursor"]
        if not page["pageInfo"]["hasNextPage"]:
            break
    found = [node for node in nodes if node["handle"].startswith(f"{key}-")]
    by_handle = {node["handle"]: node for node in found}
    assert len(by_handle) == len(found)
    return by_handle


def describe_products(key: str, revision: int) -> dict[str, Any]:
    """What `read_products` returns after `build_rows(key, revision)`."""
    price = f"{revision}.00"
    return {
        row["handle"]: {
            "handle": row["handle"],
            "title": row["title"],
            "version": revision,
            "price": price,
            "variants": {"nodes": [{"name": letter, "price": price, "inventory": revision} for letter in "SMLX"]},
        }
        for row in build_rows(key, revision)[:-1]
    }


async def send(shop: Shop, key: str, revision: int = 1) -> dict[str, Any]:
    rows = build_rows(key, revision)
    return await upsert(shop, *rows, errorPolicy="VALID_ROWS", idempotencyKey=f"{key} {revision}")


async def check_retries(shop: Shop, key: str, revision: int, *, was_committed: bool) -> None:
    """Send a request again, twice at a time and once more: it is done once, and each answer is the same."""
    payloads = [*await asyncio.gather(send(shop, key, revision), send(shop, key, revision)), await send(shop, key, revision)]
    assert sorted(payload.pop("replayed") for payload in payloads) == [was_committed, True, True]
    assert payloads[0] == payloads[1] == payloads[2]
    assert list_statuses(payloads[0]) == [*["CREATED" if revision == 1 else "UPDATED"] * PRODUCTS, "REJECTED"]
    assert {path.rpartition(".")[0] for _, path in list_errors(payloads[0])} == {f"rows.{PRODUCTS}"}
    assert await read_products(shop, key) == describe_products(key, revision)


async def wait_until_blocked(connection: psycopg.AsyncConnection[Any]) -> set[int]:
    """The server processes of Postgres that wait for a lock, as soon as there are any."""
    waiting = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with asyncio.timeout(30):
        while True:
            if rows := await (await connection.execute(waiting)).fetchall():
                return {pid for (pid,) in rows}
            await asyncio.sleep(0.02)


async def wait_until_gone(connection: psycopg.AsyncConnection[Any], pids: set[int]) -> None:
    async with asyncio.timeout(30):
        while True:
            left = await connection.execute("SELECT count(*) FROM pg_stat_activity WHERE pid = ANY(%s)", [list(pids)])
            if await left.fetchone() == (0,):
                return
            await asyncio.sleep(0.02)


# The first statement of the request waits for its store, one in the middle for a product, and the last one, behind all writes,
# for the log.
MOMENTS = {
    "store": "SELECT FROM configs WHERE id = %s FOR UPDATE",
    "products": "SELECT FROM products WHERE config_id = %s FOR UPDATE",
    "log": "SELECT FROM store_positions WHERE config_id = %s FOR UPDATE",
}


@pytest.mark.parametrize("moment", MOMENTS)
async def test_upsert_of_a_killed_server_is_whole_or_not_at_all(merchant: Merchant, moment: str) -> None:
    async with merchant.serving() as (server, shop):
        await check_retries(shop, "a", 1, was_committed=False)
        async with await psycopg.AsyncConnection.connect(merchant.url) as holder:
            await holder.execute(MOMENTS[moment].encode(), [merchant.store])
            request = asyncio.create_task(send(shop, "a", 2))
            async with await psycopg.AsyncConnection.connect(merchant.url, autocommit=True) as watcher:
                blocked = await wait_until_blocked(watcher)
                os.kill(server.process.pid, signal.SIGKILL)
                await asyncio.to_thread(server.process.wait)
                with pytest.raises(httpx.HTTPError):
                    await request
                await holder.rollback()
                # What the server sent before it died is executed, the end of the transaction perhaps included.
                await wait_until_gone(watcher, blocked)
    async with merchant.serving() as (_, shop):
        found = await read_products(shop, "a")
        assert found in (describe_products("a", 1), describe_products("a", 2))
        await check_retries(shop, "a", 2, was_committed=found == describe_products("a", 2))
    entries = await log.read_entries(merchant.database, merchant.store, 0, 1_000)
    assert Counter(entry.kind for entry in entries) == {"product_created": PRODUCTS, "product_updated": PRODUCTS}
    assert [entry.position for entry in entries] == list(range(1, 2 * PRODUCTS + 1))


async def test_upserts_of_servers_killed_at_any_time_are_done_once(merchant: Merchant) -> None:
    async with merchant.serving() as (_, shop):
        await send(shop, "warm")
        started = time.monotonic()
        await send(shop, "k0")
        seconds = time.monotonic() - started
    # The last ones are killed around their end.
    shares = (0.2, 0.5, 0.8, 0.95, 1.05)
    for n, share in enumerate(shares, 1):
        key = f"k{n}"
        async with merchant.serving() as (server, shop):
            await send(shop, f"warm{n}")
            request = asyncio.create_task(send(shop, key))
            await asyncio.sleep(share * seconds)
            os.kill(server.process.pid, signal.SIGKILL)
            await asyncio.to_thread(server.process.wait)
            answer: dict[str, Any] | None = None
            with suppress(httpx.HTTPError):
                answer = await request
        async with merchant.serving() as (_, shop):
            found = await read_products(shop, key)
            assert found in ({}, describe_products(key, 1))
            # An answer was sent after the commit.
            assert found or answer is None
            payload = await send(shop, key)
            assert answer is None or {**answer, "replayed": True} == payload
            await check_retries(shop, key, 1, was_committed=True)
    entries = await log.read_entries(merchant.database, merchant.store, 0, 1_000)
    assert Counter(entry.kind for entry in entries) == {"product_created": (2 + 2 * len(shares)) * PRODUCTS}
