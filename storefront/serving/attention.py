"""Whether the client is still there. Nobody is asked that who is answered at once."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from types import TracebackType
from typing import Any

from storefront.core.errors import RequestError

# Seconds after which somebody looks whether the client has gone: most answers are sent by then.
PATIENCE = 0.1


class ClientGone(RequestError):
    """Nobody waits for the answer any more."""


class Attended:
    """While this lasts the client has to be there. Once it has gone, what runs here is cancelled, and ClientGone is raised.

    `receive` is what ASGI calls so, once all of the body has been read.
    """

    __slots__ = ("_has_gone", "_receive", "_task", "_timer", "_watch")

    def __init__(self, receive: Callable[[], Awaitable[MutableMapping[str, Any]]]) -> None:
        self._receive = receive
        self._watch: asyncio.Task[None] | None = None
        self._has_gone = False

    async def __aenter__(self) -> None:
        self._task = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(PATIENCE, self._begin)

    async def __aexit__(self, _: object, error: BaseException | None, __: TracebackType | None) -> None:
        self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()
        if self._has_gone and self._task is not None and self._task.uncancel() == 0 and isinstance(error, asyncio.CancelledError):
            raise ClientGone("The client has gone.")

    def _begin(self) -> None:
        self._watch = asyncio.create_task(self._until_gone())

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._has_gone = True
        if self._task is not None:
            self._task.cancel()
