"""Events by key, for wake-ups other than of logs: job progress, new work. Wake-ups may be lost: callers also poll."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field


@dataclass(slots=True)
class _KeyWaiters:
    notified: asyncio.Event = field(default_factory=asyncio.Event)
    count: int = 0


class KeyedEvents:
    """The waiters of each key in this process. `notify` is a listener of `PubSub`."""

    def __init__(self) -> None:
        self._waiters_by_key: dict[str, _KeyWaiters] = {}

    def notify(self, key: str) -> None:
        """Wake all waiters of a key."""
        if waiters := self._waiters_by_key.pop(key, None):
            waiters.notified.set()

    async def wait(self, key: str, timeout_seconds: float) -> None:
        """Wait for the next wake-up of a key, at most `timeout_seconds`."""
        waiters = self._waiters_by_key.setdefault(key, _KeyWaiters())
        waiters.count += 1
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_seconds):
                    await waiters.notified.wait()
        finally:
            waiters.count -= 1
            # Job keys are never used again: drop a key without waiters.
            if not waiters.count and self._waiters_by_key.get(key) is waiters:
                del self._waiters_by_key[key]
