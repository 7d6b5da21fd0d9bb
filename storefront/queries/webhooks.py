"""Webhooks of stores, and their deliveries."""

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

from sqlalchemy import ColumnElement, FromClause, Select, TextClause, bindparam, func, select, text

from storefront.core.db.database import Database, Row, Statement, compile_statement
from storefront.models import products, webhook_deliveries, webhooks
from storefront.models.row_keys import (
    RowKey,
    are_of_single_store,
    bind_keys,
    build_key_parameters,
    build_store_parameters,
    get_store,
    have_single_store,
    is_any_store,
)
from storefront.models.rows import DeliveryRow, WebhookRow
from storefront.queries import keyset
from storefront.queries.batching import align_by_key, group_by_parent
from storefront.queries.paging import limit_newest, load_page_per_parent, select_of_keys, select_per_parent

# For operators: disabled and failing webhooks first.
_OVERVIEW_SQL = """
SELECT configs.slug, webhooks.id, webhooks.url, webhooks.disabled_at, webhooks.disabled_reason, webhooks.failures,
       webhooks.failing_since, webhooks.resting_until, coalesce(store_positions.position, 0) - webhooks.position AS unread,
       pending.number AS pending, pending.oldest, last.tried ->> 'error' AS error
FROM webhooks JOIN configs ON configs.id = webhooks.config_id
LEFT JOIN store_positions ON store_positions.config_id = configs.id
CROSS JOIN LATERAL (
  SELECT count(*) AS number, min(created_at) AS oldest FROM webhook_deliveries
  WHERE config_id = webhooks.config_id AND webhook_id = webhooks.id AND state = 'pending'
) AS pending
LEFT JOIN LATERAL (
  SELECT tries -> -1 AS tried FROM webhook_deliveries
  WHERE config_id = webhooks.config_id AND webhook_id = webhooks.id AND attempts > 0
    AND (state = 'failed' OR next_attempt_at IS NOT NULL)
  ORDER BY created_at DESC, id DESC LIMIT 1
) AS last ON true
WHERE CAST(:slug AS text) IS NULL OR configs.slug = :slug
ORDER BY webhooks.disabled_at IS NULL, webhooks.failures DESC, pending.number DESC, configs.slug, webhooks.id LIMIT :most
"""


# A store has few webhooks, so they are not paged.
MAX_WEBHOOKS_PER_STORE = 20


async def load_webhooks_of_stores(database: Database, keys: Sequence[str]) -> list[list[WebhookRow]]:
    """The webhooks of each store, oldest first."""
    rows = await database.fetch(_select_of_stores(have_single_store(keys)), build_store_parameters(keys))
    return group_by_parent(rows, keys, "config_id")


@cache
def _select_of_stores(is_single_store: bool) -> Statement:
    query = select(webhooks).where(is_any_store(webhooks.c.config_id, is_single_store))
    return compile_statement(query.order_by(webhooks.c.created_at, webhooks.c.id))


async def load_webhooks_by_keys(database: Database, keys: Sequence[RowKey]) -> list[WebhookRow | None]:
    """The webhook of each key. Does not check permissions."""
    rows = await database.fetch(_select_by_keys(are_of_single_store(keys)), build_key_parameters(keys))
    return align_by_key(rows, [key.id for key in keys])


@cache
def _select_by_keys(is_single_store: bool) -> Statement:
    return compile_statement(select_of_keys(select(webhooks), webhooks, is_single_store))


async def load_deliveries_by_keys(database: Database, keys: Sequence[RowKey]) -> list[DeliveryRow | None]:
    """The delivery of each key. Does not check permissions."""
    rows = await database.fetch(_select_deliveries_by_keys(are_of_single_store(keys)), build_key_parameters(keys))
    return align_by_key(rows, [key.id for key in keys])


@cache
def _select_deliveries_by_keys(is_single_store: bool) -> Statement:
    return compile_statement(select_of_keys(select(webhook_deliveries), webhook_deliveries, is_single_store))


async def count_pending_deliveries(database: Database, keys: Sequence[RowKey]) -> list[int]:
    """The number of pending deliveries of each webhook."""
    counts = await database.fetch(_select_pending_counts(are_of_single_store(keys)), build_key_parameters(keys))
    rows = align_by_key(counts, [key.id for key in keys], "webhook_id")
    return [row.pending if row else 0 for row in rows]


@cache
def _select_pending_counts(is_single_store: bool) -> Statement:
    return compile_statement(_select_counts_per_webhook(is_single_store, "pending", text("state = 'pending'")))


def _select_counts_per_webhook(is_single_store: bool, name: str, condition: ColumnElement[bool] | TextClause) -> Select[Any]:
    """The number of deliveries of each webhook of `bind_keys` that meet a condition."""
    key = bind_keys(is_single_store)
    count = select(key.c.id.label("webhook_id"), func.count().label(name)).select_from(webhook_deliveries)
    return select_per_parent(key, count.where(_is_of_webhook(key, is_single_store), condition), name="counted")


def _is_of_webhook(key: FromClause, is_single_store: bool) -> ColumnElement[bool]:
    """Whether a delivery is of the webhook with a key of `bind_keys`."""
    columns = webhook_deliveries.c
    return (columns.config_id == get_store(key, is_single_store)) & (columns.webhook_id == key.c.id)


async def load_deliveries(
    database: Database, keys: Sequence[RowKey], window: keyset.Window, state: str | None
) -> list[keyset.Page]:
    """A page of each webhook's deliveries, newest first. `state` filters them; None: all."""
    build_statement = partial(_select_deliveries, are_of_single_store(keys))
    parameters, ids = {**build_key_parameters(keys), "state": state}, [key.id for key in keys]
    return await load_page_per_parent(database, build_statement, window, "deliveries", ids, "webhook_id", parameters)


async def count_deliveries(database: Database, keys: Sequence[RowKey], state: str | None) -> list[int]:
    """The number of stored deliveries of each webhook, in a state or (None) in any."""
    parameters = {**build_key_parameters(keys), "state": state}
    counts = await database.fetch(_select_counts(are_of_single_store(keys)), parameters)
    rows = align_by_key(counts, [key.id for key in keys], "webhook_id")
    return [row.count if row else 0 for row in rows]


@cache
def _select_counts(is_single_store: bool) -> Statement:
    return compile_statement(_select_counts_per_webhook(is_single_store, "count", _HAS_REQUESTED_STATE))


_HAS_REQUESTED_STATE = text("(CAST(:state AS text) IS NULL OR webhook_deliveries.state = :state)")


@cache
def _select_deliveries(is_single_store: bool, has_cursor: bool) -> Statement:
    key, columns = bind_keys(is_single_store), webhook_deliveries.c
    deliveries = select(webhook_deliveries).where(_is_of_webhook(key, is_single_store), _HAS_REQUESTED_STATE)
    page = limit_newest(deliveries, columns.created_at, columns.id, has_cursor=has_cursor)
    return compile_statement(select_per_parent(key, page))


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
FROM configs LEFT JOIN store_positions ON store_positions.config_id = :config_id WHERE configs.id = :config_id
""")
    )


async def load_webhook_overview(database: Database, slug: str | None, limit: int) -> list[Row]:
    """All webhooks, or those of one store, for operators: disabled and failing ones first."""
    return await database.fetch(_select_overview(), {"slug": slug, "most": limit})


@cache
def _select_overview() -> Statement:
    return compile_statement(text(_OVERVIEW_SQL))
