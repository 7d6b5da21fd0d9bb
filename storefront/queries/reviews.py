"""Reviews of many products and of many stores at once, newest first."""

from collections.abc import Sequence
from functools import cache, lru_cache, partial

from sqlalchemy import bindparam, func, literal_column, select

from storefront.core.cache_dependencies import INHERITED_DEPENDENCY, ParameterDependency, RowDependency
from storefront.core.db.database import Database, Statement, compile_statement
from storefront.models import configs, products, reviews
from storefront.models.rows import ReviewRow
from storefront.queries import keyset
from storefront.queries.batching import align_by_key
from storefront.queries.fields import is_review_of_product, select_reviews
from storefront.queries.paging import limit_newest, load_page_per_parent, select_per_parent
from storefront.queries.projection import MAX_CACHED_STATEMENTS, RequestedColumns, filter_columns
from storefront.queries.visibility import Audience, any_of_ids, is_product_sellable, is_product_visible


async def load_reviews_of_products(
    database: Database,
    keys: Sequence[str],
    window: keyset.Window,
    columns: RequestedColumns = None,
    rating: int | None = None,
) -> list[keyset.Page]:
    """A page of each product's reviews, of all or with this number of stars. Raises InvalidInput for a cursor of another list."""
    build_statement = partial(_select_of_products, columns, rating is not None, window.backward)
    parameters = {} if rating is None else {"rating": rating}
    return await load_page_per_parent(database, build_statement, window, f"reviews {rating}", keys, "product_id", parameters)


@lru_cache(MAX_CACHED_STATEMENTS)
def _select_of_products(columns: RequestedColumns, has_rating: bool, backward: bool, has_cursor: bool) -> Statement:
    rating = bindparam("rating", type_=reviews.c.rating.type) if has_rating else None
    rows = select_reviews(filter_columns(reviews.c, columns, "id", "product_id", "created_at"), products, rating)
    page = limit_newest(rows, reviews.c.created_at, reviews.c.id, has_cursor=has_cursor, backward=backward)
    return compile_statement(select_per_parent(products, page), depends_on=INHERITED_DEPENDENCY)


async def load_reviews_of_stores(
    database: Database, keys: Sequence[str], window: keyset.Window, columns: RequestedColumns, audience: Audience
) -> list[keyset.Page]:
    """A page of the reviews of each store's visible products. Raises InvalidInput for a cursor of another store."""
    build_statement = partial(_select_of_stores, columns, audience, window.limit, window.backward)
    return await load_page_per_parent(database, build_statement, window, "store reviews", keys, "config_id")


@lru_cache(MAX_CACHED_STATEMENTS)
def _select_of_stores(columns: RequestedColumns, audience: Audience, limit: int, backward: bool, has_cursor: bool) -> Statement:
    selected = filter_columns(reviews.c, columns, "id", "config_id", "product_id", "created_at")
    rows = select(*selected).where(reviews.c.config_id == configs.c.id)
    if audience is Audience.SHOPPER:
        # A scalar subquery looks up the product of each row. A join may read all products of the store, because the planner
        # expects as many as stores have on average.
        is_visible = select(is_product_sellable()).where(products.c.id == reviews.c.product_id).scalar_subquery()
        rows = rows.where(configs.c.is_published, is_visible)
    page = limit_newest(rows, reviews.c.created_at, reviews.c.id, has_cursor=has_cursor, backward=backward)
    # A literal: without one the planner expects a tenth of the store and sorts all of it.
    limited_page = page.limit(literal_column(str(limit + 1)))
    return compile_statement(select_per_parent(configs, limited_page), depends_on=ParameterDependency("ids"))


async def count_reviews_of_stores(database: Database, keys: Sequence[str], audience: Audience) -> list[int]:
    """The number of reviews of each store's visible products."""
    rows = align_by_key(await database.fetch(_select_counts_of_stores(audience), {"ids": list(keys)}), keys, "config_id")
    return [row.count if row else 0 for row in rows]


@cache
def _select_counts_of_stores(audience: Audience) -> Statement:
    counts = select(reviews.c.config_id, func.count().label("count")).where(reviews.c.config_id == any_of_ids("ids"))
    counts = counts.group_by(reviews.c.config_id)
    if audience is Audience.SHOPPER:
        # The stores again, from which the planner estimates the number of products.
        is_visible = (is_product_sellable(), products.c.config_id == any_of_ids("ids"))
        counted = counts.join(products, is_review_of_product(products)).where(*is_visible).subquery("counted")
        counts = select(counted).join(configs, configs.c.id == counted.c.config_id).where(configs.c.is_published)
    # A custom plan: stores differ in size by orders of magnitude.
    return compile_statement(counts, needs_custom_plan=True, depends_on=ParameterDependency("ids"))


async def load_visible_reviews(database: Database, keys: Sequence[str], owned_store_ids: Sequence[str]) -> list[ReviewRow | None]:
    """The reviews with these ids of products that the viewer may see."""
    return align_by_key(await database.fetch(_select_visible(), {"ids": list(keys), "owned": list(owned_store_ids)}), keys)


@cache
def _select_visible() -> Statement:
    rows = select(reviews).join(products, is_review_of_product(products)).where(is_product_visible())
    return compile_statement(rows.where(reviews.c.id == any_of_ids("ids")), depends_on=RowDependency("config_id", "ids"))
