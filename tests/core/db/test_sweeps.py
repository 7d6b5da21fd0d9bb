"""Sweeps delete what has expired, in batches: with any number of rows, below any statement timeout, in several processes."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import psycopg
import pytest

from storefront.analytics.commands import sweep_event_ids
from storefront.analytics.rollups import maintain_partitions
from storefront.core.db import sweeps
from storefront.core.db.database import Database, Statement
from storefront.core.errors import TimedOut
from storefront.feed.log import delete_old_entries
from storefront.imports.job_commands import sweep_jobs
from storefront.webhooks.commands import sweep_deliveries
from storefront.writes.transaction import delete_expired_keys
from tests.factories import count_statements, insert, make_store, make_user

EXPIRED, RETAINED = "now() - interval '400 days'", "now() - interval '1 minute'"
# Rows of each table, %s of which are its store, its owner, and the number of rows; the moment is inserted.
ROWS = {
    "changes": """INSERT INTO changes (config_id, position, kind, entity_id, was_visible, is_visible, occurred_at)
        SELECT %(store)s, coalesce((SELECT max(position) FROM changes WHERE config_id = %(store)s), 0) + n, 'product_updated',
          gen_random_uuid(), true, true, {moment} FROM generate_series(1, %(count)s) AS n""",
    "idempotency_keys": """INSERT INTO idempotency_keys (actor_id, key, digest, created_at)
        SELECT %(owner)s, gen_random_uuid()::text, '', {moment} FROM generate_series(1, %(count)s)""",
    "analytics_event_ids": """INSERT INTO analytics_event_ids (config_id, id, received_at)
        SELECT %(store)s, gen_random_uuid(), {moment} FROM generate_series(1, %(count)s)""",
    "webhook_deliveries": """INSERT INTO webhook_deliveries (config_id, id, webhook_id, type, position, lane, state, finished_at)
        SELECT %(store)s, gen_random_uuid(), (SELECT min(id::text)::uuid FROM webhooks WHERE config_id = %(store)s),
          'product.updated', n, %(store)s, 'delivered', {moment} FROM generate_series(1, %(count)s) AS n""",
    "jobs": """INSERT INTO jobs (config_id, id, user_id, kind, status, source, file_name, object_key, object_size, finished_at)
        SELECT %(store)s, gen_random_uuid(), %(owner)s, 'import', 'succeeded', 'shopify_csv', 'shop.csv', gen_random_uuid()::text,
          10, {moment} FROM generate_series(1, %(count)s)""",
    "analytics_sessions": """INSERT INTO analytics_sessions
        SELECT %(store)s, gen_random_uuid()::text, {moment}, gen_random_uuid(), '', '', '', false, false, false, {moment}
        FROM generate_series(1, %(count)s)""",
    "analytics_totals": """INSERT INTO analytics_totals (config_id, grain, at)
        SELECT %(store)s, 60, {moment} - n * interval '1 minute' FROM generate_series(1, %(count)s) AS n""",
}
RUN: dict[str, Callable[[Database], Awaitable[int]]] = {
    "changes": partial(delete_old_entries, days=7),
    "idempotency_keys": delete_expired_keys,
    "analytics_event_ids": sweep_event_ids,
    "webhook_deliveries": partial(sweep_deliveries, days=7),
    "jobs": partial(sweep_jobs, days=7),
    "analytics_sessions": partial(maintain_partitions, days=60),
    "analytics_totals": partial(maintain_partitions, days=60),
}
COUNT, BATCH_ROWS = 20, 4


class Tables:
    """A database with a store, and rows that have or have not expired."""

    def __init__(self, database: Database, url: str, owner: str, store: str) -> None:
        self.database, self.url, self._owner, self.store = database, url, owner, store

    def add(self, table: str, moment: str, count: int = COUNT, store: str | None = None) -> None:
        """Insert rows of that moment, an SQL expression."""
        self.execute(ROWS[table].format(moment=moment), {"store": store or self.store, "owner": self._owner, "count": count})

    def execute(self, sql: str, parameters: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(sql.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def count(self, table: str) -> int:
        [(number,)] = self.execute(f"SELECT count(*)::int FROM {table}")
        return int(number)


@pytest.fixture
async def tables(database: Database, empty_url: str, monkeypatch: pytest.MonkeyPatch) -> Tables:
    monkeypatch.setattr(sweeps, "MAX_BATCH_ROWS", BATCH_ROWS)
    owner = await make_user(database)
    store = await make_store(database, user_id=owner)
    webhook = {"url": "https://a.example", "secret": "", "topics": "{product.updated}", "read_as": "owner", "position": 0}
    await insert(database, "webhooks", config_id=store, **webhook)
    await insert_position(database, store)
    return Tables(database, empty_url, owner, store)


async def insert_position(database: Database, store: str) -> None:
    async with database.transaction() as connection:
        await connection.raw.execute("INSERT INTO store_positions VALUES (%s, 1000) ON CONFLICT DO NOTHING", [store])


@pytest.mark.parametrize("table", ROWS)
async def test_sweep_deletes_all_expired_rows_in_batches(tables: Tables, table: str) -> None:
    tables.add(table, EXPIRED)
    tables.add(table, RETAINED, 3)
    with count_statements(tables.database, looks=True) as statements:
        await RUN[table](tables.database)
    assert tables.count(table) == 3
    # The last batch finds nothing.
    assert sum(f"DELETE FROM {table} " in sql for sql in statements) == COUNT // BATCH_ROWS + 1


@pytest.mark.parametrize("table", ROWS)
async def test_sweep_succeeds_where_one_statement_would_time_out(tables: Tables, table: str) -> None:
    tables.add(table, EXPIRED)
    tables.execute("CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.03); RETURN OLD; END'")
    tables.execute(f"CREATE TRIGGER slow BEFORE DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION slow()")
    async with Database(tables.url, statement_timeout=400) as database:
        with pytest.raises(TimedOut):
            await database.fetch(Statement(f"DELETE FROM {table}", {}))
        await RUN[table](database)
    assert tables.count(table) == 0


async def test_concurrent_sweeps_delete_each_row_once_without_deadlocks(tables: Tables) -> None:
    for table in ROWS:
        tables.add(table, EXPIRED, 60)
    async with Database(tables.url) as one, Database(tables.url) as other:
        counted = [table for table in ROWS if not table.startswith("analytics_") or table == "analytics_event_ids"]
        both = [(table, database) for table in ROWS for database in (one, other)]
        results = await asyncio.gather(*(RUN[table](database) for table, database in both))
        deleted = sum(result for (table, _), result in zip(both, results, strict=True) if table in counted)
        # A process that finds another one at work leaves it alone, and has nothing left to do once that one is through.
        assert [tables.count(table) for table in ROWS] == [0] * len(ROWS)
        assert deleted == 60 * len(counted)


async def test_sweep_leaves_locked_rows_to_its_next_run(tables: Tables) -> None:
    tables.add("idempotency_keys", EXPIRED, 6)
    async with tables.database.transaction() as connection:
        await connection.raw.execute("SELECT FROM idempotency_keys ORDER BY key LIMIT 2 FOR UPDATE")
        assert await delete_expired_keys(tables.database) == 4
    assert await delete_expired_keys(tables.database) == 2


async def test_sweep_ends_when_its_time_is_over(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    tables.add("idempotency_keys", EXPIRED)
    moments = iter([0.0, 0.0, 100.0, 400.0])
    monkeypatch.setattr(sweeps, "monotonic", lambda: next(moments))
    assert await delete_expired_keys(tables.database) == 2 * BATCH_ROWS
    assert tables.count("idempotency_keys") == COUNT - 2 * BATCH_ROWS


# ---------------------------------------------------------------------------------------------------- the log


async def test_log_is_deleted_from_its_beginning_and_never_has_a_gap(tables: Tables) -> None:
    stores = [tables.store, *[await make_store(tables.database) for _ in range(5)]]
    for number, store in enumerate(stores):
        await insert_position(tables.database, store)
        tables.add("changes", EXPIRED, 3 * number, store)
        tables.add("changes", RETAINED, 2, store)
    gaps: list[object] = []
    select_gaps = """SELECT config_id FROM changes GROUP BY config_id HAVING count(*) <> max(position) - min(position) + 1"""
    tables.database.observers.append(lambda _: gaps.extend(tables.execute(select_gaps)))
    assert await delete_old_entries(tables.database, days=7) == 3 * sum(range(6))
    left = tables.execute("SELECT config_id::text, min(position)::int, count(*)::int FROM changes GROUP BY 1")
    assert gaps == [] and sorted(left) == sorted((store, 3 * number + 1, 2) for number, store in enumerate(stores))


async def test_entry_that_began_earlier_than_the_one_before_it_is_retained_with_it(tables: Tables) -> None:
    for moment in (EXPIRED, RETAINED, EXPIRED, EXPIRED, RETAINED):
        tables.add("changes", moment, 1)
    assert await delete_old_entries(tables.database, days=7) == 1
    assert tables.execute("SELECT position::int FROM changes ORDER BY 1") == [(2,), (3,), (4,), (5,)]


async def test_log_of_many_stores_is_deleted_in_batches(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps, "MAX_BATCH_ROWS", 3)
    stores = [await make_store(tables.database) for _ in range(8)]
    for store in stores:
        await insert_position(tables.database, store)
        tables.add("changes", EXPIRED, 2, store)
    assert await delete_old_entries(tables.database, days=7) == 16 and tables.count("changes") == 0
