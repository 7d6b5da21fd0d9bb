"""Commands that write single products and record the change in the store's log."""

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

from storefront.core.cooperative import run_in_thread_if_long
from storefront.core.db.json_parameters import to_json
from storefront.core.db.pipeline import QueuedStatement
from storefront.core.ids import new_id
from storefront.models import VARIANT_FIELDS, products, variants
from storefront.models.rows import ProductRow
from storefront.models.variant import MAX_VARIANTS, build_variant_name
from storefront.queries.search import fold_text
from storefront.writes import validation
from storefront.writes.authorization import OWN_STORE_ID_SQL, lock_own_product, lock_store_for_insert
from storefront.writes.changelog import record_product_change
from storefront.writes.field_errors import MutationRejected
from storefront.writes.optimistic_lock import reject_stale_version
from storefront.writes.product_validation import (
    PRODUCT_RULES,
    VARIANT_CREATION_RULES,
    find_contradictions,
    find_image_errors,
    reject_contradictions,
)
from storefront.writes.sql import (
    build_insert,
    build_insert_of_rows,
    convert_to_columns,
    convert_to_parameters,
    delete_row,
    sort_column_names,
    update_row,
)
from storefront.writes.transaction import PendingRow, UnitOfWork

Values = Mapping[str, Any]

CREATE_RULES: validation.Rules = {
    "configId": validation.validate_id,
    **PRODUCT_RULES,
    # The default is derived from the title.
    "handle": validation.optional_rule(PRODUCT_RULES["handle"]),
    "variants": validation.list_rule(validation.object_rule(VARIANT_CREATION_RULES), MAX_VARIANTS, distinct=False),
}
UPDATE_RULES: validation.Rules = {"id": validation.validate_id, "expectedVersion": validation.accept_any, **PRODUCT_RULES}
DELETE_RULES: validation.Rules = {"id": validation.validate_id, "expectedVersion": validation.accept_any}


async def create_product(unit: UnitOfWork, values: Values) -> Sequence[PendingRow]:
    """Create a product with its variants in one transaction. The default handle derives from the title."""
    row, variant_rows = await run_in_thread_if_long(len(values.get("variants", ())), _build_rows, values)
    await lock_store_for_insert(unit, row["config_id"], ["configId"])
    pending = PendingRow(SimpleNamespace(**row), _queue_product_insert(unit, row))
    if variant_rows:
        _queue_variants_insert(unit, row["id"], variant_rows)
    record_product_change(unit, "product_created", None, pending.state)
    return [pending]


async def update_product(unit: UnitOfWork, values: Values) -> Sequence[PendingRow]:
    """Update the given fields of a product. Without a difference there is no new version and no change."""
    clean = validation.require_valid_fields(UPDATE_RULES, values)
    old = await lock_own_product(unit, clean.pop("id"), ["id"])
    await reject_stale_version(unit, old, clean.pop("expectedVersion", None), old.config_id)
    reject_contradictions(clean, old)
    pending = update_row(unit, products, old, convert_to_columns(clean))
    if pending.changed_fields:
        record_product_change(unit, "product_updated", old, pending.state, pending.changed_fields)
    return [pending]


async def delete_product(unit: UnitOfWork, values: Values) -> Sequence[ProductRow]:
    """Delete a product with its variants and reviews."""
    clean = validation.require_valid_fields(DELETE_RULES, values)
    old = await lock_own_product(unit, clean["id"], ["id"])
    await reject_stale_version(unit, old, clean.get("expectedVersion"), old.config_id)
    delete_row(unit, products, old)
    record_product_change(unit, "product_deleted", old, None)
    return [old]


# ------------------------------------------------------------------------------------------------ creating


def _build_rows(values: Values) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The rows of the product and of its variants. Raises MutationRejected."""
    clean = validation.require_valid_fields(CREATE_RULES, values)
    forms = clean.pop("variants", [])
    faults = find_contradictions(clean) + [
        fault
        for n, form in enumerate(forms)
        for path in [["variants", str(n)]]
        for fault in find_contradictions(form, path) + find_image_errors(form, clean.get("images", ()), path)
    ]
    if faults:
        raise MutationRejected(*faults)
    for form in forms:
        form["name"] = form.get("name") or build_variant_name(form.get("attributes", {}))
    variant_rows = [
        {"id": new_id(), "position": n, **_VARIANT_DEFAULTS, **convert_to_columns(form)} for n, form in enumerate(forms)
    ]
    product = {
        "id": new_id(),
        "version": 1,
        "status": "active",
        **convert_to_columns(clean),
        **_summarize_variants(variant_rows),
    }
    return product, variant_rows


def _queue_product_insert(unit: UnitOfWork, row: Values) -> QueuedStatement:
    computed_columns = {"config_id": OWN_STORE_ID_SQL}
    parameters: dict[str, Any] = {"store": row["config_id"], "actor_id": unit.actor_id}
    if row.get("handle") is None:
        computed_columns["handle"] = _FREE_HANDLE_SQL
        parameters["base"] = _make_handle(row["title"])
    plain_columns = {name: value for name, value in row.items() if name not in computed_columns}
    statement = build_insert(products, sort_column_names(plain_columns), tuple(computed_columns.items()))
    return unit.enqueue(statement, {**convert_to_parameters(products, plain_columns), **parameters})


def _make_handle(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", fold_text(title)).strip("-")[:80].rstrip("-") or "product"


# The handle of a title, with a number if it is taken. The store's row is locked, so no other transaction can take it.
_FREE_HANDLE_SQL = """(
WITH RECURSIVE tried (number, name) AS (
  SELECT 1, CAST(:base AS text)
  UNION ALL
  SELECT number + 1, CAST(:base AS text) || '-' || number + 1 FROM tried
  WHERE EXISTS (SELECT FROM products WHERE config_id = CAST(:store AS uuid) AND handle = tried.name)
)
SELECT name FROM tried ORDER BY number DESC LIMIT 1
)"""


def _summarize_variants(variant_rows: Sequence[Values]) -> Values:
    """The summary that the table's trigger computes from the variants: with the same values it skips a second write."""
    if not variant_rows:
        return {}
    available = [variant for variant in variant_rows if variant["is_available"]]
    prices = [variant["price"] for variant in sorted(available, key=lambda variant: Decimal(variant["price"]))]
    return {
        "variants_total": len(variant_rows),
        "variants_available": len(available),
        "variants_in_stock": sum(
            variant["inventory"] is None or variant["inventory"] > 0 or variant["inventory_policy"] == "continue"
            for variant in available
        ),
        "variants_min_price": prices[0] if prices else None,
        "variants_max_price": prices[-1] if prices else None,
    }


def _queue_variants_insert(unit: UnitOfWork, product_id: str, variant_rows: Sequence[Values]) -> None:
    rows = [{"product_id": product_id, **variant} for variant in variant_rows]
    unit.enqueue(build_insert_of_rows(variants, _VARIANT_COLUMNS), {"rows": to_json(rows)})


# All rows of one INSERT have the same columns.
_VARIANT_COLUMNS = ("id", "product_id", "position", *(field.name for field in VARIANT_FIELDS))
_VARIANT_DEFAULTS: Values = {field.name: field.default for field in VARIANT_FIELDS if not field.is_required}
