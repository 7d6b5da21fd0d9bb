"""Stores by id or slug, of many owners at once, and the positions of their logs."""

from collections.abc import Sequence
from functools import cache

from sqlalchemy import bindparam, func, select

from storefront.core.cache_dependencies import ParameterDependency, RowDependency
from storefront.core.db.database import Database, Statement, compile_statement
from storefront.feed import log
from storefront.models import configs, positions, users
from storefront.models.rows import ConfigRow
from storefront.queries import keyset
from storefront.queries.batching import align_by_key
from storefront.queries.paging import limit_newest, load_page, load_page_per_parent, select_per_parent
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
    """The visible store with this slug."""
    rows = await database.fetch(_select_by_slug(), {"slug": slug, "owned": list(owned_store_ids)})
    return rows[0] if rows else None


@cache
def _select_by_slug() -> Statement:
    return compile_statement(
        select(configs).where(configs.c.slug == bindparam("slug"), is_store_visible()), depends_on=RowDependency("id")
    )


async def find_store_id_by_slug(database: Database, slug: str) -> str | None:
    """The id of the store with this slug, published or not: for operators, who may see all of them."""
    rows = await database.fetch(_select_id_by_slug(), {"slug": slug})
    return str(rows[0].id) if rows else None


@cache
def _select_id_by_slug() -> Statement:
    return compile_statement(select(configs.c.id).where(configs.c.slug == bindparam("slug")))


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
    parameters = {"owned": list(owned_store_ids)}
    return await load_page_per_parent(database, _select_of_users, window, "configs", keys, "user_id", parameters)


@cache
def _select_of_users(has_cursor: bool) -> Statement:
    user_stores = select(configs).where(configs.c.user_id == users.c.id, is_store_visible())
    page = limit_newest(user_stores, configs.c.created_at, configs.c.id, has_cursor=has_cursor)
    return compile_statement(select_per_parent(users, page))


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
