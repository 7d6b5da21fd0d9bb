"""A raw HTTP/1.1 client over a socket, for requests that well-behaved clients never send."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
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


async def exchange(port: int, *parts: bytes) -> list[Answer]:
    """Send the parts, each for itself, and return all answers until the server closes the connection, or upgrades it."""
    async with connection(port) as (reader, writer), asyncio.timeout(SECONDS):
        received = asyncio.create_task(_receive(reader))
        with suppress(ConnectionError):
            for part in parts:
                writer.write(part)
                await writer.drain()
                # Time to be read for itself. What comes of it must not depend on that.
                await asyncio.sleep(0.005 if len(parts) > 1 else 0)
        return list(_answers(*await received))


async def _receive(reader: asyncio.StreamReader) -> tuple[bytes, bool]:
    """All that comes, and whether all has come: a server that closes with bytes unread may take back what it said last."""
    data = b""
    while b"HTTP/1.1 101 " not in data:
        try:
            more = await reader.read(65_536)
        except ConnectionError:
            return data, False
        if not more:
            break
        data += more
    return data, True


def _answers(data: bytes, is_whole: bool) -> Iterator[Answer]:
    while data:
        assert data.startswith(b"HTTP/1.1 "), data
        head, end, data = data.partition(b"\r\n\r\n")
        status, head = int(head.split()[1]), head.lower() + end
        if status == 100:
            continue
        body = b""
        # An answer to HEAD has no body, whatever its head says of one.
        if end and data and not data.startswith(b"HTTP/1.1 ") and status not in (101, 204, 304):
            body, data = _body(head, data)
        assert end or not is_whole, head
        yield Answer(status, head, body)
        if status == 101:
            return


def _body(head: bytes, data: bytes) -> tuple[bytes, bytes]:
    """The body of an answer, and what comes after it."""
    if length := re.search(rb"\r\ncontent-length: (\d+)\r\n", head):
        return data[: int(length[1])], data[int(length[1]) :]
    assert b"\r\ntransfer-encoding: chunked\r\n" in head
    body = b""
    while data:
        line, _, data = data.partition(b"\r\n")
        size = int(line, 16)
        body, data = body + data[:size], data[size + 2 :]
        if not size:
            break
    return body, data
