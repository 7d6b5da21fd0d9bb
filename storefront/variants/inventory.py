"""Adjustments of stock, all or none. Set-based: 250 changes take as many statements as one."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import orjson
from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import JSONB

from storefront.core.db.database import Statement, compile_statement
from storefront.models.row_keys import RowKey
from storefront.models.rows import ProductRow, VariantRow
from storefront.models.writable_fields import MAX_INT32
from storefront.queries.variants import load_variants_by_keys
from storefront.writes import validation
from storefront.writes.authorization import find_products, lock_own_products, lock_variants_of
from storefront.writes.changelog import record_child_change
from storefront.writes.field_errors import (
    FieldError,
    InvalidInputReason,
    MutationRejected,
    UserErrorCode,
    make_invalid_input_error,
    make_invalid_state_error,
    make_not_found_error,
)
from storefront.writes.transaction import UnitOfWork
from storefront.writes.variant_summary import enqueue_summaries, list_changed_fields

MAX_CHANGES = 250


async def adjust_inventory(unit: UnitOfWork, values: Mapping[str, Any]) -> Sequence[VariantRow]:
    """Add `delta` to the stock of each variant, below zero only if more may be sold. Returns the variants in that order.

    An id is that of a variant, or of a product with one variant. All belong to one store.
    """
    changes = _validate_changes(values["changes"])
    ids = [change["id"] for change in changes]
    product_ids = await find_products(unit, ids)
    products = await lock_own_products(unit, list(product_ids.values()))
    _raise_errors(_find_target_error(n, id_, products.get(product_ids.get(id_, "")), products) for n, id_ in enumerate(ids))
    config_id = next(iter(products.values())).config_id
    locked = await lock_variants_of(unit, config_id, ids)
    variants = {change_id: row for row in locked for change_id in (row.id, row.product_id)}
    _raise_errors(_find_change_error(n, change, variants, ids) for n, change in enumerate(changes))
    deltas = {variants[change["id"]].id: change["delta"] for change in changes}
    stock_changes = orjson.dumps([{"id": i, "delta": d} for i, d in deltas.items()]).decode()
    written = unit.enqueue(_update_stock(), {"config_id": config_id, "rows": stock_changes})
    summaries = enqueue_summaries(unit, list(products.values()))
    # Sent with the two before it.
    adjusted = {row.id: row for row in await load_variants_by_keys(unit.connection, [RowKey(config_id, id_) for id_ in deltas])}
    summarized = {**products, **{row.id: row for row in summaries.rows}}
    rows = {row.id: row for row in written.rows}
    for row in map(rows.__getitem__, deltas):
        product = products[row.product_id]
        fields = ["variants.inventory", *list_changed_fields(product, summarized[product.id])]
        record_child_change(unit, product, row, fields)
    return [adjusted[id_] for id_ in deltas]


def _validate_changes(changes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    rules: validation.Rules = {"id": validation.validate_id, "delta": _check_delta}
    if not changes:
        problem = f"must have 1 to {MAX_CHANGES} entries, not 0."
        raise MutationRejected(make_invalid_input_error(["changes"], problem, InvalidInputReason.TOO_SHORT))
    valid = validation.require_valid_fields(
        {"changes": validation.list_rule(validation.object_rule(rules), MAX_CHANGES, distinct=False)}, {"changes": changes}
    )
    return list(valid["changes"])


def _check_delta(value: int) -> int:
    if value == 0:
        raise validation.InvalidValueError("must not be 0: that changes nothing.", InvalidInputReason.NOT_ALLOWED)
    return int(validation.integer_rule(-MAX_INT32, MAX_INT32)(value))


def _raise_errors(found: Any) -> None:
    if errors := [error for error in found if error]:
        raise MutationRejected(*errors)


def _find_target_error(
    n: int, target_id: str, product: ProductRow | None, products: Mapping[str, ProductRow]
) -> FieldError | None:
    path = ["changes", str(n), "id"]
    if product is None:
        return make_not_found_error("variant or product", target_id, path)
    if product.id == target_id and product.variants_total > 1:
        problem = f"the product has {product.variants_total:,} variants. Give the id of the one whose stock changes."
        return make_invalid_state_error(path, problem)
    if product.config_id != next(iter(products.values())).config_id:
        problem = "belongs to another store than other changes. Send one request for each store."
        return make_invalid_input_error(path, problem, InvalidInputReason.CONFLICTING)
    return None


def _find_change_error(
    n: int, change: Mapping[str, Any], variants: Mapping[str, VariantRow], ids: Sequence[str]
) -> FieldError | None:
    path, delta, row = ["changes", str(n)], change["delta"], variants.get(change["id"])
    if row is None:
        # It was deleted while this waited for its product.
        return make_not_found_error("variant", change["id"], [*path, "id"])
    if (first := next(i for i, id_ in enumerate(ids) if id_ in variants and variants[id_].id == row.id)) < n:
        problem = f"changes the same stock as changes.{first}. Join the two."
        return make_invalid_input_error([*path, "id"], problem, InvalidInputReason.DUPLICATE)
    if row.inventory is None:
        return make_invalid_state_error([*path, "delta"], "this stock is not tracked. Set inventory to a number first.")
    if not -MAX_INT32 <= row.inventory + delta <= MAX_INT32:
        reason = InvalidInputReason.TOO_LARGE if delta > 0 else InvalidInputReason.TOO_SMALL
        return make_invalid_input_error(
            [*path, "delta"], f"would make more than {MAX_INT32:,}, or less than the negative.", reason
        )
    # The row is locked, so concurrent orders cannot oversell.
    if delta < 0 and row.inventory + delta < 0 and row.inventory_policy != "continue":
        available = max(0, row.inventory)
        message = f"changes.{n}.delta: only {available:,} are in stock, {-delta:,} were asked for."
        return FieldError(UserErrorCode.INSUFFICIENT_STOCK, message, (*path, "delta"), {"available": available})
    return None


@cache
def _update_stock() -> Statement:
    sql = """
UPDATE product_variants SET inventory = inventory + changed.delta, version = version + 1, updated_at = now()
FROM jsonb_to_recordset(:rows) AS changed (id uuid, delta integer)
WHERE product_variants.config_id = CAST(:config_id AS uuid) AND product_variants.id = changed.id
RETURNING product_variants.id, product_variants.product_id, product_variants.inventory, product_variants.version
"""
    return compile_statement(text(sql).bindparams(bindparam("rows", type_=JSONB)))
