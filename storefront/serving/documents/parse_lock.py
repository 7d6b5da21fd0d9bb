"""Parse lock: limits CPU-bound work, such as parsing a new document, so that other requests are served meanwhile."""

import asyncio
from collections.abc import Callable
from time import perf_counter
from typing import TypeVar

from storefront.core.errors import Unavailable

T = TypeVar("T")

# The lock is released at once after work that took less than so many seconds.
FAIRNESS_THRESHOLD_SECONDS = 0.005


class ParseLock:
    """Runs one work item at a time. After a long one it stays locked for as long again, which leaves that time to other requests.

    At most `max_waiting` items wait.
    """

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting, self._waiting_count = max_waiting, 0
        self._lock = asyncio.Lock()

    async def run_exclusively(self, work: Callable[[], T]) -> T:
        """Run the work when the lock is free. Raises Unavailable if too many wait, and what the work raises."""
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
