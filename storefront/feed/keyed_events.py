"""Waits for wake-ups that are about something else than a log: a job that moved, work that came. Each may be lost."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field


@dataclass(slots=True)
class _KeyWaiters:
    notified: asyncio.Event = field(default_factory=asyncio.Event)
    count: int = 0


class KeyedEvents:
    """Who waits for which key in this process. `heard` is a listener of `WakeUps`."""

    def __init__(self) -> None:
        self._waiters_by_key: dict[str, _KeyWaiters] = {}

    def notify(self, key: str) -> None:
        """Something has become of a key, somebody says."""
        if waiters := self._waiters_by_key.pop(key, None):
            waiters.notified.set()

    async def wait(self, key: str, timeout_seconds: float) -> None:
        """Until the next wake-up of a key, and no longer than so many seconds."""
        waiters = self._waiters_by_key.setdefault(key, _KeyWaiters())
        waiters.count += 1
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_seconds):
                    await waiters.notified.wait()
        finally:
            waiters.count -= 1
            # Keys of jobs are never heard of again: what nobody waits for is not to stay.
            if not waiters.count and self._waiters_by_key.get(key) is waiters:
                del self._waiters_by_key[key]
