"""How late a busy machine lets a test run: times that it measures are too long by so much."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

_STEP = 0.02


@dataclass(slots=True)
class Lag:
    """Seconds that this process has waited for its turn so far."""

    seconds: float = 0.0


@asynccontextmanager
async def measured_lag() -> AsyncIterator[Lag]:
    """The lag while this lasts."""
    lag = Lag()

    async def measure() -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(_STEP)
            lag.seconds += max(0.0, time.monotonic() - began - _STEP)

    task = asyncio.create_task(measure())
    try:
        yield lag
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
