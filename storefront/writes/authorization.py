"""Authorization of commands: loads and locks rows that the actor owns. Every command gets its rows here.

A row of another owner is NOT_FOUND, unless the actor may read it: then FORBIDDEN.
Locks are taken in one order, so that commands never deadlock: store, products by id, variants by id.
"""

from collections.abc import Mapping, Sequence
from functools import cache

from sqlalchemy import ColumnElement, FromClause, Select, bindparam, or_, select

from storefront.core.db.database import Row, Statement, compile_statement
from storefront.core.errors import Forbidden
from storefront.models import configs, products, reviews, variants, webhook_deliveries, webhooks
from storefront.models.rows import ConfigRow, DeliveryRow, ProductRow, VariantRow, WebhookRow
from storefront.queries.projection import PRODUCT_COLUMNS
from storefront.queries.visibility import any_of_ids
from storefront.writes.field_errors import MutationRejected, make_not_found_error
from storefront.writes.transaction import UnitOfWork

_IS_OWN_STORE = (configs.c.user_id == bindparam("actor_id")).label("mine")


async def lock_own_store(unit: UnitOfWork, config_id: str, path: Sequence[str]) -> ConfigRow:
    """Lock the actor's store. Raises MutationRejected (NOT_FOUND) or Forbidden, as all functions here."""
    return await _lock_own(unit, _select_store(), config_id, "store", path)


# The id of the actor's store, or NULL, in a statement that adds a row to it.
OWN_STORE_ID_SQL = "(SELECT id FROM configs WHERE id = CAST(:store AS uuid) AND user_id = CAST(:actor_id AS uuid))"


async def lock_store_for_insert(unit: UnitOfWork, config_id: str, path: Sequence[str]) -> None:
    """Lock the actor's store before a row is inserted with OWN_STORE_ID_SQL as its store.

    In an optimistic unit the result is not awaited: if the store is not the actor's, the insert fails with NOT NULL.
    """
    if unit.is_optimistic:
        unit.enqueue(_select_store_id(), {"ids": [config_id], "actor_id": unit.actor_id})
    else:
        await _lock_own(unit, _select_store_id(), config_id, "store", path)


async def lock_own_product(unit: UnitOfWork, product_id: str, path: Sequence[str]) -> ProductRow:
    """Lock a product of the actor."""
    return await _lock_own(unit, _select_products(), product_id, "product", path)


async def lock_own_products(unit: UnitOfWork, product_ids: Sequence[str]) -> Mapping[str, ProductRow]:
    """Lock the actor's products among these, by id. Missing ones are left out: the caller reports them per row."""
    rows = await unit.fetch(_select_products(), {"ids": sorted(set(product_ids)), "actor_id": unit.actor_id})
    _raise_if_forbidden(rows, "product")
    return {row.id: row for row in rows if row.mine}


async def lock_own_variant(unit: UnitOfWork, variant_id: str, path: Sequence[str]) -> tuple[VariantRow, ProductRow]:
    """Lock a variant of the actor, and its product first."""
    not_found = make_not_found_error("variant", variant_id, path)
    for parent in await unit.fetch(_select_product_of_variant(), {"id": variant_id}):
        for product in await unit.fetch(_select_products(), {"ids": [parent.product_id], "actor_id": unit.actor_id}):
            if not product.mine and not parent.is_available:
                raise MutationRejected(not_found)
            _raise_if_forbidden([product], "variant")
            # It may have been deleted while this waited for the product's lock.
            for row in await unit.fetch(_select_variants(), {"ids": [variant_id]}) if product.mine else []:
                return row, product
    raise MutationRejected(not_found)


async def lock_variants_of(unit: UnitOfWork, ids: Sequence[str]) -> list[VariantRow]:
    """Lock the variants with these ids, and those of products with these ids. The actor's products have been locked before."""
    return await unit.fetch(_select_variants_of(), {"ids": list(ids)})


async def lock_own_review(unit: UnitOfWork, review_id: str, path: Sequence[str]) -> Row:
    """Lock a review by the actor, and its product first: the product's rating counts change with it."""
    await unit.fetch(_select_product_of_review(), {"ids": [review_id], "actor_id": unit.actor_id})
    return await _lock_own(unit, _select_reviews(), review_id, "review", path)


async def lock_own_webhook(unit: UnitOfWork, webhook_id: str, path: Sequence[str]) -> WebhookRow:
    """Lock a webhook of one of the actor's stores."""
    return await _lock_own(unit, _select_webhooks(), webhook_id, "webhook", path)


async def lock_own_delivery(unit: UnitOfWork, delivery_id: str, path: Sequence[str]) -> tuple[DeliveryRow, WebhookRow]:
    """Lock a delivery of one of the actor's webhooks, and the webhook first."""
    not_found = make_not_found_error("delivery", delivery_id, path)
    for parent in await unit.fetch(_select_webhook_of_delivery(), {"id": delivery_id}):
        for webhook in await unit.fetch(_select_webhooks(), {"ids": [parent.webhook_id], "actor_id": unit.actor_id}):
            _raise_if_forbidden([webhook], "delivery")
            for row in await unit.fetch(_select_deliveries(), {"ids": [delivery_id]}) if webhook.mine else []:
                return row, webhook
    raise MutationRejected(not_found)


async def _lock_own(unit: UnitOfWork, statement: Statement, row_id: str, entity_name: str, path: Sequence[str]) -> Row:
    rows = await unit.fetch(statement, {"ids": [row_id], "actor_id": unit.actor_id})
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
    query = select(configs, _IS_OWN_STORE, configs.c.is_published.label("seen")).where(configs.c.id == any_of_ids("ids"))
    return _compile_with_lock(query, configs, configs.c.id)


@cache
def _select_store_id() -> Statement:
    query = select(configs.c.id, _IS_OWN_STORE, configs.c.is_published.label("seen")).where(configs.c.id == any_of_ids("ids"))
    return _compile_with_lock(query, configs, configs.c.id)


@cache
def _select_products() -> Statement:
    is_visible = (configs.c.is_published & (products.c.status == "active")).label("seen")
    joined = products.join(configs, configs.c.id == products.c.config_id)
    query = select(*PRODUCT_COLUMNS, _IS_OWN_STORE, is_visible).select_from(joined).where(products.c.id == any_of_ids("ids"))
    return _compile_with_lock(query, products, products.c.id)


@cache
def _select_product_of_variant() -> Statement:
    return compile_statement(select(variants.c.product_id, variants.c.is_available).where(variants.c.id == bindparam("id")))


@cache
def _select_variants() -> Statement:
    return _compile_with_lock(select(variants).where(variants.c.id == any_of_ids("ids")), variants, variants.c.id)


@cache
def _select_variants_of() -> Statement:
    is_target = or_(variants.c.id == any_of_ids("ids"), variants.c.product_id == any_of_ids("ids"))
    return _compile_with_lock(select(variants).where(is_target), variants, variants.c.id)


@cache
def _select_product_of_review() -> Statement:
    query = select(products.c.id).join_from(products, reviews).where(reviews.c.id == any_of_ids("ids"))
    return _compile_with_lock(query.where(reviews.c.user_id == bindparam("actor_id")), products, products.c.id)


@cache
def _select_reviews() -> Statement:
    joined = reviews.join(products, products.c.id == reviews.c.product_id).join(configs, configs.c.id == products.c.config_id)
    is_visible = (configs.c.is_published & (products.c.status == "active")).label("seen")
    is_own = (reviews.c.user_id == bindparam("actor_id")).label("mine")
    query = select(reviews, products.c.status, is_own, is_visible).select_from(joined)
    return _compile_with_lock(query.where(reviews.c.id == any_of_ids("ids")), reviews, reviews.c.id)


@cache
def _select_webhooks() -> Statement:
    query = select(webhooks, _IS_OWN_STORE, configs.c.is_published.label("seen")).join_from(webhooks, configs)
    return _compile_with_lock(query.where(webhooks.c.id == any_of_ids("ids")), webhooks, webhooks.c.id)


@cache
def _select_webhook_of_delivery() -> Statement:
    return compile_statement(select(webhook_deliveries.c.webhook_id).where(webhook_deliveries.c.id == bindparam("id")))


@cache
def _select_deliveries() -> Statement:
    query = select(webhook_deliveries).where(webhook_deliveries.c.id == any_of_ids("ids"))
    return _compile_with_lock(query, webhook_deliveries, webhook_deliveries.c.id)


def _compile_with_lock(query: Select[tuple[object, ...]], table: FromClause, order_column: ColumnElement[object]) -> Statement:
    # FOR NO KEY UPDATE: concurrent inserts of rows that reference this one do not wait.
    return compile_statement(query.order_by(order_column).with_for_update(of=table, key_share=True))
