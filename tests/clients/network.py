"""A network between a client and its server that fails when a test wants it to."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from tests.client import Client


class Network:
    """A TCP proxy between the example and the server that can be taken down."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._lines: set[asyncio.StreamWriter] = set()
        self.is_up = True
        self.has_answers = True

    def cut(self) -> None:
        """Drop all connections and refuse new ones."""
        self.is_up = False
        for line in list(self._lines):
            line.transport.abort()

    def restore(self) -> None:
        """Accept connections again."""
        self.is_up = self.has_answers = True

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Proxy one connection."""
        if not self.is_up:
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:  # the server is not running
            writer.transport.abort()
            return
        self._lines |= {writer, back}
        await asyncio.gather(_pump(reader, back), _pump(there, writer, lambda: self.has_answers))
        self._lines -= {writer, back}


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passes: Callable[[], bool] = lambda: True) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65_536):
            if passes():
                writer.write(data)
                await writer.drain()
    writer.close()


@asynccontextmanager
async def network(client: Client) -> AsyncIterator[tuple[Network, str]]:
    """A proxy, and the URL of the server through it."""
    async with network_to(client.http.base_url.port or 0) as both:
        yield both


@asynccontextmanager
async def network_to(port: int) -> AsyncIterator[tuple[Network, str]]:
    """A proxy to a port, and the URL of the endpoint through it."""
    lines = Network(port)
    door = await asyncio.start_server(lines.carry, "127.0.0.1", 0)
    try:
        yield lines, f"http://127.0.0.1:{door.sockets[0].getsockname()[1]}/graphql"
    finally:
        lines.cut()
        door.close()
