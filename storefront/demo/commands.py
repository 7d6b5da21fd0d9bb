"""Loads the demo stores with COPY, in one transaction."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache

from sqlalchemy import ARRAY, Double, Text, any_, bindparam, exists, select, text, union_all

from storefront.core.db.database import Connection, Database, Statement, compile_statement
from storefront.core.image_processing import MEDIA_TYPES
from storefront.core.storage.base import IMMUTABLE_CACHE_CONTROL, ObjectStorage
from storefront.demo.generate import TableLoad, build_table_loads
from storefront.demo.pictures import EXTENSION, draw_pictures
from storefront.demo.plan import Plan, build_plan
from storefront.models import configs, verified_emails
from storefront.models.review import COUNT_REVIEWS_SQL
from storefront.queries.images import FULL_SIZE_NAME

Progress = Callable[[str, int, int], None]
"""Receives the name of a table, the number of rows written, and the total."""

DEFAULT_BASE_URL = "http://127.0.0.1:8000"

_REPORTS_PER_TABLE = 20
_TABLES = (
    "users, verified_emails, configs, products, product_variants, reviews, images, changes, store_positions, analytics_events"
)


class AlreadySeededError(Exception):
    """The demo stores, or rows with the same names, exist already. Nothing was written."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f'"{name}" exists already: demo data can be loaded only once. Use the existing data, or an empty database.'
        )


@dataclass(frozen=True, slots=True)
class SeedSummary:
    """The number of rows by kind, the duration, and a starting point: the biggest published store and its owner."""

    users: int
    configs: int
    products: int
    variants: int
    reviews: int
    events: int
    seconds: float
    slug: str
    owner_email: str


def _ignore_progress(table: str, done: int, total: int) -> None:
    """The default: no progress reports."""


async def seed(
    database: Database,
    *,
    products: int = 2_000,
    events: int = 20_000,
    anchor: datetime | None = None,
    base_url: str = DEFAULT_BASE_URL,
    progress: Progress = _ignore_progress,
) -> SeedSummary:
    """Load this many products and events, with their users, stores, variants, reviews and changes: all or nothing.

    Equal numbers and an equal `anchor` (a time with a time zone) give equal rows, keys included. All rows date from before the
    anchor, events from the 90 days before it. The default anchor is the last midnight in UTC, so that today's charts are not
    empty. Without products there are no events. `base_url` is the server's, in the URLs of pictures, which `store_pictures`
    writes. Raises AlreadySeededError before anything is written.
    """
    started_at = time.perf_counter()
    plan = build_plan(products, events, anchor or _get_last_midnight(), base_url)
    # No timeouts: seeding takes longer than any request may. The advisory lock makes a concurrent run wait, then fail.
    async with database.transaction(statement_timeout=0, settings={"lock_timeout": 0}) as connection:
        await connection.fetch(Statement("SELECT pg_advisory_xact_lock(7312028)::text", {}))
        await _require_unseeded(connection, plan)
        await connection.fetch(_create_partitions(), {"latest": plan.anchor / 1_000_000})
        written = {load.table: await _copy_rows(connection, load, progress) for load in build_table_loads(plan)}
        for store in plan.stores:
            await connection.fetch(_count_reviews(), {"config_id": store.id})
    await _vacuum_tables(database)
    return _build_summary(plan, written, time.perf_counter() - started_at)


async def store_pictures(objects: ObjectStorage) -> None:
    """Draw the pictures of the demo data into the object storage. Raises StorageError and OSError."""
    for place, content in await asyncio.to_thread(lambda: list(draw_pictures())):
        await objects.put(
            f"{place}/{FULL_SIZE_NAME}.{EXTENSION}",
            content,
            MEDIA_TYPES[EXTENSION],
            cache_control=IMMUTABLE_CACHE_CONTROL,
        )


async def is_empty(database: Database) -> bool:
    """Whether the database has no store."""
    [(empty,)] = await database.fetch(_select_is_empty())
    return bool(empty)


async def _require_unseeded(connection: Connection, plan: Plan) -> None:
    names = {"slugs": [store.slug for store in plan.stores], "emails": [user.email for user in plan.users]}
    existing = await connection.fetch(_select_existing_names(), names)
    if existing:
        raise AlreadySeededError(existing[0].name)


async def _copy_rows(connection: Connection, load: TableLoad, progress: Progress) -> int:
    done, report_interval = 0, load.total // _REPORTS_PER_TABLE + 1
    statement = f"COPY {load.table} ({load.columns}) FROM STDIN".encode()
    async with connection.raw.cursor() as cursor, cursor.copy(statement) as copy:
        for done, row in enumerate(load.rows, 1):
            await copy.write_row(row)
            if done % report_interval == 0 and done < load.total:
                progress(load.table, done, load.total)
    progress(load.table, done, load.total)
    return done


async def _vacuum_tables(database: Database) -> None:
    """Update planner statistics and the visibility map at once, which autovacuum would do later: index-only scans need them."""
    for table in _TABLES.split(", "):
        await database.fetch(compile_statement(text(f"VACUUM (ANALYZE) {table}")))


def _build_summary(plan: Plan, written: dict[str, int], seconds: float) -> SeedSummary:
    first = plan.stores[0]
    return SeedSummary(
        users=written["users"],
        configs=written["configs"],
        products=written["products"],
        variants=written["product_variants"],
        reviews=written["reviews"],
        events=written["analytics_events"],
        seconds=seconds,
        slug=first.slug,
        owner_email=first.owner.email,
    )


def _get_last_midnight() -> datetime:
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


@cache
def _create_partitions() -> Statement:
    sql = "SELECT storefront_event_partitions(to_timestamp(:latest) - interval '4 months', to_timestamp(:latest)) AS made"
    return compile_statement(text(sql).bindparams(bindparam("latest", type_=Double)))


@cache
def _count_reviews() -> Statement:
    return compile_statement(text(COUNT_REVIEWS_SQL))


@cache
def _select_is_empty() -> Statement:
    return compile_statement(select(~exists(select(configs.c.id))))


@cache
def _select_existing_names() -> Statement:
    slugs, emails = (bindparam(name, type_=ARRAY(Text)) for name in ("slugs", "emails"))
    stores = select(configs.c.slug.label("name")).where(configs.c.slug == any_(slugs))
    people = select(verified_emails.c.address).where(verified_emails.c.address == any_(emails))
    return compile_statement(union_all(stores, people).limit(1))
