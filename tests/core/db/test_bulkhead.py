"""The bulkhead: limits per key and in all, fairness between keys, timeouts and cancellation."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack

import pytest

from storefront.core.db.bulkhead import Bulkhead
from storefront.core.errors import Unavailable


class Writers:
    """Writers that hold a slot until they are told to finish."""

    def __init__(self, bulkhead: Bulkhead) -> None:
        self.bulkhead = bulkhead
        self.holding: Counter[str] = Counter()
        self.lookups = 0

    async def find_key(self, key: str) -> str:
        self.lookups += 1
        await asyncio.sleep(0)
        return key

    def start(self, key: str) -> tuple["asyncio.Task[None]", asyncio.Event]:
        finish = asyncio.Event()

        async def write() -> None:
            async with self.bulkhead.hold(lambda: self.find_key(key)):
                self.holding[key] += 1
                try:
                    await finish.wait()
                finally:
                    self.holding[key] -= 1

        return asyncio.create_task(write()), finish


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def test_one_key_holds_at_most_its_limit() -> None:
    writers = Writers(Bulkhead(3, 7, 5))
    tasks = [writers.start("a") for _ in range(10)]
    await settle()
    assert writers.holding["a"] == 3
    for _, finish in tasks:
        finish.set()
    await asyncio.gather(*(task for task, _ in tasks))
    assert not writers.holding.total()


async def test_keys_are_not_looked_up_below_the_limit() -> None:
    writers = Writers(Bulkhead(3, 7, 5))
    tasks = [writers.start("a") for _ in range(3)]
    await settle()
    assert (writers.holding["a"], writers.lookups) == (3, 0)
    for task, finish in tasks:
        finish.set()
        await task


async def test_all_keys_together_hold_at_most_the_total() -> None:
    writers = Writers(Bulkhead(3, 7, 5))
    tasks = [writers.start(key) for key in "abcdef" for _ in range(4)]
    await settle()
    # The last slot is for a key that holds none.
    assert writers.holding.total() == 7
    assert max(writers.holding.values()) == 3
    for _, finish in tasks:
        finish.set()
    await asyncio.gather(*(task for task, _ in tasks))


async def test_keys_without_a_slot_come_first() -> None:
    writers = Writers(Bulkhead(2, 4, 5))
    locked = [writers.start(key) for key in "ab" for _ in range(20)]
    await settle()
    task, finish = writers.start("c")
    await settle()
    assert writers.holding["c"] == 1
    finish.set()
    await task
    other, finish_other = writers.start("d")
    await settle()
    assert writers.holding["d"] == 1
    finish_other.set()
    await other
    for stuck, _ in locked:
        stuck.cancel()
    await asyncio.gather(*(stuck for stuck, _ in locked), return_exceptions=True)


async def test_timeout_and_cancellation_leave_no_slot_taken() -> None:
    bulkhead = Bulkhead(1, 2, 0.05)
    writers = Writers(bulkhead)
    task, finish = writers.start("a")
    await settle()
    waiting, _ = writers.start("a")
    cancelled, _ = writers.start("a")
    await settle()
    cancelled.cancel()
    with pytest.raises(Unavailable, match="Nothing was done"):
        await waiting
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    finish.set()
    await task
    async with AsyncExitStack() as stack:
        for key in "ab":
            await stack.enter_async_context(bulkhead.hold(lambda key=key: writers.find_key(key)))  # type: ignore[misc]


async def test_slot_is_released_in_the_moment_of_a_cancellation() -> None:
    writers = Writers(Bulkhead(1, 2, 5))
    holding, finish = writers.start("a")
    await settle()
    cancelled, _ = writers.start("a")
    following, finish_following = writers.start("a")
    await settle()
    # The future of the waiter is cancelled before its task runs.
    finish.set()
    cancelled.cancel()
    await holding
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    await settle()
    assert writers.holding["a"] == 1
    finish_following.set()
    await following


async def test_failed_lookup_is_the_error_of_its_writer() -> None:
    bulkhead = Bulkhead(1, 2, 1)

    async def fail() -> str:
        raise Unavailable("The database is not available at this moment.")

    writers = Writers(bulkhead)
    task, finish = writers.start("a")
    await settle()
    with pytest.raises(Unavailable):
        async with bulkhead.hold(fail):
            raise AssertionError
    finish.set()
    await task
    async with bulkhead.hold(fail):
        pass
