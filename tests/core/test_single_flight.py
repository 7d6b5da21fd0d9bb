"""Single-flight: concurrent callers share one call, results are cached for a time, failures are not."""

import asyncio

import pytest

from storefront.core.single_flight import SingleFlight


class Work:
    """Counts its calls."""

    def __init__(self) -> None:
        self.calls, self.fails, self.go = 0, False, asyncio.Event()

    async def __call__(self) -> int:
        self.calls += 1
        await self.go.wait()
        if self.fails:
            raise ValueError("failed")
        return self.calls


async def test_callers_share_call_and_cached_result() -> None:
    flight, work = SingleFlight(max_entries=10, max_age=60), Work()
    callers = [asyncio.create_task(flight.call("a", work)) for _ in range(3)]
    await asyncio.sleep(0)
    work.go.set()
    assert [await caller for caller in callers] == [1, 1, 1]
    assert await flight.call("a", work) == 1
    assert await flight.call("b", work) == 2


async def test_expired_results_are_dropped() -> None:
    flight, work = SingleFlight(max_entries=10, max_age=0.05), Work()
    work.go.set()
    assert [await flight.call(key, work) for key in "ab"] == [1, 2]
    async with asyncio.timeout(10):
        # Nobody requests them again.
        while flight._calls:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert await flight.call("a", work) == 3


async def test_call_that_outlasts_its_age_is_shared() -> None:
    flight, work = SingleFlight(max_entries=10, max_age=0.01), Work()
    first = asyncio.create_task(flight.call("a", work))
    await asyncio.sleep(0.05)
    second = asyncio.create_task(flight.call("a", work))
    await asyncio.sleep(0)
    work.go.set()
    assert (await first, await second, work.calls) == (1, 1, 1)
    # Its result is too old for later callers.
    assert await flight.call("a", work) == 2


async def test_cancelled_caller_does_not_cancel_others() -> None:
    flight, work = SingleFlight(max_entries=10, max_age=1), Work()
    first, second = (asyncio.create_task(flight.call("a", work)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    work.go.set()
    assert await second == 1
    assert first.cancelled()


async def test_failure_is_raised_to_all_and_not_cached() -> None:
    flight, work = SingleFlight(max_entries=10, max_age=1), Work()
    work.fails = True
    callers = [asyncio.create_task(flight.call("a", work)) for _ in range(2)]
    await asyncio.sleep(0)
    work.go.set()
    for caller in callers:
        with pytest.raises(ValueError, match="failed"):
            await caller
    work.fails = False
    assert await flight.call("a", work) == 2


async def test_oldest_results_are_evicted() -> None:
    flight, work = SingleFlight(max_entries=2, max_age=10), Work()
    work.go.set()
    assert [await flight.call(key, work) for key in "abc"] == [1, 2, 3]
    assert [await flight.call(key, work) for key in "cba"] == [3, 2, 4]
