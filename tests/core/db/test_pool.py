"""The connection pool: size, waiters, timeouts, broken connections, cancellation."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from storefront.core.db import pool as pools
from storefront.core.db.pipeline import PipelineConnection
from storefront.core.db.pool import ConnectionPool
from storefront.core.errors import Unavailable


class Maker:
    """Connects, and counts how often it was asked to."""

    def __init__(self, url: str) -> None:
        self.url, self.made, self.fails = url, 0, 0
        self.all: list[PipelineConnection] = []

    async def __call__(self) -> PipelineConnection:
        self.made += 1
        if self.made <= self.fails:
            raise psycopg.OperationalError("connection refused")
        self.all.append(await PipelineConnection.connect(self.url))
        return self.all[-1]


@pytest.fixture
async def maker(empty_url: str) -> AsyncIterator[Maker]:
    factory = Maker(empty_url)
    yield factory
    for raw in factory.all:
        await raw.close()


@asynccontextmanager
async def open_pool(
    connect: Callable[[], Awaitable[PipelineConnection]], size: int, waiting: int = 0, seconds: float = 30.0
) -> AsyncIterator[ConnectionPool]:
    pool = ConnectionPool(connect, size, waiting, seconds)
    await pool.open()
    try:
        yield pool
    finally:
        await pool.close()


async def wait_until_started(*tasks: "asyncio.Task[Any]") -> None:
    for _ in range(5):
        await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)


async def test_pool_connects_on_demand_and_reuses_lifo(maker: Maker) -> None:
    async with open_pool(maker, 3) as pool:
        for _ in range(5):
            connection = await pool.acquire()
            pool.release(connection)
        assert maker.made == 1
        lent = [await pool.acquire() for _ in range(3)]
        assert pool.get_stats() == (3, 0, 0) and maker.made == 3 and len(set(map(id, lent))) == 3 and connection in lent
        for raw in lent:
            pool.release(raw)
        assert await pool.acquire() is lent[-1]


async def test_waiters_are_served_in_fifo_order(maker: Maker) -> None:
    async with open_pool(maker, 1) as pool:
        raw, got = await pool.acquire(), list[int]()

        async def use(number: int) -> None:
            taken = await pool.acquire()
            got.append(number)
            await asyncio.sleep(0)
            pool.release(taken)

        tasks = [asyncio.create_task(use(number)) for number in range(20)]
        await wait_until_started(*tasks)
        pool.release(raw)
        await asyncio.gather(*tasks)
        assert got == list(range(20)) and maker.made == 1


async def test_freed_slot_belongs_to_the_first_waiter(maker: Maker) -> None:
    async with open_pool(maker, 1, waiting=1, seconds=1.0) as pool:
        broken = await pool.acquire()
        first = asyncio.create_task(pool.acquire())
        await wait_until_started(first)
        await broken.close()
        pool.release(broken)
        # A caller that comes before the waiter runs must neither overtake it nor have it refused as one too many.
        with pytest.raises(Unavailable):
            await pool.acquire()
        pool.release(await first)
        assert maker.made == 2


async def test_cancelled_waiter_leaks_no_connection(maker: Maker) -> None:
    async with open_pool(maker, 1) as pool:
        raw = await pool.acquire()
        first, second = asyncio.create_task(pool.acquire()), asyncio.create_task(pool.acquire())
        await wait_until_started(first, second)
        first.cancel()
        await asyncio.sleep(0)
        pool.release(raw)
        # The second waiter is cancelled just when it gets the connection.
        second.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        assert await pool.acquire() is raw


async def test_waiters_are_limited_and_time_out(maker: Maker) -> None:
    async with open_pool(maker, 1, waiting=1, seconds=0.2) as pool:
        raw = await pool.acquire()
        first = asyncio.create_task(pool.acquire())
        await wait_until_started(first)
        with pytest.raises(Unavailable):
            await pool.acquire()
        with pytest.raises(Unavailable):
            await first
        pool.release(raw)
        assert await pool.acquire() is raw


async def test_unusable_connection_is_replaced(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_pool(maker, 1) as pool:
        first = await pool.acquire()
        await first.execute("SELECT 1")
        waiting = asyncio.create_task(pool.acquire())
        await wait_until_started(waiting)
        pool.release(first)
        second = await waiting
        assert first.closed and second is not first
        await second.close()
        pool.release(second)
        third = await pool.acquire()
        monkeypatch.setattr(pools, "MAX_LIFETIME_SECONDS", 0.0)
        pool.release(third)
        assert third.closed and not (await pool.acquire()).closed and maker.made == 4


async def test_idle_connections_are_closed(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_pool(maker, 3) as pool:
        lent = [await pool.acquire() for _ in range(3)]
        for raw in lent:
            pool.release(raw)
        monkeypatch.setattr(pools, "MAX_IDLE_SECONDS", 0.0)
        for _ in range(4):
            pool.release(await pool.acquire())
        assert sum(not raw.closed for raw in lent) <= 1


async def test_connecting_is_retried(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "MIN_RETRY_SECONDS", 0.01)
    maker.fails = 3
    async with open_pool(maker, 1):
        assert maker.made == 4
    monkeypatch.setattr(pools, "OPEN_TIMEOUT_SECONDS", 0.2)
    maker.fails = 1_000
    with pytest.raises(Unavailable):
        await ConnectionPool(maker, 1).open()


async def test_closed_pool_raises(maker: Maker) -> None:
    async with open_pool(maker, 2) as pool:
        lent, free = await pool.acquire(), await pool.acquire()
        pool.release(free)
        await pool.acquire()
        waiting = asyncio.create_task(pool.acquire())
        await wait_until_started(waiting)
        await pool.close()
        for take in (waiting, pool.acquire()):
            with pytest.raises(Unavailable):
                await take
        pool.release(lent)
        assert lent.closed
        pool.release(free)


@pytest.mark.parametrize("is_reachable", [True, False], ids=["connecting", "between attempts"])
async def test_closed_pool_ends_attempts_to_connect(maker: Maker, monkeypatch: pytest.MonkeyPatch, is_reachable: bool) -> None:
    monkeypatch.setattr(pools, "MIN_RETRY_SECONDS", 0.1)

    async def connect() -> PipelineConnection:
        if maker.made and is_reachable:
            await asyncio.Event().wait()
        return await maker()

    async with open_pool(connect, 2) as pool:
        lent = await pool.acquire()
        maker.fails = 1_000
        connecting = asyncio.create_task(pool.acquire())
        await asyncio.sleep(0.05)
        await pool.close()
        with pytest.raises(Unavailable):
            await connecting
        pool.release(lent)
        assert pool.get_stats() == (0, 0, 0) and maker.made <= 2


async def test_cancellation_at_the_close_of_the_pool_is_kept(maker: Maker) -> None:
    async with open_pool(maker, 1) as pool:
        lent = await pool.acquire()
        waiting = asyncio.create_task(pool.acquire())
        await wait_until_started(waiting)
        await pool.close()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        pool.release(lent)


async def test_late_connection_is_added_to_the_pool(maker: Maker) -> None:
    async def connect_slowly() -> PipelineConnection:
        if maker.made:
            await asyncio.sleep(0.6)
        return await maker()

    async with open_pool(connect_slowly, 2, seconds=0.5) as pool:
        lent = await pool.acquire()
        with pytest.raises(Unavailable):
            await pool.acquire()
        assert pool.get_stats().connections == 2
        await asyncio.sleep(0.6)
        assert pool.get_stats() == (2, 1, 0)
        pool.release(await pool.acquire())
        pool.release(lent)
        assert maker.made == 2


async def test_free_connections_older_than_a_lost_one_are_evicted(maker: Maker) -> None:
    async with open_pool(maker, 3) as pool:
        old, lost, used = [await pool.acquire() for _ in range(3)]
        pool.release(old)
        lost.statements.lost_since = time.monotonic()
        pool.release(used)
        lost.statements.finish()
        pool.release(lost)
        assert pool.get_stats() == (1, 1, 0) and await pool.acquire() is used
        pool.release(used)
