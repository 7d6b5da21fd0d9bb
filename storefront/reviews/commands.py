"""Commands that write reviews and record the change of their product in the store's log. A review belongs to its author."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import select

from storefront.core.db.database import Statement, compile_statement
from storefront.models import configs, products, reviews
from storefront.models.rows import ProductRow, ReviewRow
from storefront.queries.visibility import any_of_ids, is_product_visible
from storefront.writes import validation
from storefront.writes.authorization import lock_own_review
from storefront.writes.changelog import record_child_change
from storefront.writes.field_errors import MutationRejected, make_not_found_error
from storefront.writes.optimistic_lock import reject_stale_version
from storefront.writes.sql import convert_to_columns, delete_row, insert_row, update_row
from storefront.writes.transaction import PendingRow, UnitOfWork

Values = Mapping[str, Any]

REVIEW_RULES: validation.Rules = {
    "rating": validation.non_null_rule(validation.integer_rule(1, 5)),
    "title": validation.optional_rule(validation.text_rule(255, min_characters=0)),
    "body": validation.optional_rule(validation.text_rule(10_000, min_characters=0)),
}
CREATE_RULES: validation.Rules = {"productId": validation.validate_id, **REVIEW_RULES}
UPDATE_RULES: validation.Rules = {"id": validation.validate_id, "expectedVersion": validation.accept_any, **REVIEW_RULES}
DELETE_RULES: validation.Rules = {"id": validation.validate_id, "expectedVersion": validation.accept_any}


async def create_review(unit: UnitOfWork, values: Values) -> Sequence[PendingRow]:
    """Create the actor's review of a visible product; each user has one per product."""
    clean = validation.require_valid_fields(CREATE_RULES, values)
    product = await _lock_visible_product(unit, clean.pop("productId"))
    keys = {"config_id": product.config_id, "product_id": product.id, "user_id": unit.actor_id}
    pending = insert_row(unit, reviews, {**keys, **convert_to_columns(clean)})
    record_child_change(unit, product.id, product, pending.state, ["reviews"])
    return [pending]


async def update_review(unit: UnitOfWork, values: Values) -> Sequence[PendingRow]:
    """Update the given fields of the actor's own review."""
    clean = validation.require_valid_fields(UPDATE_RULES, values)
    old = await lock_own_review(unit, clean.pop("id"), ["id"])
    await reject_stale_version(unit, old, clean.pop("expectedVersion", None), old.config_id)
    pending = update_row(unit, reviews, old, convert_to_columns(clean))
    if pending.changed_fields:
        record_child_change(unit, old.product_id, old, pending.state, [f"reviews.{field}" for field in pending.changed_fields])
    return [pending]


async def delete_review(unit: UnitOfWork, values: Values) -> Sequence[ReviewRow]:
    """Delete the actor's own review."""
    clean = validation.require_valid_fields(DELETE_RULES, values)
    old = await lock_own_review(unit, clean["id"], ["id"])
    await reject_stale_version(unit, old, clean.get("expectedVersion"), old.config_id)
    delete_row(unit, reviews, old)
    record_child_change(unit, old.product_id, old, old, ["reviews"])
    return [old]


async def _lock_visible_product(unit: UnitOfWork, product_id: str) -> ProductRow:
    owned = await unit.fetch(_select_owned_stores(), {"ids": [unit.actor_id]})
    rows = await unit.fetch(_select_visible_product(), {"ids": [product_id], "owned": [row.id for row in owned]})
    if not rows:
        raise MutationRejected(make_not_found_error("product", product_id, ["productId"]))
    return rows[0]


@cache
def _select_owned_stores() -> Statement:
    return compile_statement(select(configs.c.id).where(configs.c.user_id == any_of_ids("ids")))


@cache
def _select_visible_product() -> Statement:
    # Locked, so that the product is not deleted or hidden before the review is inserted.
    query = select(products.c.id, products.c.config_id, products.c.status).where(
        products.c.id == any_of_ids("ids"), is_product_visible()
    )
    return compile_statement(query.with_for_update(of=products, key_share=True))
