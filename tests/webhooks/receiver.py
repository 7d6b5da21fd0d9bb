"""A webhook receiver on a real socket, whose behaviour is chosen by the test."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import orjson

from storefront.core.tasks import cancel_and_wait


@dataclass(frozen=True)
class Received:
    """A received request."""

    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def position(self) -> int:
        return int(self.json["position"])


Writer = asyncio.StreamWriter
Behaviour = Callable[[Received, Writer], Awaitable[None]]


def status(code: int, *headers: str, body: bytes = b"") -> Behaviour:
    """Responds with a status."""

    async def answer(_: Received, writer: Writer) -> None:
        lines = [f"HTTP/1.1 {code} Any", f"content-length: {len(body)}", *headers, "", ""]
        writer.write("\r\n".join(lines).encode() + body)
        await writer.drain()

    return answer


OK = status(200)


async def silence(_: Received, __: Writer) -> None:
    """Never responds."""
    await asyncio.sleep(3_600)


async def drip(_: Received, writer: Writer) -> None:
    """Responds one byte at a time, without an end (slowloris)."""
    for character in b"HTTP/1.1 200 OK" + b"x" * 10_000:
        writer.write(bytes([character]))
        await asyncio.sleep(0.05)


async def endless(_: Received, writer: Writer) -> None:
    """Responds with an endless body."""
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b"x" * 65_536)
        await writer.drain()


async def endless_head(_: Received, writer: Writer) -> None:
    """Responds with an endless header."""
    writer.write(b"HTTP/1.1 200 OK\r\nx: ")
    while True:
        writer.write(b"x" * 65_536)
        await writer.drain()


async def hang_up(_: Received, writer: Writer) -> None:
    """Closes the connection without a response."""
    writer.close()


@dataclass
class Receiver:
    """Received requests in order. `behave` responds to each."""

    behave: Behaviour = OK
    received: list[Received] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    host: str = "127.0.0.1"
    _came: asyncio.Event = field(default_factory=asyncio.Event)
    _is_over: bool = False
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}/hooks?from=us"

    @property
    def positions(self) -> list[int]:
        return [request.position for request in self.received]

    async def wait(self, number: int, seconds: float = 15) -> list[Received]:
        """Wait until so many requests were received."""
        async with asyncio.timeout(seconds):
            while len(self.received) < number:
                self._came.clear()
                await self._came.wait()
        return self.received

    @asynccontextmanager
    async def running(self, port: int = 0, tls: Any = None) -> AsyncIterator["Receiver"]:
        """Receive while this lasts."""
        server = await asyncio.start_server(self._serve, self.host, port, ssl=tls)
        self.port, self._is_over = server.sockets[0].getsockname()[1], False
        try:
            yield self
        finally:
            server.close()
            self._is_over = True
            await cancel_and_wait(self._tasks)

    def _serve(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        self.connections += 1
        if self._is_over:
            # It was accepted just before.
            writer.close()
            return
        task = asyncio.create_task(self._converse(reader, writer))
        self._tasks.add(task)
        # A task that is cancelled before its first step could not close it.
        task.add_done_callback(lambda _: writer.close())

    async def _converse(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while not writer.is_closing():
                request = await _read(reader)
                self.received.append(request)
                self._came.set()
                await self.behave(request, writer)


async def _read(reader: asyncio.StreamReader) -> Received:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return Received(first.split(" ")[1], headers, await reader.readexactly(int(headers["content-length"])))
