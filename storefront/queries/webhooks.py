"""Webhooks of stores, and their deliveries."""

from collections.abc import Sequence
from functools import cache

from sqlalchemy import bindparam, func, select, text

from storefront.core.db.database import Database, Row, Statement, compile_statement
from storefront.models import products, webhook_deliveries, webhooks
from storefront.models.rows import DeliveryRow, WebhookRow
from storefront.queries import keyset
from storefront.queries.batching import align_by_key, group_by_parent
from storefront.queries.paging import limit_newest, load_page_per_parent, select_per_parent
from storefront.queries.visibility import any_of_ids

# For operators: disabled and failing webhooks first.
_OVERVIEW_SQL = """
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


# A store has few webhooks, so they are not paged.
MAX_WEBHOOKS_PER_STORE = 20


async def load_webhooks_of_stores(database: Database, keys: Sequence[str]) -> list[list[WebhookRow]]:
    """The webhooks of each store, oldest first."""
    return group_by_parent(await database.fetch(_select_of_stores(), {"ids": list(keys)}), keys, "config_id")


@cache
def _select_of_stores() -> Statement:
    query = select(webhooks).where(webhooks.c.config_id == any_of_ids("ids"))
    return compile_statement(query.order_by(webhooks.c.created_at, webhooks.c.id))


async def load_webhooks_by_ids(
    database: Database, keys: Sequence[str], owned_store_ids: Sequence[str]
) -> list[WebhookRow | None]:
    """The webhook of each id, if it belongs to one of these stores; else None."""
    return align_by_key(await database.fetch(_select_own(), {"ids": list(keys), "stores": list(owned_store_ids)}), keys)


@cache
def _select_own() -> Statement:
    return compile_statement(
        select(webhooks).where(webhooks.c.id == any_of_ids("ids"), webhooks.c.config_id == any_of_ids("stores"))
    )


async def load_deliveries_by_ids(
    database: Database, keys: Sequence[str], owned_store_ids: Sequence[str]
) -> list[DeliveryRow | None]:
    """The delivery of each id, if its webhook belongs to one of these stores; else None."""
    rows = await database.fetch(_select_own_deliveries(), {"ids": list(keys), "stores": list(owned_store_ids)})
    return align_by_key(rows, keys)


@cache
def _select_own_deliveries() -> Statement:
    joined = webhook_deliveries.join(webhooks, webhooks.c.id == webhook_deliveries.c.webhook_id)
    rows = select(webhook_deliveries).select_from(joined).where(webhooks.c.config_id == any_of_ids("stores"))
    return compile_statement(rows.where(webhook_deliveries.c.id == any_of_ids("ids")))


async def count_pending_deliveries(database: Database, keys: Sequence[str]) -> list[int]:
    """The number of pending deliveries of each webhook."""
    rows = align_by_key(await database.fetch(_select_pending_counts(), {"ids": list(keys)}), keys, "webhook_id")
    return [row.pending if row else 0 for row in rows]


@cache
def _select_pending_counts() -> Statement:
    columns = webhook_deliveries.c
    pending_counts = select(columns.webhook_id, func.count().label("pending")).where(columns.webhook_id == any_of_ids("ids"))
    return compile_statement(pending_counts.where(text("state = 'pending'")).group_by(columns.webhook_id))


async def load_deliveries(database: Database, keys: Sequence[str], window: keyset.Window, state: str | None) -> list[keyset.Page]:
    """A page of each webhook's deliveries, newest first. `state` filters them; None: all."""
    return await load_page_per_parent(database, _select_deliveries, window, "deliveries", keys, "webhook_id", {"state": state})


async def count_deliveries(database: Database, keys: Sequence[str], state: str | None) -> list[int]:
    """The number of stored deliveries of each webhook, in a state or (None) in any."""
    rows = align_by_key(await database.fetch(_select_counts(), {"ids": list(keys), "state": state}), keys, "webhook_id")
    return [row.count if row else 0 for row in rows]


@cache
def _select_counts() -> Statement:
    columns = webhook_deliveries.c
    query = select(columns.webhook_id, func.count().label("count")).where(
        columns.webhook_id == any_of_ids("ids"), _HAS_REQUESTED_STATE
    )
    return compile_statement(query.group_by(columns.webhook_id))


_HAS_REQUESTED_STATE = text("(CAST(:state AS text) IS NULL OR webhook_deliveries.state = :state)")


@cache
def _select_deliveries(has_cursor: bool) -> Statement:
    columns = webhook_deliveries.c
    deliveries = select(webhook_deliveries).where(columns.webhook_id == webhooks.c.id, _HAS_REQUESTED_STATE)
    page = limit_newest(deliveries, columns.created_at, columns.id, has_cursor=has_cursor)
    return compile_statement(select_per_parent(webhooks, page))


async def find_newest_product_id(database: Database, config_id: str, *, active_only: bool) -> str | None:
    """The id of the newest product of a store."""
    rows = await database.fetch(_select_newest_product(active_only), {"config_id": config_id})
    return str(rows[0].id) if rows else None


@cache
def _select_newest_product(active_only: bool) -> Statement:
    store_products = select(products.c.id).where(products.c.config_id == bindparam("config_id"))
    eligible_products = store_products.where(products.c.status == "active") if active_only else store_products
    return compile_statement(eligible_products.order_by(products.c.created_at.desc(), products.c.id.desc()).limit(1))


async def load_store_owner(database: Database, config_id: str) -> Row:
    """A store's `owner_id`, whether it `is_open`, and `head`, the last position of its log."""
    [row] = await database.fetch(_select_owner(), {"config_id": config_id})
    return row


@cache
def _select_owner() -> Statement:
    return compile_statement(
        text("""
SELECT configs.user_id AS owner_id, is_published AS is_open, coalesce(store_positions.position, 0) AS head
FROM configs LEFT JOIN store_positions ON store_positions.config_id = configs.id WHERE configs.id = :config_id
""")
    )


async def load_webhook_overview(database: Database, slug: str | None, limit: int) -> list[Row]:
    """All webhooks, or those of one store, for operators: disabled and failing ones first."""
    return await database.fetch(_select_overview(), {"slug": slug, "most": limit})


@cache
def _select_overview() -> Statement:
    return compile_statement(text(_OVERVIEW_SQL))
