"""The bulkhead: limits per key and in all, fairness between keys, locked keys, load shedding, timeouts and cancellation."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack

import pytest

from storefront.core.db.bulkhead import Bulkhead
from storefront.core.errors import LockTimeout, Unavailable


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


async def test_each_key_is_looked_up_once() -> None:
    writers = Writers(Bulkhead(3, 7, 5))
    tasks = [writers.start("a") for _ in range(20)]
    await settle()
    # The waiters also need the keys of those that hold a slot, and look them up at the same time.
    assert (writers.holding["a"], writers.lookups) == (3, 20)
    for _, finish in tasks:
        finish.set()
    await asyncio.gather(*(task for task, _ in tasks))


async def test_waiter_outlives_another_that_looks_up_the_same_keys() -> None:
    writers = Writers(Bulkhead(1, 3, 5))
    _, finish = writers.start("a")
    await settle()
    first, second = writers.start("b")[0], writers.start("c")[0]
    # Both look up their own keys, and then that of "a".
    for _ in range(3):
        await asyncio.sleep(0)
    first.cancel()
    await settle()
    assert first.cancelled() and not second.done() and writers.holding == {"a": 1, "c": 1}
    second.cancel()
    finish.set()
    await settle()


async def test_keys_are_not_looked_up_below_the_limit() -> None:
    writers = Writers(Bulkhead(3, 7, 5))
    tasks = [writers.start("a") for _ in range(3)]
    await settle()
    assert (writers.holding["a"], writers.lookups) == (3, 0)
    for task, finish in tasks:
        finish.set()
        await task


async def test_slot_taken_during_a_lookup_counts() -> None:
    bulkhead = Bulkhead(2, 7, 5)
    writers, looked_up = Writers(bulkhead), asyncio.Event()
    first, finish_first = writers.start("a")
    second, finish_second = writers.start("a")
    await settle()

    async def look_up_slowly() -> str:
        await looked_up.wait()
        return "a"

    waiting = asyncio.create_task(bulkhead.hold(look_up_slowly).__aenter__())
    await settle()
    finish_first.set()
    await first
    # It gets the free slot without a lookup, while the keys of the others are looked up.
    third, finish_third = writers.start("a")
    await settle()
    looked_up.set()
    await settle()
    assert writers.holding["a"] == 2 and not waiting.done()
    for finish in (finish_second, finish_third):
        finish.set()
    await asyncio.gather(second, third, waiting)


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


# ---------------------------------------------------------------------------------------------- locked keys


class LockedKeys(Writers):
    """Writers of keys that may be locked: in a patient slot they wait for the lock, in another one they give way."""

    def __init__(self, bulkhead: Bulkhead) -> None:
        super().__init__(bulkhead)
        self.locks: dict[str, asyncio.Event] = {}
        self.written: Counter[str] = Counter()

    async def write(self, key: str) -> None:
        lock = self.locks.get(key)
        async with self.bulkhead.hold(lambda: self.find_key(key)) as slot:
            while lock is not None and not lock.is_set():
                self.holding[key] += 1
                # Long enough for others to come.
                waiting = asyncio.ensure_future(lock.wait())
                await asyncio.wait([waiting], timeout=None if slot.is_patient else 0.01)
                self.holding[key] -= 1
                if not waiting.done():
                    waiting.cancel()
                    await self.bulkhead.give_way(slot)
            self.written[key] += 1


async def test_any_number_of_locked_keys_leaves_slots_to_others() -> None:
    writers = LockedKeys(Bulkhead(3, 7, 60))
    writers.locks = {f"locked {number}": asyncio.Event() for number in range(20)}
    stuck = [asyncio.create_task(writers.write(key)) for key in writers.locks for _ in range(5)]
    await settle()
    await asyncio.wait_for(asyncio.gather(*(writers.write(key) for key in "abcd" for _ in range(10))), 30)
    assert writers.written == dict.fromkeys("abcd", 10)
    async with asyncio.timeout(30):
        while writers.holding.total() > 3:  # noqa: ASYNC110  they give way
            await asyncio.sleep(0.01)
    # They are admitted again as soon as the locks are released.
    for lock in writers.locks.values():
        lock.set()
    await asyncio.wait_for(asyncio.gather(*stuck), 30)
    assert all(writers.written[key] == 5 for key in writers.locks)


async def test_writer_that_gives_way_waits_no_longer_than_others() -> None:
    bulkhead = Bulkhead(1, 3, 0.2)
    writers = Writers(bulkhead)

    async def give_way(key: str) -> None:
        async with bulkhead.hold(lambda: writers.find_key(key)) as slot:
            assert not slot.is_patient
            await bulkhead.give_way(slot)

    patient, finish = writers.start("a")
    await settle()
    with pytest.raises(Unavailable, match="Nothing was done"):
        await give_way("b")
    finish.set()
    await patient
    # Its slot is free.
    async with AsyncExitStack() as stack:
        for key in "cde":
            await stack.enter_async_context(bulkhead.hold(lambda key=key: writers.find_key(key)))  # type: ignore[misc]


async def test_locked_key_needs_a_patient_slot_until_one_of_its_writers_succeeds() -> None:
    bulkhead = Bulkhead(1, 3, 60)
    writers = Writers(bulkhead)

    async def find_whether_patient(key: str) -> bool:
        async with bulkhead.hold(lambda: writers.find_key(key)) as slot:
            return slot.is_patient

    first, finish_first = writers.start("a")
    await settle()
    with pytest.raises(LockTimeout):
        async with bulkhead.hold(lambda: writers.find_key("b")):
            raise LockTimeout("locked")
    waiting = asyncio.create_task(find_whether_patient("b"))
    await settle()
    assert not waiting.done() and not await find_whether_patient("c")
    finish_first.set()
    assert await waiting
    await first
    second, finish_second = writers.start("a")
    await settle()
    assert not await find_whether_patient("b")
    finish_second.set()
    await second


async def test_too_many_waiters_end_the_waits_of_the_most_crowded_key() -> None:
    writers, started = Writers(Bulkhead(1, 2, 60, max_waiting=4)), list[tuple[asyncio.Task[None], asyncio.Event]]()
    for key in "abcccded":
        started.append(writers.start(key))
        await settle()
    # Two hold slots. The last two of `c` ended for `e` and the second of `d`.
    ended = [number for number, (task, _) in enumerate(started) if task.done()]
    assert ended == [3, 4]
    for _, finish in started:
        finish.set()
    results = await asyncio.gather(*(task for task, _ in started), return_exceptions=True)
    assert [number for number, result in enumerate(results) if isinstance(result, Unavailable)] == ended
