"""The hub without a server: catch-up, gaps, order, and the cost of a thousand listeners."""

import asyncio
import gc
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import pytest

from storefront.core.db.database import Database
from storefront.core.tasks import cancel_and_wait
from storefront.feed import hub as hubs
from storefront.feed import log
from storefront.feed.hub import Gap, Hub, LogBatch
from storefront.feed.log import GapReason, LogEntry
from tests.factories import count_statements, make_store
from tests.feed.entries import stream_entries

POLL = 0.3


@pytest.fixture
async def store(database: Database) -> str:
    return await make_store(database)


@asynccontextmanager
async def running(database: Database, poll_interval: float = POLL) -> AsyncIterator[Hub]:
    hub = Hub(database, poll_interval)
    async with hub.running():
        yield hub


async def append(database: Database, store: str, count: int = 1) -> int:
    entry = LogEntry(kind="product_updated", entity_id=store, product_id=store, was_visible=True, is_visible=True)
    async with database.transaction() as connection:
        return await log.append_entries(connection, store, [entry] * count)


async def take(entries: AsyncGenerator[Any, None], count: int) -> list[int]:
    async with asyncio.timeout(10):
        return [(await anext(entries)).position for _ in range(count)]


async def gap(hub: Hub, store: str, after: int) -> Gap:
    async with asyncio.timeout(5), aclosing(stream_entries(hub, store, after)) as entries:
        found = await anext(entries)
    assert isinstance(found, Gap), found
    return found


async def start(entries: AsyncGenerator[Any, None]) -> "asyncio.Task[Any]":
    """A task for the next entry, started before there is one."""
    coming: asyncio.Task[Any] = asyncio.create_task(anext(entries))
    await asyncio.sleep(0.1)
    return coming


async def test_catch_up_from_cached_entries_reads_nothing(database: Database, store: str) -> None:
    async with running(database) as hub, aclosing(stream_entries(hub, store, None)) as first:
        coming = await start(first)
        await append(database, store, 20)
        hub.notify(store)
        await coming
        assert await take(first, 19) == list(range(2, 21))
        statements: list[str] = []
        database.observers.append(statements.append)
        async with aclosing(stream_entries(hub, store, 5)) as late:
            assert await take(late, 15) == list(range(6, 21))
        assert [sql for sql in statements if "FROM changes" in sql] == []


async def test_catch_up_from_the_log_continues_live(database: Database, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hubs, "BATCH_ENTRIES", 50)
    await append(database, store, 420)
    async with running(database) as hub, aclosing(stream_entries(hub, store, 0)) as entries:
        assert await take(entries, 420) == list(range(1, 421))
        await append(database, store)
        hub.notify(store)
        assert await take(entries, 1) == [421]


async def test_listeners_catching_up_share_batches(database: Database, store: str) -> None:
    await append(database, store, 420)
    statements: list[str] = []
    database.observers.append(statements.append)
    async with running(database) as hub, AsyncExitStack() as stack:
        positions = range(1, 400, 20)
        listeners = [await stack.enter_async_context(aclosing(stream_entries(hub, store, after))) for after in positions]
        found = await asyncio.gather(*(take(one, 420 - after) for one, after in zip(listeners, positions, strict=True)))
    assert found == [list(range(after + 1, 421)) for after in positions]
    # Five batches, the last of them not full, and a look at what is new.
    assert len([sql for sql in statements if "FROM changes" in sql]) <= 5 + 1


async def test_expired_ahead_or_far_behind_is_a_gap(database: Database, store: str) -> None:
    await append(database, store, 30)
    async with database.transaction() as connection:
        await connection.raw.execute("DELETE FROM changes WHERE config_id = %s AND position <= 10", [store])
    async with running(database) as hub:
        kept, ahead = await gap(hub, store, 3), await gap(hub, store, 31)
        assert (kept.position, ahead.position) == (30, 30)
        assert (kept.reason, ahead.reason) == (GapReason.LOG_EXPIRED, GapReason.DATA_REPLACED)
        async with aclosing(stream_entries(hub, store, 10)) as entries:
            assert await take(entries, 20) == list(range(11, 31))
    async with database.transaction() as connection:
        await connection.raw.execute("UPDATE store_positions SET position = 20000 WHERE config_id = %s", [store])
    async with running(database) as hub:
        behind = await gap(hub, store, 30)
        assert (behind.position, behind.reason) == (20_000, GapReason.TOO_FAR_BEHIND)
    await log.advance_positions(database)
    async with running(database) as hub:
        assert (await gap(hub, store, 30)).reason is GapReason.DATA_REPLACED


async def test_heartbeat_follows_a_moved_log_without_statements(database: Database, store: str) -> None:
    hub = Hub(database, 60, 0.2)
    async with hub.running(), aclosing(hub.stream_batches(store, None)) as batches, asyncio.timeout(10):
        assert await anext(batches) == LogBatch(0)
        await append(database, store, 3)
        hub.notify(store)
        found = [await anext(batches)]
        with count_statements(database, looks=True) as statements:
            while not found[-1].is_heartbeat:
                found.append(await anext(batches))
            assert found[-1].position == 3 and found[0].entries
            # The log has not moved since: there is no other.
            coming = await start(batches)
            await asyncio.sleep(1)
            assert not coming.done()
            await cancel_and_wait([coming])
    assert len([sql for sql in statements if "changes" in sql]) <= 1


async def test_feed_continues_after_a_gap(database: Database, store: str) -> None:
    await append(database, store, 3)
    async with running(database) as hub, aclosing(stream_entries(hub, store, 99)) as entries:
        assert await take(entries, 1) == [3]
        coming = await start(entries)
        await append(database, store)
        hub.notify(store)
        assert (await asyncio.wait_for(coming, 5)).position == 4


async def test_entries_deleted_before_being_read_are_a_gap(database: Database, store: str) -> None:
    await append(database, store, 5)
    async with running(database, 60) as hub, aclosing(stream_entries(hub, store, 0)) as entries:
        assert await take(entries, 5) == [1, 2, 3, 4, 5]
        coming = await start(entries)
        await append(database, store, 5)
        async with database.transaction() as connection:
            await connection.raw.execute("DELETE FROM changes WHERE config_id = %s AND position <= 8", [store])
        hub.notify(store)
        found = await asyncio.wait_for(coming, 5)
        assert isinstance(found, Gap) and found.position == 10
        async with aclosing(stream_entries(hub, store, 8)) as late:
            assert await take(late, 2) == [9, 10]


async def test_entries_stay_in_order_under_concurrent_writes(database: Database, store: str) -> None:
    writes = 40

    async def write(writer: int) -> None:
        for n in range(writes):
            try:
                async with database.transaction() as connection:
                    entry = LogEntry(kind="product_updated", entity_id=store, client_mutation_id=f"{writer}-{n}")
                    await log.append_entries(connection, store, [entry] * (1 + n % 3))
                    if n % 4 == 3:
                        raise ZeroDivisionError
            except ZeroDivisionError:
                pass
            if n % 5:
                hub.notify(store)

    expected = 8 * sum(1 + n % 3 for n in range(writes) if n % 4 != 3)
    async with (
        running(database) as hub,
        aclosing(stream_entries(hub, store, 0)) as one,
        aclosing(stream_entries(hub, store, 0)) as two,
    ):
        listeners = [asyncio.create_task(take(entries, expected)) for entries in (one, two)]
        await asyncio.gather(*(write(n) for n in range(8)))
        assert await asyncio.gather(*listeners) == [list(range(1, expected + 1))] * 2


async def test_lost_wakeups_delay_entries_by_one_poll(database: Database, store: str) -> None:
    async with running(database) as hub, aclosing(stream_entries(hub, store, None)) as entries:
        coming = await start(entries)
        delays: list[float] = []
        for _ in range(5):
            await append(database, store)
            begin = time.perf_counter()
            await asyncio.wait_for(coming, 5)
            delays.append(time.perf_counter() - begin)
            coming = await start(entries)
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)
    assert max(delays) < POLL + 2, delays


async def test_store_deletion_ends_its_streams(database: Database, store: str) -> None:
    await append(database, store)
    async with running(database) as hub, aclosing(stream_entries(hub, store, None)) as entries:
        coming = await start(entries)
        async with database.transaction() as connection:
            await connection.raw.execute("DELETE FROM configs WHERE id = %s", [store])
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(coming, POLL + 2)


async def test_channel_opened_during_a_poll_stays_open(database: Database, store: str) -> None:
    other = await make_store(database)
    for config_id in (store, other):
        await append(database, config_id)
    async with running(database, 0.02) as hub, aclosing(stream_entries(hub, store, None)) as first:
        coming = await start(first)
        asked, go_on = hub._load_heads, asyncio.Event()

        async def slow(config_ids: list[str]) -> dict[str, int]:
            found = await asked(config_ids)
            if len(config_ids) == 1 and config_ids[0] == store:
                await go_on.wait()
            return found

        hub._load_heads = slow  # type: ignore[method-assign]
        await asyncio.sleep(0.1)
        async with aclosing(stream_entries(hub, other, None)) as second:
            late = await start(second)
            go_on.set()
            await asyncio.sleep(0.1)
            assert not late.done(), "the stream of a store that is there has ended"
            await append(database, other)
            assert (await asyncio.wait_for(late, 5)).position == 2
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)


async def test_slow_open_of_a_store_delays_no_other(database: Database, store: str) -> None:
    other = await make_store(database)
    async with running(database) as hub:
        load, go_on = hub._load_heads, asyncio.Event()

        async def load_slowly(config_ids: list[str]) -> dict[str, int]:
            if store in config_ids:
                await go_on.wait()
            return await load(config_ids)

        hub._load_heads = load_slowly  # type: ignore[method-assign]
        async with aclosing(stream_entries(hub, store, 0)) as slow, aclosing(stream_entries(hub, other, 0)) as entries:
            opening = await start(slow)
            await append(database, other)
            assert await take(entries, 1) == [1]
            go_on.set()
            await append(database, store)
            assert (await asyncio.wait_for(opening, 5)).position == 1


async def test_last_listener_leaves_nothing_behind(database: Database, store: str) -> None:
    async with running(database) as hub:
        one, two = stream_entries(hub, store, None), stream_entries(hub, store, None)
        waiting = [await start(entries) for entries in (one, two)]
        follower = hub._follower_tasks[store]
        for entries, coming in zip((one, two), waiting, strict=True):
            assert hub._channels and not follower.done()
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
            await entries.aclose()
        await asyncio.sleep(0)
        assert hub._channels == {} and hub._follower_tasks == {} and follower.done()


async def test_restore_makes_old_positions_a_gap(database: Database, store: str) -> None:
    await append(database, store, 5)
    # Of a restored database this is all that is known; a client was told of the seventh.
    assert await log.advance_positions(database) == 1
    await append(database, store, 4)
    async with running(database) as hub:
        for received in (3, 5, 7):
            assert (await gap(hub, store, received)).position == log.POSITION_LEAP + 9


async def test_thousand_listeners_share_one_read_per_batch(database: Database, store: str) -> None:
    async with running(database, 60) as hub:
        listeners = [stream_entries(hub, store, None) for _ in range(1_000)]
        waiting = [asyncio.create_task(take(entries, 20)) for entries in listeners]
        async with asyncio.timeout(30):
            while hub.stats.listeners < 1_000:  # noqa: ASYNC110  nothing reports it
                await asyncio.sleep(0.02)
        statements: list[str] = []
        database.observers.append(statements.append)
        await append(database, store, 20)
        hub.notify(store)
        assert await asyncio.gather(*waiting) == [list(range(1, 21))] * 1_000
        await asyncio.sleep(0.1)
        # One that finds the twenty, and one that finds that there is no more; both may see a part of them before.
        assert 1 <= len([sql for sql in statements if "FROM changes" in sql]) <= 4
        for entries in listeners:
            await entries.aclose()
        assert hub._channels == {}


async def test_paused_listener_buffers_nothing(database: Database, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hubs, "BATCH_ENTRIES", 20)

    def rows() -> int:
        gc.collect()
        return sum(1 for found in gc.get_objects() if type(found).__name__ == "Row" and hasattr(found, "actor_id"))

    others = rows()
    async with running(database, 60) as hub, aclosing(stream_entries(hub, store, None)) as idle:
        coming = await start(idle)
        await append(database, store)
        hub.notify(store)
        await coming
        for _ in range(30):
            await append(database, store, 100)
        hub.notify(store)
        async with asyncio.timeout(10):
            while hub._channels[store].head < 3_001:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert len(hub._channels[store].recent_entries) == hubs.MAX_RECENT_ENTRIES
        assert rows() <= others + hubs.MAX_RECENT_ENTRIES + 2 * hubs.BATCH_ENTRIES
        # It has lost nothing: what the hub no longer has comes from the log.
        assert await take(idle, 3_000) == list(range(2, 3_002))


async def test_position_from_another_process_is_waited_for(database: Database, store: str) -> None:
    await append(database, store)
    async with running(database, poll_interval=60) as hub, aclosing(stream_entries(hub, store, None)) as first:
        await start(first)
        # Another process commits and tells its client, who comes here before the wake-up does.
        await append(database, store)
        async with aclosing(stream_entries(hub, store, 2)) as second:
            coming = await start(second)
            await append(database, store)
            hub.notify(store)
            assert (await asyncio.wait_for(coming, 5)).position == 3
