"""Work that keeps a whole process busy, such as reading a document that nobody has sent before, leaves room for the others."""

import asyncio
from collections.abc import Callable
from time import perf_counter
from typing import TypeVar

from storefront.core.errors import Unavailable

T = TypeVar("T")

# Seconds of work after which nobody else need be let in between.
FAIRNESS_THRESHOLD_SECONDS = 0.005


class ParseLock:
    """One at a time. After one that took long all other requests have as much time before the next one; `most` may wait."""

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting, self._waiting_count = max_waiting, 0
        self._lock = asyncio.Lock()

    async def run_exclusively(self, work: Callable[[], T]) -> T:
        """Do it when it is its turn; raises Unavailable."""
        if self._waiting_count >= self._max_waiting:
            raise Unavailable("Too many documents are new at this moment. Try again soon.")
        self._waiting_count += 1
        try:
            await self._lock.acquire()
        finally:
            self._waiting_count -= 1
        started_at = perf_counter()
        try:
            return work()
        finally:
            self._release_fairly(perf_counter() - started_at)

    def _release_fairly(self, elapsed_seconds: float) -> None:
        if elapsed_seconds < FAIRNESS_THRESHOLD_SECONDS:
            self._lock.release()
        else:
            asyncio.get_running_loop().call_later(elapsed_seconds, self._lock.release)
