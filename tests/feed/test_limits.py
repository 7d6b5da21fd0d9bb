"""Limits, lifetime and shutdown of WebSockets and event streams."""

import asyncio
import json
import signal
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import strawberry
import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

import storefront.services
from storefront.core.auth.tokens import Claims, sign_token
from storefront.core.db.database import Database
from storefront.core.net.tls import load_tls_context
from storefront.feed import log
from storefront.feed.hub import Hub
from storefront.feed.log import LogEntry
from storefront.serving.documents.document_store import DocumentStore
from storefront.serving.http import streams
from storefront.serving.protection.revocations import Revocations
from storefront.serving.run.operations import Operations
from storefront.serving.websocket.connections import SocketLimits, Sockets
from tests.client import SECRET, Client
from tests.conftest import serving
from tests.factories import make_product, make_store, make_user
from tests.feed.processes import running

ME = "{ me { id } }"
FEED = "subscription($c: ID!) { productFeed(configId: $c) { ... on ProductUpdated { position } } }"
LONG_FEED = FEED.replace("position }", "position product { description } }")


async def say(socket: ClientConnection, type_: str, **message: Any) -> None:
    await socket.send(json.dumps({"type": type_, **message}))


async def hear(socket: ClientConnection, seconds: float = 5) -> Any:
    async with asyncio.timeout(seconds):
        return json.loads(await socket.recv())


async def close_code(socket: ClientConnection, seconds: float = 5) -> int | None:
    async with asyncio.timeout(seconds):
        with suppress(ConnectionClosed):
            while True:
                await socket.recv()
        return socket.close_code


async def until(holds: Callable[[], Any], seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.02)


@asynccontextmanager
async def opened(address: str, token: str | None = None, **options: Any) -> AsyncIterator[ClientConnection]:
    """A socket after connection_ack."""
    async with connect(address, subprotocols=["graphql-transport-ws"], **options) as socket:  # type: ignore[list-item]
        await say(socket, "connection_init", payload={"authorization": f"Bearer {token}"} if token else {})
        assert (await hear(socket))["type"] == "connection_ack"
        yield socket


def address_of(client: Client) -> str:
    return str(client.http.base_url).replace("http", "ws").rstrip("/") + "/graphql"


# --------------------------------------------------------------------------------------------- a small server


class Anyone:
    """The context of the small server: an anonymous viewer without expiry."""

    viewer_id = credentials = expires = None

    async def reauthenticate(self) -> "Anyone":
        return self

    def fresh(self) -> "Anyone":
        return self

    as_anonymous = fork = fresh

    def cancel(self) -> None:
        """Nothing to cancel."""

    def release(self) -> None:
        """Nothing to load."""


open_streams: list[int] = []


@strawberry.type
class Query:
    @strawberry.field
    def hello(self) -> str:
        return "world"


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def wait(self, first: int = 1) -> AsyncGenerator[int, None]:
        open_streams.append(1)
        try:
            for n in range(first):
                yield n
            await asyncio.Event().wait()
        finally:
            open_streams.pop()


@asynccontextmanager
async def small_server(limits: SocketLimits) -> AsyncIterator[str]:
    """The URL of a server with two fields and limits of its own."""

    async def none(_: Any) -> list[Any]:
        return []

    async def authenticate(_: WebSocket, __: dict[str, Any]) -> Anyone:
        return Anyone()

    schema = strawberry.Schema(query=Query, subscription=Subscription)
    operations = Operations(DocumentStore(schema._schema))
    app = Starlette(routes=[WebSocketRoute("/graphql", Sockets(operations, authenticate, limits, Revocations(none, 1.0)).serve)])
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", ws="websockets-sansio"))
    task = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    try:
        yield f"ws://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/graphql"
    finally:
        server.should_exit = True
        await task


async def subscribe(socket: ClientConnection, id_: str, query: str = "subscription { wait }", **variables: Any) -> None:
    await say(socket, "subscribe", id=id_, payload={"query": query, "variables": variables})


async def test_connection_init_has_a_timeout() -> None:
    async with small_server(SocketLimits(init_timeout_seconds=0.3)) as address:
        async with connect(address, subprotocols=["graphql-transport-ws"]) as silent:  # type: ignore[list-item]
            assert await close_code(silent, 2) == 4408
        async with opened(address) as prompt:
            await asyncio.sleep(0.6)
            await subscribe(prompt, "1", "{ hello }")
            assert (await hear(prompt))["payload"] == {"data": {"hello": "world"}}


async def test_operations_per_socket_are_limited() -> None:
    async with small_server(SocketLimits(operations=3)) as address, opened(address) as socket:
        for n in range(3):
            await subscribe(socket, str(n))
            assert (await hear(socket))["type"] == "next"
        await say(socket, "complete", id="0")
        await subscribe(socket, "3")
        assert (await hear(socket))["id"] == "3"
        await subscribe(socket, "4")
        assert await close_code(socket) == 4430
        await until(lambda: not open_streams)


async def test_sockets_per_process_are_limited() -> None:
    async with small_server(SocketLimits(sockets=2)) as address, opened(address) as first, opened(address) as second:
        for socket in (first, second):
            await subscribe(socket, "1")
            assert (await hear(socket))["type"] == "next"
        async with connect(address, subprotocols=["graphql-transport-ws"]) as third:  # type: ignore[list-item]
            assert await close_code(third) == 4430
        await second.close()
        async with opened(address) as fourth:
            await subscribe(fourth, "1", "{ hello }")
            assert (await hear(fourth))["type"] == "next"


async def test_longest_idle_socket_gives_way_to_a_new_one() -> None:
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(small_server(SocketLimits(sockets=3)))
        busy, first, second = [await stack.enter_async_context(opened(address)) for _ in range(3)]
        await subscribe(busy, "1")
        assert (await hear(busy))["type"] == "next"
        # Idle since the end of its last operation, not since it was opened.
        await subscribe(first, "1", "{ hello }")
        assert [(await hear(first))["type"] for _ in range(2)] == ["next", "complete"]
        third = await stack.enter_async_context(opened(address))
        assert await close_code(second) == 4430
        await say(busy, "complete", id="1")
        await subscribe(third, "1")
        assert (await hear(third))["type"] == "next"
        await stack.enter_async_context(opened(address))
        assert await close_code(first) == 4430
        await stack.enter_async_context(opened(address))
        assert await close_code(busy) == 4430
        await say(third, "ping")
        assert (await hear(third))["type"] == "pong"


async def test_message_size_is_limited_in_bytes() -> None:
    async with small_server(SocketLimits(message_bytes=1_000)) as address:
        for text, code in (("x" * 900, None), ("x" * 1_000, 4400), ("é" * 450, None), ("é" * 500, 4400)):
            async with opened(address) as socket:
                await socket.send(json.dumps({"type": "ping", "payload": {"text": text}}, ensure_ascii=False))
                if code is None:
                    assert await hear(socket) == {"type": "pong", "payload": {"text": text}}
                else:
                    assert await close_code(socket) == code


async def test_limits_are_settings(empty_url: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_sockets": 2, "max_operations": 1, "max_message": 1_024, "init_timeout": 0.4}
    async with serving(empty_url, tmp_path, **options) as client:
        store, address = await make_store(client.database), address_of(client)
        async with connect(address, subprotocols=["graphql-transport-ws"]) as silent:  # type: ignore[list-item]
            assert await close_code(silent, 2) == 4408
        async with opened(address) as one, opened(address) as two:
            for socket in (one, two):
                await subscribe(socket, "1", FEED, c=store)
                await say(socket, "ping")
                assert (await hear(socket))["type"] == "pong"
            async with connect(address, subprotocols=["graphql-transport-ws"]) as three:  # type: ignore[list-item]
                assert await close_code(three) == 4430
            await one.send("x" * 1_025)
            assert await close_code(one) == 4400
            await subscribe(two, "2", FEED, c=store)
            assert await close_code(two) == 4430
        streams = [asyncio.create_task(event_lines(client.http, store)) for _ in range(2)]
        await asyncio.sleep(0.3)
        body, headers = {"query": FEED, "variables": {"c": store}}, {"accept": "text/event-stream"}
        refused = await client.http.post("/graphql", json=body, headers=headers)
        assert refused.status_code == 503 and "at most 2 event streams" in refused.json()["errors"][0]["message"]
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)


async def test_operation_id_is_reusable_after_completion_only() -> None:
    async with small_server(SocketLimits()) as address, opened(address) as socket:
        for _ in range(2):
            await subscribe(socket, "1", "{ hello }")
            assert [(await hear(socket))["type"] for _ in range(2)] == ["next", "complete"]
        await subscribe(socket, "1")
        await hear(socket)
        await subscribe(socket, "1")
        assert await close_code(socket) == 4409


async def test_ping_is_answered_with_pong() -> None:
    async with (
        small_server(SocketLimits()) as address,
        connect(address, subprotocols=["graphql-transport-ws"]) as socket,  # type: ignore[list-item]
    ):
        await say(socket, "ping", payload={"n": 1})
        assert await hear(socket) == {"type": "pong", "payload": {"n": 1}}
        await say(socket, "connection_init")
        await hear(socket)
        await say(socket, "pong")
        await say(socket, "ping")
        assert await hear(socket) == {"type": "pong"}


async def test_disconnect_closes_the_streams_of_a_socket() -> None:
    async with small_server(SocketLimits()) as address:
        async with opened(address) as socket:
            for n in range(5):
                await subscribe(socket, str(n))
                await hear(socket)
            assert len(open_streams) == 5
            await say(socket, "complete", id="2")
            await say(socket, "complete", id="never heard of")
            await until(lambda: len(open_streams) == 4)
        await until(lambda: not open_streams)


@pytest.mark.parametrize("offered", [None, ["graphql-ws"], ["mqtt", "graphql-ws"]])
async def test_other_subprotocols_are_rejected(shopper: Client, offered: Any) -> None:
    async with connect(address_of(shopper), subprotocols=offered) as socket:
        assert await close_code(socket) == 4406


# -------------------------------------------------------------------------------------------------- who asks


async def me(socket: ClientConnection) -> Any:
    await subscribe(socket, "me", ME)
    answer = await hear(socket)
    await hear(socket)
    return answer["payload"]["data"]["me"]


async def test_socket_authenticates_by_authorization_header(shopper: Client) -> None:
    owner = shopper.signed_in(await make_user(shopper.database))
    known = (await owner.ask(ME))["me"]
    async with opened(address_of(shopper)) as anonymous:
        assert await me(anonymous) is None
    async with opened(address_of(shopper), additional_headers={"Authorization": f"Bearer {owner.token}"}) as by_header:
        assert await me(by_header) == known
    async with opened(address_of(shopper), owner.token) as by_payload:
        assert await me(by_payload) == known


async def test_token_expiry_closes_the_socket(shopper: Client) -> None:
    token = sign_token(Claims(await make_user(shopper.database)), SECRET, seconds=2)
    store = await make_store(shopper.database)
    async with opened(address_of(shopper), token) as socket:
        await subscribe(socket, "1", FEED, c=store)
        start = time.monotonic()
        assert await close_code(socket, 6) == 4403
        assert 0.5 < time.monotonic() - start < 6


async def test_token_expiry_ends_the_event_stream(shopper: Client) -> None:
    token = sign_token(Claims(await make_user(shopper.database)), SECRET, seconds=2)
    store = await make_store(shopper.database)
    start = time.monotonic()
    lines = await event_lines(shopper.http, store, token)
    assert [line for line in lines if line][-2:] == ["event: complete", "data:"]
    assert 0.5 < time.monotonic() - start < 8


async def event_lines(http: httpx.AsyncClient, store: str, token: str | None = None, most: int = 1_000) -> list[str]:
    headers = {"accept": "text/event-stream"} | ({"authorization": f"Bearer {token}"} if token else {})
    found: list[str] = []
    body = {"query": FEED, "variables": {"c": store}}
    async with asyncio.timeout(30), http.stream("POST", "/graphql", json=body, headers=headers) as response:
        async for line in response.aiter_lines():
            found.append(line)
            if len(found) == most:
                break
    return found


async def test_idle_event_stream_sends_heartbeats(shopper: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "HEARTBEAT_INTERVAL_SECONDS", 0.1)
    store = await make_store(shopper.database)
    assert await event_lines(shopper.http, store, most=10) == [":", ""] * 5


async def test_stopped_listeners_leave_nothing_in_the_hub(
    empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hubs: list[Hub] = []

    def noted(*arguments: Any) -> Hub:
        hubs.append(Hub(*arguments))
        return hubs[-1]

    monkeypatch.setattr(storefront.services, "Hub", noted)
    async with serving(empty_url, tmp_path) as client:
        [hub] = hubs
        store = await make_store(client.database)

        def listeners() -> int:
            return sum(channel.listener_count for channel in hub._channels.values())

        async with opened(address_of(client)) as socket:
            await subscribe(socket, "1", FEED, c=store)
            await until(lambda: listeners() == 1)
            await say(socket, "complete", id="1")
            await until(lambda: listeners() == 0 and not hub._channels)
            await subscribe(socket, "1", FEED, c=store)
            await until(lambda: listeners() == 1)
            # Gone without a word.
            socket.transport.abort()
        await until(lambda: not hub._channels and not hub._follower_tasks)
        stream = asyncio.create_task(event_lines(client.http, store))
        await until(lambda: listeners() == 1)
        stream.cancel()
        await asyncio.gather(stream, return_exceptions=True)
        await until(lambda: not hub._channels and not hub._follower_tasks)


# ----------------------------------------------------------------------------------------- processes of their own


async def append(database: Database, store: str, product: str, count: int) -> None:
    entry = LogEntry(kind="product_updated", entity_id=product, product_id=product, was_visible=True, is_visible=True)
    async with database.transaction() as connection:
        await log.append_entries(connection, store, [entry] * count)


async def test_memory_of_non_reading_clients_is_bounded(empty_url: str, database: Database, tmp_path: Path) -> None:
    store = await make_store(database)
    product = await make_product(database, store, description="long " * 4_000)
    with running(empty_url, tmp_path, POLL_INTERVAL="0.1") as server:
        async with AsyncExitStack() as stack:
            for _ in range(20):
                stalled = await stack.enter_async_context(opened(server.socket_address, max_queue=1, compression=None))
                await subscribe(stalled, "1", LONG_FEED, c=store)
                # So that the end of the test need not wait for them.
                stack.callback(stalled.transport.abort)
            reader = await stack.enter_async_context(opened(server.socket_address, compression=None))
            await subscribe(reader, "1", LONG_FEED, c=store)
            await asyncio.sleep(0.5)
            before, seen = server.memory(), []
            for _ in range(30):
                await append(database, store, product, 100)
                for _ in range(100):
                    event = (await hear(reader, 20))["payload"]["data"]["productFeed"]
                    assert len(event["product"]["description"]) >= 19_999
                    seen.append(int(event["position"]))
            growth = server.memory() - before
        assert seen == list(range(1, 3_001))
    # All that twenty have not read would be 1,200 MB.
    assert growth < 200e6, f"{growth / 1e6:.0f} MB"


@pytest.mark.parametrize("workers", [1, 2])
async def test_sigterm_completes_all_listeners(workers: int, empty_url: str, database: Database, tmp_path: Path) -> None:
    store = await make_store(database)
    with running(empty_url, tmp_path, workers) as server:
        async with (
            AsyncExitStack() as stack,
            httpx.AsyncClient(base_url=server.address, timeout=30, verify=load_tls_context()) as http,
        ):
            sockets = [await stack.enter_async_context(opened(server.socket_address)) for _ in range(200)]
            for socket in sockets:
                await subscribe(socket, "1", FEED, c=store)
            streams = [asyncio.create_task(event_lines(http, store)) for _ in range(5)]
            await asyncio.sleep(1)
            start = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            assert [await hear(socket) for socket in sockets] == [{"id": "1", "type": "complete"}] * 200
            assert {await close_code(socket) for socket in sockets} == {1001}
            for lines in await asyncio.gather(*streams):
                assert [line for line in lines if line][-2:] == ["event: complete", "data:"]
            await until(lambda: server.process.poll() is not None, 12)
            assert time.monotonic() - start < 10
