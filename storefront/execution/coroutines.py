"""Coroutines taken as far as they go without a task for each: those that wait for loaders wait together.

All of them are steps of the task that runs the operation. A resolver that needs a task of its own, such as one that sets a
timeout for itself, has to make one.
"""

import asyncio
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import suppress
from types import CoroutineType, coroutine
from typing import Any, cast

from storefront.execution.completion import Unsupported, get_class, get_classes, is_awaitable_class


class PendingCoroutine:
    """An awaitable of a column that has begun, and what it waits for: a future, or None for the loop's next turn."""

    __slots__ = ("awaited", "coro", "index", "values")

    def __init__(self, coro: Any, awaited: Any, values: list[Any], index: int) -> None:
        self.coro, self.awaited, self.values, self.index = coro, awaited, values, index

    def is_ready(self) -> bool:
        """Whether what it waits for has come."""
        return self.awaited is None or bool(self.awaited.done())

    def advance(self) -> bool:
        """Go on. Whether that was to the end, and its result now stands in the column."""
        try:
            self.awaited = self.coro.send(None)
        except StopIteration as end:
            self.values[self.index] = end.value
            return True
        if self.awaited is not None:
            # What tasks do with a future that they are handed: only then may the next one wait for it too.
            self.awaited._asyncio_future_blocking = False
        return False


def start_awaitables(values: list[Any], pending: list[PendingCoroutine]) -> None:
    """Take the awaitables of a column as far as they go: results into their places, `begun` gets those that have to wait."""
    if any(map(is_awaitable_class, get_classes(values))):
        created = [
            PendingCoroutine(_get_coroutine(value), None, values, index)
            for index, value in enumerate(values)
            if is_awaitable_class(get_class(value))
        ]
        try:
            pending += [entry for entry in created if not entry.advance()]
        except BaseException:
            cancel_all(created)
            raise


def _get_coroutine(value: Any) -> Any:
    return value if type(value) is CoroutineType else value.__await__()


async def finish_all(pending: list[PendingCoroutine]) -> None:
    """Take what has begun to its end, in rounds: all that wait, wait together. What one raises is raised as soon as it is."""
    while pending:
        await _wait_until_ready({entry.awaited for entry in pending})
        pending[:] = [entry for entry in pending if not entry.is_ready() or not entry.advance()]


async def _wait_until_ready(futures: set[Any]) -> None:
    if None in futures:
        await asyncio.sleep(0)
    waiting = [future for future in futures if future is not None and not future.done()]
    if waiting:
        # Not `await future`: who is cancelled while waiting must not take it from the others.
        await asyncio.wait(waiting, return_when=asyncio.FIRST_EXCEPTION)


def cancel_all(pending: Sequence[PendingCoroutine]) -> None:
    """Give up what has not come to its end: it is cancelled, and has the time to clean up."""
    for entry in pending:
        if entry.awaited is not None:
            entry.awaited.add_done_callback(_retrieve_exception)
            task = asyncio.ensure_future(_run_cancelled(entry.coro))
            _CLEANUP_TASKS.add(task)
            task.add_done_callback(_CLEANUP_TASKS.discard)
        else:
            # What is to be awaited need not be a generator.
            getattr(entry.coro, "close", int)()


# The loop itself keeps tasks only weakly.
_CLEANUP_TASKS: set["asyncio.Future[None]"] = set()


async def _run_cancelled(coro: Any) -> None:
    # A statement waits until Postgres has heard that it is cancelled. Else its connection would be lost.
    with suppress(Exception, asyncio.CancelledError):
        await cast("Awaitable[Any]", resume_coroutine(coro, None, cancelled=True))


def _retrieve_exception(future: Any) -> None:
    # What fails when nobody waits for it any more is not a failure that nobody cared for.
    if not future.cancelled():
        future.exception()


def call_each(function: Callable[[Any], Any], parents: Iterable[Any]) -> list[Any]:
    """What a function makes of each. Where it fails, coroutines that it has made by then are closed."""
    results: list[Any] = []
    try:
        results.extend(map(function, parents))
    except BaseException:
        cancel_all(
            [
                PendingCoroutine(_get_coroutine(value), None, results, 0)
                for value in results
                if is_awaitable_class(get_class(value))
            ]
        )
        raise
    return results


def require_immediate(value: Any) -> Any:
    """A value that must be there without waiting."""
    if is_awaitable_class(get_class(value)):
        cancel_all([PendingCoroutine(_get_coroutine(value), None, [], 0)])
        raise Unsupported("something to await")
    return value


@coroutine
def resume_coroutine(coro: Any, awaited: Any, *, cancelled: bool = False) -> Generator[Any, Any, Any]:
    """The rest of a coroutine whose first step is done, as an awaitable; of one that is cancelled, what it does then."""
    resume: Callable[[Any], Any] = coro.throw
    argument: Any = asyncio.CancelledError()
    while True:
        if not cancelled:
            try:
                received = yield awaited
            except BaseException as error:
                resume, argument = coro.throw, error
            else:
                resume, argument = coro.send, received
        cancelled = False
        try:
            awaited = resume(argument)
        except StopIteration as end:
            return end.value
