"""HTTP/1.1 as bytes over a socket: what clients of good manners never send."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

# Its answer is the last one: what comes before it in the stream belongs to the requests before it.
LAST = b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-request-id: last\r\nconnection: close\r\n\r\n"
SECONDS = 30
HANDSHAKE = (
    b"GET /graphql HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: graphql-transport-ws\r\n"
)


@dataclass(frozen=True, slots=True)
class Answer:
    """A final response; the head in lower case."""

    status: int
    head: bytes
    body: bytes

    @property
    def request_id(self) -> str:
        """The id of the request that was answered; empty where the response has none."""
        found = re.search(rb"\r\nx-request-id: (.*?)\r\n", self.head)
        return found[1].decode() if found else ""


@asynccontextmanager
async def connection(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to this machine."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def exchange(port: int, *parts: bytes, methods: Sequence[str] = ()) -> list[Answer]:
    """Send the parts, each for itself, and return all answers until the server closes the connection.

    `methods` are those of the requests in their order, where one of them is HEAD.
    """
    async with connection(port) as (reader, writer):
        try:
            for part in parts:
                writer.write(part)
                await writer.drain()
                # Time to be read for itself. What comes of it must not depend on that.
                await asyncio.sleep(0.005 if len(parts) > 1 else 0)
        except ConnectionError:
            pass
        async with asyncio.timeout(SECONDS):
            return [answer async for answer in _answers(reader, list(methods))]


async def _answers(reader: asyncio.StreamReader, methods: list[str]) -> AsyncIterator[Answer]:
    status = 0
    while status != 101 and (head := await _head(reader)):
        status = int(head.split()[1])
        if status == 100:
            continue
        is_head = bool(methods) and methods.pop(0) == "HEAD"
        yield Answer(status, head, b"" if is_head or status in (101, 204, 304) else await _body(reader, head))


async def _head(reader: asyncio.StreamReader) -> bytes:
    """The next head in lower case; empty where the server has closed the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as end:
        head = end.partial
    except ConnectionError:
        # Closed with bytes unread.
        head = b""
    assert not head or (head.startswith(b"HTTP/1.1 ") and head.endswith(b"\r\n\r\n")), head
    return head.lower()


async def _body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    if length := re.search(rb"\r\ncontent-length: (\d+)\r\n", head):
        return await reader.readexactly(int(length[1]))
    assert b"\r\ntransfer-encoding: chunked\r\n" in head
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        assert await reader.readexactly(2) == b"\r\n"
    assert await reader.readline() == b"\r\n"
    return body
