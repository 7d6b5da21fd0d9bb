"""Runs many coroutines within one task: each is advanced until it waits, and all of them wait together.

A task per coroutine would cost more than most resolvers. They all run in the task of the operation, so a resolver that needs a
task of its own, such as for `asyncio.timeout`, has to create one.
"""

import asyncio
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import suppress
from types import CoroutineType, coroutine
from typing import Any, cast

from storefront.core.tasks import retrieve_exception
from storefront.execution.completion import Unsupported, get_class, get_classes, is_awaitable_class


class PendingCoroutine:
    """A started awaitable of a column, and what it waits for: a future, or None for the next iteration of the event loop."""

    __slots__ = ("awaited", "coro", "index", "values")

    def __init__(self, coro: Any, awaited: Any, values: list[Any], index: int) -> None:
        self.coro, self.awaited, self.values, self.index = coro, awaited, values, index

    def is_ready(self) -> bool:
        """Whether it can be advanced."""
        return self.awaited is None or bool(self.awaited.done())

    def advance(self) -> bool:
        """Run it until it waits again. Returns whether it has ended; then its result is in the column."""
        try:
            self.awaited = self.coro.send(None)
        except StopIteration as end:
            self.values[self.index] = end.value
            return True
        if self.awaited is not None:
            # Tasks reset this flag of a future that a coroutine yields: only then can another coroutine await it.
            self.awaited._asyncio_future_blocking = False
        return False


def start_awaitables(values: list[Any], pending: list[PendingCoroutine]) -> None:
    """Start the awaitables of a column. Results replace them in `values`; those that have to wait are added to `pending`."""
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
    """Run the pending coroutines to their end, in rounds. Raises the first exception of any of them."""
    while pending:
        await _wait_until_ready({entry.awaited for entry in pending})
        pending[:] = [entry for entry in pending if not entry.is_ready() or not entry.advance()]


async def _wait_until_ready(futures: set[Any]) -> None:
    if None in futures:
        await asyncio.sleep(0)
    waiting = [future for future in futures if future is not None and not future.done()]
    if waiting:
        # Not `await future`: a cancelled operation must not cancel a future that other operations await.
        await asyncio.wait(waiting, return_when=asyncio.FIRST_EXCEPTION)


def cancel_all(pending: Sequence[PendingCoroutine]) -> None:
    """Cancel coroutines that have not ended. Their cleanup runs in background tasks."""
    for entry in pending:
        if entry.awaited is not None:
            entry.awaited.add_done_callback(retrieve_exception)
            task = asyncio.ensure_future(_run_cancelled(entry.coro))
            _CLEANUP_TASKS.add(task)
            task.add_done_callback(_CLEANUP_TASKS.discard)
        else:
            # An awaitable need not be a generator, and then has no `close`.
            getattr(entry.coro, "close", int)()


# The event loop holds only weak references to tasks.
_CLEANUP_TASKS: set["asyncio.Future[None]"] = set()


async def _run_cancelled(coro: Any) -> None:
    # A statement waits until its cancel request has reached Postgres; otherwise its connection would be lost.
    with suppress(Exception, asyncio.CancelledError):
        await cast("Awaitable[Any]", resume_coroutine(coro, None, cancelled=True))


def call_each(function: Callable[[Any], Any], parents: Iterable[Any]) -> list[Any]:
    """Call a function with each parent. If it raises, the coroutines that it has returned so far are closed."""
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
    """The value itself. Raises Unsupported for an awaitable, which is closed."""
    if is_awaitable_class(get_class(value)):
        cancel_all([PendingCoroutine(_get_coroutine(value), None, [], 0)])
        raise Unsupported("an awaitable")
    return value


@coroutine
def resume_coroutine(coro: Any, awaited: Any, *, cancelled: bool = False) -> Generator[Any, Any, Any]:
    """The rest of a started coroutine, as an awaitable. If `cancelled`, CancelledError is thrown into it first."""
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
