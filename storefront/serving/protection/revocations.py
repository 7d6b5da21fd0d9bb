"""Closes long-lived connections whose credentials have been revoked. What credentials are does not matter here."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Hashable
from contextlib import asynccontextmanager

from storefront.core.tasks import running_tasks

log = logging.getLogger("storefront")

CloseCallback = Callable[[], None]


class Revocations:
    """The credentials of the open sockets and streams of this process, checked together every `interval_seconds`.

    `find_revoked` returns those that have been revoked.
    """

    def __init__(
        self, find_revoked: Callable[[Collection[Hashable]], Awaitable[Collection[Hashable]]], interval_seconds: float
    ) -> None:
        self._find_revoked, self._interval_seconds = find_revoked, interval_seconds
        self._callbacks: dict[Hashable, set[CloseCallback]] = {}

    def watch(self, credentials: Hashable | None, close: CloseCallback) -> None:
        """Call `close` once the credentials are revoked. Anonymous connections (None) are not watched."""
        if credentials is not None:
            self._callbacks.setdefault(credentials, set()).add(close)

    def unwatch(self, credentials: Hashable | None, close: CloseCallback) -> None:
        """Stop watching: the connection has been closed."""
        callbacks = self._callbacks.get(credentials, set())
        callbacks.discard(close)
        if not callbacks:
            self._callbacks.pop(credentials, None)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Poll for revocations for the duration of the context."""
        async with running_tasks(self._poll_revocations()):
            yield

    async def _poll_revocations(self) -> None:
        while True:
            await asyncio.sleep(self._interval_seconds)
            try:
                await self._close_revoked()
            except Exception as error:
                # The store of credentials is unavailable: connections stay open until the next poll.
                log.warning("revoked credentials could not be looked up (%s); trying again", type(error).__name__)

    async def _close_revoked(self) -> None:
        for credentials in await self._find_revoked(list(self._callbacks)) if self._callbacks else ():
            for close in tuple(self._callbacks.get(credentials, ())):
                close()
