"""Load generator: a number of connections, each of which sends a request after the last response (closed loop)."""

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle

import uvloop

from benchmarks.stage import at

HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it goes over the wire."""

    method: str
    path: str
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()

    def bytes(self) -> bytes:
        """The whole of it."""
        given = (("host", "127.0.0.1"), *self.headers, *((("content-length", str(len(self.body))),) if self.body else ()))
        head = "\r\n".join([f"{self.method} {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in given)])
        return head.encode() + HEAD_END + self.body


@dataclass(slots=True)
class Driven:
    """What came of it: seconds waited for each answer, and how long all took."""

    waits: list[float] = field(default_factory=list)
    seconds: float = 0.0
    bytes: int = 0

    @property
    def rate(self) -> float:
        """Requests per second."""
        return len(self.waits) / self.seconds

    def wait(self, part: float) -> float:
        """Milliseconds that this part of all requests does not exceed."""
        return 1000 * at(self.waits, part)


def drive(port: int, requests: Sequence[Request], connections: int, seconds: float, least: int = 20) -> Driven:
    """Send the requests in turn for so many seconds, and at least so many of them. Raises RuntimeError on a bad answer."""
    turn, driven = cycle([request.bytes() for request in requests]), Driven()
    end = time.perf_counter() + seconds

    def more() -> Iterator[bytes]:
        while time.perf_counter() < end or len(driven.waits) < least:
            yield next(turn)

    return uvloop.run(_drive(port, [more() for _ in range(connections)], driven))


def drive_each(port: int, requests: Iterable[Request], connections: int) -> Driven:
    """Send each request once. Raises RuntimeError on a bad answer."""
    left = (request.bytes() for request in requests)
    return uvloop.run(_drive(port, [left] * connections, Driven()))


async def _drive(port: int, sources: Sequence[Iterator[bytes]], driven: Driven) -> Driven:
    loop, began = asyncio.get_running_loop(), time.perf_counter()
    made = [await loop.create_connection(partial(_Connection, driven, one), "127.0.0.1", port) for one in sources]
    await asyncio.gather(*(connection.done for _, connection in made))
    driven.seconds = time.perf_counter() - began
    return driven


class _Connection(asyncio.Protocol):
    """One connection. It counts bytes and keeps nothing: the client should cost little beside what is measured."""

    def __init__(self, driven: Driven, requests: Iterator[bytes]) -> None:
        self._driven = driven
        self._requests = requests
        self._head = b""
        self._left: int | None = None
        self._tail = b""
        self._sent = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.WriteTransport = transport  # type: ignore[assignment]
        self._send()

    def _send(self) -> None:
        request = next(self._requests, None)
        if request is None:
            self._transport.close()
            return
        self._head, self._left, self._tail = b"", None, b""
        self._sent = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._driven.bytes += len(data)
        if not self._head.endswith(HEAD_END):
            head, found, data = (self._head + data).partition(HEAD_END)
            self._head = head + found
            if not found:
                return
            self._begin(head)
        if self._is_last(data):
            self._driven.waits.append(time.perf_counter() - self._sent)
            self._send()

    def _begin(self, head: bytes) -> None:
        if head.startswith(b"HTTP/1.1 304"):
            # Which has no body.
            self._left = 0
            return
        if not head.startswith(b"HTTP/1.1 200"):
            self.done.set_exception(RuntimeError(head[:500].decode()))
            self._transport.abort()
        _, found, rest = head.lower().partition(b"content-length:")
        # Without Content-Length the response is chunked.
        self._left = int(rest.partition(b"\r\n")[0]) if found else None

    def _is_last(self, data: bytes) -> bool:
        if self._left is None:
            self._tail = (self._tail + data)[-5:]
            return self._tail == b"0\r\n\r\n"
        self._left -= len(data)
        return self._left <= 0

    def connection_lost(self, error: Exception | None) -> None:
        if self.done.done():
            return
        if error or next(self._requests, None) is not None:
            self.done.set_exception(error or RuntimeError("The server closed a connection."))
        else:
            self.done.set_result(None)
