"""Authorization of commands: loads and locks rows that the actor owns. Every command gets its rows here.

A row of another owner is NOT_FOUND, unless the actor may read it: then FORBIDDEN.
Locks are taken in one order, so that commands never deadlock: store, products by store and id, variants by id.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

from cachetools import LRUCache
from sqlalchemy import ARRAY, ColumnElement, FromClause, Select, any_, bindparam, or_, select, text

from storefront.core.db.database import Row, Statement, compile_statement
from storefront.core.db.pipeline import QueuedStatement
from storefront.core.errors import Forbidden
from storefront.models import configs, products, reviews, variants, webhook_deliveries, webhooks
from storefront.models.config import DEFAULT_CURRENCY
from storefront.models.former_values import FILTERED_PRODUCT_COLUMNS
from storefront.models.row_keys import RowKey, bind_store, build_key_parameters, group_by_store, has_any_id, has_key
from storefront.models.rows import ConfigRow, DeliveryRow, ProductRow, VariantRow, WebhookRow
from storefront.queries.projection import PRODUCT_COLUMNS
from storefront.queries.store_lookup import find_row_key, find_row_keys
from storefront.queries.visibility import is_review_published
from storefront.writes.field_errors import MutationRejected, make_not_found_error
from storefront.writes.search_documents import enqueue_codes
from storefront.writes.transaction import UnitOfWork

MAX_REMEMBERED_CURRENCIES = 20_000

# The columns of a product that the log entry of a change of a review needs.
LOGGED_PRODUCT_COLUMNS = [products.c[name] for name in ("config_id", "id", "version", *FILTERED_PRODUCT_COLUMNS)]
_IS_OWN_STORE = configs.c.user_id == bindparam("actor_id")
_MINE = _IS_OWN_STORE.label("mine")
_IS_AUTHOR = reviews.c.user_id == bindparam("actor_id")
_IS_AUTHOR_OR_OWNER = or_(_IS_AUTHOR, _IS_OWN_STORE)


async def lock_own_store(unit: UnitOfWork, config_id: str, path: Sequence[str]) -> ConfigRow:
    """Lock the actor's store. Raises MutationRejected (NOT_FOUND) or Forbidden, as all functions here."""
    return await _lock_own(unit, _select_store(), {"id": config_id}, config_id, "store", path)


# The id of the actor's store, if it has one of these currencies, or NULL, in a statement that adds a row to it.
OWN_STORE_ID_SQL = """(
SELECT id FROM configs
WHERE id = CAST(:store AS uuid) AND user_id = CAST(:actor_id AS uuid) AND currency = ANY(CAST(:currencies AS text[]))
)"""

# By store, as last read: it may have changed since.
_last_currencies: LRUCache[str, str] = LRUCache(MAX_REMEMBERED_CURRENCIES)


async def lock_store_for_insert(unit: UnitOfWork, config_id: str, path: Sequence[str]) -> str:
    """Lock the actor's store before a row is inserted with OWN_STORE_ID_SQL as its store. Returns its currency.

    In an optimistic unit the result is not awaited, and the currency is an assumption, also about stores of others. If the store
    is not the actor's, or has a currency with other digits, the insert fails with NOT NULL.
    """
    if unit.is_optimistic:
        unit.enqueue(_select_store_for_insert(), {"id": config_id, "actor_id": unit.actor_id})
        return _last_currencies.get(config_id, DEFAULT_CURRENCY)
    store = await _lock_own(unit, _select_store_for_insert(), {"id": config_id}, config_id, "store", path)
    _last_currencies[config_id] = store.currency
    return store.currency


async def lock_own_product(
    unit: UnitOfWork, product_id: str, path: Sequence[str], *, locks_currency: bool = False, reads_codes: bool = False
) -> ProductRow:
    """Lock a product of the actor. `locks_currency`: the currency of its store (`get_currency`) does not change either.

    `reads_codes`: `unit.variant_codes` has those of its variants afterwards, without another round trip.
    """
    key = await _require_key(unit, product_id, "product", path)
    locked = unit.enqueue(_select_product(locks_currency), {**key._asdict(), "actor_id": unit.actor_id})
    codes = [enqueue_codes(unit.connection, key.config_id, [product_id])] if reads_codes else []
    await unit.connection.flush()
    product = _require_own(locked.rows, product_id, "product", path)
    _keep_codes(unit, codes)
    return product


async def find_products(unit: UnitOfWork, ids: Sequence[str]) -> dict[str, str]:
    """The id of the product of each id of a variant or product; without those that the actor may not know of."""
    keys = await find_row_keys(unit.connection, ids)
    found = [
        unit.enqueue(_select_products_of(), {**build_key_parameters(store_keys), "actor_id": unit.actor_id})
        for _, store_keys in group_by_store(keys)
    ]
    await unit.connection.flush()
    return {row.id: row.product_id for statement in found for row in statement.rows}


async def lock_own_products(
    unit: UnitOfWork, product_ids: Sequence[str], *, locks_currency: bool = False, reads_codes: bool = False
) -> Mapping[str, ProductRow]:
    """Lock the actor's products among these, by id. Missing ones are left out: the caller reports them per row.

    `locks_currency` and `reads_codes` as in `lock_own_product`.
    """
    keys = await find_row_keys(unit.connection, product_ids)
    locked, codes = list[QueuedStatement](), list[QueuedStatement]()
    for config_id, store_keys in group_by_store(keys):
        parameters = {**build_key_parameters(store_keys), "actor_id": unit.actor_id}
        locked.append(unit.enqueue(_select_products(locks_currency), parameters))
        if reads_codes:
            codes.append(enqueue_codes(unit.connection, config_id, [key.id for key in store_keys]))
    await unit.connection.flush()
    _keep_codes(unit, codes)
    rows = [row for statement in locked for row in statement.rows]
    _raise_if_forbidden(rows, "product")
    return {row.id: row for row in rows if row.mine}


async def lock_products_of_own_store(unit: UnitOfWork, config_id: str, column: str, values: Sequence[str]) -> list[ProductRow]:
    """Lock the products with one of these values of `column`, `id` or `handle`. Their store has been locked as the actor's."""
    return await unit.fetch(_select_products_of_store(column), {"config_id": config_id, "values": list(values)}) if values else []


def get_currency(product: Row) -> str:
    """The currency of the store of a product that was locked with `locks_currency`."""
    return product.currency


async def lock_own_variant(
    unit: UnitOfWork, variant_id: str, path: Sequence[str], *, locks_currency: bool = False
) -> tuple[VariantRow, ProductRow]:
    """Lock a variant of the actor, and its product first."""
    not_found = make_not_found_error("variant", variant_id, path)
    if (key := await find_row_key(unit.connection, variant_id)) is None:
        raise MutationRejected(not_found)
    for parent in await unit.fetch(_select_product_of_variant(), key._asdict()):
        parameters = {"config_id": key.config_id, "id": parent.product_id, "actor_id": unit.actor_id}
        for product in await unit.fetch(_select_product(locks_currency), parameters):
            if not product.mine and not parent.is_available:
                raise MutationRejected(not_found)
            _raise_if_forbidden([product], "variant")
            # It may have been deleted while this waited for the product's lock.
            for row in await unit.fetch(_select_variant(), key._asdict()) if product.mine else []:
                return row, product
    raise MutationRejected(not_found)


async def lock_variants_of(unit: UnitOfWork, config_id: str, ids: Sequence[str]) -> list[VariantRow]:
    """Lock the variants of a store with these ids, and those of products with these ids, which have been locked before."""
    return await unit.fetch(_select_variants_of(), {"config_id": config_id, "ids": list(ids)})


class LockedReview(NamedTuple):
    """A review with the `review_policy` and `owner_id` of its store, and its product with LOGGED_PRODUCT_COLUMNS."""

    review: Row
    product: ProductRow


async def lock_own_review(unit: UnitOfWork, review_id: str, path: Sequence[str]) -> LockedReview:
    """Lock a review by the actor, and its product first: the product's rating counts change with it."""
    return await _lock_review(unit, review_id, path, _IS_AUTHOR)


async def lock_review_of_own_store(unit: UnitOfWork, review_id: str, path: Sequence[str]) -> LockedReview:
    """Lock a review in one of the actor's stores, and its product first."""
    return await _lock_review(unit, review_id, path, _IS_OWN_STORE)


async def lock_reviews_of_own_stores(unit: UnitOfWork, review_ids: Sequence[str]) -> Mapping[str, LockedReview]:
    """Lock the reviews with these ids in the actor's stores, and their products first. Missing ones are left out."""
    return await _lock_reviews(unit, review_ids, _IS_OWN_STORE)


async def _lock_review(unit: UnitOfWork, review_id: str, path: Sequence[str], is_mine: ColumnElement[bool]) -> LockedReview:
    locked = (await _lock_reviews(unit, [review_id], is_mine)).get(review_id)
    if locked is None:
        raise MutationRejected(make_not_found_error("review", review_id, path))
    return locked


async def _lock_reviews(unit: UnitOfWork, ids: Sequence[str], is_mine: ColumnElement[bool]) -> Mapping[str, LockedReview]:
    locked = []
    for _, keys in group_by_store(await find_row_keys(unit.connection, ids)):
        parameters = {**build_key_parameters(keys), "actor_id": unit.actor_id}
        products_statement = unit.enqueue(_select_products_of_reviews(), parameters)
        locked.append((products_statement, unit.enqueue(_select_reviews(is_mine), parameters)))
    await unit.connection.flush()
    rows = [row for _, reviews_statement in locked for row in reviews_statement.rows]
    _raise_if_forbidden(rows, "review")
    products_by_id = {row.id: row for products_statement, _ in locked for row in products_statement.rows}
    return {row.id: LockedReview(row, products_by_id[row.product_id]) for row in rows if row.mine}


async def lock_own_webhook(unit: UnitOfWork, webhook_id: str, path: Sequence[str]) -> WebhookRow:
    """Lock a webhook of one of the actor's stores."""
    return await _lock_own_row(unit, _select_webhook(), webhook_id, "webhook", path)


async def lock_own_delivery(unit: UnitOfWork, delivery_id: str, path: Sequence[str]) -> tuple[DeliveryRow, WebhookRow]:
    """Lock a delivery of one of the actor's webhooks, and the webhook first."""
    not_found = make_not_found_error("delivery", delivery_id, path)
    if (key := await find_row_key(unit.connection, delivery_id)) is None:
        raise MutationRejected(not_found)
    for parent in await unit.fetch(_select_webhook_of_delivery(), key._asdict()):
        parameters = {"config_id": key.config_id, "id": parent.webhook_id, "actor_id": unit.actor_id}
        for webhook in await unit.fetch(_select_webhook(), parameters):
            _raise_if_forbidden([webhook], "delivery")
            for row in await unit.fetch(_select_delivery(), key._asdict()) if webhook.mine else []:
                return row, webhook
    raise MutationRejected(not_found)


async def _lock_own_row(unit: UnitOfWork, statement: Statement, row_id: str, entity_name: str, path: Sequence[str]) -> Row:
    key = await _require_key(unit, row_id, entity_name, path)
    return await _lock_own(unit, statement, key._asdict(), row_id, entity_name, path)


async def _require_key(unit: UnitOfWork, row_id: str, entity_name: str, path: Sequence[str]) -> RowKey:
    if (key := await find_row_key(unit.connection, row_id)) is None:
        raise MutationRejected(make_not_found_error(entity_name, row_id, path))
    return key


def _keep_codes(unit: UnitOfWork, statements: Sequence[QueuedStatement]) -> None:
    unit.variant_codes |= {row.id: row.codes for statement in statements for row in statement.rows}


async def _lock_own(
    unit: UnitOfWork, statement: Statement, key: Mapping[str, object], row_id: str, entity_name: str, path: Sequence[str]
) -> Row:
    return _require_own(await unit.fetch(statement, {**key, "actor_id": unit.actor_id}), row_id, entity_name, path)


def _require_own(rows: Sequence[Row], row_id: str, entity_name: str, path: Sequence[str]) -> Row:
    _raise_if_forbidden(rows, entity_name)
    for row in rows:
        if row.mine:
            return row
    raise MutationRejected(make_not_found_error(entity_name, row_id, path))


def _raise_if_forbidden(rows: Sequence[Row], entity_name: str) -> None:
    if any(row.seen and not row.mine for row in rows):
        raise Forbidden(f"This {entity_name} belongs to somebody else.")


@cache
def _select_store() -> Statement:
    query = select(configs, _MINE, configs.c.is_published.label("seen")).where(configs.c.id == bindparam("id"))
    return _compile_with_lock(query, configs, configs.c.id)


@cache
def _select_store_for_insert() -> Statement:
    columns = configs.c.id, configs.c.currency, _MINE, configs.c.is_published.label("seen")
    query = select(*columns).where(configs.c.id == bindparam("id"))
    return _compile_with_lock(query, configs, configs.c.id)


@cache
def _select_product(locks_currency: bool) -> Statement:
    query = _select_products_with_owner(has_key(products), locks_currency)
    return _compile_with_lock(query, products, products.c.id)


@cache
def _select_products_of() -> Statement:
    sql = """
SELECT v.id, v.product_id FROM product_variants AS v JOIN configs ON configs.id = CAST(:config_id AS uuid)
WHERE v.config_id = CAST(:config_id AS uuid) AND v.id = ANY(CAST(:ids AS uuid[]))
  AND (v.is_available OR configs.user_id = CAST(:actor_id AS uuid))
UNION ALL
SELECT id, id FROM products WHERE config_id = CAST(:config_id AS uuid) AND id = ANY(CAST(:ids AS uuid[]))
"""
    return compile_statement(text(sql))


@cache
def _select_products(locks_currency: bool) -> Statement:
    query = _select_products_with_owner(has_any_id(products), locks_currency)
    return _compile_with_lock(query, products, products.c.id, needs_custom_plan=True)


@cache
def _select_products_of_store(column: str) -> Statement:
    has_value = products.c[column] == any_(bindparam("values", type_=ARRAY(products.c[column].type)))
    query = select(*PRODUCT_COLUMNS).where(products.c.config_id == bind_store(), has_value)
    return _compile_with_lock(query, products, products.c.id, needs_custom_plan=True)


def _select_products_with_owner(condition: ColumnElement[bool], locks_currency: bool) -> Select[tuple[object, ...]]:
    is_visible = (configs.c.is_published & (products.c.status == "active")).label("seen")
    joined = products.join(configs, configs.c.id == bind_store())
    query = select(*PRODUCT_COLUMNS, configs.c.currency, _MINE, is_visible).select_from(joined).where(condition)
    # After the lock of the product, as a change of the currency does: so they cannot deadlock.
    return query.suffix_with(text("FOR KEY SHARE OF configs")) if locks_currency else query


@cache
def _select_product_of_variant() -> Statement:
    return compile_statement(select(variants.c.product_id, variants.c.is_available).where(has_key(variants)))


@cache
def _select_variant() -> Statement:
    return _compile_with_lock(select(variants).where(has_key(variants)), variants, variants.c.id)


@cache
def _select_variants_of() -> Statement:
    is_target = or_(has_any_id(variants), has_any_id(variants, "product_id"))
    return _compile_with_lock(select(variants).where(is_target), variants, variants.c.id, needs_custom_plan=True)


@cache
def _select_products_of_reviews() -> Statement:
    joined = products.join(reviews, (products.c.config_id == bind_store()) & (products.c.id == reviews.c.product_id))
    joined = joined.join(configs, configs.c.id == bind_store())
    query = select(*LOGGED_PRODUCT_COLUMNS).select_from(joined).where(has_any_id(reviews), _IS_AUTHOR_OR_OWNER)
    return _compile_with_lock(query, products, products.c.id, needs_custom_plan=True)


@cache
def _select_reviews(is_mine: ColumnElement[bool]) -> Statement:
    """Reviews with the `review_policy` and `owner_id` of their store."""
    is_product = (products.c.config_id == bind_store()) & (products.c.id == reviews.c.product_id)
    joined = reviews.join(products, is_product).join(configs, configs.c.id == bind_store())
    is_public = configs.c.is_published & (products.c.status == "active") & is_review_published()
    flags = is_mine.label("mine"), (is_public | _IS_AUTHOR_OR_OWNER).label("seen")
    store_columns = configs.c.review_policy, configs.c.user_id.label("owner_id")
    query = select(reviews, *store_columns, *flags).select_from(joined).where(has_any_id(reviews))
    return _compile_with_lock(query, reviews, reviews.c.id, needs_custom_plan=True)


@cache
def _select_webhook() -> Statement:
    joined = webhooks.join(configs, configs.c.id == bind_store())
    query = select(webhooks, _MINE, configs.c.is_published.label("seen")).select_from(joined)
    return _compile_with_lock(query.where(has_key(webhooks)), webhooks, webhooks.c.id)


@cache
def _select_webhook_of_delivery() -> Statement:
    return compile_statement(select(webhook_deliveries.c.webhook_id).where(has_key(webhook_deliveries)))


@cache
def _select_delivery() -> Statement:
    query = select(webhook_deliveries).where(has_key(webhook_deliveries))
    return _compile_with_lock(query, webhook_deliveries, webhook_deliveries.c.id)


def _compile_with_lock(
    query: Select[tuple[object, ...]],
    table: FromClause,
    order_column: ColumnElement[object],
    *,
    needs_custom_plan: bool = False,
) -> Statement:
    # FOR NO KEY UPDATE: concurrent inserts of rows that reference this one do not wait.
    locked = query.order_by(order_column).with_for_update(of=table, key_share=True)
    return compile_statement(locked, needs_custom_plan=needs_custom_plan)
