"""Cooperative multitasking: long CPU-bound work yields to other tasks of the event loop."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from time import perf_counter
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# Seconds of work after which the event loop runs other tasks.
TIME_SLICE_SECONDS = 0.004
# Maximum steps of work that are done without a thread, and how many values of an input are checked or converted in a step.
MAX_INLINE_STEPS, VALUES_PER_STEP = 50, 20
# One thread for all of them: the GIL lets one run at a time anyway, and the event loop would wait for each of several in turn.
_threads = ThreadPoolExecutor(1, thread_name_prefix="long-work")


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

    The thread holds the GIL, too, but releases it every few milliseconds. Long work is done one after the other. Nothing else may
    use what the work mutates meanwhile, and it must not wait.
    """
    if steps <= MAX_INLINE_STEPS:
        return work(*args, **kwargs)
    run = partial(copy_context().run, work, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_threads, run)


async def yield_before_freeing(steps: int) -> None:
    """Let other tasks run before the values of long work are freed, which takes some 50 ns for each of them.

    Each layer of a request has its own: together they would hold the event loop for 20 ms.
    """
    if steps > MAX_INLINE_STEPS:
        await asyncio.sleep(0)


def count_input_steps(value: Any) -> int:
    """The steps of work on an input, such as checking or converting all values in it. Counted only until they are long work.

    `value`: JSON, or dataclasses with such values.
    """
    value_count, pending = 0, [value]
    while pending and value_count <= MAX_INLINE_STEPS * VALUES_PER_STEP:
        current = pending.pop()
        if isinstance(current, list):
            values: Collection[Any] = current
        elif isinstance(current, dict):
            values = current.values()
        elif hasattr(type(current), "__dataclass_fields__"):
            values = vars(current).values()
        else:
            continue
        value_count += len(values)
        pending += values
    return math.ceil(value_count / VALUES_PER_STEP)


async def iterate_cooperatively(items: Iterable[T | None]) -> AsyncIterator[T]:
    """The items, computed lazily, with other tasks running between them. None marks a step of work without an item."""
    time_slice = TimeSlice()
    for item in items:
        if item is not None:
            yield item
        await time_slice.yield_if_expired()
