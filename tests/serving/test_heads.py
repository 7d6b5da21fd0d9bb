"""Heads of requests that never end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from storefront.serving import heads
from tests.client import Client

START = b"POST /graphql HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
REST = b'content-length: 25\r\n\r\n{"query":"{__typename}" }'


@asynccontextmanager
async def connection(client: Client) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(client.http.base_url.host, client.http.base_url.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def test_headers_without_end_are_refused(shopper: Client) -> None:
    async with connection(shopper) as (reader, writer):
        writer.write(START + b"x-more: and more\r\n" * 4_000)
        answer = await asyncio.wait_for(reader.read(), 5)
        assert answer.startswith(b"HTTP/1.1 400 ") and b"at most 65,536 bytes" in answer


async def test_a_head_that_comes_too_slowly_is_not_waited_for(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "SECONDS", 0.3)
    async with connection(client) as (reader, writer):
        writer.write(START)
        assert await asyncio.wait_for(reader.read(), 5) == b""
    async with connection(client) as (silent, _):
        assert await asyncio.wait_for(silent.read(), 5) == b""


async def test_connections_that_are_used_stay(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "SECONDS", 0.3)
    async with connection(client) as (reader, writer):
        for _ in range(3):
            writer.write(START + REST)
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
            assert head.startswith(b"HTTP/1.1 200 ")
            assert await reader.readexactly(len(b'{"data":{"__typename":"Query"}}')) == b'{"data":{"__typename":"Query"}}'
            await asyncio.sleep(0.4)
        writer.write(START)
        assert await asyncio.wait_for(reader.read(), 5) == b""
