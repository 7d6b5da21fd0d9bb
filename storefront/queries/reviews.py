"""Reviews of many products at once, newest first."""

from collections.abc import Sequence
from functools import lru_cache

from sqlalchemy import bindparam, select, true

from storefront.core.cache_dependencies import INHERITED_DEPENDENCY
from storefront.core.db.database import Database, Row, Statement, compile_statement
from storefront.models import products, reviews
from storefront.queries import keyset
from storefront.queries.batching import group_by_parent
from storefront.queries.projection import MAX_CACHED_STATEMENTS, RequestedColumns, filter_columns
from storefront.queries.visibility import any_of_ids


async def load_reviews_of_products(
    database: Database, keys: Sequence[str], window: keyset.Window, columns: RequestedColumns = None
) -> list[keyset.Page]:
    """A page of reviews for each product. A cursor is of one product: it fits no other."""
    cursor = keyset.decode_window_cursor(window, (_compute_digest(key) for key in keys), keyset.is_timestamp)
    parameters = {"ids": list(keys)} | keyset.build_parameters(window, cursor)
    rows = group_by_parent(await database.fetch(_select_of_products(cursor is not None, columns), parameters), keys, "product_id")
    return [keyset.build_page(page_rows, window, _encode_cursor) for page_rows in rows]


def _compute_digest(product_id: str) -> str:
    return keyset.compute_list_digest("reviews", product_id)


def _encode_cursor(row: Row) -> str:
    return keyset.encode_cursor(_compute_digest(row.product_id), keyset.Cursor(row.created_at, row.id))


@lru_cache(MAX_CACHED_STATEMENTS)
def _select_of_products(has_cursor: bool, columns: RequestedColumns) -> Statement:
    key, tie_breaker = reviews.c.created_at, reviews.c.id
    conditions = [keyset.is_behind_cursor(key, tie_breaker, descending=True)] if has_cursor else []
    product_reviews = (
        select(*filter_columns(reviews.c, columns, "id", "product_id", "created_at"))
        .where(reviews.c.product_id == products.c.id, *conditions)
        .correlate(products)
    )
    page = (
        product_reviews.order_by(*keyset.order_by_key(key, tie_breaker, descending=True))
        .limit(bindparam("limit"))
        .lateral("page")
    )
    return compile_statement(
        select(page).select_from(products.join(page, true())).where(products.c.id == any_of_ids("ids")),
        depends_on=INHERITED_DEPENDENCY,
    )
