"""Helpers for asyncio: tasks that start and are cancelled together, and exceptions of futures that are never awaited."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")


async def cancel_and_wait(tasks: Iterable["asyncio.Future[Any]"]) -> None:
    """Cancel the tasks and wait until they have ended. Their exceptions are dropped."""
    pending = list(tasks)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)


@asynccontextmanager
async def running_tasks(
    *coroutines: Coroutine[Any, Any, Any], name: str | None = None
) -> AsyncIterator[list["asyncio.Task[Any]"]]:
    """Run the coroutines as tasks inside the context; then cancel them and wait until they have ended."""
    tasks = [asyncio.create_task(coroutine, name=name) for coroutine in coroutines]
    try:
        yield tasks
    finally:
        await cancel_and_wait(tasks)


async def read_ahead(items: AsyncGenerator[T, None], max_size: float, get_size: Callable[[T], float]) -> AsyncGenerator[T, None]:
    """The items in order. While the caller waits for something else, the next ones are computed, up to a total size.

    Close it (`aclosing`) where it may not be iterated to its end: it has a task.
    """
    buffer, size = deque[T](), 0.0
    has_items, has_room = asyncio.Event(), asyncio.Event()

    async def fill_buffer() -> None:
        nonlocal size
        async with aclosing(items):
            async for item in items:
                buffer.append(item)
                size += get_size(item)
                has_items.set()
                if size >= max_size:
                    has_room.clear()
                    await has_room.wait()

    async with running_tasks(fill_buffer(), name="read-ahead") as [task]:
        task.add_done_callback(lambda _: has_items.set())
        while buffer or not task.done():
            has_items.clear()
            while buffer:
                item = buffer.popleft()
                size -= get_size(item)
                has_room.set()
                yield item
            if not task.done():
                await has_items.wait()
        await task


def share(awaitable: Awaitable[T]) -> "asyncio.Future[T]":
    """Like `asyncio.shield`, for a task with several waiters: the cancellation of a waiter does not cancel the task.

    An exception is raised to the remaining waiters. Without any, asyncio does not log it as never retrieved.
    """
    work = asyncio.ensure_future(awaitable)
    waiter: asyncio.Future[T] = asyncio.shield(work)
    for future in (work, waiter):
        future.add_done_callback(retrieve_exception)
    return waiter


def retrieve_exception(future: "asyncio.Future[Any]") -> None:
    """A done callback for a future that may fail without being awaited: otherwise asyncio logs the exception."""
    if not future.cancelled():
        future.exception()
