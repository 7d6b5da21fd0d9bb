"""What ends an operation before it has: time that is up, or a client that has gone.

Both are asked of every operation, and of nearly none do they come true: a timer each is all that they cost the others.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from storefront.core.errors import RequestError

# Seconds after which somebody looks whether the client has gone: most answers are sent by then.
DISCONNECT_CHECK_DELAY_SECONDS = 0.1


class ClientDisconnectedError(RequestError):
    """Nobody waits for the answer any more."""

    def __init__(self) -> None:
        super().__init__("The client has gone.")


class Deadline:
    """Cancels the task that makes it after so many seconds, unless it is stopped before."""

    __slots__ = ("_handle", "_task", "has_fired")

    def __init__(self, seconds: float) -> None:
        self._task = asyncio.current_task()
        self.has_fired = False
        self._handle = asyncio.get_running_loop().call_later(seconds, self._fire)

    def stop(self) -> None:
        """No need any more."""
        self._handle.cancel()

    def absorb_cancellation(self) -> bool:
        """Whether it was this, and nothing else, that cancelled the task. Then it is cancelled no longer."""
        return self.has_fired and self._task is not None and self._task.uncancel() == 0

    def _fire(self) -> None:
        self.has_fired = True
        if self._task is not None:
            self._task.cancel()


class DisconnectWatcher(Deadline):
    """Cancels the task that makes it once the client has gone. `receive` is ASGI's, after all of the body has been read."""

    __slots__ = ("_receive", "_watch_task")

    def __init__(self, receive: Callable[[], Awaitable[MutableMapping[str, Any]]]) -> None:
        self._receive = receive
        self._watch_task: asyncio.Task[None] | None = None
        super().__init__(DISCONNECT_CHECK_DELAY_SECONDS)

    def stop(self) -> None:
        """No need any more."""
        super().stop()
        if self._watch_task is not None:
            self._watch_task.cancel()

    def _fire(self) -> None:
        self._watch_task = asyncio.create_task(self._wait_for_disconnect())

    async def _wait_for_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        super()._fire()
