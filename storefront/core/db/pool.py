"""Connections to one Postgres, kept open and lent to one after the other. Taking one that is free is a matter of microseconds."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import NamedTuple

from psycopg import InterfaceError, OperationalError

from storefront.core.db.pipeline import Wired
from storefront.core.errors import Unavailable

log = logging.getLogger("storefront")

BUSY = "Too much is asked at this moment. Try again soon."
# Seconds for which the first connection is waited for, when Postgres and this process start together.
OPEN_TIMEOUT_SECONDS = 30.0
# Seconds between two tries to make one while Postgres cannot be reached.
SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 0.5
# Seconds after which a connection is replaced, and after which one is closed that nobody has needed.
LIFETIME, IDLE = 3_600.0, 600.0


class Pooled(NamedTuple):
    """Connections that there are, those of them that are free, and how many wait for one."""

    connections: int
    free: int
    waiting: int


class Pool:
    """At most `size` connections, made by `connect` as they are needed.

    `waiting`: how many may wait for one (0: any number). `timeout`: for how many seconds each of them waits.
    """

    def __init__(self, connect: Callable[[], Awaitable[Wired]], size: int, waiting: int = 0, timeout: float = 30.0) -> None:
        self._connect, self._size, self._most_waiting, self._timeout = connect, size, waiting, timeout
        self._count = 0
        # With the moments since when: the one that was used last is the next one that is lent.
        self._free: list[tuple[Wired, float]] = []
        self._waiting: deque[asyncio.Future[Wired | None]] = deque()
        self._is_open = False

    async def open(self) -> None:
        """Make the first connection; raises Unavailable where there is no Postgres."""
        self._is_open = True
        self.give_back(await self._awaited(OPEN_TIMEOUT_SECONDS))

    async def close(self) -> None:
        """Close all connections, those that are lent as soon as they come back."""
        self._is_open = False
        while self._free:
            self._drop(self._free.pop()[0])
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_exception(InterfaceError("the pool is closed"))

    def counted(self) -> Pooled:
        """How things stand."""
        return Pooled(self._count, len(self._free), len(self._waiting))

    async def take(self) -> Wired:
        """A connection, as far as is known a living one; raises Unavailable where none comes free in time, or too many wait."""
        if not self._is_open:
            raise InterfaceError("the pool is closed")
        while self._free:
            raw, _ = self._free.pop()
            # After a restart of Postgres all of them may be closed ones.
            if raw.wire.is_alive():
                return raw
            self._drop(raw)
        return await self._awaited(self._timeout)

    def give_back(self, raw: Wired) -> None:
        """Have a connection lent to the next one. One that is in the midst of something, or old, is closed."""
        now = monotonic()
        if not (self._is_open and raw.wire.is_idle and now - raw.wire.born < LIFETIME):
            self._drop(raw)
        elif not self._hand(raw):
            self._free.append((raw, now))
            if now - self._free[0][1] > IDLE:
                self._drop(self._free.pop(0)[0])

    async def _awaited(self, seconds: float) -> Wired:
        try:
            async with asyncio.timeout(seconds):
                while True:
                    raw = await (self._made() if self._count < self._size else self._lent())
                    if raw is not None and raw.wire.is_alive():
                        return raw
                    if raw is not None:
                        self._drop(raw)
        except TimeoutError:
            raise Unavailable(BUSY) from None

    async def _made(self) -> Wired:
        self._count += 1
        pause = SHORTEST_PAUSE
        try:
            while True:
                try:
                    return await self._connect()
                except OperationalError as error:
                    log.warning("Postgres cannot be reached, the next try is in %.1f s: %s", pause, error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
        except BaseException:
            self._leave_room()
            raise

    async def _lent(self) -> Wired | None:
        """The next one that comes back; None where there is room for a new one instead."""
        if self._most_waiting and len(self._waiting) >= self._most_waiting:
            raise Unavailable(BUSY)
        waiting: asyncio.Future[Wired | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        try:
            return await waiting
        except asyncio.CancelledError:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
            elif not waiting.cancelled():
                # It came just then.
                self._pass_on(waiting.result())
            raise

    def _pass_on(self, raw: Wired | None) -> None:
        if raw is None:
            self._hand(None)
        else:
            self.give_back(raw)

    def _hand(self, raw: Wired | None) -> bool:
        """Give a connection, or the room for one, to who waits for it; whether anybody does."""
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(raw)
                return True
        return False

    def _drop(self, raw: Wired) -> None:
        raw.wire.finish()
        self._leave_room()

    def _leave_room(self) -> None:
        self._count -= 1
        self._hand(None)
