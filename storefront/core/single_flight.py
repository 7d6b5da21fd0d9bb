"""Single-flight: concurrent callers with the same key share one call. Later callers get its result until it expires."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from time import monotonic
from typing import Any, TypeVar, cast

from storefront.core.tasks import share

T = TypeVar("T")


class SingleFlight:
    """Calls by key. At most `max_entries` results are cached, until `max_age` seconds after the call began. Failures are not."""

    def __init__(self, max_entries: int, max_age: float) -> None:
        self._max_entries, self._max_age = max_entries, max_age
        # Each with the time of its start, in this order.
        self._calls: OrderedDict[Hashable, tuple[float, asyncio.Future[Any]]] = OrderedDict()
        self._expiry_timer: asyncio.TimerHandle | None = None

    async def call(self, key: Hashable, work: Callable[[], Awaitable[T]]) -> T:
        """The result for a key. `work` runs at most once at a time; what it raises is raised to all waiting callers."""
        started_at, future = self._calls.get(key, (0.0, None))
        if future is None or (future.done() and monotonic() - started_at > self._max_age):
            future = self._start_call(key, work)
        # Cancelling one caller must not cancel the shared call.
        return cast(T, await share(future))

    def _start_call(self, key: Hashable, work: Callable[[], Awaitable[T]]) -> "asyncio.Future[T]":
        future = asyncio.ensure_future(work())
        self._calls.pop(key, None)
        while len(self._calls) >= self._max_entries:
            self._calls.popitem(last=False)
        self._calls[key] = monotonic(), future
        future.add_done_callback(lambda finished: self._drop_failed(key, finished))
        if self._expiry_timer is None:
            self._expiry_timer = asyncio.get_running_loop().call_later(self._max_age, self._drop_expired)
        return future

    def _drop_expired(self) -> None:
        # Without a timer, results that are not requested again would stay in memory.
        self._expiry_timer = None
        now = monotonic()
        for key, (started_at, future) in list(self._calls.items()):
            if future.done() and now - started_at >= self._max_age:
                del self._calls[key]
        if self._calls:
            oldest_age = now - next(iter(self._calls.values()))[0]
            # A call that takes longer than its result is valid is looked at again later.
            delay = self._max_age - oldest_age if oldest_age < self._max_age else self._max_age
            self._expiry_timer = asyncio.get_running_loop().call_later(delay, self._drop_expired)

    def _drop_failed(self, key: Hashable, finished: "asyncio.Future[Any]") -> None:
        if finished.cancelled() or finished.exception() is not None:
            _, current = self._calls.get(key, (0.0, None))
            if current is finished:
                del self._calls[key]
