"""Single-flight: callers that ask for the same at the same time share one call, and those that come soon after its result."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from time import monotonic
from typing import Any, TypeVar, cast

T = TypeVar("T")


class SingleFlight:
    """Calls by key. A result is kept for `max_age` seconds, and at most `max_entries` of them. A failure is not kept."""

    def __init__(self, max_entries: int, max_age: float) -> None:
        self._max_entries, self._max_age = max_entries, max_age
        # In the order in which they were begun.
        self._calls: OrderedDict[Hashable, tuple[float, asyncio.Future[Any]]] = OrderedDict()
        self._expiry: asyncio.TimerHandle | None = None

    async def call(self, key: Hashable, work: Callable[[], Awaitable[T]]) -> T:
        """The result under a key, which `work` comes to at most once. Raises what `work` raises to all who wait for it."""
        begun, running = self._calls.get(key, (0.0, None))
        if running is None or monotonic() - begun > self._max_age:
            running = self._begin(key, work)
        # A caller that leaves while it waits must not take the result from the others.
        return cast(T, await asyncio.shield(running))

    def _begin(self, key: Hashable, work: Callable[[], Awaitable[T]]) -> "asyncio.Future[T]":
        running = asyncio.ensure_future(work())
        self._calls.pop(key, None)
        while len(self._calls) >= self._max_entries:
            self._calls.popitem(last=False)
        self._calls[key] = monotonic(), running
        running.add_done_callback(lambda done: self._drop_failed(key, done))
        if self._expiry is None:
            self._expiry = asyncio.get_running_loop().call_later(self._max_age, self._drop_expired)
        return running

    def _drop_expired(self) -> None:
        # Without this, what nobody asks for again would stay in memory.
        self._expiry = None
        now = monotonic()
        while self._calls:
            key, (begun, _) = next(iter(self._calls.items()))
            if now - begun < self._max_age:
                self._expiry = asyncio.get_running_loop().call_later(self._max_age - (now - begun), self._drop_expired)
                break
            del self._calls[key]

    def _drop_failed(self, key: Hashable, done: "asyncio.Future[Any]") -> None:
        if done.cancelled() or done.exception() is not None:
            _, running = self._calls.get(key, (0.0, None))
            if running is done:
                del self._calls[key]
