"""Ends what is open for long once the proof that it was opened with no longer counts. Knows nothing of what a proof is."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Hashable
from contextlib import asynccontextmanager

log = logging.getLogger("storefront")

CloseCallback = Callable[[], None]


class Revocations:
    """The proofs behind the open sockets and streams of this process, all looked over together every `interval` seconds.

    `revoked` says which of them no longer count.
    """

    def __init__(
        self, find_revoked: Callable[[Collection[Hashable]], Awaitable[Collection[Hashable]]], interval_seconds: float
    ) -> None:
        self._find_revoked, self._interval_seconds = find_revoked, interval_seconds
        self._callbacks: dict[Hashable, set[CloseCallback]] = {}

    def watch(self, credentials: Hashable | None, close: CloseCallback) -> None:
        """Call `end` once the proof no longer counts. Nobody's proof always does."""
        if credentials is not None:
            self._callbacks.setdefault(credentials, set()).add(close)

    def unwatch(self, credentials: Hashable | None, close: CloseCallback) -> None:
        """It has ended by itself."""
        callbacks = self._callbacks.get(credentials, set())
        callbacks.discard(close)
        if not callbacks:
            self._callbacks.pop(credentials, None)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look the proofs over while this lasts."""
        task = asyncio.create_task(self._poll_revocations())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _poll_revocations(self) -> None:
        while True:
            await asyncio.sleep(self._interval_seconds)
            try:
                await self._close_revoked()
            except Exception as error:
                # Whatever holds the proofs is down: nobody is thrown out for that, and the next look makes up for it.
                log.warning("revoked proofs could not be looked up (%s); trying again", type(error).__name__)

    async def _close_revoked(self) -> None:
        for credentials in await self._find_revoked(list(self._callbacks)) if self._callbacks else ():
            for close in tuple(self._callbacks.get(credentials, ())):
                close()
