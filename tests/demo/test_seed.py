"""Demo data: deterministic, all or nothing, and consistent in every derived column."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from psycopg.rows import tuple_row

from storefront.core.db.database import Database
from storefront.demo.commands import AlreadySeededError, is_empty, seed

TABLES = (
    "users", "verified_emails", "configs", "products", "product_variants", "reviews", "images", "changes", "store_positions",
    "analytics_events",
)  # fmt: skip
ANCHOR = datetime(2024, 3, 1, tzinfo=UTC)

# The derived columns, counted plainly.
WRONG_VARIANTS = """
SELECT count(*) FROM products AS p WHERE
  (variants_total::bigint, variants_available::bigint, variants_in_stock::bigint, total_inventory::bigint, inventory::bigint,
   max_price)
  IS DISTINCT FROM (
    SELECT (count(*), count(*) FILTER (WHERE is_available),
            count(*) FILTER (WHERE is_available AND (inventory > 0 OR inventory IS NULL OR inventory_policy = 'continue')),
            coalesce(sum(inventory), 0), CASE WHEN count(*) = count(inventory) THEN sum(inventory) END,
            coalesce(max(v.price) FILTER (WHERE is_available), max(v.price)))
    FROM product_variants AS v WHERE v.product_id = p.id)
  OR (price, compare_at_price) IS DISTINCT FROM (
    SELECT (v.price, v.compare_at_price) FROM product_variants AS v WHERE v.product_id = p.id
    ORDER BY v.is_available DESC, v.price, v.position LIMIT 1)
"""
WRONG_STORES = (
    "SELECT count(*) FROM product_variants AS v JOIN products AS p ON p.id = v.product_id WHERE v.config_id <> p.config_id"
)
WRONG_RATINGS = """
SELECT count(*) FROM products AS p WHERE rating_counts <> ARRAY(
  SELECT (SELECT count(*) FROM reviews AS r WHERE r.product_id = p.id AND r.rating = stars)::int
  FROM generate_series(1, 5) AS stars ORDER BY stars)
"""
WRONG_POSITIONS = """
SELECT count(*) FROM (
  SELECT c.position, c.product_id, c.is_visible, c.occurred_at, p.id, p.status, p.created_at,
         row_number() OVER (PARTITION BY p.config_id ORDER BY p.created_at) AS expected
  FROM products AS p LEFT JOIN changes AS c ON c.config_id = p.config_id AND c.entity_id = p.id
) AS log
WHERE position IS DISTINCT FROM expected OR product_id <> id OR is_visible <> (status = 'active') OR occurred_at <> created_at
"""
WRONG_LASTS = """
SELECT count(*) FROM configs AS c LEFT JOIN store_positions AS s ON s.config_id = c.id
WHERE s.position IS DISTINCT FROM (SELECT count(*) FROM products AS p WHERE p.config_id = c.id)
"""


async def rows(database: Database, sql: str) -> list[Any]:
    async with database.transaction() as connection:
        cursor = connection.raw.cursor(row_factory=tuple_row)
        await cursor.execute(sql.encode())
        return await cursor.fetchall()


async def one(database: Database, sql: str) -> Any:
    [(value,)] = await rows(database, sql)
    return value


async def counts(database: Database) -> dict[str, int]:
    return {table: await one(database, f"SELECT count(*) FROM {table}") for table in TABLES}


async def digests(database: Database) -> dict[str, str]:
    every = "SELECT md5(string_agg(line, chr(10) ORDER BY line)) FROM (SELECT t::text AS line FROM {} AS t) AS lines"
    return {table: await one(database, every.format(table)) for table in TABLES}


async def empty(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.raw.execute(b"TRUNCATE users, analytics_events CASCADE")


async def test_seed_is_deterministic(database: Database) -> None:
    await seed(database, products=150, events=500, anchor=ANCHOR)
    first = await digests(database)
    await empty(database)
    await seed(database, products=150, events=500, anchor=ANCHOR)
    assert await digests(database) == first
    assert None not in first.values()


async def test_anchor_shifts_all_times(database: Database) -> None:
    await seed(database, products=20, events=50, anchor=ANCHOR)
    newest = "SELECT extract(epoch FROM max(created_at)) FROM products"
    first = float(await one(database, newest))
    await empty(database)
    await seed(database, products=20, events=50, anchor=ANCHOR + timedelta(days=2))
    assert float(await one(database, newest)) - first == pytest.approx(2 * 86_400)


async def test_summary_counts_rows(database: Database) -> None:
    summary = await seed(database, products=150, events=500, anchor=ANCHOR)
    assert await counts(database) == {
        "users": summary.users,
        "verified_emails": summary.users,
        "configs": summary.configs,
        "products": 150,
        "product_variants": summary.variants,
        "reviews": summary.reviews,
        "images": await one(database, "SELECT sum(jsonb_array_length(images)) FROM products") + summary.users,
        "changes": 150,
        "store_positions": summary.configs,
        "analytics_events": 500,
    }
    assert (summary.products, summary.events) == (150, 500)


async def test_summary_names_biggest_published_store_and_owner(database: Database) -> None:
    summary = await seed(database, products=150, events=0, anchor=ANCHOR)
    biggest = await rows(
        database,
        "SELECT slug, is_published, email FROM configs JOIN users ON users.id = user_id"
        " ORDER BY (SELECT count(*) FROM products WHERE config_id = configs.id) DESC LIMIT 1",
    )
    assert biggest == [(summary.slug, True, summary.owner_email)]


async def test_demo_owner_has_published_and_unpublished_store(database: Database) -> None:
    await seed(database, products=10, events=0, anchor=ANCHOR)
    owned = "SELECT is_published FROM configs JOIN users ON users.id = user_id WHERE email = 'demo@example.com' ORDER BY 1"
    assert await rows(database, owned) == [(False,), (True,)]


@pytest.mark.parametrize("wrong", [WRONG_VARIANTS, WRONG_STORES, WRONG_RATINGS, WRONG_POSITIONS, WRONG_LASTS])
async def test_derived_columns_match_counts(database: Database, wrong: str) -> None:
    await seed(database, products=300, events=0, anchor=ANCHOR)
    assert await one(database, wrong) == 0


@pytest.mark.parametrize(("products", "events"), [(0, 0), (0, 10), (1, 0), (1, 1), (1, 10), (10, 0), (10, 10)])
async def test_seed_with_tiny_sizes(database: Database, products: int, events: int) -> None:
    summary = await seed(database, products=products, events=events, anchor=ANCHOR)
    found = await counts(database)
    assert (found["products"], found["analytics_events"]) == (products, events if products else 0)
    assert summary.configs >= 3
    assert summary.users >= 30


async def test_negative_sizes_are_rejected(database: Database) -> None:
    with pytest.raises(ValueError, match="negative"):
        await seed(database, products=-1)
    assert await is_empty(database)


async def test_second_seed_is_rejected_without_changes(database: Database) -> None:
    await seed(database, products=30, events=30, anchor=ANCHOR)
    first = await digests(database)
    with pytest.raises(AlreadySeededError, match="nordic-oak-living"):
        await seed(database, products=60, events=5)
    assert await digests(database) == first


async def test_failed_seed_leaves_no_rows(database: Database) -> None:
    def break_off(table: str, done: int, total: int) -> None:
        if table == "reviews":
            raise RuntimeError("the light went out")

    with pytest.raises(RuntimeError, match="light"):
        await seed(database, products=30, events=30, progress=break_off)
    assert set((await counts(database)).values()) == {0}


async def test_is_empty_means_without_stores(database: Database) -> None:
    assert await is_empty(database)
    await seed(database, products=0, events=0)
    assert not await is_empty(database)


async def test_progress_is_throttled_and_ends_at_total(database: Database) -> None:
    received: dict[str, list[tuple[int, int]]] = {}
    await seed(database, products=200, events=1_000, progress=lambda table, *state: received.setdefault(table, []).append(state))
    assert tuple(received) == TABLES
    assert all(steps[-1][0] == steps[-1][1] and len(steps) <= 24 for steps in received.values())


async def test_times_are_consistent_and_before_anchor(database: Database) -> None:
    await seed(database, products=200, events=2_000, anchor=ANCHOR)
    early = "SELECT count(*) FROM {} AS t JOIN products AS p ON p.id::text = {} WHERE t.{} < p.created_at OR t.{} >= '2024-03-01'"
    assert await one(database, early.format("reviews", "t.product_id::text", *["created_at"] * 2)) == 0
    assert await one(database, early.format("product_variants", "t.product_id::text", *["created_at"] * 2)) == 0
    assert await one(database, early.format("analytics_events", "t.properties ->> 'productId'", *['"timestamp"'] * 2)) == 0


async def test_keys_carry_creation_times(database: Database) -> None:
    await seed(database, products=20, events=20, anchor=ANCHOR)
    for table, moment in (("products", "created_at"), ("reviews", "created_at"), ("analytics_events", '"timestamp"')):
        in_key = "('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint"
        off = f"{in_key} <> floor(extract(epoch FROM {moment}) * 1000) OR substr(id::text, 15, 1) <> '7'"
        assert await one(database, f"SELECT count(*) FROM {table} WHERE {off}") == 0


async def test_default_anchor_is_last_midnight(database: Database) -> None:
    await seed(database, products=10, events=200)
    age = await one(database, """SELECT extract(epoch FROM now() - max("timestamp")) FROM analytics_events""")
    assert 0 < float(age) < 3 * 86_400


async def test_stores_have_other_currencies_and_scripts(database: Database) -> None:
    await seed(database, products=400, events=2_000, anchor=ANCHOR)
    of_store = "FROM products JOIN configs ON configs.id = config_id WHERE slug ="
    yen = await rows(database, f"SELECT price, handle, currency {of_store} '京都の道具'")
    assert yen and all(currency == "JPY" and not Decimal(price) % 1 and not handle.isascii() for price, handle, currency in yen)
    cyrillic = await rows(database, f"SELECT title, handle {of_store} 'топъл-дом'")
    assert cyrillic and all(title.split()[0].lower() in handle for title, handle in cyrillic)
    unpaid = "SELECT count(*) FROM analytics_events WHERE event = 'purchase' AND (properties ->> 'total') IS NULL"
    assert await one(database, unpaid) == 0
    of_variants = "FROM product_variants AS v JOIN configs ON configs.id = v.config_id"
    assert await one(database, f"SELECT count(*) {of_variants} WHERE currency = 'JPY' AND price <> trunc(price)") == 0
