"""Ends what is open for long once the proof that it was opened with no longer counts. Knows nothing of what a proof is."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Hashable
from contextlib import asynccontextmanager

log = logging.getLogger("storefront")

End = Callable[[], None]


class Revocations:
    """The proofs behind the open sockets and streams of this process, all looked over together every `interval` seconds.

    `revoked` says which of them no longer count.
    """

    def __init__(self, revoked: Callable[[Collection[Hashable]], Awaitable[Collection[Hashable]]], interval: float) -> None:
        self._revoked, self._interval = revoked, interval
        self._open: dict[Hashable, set[End]] = {}

    def watch(self, proof: Hashable | None, end: End) -> None:
        """Call `end` once the proof no longer counts. Nobody's proof always does."""
        if proof is not None:
            self._open.setdefault(proof, set()).add(end)

    def forget(self, proof: Hashable | None, end: End) -> None:
        """It has ended by itself."""
        ends = self._open.get(proof, set())
        ends.discard(end)
        if not ends:
            self._open.pop(proof, None)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look the proofs over while this lasts."""
        task = asyncio.create_task(self._look_again_and_again())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _look_again_and_again(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            try:
                await self._look()
            except Exception as error:
                # Whatever holds the proofs is down: nobody is thrown out for that, and the next look makes up for it.
                log.warning("revoked proofs could not be looked up (%s); trying again", type(error).__name__)

    async def _look(self) -> None:
        for proof in await self._revoked(list(self._open)) if self._open else ():
            for end in tuple(self._open.get(proof, ())):
                end()
