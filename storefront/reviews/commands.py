"""Writes of reviews, each with the change of its product that it records. Their owner is who wrote them."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import select

from storefront.core.db.database import Row, Statement, compiled
from storefront.models import configs, products, reviews
from storefront.queries.visibility import ids, visible_product
from storefront.writes import validation
from storefront.writes.authorization import missing, own_review
from storefront.writes.changelog import record_part
from storefront.writes.optimistic_lock import refuse_stale
from storefront.writes.sql import change_row, columns, delete_row, insert_row
from storefront.writes.transaction import Refused, Unit, Written

Values = Mapping[str, Any]

REVIEW: validation.Rules = {
    "rating": validation.given(validation.whole(1, 5)),
    "title": validation.optional(validation.text(255, least=0)),
    "body": validation.optional(validation.text(10_000, least=0)),
}
CREATE: validation.Rules = {"productId": validation.key, **REVIEW}
UPDATE: validation.Rules = {"id": validation.key, "expectedVersion": validation.as_is, **REVIEW}
DELETE: validation.Rules = {"id": validation.key, "expectedVersion": validation.as_is}


async def create_review(unit: Unit, values: Values) -> Sequence[Written]:
    """The actor's one review of a product that they can see."""
    clean = validation.require(CREATE, values)
    product = await _seen_product(unit, clean.pop("productId"))
    made = insert_row(unit, reviews, {"product_id": product.id, "user_id": unit.actor_id, **columns(clean)})
    record_part(unit, product.id, product, made.state, ["reviews"])
    return [made]


async def update_review(unit: Unit, values: Values) -> Sequence[Written]:
    """Those fields of the actor's review that are given."""
    clean = validation.require(UPDATE, values)
    old = await own_review(unit, clean.pop("id"), ["id"])
    await refuse_stale(unit, old, clean.pop("expectedVersion", None), old.config_id)
    made = change_row(unit, reviews, old, columns(clean))
    if made.fields:
        record_part(unit, old.product_id, old, made.state, [f"reviews.{field}" for field in made.fields])
    return [made]


async def delete_review(unit: Unit, values: Values) -> Sequence[Row]:
    """The actor's review, for good."""
    clean = validation.require(DELETE, values)
    old = await own_review(unit, clean["id"], ["id"])
    await refuse_stale(unit, old, clean.get("expectedVersion"), old.config_id)
    delete_row(unit, reviews, old)
    record_part(unit, old.product_id, old, old, ["reviews"])
    return [old]


async def _seen_product(unit: Unit, product_id: str) -> Row:
    owned = await unit.fetch(_owned(), {"ids": [unit.actor_id]})
    found = await unit.fetch(_seen(), {"ids": [product_id], "owned": [row.id for row in owned]})
    if not found:
        raise Refused(missing("product", product_id, ["productId"]))
    return found[0]


@cache
def _owned() -> Statement:
    return compiled(select(configs.c.id).where(configs.c.user_id == ids("ids")))


@cache
def _seen() -> Statement:
    # Locked, so that it is not deleted or hidden before the review is there.
    found = select(products.c.id, products.c.config_id, products.c.status).where(products.c.id == ids("ids"), visible_product())
    return compiled(found.with_for_update(of=products, key_share=True))
