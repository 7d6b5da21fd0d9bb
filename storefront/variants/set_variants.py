"""Replaces all variants of a product, with its options."""

from collections.abc import Mapping, Sequence
from typing import Any

from storefront.core.casing import to_camel_case
from storefront.core.cooperative import run_in_thread_if_long
from storefront.models import products
from storefront.models.rows import ProductRow
from storefront.models.search_document import build_search_vector, get_searched_values, list_codes
from storefront.models.variant_summary import SETTABLE_COLUMNS
from storefront.writes import validation
from storefront.writes.amounts import require_printed_amounts
from storefront.writes.authorization import get_currency, lock_own_product
from storefront.writes.changelog import record_product_change
from storefront.writes.optimistic_lock import reject_stale_version
from storefront.writes.product_options import OPTIONS_RULE
from storefront.writes.sql import update_row
from storefront.writes.transaction import PendingRow, UnitOfWork
from storefront.writes.variant_plan import VARIANTS_RULE, VariantPlan, plan_variants
from storefront.writes.variant_rows import lock_variants, write_variants

Values = Mapping[str, Any]

RULES: validation.Rules = {
    "productId": validation.validate_id,
    "expectedVersion": validation.accept_any,
    "options": validation.optional_rule(OPTIONS_RULE),
    "variants": VARIANTS_RULE,
}


async def set_product_variants(unit: UnitOfWork, values: Values) -> Sequence[PendingRow]:
    """Give a product these variants, in this order. Existing ones are found by id, or else SKU, or else attributes.

    Fields that are omitted stay as they are. Variants that are not found are deleted.
    """
    input_steps = _count_steps(values)
    clean, errors = await run_in_thread_if_long(input_steps, validation.validate_fields, RULES, values)
    product_id = validation.pop_valid_field(clean, "productId", errors)
    product = await lock_own_product(unit, product_id, ["productId"], locks_currency=True)
    clean = await run_in_thread_if_long(input_steps, require_printed_amounts, clean, get_currency(product), errors)
    await reject_stale_version(unit, product, clean, product.config_id)
    stored = await lock_variants(unit.connection, product.config_id, [product.id])
    steps = input_steps + len(stored)
    plan = await run_in_thread_if_long(
        steps, plan_variants, product, stored, clean["variants"], clean.get("options"), product.images
    )
    await write_variants(
        unit.connection, product.config_id, created=plan.created, updated=plan.updated, removed_ids=plan.removed_ids
    )
    document = {**get_searched_values(product), "options": plan.product_columns["options"]}
    search_vector = await run_in_thread_if_long(steps, build_search_vector, document, list_codes(plan.rows))
    return [_record(unit, product, plan, search_vector)]


def _count_steps(values: Values) -> int:
    return len(values["variants"]) + sum(len(option["values"]) for option in values.get("options") or ())


def _record(unit: UnitOfWork, product: ProductRow, plan: VariantPlan, search_vector: str) -> PendingRow:
    columns = plan.product_columns
    if not plan.has_changes and columns["options"] == product.options:
        return PendingRow(product, None)
    # The version changes with the set of variants, so that `expectedVersion` protects it.
    unread = {"search_vector": search_vector}
    pending = update_row(unit, products, product, columns, is_changed=True, unread_values=unread)
    fields = ["variants"] if plan.has_changes else []
    fields += [to_camel_case(name) for name in (*SETTABLE_COLUMNS, "options") if getattr(product, name) != columns[name]]
    record_product_change(unit, "product_updated", product, pending.state, fields, plan.former_variants)
    return pending
