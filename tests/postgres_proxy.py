"""A proxy between a server and its Postgres that fails as networks and servers do: it delays, freezes, cuts and resets."""

import asyncio
import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from psycopg.conninfo import conninfo_to_dict, make_conninfo

# What Postgres says when an operator ends a connection, as a whole message of its protocol.
_FIELDS = b"SFATAL\0VFATAL\x00C57P01\0Mterminating connection due to administrator command\0\0"
LAST_WORDS = b"E" + struct.pack("!I", len(_FIELDS) + 4) + _FIELDS


class PostgresProxy:
    """Forwards connections to a Postgres; faults apply to those that are open, and to all later ones until `heal`.

    `cut_after`: how many messages of Postgres' a connection still carries before it is reset; None: any number.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.port = 0
        self.delay = 0.0
        self.cut_after: int | None = None
        self.carried = 0

    @contextmanager
    def running(self) -> Iterator["PostgresProxy"]:
        """Forward, in a thread and on a loop of its own, while this lasts."""
        thread = threading.Thread(target=self._run, daemon=True)
        ready = threading.Event()
        self._loop.call_soon(lambda: self._loop.create_task(self._listen(ready)))
        thread.start()
        assert ready.wait(10)
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join(10)

    def url(self) -> str:
        """The URL of the Postgres, through the proxy."""
        route: dict[str, str | int | None] = {
            "host": "127.0.0.1",
            "port": self.port,
            "sslmode": "disable",
            "gssencmode": "disable",
        }
        return make_conninfo(self._target, **route)

    def freeze(self) -> None:
        """Carry nothing any more, and say nothing of it: a half-open connection."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def heal(self) -> None:
        """Carry everything again."""
        self.cut_after, self.delay = None, 0.0
        self._loop.call_soon_threadsafe(self._flowing.set)

    def reset(self, last_words: bytes = b"") -> None:
        """Reset all connections; with last words, these arrive together with the reset."""
        done = threading.Event()

        def end() -> None:
            for writer in [*self._writers]:
                self._reset(writer, last_words)
            done.set()

        self._loop.call_soon_threadsafe(end)
        assert done.wait(10)

    def _run(self) -> None:
        self._loop.run_forever()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
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
        self._writers.add(writer)
        forth = asyncio.create_task(self._forward(reader, onward))
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                await self._forward_messages(there, writer)
        finally:
            forth.cancel()
            await asyncio.gather(forth, return_exceptions=True)
            self._writers.discard(writer)
            onward.close()
            writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            await self._flowing.wait()
            writer.write(data)
            await writer.drain()
        writer.close()

    async def _forward_messages(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # One message of Postgres' after the other, so that a connection can be cut between any two of them.
        while True:
            head = await reader.readexactly(5)
            message = head + await reader.readexactly(struct.unpack("!I", head[1:])[0] - 4)
            await self._flowing.wait()
            if self.delay:
                await asyncio.sleep(self.delay)
            if self.cut_after is not None and self.carried >= self.cut_after:
                self._reset(writer)
                return
            self.carried += 1
            writer.write(message)
            await writer.drain()

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
