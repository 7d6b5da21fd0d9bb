"""Cancellation of operations: deadlines, and disconnected clients.

Both apply to every operation but cancel almost none, so each costs only a timer.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from storefront.core.errors import RequestError

# Seconds after which the connection is watched for a disconnect: most responses are sent by then.
DISCONNECT_CHECK_DELAY_SECONDS = 0.1


class ClientDisconnectedError(RequestError):
    """Raised if the client disconnects before the response."""

    def __init__(self) -> None:
        super().__init__("The client has disconnected.")


class Deadline:
    """Cancels the task that creates it after some seconds, unless it is stopped before."""

    __slots__ = ("_handle", "_task", "has_fired")

    def __init__(self, seconds: float) -> None:
        self._task = asyncio.current_task()
        self.has_fired = False
        self._handle = asyncio.get_running_loop().call_later(seconds, self._fire)

    def stop(self) -> None:
        """Stop the timer."""
        self._handle.cancel()

    def absorb_cancellation(self) -> bool:
        """Whether this deadline alone cancelled the task. If so, the task is uncancelled."""
        return self.has_fired and self._task is not None and self._task.uncancel() == 0

    def _fire(self) -> None:
        self.has_fired = True
        if self._task is not None:
            self._task.cancel()


class DisconnectWatcher(Deadline):
    """Cancels the task that creates it when the client disconnects. `receive` is ASGI's; the body must have been read."""

    __slots__ = ("_receive", "_watch_task")

    def __init__(self, receive: Callable[[], Awaitable[MutableMapping[str, Any]]]) -> None:
        self._receive = receive
        self._watch_task: asyncio.Task[None] | None = None
        super().__init__(DISCONNECT_CHECK_DELAY_SECONDS)

    def stop(self) -> None:
        """Stop watching."""
        super().stop()
        if self._watch_task is not None:
            self._watch_task.cancel()

    def _fire(self) -> None:
        self._watch_task = asyncio.create_task(self._wait_for_disconnect())

    async def _wait_for_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        super()._fire()
