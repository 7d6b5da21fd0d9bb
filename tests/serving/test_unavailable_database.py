"""A database that is unavailable, slow or read-only: every transport says that a retry may succeed, and streams lose no event."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import psycopg
import pytest
from websockets.exceptions import ConnectionClosed

from storefront.core.db.database import Database
from storefront.serving.run import subscriptions
from tests.client import token_of
from tests.conftest import serving
from tests.factories import make_product, make_store, make_user
from tests.feed.processes import running
from tests.feed.test_feed import Listener, listening, socket
from tests.serving.test_graceful_shutdown import until_blocked

UPDATE = "mutation($i: UpdateProductInput!) { updateProduct(input: $i) { position userErrors { message } } }"
CREATE = """mutation($i: CreateProductInput!) { createProduct(input: $i) { position userErrors { message } } }"""
FEED = """subscription($c: ID!, $after: Position) { productFeed(configId: $c, after: $after) {
  ... on ProductUpdated { position product { id reviews { nodes { id } } } } } }"""


@asynccontextmanager
async def occupied(database: Database, connections: int) -> AsyncIterator[None]:
    """Take all connections of a server."""
    async with asyncio.TaskGroup() as group:
        release = asyncio.Event()

        async def hold() -> None:
            async with database.transaction():
                await release.wait()

        for _ in range(connections):
            group.create_task(hold())
        await asyncio.sleep(0.1)
        yield
        release.set()


async def test_socket_whose_token_cannot_be_checked_may_try_again(empty_url: str, tmp_path: Path) -> None:
    async with serving(empty_url, tmp_path, pool_size=1, pool_timeout=0.3) as shop:
        owner = shop.signed_in(await make_user(shop.database))
        async with occupied(shop.database, 1), socket(owner) as opened:
            with pytest.raises(ConnectionClosed) as closed:
                await opened.recv()
            assert closed.value.rcvd and closed.value.rcvd.code == 4430
        async with socket(owner) as opened:
            assert json.loads(await opened.recv())["type"] == "connection_ack"


async def test_token_is_checked_within_the_timeout_of_a_request(empty_url: str, tmp_path: Path) -> None:
    async with serving(empty_url, tmp_path, pool_size=1, request_timeout=0.3) as shop:
        owner = shop.signed_in(await make_user(shop.database))
        async with occupied(shop.database, 1):
            refused = await owner.post("{ me { id } }")
        assert (refused.status_code, refused.json()["errors"][0]["extensions"]["code"]) == (504, "TIMEOUT")
        assert (await owner.ask("{ me { id } }"))["me"]


async def test_beacon_is_sent_again(empty_url: str, tmp_path: Path) -> None:
    async with serving(empty_url, tmp_path, pool_size=1, pool_timeout=0.3) as shop:
        store = await make_store(shop.database)
        body = json.dumps({"events": [{"event": "page_view"}], "consent": True})
        async with occupied(shop.database, 1):
            answer = await shop.http.post(f"/events/{store}", content=body)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert [error["extensions"]["code"] for error in answer.json()["errors"]] == ["SERVICE_UNAVAILABLE"]
        assert (await shop.http.post(f"/events/{store}", content=body)).json()["recorded"] == 1


async def test_read_only_primary_is_unavailable_to_writers(empty_url: str, tmp_path: Path) -> None:
    async with serving(empty_url, tmp_path) as shop:
        user = await make_user(shop.database)
        owner = shop.signed_in(user)
        store = await make_store(shop.database, user_id=user)
        product = await make_product(shop.database, store)
        with psycopg.connect(empty_url, autocommit=True) as operator:
            name = operator.info.dbname
            others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
            operator.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'.encode())
            operator.execute(others, [name])
            for keys in ({}, {"idempotencyKey": "one"}):
                answer = await owner.post(UPDATE, i={"id": product, "title": "New", **keys})
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "1"), answer.text
                assert [error["extensions"]["code"] for error in answer.json()["errors"]] == ["SERVICE_UNAVAILABLE"]
            parts = (await shop.http.get("/readyz")).json()["parts"]
            assert "read-only" in parts["writes"]
            operator.execute("SET default_transaction_read_only = off")
            operator.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only'.encode())
            operator.execute(others, [name])
        done = await owner.ask(UPDATE, i={"id": product, "title": "New", "idempotencyKey": "one"})
        assert done["updateProduct"] == {"position": "1", "userErrors": []}


async def test_statement_cancelled_from_outside_is_no_timeout(empty_url: str, tmp_path: Path) -> None:
    cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with serving(empty_url, tmp_path, statement_timeout=20_000) as shop:
        user = await make_user(shop.database)
        product = await make_product(shop.database, await make_store(shop.database, user_id=user))
        with psycopg.connect(empty_url) as operator:
            operator.execute("SELECT FROM products WHERE id = %s FOR UPDATE", [product])
            writing = asyncio.create_task(shop.signed_in(user).post(UPDATE, i={"id": product, "title": "New"}))
            async with asyncio.timeout(10):
                while not operator.execute(cancel.encode()).fetchall():  # noqa: ASYNC110 - Postgres tells nobody
                    await asyncio.sleep(0.02)
            answer = await writing
        assert (answer.status_code, answer.json()["errors"][0]["extensions"]["code"]) == (503, "SERVICE_UNAVAILABLE")


async def test_stream_ends_before_an_event_that_it_cannot_send(
    empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "EVENT_RETRY_SECONDS", 1.0)
    async with serving(empty_url, tmp_path, statement_timeout=300) as shop:
        user = await make_user(shop.database)
        owner = shop.signed_in(user)
        store = await make_store(shop.database, user_id=user)
        product = await make_product(shop.database, store)
        async with listening(shop, store, FEED) as listener:
            await owner.ask(UPDATE, i={"id": product, "title": "First"})
            assert (await listener.message())["payload"]["data"]["productFeed"]["position"] == "1"
            with psycopg.connect(empty_url) as operator:
                operator.execute("LOCK TABLE reviews IN ACCESS EXCLUSIVE MODE")
                await owner.ask(UPDATE, i={"id": product, "title": "Second"})
                # Not the event with an error, after which the client would resume behind it.
                assert (await listener.message())["type"] == "complete"
        async with listening(shop, store, FEED, after="1") as resumed:
            assert (await resumed.message())["payload"]["data"]["productFeed"]["position"] == "2"


async def test_slow_event_is_sent_when_the_database_answers(empty_url: str, tmp_path: Path) -> None:
    async with serving(empty_url, tmp_path, statement_timeout=300) as shop:
        user = await make_user(shop.database)
        owner = shop.signed_in(user)
        store = await make_store(shop.database, user_id=user)
        product = await make_product(shop.database, store)
        async with listening(shop, store, FEED) as listener:
            await owner.ask(UPDATE, i={"id": product, "title": "First"})
            await listener.message()
            with psycopg.connect(empty_url) as operator:
                operator.execute("LOCK TABLE reviews IN ACCESS EXCLUSIVE MODE")
                await owner.ask(UPDATE, i={"id": product, "title": "Slow"})
                assert await is_silent(listener, 1)
            message = await listener.message()
            assert "errors" not in message["payload"] and message["payload"]["data"]["productFeed"]["position"] == "2"


async def is_silent(listener: Listener, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await listener.socket.recv()
    except TimeoutError:
        return True
    return False


async def test_request_beyond_the_grace_of_a_shutdown_gets_503(empty_url: str, database: Database, tmp_path: Path) -> None:
    user = await make_user(database, email="owner@example.com")
    store = await make_store(database, user_id=user)
    with running(empty_url, tmp_path, LOCK_TIMEOUT="0", STATEMENT_TIMEOUT="60000") as server:
        async with (
            await psycopg.AsyncConnection.connect(empty_url) as blocker,
            httpx.AsyncClient(base_url=server.address, timeout=60) as http,
        ):
            await blocker.execute("LOCK TABLE products IN ACCESS EXCLUSIVE MODE")
            variables = {"i": {"configId": store, "title": "Mug", "price": "5"}}
            headers = {"authorization": f"Bearer {token_of(user)}"}
            writing = asyncio.create_task(http.post("/graphql", json={"query": CREATE, "variables": variables}, headers=headers))
            await until_blocked(database)
            server.process.send_signal(signal.SIGTERM)
            answer = await writing
        assert answer.status_code == 503 and "idempotencyKey" in answer.json()["errors"][0]["message"]
        assert answer.headers["retry-after"]
        await asyncio.to_thread(server.process.wait, 20)
