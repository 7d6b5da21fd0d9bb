"""Reviews of many products at once, newest first."""

from collections.abc import Sequence
from functools import lru_cache, partial

from storefront.core.cache_dependencies import INHERITED_DEPENDENCY
from storefront.core.db.database import Database, Statement, compile_statement
from storefront.models import products, reviews
from storefront.queries import keyset
from storefront.queries.fields import select_reviews
from storefront.queries.paging import limit_newest, load_page_per_parent, select_per_parent
from storefront.queries.projection import MAX_CACHED_STATEMENTS, RequestedColumns, filter_columns


async def load_reviews_of_products(
    database: Database, keys: Sequence[str], window: keyset.Window, columns: RequestedColumns = None
) -> list[keyset.Page]:
    """A page of reviews for each product. Raises InvalidInput for a cursor of another product."""
    return await load_page_per_parent(database, partial(_select_of_products, columns), window, "reviews", keys, "product_id")


@lru_cache(MAX_CACHED_STATEMENTS)
def _select_of_products(columns: RequestedColumns, has_cursor: bool) -> Statement:
    rows = select_reviews(filter_columns(reviews.c, columns, "id", "product_id", "created_at"), products)
    page = limit_newest(rows, reviews.c.created_at, reviews.c.id, has_cursor=has_cursor)
    return compile_statement(select_per_parent(products, page), depends_on=INHERITED_DEPENDENCY)
