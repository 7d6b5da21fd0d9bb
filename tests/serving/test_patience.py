"""Timeouts, disconnects and concurrency limits cancel operations and their statements in Postgres."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import text
from websockets.asyncio.client import connect

from storefront.core.db.database import Database, compile_statement
from storefront.execution.coroutines import PendingCoroutine, cancel_all, start_awaitables
from storefront.graph.context import Context
from tests.client import Client
from tests.conftest import serving
from tests.factories import count_statements, make_product, make_store, make_user

STORES = "{ configs { nodes { storeName } } }"
STOCK = "mutation($p: ID!) { adjustInventory(input: {changes: [{id: $p, delta: 1}]}) { variants { inventory } } }"
THREE = """mutation($a: ID!, $b: ID!) {
  first: adjustInventory(input: {changes: [{id: $a, delta: 1}]}) { position }
  second: adjustInventory(input: {changes: [{id: $b, delta: 1}]}) { position }
  third: adjustInventory(input: {changes: [{id: $a, delta: 1}]}) { position }
  __typename
}"""


class Watcher:
    """Looks at Postgres from outside, over a connection of its own."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self.connection = connection

    async def waiting(self) -> int:
        """How many statements wait for a lock."""
        # In a transaction Postgres tells the same over and over.
        await self.connection.execute("SELECT pg_stat_clear_snapshot()")
        found = await self.connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        row = await found.fetchone()
        return int(row[0]) if row else 0

    async def until(self, number: int) -> None:
        """Wait until so many wait."""
        async with asyncio.timeout(5):
            while await self.waiting() != number:  # noqa: ASYNC110 - Postgres tells nobody
                await asyncio.sleep(0.02)

    async def backends(self) -> set[int]:
        """The processes of Postgres that serve others."""
        await self.connection.execute("SELECT pg_stat_clear_snapshot()")
        found = await self.connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        return {row[0] for row in await found.fetchall()}

    @asynccontextmanager
    async def locked(self, statement: str) -> AsyncIterator[None]:
        """While this lasts others wait for what the statement locks."""
        async with self.connection.transaction():
            await self.connection.execute(statement.encode())
            yield


@asynccontextmanager
async def watching(url: str) -> AsyncIterator[Watcher]:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        yield Watcher(connection)


LOCK_STORES = "LOCK TABLE configs IN ACCESS EXCLUSIVE MODE"


async def raw_request(client: Client, query: str, **variables: Any) -> asyncio.StreamWriter:
    """Send a request on a connection of its own, and do not wait for the answer."""
    host, port = str(client.http.base_url).removeprefix("http://").rstrip("/").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps({"query": query, "variables": variables}).encode()
    head = ["POST /graphql HTTP/1.1", "host: x", "content-type: application/json", f"content-length: {len(body)}"]
    head += [f"authorization: Bearer {client.token}"] if client.token else []
    writer.write("\r\n".join([*head, "\r\n"]).encode() + body)
    await writer.drain()
    return writer


async def owner(client: Client) -> tuple[Client, list[str]]:
    """Somebody with two products in a store of their own."""
    subject = await make_user(client.database)
    user = client.signed_in(subject)
    store = await make_store(client.database, user_id=(await user.ask("{ me { id } }"))["me"]["id"])
    return user, [await make_product(client.database, store, inventory=0) for _ in range(2)]


async def stock(database: Database, product: str) -> int:
    (row,) = await database.fetch(compile_statement(text("SELECT inventory FROM products WHERE id = :id")), {"id": product})
    return int(row.inventory)


async def test_disconnect_cancels_the_statement(client: Client, empty_url: str) -> None:
    async with watching(empty_url) as watcher:
        async with watcher.locked(LOCK_STORES):
            before = await watcher.backends()
            writer = await raw_request(client, STORES)
            await watcher.until(1)
            writer.close()
            await watcher.until(0)
        await client.ask(STORES)
        # The connection was not lost over it.
        assert await watcher.backends() >= before


async def test_disconnect_cancels_a_nested_load(client: Client, empty_url: str) -> None:
    store = await make_store(client.database)
    product = await make_product(client.database, store)
    query = f'{{ product(by: {{id: "{product}"}}) {{ related {{ id }} config {{ owner {{ configs {{ totalCount }} }} }} }} }}'
    async with watching(empty_url) as watcher:
        async with watcher.locked("LOCK TABLE users IN ACCESS EXCLUSIVE MODE"):
            before = await watcher.backends()
            writer = await raw_request(client, query)
            await watcher.until(1)
            writer.close()
            await watcher.until(0)
        await client.ask(query)
        assert await watcher.backends() >= before


async def test_mutation_completes_after_disconnect(client: Client, empty_url: str) -> None:
    user, (product, _) = await owner(client)
    async with watching(empty_url) as watcher:
        async with watcher.locked(f"SELECT FROM products WHERE id = '{product}' FOR UPDATE"):
            writer = await raw_request(user, STOCK, p=product)
            await watcher.until(1)
            writer.close()
            await asyncio.sleep(0.3)
            assert await watcher.waiting() == 1
        async with asyncio.timeout(5):
            while await stock(client.database, product) != 1:  # noqa: ASYNC110 - nobody is told of it any more
                await asyncio.sleep(0.02)


async def test_socket_complete_message_cancels_the_statement(client: Client, empty_url: str) -> None:
    address = str(client.http.base_url).replace("http", "ws").rstrip("/") + "/graphql"
    async with (
        watching(empty_url) as watcher,
        connect(address, subprotocols=["graphql-transport-ws"]) as socket,  # type: ignore[list-item]
        watcher.locked(LOCK_STORES),
    ):
        for message in ({"type": "connection_init"}, {"type": "subscribe", "id": "1", "payload": {"query": STORES}}):
            await socket.send(json.dumps(message))
        await watcher.until(1)
        await socket.send(json.dumps({"type": "complete", "id": "1"}))
        await watcher.until(0)


async def test_query_times_out(empty_url: str, tmp_path: Path) -> None:
    async with (
        serving(empty_url, tmp_path, request_timeout=0.3) as client,
        watching(empty_url) as watcher,
        watcher.locked(LOCK_STORES),
    ):
        answer = await client.post(STORES)
        await watcher.until(0)
        (error,) = answer.json()["errors"]
        assert (answer.status_code, error["extensions"]["code"]) == (504, "TIMEOUT")
        assert "0.3 s" in error["message"]


async def test_mutation_timeout_keeps_the_results_of_other_fields(empty_url: str, tmp_path: Path) -> None:
    async with serving(empty_url, tmp_path, request_timeout=0.8) as client, watching(empty_url) as watcher:
        user, (free, locked) = await owner(client)
        async with watcher.locked(f"SELECT FROM products WHERE id = '{locked}' FOR UPDATE"):
            answer = await user.post(THREE, a=free, b=locked)
        received = answer.json()
        assert answer.status_code == 200
        assert received["data"] == {"first": {"position": "1"}, "second": None, "third": None, "__typename": "Mutation"}
        errors = [(error["path"], error["extensions"]["code"], error["extensions"]["state"]) for error in received["errors"]]
        assert errors == [(["second"], "TIMEOUT", "INTERRUPTED"), (["third"], "TIMEOUT", "NOT_STARTED")]
        assert [await stock(client.database, product) for product in (free, locked)] == [1, 0]


async def test_timeout_of_a_payload_says_that_the_mutation_is_done(empty_url: str, tmp_path: Path) -> None:
    async with serving(empty_url, tmp_path, request_timeout=0.8) as client, watching(empty_url) as watcher:
        user, (free, _) = await owner(client)
        payload = "variants { product { reviews { nodes { id } } } }"
        # The store of an id is looked up once, in all tables with ids.
        await user.ask(STOCK, p=free)
        async with watcher.locked("LOCK TABLE reviews IN ACCESS EXCLUSIVE MODE"):
            answer = await user.post(STOCK.replace("variants { inventory }", payload), p=free)
        [error] = answer.json()["errors"]
        assert (answer.status_code, error["extensions"]["code"], error["extensions"]["state"]) == (504, "TIMEOUT", "COMMITTED")
        assert await stock(client.database, free) == 2


async def test_lock_timeout_of_one_mutation_keeps_the_results_of_other_fields(empty_url: str, tmp_path: Path) -> None:
    async with serving(empty_url, tmp_path, lock_timeout=300) as client, watching(empty_url) as watcher:
        user, (free, locked) = await owner(client)
        async with watcher.locked(f"SELECT FROM products WHERE id = '{locked}' FOR UPDATE"):
            answer = await user.post(THREE, a=free, b=locked)
        received = answer.json()
        assert (answer.status_code, [error["path"] for error in received["errors"]]) == (200, [["second"]])
        assert [value and value["position"] for value in list(received["data"].values())[:3]] == ["1", None, "2"]
        assert [await stock(client.database, product) for product in (free, locked)] == [2, 0]


async def test_statement_timeout_is_reported(empty_url: str, tmp_path: Path) -> None:
    async with (
        serving(empty_url, tmp_path, statement_timeout=150) as client,
        watching(empty_url) as watcher,
        watcher.locked(LOCK_STORES),
    ):
        error = await client.refusal(STORES)
        assert (error["path"], error["extensions"]["code"]) == (["configs"], "TIMEOUT")
        assert "150 ms" in error["message"]


async def test_operations_beyond_concurrency_limit_are_refused(empty_url: str, tmp_path: Path) -> None:
    async with serving(empty_url, tmp_path, max_concurrent=3) as client, watching(empty_url) as watcher:
        async with watcher.locked(LOCK_STORES):
            with count_statements(client.database) as statements:
                running = [asyncio.create_task(client.post(STORES)) for _ in range(3)]
                # Background work may wait for the lock, too: each request has sent its statement.
                await watcher.until(3)
                async with asyncio.timeout(30):
                    while len(statements) < 3:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                answer = await client.post(STORES)
            assert len(statements) == 3
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert answer.json()["errors"][0]["extensions"]["code"] == "SERVICE_UNAVAILABLE"
        assert all("data" in answer.json() for answer in await asyncio.gather(*running))
        await client.ask(STORES)


async def test_cancelled_coroutine_leaves_its_connection_clean(database: Database, empty_url: str) -> None:
    slow = compile_statement(text("SELECT pg_sleep(30)"))
    async with watching(empty_url) as watcher:
        before = await watcher.backends()
        begun: list[PendingCoroutine] = []
        start_awaitables([database.fetch(slow)], begun)
        await asyncio.sleep(0.2)
        cancel_all(begun)
        async with asyncio.timeout(5):
            assert (await database.fetch(compile_statement(text("SELECT 1 AS one"))))[0].one == 1
        assert await watcher.backends() >= before


async def test_batch_disconnect_cancels_loads_of_each_request(database: Database) -> None:
    async def slow(context: Context, keys: Sequence[str]) -> Sequence[str]:
        await context.database.fetch(compile_statement(text("SELECT pg_sleep(0.3)")))
        return keys

    nothing: Any = None
    viewer = Context(database, nothing, nothing, nothing, nothing)
    one, other = viewer.fork(), viewer.fork()
    loads = [asyncio.ensure_future(context.load(slow, "key")) for context in (one, other)]
    await asyncio.sleep(0.1)
    one.cancel()
    assert await asyncio.wait_for(loads[1], 5) == "key"
    assert not loads[0].done()
    loads[0].cancel()


async def test_shared_execution_waiters_have_own_deadlines(empty_url: str, tmp_path: Path) -> None:
    async with (
        serving(empty_url, tmp_path, request_timeout=3, response_cache_bytes=1_000_000) as client,
        watching(empty_url) as watcher,
        watcher.locked(LOCK_STORES),
    ):

        async def ask() -> tuple[int, float]:
            began = time.monotonic()
            return (await client.post(STORES)).status_code, time.monotonic() - began

        first = asyncio.create_task(ask())
        await watcher.until(1)
        found = await asyncio.gather(first, *(ask() for _ in range(7)))
        # A second execution, begun when the first was given up, would take as long again.
        assert [status for status, _ in found] == [504] * 8
        assert max(seconds for _, seconds in found) < 5.5
