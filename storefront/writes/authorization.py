"""The owner's rule, in the one place that every command passes through: rows come from here, locked, or not at all.

What is not the asker's is answered as if it did not exist, unless they could see it anyway: then as forbidden.
Locks are taken in one order everywhere, so that two commands never wait for each other: store, products by id, variants by id.
"""

from collections.abc import Mapping, Sequence
from functools import cache

from sqlalchemy import ColumnElement, FromClause, Select, bindparam, select

from storefront.core.db.database import Row, Statement, compiled
from storefront.core.errors import Forbidden
from storefront.models import configs, products, reviews, variants, webhook_deliveries, webhooks
from storefront.queries.projection import COLUMNS
from storefront.queries.visibility import ids
from storefront.writes.transaction import Code, Failure, Refused, Unit

_MINE = (configs.c.user_id == bindparam("actor_id")).label("mine")


async def own_store(unit: Unit, config_id: str, path: Sequence[str]) -> Row:
    """The actor's store."""
    return await _own(unit, _store(), config_id, "store", path)


# The id of the actor's store, or NULL, in a statement that adds a row to it.
OWN_STORE = "(SELECT id FROM configs WHERE id = CAST(:store AS uuid) AND user_id = CAST(:actor_id AS uuid))"


async def lock_store(unit: Unit, config_id: str, path: Sequence[str]) -> None:
    """Lock the actor's store, for a row that is about to be added to it: one whose store is OWN_STORE.

    As long as the unit `assumes`, nobody waits for the answer: where the store is not the actor's, that row is refused.
    """
    if unit.assumes:
        unit.send(_key_of_store(), {"ids": [config_id], "actor_id": unit.actor_id})
    else:
        await _own(unit, _key_of_store(), config_id, "store", path)


async def own_product(unit: Unit, product_id: str, path: Sequence[str]) -> Row:
    """A product of the actor's."""
    return await _own(unit, _products(), product_id, "product", path)


async def own_products(unit: Unit, product_ids: Sequence[str]) -> Mapping[str, Row]:
    """Those of the products that are the actor's, by id. Raises for none that is missing: the caller tells by row."""
    rows = await unit.fetch(_products(), {"ids": sorted(set(product_ids)), "actor_id": unit.actor_id})
    _forbid(rows, "product")
    return {row.id: row for row in rows if row.mine}


async def own_variant(unit: Unit, variant_id: str, path: Sequence[str]) -> tuple[Row, Row]:
    """A variant of the actor's, and its product."""
    absent = missing("variant", variant_id, path)
    for parent in await unit.fetch(_product_of_variant(), {"id": variant_id}):
        for product in await unit.fetch(_products(), {"ids": [parent.product_id], "actor_id": unit.actor_id}):
            if not product.mine and not parent.is_available:
                raise Refused(absent)
            _forbid([product], "variant")
            # It may have been deleted while its product was waited for.
            for row in await unit.fetch(_variants(), {"ids": [variant_id]}) if product.mine else []:
                return row, product
    raise Refused(absent)


async def own_review(unit: Unit, review_id: str, path: Sequence[str]) -> Row:
    """A review that the actor wrote. Its product is locked too, and first: the counts that stand there change with it."""
    await unit.fetch(_product_of_review(), {"ids": [review_id], "actor_id": unit.actor_id})
    return await _own(unit, _reviews(), review_id, "review", path)


async def own_webhook(unit: Unit, webhook_id: str, path: Sequence[str]) -> Row:
    """A webhook of a store of the actor's."""
    return await _own(unit, _webhooks(), webhook_id, "webhook", path)


async def own_delivery(unit: Unit, delivery_id: str, path: Sequence[str]) -> tuple[Row, Row]:
    """A delivery of a webhook of the actor's, and the webhook, which is locked first."""
    absent = missing("delivery", delivery_id, path)
    for parent in await unit.fetch(_webhook_of_delivery(), {"id": delivery_id}):
        for hook in await unit.fetch(_webhooks(), {"ids": [parent.webhook_id], "actor_id": unit.actor_id}):
            _forbid([hook], "delivery")
            for row in await unit.fetch(_deliveries(), {"ids": [delivery_id]}) if hook.mine else []:
                return row, hook
    raise Refused(absent)


def missing(noun: str, id_: str, path: Sequence[str]) -> Failure:
    """Nothing there that the actor may know of."""
    return Failure(Code.NOT_FOUND, f"{'.'.join(path)}: there is no {noun} with the id {id_}.", tuple(path))


async def _own(unit: Unit, statement: Statement, key: str, noun: str, path: Sequence[str]) -> Row:
    rows = await unit.fetch(statement, {"ids": [key], "actor_id": unit.actor_id})
    _forbid(rows, noun)
    for row in rows:
        if row.mine:
            return row
    raise Refused(missing(noun, key, path))


def _forbid(rows: Sequence[Row], noun: str) -> None:
    if any(row.seen and not row.mine for row in rows):
        raise Forbidden(f"This {noun} belongs to somebody else.")


@cache
def _store() -> Statement:
    found = select(configs, _MINE, configs.c.is_published.label("seen")).where(configs.c.id == ids("ids"))
    return _locked(found, configs, configs.c.id)


@cache
def _key_of_store() -> Statement:
    found = select(configs.c.id, _MINE, configs.c.is_published.label("seen")).where(configs.c.id == ids("ids"))
    return _locked(found, configs, configs.c.id)


@cache
def _products() -> Statement:
    seen = (configs.c.is_published & (products.c.status == "active")).label("seen")
    joined = products.join(configs, configs.c.id == products.c.config_id)
    found = select(*COLUMNS, _MINE, seen).select_from(joined).where(products.c.id == ids("ids"))
    return _locked(found, products, products.c.id)


@cache
def _product_of_variant() -> Statement:
    return compiled(select(variants.c.product_id, variants.c.is_available).where(variants.c.id == bindparam("id")))


@cache
def _variants() -> Statement:
    return _locked(select(variants).where(variants.c.id == ids("ids")), variants, variants.c.id)


@cache
def _product_of_review() -> Statement:
    found = select(products.c.id).join_from(products, reviews).where(reviews.c.id == ids("ids"))
    return _locked(found.where(reviews.c.user_id == bindparam("actor_id")), products, products.c.id)


@cache
def _reviews() -> Statement:
    joined = reviews.join(products, products.c.id == reviews.c.product_id).join(configs, configs.c.id == products.c.config_id)
    seen = (configs.c.is_published & (products.c.status == "active")).label("seen")
    mine = (reviews.c.user_id == bindparam("actor_id")).label("mine")
    found = select(reviews, products.c.config_id, products.c.status, mine, seen).select_from(joined)
    return _locked(found.where(reviews.c.id == ids("ids")), reviews, reviews.c.id)


@cache
def _webhooks() -> Statement:
    found = select(webhooks, _MINE, configs.c.is_published.label("seen")).join_from(webhooks, configs)
    return _locked(found.where(webhooks.c.id == ids("ids")), webhooks, webhooks.c.id)


@cache
def _webhook_of_delivery() -> Statement:
    return compiled(select(webhook_deliveries.c.webhook_id).where(webhook_deliveries.c.id == bindparam("id")))


@cache
def _deliveries() -> Statement:
    found = select(webhook_deliveries).where(webhook_deliveries.c.id == ids("ids"))
    return _locked(found, webhook_deliveries, webhook_deliveries.c.id)


def _locked(found: Select[tuple[object, ...]], table: FromClause, key: ColumnElement[object]) -> Statement:
    # NO KEY: rows that refer to this one may be added meanwhile.
    return compiled(found.order_by(key).with_for_update(of=table, key_share=True))
