"""Log positions: freshness, refreshes, and positions that are never newer than the rows cached under them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from storefront.core.cache_dependencies import INHERITED_DEPENDENCY, ParameterDependency, RowDependency
from storefront.core.db.database import DATABASE_ERRORS, Database
from storefront.core.errors import Unavailable
from storefront.core.ids import uuid7
from storefront.feed import log, positions
from storefront.feed.hub import Hub
from storefront.feed.log import LogEntry
from storefront.feed.positions import ABSENT_POSITION, LogPositions, ReadTracker
from storefront.models.row_keys import RowKey
from storefront.queries import configs, products, store_lookup
from tests.factories import count_statements, make_product, make_store
from tests.feed.entries import stream_entries

MAX_AGE = 0.3


@pytest.fixture
async def store(database: Database) -> str:
    return await make_store(database, store_name="0", slug="shop")


async def write(database: Database, store: str) -> int:
    """Move the store's log; the store is named by the position."""
    async with database.transaction() as connection:
        position = await log.append_entries(connection, store, [LogEntry(kind="store_updated", entity_id=store)])
        await connection.raw.execute("UPDATE configs SET store_name = %s WHERE id = %s", [str(position), store])
    return position


@asynccontextmanager
async def running(database: Database, **options: Any) -> AsyncIterator[LogPositions]:
    heads = LogPositions(database, MAX_AGE, **options)
    async with heads.running():
        yield heads


async def test_what_stands_is_asked_once_and_then_known(database: Database, store: str) -> None:
    async with running(database) as heads:
        assert heads.is_fresh({store: 0}) is None
        with count_statements(database, looks=True) as statements:
            assert await heads.revalidate({store: 0})
            assert heads.is_fresh({store: 0}) is True
            assert heads.is_fresh({}) is True
        assert len(statements) == 1
        heads.invalidate(store)
        assert heads.is_fresh({store: 0}) is None


async def test_poll_survives_any_error(
    database: Database, store: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failed = asyncio.Event()

    def fail() -> None:
        failed.set()
        raise RuntimeError("unexpected")

    async with running(database) as heads, asyncio.timeout(10):
        assert await heads.revalidate({store: 0})
        monkeypatch.setattr(positions, "_select_positions", fail)
        await failed.wait()
        monkeypatch.undo()
        refresh_count = heads.refresh_count
        while heads.refresh_count == refresh_count:  # noqa: ASYNC110  it has no event for it
            await asyncio.sleep(0.02)
    assert "reading log positions failed" in caplog.text


async def test_strictly_each_time_is_asked_anew_and_together(database: Database, store: str) -> None:
    async with running(database, strict=True) as heads:
        assert await heads.revalidate({store: 0})
        assert heads.is_fresh({store: 0}) is None
        with count_statements(database, looks=True) as statements:
            assert all(await asyncio.gather(*(heads.revalidate({store: 0}) for _ in range(50))))
        assert len(statements) <= 2
        await write(database, store)
        assert not await heads.revalidate({store: 0})
        # Positions never go back: what is behind is so for good.
        assert heads.is_fresh({store: 0}) is False


async def test_another_process_is_noticed_within_the_interval(database: Database, store: str) -> None:
    async with running(database) as heads:
        assert await heads.revalidate({store: 0})
        await write(database, store)
        async with asyncio.timeout(10):
            while heads.is_fresh({store: 0}):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert heads.is_fresh({store: 0}) is False
        assert heads.is_fresh({store: 1}) is True


async def test_what_cannot_be_looked_at_is_trusted_no_longer_than_the_interval(empty_url: str) -> None:
    async with Database(empty_url) as database, running(database) as heads:
        store = await make_store(database)
        assert await heads.revalidate({store: 0})
        await database._pool.close()
        await asyncio.sleep(MAX_AGE * 1.2)
        assert heads.is_fresh({store: 0}) is None
        assert not await heads.revalidate({store: 0})


async def test_a_database_without_time_ends_neither_looking_nor_following(empty_url: str) -> None:
    """Statements that are given up, and a pool without a connection to spare, are no end but a pause."""
    async with Database(empty_url, size=1, statement_timeout=200, max_waiting=1) as database, Database(empty_url) as other:
        store = await make_store(other)
        hub = Hub(database, MAX_AGE)
        async with running(database) as heads, hub.running():
            entries = stream_entries(hub, store, 0)
            coming = asyncio.create_task(anext(entries))
            # A listener that has not opened its store yet would be refused, which is another case.
            while not hub.stats.listeners:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert await heads.revalidate({store: 0})
            async with other.transaction() as connection:
                await connection.raw.execute("LOCK TABLE store_positions, changes IN ACCESS EXCLUSIVE MODE")
                await asyncio.sleep(1)
                assert heads.is_fresh({store: 0}) is None
                assert not await heads.revalidate({store: 0})
            await write(other, store)
            async with asyncio.timeout(5):
                assert (await coming).position == 1
                while not heads.is_fresh({store: 1}):
                    await heads.revalidate({store: 1})
                    await asyncio.sleep(0.05)
                # It goes on looking by itself.
                await write(other, store)
                while heads.is_fresh({store: 1}) is not False:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            await entries.aclose()


async def test_word_whether_an_answer_holds_is_not_waited_for_for_ever(
    database: Database, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storefront.feed.positions.REVALIDATION_TIMEOUT_SECONDS", 0.3)
    async with running(database) as heads:
        async with database.transaction() as connection:
            await connection.raw.execute("LOCK TABLE store_positions IN ACCESS EXCLUSIVE MODE")
            async with asyncio.timeout(5):
                assert not await heads.revalidate({store: 0})
        assert await heads.revalidate({store: 0})


async def test_what_moves_while_it_is_looked_at_is_not_known_by_that_look(database: Database, store: str) -> None:
    async with running(database) as heads:
        looking = asyncio.create_task(heads.refresh([store]))
        while heads._current_refresh is None:  # noqa: ASYNC110
            await asyncio.sleep(0)
        heads.invalidate(store)
        await looking
        assert heads.get_position(store) is None


async def test_a_store_that_is_deleted_stands_no_more_even_without_a_log(database: Database, store: str) -> None:
    async with running(database) as heads:
        assert await heads.revalidate({store: 0})
        async with database.transaction() as connection:
            await connection.raw.execute("DELETE FROM configs WHERE id = %s", [store])
        assert not await heads.revalidate({store: 0})
        assert heads.get_position(store) == ABSENT_POSITION


async def test_stores_that_nobody_asks_about_are_forgotten(
    database: Database, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storefront.feed.positions.IDLE_SECONDS", 0.1)
    async with running(database) as heads:
        await heads.refresh([store])
        async with asyncio.timeout(5):
            while heads._positions:  # noqa: ASYNC110
                await asyncio.sleep(0.05)


async def test_more_stores_than_can_be_known_are_asked_about_anew(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storefront.feed.positions.MAX_TRACKED_STORES", 5)
    async with running(database) as heads:
        strangers = {str(uuid7()): ABSENT_POSITION for _ in range(8)}
        await heads.refresh(strangers)
        assert len(heads._positions) == 5
        assert heads.is_fresh(strangers) is None


# ------------------------------------------------------------------------------------------------- recording


Run = Callable[[], Awaitable[list[Any]]]


async def read(database: Database, store: str, by: str) -> list[Any]:
    found = await (
        configs.load_store_by_slug(database, "shop", []) if by == "slug" else configs.load_stores_by_ids(database, [store], [])
    )
    return [found] if by == "slug" else list(found)  # type: ignore[arg-type]


@pytest.mark.parametrize("by", ["slug", "id"])
@pytest.mark.parametrize("is_known", [False, True])
@pytest.mark.parametrize("when", ["before", "after", "both"])
async def test_a_write_in_between_is_never_kept_as_older_rows_under_a_newer_position(
    database: Database, store: str, by: str, is_known: bool, when: str
) -> None:
    """The store is named by its position, so that a row tells which one it is from."""
    async with running(database) as heads:
        if is_known:
            await heads.refresh([store])
        record = ReadTracker(heads)
        reads = RowDependency("id") if by == "slug" else ParameterDependency("ids")
        written = 0

        async def run() -> list[Any]:
            nonlocal written
            if when != "after" and written < 2:
                written = await write(database, store)
            rows = await read(database, store, by)
            if when != "before" and written < 2:
                written = await write(database, store)
                # As if somebody else had looked meanwhile.
                await heads.refresh([store])
            return rows

        [row] = await record.run_recorded(reads, {"ids": [store]}, run)
        assert record.dependencies is not None
        assert record.dependencies[store] <= int(row.store_name)
        # It would be kept: what is read once all is quiet stands.
        await heads.refresh([store])
        quiet = ReadTracker(heads)
        [row] = await quiet.run_recorded(reads, {"ids": [store]}, lambda: read(database, store, by))
        assert quiet.dependencies == {store: int(row.store_name)}
        assert heads.is_fresh(quiet.dependencies)


async def test_what_was_touched_first_counts(database: Database, store: str) -> None:
    async with running(database) as heads:
        record = ReadTracker(heads)
        reader = database.with_recorder(record)
        await configs.load_store_by_slug(reader, "shop", [])
        await write(database, store)
        await heads.refresh([store])
        await configs.load_stores_by_ids(reader, [store], [])
        assert record.dependencies == {store: 0}


async def test_reading_what_is_known_costs_no_statement(database: Database, store: str) -> None:
    product = await make_product(database, store)
    async with running(database) as heads:
        for statements_at_most in (6, 3):
            reader = database.with_recorder(ReadTracker(heads))
            with count_statements(database, looks=True) as statements:
                await configs.load_store_by_slug(reader, "shop", [])
                await products.load_products_by_keys(reader, [RowKey(store, product)], [])
                await configs.load_stores_by_ids(reader, [store], [])
            assert len(statements) <= statements_at_most


async def test_what_is_not_there_may_come_up_anywhere(database: Database, store: str) -> None:
    product = await make_product(database, store)
    async with running(database) as heads:
        record = ReadTracker(heads)
        await configs.load_stores_by_ids(database.with_recorder(record), [str(uuid7())], [])
        # A store's key is its own scope, there or not.
        assert record.dependencies is not None
        assert [*record.dependencies.values()] == [ABSENT_POSITION]
        for missing in (
            lambda reader: configs.load_store_by_slug(reader, "nobody", []),
            lambda reader: store_lookup.locate_rows(reader, [product, str(uuid7())]),
        ):
            record = ReadTracker(heads)
            await missing(database.with_recorder(record))
            assert record.dependencies is None


async def test_reads_that_declare_nothing_are_not_vouched_for(database: Database, store: str) -> None:
    async with running(database) as heads:
        record = ReadTracker(heads)
        await configs.count_published_stores(database.with_recorder(record))
        assert record.dependencies is None
        record = ReadTracker(heads)
        async with database.with_recorder(record).transaction():
            pass
        assert record.dependencies is None
        record = ReadTracker(heads)
        await record.run_recorded(INHERITED_DEPENDENCY, {}, lambda: read(database, store, "id"))
        assert record.dependencies is None


async def test_where_positions_cannot_be_read_rows_still_are(empty_url: str, database: Database) -> None:
    store = await make_store(database)
    closed = Database(empty_url)
    async with closed:
        pass
    record = ReadTracker(LogPositions(closed, MAX_AGE))
    with pytest.raises(DATABASE_ERRORS):
        await record._log_positions.refresh([store])
    assert len(await configs.load_stores_by_ids(database.with_recorder(record), [store], [])) == 1
    assert record.dependencies is None


@pytest.mark.parametrize("by", ["slug", "id"])
@pytest.mark.parametrize("fails", [False, True])
async def test_rows_wait_once_and_not_long_for_positions_that_do_not_come(
    database: Database, store: str, by: str, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storefront.feed.positions.REVALIDATION_TIMEOUT_SECONDS", 0.1)
    heads, looks = LogPositions(database, MAX_AGE), []

    async def look(config_ids: set[str]) -> None:
        looks.append(config_ids)
        if fails:
            raise Unavailable("the database is away")
        await asyncio.sleep(60)

    monkeypatch.setattr(heads, "refresh", look)
    record = ReadTracker(heads)
    async with asyncio.timeout(10):
        assert len(await read(database.with_recorder(record), store, by)) == 1
    assert looks == [{store}]
    assert record.dependencies is None
