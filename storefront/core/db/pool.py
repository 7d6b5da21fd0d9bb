"""A connection pool for one Postgres. Acquiring a free connection takes microseconds."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import NamedTuple

from psycopg import OperationalError

from storefront.core.db.pipeline import PipelineConnection
from storefront.core.errors import Unavailable

log = logging.getLogger("storefront")

POOL_EXHAUSTED_MESSAGE = "Too much is asked at this moment. Try again soon."
UNAVAILABLE_MESSAGE = "The database is not available at this moment. Try again soon."
# Timeout of the first connection, for when Postgres and this process start together.
OPEN_TIMEOUT_SECONDS = 30.0
# Timeout of connecting, to all hosts of a URL together.
CONNECT_TIMEOUT_SECONDS = 10.0
# Exponential backoff between attempts to connect while Postgres is unreachable.
MIN_RETRY_SECONDS, MAX_RETRY_SECONDS = 0.1, 0.5
# Maximum age of a connection, and maximum time for which it may be idle.
MAX_LIFETIME_SECONDS, MAX_IDLE_SECONDS = 3_600.0, 600.0


class PoolStats(NamedTuple):
    """The numbers of used slots (connections, open or being opened), of free connections among them, and of waiters."""

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
        self._connect, self._size, self._max_waiting, self.timeout = connect, size, max_waiting, timeout
        # Used slots: open connections, and those that are being opened.
        self._connection_count = 0
        # Each with the time of its release. LIFO: the most recently used connection is acquired next.
        self._free: list[tuple[PipelineConnection, float]] = []
        # Callers that wait, each for a connection or for a slot (None), in which it connects itself.
        self._waiters: deque[asyncio.Future[PipelineConnection | None]] = deque()
        self._connect_tasks: set[asyncio.Future[PipelineConnection]] = set()
        # Both those in use and the free ones.
        self._connections: set[PipelineConnection] = set()
        self._is_open = False

    async def open(self) -> None:
        """Open the first connection; raises Unavailable where Postgres is unreachable."""
        self.reopen()
        self.release(await self._acquire_within(OPEN_TIMEOUT_SECONDS))

    @property
    def is_open(self) -> bool:
        """Whether connections can be acquired."""
        return self._is_open

    def reopen(self) -> None:
        """Open the pool, which connects on demand."""
        self._is_open = True

    def terminate(self) -> None:
        """Close the pool and all connections at once, also those in use: their statements fail with an OperationalError."""
        self._close()
        for connection in self._connections:
            connection.statements.abort()

    async def close(self) -> None:
        """Close all free connections, and those in use when they are released. Waiters get Unavailable."""
        self._close()

    def _close(self) -> None:
        self._is_open = False
        for connect_task in self._connect_tasks:
            connect_task.cancel()
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(Unavailable(UNAVAILABLE_MESSAGE))
        while self._free:
            self._discard(self._free.pop()[0])

    def get_stats(self) -> PoolStats:
        """The current numbers of the pool."""
        return PoolStats(self._connection_count, len(self._free), len(self._waiters))

    async def acquire(self, timeout_seconds: float | None = None) -> PipelineConnection:
        """Check out a live connection; wait at most for the timeout of the pool, or for another one.

        Raises Unavailable after the timeout, if too many callers wait (load shedding), and if the pool is closed.
        """
        while self._free:
            connection, _ = self._free.pop()
            # After a restart of Postgres, all free connections may be closed.
            if connection.statements.is_alive():
                return connection
            self._discard(connection)
        return await self._acquire_within(self.timeout if timeout_seconds is None else timeout_seconds)

    def release(self, connection: PipelineConnection) -> None:
        """Return a connection to the pool. It is closed if a transaction is open, or beyond its maximum age."""
        now = monotonic()
        if connection.statements.lost_since is not None:
            self._evict_unused_since(connection.statements.lost_since)
        if not (self._is_open and connection.statements.is_idle and now - connection.statements.opened_at < MAX_LIFETIME_SECONDS):
            self._discard(connection)
        elif not self._wake_waiter(connection):
            self._free.append((connection, now))
            if now - self._free[0][1] > MAX_IDLE_SECONDS:
                self._discard(self._free.pop(0)[0])

    async def _acquire_within(self, timeout_seconds: float) -> PipelineConnection:
        self._check_is_open()
        try:
            async with asyncio.timeout(timeout_seconds):
                if self._connection_count < self._size:
                    self._connection_count += 1
                else:
                    connection = await self._wait_for_release()
                    if connection is not None:
                        if connection.statements.is_alive():
                            return connection
                        self._close_connection(connection)
                return await self._connect_in_slot()
        except TimeoutError:
            raise Unavailable(POOL_EXHAUSTED_MESSAGE) from None

    def _check_is_open(self) -> None:
        if not self._is_open:
            raise Unavailable(UNAVAILABLE_MESSAGE)

    async def _connect_in_slot(self) -> PipelineConnection:
        """Connect in the caller's slot, with retries while Postgres is unreachable. Frees the slot if it raises."""
        pause_seconds = MIN_RETRY_SECONDS
        while True:
            connect_task = self._start_connecting()
            try:
                # `wait` leaves the task running if the caller is cancelled, and returns if the task is.
                await asyncio.wait([connect_task])
                self._check_is_open()
                try:
                    return connect_task.result()
                except OperationalError as error:
                    log.warning("Postgres cannot be reached, the next try is in %.1f s: %s", pause_seconds, error)
                await asyncio.sleep(pause_seconds)
                self._check_is_open()
            except BaseException:
                # The task goes on: if it were cancelled with its caller, a server to which connecting takes longer than the
                # timeout of the pool would never get a connection.
                connect_task.add_done_callback(self._release_late_connection)
                # Its slot is needed if the attempt hangs, as on a half-open connection.
                asyncio.get_running_loop().call_later(self.timeout, connect_task.cancel)
                raise
            pause_seconds = min(2 * pause_seconds, MAX_RETRY_SECONDS)

    def _start_connecting(self) -> "asyncio.Future[PipelineConnection]":
        connect_task = asyncio.ensure_future(self._connect())
        self._connect_tasks.add(connect_task)
        connect_task.add_done_callback(self._on_connect_task_done)
        return connect_task

    def _on_connect_task_done(self, connect_task: "asyncio.Future[PipelineConnection]") -> None:
        self._connect_tasks.discard(connect_task)
        if not connect_task.cancelled() and connect_task.exception() is None:
            self._connections.add(connect_task.result())

    def _release_late_connection(self, connect_task: "asyncio.Future[PipelineConnection]") -> None:
        """The done callback of a connect task whose caller has left: add its connection to the pool, or free its slot."""
        if connect_task.cancelled() or connect_task.exception() is not None:
            self._free_slot()
        else:
            self.release(connect_task.result())

    async def _wait_for_release(self) -> PipelineConnection | None:
        """Wait for the next released connection; None for a slot that became free instead, in which the caller has to connect."""
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
                self._pass_on(waiter)
            raise

    def _pass_on(self, waiter: "asyncio.Future[PipelineConnection | None]") -> None:
        """Pass on what a waiter was woken with just before its caller was cancelled: a connection, or a free slot."""
        if waiter.exception() is not None:
            # The pool is closed.
            return
        connection = waiter.result()
        if connection is None:
            self._free_slot()
        else:
            self.release(connection)

    def _wake_waiter(self, connection: PipelineConnection | None) -> bool:
        """Wake the first waiter with a connection, or with None for a free slot; returns whether there was a waiter."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return True
        return False

    def _evict_unused_since(self, moment: float) -> None:
        """Close the free connections that were last used before a batch was sent, at that moment, whose connection was lost.

        What ended it, such as a crash of the server or a failure of the network, may have ended them, and each would cost its
        next caller an attempt, or a statement timeout where nothing tells that it is lost.
        """
        while self._free and self._free[0][1] < moment:
            self._discard(self._free.pop(0)[0])

    def _discard(self, connection: PipelineConnection) -> None:
        self._close_connection(connection)
        self._free_slot()

    def _close_connection(self, connection: PipelineConnection) -> None:
        self._connections.discard(connection)
        connection.statements.finish()

    def _free_slot(self) -> None:
        # A waiter gets the slot itself: otherwise a later caller could take it first.
        if not self._wake_waiter(None):
            self._connection_count -= 1
