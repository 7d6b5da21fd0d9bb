"""Stores: by id or slug, of many owners at once, and how far the log of each has come."""

from collections.abc import Sequence
from functools import cache

from sqlalchemy import bindparam, func, select, true

from storefront.core.cache_dependencies import ParameterDependency, RowDependency
from storefront.core.db.database import Database, Row, Statement, compile_statement
from storefront.models import configs, positions, users
from storefront.queries import keyset
from storefront.queries.batching import align_by_key, group_by_parent
from storefront.queries.visibility import any_of_ids, is_store_visible


async def load_stores_by_ids(database: Database, keys: Sequence[str], owned_store_ids: Sequence[str]) -> list[Row | None]:
    """The visible stores with these ids."""
    return align_by_key(await database.fetch(_select_by_ids(), {"ids": list(keys), "owned": list(owned_store_ids)}), keys)


@cache
def _select_by_ids() -> Statement:
    return compile_statement(
        select(configs).where(configs.c.id == any_of_ids("ids"), is_store_visible()), depends_on=ParameterDependency("ids")
    )


async def load_store_by_slug(database: Database, slug: str, owned_store_ids: Sequence[str]) -> Row | None:
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
    cursor = keyset.decode_window_cursor(window, [_compute_digest("all")], keyset.is_timestamp)
    rows = await database.fetch(_select_published(cursor is not None), keyset.build_parameters(window, cursor))
    return keyset.build_page(rows, window, lambda row: _encode_cursor("all", row))


@cache
def _select_published(has_cursor: bool) -> Statement:
    conditions = [keyset.is_behind_cursor(configs.c.created_at, configs.c.id, descending=True)] if has_cursor else []
    newest_first = keyset.order_by_key(configs.c.created_at, configs.c.id, descending=True)
    return compile_statement(
        select(configs).where(configs.c.is_published, *conditions).order_by(*newest_first).limit(bindparam("limit"))
    )


async def load_busiest_store(database: Database) -> Row | None:
    """The published store with the longest log, to show around in."""
    rows = await database.fetch(_select_busiest())
    return rows[0] if rows else None


@cache
def _select_busiest() -> Statement:
    joined = configs.join(positions, positions.c.config_id == configs.c.id, isouter=True)
    query = select(configs).select_from(joined).where(configs.c.is_published)
    return compile_statement(query.order_by(positions.c.position.desc().nulls_last(), configs.c.id).limit(1))


async def count_published_stores(database: Database) -> int:
    """How many stores are published."""
    [(total,)] = await database.fetch(_select_count())
    return int(total)


@cache
def _select_count() -> Statement:
    return compile_statement(select(func.count()).where(configs.c.is_published))


async def load_stores_of_users(
    database: Database, keys: Sequence[str], window: keyset.Window, owned_store_ids: Sequence[str]
) -> list[keyset.Page]:
    """The visible stores of each user, newest first."""
    cursor = keyset.decode_window_cursor(window, (_compute_digest(key) for key in keys), keyset.is_timestamp)
    parameters = {"ids": list(keys), "owned": list(owned_store_ids)} | keyset.build_parameters(window, cursor)
    rows = group_by_parent(await database.fetch(_select_of_users(cursor is not None), parameters), keys, "user_id")
    return [keyset.build_page(page_rows, window, lambda row: _encode_cursor(row.user_id, row)) for page_rows in rows]


@cache
def _select_of_users(has_cursor: bool) -> Statement:
    conditions = [keyset.is_behind_cursor(configs.c.created_at, configs.c.id, descending=True)] if has_cursor else []
    user_stores = select(configs).where(configs.c.user_id == users.c.id, is_store_visible(), *conditions).correlate(users)
    newest_first = keyset.order_by_key(configs.c.created_at, configs.c.id, descending=True)
    page = user_stores.order_by(*newest_first).limit(bindparam("limit")).lateral("page")
    return compile_statement(select(page).select_from(users.join(page, true())).where(users.c.id == any_of_ids("ids")))


async def count_stores_of_users(database: Database, keys: Sequence[str], owned_store_ids: Sequence[str]) -> list[int]:
    """How many visible stores each user has."""
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
    """How far the log of each store has come; 0 where nothing has happened yet."""
    rows = align_by_key(await database.fetch(_select_positions(), {"ids": list(keys)}), keys, "config_id")
    return [row.position if row else 0 for row in rows]


@cache
def _select_positions() -> Statement:
    return compile_statement(
        select(positions).where(positions.c.config_id == any_of_ids("ids")), depends_on=ParameterDependency("ids")
    )


def _compute_digest(parent: str) -> str:
    return keyset.compute_list_digest("configs", parent)


def _encode_cursor(parent: str, row: Row) -> str:
    return keyset.encode_cursor(_compute_digest(parent), keyset.Cursor(row.created_at, row.id))
