"""Reviews of many products and of many stores at once, newest first."""

from collections.abc import Sequence
from functools import cache, lru_cache, partial
from typing import Any

from sqlalchemy import ColumnElement, Text, any_, bindparam, func, literal_column, select, union_all
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from storefront.core.cache_dependencies import INHERITED_DEPENDENCY
from storefront.core.db.database import Database, Statement, compile_statement
from storefront.models import configs, products, reviews
from storefront.models.review import REVIEW_STATUSES
from storefront.models.row_keys import (
    RowKey,
    are_of_single_store,
    bind_keys,
    bind_store,
    build_key_parameters,
    build_store_parameters,
    depend_on_stores,
    get_store,
    have_single_store,
    is_any_store,
)
from storefront.models.rows import ReviewRow
from storefront.queries import keyset
from storefront.queries.batching import align_by_key
from storefront.queries.fields import is_review_of_product, select_reviews
from storefront.queries.paging import limit_newest, load_page_per_parent, select_of_keys, select_per_parent
from storefront.queries.projection import MAX_CACHED_STATEMENTS, RequestedColumns, filter_columns
from storefront.queries.visibility import (
    Audience,
    is_product_sellable,
    is_product_visible,
    is_review_published,
    is_review_visible,
)


async def load_reviews_of_products(
    database: Database,
    keys: Sequence[RowKey],
    window: keyset.Window,
    columns: RequestedColumns = None,
    rating: int | None = None,
) -> list[keyset.Page]:
    """A page of each product's published reviews, of all or with this number of stars.

    Raises InvalidInput for a cursor of another list.
    """
    build_statement = partial(_select_of_products, are_of_single_store(keys), columns, rating is not None, window.backward)
    parameters = {**build_key_parameters(keys), **({} if rating is None else {"rating": rating})}
    ids = [key.id for key in keys]
    return await load_page_per_parent(database, build_statement, window, f"reviews {rating}", ids, "product_id", parameters)


@lru_cache(MAX_CACHED_STATEMENTS)
def _select_of_products(
    is_single_store: bool, columns: RequestedColumns, has_rating: bool, backward: bool, has_cursor: bool
) -> Statement:
    rating = bindparam("rating", type_=reviews.c.rating.type) if has_rating else None
    selected = filter_columns(reviews.c, columns, "id", "config_id", "product_id", "created_at")
    key = bind_keys(is_single_store)
    rows = select_reviews(selected, get_store(key, is_single_store), key, rating)
    page = limit_newest(rows, reviews.c.created_at, reviews.c.id, has_cursor=has_cursor, backward=backward)
    return compile_statement(select_per_parent(key, page), depends_on=INHERITED_DEPENDENCY)


async def load_reviews_of_stores(
    database: Database,
    keys: Sequence[str],
    window: keyset.Window,
    columns: RequestedColumns,
    audience: Audience,
    statuses: Sequence[str] | None = None,
) -> list[keyset.Page]:
    """A page of the reviews of each store: for shoppers the published ones of visible products, for owners all or those with
    one of these statuses. Raises InvalidInput for a cursor of another list.
    """
    owner_statuses = None if statuses is None or audience is Audience.SHOPPER else tuple(sorted({*statuses}))
    shape = have_single_store(keys), columns, audience, owner_statuses, window.limit, window.backward
    list_name = "store reviews" if owner_statuses is None else ("store reviews", owner_statuses)
    build_statement, parameters = partial(_select_of_stores, *shape), build_store_parameters(keys)
    return await load_page_per_parent(database, build_statement, window, list_name, keys, "config_id", parameters)


@lru_cache(MAX_CACHED_STATEMENTS)
def _select_of_stores(
    is_single_store: bool,
    columns: RequestedColumns,
    audience: Audience,
    statuses: tuple[str, ...] | None,
    limit: int,
    backward: bool,
    has_cursor: bool,
) -> Statement:
    # As text: SQLAlchemy would add the stores to the FROM of each query of a union.
    store = bind_store() if is_single_store else literal_column("configs.id", UUID)
    selected = filter_columns(reviews.c, columns, "id", "config_id", "product_id", "created_at")
    rows = select(*selected).where(reviews.c.config_id == store)
    key: ColumnElement[Any] = reviews.c.created_at
    tie_breaker: ColumnElement[Any] = reviews.c.id
    if audience is Audience.SHOPPER:
        # A scalar subquery looks up the product of each row. A join may read all products of the store, because the planner
        # expects as many as stores have on average.
        is_product = (products.c.config_id == store) & (products.c.id == reviews.c.product_id)
        is_visible = select(is_product_sellable()).where(is_product).correlate_except(products).scalar_subquery()
        rows = rows.where(configs.c.is_published, is_review_published(), is_visible)
    elif statuses is not None:
        # The index has an order for each status, which Postgres merges.
        of_each = [rows.where(reviews.c.status == literal_column(f"'{status}'")) for status in statuses]
        listed = union_all(*of_each).subquery("listed")
        rows = select(listed)
        key, tie_breaker = listed.c.created_at, listed.c.id
    page = limit_newest(rows, key, tie_breaker, has_cursor=has_cursor, backward=backward)
    # A literal: without one the planner expects a tenth of the store and sorts all of it.
    limited_page = page.limit(literal_column(str(limit + 1)))
    per_store = select_per_parent(configs, limited_page, is_any_store(configs.c.id, is_single_store))
    return compile_statement(per_store, depends_on=depend_on_stores(is_single_store))


async def count_reviews_of_stores(
    database: Database, keys: Sequence[str], audience: Audience, statuses: Sequence[str] | None = None
) -> list[int]:
    """The number of reviews in each of the lists of `load_reviews_of_stores`."""
    statement = _select_counts_of_stores(audience, have_single_store(keys))
    parameters = {**build_store_parameters(keys), "statuses": [*(REVIEW_STATUSES if statuses is None else statuses)]}
    rows = align_by_key(await database.fetch(statement, parameters), keys, "config_id")
    return [row.count if row else 0 for row in rows]


@cache
def _select_counts_of_stores(audience: Audience, is_single_store: bool) -> Statement:
    in_stores = is_any_store(reviews.c.config_id, is_single_store)
    counts = select(reviews.c.config_id, func.count().label("count")).where(in_stores).group_by(reviews.c.config_id)
    if audience is Audience.OWNER:
        counts = counts.where(reviews.c.status == any_(bindparam("statuses", type_=ARRAY(Text))))
    else:
        # The stores again, from which the planner estimates the number of products.
        is_visible = (is_review_published(), is_product_sellable(), is_any_store(products.c.config_id, is_single_store))
        of_product = is_review_of_product(get_store(products, is_single_store))
        counted = counts.join(products, of_product).where(*is_visible).subquery("counted")
        counts = select(counted).join(configs, configs.c.id == counted.c.config_id).where(configs.c.is_published)
    # A custom plan: stores differ in size by orders of magnitude.
    return compile_statement(counts, needs_custom_plan=True, depends_on=depend_on_stores(is_single_store))


async def load_visible_reviews(
    database: Database, keys: Sequence[RowKey], viewer_id: str | None, owned_store_ids: Sequence[str]
) -> list[ReviewRow | None]:
    """The reviews with these keys that the viewer may see."""
    parameters = {**build_key_parameters(keys), "viewer_id": viewer_id, "owned": list(owned_store_ids)}
    rows = await database.fetch(_select_visible(are_of_single_store(keys)), parameters)
    return align_by_key(rows, [key.id for key in keys])


@cache
def _select_visible(is_single_store: bool) -> Statement:
    store = get_store(reviews, is_single_store)
    is_product = (products.c.config_id == store) & (products.c.id == reviews.c.product_id)
    is_visible = (is_product_visible(store), is_review_visible(store))
    rows = select_of_keys(select(reviews).join(products, is_product).where(*is_visible), reviews, is_single_store)
    return compile_statement(rows, depends_on=depend_on_stores(is_single_store))


async def load_reviews_by_user(database: Database, product_keys: Sequence[RowKey], user_id: str) -> list[ReviewRow | None]:
    """The user's review of each of these products."""
    parameters = {**build_key_parameters(product_keys), "user_id": user_id}
    rows = await database.fetch(_select_by_user(are_of_single_store(product_keys)), parameters)
    return align_by_key(rows, [key.id for key in product_keys], "product_id")


@cache
def _select_by_user(is_single_store: bool) -> Statement:
    is_by_user = reviews.c.user_id == bindparam("user_id", type_=UUID)
    key = bind_keys(is_single_store)
    is_of_product = (reviews.c.config_id == get_store(key, is_single_store)) & (reviews.c.product_id == key.c.id)
    rows = select_per_parent(key, select(reviews).where(is_by_user, is_of_product).offset(0), name="row")
    return compile_statement(rows, depends_on=depend_on_stores(is_single_store))
