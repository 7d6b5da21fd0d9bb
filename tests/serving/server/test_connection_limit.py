"""Beyond the limit on connections the longest idle one is closed, and new clients are served."""

import asyncio
import resource
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from storefront.serving.server import connection_limit
from tests.client import Client
from tests.conftest import serving
from tests.serving.raw_http import HANDSHAKE, connection

REQUEST = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
SLOW_BODY = b"POST /graphql HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{"
MAX_CONNECTIONS = 6

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Connections:
    """Raw connections to a server with room for six."""

    def __init__(self, client: Client, stack: AsyncExitStack) -> None:
        assert client.http.base_url.port is not None
        self._port, self._stack = client.http.base_url.port, stack

    async def open(self, data: bytes = b"", expected: bytes = b"") -> Streams:
        """A new connection, which sends this and receives the beginning of the answer."""
        streams = await self._stack.enter_async_context(connection(self._port))
        streams[1].write(data)
        if expected:
            assert (await asyncio.wait_for(streams[0].readuntil(b"\r\n"), 10)).startswith(expected)
            await asyncio.wait_for(streams[0].readuntil(b"\r\n\r\n"), 10)
        else:
            # Until the server has accepted it and read what it sent.
            await asyncio.sleep(0.05)
        return streams


@pytest_asyncio.fixture
async def connections(empty_url: str, tmp_path: Path) -> AsyncIterator[Connections]:
    async with serving(empty_url, tmp_path, max_connections=MAX_CONNECTIONS) as client, AsyncExitStack() as stack:
        yield Connections(client, stack)


async def is_closed(streams: Streams) -> bool:
    """Whether the server has closed the connection."""
    try:
        while await asyncio.wait_for(streams[0].read(65_536), 0.1):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


@pytest.mark.parametrize("data", [b"", b"GET /healthz HTTP/1.1\r\nho", REQUEST], ids=["silent", "half a head", "answered"])
async def test_new_clients_are_served_beyond_idle_connections(connections: Connections, data: bytes) -> None:
    idle = [await connections.open(data) for _ in range(MAX_CONNECTIONS)]
    new = [await connections.open(REQUEST, b"HTTP/1.1 200") for _ in range(4)]
    # The longest idle first.
    assert [await is_closed(streams) for streams in idle] == [True] * 4 + [False] * 2
    assert not any([await is_closed(streams) for streams in new])


async def test_longest_idle_is_counted_from_the_last_response(connections: Connections) -> None:
    first, *others = [await connections.open(REQUEST) for _ in range(MAX_CONNECTIONS)]
    first[1].write(REQUEST)
    await asyncio.sleep(0.05)
    await connections.open(REQUEST, b"HTTP/1.1 200")
    assert [await is_closed(streams) for streams in (first, *others)] == [False, True] + [False] * 4


async def test_requests_in_progress_are_never_closed(connections: Connections) -> None:
    busy = [await connections.open(SLOW_BODY) for _ in range(MAX_CONNECTIONS - 1)]
    idle = await connections.open()
    await connections.open(SLOW_BODY)
    assert await is_closed(idle)
    # Nothing is idle: the new connection is refused, the others go on.
    refused = await connections.open(REQUEST, b"HTTP/1.1 503")
    assert await is_closed(refused)
    for reader, writer in busy:
        writer.write(b'"a":"b"}')
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n"), 10)).startswith(b"HTTP/1.1 400")


async def test_websockets_take_a_third_of_the_connections(connections: Connections) -> None:
    replaced, *sockets = [await connections.open(HANDSHAKE + b"\r\n", b"HTTP/1.1 101") for _ in range(MAX_CONNECTIONS // 3 + 1)]
    # A close frame: all are idle.
    assert (await asyncio.wait_for(replaced[0].read(1), 10)) == b"\x88"
    replaced[1].close()
    idle = [await connections.open() for _ in range(MAX_CONNECTIONS)]
    await connections.open(REQUEST, b"HTTP/1.1 200")
    assert [await is_closed(streams) for streams in sockets] == [False, False]
    assert await is_closed(idle[0])


async def test_websockets_that_do_not_close_give_way(connections: Connections) -> None:
    # Of these, all but the last two get a close frame, which their clients do not respond to.
    sockets = [await connections.open(HANDSHAKE + b"\r\n", b"HTTP/1.1 101") for _ in range(MAX_CONNECTIONS)]
    new = [await connections.open(REQUEST, b"HTTP/1.1 200") for _ in range(MAX_CONNECTIONS - 2)]
    assert [await is_closed(streams) for streams in sockets] == [True] * 4 + [False] * 2
    assert not any([await is_closed(streams) for streams in new])


@pytest.mark.parametrize(
    ("files", "maximum"), [(1_024, 896), (256, 156), (65_536, 30_000), (resource.RLIM_INFINITY, 30_000), (50, 1)]
)
def test_default_is_derived_from_open_files(files: int, maximum: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    assert connection_limit.compute_default_max_connections() == maximum
