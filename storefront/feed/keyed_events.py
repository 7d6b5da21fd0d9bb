"""Waits for wake-ups that are about something else than a log: a job that moved, work that came. Each may be lost."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Waiting:
    stirred: asyncio.Event = field(default_factory=asyncio.Event)
    count: int = 0


class Stirs:
    """Who waits for which key in this process. `heard` is a listener of `WakeUps`."""

    def __init__(self) -> None:
        self._waiting: dict[str, _Waiting] = {}

    def heard(self, key: str) -> None:
        """Something has become of a key, somebody says."""
        if waiting := self._waiting.pop(key, None):
            waiting.stirred.set()

    async def wait(self, key: str, seconds: float) -> None:
        """Until the next wake-up of a key, and no longer than so many seconds."""
        waiting = self._waiting.setdefault(key, _Waiting())
        waiting.count += 1
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await waiting.stirred.wait()
        finally:
            waiting.count -= 1
            # Keys of jobs are never heard of again: what nobody waits for is not to stay.
            if not waiting.count and self._waiting.get(key) is waiting:
                del self._waiting[key]
