"""Migrations: upgrade, downgrade, agreement with the models, and constraints of the schema."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import pytest_asyncio
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import CheckConstraint as Check

from storefront.core.db.database import Database
from storefront.core.db.embedded_postgres import build_database_url, create_database
from storefront.core.db.migrations import build_config, connect, get_current_revision, get_head_revision, migrate
from storefront.core.ids import uuid7
from storefront.models import is_managed_by_metadata, metadata
from tests.conftest import fresh
from tests.factories import (
    insert,
    insert_row,
    make_image,
    make_job,
    make_product,
    make_review,
    make_store,
    make_upload,
    make_user,
    make_variant,
)
from tests.feed.processes import run_to_end

# Tables, views, sequences, indexes, functions and types of the public schema.
OURS = """
SELECT 'relation', relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace
UNION ALL SELECT 'function', proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace
UNION ALL SELECT 'type', typname FROM pg_type WHERE typnamespace = 'public'::regnamespace
"""


def objects(url: str) -> set[tuple[str, str]]:
    with psycopg.connect(url) as connection:
        return {(kind, name) for kind, name in connection.execute(OURS) if not name.lstrip("_").startswith("alembic_version")}


@pytest.fixture
def bare_url(postgres: str) -> str:
    """The URL of a new database without tables."""
    name = f"bare_{uuid7().hex}"
    create_database(postgres, name)
    return build_database_url(postgres, name)


@pytest_asyncio.fixture(scope="module")
async def database(postgres: str, template: str) -> AsyncIterator[Database]:
    """A database of tests that look only at rows of their own."""
    async with Database(fresh(postgres, template)) as opened:
        yield opened


def test_migrations_upgrade_downgrade_and_upgrade(bare_url: str) -> None:
    assert objects(bare_url) == set()
    migrate(bare_url)
    first = objects(bare_url)
    assert {("relation", "products"), ("function", "storefront_fold")} <= first
    with connect(bare_url) as connection:
        assert get_current_revision(connection) == get_head_revision()
        command.downgrade(build_config(connection), "base")
        connection.commit()
        assert get_current_revision(connection) == "base"
    assert objects(bare_url) == set()
    migrate(bare_url)
    assert objects(bare_url) == first


async def test_topics_of_stored_webhooks_are_renamed(empty_url: str) -> None:
    async with Database(empty_url) as database:
        store = await make_store(database)
        url = {"url": "https://example.com", "read_as": "owner", "secret": "-", "position": 0}
        topics = "{product.created,config.updated,config.unpublished}"
        hook = await insert(database, "webhooks", config_id=store, topics=topics, **url)
        for type_ in ("config.published", "product.deleted"):
            about = {"config_id": store, "webhook_id": hook, "position": 1, "lane": store}
            await insert(database, "webhook_deliveries", type=type_, **about)

    def load() -> tuple[list[str], list[str]]:
        with psycopg.connect(empty_url) as connection:
            types = connection.execute("SELECT type FROM webhook_deliveries ORDER BY type").fetchall()
            [(stored,)] = connection.execute("SELECT topics FROM webhooks").fetchall()
            return stored, [type_ for (type_,) in types]

    before = load()
    with connect(empty_url) as connection:
        command.downgrade(build_config(connection), "20261205_jobs_by_owner")
        connection.commit()
    assert load() == (["product.created", "store.updated", "store.unpublished"], ["product.deleted", "store.published"])
    migrate(empty_url)
    assert load() == before


async def test_stored_handles_get_the_form_of_lookups(empty_url: str) -> None:
    with connect(empty_url) as connection:
        command.downgrade(build_config(connection), "0030_attribute_order")
        connection.commit()
    async with Database(empty_url) as database:
        store, other = [await make_store(database) for _ in range(2)]
        for handle in ("blue-mug", "blue_mug", "Größe_1", "_", "кружка"):
            await insert(database, "products", config_id=store, title="Mug", handle=handle, price=1, max_price=1)
        await insert(database, "products", config_id=other, title="Mug", handle="blue_mug", price=1, max_price=1)
    migrate(empty_url)
    with psycopg.connect(empty_url) as connection:
        rows = connection.execute("SELECT handle FROM products ORDER BY id").fetchall()
    assert [handle for (handle,) in rows] == ["blue-mug", "blue-mug-2", "größe-1", "product", "кружка", "blue-mug"]


def test_migrating_twice_changes_nothing(empty_url: str) -> None:
    before = objects(empty_url)
    migrate(empty_url)
    assert objects(empty_url) == before


def test_migrations_match_the_models(empty_url: str) -> None:
    with connect(empty_url) as connection:
        options = {"compare_type": True, "compare_server_default": True, "include_name": is_managed_by_metadata}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []


CHECKS = """
SELECT conrelid::regclass::text || '.' || conname FROM pg_constraint
WHERE contype = 'c' AND connamespace = 'public'::regnamespace
"""


def test_check_constraints_match_the_models(empty_url: str) -> None:
    # Alembic's comparison ignores check constraints.
    checks = [(table.name, check) for table in metadata.sorted_tables for check in table.constraints if isinstance(check, Check)]
    with connect(empty_url) as connection:
        found = {row[0] for row in connection.exec_driver_sql(CHECKS)}
        name_of = connection.dialect.identifier_preparer.format_constraint
        assert found == {f"{table}.{name_of(check)}" for table, check in checks}


@pytest.mark.parametrize(
    "values",
    [
        {"price": "-0.01"},
        {"price": "10.00", "compare_at_price": "9.99"},
        {"status": "sold"},
        {"status": ""},
        {"tags": {}},
        {"images": {"0": "x"}},
    ],
    ids=str,
)
async def test_invalid_products_are_rejected(database: Database, values: dict[str, Any]) -> None:
    store = await make_store(database)
    with pytest.raises(psycopg.errors.CheckViolation):
        await make_product(database, store, **values)


@pytest.mark.parametrize(
    "values",
    [
        {"price": "0.00"},
        {"price": "10.00", "compare_at_price": "10.00"},
        {"inventory": None},
        # More was sold than there was.
        {"inventory": -1},
        {"status": "archived"},
    ],
    ids=str,
)
async def test_valid_products_are_accepted(database: Database, values: dict[str, Any]) -> None:
    await make_product(database, await make_store(database), **values)


@pytest.mark.parametrize(
    "values",
    [{"price": "-1"}, {"compare_at_price": "9.99"}, {"cost": "-1"}, {"position": -1}, {"weight": "{}"}, {"attributes": []}],
    ids=str,
)
async def test_invalid_variants_are_rejected(database: Database, values: dict[str, Any]) -> None:
    product = await make_product(database, await make_store(database))
    with pytest.raises(psycopg.errors.CheckViolation):
        await make_variant(database, product, **values)


@pytest.mark.parametrize("values", ["price = -0.01", "compare_at_price = 9.99", "max_price = NULL"])
async def test_invalid_summaries_are_rejected(database: Database, values: str) -> None:
    await make_product(database, await make_store(database), price="10.00")
    async with database.transaction() as connection:
        with pytest.raises((psycopg.errors.CheckViolation, psycopg.errors.NotNullViolation)):
            await connection.raw.execute(f"UPDATE products SET {values}".encode())


async def test_variants_of_a_product_have_different_attributes(database: Database) -> None:
    store = await make_store(database)
    product, other = [await make_product(database, store) for _ in range(2)]
    for owner in (product, other):
        await make_variant(database, owner, attributes={"Größe": "S", "Colour": "Red"})
    for attributes in ({"Colour": "Red", "Größe": "S"}, {"colour": "RED", "GRÖßE": "s"}):
        with pytest.raises(psycopg.errors.UniqueViolation):
            await make_variant(database, product, attributes=attributes)
    await make_variant(database, product, attributes={"Größe": "Red", "Colour": "S"})
    await make_variant(database, product, attributes={})
    with pytest.raises(psycopg.errors.UniqueViolation):
        await make_variant(database, product, attributes={})


async def test_variant_belongs_to_the_store_of_its_product(database: Database) -> None:
    product = await make_product(database, await make_store(database))
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        await make_variant(database, product, config_id=await make_store(database))


@pytest.mark.parametrize("rating", [-1, 0, 6])
async def test_invalid_ratings_are_rejected(database: Database, rating: int) -> None:
    product = await make_product(database, await make_store(database))
    with pytest.raises(psycopg.errors.CheckViolation):
        await make_review(database, product, rating=rating)


@pytest.mark.parametrize(
    "values",
    [
        {"layout": {"gridColumns": 5}},
        {"layout": {"gridColumns": 1}},
        {"layout": {"gridColumns": "x"}},
        {"currency": "usd"},
        {"currency": "EURO"},
        {"slug": "Has Spaces"},
        {"slug": "-x"},
        {"slug": ""},
    ],
    ids=str,
)
async def test_invalid_stores_are_rejected(database: Database, values: dict[str, Any]) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        await make_store(database, **values)


async def test_handle_is_unique_per_store(database: Database) -> None:
    store, other = [await make_store(database) for _ in range(2)]
    await make_product(database, store, handle="h")
    await make_product(database, other, handle="h")
    with pytest.raises(psycopg.errors.UniqueViolation):
        await make_product(database, store, handle="h")


async def test_review_is_unique_per_user_and_product(database: Database) -> None:
    product, user = await make_product(database, await make_store(database)), await make_user(database)
    await make_review(database, product, user_id=user)
    with pytest.raises(psycopg.errors.UniqueViolation):
        await make_review(database, product, user_id=user)


async def test_deleting_a_store_cascades(empty_url: str) -> None:
    async with Database(empty_url) as database:
        user = await make_user(database)
        product = await make_product(database, await make_store(database, user_id=user))
        await make_variant(database, product)
        await make_review(database, product)
        async with database.transaction() as connection:
            await connection.raw.execute("DELETE FROM users WHERE id = %s", [user])
            for table in ("configs", "products", "product_variants", "reviews"):
                cursor = await connection.raw.execute(f"SELECT count(*) FROM {table}".encode())
                assert await cursor.fetchall() == [(0,)]


INSERT_VARIANTS = """
INSERT INTO product_variants (id, product_id, name, price, created_at) SELECT gen_random_uuid(), id, name, 1, v.created_at
FROM products, (VALUES ('b', timestamptz '2026-01-02'), ('a', '2026-01-01'), ('c', '2026-01-03')) AS v (name, created_at)
"""
VARIANT_POSITIONS = "SELECT name, position FROM product_variants ORDER BY product_id, position, id"


def test_stored_variants_get_positions_in_the_order_of_creation(bare_url: str) -> None:
    before = "20261205_jobs_by_owner"
    with connect(bare_url) as connection, psycopg.connect(bare_url, autocommit=True) as client:
        command.upgrade(build_config(connection), before)
        connection.commit()
        client.execute("INSERT INTO users (id, email) VALUES (gen_random_uuid(), 'x@example.com')")
        client.execute("INSERT INTO configs (id, user_id, store_name, slug) SELECT gen_random_uuid(), id, 'x', 'x' FROM users")
        product = (
            "INSERT INTO products (id, config_id, title, handle, price) SELECT gen_random_uuid(), id, '', %s, 1 FROM configs"
        )
        client.execute(product, ["x"])
        client.execute(product, ["y"])
        client.execute(INSERT_VARIANTS)
        command.upgrade(build_config(connection), "0024_variant_positions")
        connection.commit()
        assert client.execute(VARIANT_POSITIONS).fetchall() == [("a", 0), ("b", 1), ("c", 2)] * 2
        # The previous release, which knows no positions, appends its variants.
        client.execute(INSERT_VARIANTS)
        positions = [0, 1, 2, 3, 4, 5]
        assert client.execute(VARIANT_POSITIONS).fetchall() == [*zip("abcbac", positions, strict=True)] * 2
        command.downgrade(build_config(connection), before)
        connection.commit()


REVIEWS = """
SELECT r.id, r.rating, r.updated_at, p.rating_counts FROM reviews AS r JOIN products AS p ON p.id = r.product_id ORDER BY r.id
"""
INSERT_REVIEWS = """
INSERT INTO reviews (id, product_id, user_id, rating) SELECT gen_random_uuid(), p.id, u.id, 1 + row_number() OVER ()
FROM products AS p, users AS u WHERE NOT EXISTS (SELECT FROM reviews AS r WHERE r.product_id = p.id AND r.user_id = u.id)
"""


def test_stored_reviews_get_the_store_of_their_product(bare_url: str) -> None:
    before = "0025_variant_columns"
    with connect(bare_url) as connection, psycopg.connect(bare_url, autocommit=True) as client:
        command.upgrade(build_config(connection), before)
        connection.commit()
        user = "INSERT INTO users (id, email) VALUES (gen_random_uuid(), %s)"
        client.execute(user, ["x@example.com"])
        for slug in ("x", "y"):
            store = "INSERT INTO configs (id, user_id, store_name, slug) SELECT gen_random_uuid(), id, 'x', %s FROM users"
            client.execute(store, [slug])
        client.execute(
            "INSERT INTO products (id, config_id, title, handle, price) SELECT gen_random_uuid(), id, 'x', 'x', 1 FROM configs"
        )
        client.execute(INSERT_REVIEWS)
        stored = client.execute(REVIEWS).fetchall()
        assert len(stored) == 2

        def count_reviews_of_own_store() -> int:
            [(number,)] = client.execute(
                "SELECT count(*) FROM reviews AS r JOIN products AS p ON p.id = r.product_id AND p.config_id = r.config_id"
            )
            return int(number)

        for number in (2, 4):
            command.upgrade(build_config(connection), "0026_reviews_of_stores")
            connection.commit()
            assert count_reviews_of_own_store() == number
            # The previous release, which does not know the column, goes on writing reviews.
            client.execute(user, [f"{number}@example.com"])
            client.execute(INSERT_REVIEWS)
            assert count_reviews_of_own_store() == number + 2
            command.downgrade(build_config(connection), before)
            connection.commit()
        # What was stored before is as it was, but for the counts of later reviews.
        found = {row[0]: row for row in client.execute(REVIEWS)}
        assert [found[row[0]][:3] for row in stored] == [row[:3] for row in stored]
        assert {sum(row[3]) for row in found.values()} == {3}


async def test_review_cannot_belong_to_another_store_than_its_product(database: Database) -> None:
    product, other = await make_product(database, await make_store(database)), await make_store(database)
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        await make_review(database, product, config_id=other)
    review = await make_review(database, product)
    for table, id_ in (("reviews", review), ("products", product)):
        async with database.transaction() as connection:
            statement = f"UPDATE {table} SET config_id = %s WHERE id = %s".encode()
            with pytest.raises(psycopg.errors.ForeignKeyViolation):
                await connection.raw.execute(statement, [other, id_])


def test_newer_schema_is_reported_by_every_command(empty_url: str, tmp_path: Path) -> None:
    with psycopg.connect(empty_url, autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'from the future'")
    for name in ("migrate", "serve", "roll-up"):
        done = run_to_end(tmp_path, name, STOREFRONT_DATABASE_URL=empty_url)
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert "from the future" in done.stderr and "a newer one migrated it" in " ".join(done.stderr.split())
        assert "storefront migrate" not in done.stderr


FORMER_PRODUCTS = """
INSERT INTO products (id, config_id, title, handle, price, compare_at_price, inventory, track_inventory)
SELECT gen_random_uuid(), configs.id, '', p.handle, p.price, p.compare_at_price, p.inventory, p.inventory IS NOT NULL
FROM configs, (VALUES ('mug', 8, 10, 4), ('download', 5, NULL, NULL), ('shirt', 20, 30, 7), ('lamp', 9, NULL, 1))
  AS p (handle, price, compare_at_price, inventory)
"""
FORMER_VARIANTS = """
INSERT INTO product_variants (id, product_id, name, price, attributes, inventory, sku, is_available, position)
SELECT gen_random_uuid(), products.id, v.name, v.price, v.attributes::jsonb, v.inventory, v.sku, v.is_available,
  substring(v.sku FROM 3)::integer
FROM products JOIN (VALUES
  ('shirt', 'S', 40, '{"Size": "S"}', 2, 'S-1', true), ('shirt', 's', 45, '{"size": "s"}', 3, 'S-2', true),
  ('shirt', 'M', 10, '{"Size": "M"}', NULL, 'S-3', false),
  ('lamp', 'Oak', 9, '{}', 1, 'L-1', true), ('lamp', 'Walnut', 12, '{}', -2, 'L-2', true)
) AS v (handle, name, price, attributes, inventory, sku, is_available) USING (handle)
"""
PRODUCT_SUMMARIES = """
SELECT handle, price::text, compare_at_price::text, max_price::text, inventory, total_inventory, variants_total,
  variants_available, variants_in_stock, in_stock
FROM products ORDER BY handle
"""
VARIANT_ATTRIBUTES = """
SELECT handle, product_variants.name, attributes, sku, product_variants.config_id = products.config_id
FROM product_variants JOIN products ON products.id = product_id ORDER BY handle, position
"""


def test_every_product_gets_a_variant_and_its_summary(bare_url: str, caplog: pytest.LogCaptureFixture) -> None:
    before, after = "0026_reviews_of_stores", "0027_default_variants"
    with connect(bare_url) as connection, psycopg.connect(bare_url, autocommit=True) as client:

        def move(revision: str) -> None:
            run = command.upgrade if revision == after else command.downgrade
            run(build_config(connection), revision)
            connection.commit()

        command.upgrade(build_config(connection), before)
        connection.commit()
        client.execute("INSERT INTO users (id, email) VALUES (gen_random_uuid(), 'x@example.com')")
        client.execute("INSERT INTO configs (id, user_id, store_name, slug) SELECT gen_random_uuid(), id, 'x', 'x' FROM users")
        client.execute(FORMER_PRODUCTS)
        client.execute(FORMER_VARIANTS)
        summaries = [
            ("download", "5.00", None, "5.00", None, 0, 1, 1, 1, True),
            ("lamp", "9.00", None, "12.00", -1, -1, 2, 2, 1, True),
            ("mug", "8.00", "10.00", "8.00", 4, 4, 1, 1, 1, True),
            ("shirt", "40.00", None, "45.00", None, 5, 3, 2, 2, True),
        ]
        variants = [
            ("download", "Default", {}, None, True),
            # Without attributes, variants are told apart by their names.
            ("lamp", "Oak", {"Title": "Oak"}, "L-1", True),
            ("lamp", "Walnut", {"Title": "Walnut"}, "L-2", True),
            ("mug", "Default", {}, None, True),
            ("shirt", "S", {"Size": "S"}, "S-1", True),
            # The first of two with equal attributes keeps them.
            ("shirt", "s", {"size": "s (2)"}, "S-2", True),
            ("shirt", "M", {"Size": "M"}, "S-3", True),
        ]
        for _ in range(2):
            move(after)
            assert client.execute(PRODUCT_SUMMARIES).fetchall() == summaries
            assert client.execute(VARIANT_ATTRIBUTES).fetchall() == variants
            move(before)
            former = client.execute(
                "SELECT handle, price::text, inventory, variants_total, in_stock FROM products ORDER BY handle"
            )
            assert former.fetchall() == [
                ("download", "5.00", None, 0, True),
                ("lamp", "9.00", 0, 2, True),
                ("mug", "8.00", 4, 0, True),
                ("shirt", "40.00", None, 3, True),
            ]
    reported = [record.getMessage() for record in caplog.records if "equal attributes" in record.getMessage()]
    assert len(reported) == 3 and all("shirt" in message or "lamp" in message for message in reported)


# Tables whose rows belong to no store, and why.
GLOBAL_TABLES = {
    "alembic_version": "the revision of the schema",
    "configs": "the stores themselves",
    "users": "a user may have several stores, and reviews products of any",
    "user_identities": "of users",
    "verified_emails": "of users",
    "former_slugs": "a store may take over that of any other",
    "idempotency_keys": "of users, before the store of their mutation is known",
}
# The columns of primary keys, unique indexes and foreign keys between tables, with their tables.
KEYS = """
SELECT t.relname, i.indexrelid::regclass::text, false, array_agg(a.attname::text ORDER BY k.place)
FROM pg_index AS i JOIN pg_class AS t ON t.oid = i.indrelid AND t.relnamespace = 'public'::regnamespace
CROSS JOIN unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place)
JOIN pg_attribute AS a ON a.attrelid = t.oid AND a.attnum = k.number
WHERE i.indisunique AND k.place <= i.indnkeyatts GROUP BY 1, 2, 3
UNION ALL
SELECT t.relname, target.relname, true, array_agg(a.attname::text ORDER BY k.place)
FROM pg_constraint AS c JOIN pg_class AS t ON t.oid = c.conrelid JOIN pg_class AS target ON target.oid = c.confrelid
CROSS JOIN unnest(c.conkey) WITH ORDINALITY AS k (number, place)
JOIN pg_attribute AS a ON a.attrelid = t.oid AND a.attnum = k.number
WHERE c.contype = 'f' AND t.relnamespace = 'public'::regnamespace GROUP BY c.oid, 1, 2, 3
"""


async def test_keys_of_stores_begin_with_the_store(database: Database) -> None:
    async with database.transaction() as connection:
        keys = await (await connection.raw.execute(KEYS)).fetchall()
        tables = await (
            await connection.raw.execute(
                "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
            )
        ).fetchall()
    of_stores = {name for (name,) in tables} - {*GLOBAL_TABLES}
    assert {*GLOBAL_TABLES} <= {name for (name,) in tables} and len(of_stores) > 15
    assert {table for table, _, is_reference, columns in keys if not is_reference and columns[0] == "config_id"} == of_stores
    for table, other, is_reference, columns in keys:
        if table in of_stores and not (is_reference and other in GLOBAL_TABLES):
            assert columns[0] == "config_id", (table, other)


_ID = "an id that comes alone leads to its store"
_SWEEP = "a sweep deletes the oldest rows of all stores"
# Indexes of tables of stores that do not begin with the store, and why.
INDEXES_OF_ALL_STORES = {
    **{f"{table}_id_idx": _ID for table in ("products", "product_variants", "reviews", "images", "image_uploads")},
    **{f"{table}_id_idx": _ID for table in ("jobs", "webhooks", "webhook_deliveries")},
    "analytics_queue_id_idx": "events are aggregated in the order in which they came, those of all stores at once",
    "products_search_idx": "GIN: the store is one of the words",
    "products_tags_idx": "GIN: filters and related products find tags that are rarer than products of the store",
    "products_category_paths_idx": "GIN: filters find categories that are rarer than products of the store",
    "reviews_user_id_idx": "a user who is deleted or renamed has reviews in many stores",
    "images_detached_idx": _SWEEP,
    "image_uploads_expires_at_idx": _SWEEP,
    "jobs_finished_at_idx": _SWEEP,
    "webhook_deliveries_finished_idx": _SWEEP,
    "analytics_event_ids_received_at_idx": _SWEEP,
    "jobs_waiting_idx": "workers take the oldest job of all stores",
    "jobs_owner_idx": "an owner's jobs take turns over all of their stores",
    "jobs_images_owner_idx": "an owner's imports that fetch images take turns over all of their stores",
}
INDEXES = """
SELECT t.relname, i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid, 1, true)
FROM pg_index AS i JOIN pg_class AS t ON t.oid = i.indrelid
WHERE t.relnamespace = 'public'::regnamespace AND t.relkind IN ('r', 'p') AND NOT t.relispartition
"""


async def test_indexes_of_stores_begin_with_the_store(database: Database) -> None:
    async with database.transaction() as connection:
        rows = await (await connection.raw.execute(INDEXES.encode())).fetchall()
    assert {index for table, index, first in rows if table not in GLOBAL_TABLES and first != "config_id"} == {
        *INDEXES_OF_ALL_STORES
    }


CHILDREN = {
    "product_variants": {"product_id": "product", "name": "x", "price": 1},
    "reviews": {"product_id": "product", "user_id": "user", "rating": 1},
    "images": {
        "product_id": "product",
        "place": "x",
        "token": "x",
        "extension": "x",
        "width": 1,
        "height": 1,
        "placeholder": "x",
    },
    "webhook_deliveries": {"webhook_id": "hook", "type": "x", "position": 1, "lane": "product"},
    "job_handles": {"job_id": "job", "handle": "x", "row": 1},
    "job_issues": {"job_id": "job", "number": 9, "message": "x"},
}


@pytest.mark.parametrize("table", CHILDREN)
async def test_rows_refer_to_rows_of_their_own_store(database: Database, table: str) -> None:
    user = await make_user(database)
    store, other = [await make_store(database, user_id=user) for _ in range(2)]
    parents = {"user": user, "product": await make_product(database, store), "job": await make_job(database, store, user)}
    about = {"url": "https://example.com", "read_as": "owner", "secret": "-", "position": 0}
    parents["hook"] = await insert(database, "webhooks", config_id=store, **about)
    values = {name: parents.get(str(value), value) for name, value in CHILDREN[table].items()}
    if table == "product_variants":
        values |= {"attributes": {"Size": "S"}}
    if not table.startswith("job_"):
        values |= {"id": str(uuid7())}
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        await insert_row(database, table, config_id=other, **values)
    await insert_row(database, table, config_id=store, **values)


async def test_image_outlives_its_product_and_store(empty_url: str) -> None:
    async with Database(empty_url) as database:
        user = await make_user(database)
        store = await make_store(database, user_id=user)
        first, second = [await make_image(database, await make_product(database, store)) for _ in range(2)]
        async with database.transaction() as connection:
            for deletion in (
                "DELETE FROM products WHERE id = (SELECT product_id FROM images WHERE id = %s)",
                "DELETE FROM configs",
            ):
                await connection.raw.execute(deletion.encode(), [first] if "%s" in deletion else None)
            cursor = await connection.raw.execute("SELECT id::text, config_id::text, product_id, detached_at IS NULL FROM images")
            assert sorted(await cursor.fetchall()) == [(image, store, None, False) for image in sorted((first, second))]


# What belongs to stores, but for columns that are derived or that the migration adds.
CONTENTS = {
    "products": "id, config_id, handle, options",
    "product_variants": "id, config_id, product_id, attributes, position",
    "reviews": "id, config_id, product_id, user_id, rating",
    "images": "id, config_id, product_id",
    "image_uploads": "id, config_id, size",
    "jobs": "id, config_id, kind",
    "job_issues": "job_id, number, message",
    "job_handles": "job_id, handle, row",
    "webhooks": "id, config_id, url",
    "webhook_deliveries": "id, webhook_id, lane, position",
    "analytics_queue": "id, config_id, ids",
}


async def test_rows_of_stores_keep_their_contents(empty_url: str) -> None:
    async with Database(empty_url) as database:
        user = await make_user(database)
        for _ in range(2):
            store = await make_store(database, user_id=user)
            product = await make_product(database, store)
            for _ in range(2):
                await make_variant(database, product)
                await make_image(database, product)
            await make_review(database, product)
            await make_upload(database, store)
            job = await make_job(database, store, user)
            await insert_row(database, "job_handles", config_id=store, job_id=job, handle="x", row=1)
            about = {"url": "https://example.com", "read_as": "owner", "secret": "-", "position": 0}
            hook = await insert(database, "webhooks", config_id=store, **about)
            about = {"config_id": store, "webhook_id": hook, "type": "x", "lane": store}
            await insert(database, "webhook_deliveries", position=1, **about)
            await insert(database, "analytics_events", config_id=store, event="page_view")

    def load() -> dict[str, list[tuple[Any, ...]]]:
        with psycopg.connect(empty_url) as connection:
            return {
                table: connection.execute(f"SELECT {columns} FROM {table} ORDER BY ROW({columns})::text".encode()).fetchall()
                for table, columns in CONTENTS.items()
            }

    before = load()
    assert all(before.values())
    with connect(empty_url) as connection:
        command.downgrade(build_config(connection), "0028_options")
        connection.commit()
    assert load() == before
    migrate(empty_url)
    assert load() == before
    with psycopg.connect(empty_url) as client:
        for table, parent, column in (("job_issues", "jobs", "job_id"), ("webhook_deliveries", "webhooks", "webhook_id")):
            joined = f"FROM {table} AS t JOIN {parent} AS p ON p.id = t.{column} AND p.config_id = t.config_id"
            assert client.execute(f"SELECT count(*) {joined}".encode()).fetchall() == [(len(before[table]),)]


def test_stored_amounts_get_digits_of_their_currency(bare_url: str, caplog: pytest.LogCaptureFixture) -> None:
    before, after = "0030_attribute_order", "0031_amounts_of_currencies"
    with connect(bare_url) as connection, psycopg.connect(bare_url, autocommit=True) as client:
        command.upgrade(build_config(connection), before)
        connection.commit()
        client.execute("INSERT INTO users (id, email) VALUES (gen_random_uuid(), 'x@example.com')")
        for currency, price, higher in (
            ("JPY", "1000.50", "1001.49"),
            ("KRW", "5", None),
            ("KWD", "1.25", "2"),
            ("EUR", "9.9", None),
        ):
            store = """INSERT INTO configs (id, user_id, store_name, slug, currency)
              SELECT gen_random_uuid(), id, 'x', lower(%s), %s FROM users"""
            client.execute(store, [currency] * 2)
            product = """INSERT INTO products (id, config_id, title, handle, price, compare_at_price, max_price)
              SELECT gen_random_uuid(), id, 'x', 'x', %s, %s, %s FROM configs WHERE currency = %s"""
            client.execute(product, [price, higher, price, currency])
        client.execute(
            """INSERT INTO product_variants (id, config_id, product_id, name, price, compare_at_price, cost)
              SELECT gen_random_uuid(), config_id, id, 'x', price, compare_at_price, price FROM products"""
        )
        with caplog.at_level("WARNING"):
            command.upgrade(build_config(connection), after)
        connection.commit()
        assert [record.args for record in caplog.records] == [(1,)]
        amounts = """SELECT currency, p.price::text, p.compare_at_price::text, p.max_price::text,
            v.price::text, v.compare_at_price::text, v.cost::text
          FROM configs JOIN products AS p ON p.config_id = configs.id JOIN product_variants AS v ON v.product_id = p.id
          ORDER BY currency"""
        assert client.execute(amounts).fetchall() == [
            ("EUR", "9.90", None, "9.90", "9.90", None, "9.90"),
            ("JPY", "1001", "1001", "1001", "1001", "1001", "1001"),
            ("KRW", "5", None, "5", "5", None, "5"),
            ("KWD", "1.250", "2.000", "1.250", "1.250", "2.000", "1.250"),
        ]
        # What has more digits than two, or before the point, becomes what fits.
        client.execute("UPDATE product_variants SET compare_at_price = 1e14 WHERE compare_at_price > 10")
        command.downgrade(build_config(connection), before)
        connection.commit()
        rows = client.execute(amounts).fetchall()
        assert rows[1] == ("JPY", "1001.00", "1001.00", "1001.00", "1001.00", "99999999.99", "1001.00") and rows[3][1] == "1.25"
