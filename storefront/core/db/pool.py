"""A connection pool for one Postgres. Acquiring a free connection takes microseconds."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import NamedTuple

from psycopg import InterfaceError, OperationalError

from storefront.core.db.pipeline import PipelineConnection
from storefront.core.errors import Unavailable

log = logging.getLogger("storefront")

POOL_EXHAUSTED_MESSAGE = "Too much is asked at this moment. Try again soon."
# Timeout of the first connection, for when Postgres and this process start together.
OPEN_TIMEOUT_SECONDS = 30.0
# Exponential backoff between attempts to connect while Postgres is unreachable.
MIN_RETRY_SECONDS, MAX_RETRY_SECONDS = 0.1, 0.5
# Maximum age of a connection, and maximum time for which it may be idle.
MAX_LIFETIME_SECONDS, MAX_IDLE_SECONDS = 3_600.0, 600.0


class PoolStats(NamedTuple):
    """The numbers of open connections, of free ones among them, and of waiters."""

    connections: int
    free: int
    waiting: int


class ConnectionPool:
    """At most `size` connections, opened by `connect` on demand.

    `max_waiting`: maximum number of waiters (0: no limit). `timeout`: seconds for which each of them waits.
    """

    def __init__(
        self, connect: Callable[[], Awaitable[PipelineConnection]], size: int, max_waiting: int = 0, timeout: float = 30.0
    ) -> None:
        self._connect, self._size, self._max_waiting, self._timeout = connect, size, max_waiting, timeout
        self._connection_count = 0
        # Each with the time of its release. LIFO: the most recently used connection is acquired next.
        self._free: list[tuple[PipelineConnection, float]] = []
        self._waiters: deque[asyncio.Future[PipelineConnection | None]] = deque()
        self._making: set[asyncio.Future[PipelineConnection]] = set()
        self._is_open = False

    async def open(self) -> None:
        """Open the first connection; raises Unavailable where Postgres is unreachable."""
        self._is_open = True
        self.release(await self._acquire_within(OPEN_TIMEOUT_SECONDS))

    async def close(self) -> None:
        """Close all free connections, and those in use when they are released."""
        self._is_open = False
        for making in self._making:
            making.cancel()
        while self._free:
            self._discard(self._free.pop()[0])
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(InterfaceError("the pool is closed"))

    def get_stats(self) -> PoolStats:
        """The current numbers of the pool."""
        return PoolStats(self._connection_count, len(self._free), len(self._waiters))

    async def acquire(self) -> PipelineConnection:
        """Acquire a live connection. Raises Unavailable after the timeout, or where too many callers wait (load shedding)."""
        if not self._is_open:
            raise InterfaceError("the pool is closed")
        while self._free:
            connection, _ = self._free.pop()
            # After a restart of Postgres, all of them may be closed.
            if connection.statements.is_alive():
                return connection
            self._discard(connection)
        return await self._acquire_within(self._timeout)

    def release(self, connection: PipelineConnection) -> None:
        """Return a connection to the pool. It is closed if a transaction is open, or beyond its maximum age."""
        now = monotonic()
        if connection.statements.silent_since is not None:
            self._drop_older(connection.statements.silent_since)
        if not (self._is_open and connection.statements.is_idle and now - connection.statements.opened_at < MAX_LIFETIME_SECONDS):
            self._discard(connection)
        elif not self._wake_waiter(connection):
            self._free.append((connection, now))
            if now - self._free[0][1] > MAX_IDLE_SECONDS:
                self._discard(self._free.pop(0)[0])

    async def _acquire_within(self, timeout_seconds: float) -> PipelineConnection:
        try:
            async with asyncio.timeout(timeout_seconds):
                while True:
                    connection = await (
                        self._open_connection() if self._connection_count < self._size else self._wait_for_release()
                    )
                    if connection is not None and connection.statements.is_alive():
                        return connection
                    if connection is not None:
                        self._discard(connection)
        except TimeoutError:
            raise Unavailable(POOL_EXHAUSTED_MESSAGE) from None

    async def _open_connection(self) -> PipelineConnection:
        self._connection_count += 1
        pause_seconds = MIN_RETRY_SECONDS
        while True:
            making = asyncio.ensure_future(self._connect())
            self._making.add(making)
            making.add_done_callback(self._making.discard)
            try:
                try:
                    # Where it takes longer than anybody waits, it would never be done if it ended with who waits.
                    return await asyncio.shield(making)
                except OperationalError as error:
                    log.warning("Postgres cannot be reached, the next try is in %.1f s: %s", pause_seconds, error)
                await asyncio.sleep(pause_seconds)
            except BaseException:
                making.add_done_callback(self._keep)
                # But not for ever: one whose line is gone without a word would take the place of one that works.
                asyncio.get_running_loop().call_later(self._timeout, making.cancel)
                raise
            pause_seconds = min(2 * pause_seconds, MAX_RETRY_SECONDS)

    def _keep(self, making: "asyncio.Future[PipelineConnection]") -> None:
        """What came too late for one is there for the next."""
        if making.cancelled() or making.exception() is not None:
            self._free_slot()
        else:
            self.release(making.result())

    async def _wait_for_release(self) -> PipelineConnection | None:
        """The next released connection; None where a new one may be opened instead."""
        if self._max_waiting and len(self._waiters) >= self._max_waiting:
            raise Unavailable(POOL_EXHAUSTED_MESSAGE)
        waiter: asyncio.Future[PipelineConnection | None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            elif not waiter.cancelled():
                # A connection was assigned just before the cancellation: do not leak it.
                self._release_or_free_slot(waiter.result())
            raise

    def _release_or_free_slot(self, connection: PipelineConnection | None) -> None:
        if connection is None:
            self._wake_waiter(None)
        else:
            self.release(connection)

    def _wake_waiter(self, connection: PipelineConnection | None) -> bool:
        """Give a connection, or the permission to open one (None), to the first waiter; returns whether there was one."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return True
        return False

    def _drop_older(self, moment: float) -> None:
        """Close the free ones that were used last before then: what took one line without a word took these along.

        Each of them would cost its next caller a whole statement timeout.
        """
        while self._free and self._free[0][1] < moment:
            self._discard(self._free.pop(0)[0])

    def _discard(self, connection: PipelineConnection) -> None:
        connection.statements.finish()
        self._free_slot()

    def _free_slot(self) -> None:
        self._connection_count -= 1
        self._wake_waiter(None)
