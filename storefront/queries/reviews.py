"""Reviews of many products at once, newest first."""

from collections.abc import Sequence
from functools import lru_cache

from sqlalchemy import bindparam, select, true

from storefront.core.cache_dependencies import WITHIN
from storefront.core.db.database import Database, Row, Statement, compiled
from storefront.models import products, reviews
from storefront.queries import keyset
from storefront.queries.batching import by_parent
from storefront.queries.projection import MOST_STATEMENTS, Wanted, needed
from storefront.queries.visibility import ids


async def of_products(
    database: Database, keys: Sequence[str], window: keyset.Window, columns: Wanted = None
) -> list[keyset.Page]:
    """A page of reviews for each product. A cursor is of one product: it fits no other."""
    cursor = keyset.resume(window, (_digest(key) for key in keys), keyset.is_moment)
    parameters = {"ids": list(keys)} | keyset.parameters(window, cursor)
    rows = by_parent(await database.fetch(_of_products(cursor is not None, columns), parameters), keys, "product_id")
    return [keyset.page_of(found, window, _cursor_of) for found in rows]


def _digest(product_id: str) -> str:
    return keyset.digest("reviews", product_id)


def _cursor_of(row: Row) -> str:
    return keyset.encode(_digest(row.product_id), keyset.Cursor(row.created_at, row.id))


@lru_cache(MOST_STATEMENTS)
def _of_products(behind: bool, columns: Wanted) -> Statement:
    key, tie = reviews.c.created_at, reviews.c.id
    wanted = [keyset.behind(key, tie, descending=True)] if behind else []
    mine = (
        select(*needed(reviews.c, columns, "id", "product_id", "created_at"))
        .where(reviews.c.product_id == products.c.id, *wanted)
        .correlate(products)
    )
    page = mine.order_by(*keyset.order(key, tie, descending=True)).limit(bindparam("limit")).lateral("page")
    return compiled(select(page).select_from(products.join(page, true())).where(products.c.id == ids("ids")), reads=WITHIN)
