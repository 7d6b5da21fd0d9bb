"""Factories of rows with valid defaults. They write to the tables directly, without changelog entries."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from secrets import token_hex
from typing import Any

import orjson
from psycopg import sql

from storefront.background import BACKGROUND_TASK_NAME
from storefront.core import request_context
from storefront.core.auth.email_addresses import normalize_email
from storefront.core.auth.tokens import OWN_ISSUER
from storefront.core.db.database import Database
from storefront.core.ids import uuid7
from storefront.models.variant import DEFAULT_VARIANT_NAME
from storefront.models.variant_summary import SUMMARIZE_PRODUCTS_SQL

_numbers = count(1)


async def insert(database: Database, table: str, **values: Any) -> str:
    """Insert a row; returns its id. Lists and dicts become JSON."""
    row = {"id": str(uuid7()), **values}
    parameters = [orjson.dumps(value).decode() if isinstance(value, (list, dict)) else value for value in row.values()]
    names = sql.SQL(", ").join(sql.Identifier(name) for name in row)
    placeholders = sql.SQL(", ").join(sql.Placeholder() for _ in row)
    async with database.transaction() as connection:
        statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(sql.Identifier(table), names, placeholders)
        await connection.raw.execute(statement, parameters)
    return str(row["id"])


async def make_user(
    database: Database, *, subject: str | None = "", issuer: str = OWN_ISSUER, is_verified: bool = True, **values: Any
) -> str:
    """Insert a user with the token `token_of(subject)`; the default subject is the user's id. None: a user without identities."""
    number = next(_numbers)
    id_ = str(uuid7())
    row = {"id": id_, "email": f"user{number}@example.com", "name": f"User {number}", **values}
    user = await insert(database, "users", **row)
    address = normalize_email(row["email"]) if is_verified else None
    async with database.transaction() as connection:
        if address:
            await connection.raw.execute("INSERT INTO verified_emails (address, user_id) VALUES (%s, %s)", [address, user])
        if subject is not None:
            statement = (
                "INSERT INTO user_identities (issuer, subject, user_id, email, verified_email) VALUES (%s, %s, %s, %s, %s)"
            )
            await connection.raw.execute(statement, [issuer, subject or user, user, row["email"], address])
    return user


async def make_store(database: Database, **values: Any) -> str:
    """Insert a published store, of a new user unless `user_id` is given."""
    number = next(_numbers)
    if "user_id" not in values:
        values["user_id"] = await make_user(database)
    defaults = {"store_name": f"Store {number}", "slug": f"store-{number}", "is_published": True}
    return await insert(database, "configs", **{**defaults, **values})


# Columns of a product that are those of its only variant here.
_VARIANT_DEFAULTS = {"price": "10.00", "compare_at_price": None, "inventory": 5}


async def make_product(database: Database, config_id: str, **values: Any) -> str:
    """Insert an active product with one variant, which has no attributes and gets `price`, `compare_at_price` and `inventory`."""
    number = next(_numbers)
    variant = {name: values.pop(name, default) for name, default in _VARIANT_DEFAULTS.items()}
    defaults = {"title": f"Product {number}", "handle": f"product-{number}", "price": 0, "max_price": 0}
    product = await insert(database, "products", config_id=config_id, **{**defaults, **values})
    await insert(database, "product_variants", config_id=config_id, product_id=product, name=DEFAULT_VARIANT_NAME, **variant)
    await summarize(database, product)
    return product


async def make_variant(database: Database, product_id: str, **values: Any) -> str:
    """Insert an available variant with attributes of its own, in place of the one that `make_product` has made."""
    number = next(_numbers)
    defaults = {"name": f"Variant {number}", "price": "10.00", "inventory": 5, "attributes": {"number": str(number)}}
    remove = "DELETE FROM product_variants WHERE product_id = %s AND name = %s AND attributes = '{}'"
    next_position = "SELECT config_id, (SELECT count(*) FROM product_variants WHERE product_id = %s) FROM products WHERE id = %s"
    async with database.transaction() as connection:
        await connection.raw.execute(remove, [product_id, DEFAULT_VARIANT_NAME])
        found = await (await connection.raw.execute(next_position, [product_id, product_id])).fetchone()
    assert found
    defaults |= {"config_id": found[0], "position": found[1]}
    variant = await insert(database, "product_variants", product_id=product_id, **{**defaults, **values})
    await summarize(database, product_id)
    return variant


async def summarize(database: Database, *product_ids: str) -> None:
    """Write the summaries of products whose variants were written by plain SQL. Without ids: of all."""
    async with database.transaction() as connection:
        ids = [*product_ids] or [row[0] for row in await (await connection.raw.execute("SELECT id FROM products")).fetchall()]
        await connection.raw.execute(SUMMARIZE_PRODUCTS_SQL.replace(":ids", "%s").encode(), [ids])


async def make_review(database: Database, product_id: str, **values: Any) -> str:
    """Insert a review of five stars, of a new user unless `user_id` is given."""
    if "user_id" not in values:
        values["user_id"] = await make_user(database)
    return await insert(database, "reviews", product_id=product_id, **{"rating": 5, **values})


async def make_job(database: Database, config_id: str, user_id: str, kind: str = "import", issues: int = 2, **values: Any) -> str:
    """Insert a finished import or export with this many row errors."""
    source = "catalogue" if kind == "export" else "shopify_csv"
    defaults = {"status": "succeeded", "object_key": f"{kind}s/{config_id}/{next(_numbers)}.csv", "object_size": 10}
    defaults |= {"source": source, "file_name": "shop.csv"}
    job = await insert(database, "jobs", config_id=config_id, user_id=user_id, kind=kind, **{**defaults, **values})
    async with database.transaction() as connection:
        for number in range(1, issues + 1):
            row = [job, number, number + 1, "A row."]
            statement = 'INSERT INTO job_issues (job_id, number, "row", message) VALUES (%s, %s, %s, %s)'
            await connection.raw.execute(statement, row)
    return job


async def make_image(database: Database, product_id: str, **values: Any) -> str:
    """Insert an image and append it to those of the product. It has no files in storage."""
    id_ = str(uuid7())
    async with database.transaction() as connection:
        find = "SELECT config_id FROM products WHERE id = %s FOR UPDATE"
        found = await (await connection.raw.execute(find, [product_id])).fetchone()
    assert found
    token = token_hex(16)
    defaults = {"id": id_, "place": f"media/{id_}-{token}", "token": token, "extension": "jpg", "width": 900, "height": 600}
    defaults |= {"placeholder": "data:,"}
    await insert(database, "images", config_id=found[0], product_id=product_id, **{**defaults, **values})
    address = f"http://localhost/media/{id_}-{token}/full.jpg"
    async with database.transaction() as connection:
        await connection.raw.execute(
            "UPDATE products SET images = images || to_jsonb(%s::text) WHERE id = %s", [address, product_id]
        )
    return id_


async def make_upload(database: Database, config_id: str, **values: Any) -> str:
    """Insert a pending upload of a PNG, which has not expired."""
    async with database.transaction() as connection:
        expiry = await (await connection.raw.execute("SELECT now() + interval '15 minutes'")).fetchone()
    assert expiry
    defaults = {"content_type": "image/png", "size": 100, "expires_at": expiry[0]}
    return await insert(database, "image_uploads", config_id=config_id, **{**defaults, **values})


@contextmanager
def count_statements(database: Database, *, looks: bool = False) -> Iterator[list[str]]:
    """Record the SQL of all statements, except for background tasks. `looks`: include the polls of background services."""
    seen: list[str] = []

    def observe(sql: str) -> None:
        task = asyncio.current_task()
        is_job = task is not None and task.get_name() == BACKGROUND_TASK_NAME
        # The webhook dispatcher and the changelog poller run statements at intervals, outside of requests.
        is_look = (
            not looks
            and request_context.get_current_context() is None
            and any(part in sql for part in ("webhook", "coalesce(store_positions.position"))
        )
        if not is_job and (looks or not is_look):
            seen.append(sql)

    database.observers.append(observe)
    try:
        yield seen
    finally:
        database.observers.remove(observe)
