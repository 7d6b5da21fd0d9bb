"""Reviews of many products at once, newest first."""

from collections.abc import Sequence
from functools import cache, lru_cache, partial

from sqlalchemy import select

from storefront.core.cache_dependencies import INHERITED_DEPENDENCY, RowDependency
from storefront.core.db.database import Database, Statement, compile_statement
from storefront.models import products, reviews
from storefront.models.rows import ReviewRow
from storefront.queries import keyset
from storefront.queries.batching import align_by_key
from storefront.queries.fields import is_review_of_product, select_reviews
from storefront.queries.paging import limit_newest, load_page_per_parent, select_per_parent
from storefront.queries.projection import MAX_CACHED_STATEMENTS, RequestedColumns, filter_columns
from storefront.queries.visibility import any_of_ids, is_product_visible


async def load_reviews_of_products(
    database: Database, keys: Sequence[str], window: keyset.Window, columns: RequestedColumns = None
) -> list[keyset.Page]:
    """A page of reviews for each product. Raises InvalidInput for a cursor of another product."""
    return await load_page_per_parent(database, partial(_select_of_products, columns), window, "reviews", keys, "product_id")


async def load_visible_reviews(database: Database, keys: Sequence[str], owned_store_ids: Sequence[str]) -> list[ReviewRow | None]:
    """The reviews with these ids of products that the viewer may see, with the `config_id` of the store."""
    return align_by_key(await database.fetch(_select_visible(), {"ids": list(keys), "owned": list(owned_store_ids)}), keys)


@cache
def _select_visible() -> Statement:
    rows = select(reviews).join(products, is_review_of_product(products)).where(is_product_visible())
    return compile_statement(rows.where(reviews.c.id == any_of_ids("ids")), depends_on=RowDependency("config_id", "ids"))


@lru_cache(MAX_CACHED_STATEMENTS)
def _select_of_products(columns: RequestedColumns, has_cursor: bool) -> Statement:
    rows = select_reviews(filter_columns(reviews.c, columns, "id", "product_id", "created_at"), products)
    page = limit_newest(rows, reviews.c.created_at, reviews.c.id, has_cursor=has_cursor)
    return compile_statement(select_per_parent(products, page), depends_on=INHERITED_DEPENDENCY)
