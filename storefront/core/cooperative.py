"""Lets others on the event loop have their turn: for long work that is done in the midst of requests."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from time import perf_counter
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# Seconds of work after which whoever waits goes first.
TIME_SLICE_SECONDS = 0.004
# Steps of work that are done at once on the event loop.
MAX_INLINE_STEPS = 50


class TimeSlice:
    """One piece of long work. To be awaited often: it costs nothing but where the turn is over."""

    def __init__(self) -> None:
        self._started_at = perf_counter()

    async def yield_if_expired(self) -> None:
        """Let others go first, if it is their turn."""
        if perf_counter() - self._started_at > TIME_SLICE_SECONDS:
            await asyncio.sleep(0)
            self._started_at = perf_counter()


async def run_in_thread_if_long(steps: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The result of work of so many steps of some 10 to 100 µs each, done in a thread where that is long for the event loop.

    It holds the interpreter there, too, but lets go of it every few milliseconds. What it changes nobody else may use meanwhile.
    """
    if steps <= MAX_INLINE_STEPS:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)


async def iterate_cooperatively(items: Iterable[T | None]) -> AsyncIterator[T]:
    """The items, each made when it is asked for, in turns with whatever else there is to do. None is work without an item yet."""
    time_slice = TimeSlice()
    for item in items:
        if item is not None:
            yield item
        await time_slice.yield_if_expired()
