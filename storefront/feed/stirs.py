"""Waits for wake-ups that are about something else than a log: a job that moved, work that came. Each may be lost."""

import asyncio
from contextlib import suppress


class Stirs:
    """Who waits for which key in this process. `heard` is a listener of `WakeUps`."""

    def __init__(self) -> None:
        self._waiting: dict[str, asyncio.Event] = {}

    def heard(self, key: str) -> None:
        """Something has become of a key, somebody says."""
        if event := self._waiting.pop(key, None):
            event.set()

    async def wait(self, key: str, seconds: float) -> None:
        """Until the next wake-up of a key, and no longer than so many seconds."""
        event = self._waiting.setdefault(key, asyncio.Event())
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()
