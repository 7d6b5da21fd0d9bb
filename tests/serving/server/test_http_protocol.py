"""The header timeout (slowloris) and the size limit of request heads."""

import asyncio
import gc
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlencode

import pytest
import websockets

from storefront.serving.server import http_protocol
from storefront.serving.server.websocket_protocol import UVICORN_OPTIONS
from tests.client import Client
from tests.conftest import serving
from tests.factories import make_store

START = b"POST /graphql HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
REST = b'content-length: 25\r\n\r\n{"query":"{__typename}" }'


@asynccontextmanager
async def connection(client: Client) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(client.http.base_url.host, client.http.base_url.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def test_responses_are_sent_without_waiting_for_acknowledgements(shopper: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[asyncio.Transport] = []
    real = http_protocol.HardenedHTTPProtocol.connection_made

    def record(protocol: http_protocol.HardenedHTTPProtocol, transport: asyncio.Transport) -> None:
        real(protocol, transport)
        made.append(transport)

    monkeypatch.setattr(http_protocol.HardenedHTTPProtocol, "connection_made", record)
    async with connection(shopper) as (reader, writer):
        writer.write(START + REST)
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        [transport] = made
        assert transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_header_block_beyond_limit_is_refused(shopper: Client) -> None:
    async with connection(shopper) as (reader, writer):
        writer.write(START + b"x-more: and more\r\n" * 4_000)
        answer = await asyncio.wait_for(reader.read(), 5)
        assert answer.startswith(b"HTTP/1.1 400 ") and b"at most 65,536 bytes" in answer


async def test_slow_head_times_out(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEADER_TIMEOUT_SECONDS", 0.3)
    async with connection(client) as (reader, writer):
        writer.write(START)
        assert await asyncio.wait_for(reader.read(), 5) == b""
    async with connection(client) as (silent, _):
        assert await asyncio.wait_for(silent.read(), 5) == b""


async def test_pipelined_requests_do_not_add_up_as_head(shopper: Client) -> None:
    async with connection(shopper) as (reader, writer):
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n" * 10_000 + START + b"connection: close\r\n" + REST)
        found = await asyncio.wait_for(reader.read(), 120)
        assert found.count(b"HTTP/1.1 200 OK") == 10_001 and found.endswith(b'{"data":{"__typename":"Query"}}')


async def test_active_connections_stay_open(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEADER_TIMEOUT_SECONDS", 0.3)
    async with connection(client) as (reader, writer):
        for _ in range(3):
            writer.write(START + REST)
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
            assert head.startswith(b"HTTP/1.1 200 ")
            assert await reader.readexactly(len(b'{"data":{"__typename":"Query"}}')) == b'{"data":{"__typename":"Query"}}'
            await asyncio.sleep(0.4)
        writer.write(START)
        assert await asyncio.wait_for(reader.read(), 5) == b""


async def test_keep_alive_timeout_spares_request_that_has_arrived(empty_url: str, tmp_path: Path) -> None:
    sockets = {**UVICORN_OPTIONS, "timeout_keep_alive": 0.5}
    async with serving(empty_url, tmp_path, sockets) as client, connection(client) as (reader, writer):
        writer.write(START + REST)
        await asyncio.wait_for(reader.readuntil(b'{"data":{"__typename":"Query"}}'), 5)
        # The process is busy until after the timeout. Both are due then: first the request is sent, then the timeout handled.
        loop = asyncio.get_running_loop()
        loop.call_later(0.02, time.sleep, 0.6)
        loop.call_later(0.05, writer.write, START + REST)
        answer = await asyncio.wait_for(reader.readuntil(b'{"data":{"__typename":"Query"}}'), 5)
        assert answer.startswith(b"HTTP/1.1 200 ")
        # Idle again, it is closed.
        assert await asyncio.wait_for(reader.read(), 5) == b""


async def test_unread_body_times_out(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEADER_TIMEOUT_SECONDS", 0.3)
    async with connection(client) as (reader, writer):
        writer.write(START.replace(b"application/json", b"text/plain") + b"content-length: 100\r\n\r\nx")
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        assert head.startswith(b"HTTP/1.1 415 ")
        writer.write(b"x")
        await asyncio.wait_for(reader.read(), 5)


async def test_empty_lines_do_not_start_a_request(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEADER_TIMEOUT_SECONDS", 0.3)
    async with connection(client) as (reader, writer):
        writer.write(START + REST + b"\r\n")
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        writer.write(b"\r\n")
        await asyncio.wait_for(reader.read(), 5)


async def test_stream_ends_with_connection_of_pipelined_requests(empty_url: str, tmp_path: Path) -> None:
    async with serving(empty_url, tmp_path, max_sockets=1) as client:
        store = await make_store(client.database)
        document = f'subscription {{ productFeed(configId: "{store}") {{ __typename }} }}'
        headers = {"accept": "text/event-stream"}
        head = (
            b"GET /graphql?"
            + urlencode({"query": document}).encode()
            + b" HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\r\n"
        )
        async with connection(client) as (reader, writer):
            writer.write(head + b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            assert await asyncio.wait_for(reader.readuntil(b":\n\n"), 5)
            assert (await client.http.get("/graphql", params={"query": document}, headers=headers)).status_code == 503
        status = 503
        async with asyncio.timeout(10):
            while status == 503:
                async with client.http.stream("GET", "/graphql", params={"query": document}, headers=headers) as answer:
                    status = answer.status_code
        assert status == 200


async def test_websocket_upgrade_frees_http_protocol(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEADER_TIMEOUT_SECONDS", 0.05)
    address = f"ws://{client.http.base_url.host}:{client.http.base_url.port}/graphql"

    def find_protocols() -> list[http_protocol.HardenedHTTPProtocol]:
        gc.collect()
        return [one for one in gc.get_objects() if isinstance(one, http_protocol.HardenedHTTPProtocol)]

    # Idle connections of servers that tests share.
    others = find_protocols()
    async with websockets.connect(address, subprotocols=[websockets.Subprotocol("graphql-transport-ws")]):
        async with asyncio.timeout(10):
            while any(one not in others for one in find_protocols()):  # noqa: ASYNC110  garbage is looked at
                await asyncio.sleep(0.05)
