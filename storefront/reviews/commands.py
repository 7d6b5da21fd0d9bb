"""Writes of reviews, each with the change of its product that it records. Their owner is who wrote them."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import select

from storefront.commands import rules
from storefront.commands.changes import record_part
from storefront.commands.ownership import missing, own_review
from storefront.commands.statements import change_row, columns, delete_row, insert_row
from storefront.commands.unit import Refused, Unit, Written
from storefront.commands.versions import refuse_stale
from storefront.core.database import Row, Statement, compiled
from storefront.models import configs, products, reviews
from storefront.queries.visibility import ids, visible_product

Values = Mapping[str, Any]

REVIEW: rules.Rules = {
    "rating": rules.given(rules.whole(1, 5)),
    "title": rules.optional(rules.text(255, least=0)),
    "body": rules.optional(rules.text(10_000, least=0)),
}
CREATE: rules.Rules = {"productId": rules.key, **REVIEW}
UPDATE: rules.Rules = {"id": rules.key, "expectedVersion": rules.as_is, **REVIEW}
DELETE: rules.Rules = {"id": rules.key, "expectedVersion": rules.as_is}


async def create_review(unit: Unit, values: Values) -> Sequence[Written]:
    """The actor's one review of a product that they can see."""
    clean = rules.require(CREATE, values)
    product = await _seen_product(unit, clean.pop("productId"))
    made = insert_row(unit, reviews, {"product_id": product.id, "user_id": unit.actor_id, **columns(clean)})
    record_part(unit, product.id, product, made.state, ["reviews"])
    return [made]


async def update_review(unit: Unit, values: Values) -> Sequence[Written]:
    """Those fields of the actor's review that are given."""
    clean = rules.require(UPDATE, values)
    old = await own_review(unit, clean.pop("id"), ["id"])
    await refuse_stale(unit, old, clean.pop("expectedVersion", None), old.config_id)
    made = change_row(unit, reviews, old, columns(clean))
    if made.fields:
        record_part(unit, old.product_id, old, made.state, [f"reviews.{field}" for field in made.fields])
    return [made]


async def delete_review(unit: Unit, values: Values) -> Sequence[Row]:
    """The actor's review, for good."""
    clean = rules.require(DELETE, values)
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
