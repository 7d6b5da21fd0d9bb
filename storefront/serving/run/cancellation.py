"""Cancellation of operations: deadlines, and disconnected clients.

Both apply to every operation but cancel almost none, so each costs only a timer.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from storefront.core.errors import RequestError, TimedOut, Unavailable
from storefront.execution.executor import FieldState

# Seconds after which the connection is watched for a disconnect: most responses are sent by then.
DISCONNECT_CHECK_DELAY_SECONDS = 0.1


class ClientDisconnectedError(RequestError):
    """Raised if the client disconnects before the response."""

    def __init__(self) -> None:
        super().__init__("The client has disconnected.")


def create_timeout_error(seconds: float, state: FieldState | None = None) -> TimedOut:
    """The error of an operation, or of a root field of a mutation, that exceeds its timeout."""
    problem = f"This took longer than the {seconds:g} s that it has"
    match state:
        case None:
            return TimedOut(f"{problem}, and was given up. Ask for less at a time.")
        case FieldState.COMMITTED:
            problem += ". The mutation is done; its payload was given up."
        case FieldState.INTERRUPTED:
            problem += ". The mutation is done whole or not at all: the same idempotencyKey makes it safe to send it again."
        case FieldState.NOT_STARTED:
            problem += ", and the mutation was not begun."
    return TimedOut(problem, state=state.name)


def create_shutdown_error() -> Unavailable:
    """The error of a query or mutation that has no result when the server stops."""
    return Unavailable(
        "The server is shutting down before this is answered. Send it again: with the same idempotencyKey a mutation is done "
        "once, and what was done is returned."
    )


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


class OperationDeadline(Deadline):
    """The deadline of an operation. `cancel` cancels what runs on behalf of the operation."""

    __slots__ = ("_cancel", "_seconds")

    def __init__(self, seconds: float, cancel: Callable[[], None]) -> None:
        super().__init__(seconds)
        self._seconds, self._cancel = seconds, cancel

    def absorb_cancellation(self) -> bool:
        """Whether this deadline alone cancelled the task. If so, the task is uncancelled. The operation is cancelled."""
        self._cancel()
        return super().absorb_cancellation()

    def create_error(self, state: FieldState | None = None) -> TimedOut:
        """The error of the operation, or of a mutation's root field."""
        return create_timeout_error(self._seconds, state)


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
