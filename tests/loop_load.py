"""The load of the event loop, in CPU seconds of its thread: what other processes of a busy machine take does not count.

What the server promises (50 ms of CPU per hostile request, 20 ms in one piece) is measured by `python -m benchmarks hostile` on a
quiet machine. Cores and caches that are shared with other tests cost three times as much, so tests allow a multiple of it:
what they find is work that grows with the input, which takes from half a second to many.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

MAX_CPU_SECONDS = 0.15
MAX_STALL_SECONDS = 0.1

_STEP_SECONDS = 0.001


@dataclass(slots=True)
class LoopLoad:
    """CPU seconds of the loop's thread: in total, and the most between two turns of a task that is always due (a stall)."""

    seconds: float = 0.0
    longest_stall_seconds: float = 0.0


@asynccontextmanager
async def measured_load() -> AsyncIterator[LoopLoad]:
    """The load while the context lasts. What runs in other threads, such as clients, does not count."""
    load, started_at = LoopLoad(), time.thread_time()

    async def measure() -> None:
        while True:
            before = time.thread_time()
            await asyncio.sleep(_STEP_SECONDS)
            load.longest_stall_seconds = max(load.longest_stall_seconds, time.thread_time() - before)

    task = asyncio.create_task(measure())
    try:
        yield load
    finally:
        # The work that has just ended may be the longest: one more turn.
        await asyncio.sleep(2 * _STEP_SECONDS)
        load.seconds = time.thread_time() - started_at
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
