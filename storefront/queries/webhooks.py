"""Webhooks of stores, and what they were told."""

from collections.abc import Sequence
from functools import cache

from sqlalchemy import bindparam, func, select, text, true

from storefront.core.db.database import Database, Row, Statement, compiled
from storefront.models import products, webhook_deliveries, webhooks
from storefront.queries import keyset
from storefront.queries.batching import by_key, by_parent
from storefront.queries.visibility import ids

# As the tables have it, in the order in which operators want to see it.
_OVERVIEW = """
SELECT configs.slug, webhooks.id, webhooks.url, webhooks.disabled_at, webhooks.disabled_reason, webhooks.failures,
       webhooks.failing_since, webhooks.resting_until, coalesce(store_positions.position, 0) - webhooks.position AS unread,
       pending.number AS pending, pending.oldest, last.tried ->> 'error' AS error
FROM webhooks JOIN configs ON configs.id = webhooks.config_id
LEFT JOIN store_positions ON store_positions.config_id = configs.id
CROSS JOIN LATERAL (
  SELECT count(*) AS number, min(created_at) AS oldest FROM webhook_deliveries
  WHERE webhook_id = webhooks.id AND state = 'pending'
) AS pending
LEFT JOIN LATERAL (
  SELECT tries -> -1 AS tried FROM webhook_deliveries
  WHERE webhook_id = webhooks.id AND attempts > 0 AND (state = 'failed' OR next_attempt_at IS NOT NULL)
  ORDER BY created_at DESC, id DESC LIMIT 1
) AS last ON true
WHERE CAST(:slug AS text) IS NULL OR configs.slug = :slug
ORDER BY webhooks.disabled_at IS NULL, webhooks.failures DESC, pending.number DESC, configs.slug, webhooks.id LIMIT :most
"""


async def of_store(database: Database, config_id: str) -> list[Row]:
    """The webhooks of a store, oldest first: they are few."""
    return await database.fetch(_of_store(), {"config_id": config_id})


@cache
def _of_store() -> Statement:
    found = select(webhooks).where(webhooks.c.config_id == bindparam("config_id"))
    return compiled(found.order_by(webhooks.c.created_at, webhooks.c.id))


async def own(database: Database, webhook_id: str, owned: Sequence[str]) -> Row | None:
    """The webhook with this id, if it is of one of these stores."""
    rows = await database.fetch(_own(), {"id": webhook_id, "ids": list(owned)})
    return rows[0] if rows else None


@cache
def _own() -> Statement:
    return compiled(select(webhooks).where(webhooks.c.id == bindparam("id"), webhooks.c.config_id == ids("ids")))


async def pending_of(database: Database, keys: Sequence[str]) -> list[int]:
    """How many deliveries of each webhook wait."""
    rows = by_key(await database.fetch(_pending(), {"ids": list(keys)}), keys, "webhook_id")
    return [row.pending if row else 0 for row in rows]


@cache
def _pending() -> Statement:
    columns = webhook_deliveries.c
    waiting = select(columns.webhook_id, func.count().label("pending")).where(columns.webhook_id == ids("ids"))
    return compiled(waiting.where(text("state = 'pending'")).group_by(columns.webhook_id))


async def deliveries_of(database: Database, keys: Sequence[str], window: keyset.Window, state: str | None) -> list[keyset.Page]:
    """A page of what each webhook was told, or is to be told, newest first. `state`: those in it only."""
    cursor = keyset.resume(window, (_digest(key) for key in keys), keyset.is_moment)
    parameters = {"ids": list(keys), "state": state} | keyset.parameters(window, cursor)
    rows = by_parent(await database.fetch(_deliveries(cursor is not None), parameters), keys, "webhook_id")
    return [keyset.page_of(found, window, _cursor_of) for found in rows]


async def count_of(database: Database, keys: Sequence[str], state: str | None) -> list[int]:
    """How many deliveries of each webhook are known."""
    rows = by_key(await database.fetch(_count(), {"ids": list(keys), "state": state}), keys, "webhook_id")
    return [row.count if row else 0 for row in rows]


@cache
def _count() -> Statement:
    columns = webhook_deliveries.c
    found = select(columns.webhook_id, func.count().label("count")).where(columns.webhook_id == ids("ids"), _IN_STATE)
    return compiled(found.group_by(columns.webhook_id))


def _digest(webhook_id: str) -> str:
    return keyset.digest("deliveries", webhook_id)


def _cursor_of(row: Row) -> str:
    return keyset.encode(_digest(row.webhook_id), keyset.Cursor(row.created_at, row.id))


_IN_STATE = text("(CAST(:state AS text) IS NULL OR webhook_deliveries.state = :state)")


@cache
def _deliveries(behind: bool) -> Statement:
    key, tie = webhook_deliveries.c.created_at, webhook_deliveries.c.id
    wanted = [keyset.behind(key, tie, descending=True)] if behind else []
    mine = select(webhook_deliveries).where(webhook_deliveries.c.webhook_id == webhooks.c.id, _IN_STATE, *wanted)
    newest = mine.correlate(webhooks).order_by(*keyset.order(key, tie, descending=True))
    page = newest.limit(bindparam("limit")).lateral("page")
    return compiled(select(page).select_from(webhooks.join(page, true())).where(webhooks.c.id == ids("ids")))


async def last_test(database: Database, webhook_id: str) -> Row | None:
    """What the last test of a webhook came to."""
    rows = await database.fetch(_last_test(), {"id": webhook_id})
    return rows[0] if rows else None


@cache
def _last_test() -> Statement:
    columns = webhook_deliveries.c
    tests = select(webhook_deliveries).where(columns.webhook_id == bindparam("id"), text("type = 'webhook.test'"))
    return compiled(tests.order_by(columns.created_at.desc(), columns.id.desc()).limit(1))


async def newest_product(database: Database, config_id: str, *, active_only: bool) -> str | None:
    """The id of the newest product of a store."""
    rows = await database.fetch(_newest_product(active_only), {"config_id": config_id})
    return str(rows[0].id) if rows else None


@cache
def _newest_product(active_only: bool) -> Statement:
    found = select(products.c.id).where(products.c.config_id == bindparam("config_id"))
    seen = found.where(products.c.status == "active") if active_only else found
    return compiled(seen.order_by(products.c.created_at.desc(), products.c.id.desc()).limit(1))


async def owner_of(database: Database, config_id: str) -> Row:
    """Whose a store is, whether it is open, and how far its log has come."""
    [row] = await database.fetch(_owner(), {"config_id": config_id})
    return row


@cache
def _owner() -> Statement:
    return compiled(
        text("""
SELECT configs.user_id AS owner_id, is_published AS is_open, coalesce(store_positions.position, 0) AS head
FROM configs LEFT JOIN store_positions ON store_positions.config_id = configs.id WHERE configs.id = :config_id
""")
    )


async def overview(database: Database, slug: str | None, most: int) -> list[Row]:
    """All webhooks, or those of one store, for operators: those that are in trouble first."""
    return await database.fetch(_overview(), {"slug": slug, "most": most})


@cache
def _overview() -> Statement:
    return compiled(text(_OVERVIEW))
