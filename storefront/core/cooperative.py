"""Cooperative multitasking: long CPU-bound work yields to other tasks of the event loop."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from time import perf_counter
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# Seconds of work after which the event loop runs other tasks.
TIME_SLICE_SECONDS = 0.004
# Maximum steps of work that are done without a thread.
MAX_INLINE_STEPS = 50


class TimeSlice:
    """The time slice of one task. Await `yield_if_expired` often: it costs almost nothing before the slice is over."""

    def __init__(self) -> None:
        self._started_at = perf_counter()

    async def yield_if_expired(self) -> None:
        """Let other tasks run if the time slice is over."""
        if perf_counter() - self._started_at > TIME_SLICE_SECONDS:
            await asyncio.sleep(0)
            self._started_at = perf_counter()


async def run_in_thread_if_long(steps: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The result of work of `steps` steps of some 10 to 100 µs each. Long work runs in a thread, off the event loop.

    A thread holds the GIL, too, but releases it every few milliseconds. Nothing else may use what the work mutates meanwhile.
    """
    if steps <= MAX_INLINE_STEPS:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)


async def iterate_cooperatively(items: Iterable[T | None]) -> AsyncIterator[T]:
    """The items, computed lazily, with other tasks running between them. None marks a step of work without an item."""
    time_slice = TimeSlice()
    for item in items:
        if item is not None:
            yield item
        await time_slice.yield_if_expired()
