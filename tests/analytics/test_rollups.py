"""Rollups equal a recount of all events: with late and repeated events, concurrent rollups, and kills."""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from alembic import command

from storefront.analytics.commands import refresh_popularity, track_events
from storefront.analytics.rollups import maintain_partitions, roll_up
from storefront.core.db.database import Database
from storefront.core.db.migrations import build_config, connect
from storefront.core.ids import uuid7
from storefront.core.net.client_info import ClientInfo
from storefront.queries.rollups import GRAIN_ORIGIN, GRAINS_SECONDS, split_span
from storefront.writes.field_errors import MutationRejected
from tests.analytics.counting import RIGHT, count_for_ever, differences
from tests.factories import insert, make_product, make_store
from tests.forks import FORK_SERVER

KINDS = "page_view", "product_click", "add_to_cart", "purchase", "search", "newsletter"
PEOPLE = ClientInfo({"user-agent": "Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0"}, "203.0.113.7")
BOT = ClientInfo({"user-agent": "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"})


def draw_events(rng: random.Random, products: list[str], number: int) -> list[dict[str, Any]]:
    """Events of few sessions in random order: the first event of a session may arrive last."""
    now = datetime.now(UTC)
    return [
        {
            "clientEventId": str(uuid4()),
            "event": rng.choice(KINDS),
            "properties": rng.choice([{}, {"productId": rng.choice(products)}]),
            "sessionId": rng.choice([None, f"session {rng.randrange(60)}"]),
            "utmSource": rng.choice([None, "news", "ad"]),
            "utmMedium": rng.choice([None, "email"]),
            "referrer": rng.choice([None, "https://search.example/?q=1"]),
            "timestamp": (now - timedelta(days=rng.choice([0, 0, 0, 6]) * rng.random(), seconds=rng.random())).isoformat(),
        }
        for _ in range(number)
    ]


async def fetch_value(database: Database, sql: str, *values: object) -> Any:
    async with database.transaction() as connection:
        [(value,)] = await (await connection.raw.execute(sql.encode(), values)).fetchall()
        return value


async def count_queued(database: Database) -> int:
    return int(await fetch_value(database, "SELECT count(*) FROM analytics_queue"))


async def make_shops(database: Database) -> list[tuple[str, list[str]]]:
    """Two stores with three products each."""
    stores = [await make_store(database) for _ in range(2)]
    return [(store, [await make_product(database, store) for _ in range(3)]) for store in stores]


# ------------------------------------------------------------------------------------------------- counted


async def test_incremental_rollup_equals_single_rollup(database: Database) -> None:
    rng, stores = random.Random(1), await make_shops(database)
    for n in range(40):
        store, products = rng.choice(stores)
        batch = draw_events(rng, products, rng.choice([1, 7, 100]))
        await track_events(database, store, batch, rng.choice([PEOPLE, PEOPLE, BOT]), consent=True)
        if n % 3 == 0:
            await track_events(database, store, batch, PEOPLE, consent=True)
        if n % 4 == 0:
            assert await roll_up(database) > 0
            assert await differences(database) == RIGHT
    await roll_up(database)
    assert (await differences(database), await count_queued(database)) == (RIGHT, 0)
    assert await roll_up(database) == 0


async def test_session_moves_to_late_first_event(database: Database) -> None:
    [(store, [product, *_]), _] = await make_shops(database)
    now = datetime.now(UTC)
    for hours, kind, source in (
        (0, "add_to_cart", "c"),
        (2, "product_click", "b"),
        (30, "page_view", "a"),
        (29, "purchase", "d"),
    ):
        event = {"event": kind, "sessionId": "s", "utmSource": source, "timestamp": (now - timedelta(hours=hours)).isoformat()}
        await track_events(database, store, [event | {"properties": {"productId": product}}], PEOPLE, consent=True)
        await roll_up(database)
        assert await differences(database) == RIGHT
    assert await fetch_value(database, "SELECT sum(sessions)::int FROM analytics_totals WHERE grain = 900") == 1
    assert await fetch_value(database, "SELECT source FROM analytics_sessions") == "a"
    assert await fetch_value(database, "SELECT count(*) FROM analytics_sources WHERE grain = 900 AND sessions > 0") == 1


async def test_events_inserted_by_sql_are_counted(database: Database) -> None:
    [(store, [product, *_]), _] = await make_shops(database)
    await insert(database, "analytics_events", config_id=store, event="product_click", properties={"productId": product})
    async with database.transaction() as connection:
        await connection.raw.execute(
            """INSERT INTO analytics_events (id, config_id, event, session_id, timestamp)
            SELECT gen_random_uuid(), %s, 'page_view', 's' || n %% 70, now() - n * interval '1 hour'
            FROM generate_series(1, 2500) AS n""",
            [store],
        )
    assert await count_queued(database) == 4
    await roll_up(database)
    assert await differences(database) == RIGHT


async def test_queue_orders_events_by_time(database: Database) -> None:
    [(store, _), (other, _)] = await make_shops(database)
    async with database.transaction() as connection:
        await connection.raw.execute(
            """INSERT INTO analytics_events (id, config_id, event, timestamp)
            SELECT gen_random_uuid(), store, 'page_view', now() - random() * interval '1 hour'
            FROM unnest(%s::uuid[]) AS store, generate_series(1, 2500)""",
            [[store, other]],
        )
        queue = await connection.raw.execute("SELECT config_id::text, moments FROM analytics_queue ORDER BY id")
        rows = await queue.fetchall()
    # Compared as timestamps: their text omits trailing zeros.
    waiting = {name: [datetime.fromisoformat(one) for row in rows if row[0] == name for one in row[1]] for name in (store, other)}
    assert [len(moments) for moments in waiting.values()] == [2500, 2500]
    assert all(moments == sorted(moments) for moments in waiting.values())


async def test_uncommitted_events_are_counted_after_commit(database: Database) -> None:
    [(store, products), _] = await make_shops(database)
    async with database.transaction() as slow:
        await slow.raw.execute(
            "INSERT INTO analytics_events (id, config_id, event) VALUES (gen_random_uuid(), %s, 'page_view')", [store]
        )
        # These arrive later and are counted first.
        await track_events(database, store, draw_events(random.Random(2), products, 50), PEOPLE, consent=True)
        await roll_up(database)
        assert await differences(database) == RIGHT
    assert await differences(database) != RIGHT
    await roll_up(database)
    assert await differences(database) == RIGHT


async def test_rolled_back_events_are_not_counted(database: Database) -> None:
    [(store, _), _] = await make_shops(database)
    async with database.transaction() as connection:
        await connection.raw.execute(
            "INSERT INTO analytics_events (id, config_id, event) VALUES (gen_random_uuid(), %s, 'page_view')", [store]
        )
        raise psycopg.Rollback
    assert await roll_up(database) == 0


async def test_concurrent_rollups_count_once(empty_url: str, database: Database) -> None:
    rng, stores = random.Random(3), await make_shops(database)

    async def send() -> None:
        for _ in range(15):
            store, products = rng.choice(stores)
            await track_events(database, store, draw_events(rng, products, 40), PEOPLE, consent=True)

    async def count() -> None:
        async with Database(empty_url, size=1) as own:
            for _ in range(20):
                await roll_up(own, wait=rng.random() < 0.5)

    await asyncio.gather(*(send() for _ in range(4)), *(count() for _ in range(4)))
    await roll_up(database, wait=True)
    assert (await differences(database), await count_queued(database)) == (RIGHT, 0)


async def test_deleting_store_deletes_its_counts(database: Database) -> None:
    [(store, products), (other, _)] = await make_shops(database)
    for counted in (True, False):
        await track_events(database, store, draw_events(random.Random(4), products, 50), PEOPLE, consent=True)
        if counted:
            await roll_up(database)
    await track_events(database, other, [{"event": "page_view"}], PEOPLE, consent=True)
    async with database.transaction() as connection:
        await connection.raw.execute("DELETE FROM configs WHERE id = %s", [store])
    await roll_up(database)
    assert await differences(database) == RIGHT
    assert await fetch_value(database, "SELECT count(DISTINCT config_id) FROM analytics_totals") == 1


async def test_events_require_existing_store(empty_url: str, database: Database) -> None:
    [(store, products), (other, _)] = await make_shops(database)
    add = "INSERT INTO analytics_events (id, config_id, event) VALUES (gen_random_uuid(), %s, 'page_view')"
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        async with database.transaction() as connection:
            await connection.raw.execute(add.encode(), [str(uuid7())])
    await track_events(database, other, [{"event": "page_view"}], PEOPLE, consent=True)

    async def delete() -> None:
        async with Database(empty_url, size=1) as own, own.transaction() as connection:
            await connection.raw.execute("DELETE FROM configs WHERE id = %s", [store])

    # Deleting a store waits for concurrent inserts of its events, and deletes them as well.
    async with database.transaction() as connection:
        await connection.raw.execute(add.encode(), [store])
        deletion = asyncio.create_task(delete())
        await asyncio.sleep(0.3)
        assert not deletion.done()
    await deletion
    assert await fetch_value(database, "SELECT array_agg(DISTINCT config_id::text) FROM analytics_events") == [other]
    with pytest.raises(MutationRejected):
        await track_events(database, store, draw_events(random.Random(13), products, 5), PEOPLE, consent=True)


async def test_popularity_is_computed_from_rollups(database: Database) -> None:
    [(store, [liked, wanted, _]), _] = await make_shops(database)
    events = [{"event": "product_click", "properties": {"productId": liked}}] * 3
    events += [{"event": "add_to_cart", "properties": {"productId": wanted}}] * 2
    await track_events(database, store, events, PEOPLE, consent=True)
    assert await refresh_popularity(database) == 0
    await roll_up(database)
    assert await refresh_popularity(database) == 2
    scores = [await fetch_value(database, "SELECT popularity FROM products WHERE id = %s", id_) for id_ in (liked, wanted)]
    assert scores == [3, 10]
    # One log entry per store, however many products changed, and none for unchanged stores.
    assert await fetch_value(database, "SELECT array_agg(position) FROM store_positions") == [1]
    assert await fetch_value(database, "SELECT kind FROM changes WHERE config_id = %s", store) == "popularity_refreshed"
    assert await refresh_popularity(database) == 0
    assert await fetch_value(database, "SELECT count(*) FROM changes") == 1


# -------------------------------------------------------------------------------------------------- killed


@asynccontextmanager
async def sending_events(database: Database, url: str, rng: random.Random) -> AsyncIterator[list[int]]:
    """Concurrent events, some late or repeated, some in slow transactions."""
    stores, sent, over = await make_shops(database), [0], asyncio.Event()

    async def shoppers() -> None:
        while not over.is_set():
            store, products = rng.choice(stores)
            batch = draw_events(rng, products, 60)
            again = [{**event, "timestamp": datetime.now(UTC).isoformat()} for event in batch[:20]]
            await asyncio.gather(
                *(track_events(database, store, events, PEOPLE, consent=True) for events in (batch, batch[::-1], again))
            )
            sent[0] += len(batch)
            await asyncio.sleep(0.01)

    async def loiterers() -> None:
        while not over.is_set():
            async with await psycopg.AsyncConnection.connect(url) as connection:
                await connection.execute(
                    """INSERT INTO analytics_events (id, config_id, event, session_id)
                    SELECT gen_random_uuid(), %s, 'page_view', 'session ' || n FROM generate_series(1, 20) AS n""",
                    [rng.choice(stores)[0]],
                )
                await asyncio.sleep(rng.random() / 2)
                await (connection.commit() if rng.random() < 0.7 else connection.rollback())

    tasks = [asyncio.create_task(work()) for work in (shoppers, shoppers, loiterers)]
    try:
        yield sent
    finally:
        over.set()
        await asyncio.gather(*tasks)


@pytest.mark.parametrize("kills", [50, pytest.param(1_000, marks=pytest.mark.soak)])
async def test_counts_survive_repeated_kills(empty_url: str, database: Database, kills: int) -> None:
    rng = random.Random(5)
    struck = 0
    async with sending_events(database, empty_url, rng) as sent:
        for _ in range(kills):
            counter = FORK_SERVER.Process(target=count_for_ever, args=(empty_url,))
            counter.start()
            await asyncio.sleep(0.04 + 0.1 * rng.random())
            # The holder of the lock is in the middle of a rollup.
            struck += await fetch_value(database, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 7312030")
            assert counter.pid and counter.is_alive()
            os.kill(counter.pid, signal.SIGKILL)
            await asyncio.to_thread(counter.join)
    assert sent[0] > 2_000 and struck > 5, (sent, struck)
    # Backends of killed clients may still be running.
    await roll_up(database, wait=True)
    assert (await differences(database), await count_queued(database)) == (RIGHT, 0)


# -------------------------------------------------------------------------------------------------- pieces


def test_span_is_split_into_few_grains() -> None:
    rng = random.Random(6)
    for _ in range(2_000):
        start = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(microseconds=rng.randrange(10**14))
        start -= (start - GRAIN_ORIGIN) % timedelta(seconds=rng.choice([1, 60, 900, 3_600, 86_400]))
        end = start + timedelta(seconds=rng.choice([1, 900, 86_400, 10**6, 3 * 10**7]) * (0.01 + rng.random()))
        most = rng.choice(GRAINS_SECONDS)
        found = split_span(start, end, max_grain=most)
        assert (found[0].start, found[-1].stop) == (start, end)
        assert all(before.stop == piece.start for before, piece in pairwise(found))
        for piece in found:
            assert piece.grain <= most and piece.start < piece.stop
            if piece.grain:
                assert not any((moment - GRAIN_ORIGIN) % timedelta(seconds=piece.grain) for moment in (piece.start, piece.stop))
            else:
                assert piece.stop - piece.start < 2 * timedelta(seconds=GRAINS_SECONDS[0])
        assert len(found) <= 2 * len(GRAINS_SECONDS) + 1


# -------------------------------------------------------------------------------------------------- months


async def partitions(database: Database) -> list[str]:
    async with database.transaction() as connection:
        found = await connection.raw.execute(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'analytics_events'::regclass ORDER BY 1"
        )
        return [row[0] for row in await found.fetchall()]


def month(ahead: int) -> str:
    number = datetime.now(UTC).year * 12 + datetime.now(UTC).month - 1 + ahead
    return f"analytics_events_{number // 12}_{number % 12 + 1:02}"


async def test_future_partitions_are_created(database: Database) -> None:
    assert {month(n) for n in range(-1, 4)} <= {*await partitions(database)}
    async with database.transaction() as connection:
        await connection.raw.execute(f"DROP TABLE {month(2)}".encode())
    assert await maintain_partitions(database, days=400) == 1
    assert month(2) in await partitions(database)
    assert await maintain_partitions(database, days=400) == 0


async def test_new_partition_takes_over_default_rows(database: Database) -> None:
    [(store, products), _] = await make_shops(database)
    async with database.transaction() as connection:
        await connection.raw.execute(f"DROP TABLE {month(0)}".encode())
    await track_events(database, store, draw_events(random.Random(7), products, 30), PEOPLE, consent=True)
    await roll_up(database)
    before = await fetch_value(database, "SELECT md5(string_agg(e::text, '' ORDER BY id)) FROM analytics_events AS e")
    assert await fetch_value(database, "SELECT count(*) FROM analytics_events_other") > 0
    assert await maintain_partitions(database, days=400) == 1
    assert (
        await fetch_value(
            database, """SELECT count(*) FROM analytics_events_other WHERE "timestamp" >= date_trunc('month', now())"""
        )
        == 0
    )
    assert await fetch_value(database, "SELECT md5(string_agg(e::text, '' ORDER BY id)) FROM analytics_events AS e") == before
    # They were counted before, and are not counted again.
    assert await roll_up(database) == 0
    assert await differences(database) == RIGHT


async def test_counted_old_partitions_are_dropped(database: Database) -> None:
    [(store, _), _] = await make_shops(database)
    await fetch_value(database, "SELECT storefront_event_partitions(now() - interval '5 months', now())")
    for days in (0, 40, 100, 1_000):
        at = datetime.now(UTC) - timedelta(days=days)
        await insert(database, "analytics_events", config_id=store, event="page_view", session_id=f"{days}", timestamp=at)
    assert await maintain_partitions(database, days=31) == 0
    await roll_up(database)
    assert await maintain_partitions(database, days=31) >= 3
    kept = await fetch_value(database, "SELECT array_agg(session_id ORDER BY session_id) FROM analytics_events")
    assert kept[0] == "0" and not {"100", "1000"} & {*kept}
    assert await fetch_value(database, "SELECT array_agg(session_id ORDER BY session_id) FROM analytics_sessions") == kept
    # The counts stay, except for minutes.
    assert await fetch_value(database, "SELECT sum(page_views)::int FROM analytics_totals WHERE grain = 900") == 4
    for table in ("totals", "sources"):
        assert await fetch_value(database, f"SELECT count(*)::int FROM analytics_{table} WHERE grain = 60") == len(kept)


def step(url: str, to: str) -> None:
    with connect(url) as connection:
        getattr(command, "downgrade" if to != "head" else "upgrade")(build_config(connection), to)
        connection.commit()


async def test_migration_adds_minute_counts(empty_url: str, database: Database) -> None:
    [(store, products), (other, _)] = await make_shops(database)
    await track_events(database, store, draw_events(random.Random(10), products, 300), PEOPLE, consent=True)
    await track_events(database, other, draw_events(random.Random(11), products, 50), BOT, consent=True)
    await roll_up(database)
    assert await differences(database) == RIGHT
    # These are not counted yet; some belong to counted sessions.
    await track_events(database, store, draw_events(random.Random(12), products, 100), PEOPLE, consent=True)
    await asyncio.to_thread(step, empty_url, "20261126_variants_in_order")
    assert await fetch_value(database, "SELECT min(grain) FROM analytics_products") == 900
    await asyncio.to_thread(step, empty_url, "head")
    assert await count_queued(database) == 1
    await roll_up(database)
    assert await differences(database) == RIGHT


def test_migration_keeps_events_from_before_partitions(empty_url: str) -> None:
    step(empty_url, "20261124_sign_out")
    user, store = str(uuid7()), str(uuid7())
    with psycopg.connect(empty_url, autocommit=True) as connection:
        connection.execute("INSERT INTO users (id, email) VALUES (%s, 'a')", [user])
        connection.execute("INSERT INTO configs (id, user_id, store_name, slug) VALUES (%s, %s, 'a', 'a')", [store, user])
        connection.execute(
            """INSERT INTO analytics_events (id, config_id, event, session_id, timestamp)
            SELECT gen_random_uuid(), %s, 'page_view', 's' || n %% 30, now() - n * interval '1 day'
            FROM generate_series(1, 2500) AS n""",
            [store],
        )
        columns = "id, config_id, event, properties, session_id, timestamp"
        digest = f"SELECT md5(string_agg(e::text, '' ORDER BY id)) FROM (SELECT {columns} FROM analytics_events) AS e"
        before = connection.execute(digest).fetchall()
    for _ in range(2):
        step(empty_url, "head")

        async def counted() -> dict[str, list[Any]]:
            async with Database(empty_url, size=1) as database:
                await roll_up(database)
                return await differences(database)

        assert asyncio.run(counted()) == RIGHT
        step(empty_url, "20261124_sign_out")
        with psycopg.connect(empty_url) as connection:
            assert connection.execute(digest).fetchall() == before
