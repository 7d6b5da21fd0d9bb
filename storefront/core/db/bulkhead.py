"""A bulkhead: limits concurrency per key, so that waiters of one key do not take all of a shared resource."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager

from storefront.core.errors import Unavailable


class Bulkhead:
    """At most `limit` holders of each key at a time. Others wait in FIFO order; after `timeout` seconds, Unavailable is raised.

    The key is not looked up while there are fewer than `limit` holders in all: the lookup may be expensive.
    """

    def __init__(self, limit: int, timeout: float) -> None:
        self._limit, self._timeout = limit, timeout
        self._unkeyed_holders = 0
        # Only keys with a holder or a waiter have an entry.
        self._slots: dict[Hashable, tuple[asyncio.Semaphore, int]] = {}

    @asynccontextmanager
    async def hold(self, find_key: Callable[[], Awaitable[Hashable]]) -> AsyncIterator[None]:
        """Hold a slot inside the context. Raises Unavailable."""
        if self._unkeyed_holders < self._limit:
            self._unkeyed_holders += 1
            try:
                yield
            finally:
                self._unkeyed_holders -= 1
        else:
            async with self._hold_slot(await find_key()):
                yield

    @asynccontextmanager
    async def _hold_slot(self, key: Hashable) -> AsyncIterator[None]:
        slots, holders = self._slots.get(key) or (asyncio.Semaphore(self._limit), 0)
        self._slots[key] = slots, holders + 1
        try:
            await self._acquire(slots)
            try:
                yield
            finally:
                slots.release()
        finally:
            slots, holders = self._slots.pop(key)
            if holders > 1:
                self._slots[key] = slots, holders - 1

    async def _acquire(self, slots: asyncio.Semaphore) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await slots.acquire()
        except TimeoutError:
            raise Unavailable("Too many concurrent writes to this store. Nothing was done: try again soon.") from None
