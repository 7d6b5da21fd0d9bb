"""A proxy between a server and its Postgres that fails as networks and servers do: it delays, freezes, loses, cuts, resets."""

import asyncio
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import quote

from psycopg.conninfo import conninfo_to_dict

# What Postgres says when an operator ends a connection, as a whole message of its protocol.
_FIELDS = b"SFATAL\0VFATAL\x00C57P01\0Mterminating connection due to administrator command\0\0"
LAST_WORDS = b"E" + struct.pack("!I", len(_FIELDS) + 4) + _FIELDS


# The two directions of a connection.
REQUESTS, ANSWERS = "requests", "answers"


@dataclass(slots=True, eq=False)
class _Line:
    """A connection: both its ends, and the directions in which what is sent has begun to vanish. That never ends."""

    near: asyncio.StreamWriter
    far: asyncio.StreamWriter
    lost: set[str] = field(default_factory=set)


class PostgresProxy:
    """Forwards connections to a Postgres; faults apply to those that are open, and to all later ones until `heal`.

    `delay`: seconds that each answer is late. `cut_after`: how many messages of Postgres' all connections together still carry
    before each is reset; `cut_at`: the same in bytes of a direction. None: any number. `cuts_once`: only one is reset.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._lines: set[_Line] = set()
        self._losing: set[str] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.port = 0
        self.delay = 0.0
        self.cut_after: int | None = None
        self.cut_at: tuple[str, int] | None = None
        self.cuts_once = False
        self.cuts = self.carried = 0

    @contextmanager
    def running(self) -> Iterator["PostgresProxy"]:
        """Forward, in a thread and on a loop of its own, while this lasts."""
        thread = threading.Thread(target=self._run, daemon=True)
        ready = threading.Event()
        self._listening = self._loop.create_task(self._listen(ready))
        thread.start()
        assert ready.wait(10)
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join(10)

    def url(self) -> str:
        """The URL of the Postgres, through the proxy."""
        given = conninfo_to_dict(self._target)
        names = [quote(str(given[name]), safe="") for name in ("user", "password") if given.get(name)]
        return f"postgresql://{':'.join(names)}@127.0.0.1:{self.port}/{given['dbname']}?sslmode=disable&gssencmode=disable"

    def freeze(self) -> None:
        """Carry nothing any more, and say nothing of it: a half-open connection."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def heal(self) -> None:
        """Carry everything again."""
        self.cut_after, self.cut_at, self.cuts_once, self.delay = None, None, False, 0.0
        self._losing = set()
        self._loop.call_soon_threadsafe(self._flowing.set)

    def lose(self, *directions: str) -> None:
        """Have everything vanish that is sent in these directions, the end of a connection included. Nobody is told.

        Connections are lost for good; those that are made after `heal` are not.
        """
        self._losing = set(directions)

        def lose() -> None:
            for line in self._lines:
                line.lost |= self._losing

        self._call(lose)

    def close_lost(self) -> None:
        """Have Postgres find out that its clients are gone, as keepalives do in the end."""

        def close() -> None:
            for line in self._lines:
                if line.lost:
                    line.far.transport.abort()

        self._call(close)

    def reset(self, last_words: bytes = b"") -> None:
        """Reset all connections; with last words, these arrive together with the reset."""
        self._call(lambda: [self._reset(line.near, last_words) for line in self._lines])

    def _call(self, work: Callable[[], object]) -> None:
        done = threading.Event()

        def do() -> None:
            work()
            done.set()

        self._loop.call_soon_threadsafe(do)
        assert done.wait(10)

    def _run(self) -> None:
        self._loop.run_forever()
        # A connection that is accepted already belongs to nobody until the loop has turned.
        self._listening.cancel()
        self._loop.run_until_complete(asyncio.sleep(0.05))
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self._loop.run_until_complete(asyncio.wait(tasks))
        # Also those of connections that came just now. They close with the next turns of the loop.
        for transport in [*self._loop._transports.values()]:  # type: ignore[attr-defined]
            transport.abort()
        self._loop.run_until_complete(asyncio.sleep(0.05))
        self._loop.close()

    async def _listen(self, ready: threading.Event) -> None:
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as server:
            self.port = server.sockets[0].getsockname()[1]
            ready.set()
            await server.serve_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        given = conninfo_to_dict(self._target)
        host, port = str(given.get("host") or "127.0.0.1"), int(given.get("port") or 5432)
        if host.startswith("/"):
            there, onward = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        else:
            there, onward = await asyncio.open_connection(host, port)
        line = _Line(writer, onward, set(self._losing))
        self._lines.add(line)
        forth = asyncio.create_task(self._forward(reader, line))
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                await self._forward_messages(there, line)
            if ANSWERS in line.lost:
                # Nobody hears that Postgres has ended it, either.
                await asyncio.wait([forth])
        finally:
            forth.cancel()
            await asyncio.gather(forth, return_exceptions=True)
            self._lines.discard(line)
            onward.close()
            writer.close()

    async def _forward(self, reader: asyncio.StreamReader, line: _Line) -> None:
        # A client that closes before it has read everything resets the connection.
        with suppress(OSError):
            while data := await reader.read(65_536):
                await self._flowing.wait()
                if REQUESTS not in line.lost and not self._cut(REQUESTS, data, line.far, line):
                    line.far.write(data)
                    await line.far.drain()
        if REQUESTS not in line.lost:
            line.far.close()

    async def _forward_messages(self, reader: asyncio.StreamReader, line: _Line) -> None:
        # One message of Postgres' after the other, so that a connection can be cut between any two of them.
        while True:
            asked = self._loop.time()
            head = await reader.readexactly(5)
            message = head + await reader.readexactly(struct.unpack("!I", head[1:])[0] - 4)
            await self._flowing.wait()
            if self.delay and self._loop.time() - asked > 0.001:
                # The first message of an answer; the others come along with it.
                await asyncio.sleep(self.delay)
            if ANSWERS in line.lost or self._cut(ANSWERS, message, line.near, line):
                continue
            self.carried += 1
            line.near.write(message)
            await line.near.drain()

    def _cut(self, direction: str, data: bytes, onward: asyncio.StreamWriter, line: _Line) -> bool:
        """Whether the connection ends here, after what is still carried of this."""
        left = len(data)
        if self.cut_at is not None and self.cut_at[0] == direction:
            left = self.cut_at[1]
            self.cut_at = direction, max(0, left - len(data))
        elif self.cut_after is not None and direction == ANSWERS and self.carried >= self.cut_after:
            left = 0
        if left >= len(data):
            return False
        self.cuts += 1
        if self.cuts_once:
            self.cut_after, self.cut_at = None, None
        line.lost |= {REQUESTS, ANSWERS}
        if direction == REQUESTS:
            onward.write(data[:left])
            onward.close()
        self._reset(line.near, data[:left] if direction == ANSWERS else b"")
        line.far.close()
        return True

    @staticmethod
    def _reset(writer: asyncio.StreamWriter, last_words: bytes = b"") -> None:
        sock = writer.get_extra_info("socket")
        with suppress(OSError):
            os.write(sock.fileno(), last_words)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


@contextmanager
def postgres_proxy(target: str) -> Iterator[PostgresProxy]:
    """A proxy before this Postgres."""
    with PostgresProxy(target).running() as proxy:
        yield proxy
