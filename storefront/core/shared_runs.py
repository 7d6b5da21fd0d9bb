"""Objects that run while anyone uses them: the first user starts one, and the last one stops it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

from storefront.core.errors import Unavailable
from storefront.core.request_context import create_detached_task
from storefront.core.tasks import cancel_and_wait


class Runnable(Protocol):
    """An object with work of its own."""

    def run(self) -> Awaitable[None]:
        """Work until cancelled. It handles its errors itself."""


R = TypeVar("R", bound=Runnable)


class SharedRuns:
    """The running objects of this process by key, at most `max_items` of them (None: no limit). `name`: theirs, in errors."""

    def __init__(self, max_items: int | None, name: str) -> None:
        self.max_items, self._name = max_items, name
        self._items: dict[Hashable, Any] = {}
        self._tasks: dict[Hashable, asyncio.Task[None]] = {}
        self._user_counts: dict[Hashable, int] = {}

    def __len__(self) -> int:
        """The number of running objects."""
        return len(self._items)

    def check_capacity(self, key: Hashable) -> None:
        """Raises Unavailable if the object with this key does not run and no other may."""
        if self.max_items is not None and key not in self._items and len(self._items) >= self.max_items:
            raise Unavailable(f"This server has the maximum number of {self._name}, {self.max_items:,}. Try again later.")

    @asynccontextmanager
    async def use(self, key: Hashable, build: Callable[[], R]) -> AsyncIterator[R]:
        """The running object with this key; `build` makes it for the first user. Raises Unavailable."""
        # Again: others may have come since the user was promised room.
        self.check_capacity(key)
        if key not in self._items:
            self._items[key], self._user_counts[key] = build(), 0
            self._tasks[key] = create_detached_task(self._items[key].run())
        self._user_counts[key] += 1
        try:
            yield self._items[key]
        finally:
            self._user_counts[key] -= 1
            if not self._user_counts[key]:
                del self._items[key], self._user_counts[key]
                await cancel_and_wait([self._tasks.pop(key)])
