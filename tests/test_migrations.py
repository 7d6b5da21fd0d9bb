"""Migrations: upgrade, downgrade, agreement with the models, and constraints of the schema."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import CheckConstraint as Check

from storefront.core.db.database import Database
from storefront.core.db.embedded_postgres import build_database_url, create_database
from storefront.core.db.migrations import build_config, connect, get_current_revision, get_head_revision, migrate
from storefront.core.ids import uuid7
from storefront.models import is_managed_by_metadata, metadata
from tests.factories import insert, make_product, make_review, make_store, make_user, make_variant

COMMAND = str(Path(sys.executable).with_name("storefront"))
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
        about = {"url": "https://example.com", "read_as": "owner", "secret": "-", "position": 0}
        topics = "{product.created,config.updated,config.unpublished}"
        hook = await insert(database, "webhooks", config_id=store, topics=topics, **about)
        for type_ in ("config.published", "product.deleted"):
            await insert(database, "webhook_deliveries", webhook_id=hook, type=type_, position=1, lane=store)

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


async def test_deleting_a_store_cascades(database: Database) -> None:
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


def test_newer_schema_is_reported_by_every_command(empty_url: str) -> None:
    with psycopg.connect(empty_url, autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'from the future'")
    environment = os.environ | {"STOREFRONT_DATABASE_URL": empty_url}
    for name in ("migrate", "serve", "roll-up"):
        done = subprocess.run([COMMAND, name], env=environment, capture_output=True, text=True, check=False)
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
