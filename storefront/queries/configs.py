"""Stores: by id or slug, of many owners at once, and how far the log of each has come."""

from collections.abc import Sequence
from functools import cache

from sqlalchemy import bindparam, func, select, true

from storefront.core.cache_dependencies import Found, Named
from storefront.core.db.database import Database, Row, Statement, compiled
from storefront.models import configs, positions, users
from storefront.queries import keyset
from storefront.queries.batching import by_key, by_parent
from storefront.queries.visibility import ids, visible_store


async def by_ids(database: Database, keys: Sequence[str], owned: Sequence[str]) -> list[Row | None]:
    """The visible stores with these ids."""
    return by_key(await database.fetch(_by_ids(), {"ids": list(keys), "owned": list(owned)}), keys)


@cache
def _by_ids() -> Statement:
    return compiled(select(configs).where(configs.c.id == ids("ids"), visible_store()), reads=Named("ids"))


async def by_slug(database: Database, slug: str, owned: Sequence[str]) -> Row | None:
    """The visible store with this slug."""
    rows = await database.fetch(_by_slug(), {"slug": slug, "owned": list(owned)})
    return rows[0] if rows else None


@cache
def _by_slug() -> Statement:
    return compiled(select(configs).where(configs.c.slug == bindparam("slug"), visible_store()), reads=Found("id"))


async def id_by_slug(database: Database, slug: str) -> str | None:
    """The id of the store with this slug, published or not: for operators, who may see all of them."""
    rows = await database.fetch(_id_by_slug(), {"slug": slug})
    return str(rows[0].id) if rows else None


@cache
def _id_by_slug() -> Statement:
    return compiled(select(configs.c.id).where(configs.c.slug == bindparam("slug")))


async def page(database: Database, window: keyset.Window) -> keyset.Page:
    """Published stores, newest first."""
    cursor = keyset.resume(window, [_digest("all")], keyset.is_moment)
    rows = await database.fetch(_page(cursor is not None), keyset.parameters(window, cursor))
    return keyset.page_of(rows, window, lambda row: _cursor("all", row))


@cache
def _page(behind: bool) -> Statement:
    wanted = [keyset.behind(configs.c.created_at, configs.c.id, descending=True)] if behind else []
    newest = keyset.order(configs.c.created_at, configs.c.id, descending=True)
    return compiled(select(configs).where(configs.c.is_published, *wanted).order_by(*newest).limit(bindparam("limit")))


async def busiest(database: Database) -> Row | None:
    """The published store with the longest log, to show around in."""
    rows = await database.fetch(_busiest())
    return rows[0] if rows else None


@cache
def _busiest() -> Statement:
    joined = configs.join(positions, positions.c.config_id == configs.c.id, isouter=True)
    found = select(configs).select_from(joined).where(configs.c.is_published)
    return compiled(found.order_by(positions.c.position.desc().nulls_last(), configs.c.id).limit(1))


async def count(database: Database) -> int:
    """How many stores are published."""
    [(found,)] = await database.fetch(_count())
    return int(found)


@cache
def _count() -> Statement:
    return compiled(select(func.count()).where(configs.c.is_published))


async def of_users(database: Database, keys: Sequence[str], window: keyset.Window, owned: Sequence[str]) -> list[keyset.Page]:
    """The visible stores of each user, newest first."""
    cursor = keyset.resume(window, (_digest(key) for key in keys), keyset.is_moment)
    parameters = {"ids": list(keys), "owned": list(owned)} | keyset.parameters(window, cursor)
    rows = by_parent(await database.fetch(_of_users(cursor is not None), parameters), keys, "user_id")
    return [keyset.page_of(found, window, lambda row: _cursor(row.user_id, row)) for found in rows]


@cache
def _of_users(behind: bool) -> Statement:
    wanted = [keyset.behind(configs.c.created_at, configs.c.id, descending=True)] if behind else []
    mine = select(configs).where(configs.c.user_id == users.c.id, visible_store(), *wanted).correlate(users)
    newest = keyset.order(configs.c.created_at, configs.c.id, descending=True)
    page = mine.order_by(*newest).limit(bindparam("limit")).lateral("page")
    return compiled(select(page).select_from(users.join(page, true())).where(users.c.id == ids("ids")))


async def counts_of_users(database: Database, keys: Sequence[str], owned: Sequence[str]) -> list[int]:
    """How many visible stores each user has."""
    rows = by_key(await database.fetch(_counts_of_users(), {"ids": list(keys), "owned": list(owned)}), keys, "user_id")
    return [row.count if row else 0 for row in rows]


@cache
def _counts_of_users() -> Statement:
    mine = select(configs.c.user_id, func.count().label("count")).where(configs.c.user_id == ids("ids"), visible_store())
    return compiled(mine.group_by(configs.c.user_id))


async def positions_of(database: Database, keys: Sequence[str]) -> list[int]:
    """How far the log of each store has come; 0 where nothing has happened yet."""
    rows = by_key(await database.fetch(_positions(), {"ids": list(keys)}), keys, "config_id")
    return [row.position if row else 0 for row in rows]


@cache
def _positions() -> Statement:
    return compiled(select(positions).where(positions.c.config_id == ids("ids")), reads=Named("ids"))


def _digest(parent: str) -> str:
    return keyset.digest("configs", parent)


def _cursor(parent: str, row: Row) -> str:
    return keyset.encode(_digest(parent), keyset.Cursor(row.created_at, row.id))
