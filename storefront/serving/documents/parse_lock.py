"""Work that keeps a whole process busy, such as reading a document that nobody has sent before, leaves room for the others."""

import asyncio
from collections.abc import Callable
from time import perf_counter
from typing import TypeVar

from storefront.core.errors import Unavailable

T = TypeVar("T")

# Seconds of work after which nobody else need be let in between.
SHORT = 0.005


class Turns:
    """One at a time. After one that took long all other requests have as much time before the next one; `most` may wait."""

    def __init__(self, most: int) -> None:
        self._most, self._waiting = most, 0
        self._lock = asyncio.Lock()

    async def take(self, work: Callable[[], T]) -> T:
        """Do it when it is its turn; raises Unavailable."""
        if self._waiting >= self._most:
            raise Unavailable("Too many documents are new at this moment. Try again soon.")
        self._waiting += 1
        try:
            await self._lock.acquire()
        finally:
            self._waiting -= 1
        began = perf_counter()
        try:
            return work()
        finally:
            self._leave(perf_counter() - began)

    def _leave(self, took: float) -> None:
        if took < SHORT:
            self._lock.release()
        else:
            asyncio.get_running_loop().call_later(took, self._lock.release)
