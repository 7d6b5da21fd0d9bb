"""Users by id."""

from collections.abc import Sequence
from functools import cache

from sqlalchemy import select

from storefront.core.database import Database, Row, Statement, compiled
from storefront.models import users
from storefront.queries.grouped import by_key
from storefront.queries.visibility import ids


async def by_ids(database: Database, keys: Sequence[str]) -> list[Row | None]:
    """The users with these ids. Who may read which of their columns is the noun's affair."""
    return by_key(await database.fetch(_by_ids(), {"ids": list(keys)}), keys)


@cache
def _by_ids() -> Statement:
    return compiled(select(users).where(users.c.id == ids("ids")))
