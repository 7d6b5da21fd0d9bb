"""Factories of rows with valid defaults. They write to the tables directly, without changelog entries."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from functools import cache
from itertools import count
from secrets import token_hex
from typing import Any, LiteralString

import orjson
from psycopg import sql

from storefront.background import BACKGROUND_TASK_NAME
from storefront.core import request_context
from storefront.core.auth.email_addresses import normalize_email
from storefront.core.auth.tokens import OWN_ISSUER
from storefront.core.currencies import quantize_amount
from storefront.core.db.database import Connection, Database
from storefront.core.ids import uuid7
from storefront.models.review import COUNT_REVIEWS_SQL
from storefront.models.search_document import build_search_vector
from storefront.models.variant import DEFAULT_VARIANT_NAME
from storefront.models.variant_summary import SUMMARIZE_PRODUCTS_SQL, summarize_variants
from storefront.writes.search_documents import write_search_documents

_numbers = count(1)


async def insert(database: Database, table: str, **values: Any) -> str:
    """Insert a row; returns its id. Lists and dicts become JSON."""
    row = {"id": str(uuid7()), **values}
    await insert_row(database, table, **row)
    return str(row["id"])


async def insert_row(database: Database, table: str, **row: Any) -> None:
    """Insert a row of a table that has no ids. Lists and dicts become JSON."""
    async with database.transaction() as connection:
        await _insert_row(connection, table, row)


async def insert_rows(database: Database, table: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Insert rows that all have the same columns, in one transaction. Lists and dicts become JSON."""
    async with database.transaction() as connection:
        await _insert_rows(connection, table, list(rows))


async def _insert_row(connection: Connection, table: str, row: Mapping[str, Any]) -> None:
    await connection.raw.execute(_build_insert(table, tuple(row)), _list_values(row))


async def _insert_rows(connection: Connection, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        await connection.raw.cursor().executemany(_build_insert(table, tuple(rows[0])), map(_list_values, rows))


@cache
def _build_insert(table: str, columns: tuple[str, ...]) -> bytes:
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    placeholders = sql.SQL(", ").join(sql.Placeholder() * len(columns))
    return sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(sql.Identifier(table), names, placeholders).as_bytes()


def _list_values(row: Mapping[str, Any]) -> list[Any]:
    return [orjson.dumps(value).decode() if isinstance(value, (list, dict)) else value for value in row.values()]


async def make_user(
    database: Database, *, subject: str | None = "", issuer: str = OWN_ISSUER, is_verified: bool = True, **values: Any
) -> str:
    """Insert a user with the token `token_of(subject)`; the default subject is the user's id. None: a user without identities."""
    number = next(_numbers)
    row = {"id": str(uuid7()), "email": f"user{number}@example.com", "name": f"User {number}", **values}
    address = normalize_email(row["email"]) if is_verified else None
    identity = {"issuer": issuer, "subject": subject or row["id"], "user_id": row["id"], "email": row["email"]}
    async with database.transaction() as connection:
        await _insert_row(connection, "users", row)
        if address:
            await _insert_row(connection, "verified_emails", {"address": address, "user_id": row["id"]})
        if subject is not None:
            await _insert_row(connection, "user_identities", {**identity, "verified_email": address})
    return str(row["id"])


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
    variant |= {"id": str(uuid7()), "name": DEFAULT_VARIANT_NAME, "config_id": config_id}
    product = {"id": str(uuid7()), "config_id": config_id, "title": f"Product {number}", "handle": f"product-{number}", **values}
    if product.get("status", "active") == "active":
        product.setdefault("published_at", "now")
    product["search_vector"] = build_search_vector(product, ())
    async with database.transaction() as connection:
        [currency] = await _fetch_row(connection, "SELECT currency FROM configs WHERE id = %s", config_id)
        variant = _print_amounts(variant, currency)
        await _insert_row(connection, "products", product | summarize_variants([{**variant, **_SUMMARIZED_DEFAULTS}]))
        await _insert_row(connection, "product_variants", {**variant, "product_id": product["id"]})
    return str(product["id"])


# What the summary of a product depends on, as Postgres sets it for a new variant.
_SUMMARIZED_DEFAULTS = {"position": 0, "is_available": True, "inventory_policy": "deny"}


async def make_variant(database: Database, product_id: str, **values: Any) -> str:
    """Insert an available variant with attributes of its own, in place of the one that `make_product` has made."""
    number = next(_numbers)
    variant = {"id": str(uuid7()), "product_id": product_id, "name": f"Variant {number}", "price": "10.00", "inventory": 5}
    variant |= {"attributes": {"number": str(number)}}
    async with database.transaction() as connection:
        store, currency = await _fetch_row(connection, _STORE_OF_PRODUCT_SQL, product_id)
        await connection.raw.execute(_REMOVE_DEFAULT_VARIANT_SQL, [store, product_id, DEFAULT_VARIANT_NAME])
        [position] = await _fetch_row(connection, _COUNT_VARIANTS_SQL, store, product_id)
        variant |= {"config_id": store, "position": position, **values}
        await _insert_row(connection, "product_variants", _print_amounts(variant, currency))
        await _summarize(connection, store, [product_id])
        await write_search_documents(connection, store, [product_id])
    return str(variant["id"])


_STORE_OF_PRODUCT_SQL = """
SELECT config_id::text, currency FROM products JOIN configs ON configs.id = products.config_id WHERE products.id = %s"""
_COUNT_VARIANTS_SQL = "SELECT count(*) FROM product_variants WHERE config_id = %s AND product_id = %s"
_REMOVE_DEFAULT_VARIANT_SQL = """
DELETE FROM product_variants WHERE config_id = %s AND product_id = %s AND name = %s AND folded_attributes = '{}'"""


async def _fetch_row(connection: Connection, statement: LiteralString, *parameters: object) -> Any:
    """The only row of a query that has one."""
    [row] = await (await connection.raw.execute(statement, parameters)).fetchall()
    return row


def _print_amounts(values: dict[str, Any], currency: str) -> dict[str, Any]:
    """The columns of a variant, with amounts as commands write them: with the digits of the store's currency."""
    amounts = {name: values[name] for name in ("price", "compare_at_price", "cost") if values.get(name) is not None}
    return {**values, **{name: quantize_amount(Decimal(str(amount)), currency) for name, amount in amounts.items()}}


_SUMMARIZE_SQL = SUMMARIZE_PRODUCTS_SQL.replace(":config_id", "%(config_id)s").replace(":ids", "%(ids)s").encode()


async def _summarize(connection: Connection, config_id: str, product_ids: Sequence[str]) -> None:
    await connection.raw.execute(_SUMMARIZE_SQL, {"config_id": config_id, "ids": product_ids})


async def summarize(database: Database, *product_ids: str) -> None:
    """Write the summaries of products whose variants were written by plain SQL. Without ids: of all."""
    async with database.transaction() as connection:
        chosen = (sql.SQL("WHERE id = ANY(%s::uuid[])"), [list(product_ids)]) if product_ids else (sql.SQL(""), [])
        query = sql.SQL("SELECT config_id, array_agg(id) FROM products {} GROUP BY 1").format(chosen[0])
        for config_id, ids in await (await connection.raw.execute(query, chosen[1])).fetchall():
            await _summarize(connection, config_id, ids)


async def write_documents(database: Database, *product_ids: str) -> None:
    """Write the search documents of products that were written by plain SQL."""
    query = "SELECT config_id::text, array_agg(id::text) FROM products WHERE id = ANY(%s::uuid[]) GROUP BY 1"
    async with database.transaction() as connection:
        for config_id, ids in await (await connection.raw.execute(query, [list(product_ids)])).fetchall():
            await write_search_documents(connection, config_id, ids)
        await connection.commit()


async def make_review(database: Database, product_id: str, **values: Any) -> str:
    """Insert a published review of five stars, of a new user unless `user_id` is given, and count it."""
    if "user_id" not in values:
        values["user_id"] = await make_user(database)
    review = {"id": str(uuid7()), "product_id": product_id, "rating": 5, **values}
    async with database.transaction() as connection:
        store, _ = await _fetch_row(connection, _STORE_OF_PRODUCT_SQL, product_id)
        review.setdefault("config_id", store)
        await _insert_row(connection, "reviews", review)
        await connection.raw.execute(_COUNT_REVIEWS_SQL, {"store": review["config_id"]})
    return str(review["id"])


_COUNT_REVIEWS_SQL = COUNT_REVIEWS_SQL.replace(":config_id", "%(store)s").encode()


async def count_reviews(database: Database, config_id: str) -> None:
    """Count the reviews of a store's products after plain SQL has written some."""
    async with database.transaction() as connection:
        await connection.raw.execute(_COUNT_REVIEWS_SQL, {"store": config_id})


async def make_job(database: Database, config_id: str, user_id: str, kind: str = "import", issues: int = 2, **values: Any) -> str:
    """Insert a finished import or export with this many row errors."""
    source = "catalogue" if kind == "export" else "shopify_csv"
    defaults = {"status": "succeeded", "object_key": f"{kind}s/{config_id}/{next(_numbers)}.csv", "object_size": 10}
    defaults |= {"source": source, "file_name": "shop.csv"}
    job = {"id": str(uuid7()), "config_id": config_id, "user_id": user_id, "kind": kind, **defaults, **values}
    of_job = [
        {"config_id": config_id, "job_id": job["id"], "number": number, "row": number + 1} for number in range(1, issues + 1)
    ]
    changes = of_job if kind == "import" else []
    async with database.transaction() as connection:
        await _insert_row(connection, "jobs", job)
        await _insert_rows(connection, "job_issues", [{**row, "message": "A row."} for row in of_job])
        await _insert_rows(connection, "job_changes", [{**row, "handle": "mug", "kind": "create_product"} for row in changes])
    return str(job["id"])


async def make_image(database: Database, product_id: str, **values: Any) -> str:
    """Insert an image and append it to those of the product. It has no files in storage."""
    id_, token = str(uuid7()), token_hex(16)
    image = {"id": id_, "place": f"media/{id_}-{token}", "token": token, "extension": "jpg", "width": 900, "height": 600}
    image |= {"product_id": product_id, "placeholder": "data:,", **values}
    address = f"http://localhost/media/{id_}-{token}/full.jpg"
    append = "UPDATE products SET images = images || to_jsonb(%s::text) WHERE id = %s RETURNING config_id"
    async with database.transaction() as connection:
        [store] = await _fetch_row(connection, append, address, product_id)
        await _insert_row(connection, "images", {"config_id": store, **image})
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
