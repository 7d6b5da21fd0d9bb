"""Backpressure: clients that read slowly or not at all, over real sockets, with short budgets and timeouts."""

import asyncio
import gc
import json
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from strawberry.dataloader import DataLoader

import storefront.services
from storefront.core.storage.disk import DiskStorage
from storefront.feed import log
from storefront.feed.log import LogEntry
from storefront.serving.server.backpressure import MAX_KERNEL_UNSENT_BYTES, AbortReason, Backpressure
from tests.client import SECRET, Client
from tests.conftest import serving
from tests.factories import count_statements, make_product, make_store

DESCRIPTION = "long " * 4_000
# 30 times that: more than the kernels on both sides take of a client that does not read.
PRODUCTS, ALIASES = 6, 5
ANSWER_BYTES = PRODUCTS * ALIASES * len(DESCRIPTION)
LARGE = f"query($c: ID!) {{ products(configId: $c) {{ nodes {{ {' '.join(f'a{n}: description' for n in range(ALIASES))} }} }} }}"
FEED = 'subscription($c: ID!) { productFeed(configId: $c, after: "0") { ... on ProductUpdated { product { description } } } }'
RECEIVE_BYTES = 4_096
SECONDS = 15


class Scene:
    """A server with a store whose products have long descriptions, and what that server holds for its clients."""

    def __init__(self, client: Client, store: str, product: str, backpressure: Backpressure) -> None:
        self.client, self.store, self.product, self.backpressure = client, store, product, backpressure

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[socket.socket]:
        """A connection that takes little before it is read."""
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        connection.setblocking(False)
        url = self.client.http.base_url
        await asyncio.get_running_loop().sock_connect(connection, (url.host, url.port))
        with connection:
            yield connection

    def request(self, query: str = LARGE, accept: str = "application/json", **headers: str) -> bytes:
        """A request as it is sent."""
        body = json.dumps({"query": query, "variables": {"c": self.store}}).encode()
        lines = ["POST /graphql HTTP/1.1", "host: x", "content-type: application/json", f"accept: {accept}"]
        lines += [f"{name}: {value}" for name, value in headers.items()] + [f"content-length: {len(body)}", "", ""]
        return "\r\n".join(lines).encode() + body

    async def change(self, times: int) -> None:
        """Log changes of the product."""
        entry = LogEntry("product_updated", self.product, self.product, was_visible=True, is_visible=True)
        async with self.client.database.transaction() as connection:
            await log.append_entries(connection, self.store, [entry] * times)

    async def until(self, holds: Callable[[Backpressure], Any]) -> None:
        """Wait until something holds."""
        async with asyncio.timeout(SECONDS):
            while not holds(self.backpressure):  # noqa: ASYNC110 - nothing reports it
                await asyncio.sleep(0.02)

    async def until_aborted(self, connection: socket.socket, reason: AbortReason) -> None:
        """Wait until the server has aborted the connection and freed what it held for it."""
        await self.until(lambda it: it.aborts_by_reason[reason] == 1 and it.unread_bytes == 0 and it.connection_count == 0)
        with pytest.raises(ConnectionResetError):
            await read(connection)


@asynccontextmanager
async def scene(url: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> AsyncIterator[Scene]:
    made: list[Backpressure] = []

    def make(*arguments: Any) -> Backpressure:
        made.append(Backpressure(*arguments))
        return made[-1]

    monkeypatch.setattr(storefront.services, "Backpressure", make)
    async with serving(url, folder, **options) as client:
        store = await make_store(client.database)
        product, *_ = [await make_product(client.database, store, description=DESCRIPTION) for _ in range(PRODUCTS)]
        yield Scene(client, store, product, made[0])


async def send(connection: socket.socket, content: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(connection, content)


async def read(connection: socket.socket, size: int = 65_536, pause: float = 0.0) -> bytes:
    """All that comes until the server closes the connection, so many bytes at a time."""
    found = bytearray()
    async with asyncio.timeout(SECONDS):
        while part := await asyncio.get_running_loop().sock_recv(connection, size):
            found += part
            await asyncio.sleep(pause)
    return bytes(found)


# ------------------------------------------------------------------------------------------------- timeout


@pytest.mark.parametrize("cached", [0, 10_000_000])
async def test_unread_response_is_aborted(cached: int, empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with scene(empty_url, tmp_path, monkeypatch, write_timeout=0.4, response_cache_bytes=cached) as it:
        await it.client.ask(LARGE, c=it.store)
        async with it.connection() as silent:
            await send(silent, it.request())
            await it.until(lambda held: held.unread_bytes > ANSWER_BYTES - 2 * MAX_KERNEL_UNSENT_BYTES)
            await it.until_aborted(silent, AbortReason.WRITE_TIMEOUT)


@pytest.mark.parametrize("media_type", ["text/event-stream", "multipart/mixed;subscriptionSpec=1.0"])
async def test_unread_stream_is_aborted(media_type: str, empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with scene(empty_url, tmp_path, monkeypatch, write_timeout=0.4) as it:
        await it.change(60)
        async with it.connection() as silent:
            await send(silent, it.request(FEED, media_type))
            await it.until(lambda held: held.unread_bytes)
            # A stream waits with its next event: what it has not sent is a position, no payload.
            assert it.backpressure.unread_bytes <= 2 * len(DESCRIPTION)
            await it.until_aborted(silent, AbortReason.WRITE_TIMEOUT)


async def test_unread_websocket_is_aborted(empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with scene(empty_url, tmp_path, monkeypatch, write_timeout=0.4) as it:
        await it.change(60)
        async with it.connection() as silent:
            await open_websocket(silent)
            queries = (FEED, LARGE, LARGE, LARGE)
            await send(silent, b"".join(subscribe(str(number), query, it.store) for number, query in enumerate(queries)))
            await it.until(lambda held: held.unread_bytes > ANSWER_BYTES)
            await it.until_aborted(silent, AbortReason.WRITE_TIMEOUT)


async def test_unread_download_is_aborted_without_using_capacity(
    empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scene(empty_url, tmp_path, monkeypatch, write_timeout=2.0, max_concurrent=1) as it:
        disk = DiskStorage(tmp_path / "objects", "", SECRET)
        await disk.put("exports/a.csv", b"row\n" * 500_000, "text/csv")
        request = f"GET {disk.presign_get('exports/a.csv', seconds=60)} HTTP/1.1\r\nhost: x\r\n\r\n".encode()
        connections = [it.connection() for _ in range(5)]
        silent = [await connection.__aenter__() for connection in connections]
        for one in silent:
            await send(one, request)
        await it.until(lambda held: held.stalled_count == 5)
        # Five requests are all that a process with max_concurrent=1 admits.
        assert (await it.client.ask("{ __typename }")) == {"__typename": "Query"}
        await it.until(lambda held: held.aborts_by_reason[AbortReason.WRITE_TIMEOUT] == 5)
        for connection in connections:
            await connection.__aexit__(None, None, None)


async def test_slow_steady_reader_gets_its_whole_response(
    empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scene(empty_url, tmp_path, monkeypatch, write_timeout=0.4, min_write_rate=1_000) as it:
        async with it.connection() as slow:
            await send(slow, it.request(connection="close"))
            head, _, body = (await read(slow, 8_192, pause=0.02)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert sum(len(text) for node in json.loads(body)["data"]["products"]["nodes"] for text in node.values()) == ANSWER_BYTES
        assert sum(it.backpressure.aborts_by_reason.values()) == 0


async def test_reader_below_the_rate_is_aborted(empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with scene(empty_url, tmp_path, monkeypatch, write_timeout=0.5, min_write_rate=200_000) as it:
        async with it.connection() as trickling:
            await send(trickling, it.request())
            with pytest.raises(ConnectionResetError):
                await read(trickling, 100, pause=0.05)
        assert it.backpressure.aborts_by_reason[AbortReason.WRITE_TIMEOUT] == 1


# ------------------------------------------------------------------------------------------------- budgets


async def test_process_budget_aborts_unread_connections(empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budget = 2 * ANSWER_BYTES
    async with scene(empty_url, tmp_path, monkeypatch, max_unread=budget, max_response=700_000) as it:
        connections = [it.connection() for _ in range(12)]
        for connection in connections:
            await send(await connection.__aenter__(), it.request())
        await it.until(lambda held: held.aborts_by_reason[AbortReason.PROCESS_BUDGET] >= 3)
        # Who reads is served meanwhile.
        assert await it.client.ask(LARGE, c=it.store)
        await it.until(lambda held: 0 < held.unread_bytes <= budget)
        assert it.backpressure.aborts_by_reason[AbortReason.WRITE_TIMEOUT] == 0
        for connection in connections:
            await connection.__aexit__(None, None, None)


async def test_pings_beyond_the_budget_abort_a_websocket(empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storefront.serving.server.websocket_protocol.WEBSOCKET_CONTROL_BYTES", 1_000)
    options = {"max_unread_websocket": 700_000, "max_response": 700_000}
    async with scene(empty_url, tmp_path, monkeypatch, **options) as it, it.connection() as silent:
        await open_websocket(silent)
        ping = b"\x89" + struct.pack("!B", 0x80 | 125) + bytes(4) + b"x" * 125
        sending = asyncio.create_task(send(silent, ping * 12_000))
        await it.until(lambda held: held.aborts_by_reason[AbortReason.CONNECTION_BUDGET] == 1)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def test_websocket_budget_refuses_further_results(empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budget = 1_000_000
    options = {"max_unread_websocket": budget, "max_response": budget}
    async with scene(empty_url, tmp_path, monkeypatch, **options) as it, it.connection() as late:
        await open_websocket(late)
        # In one piece: a client that does not read is not listened to.
        await send(late, b"".join(subscribe(str(number), LARGE, it.store) for number in range(8)))
        await it.until(lambda held: held.unread_bytes > ANSWER_BYTES)
        await asyncio.sleep(0.5)
        assert it.backpressure.unread_bytes <= budget
        messages = await websocket_messages(late, 8)
        answered = [message for message in messages if message["type"] == "next"]
        refusals = [message["payload"][0]["extensions"] for message in messages if message["type"] == "error"]
        assert answered and refusals and len(answered) + len(refusals) == 8
        assert {(refusal["code"], refusal["limit"], refusal["maximum"]) for refusal in refusals} == {
            ("LIMIT_EXCEEDED", "unreadBytes", budget)
        }
        # The socket goes on once its client has read.
        await send(late, subscribe("again", LARGE, it.store))
        assert (await websocket_messages(late, 1))[0]["type"] == "next"


async def test_pipelined_requests_start_after_responses_are_read(
    empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 20
    async with scene(empty_url, tmp_path, monkeypatch) as it, it.connection() as late:
        with count_statements(it.client.database) as statements:
            sending = asyncio.create_task(
                send(late, it.request(LARGE) * count + it.request("{ __typename }", connection="close"))
            )
            await it.until(lambda held: held.unread_bytes)
            await asyncio.sleep(0.5)
            assert len(statements) == 1
            assert it.backpressure.unread_bytes < ANSWER_BYTES
        found = await read(late)
        await sending
        assert found.count(b"HTTP/1.1 200 OK") == count + 1
        assert found.count(DESCRIPTION.encode()) == count * 30
        assert found.endswith(b'{"data":{"__typename":"Query"}}')


async def test_pipelined_requests_are_not_parsed_ahead(empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with scene(empty_url, tmp_path, monkeypatch) as it, it.connection() as late:
        sending = asyncio.create_task(send(late, it.request() + b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n" * 50_000))
        await it.until(lambda held: held.unread_bytes)
        await asyncio.sleep(0.2)
        [protocol] = [entry.protocol for entry in it.backpressure._unread_connections.values()]
        assert len(protocol.pipeline) < 100  # type: ignore[attr-defined]
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def test_operation_frees_what_it_loaded(empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    query = '{ product(by: {id: "%s"}) { config { owner { name } } related { id } reviewSummary { count } } }'
    async with scene(empty_url, tmp_path, monkeypatch) as it:
        await it.client.ask(query % it.product)
        gc.collect()
        gc.disable()
        try:
            before = sum(isinstance(one, DataLoader) for one in gc.get_objects())
            await it.client.ask(query % it.product)
            assert sum(isinstance(one, DataLoader) for one in gc.get_objects()) == before
        finally:
            gc.enable()


# -------------------------------------------------------------------------------------------- large answers


@pytest.mark.parametrize("cached", [0, 10_000_000])
async def test_response_above_the_limit_is_refused(
    cached: int, empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scene(empty_url, tmp_path, monkeypatch, max_response=100_000, response_cache_bytes=cached) as it:
        error = await it.client.refusal(LARGE, c=it.store)
        expected = {"code": "LIMIT_EXCEEDED", "limit": "rowBytes", "maximum": 100_000}
        assert expected.items() <= error["extensions"].items()
        assert "The rows that this reads are too large" in error["message"]
        streamed = await it.client.http.post(
            "/graphql", json={"query": LARGE, "variables": {"c": it.store}}, headers={"accept": "text/event-stream"}
        )
        assert "rowBytes" in streamed.text and len(streamed.content) < 1_000


async def test_batch_above_the_limit_is_refused_in_part(empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with scene(empty_url, tmp_path, monkeypatch, max_response=1_000_000) as it:
        item = {"query": LARGE, "variables": {"c": it.store}}
        answers = (await it.client.http.post("/graphql", json=[item, item, {"query": "{ __typename }"}, item])).json()
        assert answers[2] == {"data": {"__typename": "Query"}}
        refused = [answer["errors"][0]["extensions"]["limit"] for answer in answers if "errors" in answer]
        assert refused == ["responseBytes"] * 2


async def test_event_above_the_limit_is_an_error(empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with scene(empty_url, tmp_path, monkeypatch, max_response=10_000) as it, it.connection() as listening:
        await it.change(2)
        await open_websocket(listening)
        await send(listening, subscribe("1", FEED, it.store))
        messages = await websocket_messages(listening, 2)
        assert [message["type"] for message in messages] == ["next", "next"]
        assert {message["payload"]["errors"][0]["extensions"]["limit"] for message in messages} == {"responseBytes"}


# ---------------------------------------------------------------------------------------------- WebSockets


async def open_websocket(connection: socket.socket) -> None:
    await send(
        connection,
        b"GET /graphql HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
        b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-protocol: graphql-transport-ws\r\n\r\n",
    )
    head = bytearray()
    while not head.endswith(b"\r\n\r\n"):
        head += await asyncio.get_running_loop().sock_recv(connection, 1)
    await send(connection, frame({"type": "connection_init"}))
    assert (await websocket_messages(connection, 1)) == [{"type": "connection_ack"}]


def subscribe(id_: str, query: str, store: str) -> bytes:
    return frame({"type": "subscribe", "id": id_, "payload": {"query": query, "variables": {"c": store}}})


def frame(message: dict[str, Any]) -> bytes:
    text = json.dumps(message).encode()
    # Masked with zeros, which changes nothing.
    length = struct.pack("!B", 0x80 | len(text)) if len(text) < 126 else struct.pack("!BH", 0x80 | 126, len(text))
    return b"\x81" + length + bytes(4) + text


async def websocket_messages(connection: socket.socket, count: int) -> list[Any]:
    """So many messages, without those that only say that an operation is complete."""
    found: list[Any] = []
    while len(found) < count:
        size = (await exactly(connection, 2))[1]
        if size >= 126:
            size = int.from_bytes(await exactly(connection, 2 if size == 126 else 8))
        message = json.loads(await exactly(connection, size))
        found += [message] if message["type"] != "complete" else []
    return found


async def exactly(connection: socket.socket, size: int) -> bytes:
    found = bytearray()
    async with asyncio.timeout(SECONDS):
        while len(found) < size:
            part = await asyncio.get_running_loop().sock_recv(connection, size - len(found))
            assert part, "the server closed the connection"
            found += part
    return bytes(found)
