"""Coroutines taken as far as they go without a task for each: those that wait for loaders wait together.

All of them are steps of the task that runs the operation. A resolver that needs a task of its own, such as one that sets a
timeout for itself, has to make one.
"""

import asyncio
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import suppress
from types import CoroutineType, coroutine
from typing import Any, cast

from storefront.execution.completion import Unplanned, class_of, is_awaitable, kinds_of


class Begun:
    """An awaitable of a column that has begun, and what it waits for: a future, or None for the loop's next turn."""

    __slots__ = ("index", "steps", "values", "waits_for")

    def __init__(self, steps: Any, waits_for: Any, values: list[Any], index: int) -> None:
        self.steps, self.waits_for, self.values, self.index = steps, waits_for, values, index

    def is_ready(self) -> bool:
        """Whether what it waits for has come."""
        return self.waits_for is None or bool(self.waits_for.done())

    def is_over(self) -> bool:
        """Go on. Whether that was to the end, and its result now stands in the column."""
        try:
            self.waits_for = self.steps.send(None)
        except StopIteration as end:
            self.values[self.index] = end.value
            return True
        if self.waits_for is not None:
            # What tasks do with a future that they are handed: only then may the next one wait for it too.
            self.waits_for._asyncio_future_blocking = False
        return False


def begin(values: list[Any], begun: list[Begun]) -> None:
    """Take the awaitables of a column as far as they go: results into their places, `begun` gets those that have to wait."""
    if any(map(is_awaitable, kinds_of(values))):
        new = [Begun(_steps(value), None, values, index) for index, value in enumerate(values) if is_awaitable(class_of(value))]
        try:
            begun += [one for one in new if not one.is_over()]
        except BaseException:
            close(new)
            raise


def _steps(value: Any) -> Any:
    return value if type(value) is CoroutineType else value.__await__()


async def finish(begun: list[Begun]) -> None:
    """Take what has begun to its end, in rounds: all that wait, wait together. What one raises is raised as soon as it is."""
    while begun:
        await _until_ready({one.waits_for for one in begun})
        begun[:] = [one for one in begun if not one.is_ready() or not one.is_over()]


async def _until_ready(awaited: set[Any]) -> None:
    if None in awaited:
        await asyncio.sleep(0)
    waiting = [future for future in awaited if future is not None and not future.done()]
    if waiting:
        # Not `await future`: who is cancelled while waiting must not take it from the others.
        await asyncio.wait(waiting, return_when=asyncio.FIRST_EXCEPTION)


def close(begun: Sequence[Begun]) -> None:
    """Give up what has not come to its end: it is cancelled, and has the time to clean up."""
    for one in begun:
        if one.waits_for is not None:
            one.waits_for.add_done_callback(_heard)
            task = asyncio.ensure_future(_cancel(one.steps))
            _CANCELLED.add(task)
            task.add_done_callback(_CANCELLED.discard)
        else:
            # What is to be awaited need not be a generator.
            getattr(one.steps, "close", int)()


# The loop itself keeps tasks only weakly.
_CANCELLED: set["asyncio.Future[None]"] = set()


async def _cancel(steps: Any) -> None:
    # A statement waits until Postgres has heard that it is cancelled. Else its connection would be lost.
    with suppress(Exception, asyncio.CancelledError):
        await cast("Awaitable[Any]", rest_of(steps, None, cancelled=True))


def _heard(future: Any) -> None:
    # What fails when nobody waits for it any more is not a failure that nobody cared for.
    if not future.cancelled():
        future.exception()


def called(function: Callable[[Any], Any], parents: Iterable[Any]) -> list[Any]:
    """What a function makes of each. Where it fails, coroutines that it has made by then are closed."""
    made: list[Any] = []
    try:
        made.extend(map(function, parents))
    except BaseException:
        close([Begun(_steps(value), None, made, 0) for value in made if is_awaitable(class_of(value))])
        raise
    return made


def at_once(value: Any) -> Any:
    """A value that must be there without waiting."""
    if is_awaitable(class_of(value)):
        close([Begun(_steps(value), None, [], 0)])
        raise Unplanned("something to await")
    return value


@coroutine
def rest_of(steps: Any, waits_for: Any, *, cancelled: bool = False) -> Generator[Any, Any, Any]:
    """The rest of a coroutine whose first step is done, as an awaitable; of one that is cancelled, what it does then."""
    step: Callable[[Any], Any] = steps.throw
    argument: Any = asyncio.CancelledError()
    while True:
        if not cancelled:
            try:
                sent = yield waits_for
            except BaseException as error:
                step, argument = steps.throw, error
            else:
                step, argument = steps.send, sent
        cancelled = False
        try:
            waits_for = step(argument)
        except StopIteration as end:
            return end.value
