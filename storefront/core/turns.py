"""Lets others on the event loop have their turn: for long work that is done in the midst of requests."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from time import perf_counter
from typing import TypeVar

T = TypeVar("T")

# Seconds of work after which whoever waits goes first.
SLICE = 0.004


class Turns:
    """One piece of long work. To be awaited often: it costs nothing but where the turn is over."""

    def __init__(self) -> None:
        self._began = perf_counter()

    async def over(self) -> None:
        """Let others go first, if it is their turn."""
        if perf_counter() - self._began > SLICE:
            await asyncio.sleep(0)
            self._began = perf_counter()


async def in_turns(items: Iterable[T]) -> AsyncIterator[T]:
    """The items, each made when it is asked for, in turns with whatever else there is to do."""
    turns = Turns()
    for item in items:
        yield item
        await turns.over()
