"""Commands that write variants and record the change of their product in the store's log."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import bindparam, func, select

from storefront.core.db.database import Statement, compile_statement
from storefront.models import variants
from storefront.models.rows import ProductRow, VariantRow
from storefront.models.variant import MAX_VARIANTS, build_variant_name
from storefront.queries.variants import load_variants_by_ids
from storefront.writes import validation
from storefront.writes.authorization import lock_own_product, lock_own_variant
from storefront.writes.changelog import record_child_change
from storefront.writes.field_errors import MutationRejected, make_limit_reached_error
from storefront.writes.optimistic_lock import reject_stale_version
from storefront.writes.product_validation import VARIANT_CREATION_RULES, VARIANT_RULES, find_image_errors, reject_contradictions
from storefront.writes.sql import convert_to_columns, delete_row, insert_row, update_row
from storefront.writes.transaction import UnitOfWork

Values = Mapping[str, Any]

CREATE_RULES: validation.Rules = {"productId": validation.validate_id, **VARIANT_CREATION_RULES}
UPDATE_RULES: validation.Rules = {"id": validation.validate_id, "expectedVersion": validation.accept_any, **VARIANT_RULES}
DELETE_RULES: validation.Rules = {"id": validation.validate_id, "expectedVersion": validation.accept_any}


async def create_variant(unit: UnitOfWork, values: Values) -> Sequence[VariantRow]:
    """Create a variant of a product."""
    clean = validation.require_valid_fields(CREATE_RULES, values)
    reject_contradictions(clean)
    product = await lock_own_product(unit, clean.pop("productId"), ["productId"])
    _reject_unknown_image(clean, product)
    [(count,)] = await unit.fetch(_count_variants(), {"product_id": product.id})
    if count >= MAX_VARIANTS:
        raise MutationRejected(
            make_limit_reached_error(
                ["productId"], f"the product has {count:,} variants, and may have at most {MAX_VARIANTS:,}.", MAX_VARIANTS
            )
        )
    clean["name"] = clean.get("name") or build_variant_name(clean.get("attributes", {}))
    pending = insert_row(unit, variants, {"product_id": product.id, **convert_to_columns(clean)})
    return await _record_change(unit, product, pending.state, ["variants"])


async def update_variant(unit: UnitOfWork, values: Values) -> Sequence[VariantRow]:
    """Update the given fields of a variant."""
    clean = validation.require_valid_fields(UPDATE_RULES, values)
    old, product = await lock_own_variant(unit, clean.pop("id"), ["id"])
    await reject_stale_version(unit, old, clean.pop("expectedVersion", None), product.config_id)
    reject_contradictions(clean, old)
    _reject_unknown_image(clean, product)
    pending = update_row(unit, variants, old, convert_to_columns(clean))
    return await _record_change(unit, product, pending.state, [f"variants.{field}" for field in pending.changed_fields])


async def delete_variant(unit: UnitOfWork, values: Values) -> Sequence[VariantRow]:
    """Delete a variant."""
    clean = validation.require_valid_fields(DELETE_RULES, values)
    old, product = await lock_own_variant(unit, clean["id"], ["id"])
    await reject_stale_version(unit, old, clean.get("expectedVersion"), product.config_id)
    delete_row(unit, variants, old)
    record_child_change(unit, product.id, product, old, ["variants"])
    return [old]


def _reject_unknown_image(values: Values, product: ProductRow) -> None:
    if errors := find_image_errors(values, product.images):
        raise MutationRejected(*errors)


async def _record_change(unit: UnitOfWork, product: ProductRow, row: VariantRow, fields: Sequence[str]) -> Sequence[VariantRow]:
    if fields:
        record_child_change(unit, product.id, product, row, fields)
    return await load_variants_by_ids(unit.connection, [row.id])


@cache
def _count_variants() -> Statement:
    return compile_statement(select(func.count()).where(variants.c.product_id == bindparam("product_id")))
