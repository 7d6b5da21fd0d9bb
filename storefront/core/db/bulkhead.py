"""Bulkhead: bounds the concurrency of each key, so that one of them cannot take all connections."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager

from storefront.core.errors import Unavailable

FindKey = Callable[[], Awaitable[Hashable]]


class _Holder:
    """A holder or a waiter of a slot. Its key is looked up when it matters."""

    def __init__(self, find_key: FindKey) -> None:
        self.find_key = find_key
        self.key: Hashable = None
        self.admitted: asyncio.Future[None] | None = None


class Bulkhead:
    """At most `limit` holders of each key and `total` of all keys at a time; the last slot is for a key that holds none.

    Others wait, those whose key holds none first; after `timeout` seconds, Unavailable is raised. Keys are not looked up while
    there are fewer than `limit` holders in all: the lookup may be expensive.
    """

    def __init__(self, limit: int, total: int, timeout: float) -> None:
        self._limit, self._total, self._timeout = limit, max(limit, total), timeout
        self._holders: list[_Holder] = []
        self._waiters: list[_Holder] = []

    @asynccontextmanager
    async def hold(self, find_key: FindKey) -> AsyncIterator[None]:
        """Hold a slot inside the context. Raises Unavailable."""
        holder = _Holder(find_key)
        if len(self._holders) < self._limit and not self._waiters:
            self._holders.append(holder)
        else:
            await self._wait_for_slot(holder)
        try:
            yield
        finally:
            self._holders.remove(holder)
            self._admit_waiters()

    async def _wait_for_slot(self, holder: _Holder) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                for known in [*self._holders, holder]:
                    known.key = known.key or await known.find_key()
                holder.admitted = asyncio.get_running_loop().create_future()
                self._waiters.append(holder)
                self._admit_waiters()
                await holder.admitted
        except BaseException as error:
            if holder in self._waiters:
                self._waiters.remove(holder)
            if holder in self._holders:
                # Admitted at the moment of the timeout or of a cancellation.
                self._holders.remove(holder)
                self._admit_waiters()
            if isinstance(error, TimeoutError):
                raise Unavailable("Too many concurrent writes. Nothing was done: try again soon.") from None
            raise

    def _admit_waiters(self) -> None:
        counts = Counter(holder.key for holder in self._holders)
        # One whose timeout or cancellation has just come is still in the list. A stable sort: first come, first served.
        waiting = [(waiter, admitted) for waiter in self._waiters if (admitted := waiter.admitted) and not admitted.done()]
        for waiter, admitted in sorted(waiting, key=lambda one: counts[one[0].key] > 0):
            count = counts[waiter.key]
            if count < self._limit and len(self._holders) < self._total - (1 if count else 0):
                counts[waiter.key] += 1
                self._waiters.remove(waiter)
                self._holders.append(waiter)
                admitted.set_result(None)
