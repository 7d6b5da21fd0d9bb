"""Commands that write reviews and record the change of their product in the store's log.

A review belongs to its author. The owner of the store decides who sees it, and may reply.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import bindparam, case, func, select, text, update
from sqlalchemy.dialects.postgresql import JSONB

from storefront.core.casing import to_camel_case
from storefront.core.db.database import Row, Statement, compile_statement
from storefront.core.db.json_parameters import to_json
from storefront.models import configs, products, reviews
from storefront.models.review import MAX_REVIEW_CHARACTERS
from storefront.models.row_keys import bind_store, bind_store_type, build_key_parameters, has_any_id, has_key, list_keys
from storefront.models.rows import ProductRow, ReviewRow
from storefront.queries.store_lookup import find_row_key
from storefront.queries.visibility import any_of_ids, is_product_visible
from storefront.writes import validation
from storefront.writes.authorization import (
    LOGGED_PRODUCT_COLUMNS,
    lock_own_review,
    lock_review_of_own_store,
    lock_reviews_of_own_stores,
)
from storefront.writes.changelog import record_review_change
from storefront.writes.field_errors import (
    FieldError,
    InvalidInputReason,
    MutationRejected,
    make_invalid_input_error,
    make_not_found_error,
)
from storefront.writes.optimistic_lock import get_set_values, reject_stale_version
from storefront.writes.sql import convert_to_columns, delete_row, insert_row, update_row
from storefront.writes.transaction import PendingRow, UnitOfWork

Values = Mapping[str, Any]

REVIEW_RULES: validation.Rules = {
    "rating": validation.non_null_rule(validation.integer_rule(1, 5)),
    "title": validation.optional_rule(validation.text_rule(255, min_characters=0)),
    "body": validation.optional_rule(validation.text_rule(MAX_REVIEW_CHARACTERS, min_characters=0)),
}
CREATE_RULES: validation.Rules = {"productId": validation.validate_id, **REVIEW_RULES}
UPDATE_RULES: validation.Rules = {**validation.UPDATE_LOCK_RULES, **REVIEW_RULES}
DELETE_RULES: validation.Rules = {"id": validation.validate_id, "expectedVersion": validation.accept_any}
# Of one `moderateReviews`.
MAX_MODERATED_REVIEWS = 100
MODERATE_RULES: validation.Rules = {
    "ids": validation.list_rule(validation.validate_id, MAX_MODERATED_REVIEWS, distinct=False),
    "status": validation.accept_any,
    "note": validation.optional_rule(validation.text_rule(1_000)),
}
REPLY_RULES: validation.Rules = {
    "id": validation.validate_id,
    "expectedVersion": validation.accept_any,
    "reply": validation.optional_rule(validation.text_rule(MAX_REVIEW_CHARACTERS)),
}


async def create_review(unit: UnitOfWork, values: Values) -> Sequence[PendingRow]:
    """Create the actor's review of a visible product; each user has one per product. It may have to wait for approval."""
    clean = validation.require_valid_fields(CREATE_RULES, values)
    product = await _lock_visible_product(unit, clean.pop("productId"))
    status = "pending" if _is_moderated(unit, product) else "published"
    keys = {"config_id": product.config_id, "product_id": product.id, "user_id": unit.actor_id, "status": status}
    pending = insert_row(unit, reviews, {**keys, **convert_to_columns(clean)})
    _enqueue_counts(unit, product.config_id, [(None, pending.state)])
    record_review_change(unit, product, pending.state, ["reviews"], is_public=status == "published")
    return [pending]


async def update_review(unit: UnitOfWork, values: Values) -> Sequence[PendingRow]:
    """Update the given fields of the actor's own review. In a moderated store it has to be approved again."""
    clean = validation.require_valid_fields(UPDATE_RULES, values)
    old, product = await lock_own_review(unit, clean["id"], ["id"])
    await reject_stale_version(unit, old, clean, old.config_id)
    columns = convert_to_columns(get_set_values(clean))
    if _is_moderated(unit, old) and any(getattr(old, name) != value for name, value in columns.items()):
        columns |= {"status": "pending", "moderation_note": None}
    pending = update_row(unit, reviews, old, columns)
    if pending.changed_fields:
        _enqueue_counts(unit, old.config_id, [(old, pending.state)])
        _record_update(unit, product, old, pending.state, pending.changed_fields)
    return [pending]


async def delete_review(unit: UnitOfWork, values: Values) -> Sequence[ReviewRow]:
    """Delete the actor's own review."""
    clean = validation.require_valid_fields(DELETE_RULES, values)
    old, product = await lock_own_review(unit, clean["id"], ["id"])
    await reject_stale_version(unit, old, clean, old.config_id)
    delete_row(unit, reviews, old)
    _enqueue_counts(unit, old.config_id, [(old, None)])
    record_review_change(unit, product, old, ["reviews"], is_public=old.status == "published")
    return [old]


async def moderate_reviews(unit: UnitOfWork, values: Values) -> Sequence[ReviewRow]:
    """Give reviews of one store of the actor a status, all or none. Returns them in the order of the ids."""
    clean = validation.require_valid_fields(MODERATE_RULES, values)
    ids: list[str] = clean["ids"]
    if not ids:
        raise MutationRejected(make_invalid_input_error(["ids"], "must have 1 entry or more.", InvalidInputReason.REQUIRED))
    locked = await lock_reviews_of_own_stores(unit, ids)
    old_rows = {review_id: review for review_id, (review, _) in locked.items()}
    if errors := _find_target_errors(ids, old_rows):
        raise MutationRejected(*errors)
    note = clean.get("note") if clean["status"] == "hidden" else None
    parameters = {**build_key_parameters(list_keys(old_rows.values())), "status": clean["status"], "note": note}
    updated = {row.id: row for row in await unit.fetch(_update_statuses(), parameters)}
    _enqueue_counts(unit, old_rows[ids[0]].config_id, [(old_rows[row.id], row) for row in updated.values()])
    for review_id, new in updated.items():
        old, product = locked[review_id]
        changed = [name for name in ("status", "moderation_note") if getattr(old, name) != getattr(new, name)]
        _record_update(unit, product, old, new, changed)
    rows = {**old_rows, **updated}
    return [rows[review_id] for review_id in ids]


async def reply_to_review(unit: UnitOfWork, values: Values) -> Sequence[ReviewRow]:
    """Write, change or (null) remove the public reply to a review in a store of the actor."""
    clean = validation.require_valid_fields(REPLY_RULES, values)
    old, product = await lock_review_of_own_store(unit, clean["id"], ["id"])
    await reject_stale_version(unit, old, clean, old.config_id)
    if clean["reply"] == old.reply:
        return [old]
    [new] = await unit.fetch(_update_reply(), {"config_id": old.config_id, "id": old.id, "reply": clean["reply"]})
    _record_update(unit, product, old, new, ["reply"])
    return [new]


def _is_moderated(unit: UnitOfWork, row: Row) -> bool:
    """Whether what the actor writes has to be approved. `row` has the `review_policy` and `owner_id` of its store."""
    return bool(row.review_policy == "moderate" and row.owner_id != unit.actor_id)


def _find_target_errors(ids: Sequence[str], rows: Mapping[str, ReviewRow]) -> list[FieldError]:
    if missing := [n for n, review_id in enumerate(ids) if review_id not in rows]:
        return [make_not_found_error("review", ids[n], ["ids", str(n)]) for n in missing]
    problem = "belongs to another store than ids.0."
    return [
        make_invalid_input_error(["ids", str(n)], problem, InvalidInputReason.CONFLICTING)
        for n, review_id in enumerate(ids)
        if rows[review_id].config_id != rows[ids[0]].config_id
    ]


def _enqueue_counts(unit: UnitOfWork, config_id: str, changes: Iterable[tuple[Row | None, Row | None]]) -> None:
    """Count reviews of a store that changed, as pairs of old and new row, for their products, which have been locked before."""
    deltas_by_product: dict[str, list[int]] = {}
    for pair in changes:
        for row, delta in zip(pair, (-1, 1), strict=True):
            if row is not None and row.status == "published":
                deltas_by_product.setdefault(row.product_id, [0] * 5)[row.rating - 1] += delta
    if rows := [{"id": id_, "deltas": deltas} for id_, deltas in deltas_by_product.items() if any(deltas)]:
        unit.enqueue(_update_counts(), {"config_id": config_id, "rows": to_json(rows)})


def _record_update(unit: UnitOfWork, product: ProductRow, old: ReviewRow, new: ReviewRow, fields: Sequence[str]) -> None:
    is_public = "published" in (old.status, new.status)
    names = [f"reviews.{to_camel_case(field)}" for field in fields]
    record_review_change(unit, product, new, names, is_public=is_public)


async def _lock_visible_product(unit: UnitOfWork, product_id: str) -> Row:
    """A product with LOGGED_PRODUCT_COLUMNS, and the `review_policy` and `owner_id` of its store."""
    key = await find_row_key(unit.connection, product_id)
    owned = await unit.fetch(_select_owned_stores(), {"ids": [unit.actor_id]})
    parameters = {"owned": [row.id for row in owned]}
    rows = await unit.fetch(_select_visible_product(), {**key._asdict(), **parameters}) if key else []
    if not rows:
        raise MutationRejected(make_not_found_error("product", product_id, ["productId"]))
    return rows[0]


@cache
def _select_owned_stores() -> Statement:
    return compile_statement(select(configs.c.id).where(configs.c.user_id == any_of_ids("ids")))


@cache
def _select_visible_product() -> Statement:
    # Locked, so that the product is not deleted or hidden before the review is inserted.
    columns = (*LOGGED_PRODUCT_COLUMNS, configs.c.review_policy, configs.c.user_id.label("owner_id"))
    query = select(*columns).join_from(products, configs, configs.c.id == bind_store())
    query = query.where(has_key(products), is_product_visible(bind_store()))
    return compile_statement(query.with_for_update(of=products, key_share=True))


@cache
def _update_statuses() -> Statement:
    status, note = bindparam("status", type_=reviews.c.status.type), bindparam("note", type_=reviews.c.moderation_note.type)
    is_changed = (reviews.c.status != status) | reviews.c.moderation_note.is_distinct_from(note)
    row = update(reviews).where(has_any_id(reviews), is_changed)
    values = {"status": status, "moderation_note": note, "version": reviews.c.version + 1, "updated_at": func.now()}
    return compile_statement(row.values(values).returning(reviews), needs_custom_plan=True)


@cache
def _update_reply() -> Statement:
    reply = bindparam("reply", type_=reviews.c.reply.type)
    values = {
        "reply": reply,
        "replied_at": case((reply.is_not(None), func.now())),
        "version": reviews.c.version + 1,
        "updated_at": func.now(),
    }
    return compile_statement(update(reviews).where(has_key(reviews)).values(values).returning(reviews))


@cache
def _update_counts() -> Statement:
    # Added to, so that a review costs the same with ten thousand others.
    counts = ", ".join(f"products.rating_counts[{stars}] + changed.deltas[{stars}]" for stars in range(1, 6))
    sql = f"""
UPDATE products SET rating_counts = ARRAY[{counts}]
FROM jsonb_to_recordset(:rows) AS changed (id uuid, deltas integer[])
WHERE products.config_id = :config_id AND products.id = changed.id
"""
    return compile_statement(text(sql).bindparams(bind_store_type(is_single_store=True), bindparam("rows", type_=JSONB)))
