"""Tasks that several wait for, and items that are computed ahead."""

import asyncio
import gc
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import pytest

from storefront.core.tasks import read_ahead, share
from storefront.graph.context import Context
from tests.client import Client


async def fail() -> None:
    raise ValueError("it failed")


async def test_share_raises_to_those_that_wait() -> None:
    work = asyncio.ensure_future(fail())
    cancelled, waiting = (asyncio.ensure_future(share(work)) for _ in range(2))
    cancelled.cancel()
    with pytest.raises(ValueError, match="it failed"):
        await waiting


async def test_cancelled_waiter_does_not_cancel_shared_work() -> None:
    work = asyncio.ensure_future(asyncio.sleep(0.01, "done"))
    share(work).cancel()
    assert await share(work) == "done"


async def test_failure_without_waiters_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    work = asyncio.ensure_future(fail())
    waiters = [share(work), share(work)]
    waiters[0].cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert work.done()
    del work, waiters
    gc.collect()
    assert not caplog.records


async def test_failed_loads_without_waiters_are_not_logged(shopper: Client, caplog: pytest.LogCaptureFixture) -> None:
    async def load_nothing(_: Context, keys: Sequence[str], number: int) -> list[str]:
        raise ValueError(f"{keys} {number}")

    context = Context(shopper.database, None, None, None, None)  # type: ignore[arg-type]
    loads = [context.load_many(load_nothing, ["a"], number) for number in range(2)]
    await asyncio.sleep(0.01)
    del loads
    context.release()
    gc.collect()
    assert not caplog.records


class Numbers:
    """A source of numbers, which tells how many were computed, and whether it was closed."""

    def __init__(self, count: int, error: Exception | None = None) -> None:
        self.count, self.error = count, error
        self.computed_count, self.is_closed = 0, False

    async def iterate(self) -> AsyncGenerator[int, None]:
        try:
            for number in range(self.count):
                self.computed_count += 1
                yield number
                await asyncio.sleep(0)
            if self.error:
                raise self.error
        finally:
            self.is_closed = True


@pytest.mark.parametrize("max_size", [1, 3, 1_000])
async def test_read_ahead_yields_all_items_in_order(max_size: int) -> None:
    source = Numbers(100)
    assert [number async for number in read_ahead(source.iterate(), max_size, lambda _: 1)] == [*range(100)]


async def test_read_ahead_computes_up_to_its_size_while_the_caller_waits() -> None:
    source = Numbers(100)
    async with aclosing(read_ahead(source.iterate(), 10, lambda _: 1)) as numbers:
        assert await anext(numbers) == 0
        for _ in range(1_000):
            await asyncio.sleep(0)
        assert 10 <= source.computed_count <= 12
    assert source.is_closed


async def test_read_ahead_raises_after_the_items_before_the_error() -> None:
    numbers = read_ahead(Numbers(5, ValueError("it failed")).iterate(), 100, lambda _: 1)
    assert [await anext(numbers) for _ in range(5)] == [*range(5)]
    with pytest.raises(ValueError, match="it failed"):
        await anext(numbers)
