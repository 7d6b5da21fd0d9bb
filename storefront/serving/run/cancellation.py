"""What ends an operation before it has: time that is up, or a client that has gone.

Both are asked of every operation, and of nearly none do they come true: a timer each is all that they cost the others.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from storefront.core.errors import RequestError

# Seconds after which somebody looks whether the client has gone: most answers are sent by then.
PATIENCE = 0.1


class ClientGone(RequestError):
    """Nobody waits for the answer any more."""

    def __init__(self) -> None:
        super().__init__("The client has gone.")


class Timer:
    """Cancels the task that makes it after so many seconds, unless it is stopped before."""

    __slots__ = ("_handle", "_task", "is_over")

    def __init__(self, seconds: float) -> None:
        self._task = asyncio.current_task()
        self.is_over = False
        self._handle = asyncio.get_running_loop().call_later(seconds, self._end)

    def stop(self) -> None:
        """No need any more."""
        self._handle.cancel()

    def ended(self) -> bool:
        """Whether it was this, and nothing else, that cancelled the task. Then it is cancelled no longer."""
        return self.is_over and self._task is not None and self._task.uncancel() == 0

    def _end(self) -> None:
        self.is_over = True
        if self._task is not None:
            self._task.cancel()


class Attendance(Timer):
    """Cancels the task that makes it once the client has gone. `receive` is ASGI's, after all of the body has been read."""

    __slots__ = ("_receive", "_watch")

    def __init__(self, receive: Callable[[], Awaitable[MutableMapping[str, Any]]]) -> None:
        self._receive = receive
        self._watch: asyncio.Task[None] | None = None
        super().__init__(PATIENCE)

    def stop(self) -> None:
        """No need any more."""
        super().stop()
        if self._watch is not None:
            self._watch.cancel()

    def _end(self) -> None:
        self._watch = asyncio.create_task(self._until_gone())

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        super()._end()
