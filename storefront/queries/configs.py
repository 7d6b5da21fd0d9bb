"""Stores by id or slug, of many owners at once, and the positions of their logs."""

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

from sqlalchemy import ColumnElement, Text, bindparam, func, literal_column, select, true
from sqlalchemy.dialects.postgresql import UUID

from storefront.core.cache_dependencies import ParameterDependency, RowDependency
from storefront.core.db.database import Database, Row, Statement, compile_statement
from storefront.core.handles import normalize_handle
from storefront.feed import log
from storefront.models import configs, former_slugs, positions, users
from storefront.models.rows import ConfigRow
from storefront.queries import keyset
from storefront.queries.batching import align_by_key
from storefront.queries.json_sql import JsonDocument
from storefront.queries.paging import limit_newest, load_page, load_page_per_parent, select_per_parent
from storefront.queries.products import select_document_by_handle
from storefront.queries.projection import MAX_CACHED_STATEMENTS
from storefront.queries.visibility import any_of_ids, is_store_visible


async def load_stores_by_ids(database: Database, keys: Sequence[str], owned_store_ids: Sequence[str]) -> list[ConfigRow | None]:
    """The visible stores with these ids."""
    return align_by_key(await database.fetch(_select_by_ids(), {"ids": list(keys), "owned": list(owned_store_ids)}), keys)


@cache
def _select_by_ids() -> Statement:
    return compile_statement(
        select(configs).where(configs.c.id == any_of_ids("ids"), is_store_visible()), depends_on=ParameterDependency("ids")
    )


async def load_store_by_slug(database: Database, slug: str, owned_store_ids: Sequence[str]) -> ConfigRow | None:
    """The visible store with this slug, or the one that had it before."""
    rows = await database.fetch(_select_by_slug(), {"slug": normalize_handle(slug), "owned": list(owned_store_ids)})
    return rows[0] if rows else None


@cache
def _select_by_slug() -> Statement:
    query = select(configs).where(configs.c.id == _find_id_by_slug(), is_store_visible())
    return compile_statement(query, depends_on=RowDependency("id", key_column="slug"))


async def load_store_and_product(
    database: Database, slug: str, handle: str, document: JsonDocument
) -> tuple[ConfigRow | None, Row | None]:
    """What `load_store_by_slug` and `load_product_of_stores` return for a viewer without stores, in one statement."""
    parameters = {"slug": normalize_handle(slug), "handle": normalize_handle(handle), "owned": []}
    rows = await database.fetch(_select_store_and_product(document), parameters)
    return (rows[0], rows[0] if rows[0].node is not None else None) if rows else (None, None)


@lru_cache(MAX_CACHED_STATEMENTS)
def _select_store_and_product(document: JsonDocument) -> Statement:
    store = configs.alias("store")
    # As text: SQLAlchemy would add the store to the FROM of the inner query.
    product = select_document_by_handle(document, literal_column("store.id", UUID)).lateral("product")
    query = select(store, product.c.node).join_from(store, product, true(), isouter=True)
    query = query.where(store.c.id == _find_id_by_slug(), is_store_visible(store))
    return compile_statement(query, depends_on=RowDependency("id", key_column="slug"))


def _find_id_by_slug() -> ColumnElement[Any]:
    """The id of the store with the parameter `slug`, or of the one that had it before; null if there is none."""
    named, slug = configs.alias("named"), bindparam("slug", type_=Text)
    present = select(named.c.id).where(named.c.slug == slug)
    former = select(former_slugs.c.config_id).where(former_slugs.c.slug == slug)
    return func.coalesce(present.scalar_subquery(), former.scalar_subquery())


async def find_store_id_by_slug(database: Database, slug: str) -> str | None:
    """The id of the store with this slug, published or not: for operators, who may see all of them."""
    [(config_id,)] = await database.fetch(_select_id_by_slug(), {"slug": normalize_handle(slug)})
    return None if config_id is None else str(config_id)


@cache
def _select_id_by_slug() -> Statement:
    return compile_statement(select(_find_id_by_slug()))


async def load_owner_id(database: Database, config_id: str) -> str:
    """The id of the owner of a store."""
    [(owner_id,)] = await database.fetch(_select_owner_id(), {"id": config_id})
    return str(owner_id)


@cache
def _select_owner_id() -> Statement:
    return compile_statement(select(configs.c.user_id).where(configs.c.id == bindparam("id", type_=UUID(as_uuid=False))))


async def load_published_stores(database: Database, window: keyset.Window) -> keyset.Page:
    """Published stores, newest first."""
    return await load_page(database, _select_published, window, keyset.compute_list_digest("configs", "all"), {})


@cache
def _select_published(has_cursor: bool) -> Statement:
    published_stores = select(configs).where(configs.c.is_published)
    return compile_statement(limit_newest(published_stores, configs.c.created_at, configs.c.id, has_cursor=has_cursor))


async def load_busiest_store(database: Database) -> ConfigRow | None:
    """The published store with the longest log: the default of the demo."""
    rows = await database.fetch(_select_busiest())
    return rows[0] if rows else None


@cache
def _select_busiest() -> Statement:
    joined = configs.join(positions, positions.c.config_id == configs.c.id, isouter=True)
    query = select(configs).select_from(joined).where(configs.c.is_published)
    return compile_statement(query.order_by(positions.c.position.desc().nulls_last(), configs.c.id).limit(1))


async def count_published_stores(database: Database) -> int:
    """The number of published stores."""
    [(total,)] = await database.fetch(_select_count())
    return int(total)


@cache
def _select_count() -> Statement:
    return compile_statement(select(func.count()).where(configs.c.is_published))


async def load_stores_of_users(
    database: Database, keys: Sequence[str], window: keyset.Window, owned_store_ids: Sequence[str]
) -> list[keyset.Page]:
    """The visible stores of each user, newest first."""
    parameters = {"ids": list(keys), "owned": list(owned_store_ids)}
    return await load_page_per_parent(database, _select_of_users, window, "configs", keys, "user_id", parameters)


@cache
def _select_of_users(has_cursor: bool) -> Statement:
    user_stores = select(configs).where(configs.c.user_id == users.c.id, is_store_visible())
    page = limit_newest(user_stores, configs.c.created_at, configs.c.id, has_cursor=has_cursor)
    return compile_statement(select_per_parent(users, page, users.c.id == any_of_ids("ids")))


async def count_stores_of_users(database: Database, keys: Sequence[str], owned_store_ids: Sequence[str]) -> list[int]:
    """The number of visible stores of each user."""
    rows = align_by_key(
        await database.fetch(_select_counts_of_users(), {"ids": list(keys), "owned": list(owned_store_ids)}), keys, "user_id"
    )
    return [row.count if row else 0 for row in rows]


@cache
def _select_counts_of_users() -> Statement:
    user_counts = select(configs.c.user_id, func.count().label("count")).where(
        configs.c.user_id == any_of_ids("ids"), is_store_visible()
    )
    return compile_statement(user_counts.group_by(configs.c.user_id))


async def load_log_positions(database: Database, keys: Sequence[str]) -> list[int]:
    """The last position of each store's log; 0 for an empty log."""
    position_by_store = await log.load_last_positions(database, keys)
    return [position_by_store.get(key, 0) for key in keys]
