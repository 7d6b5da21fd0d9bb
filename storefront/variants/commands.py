"""Commands that write variants and record the change of their product in the store's log."""

from collections.abc import Mapping, Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

from sqlalchemy import bindparam, select, text

from storefront.core.casing import to_camel_case
from storefront.core.db.database import Statement, compile_statement
from storefront.core.db.pipeline import QueuedStatement
from storefront.core.ids import new_id
from storefront.models import products, variants
from storefront.models.former_values import FILTERED_VARIANT_COLUMNS, FormerVariants, get_former_variant
from storefront.models.options import Attributes, OptionEditor
from storefront.models.row_keys import bind_store, list_keys
from storefront.models.rows import ProductRow, VariantRow
from storefront.models.search_document import SEARCHED_VARIANT_COLUMNS
from storefront.models.variant import DEFAULT_VARIANT_NAME, MAX_VARIANTS, build_variant_name, follow_attributes
from storefront.queries.variants import load_variants_by_keys
from storefront.writes import validation
from storefront.writes.amounts import has_amounts, require_printed_amounts
from storefront.writes.authorization import get_currency, lock_own_product, lock_own_variant
from storefront.writes.changelog import record_child_change
from storefront.writes.field_errors import MutationRejected, make_invalid_state_error, make_limit_reached_error
from storefront.writes.optimistic_lock import get_set_values, reject_stale_version
from storefront.writes.product_options import find_option_limit_errors
from storefront.writes.product_validation import VARIANT_CREATION_RULES, VARIANT_RULES, find_image_errors, reject_contradictions
from storefront.writes.search_documents import write_search_documents
from storefront.writes.sql import (
    build_insert,
    convert_to_columns,
    convert_to_parameters,
    delete_row,
    sort_column_names,
    update_row,
)
from storefront.writes.transaction import PendingRow, UnitOfWork
from storefront.writes.variant_summary import list_changed_fields, summarize_products

Values = Mapping[str, Any]

CREATE_RULES: validation.Rules = {"productId": validation.validate_id, **VARIANT_CREATION_RULES}
UPDATE_RULES: validation.Rules = {**validation.UPDATE_LOCK_RULES, **VARIANT_RULES}
DELETE_RULES: validation.Rules = {"id": validation.validate_id, "expectedVersion": validation.accept_any}


async def create_variant(unit: UnitOfWork, values: Values) -> Sequence[VariantRow]:
    """Create a variant of a product."""
    clean, errors = validation.validate_fields(CREATE_RULES, values)
    product_id = validation.pop_valid_field(clean, "productId", errors)
    product = await lock_own_product(unit, product_id, ["productId"], locks_currency=True)
    clean = require_printed_amounts(clean, get_currency(product), errors)
    reject_contradictions(clean)
    _reject_unknown_image(clean, product)
    if (count := product.variants_total) >= MAX_VARIANTS:
        raise MutationRejected(
            make_limit_reached_error(
                ["productId"], f"the product has {count:,} variants, and may have at most {MAX_VARIANTS:,}.", MAX_VARIANTS
            )
        )
    replaced: QueuedStatement | None = None
    if count == 1 and clean.get("attributes"):
        replaced = unit.enqueue(_delete_default_variant(), {"config_id": product.config_id, "product_id": product.id})
    options = OptionEditor(product.options)
    clean["attributes"] = options.adopt(clean.get("attributes", {}))
    changed_fields = _follow_options(unit, product, options, is_set_changed=True)
    clean["name"] = clean.get("name") or build_variant_name(clean["attributes"])
    row = {"id": new_id(), "config_id": product.config_id, "product_id": product.id, "version": 1, **convert_to_columns(clean)}
    statement = build_insert(variants, sort_column_names(row), (("position", _NEXT_POSITION_SQL),))
    parameters = convert_to_parameters(variants, row)
    pending = PendingRow(SimpleNamespace(**row), unit.enqueue(statement, {**parameters, "of_product": product.id}))
    former_variants: FormerVariants = {row["id"]: None}
    if replaced:
        await unit.connection.flush()
        former_variants |= {old.id: get_former_variant(old) for old in replaced.rows}
    return await _record_change(unit, product, pending.state, ["variants", *changed_fields], former_variants)


async def update_variant(unit: UnitOfWork, values: Values) -> Sequence[VariantRow]:
    """Update the given fields of a variant."""
    clean, errors = validation.validate_fields(UPDATE_RULES, values)
    variant_id = validation.pop_valid_field(clean, "id", errors)
    old, product = await lock_own_variant(unit, variant_id, ["id"], locks_currency=has_amounts([clean]))
    clean = require_printed_amounts(clean, get_currency(product), errors)
    await reject_stale_version(unit, old, clean, product.config_id)
    clean = get_set_values(clean)
    reject_contradictions(clean, old)
    _reject_unknown_image(clean, product)
    changed_fields: list[str] = []
    if clean.get("attributes", old.attributes) != old.attributes:
        options = OptionEditor(product.options)
        clean["attributes"] = options.adopt(clean["attributes"])
        options.drop_unused([old.attributes], [clean["attributes"], *await _load_other_attributes(unit, old)])
        changed_fields = _follow_options(unit, product, options)
        clean.setdefault("name", follow_attributes(old.name, old.attributes, clean["attributes"]))
    pending = update_row(unit, variants, old, convert_to_columns(clean))
    fields = [f"variants.{field}" for field in pending.changed_fields]
    former_variants: FormerVariants | None = None
    if any(getattr(old, name) != getattr(pending.state, name) for name in FILTERED_VARIANT_COLUMNS):
        former_variants = {old.id: get_former_variant(old)}
    return await _record_change(unit, product, pending.state, [*fields, *changed_fields], former_variants)


async def delete_variant(unit: UnitOfWork, values: Values) -> Sequence[VariantRow]:
    """Delete a variant."""
    clean = validation.require_valid_fields(DELETE_RULES, values)
    old, product = await lock_own_variant(unit, clean["id"], ["id"])
    await reject_stale_version(unit, old, clean, product.config_id)
    if product.variants_total == 1:
        problem = "this is the product's only variant, and a product has at least one. Delete the product instead."
        raise MutationRejected(make_invalid_state_error(["id"], problem))
    options = OptionEditor(product.options)
    options.drop_unused([old.attributes], await _load_other_attributes(unit, old))
    changed_fields = _follow_options(unit, product, options, is_set_changed=True)
    delete_row(unit, variants, old)
    await _summarize_and_record(unit, product, old, ["variants", *changed_fields], {old.id: get_former_variant(old)})
    return [old]


def _follow_options(unit: UnitOfWork, product: ProductRow, editor: OptionEditor, *, is_set_changed: bool = False) -> list[str]:
    """Write the options if they differ from those of the product. Returns the fields of the product that change.

    `is_set_changed`: a variant is added or deleted, which changes the version of the product in any case.
    """
    if errors := find_option_limit_errors(editor, ["attributes"]):
        raise MutationRejected(*errors)
    return [*update_row(unit, products, product, {"options": editor.options}, is_changed=is_set_changed).changed_fields]


async def _load_other_attributes(unit: UnitOfWork, variant: VariantRow) -> list[Attributes]:
    keys = {"config_id": variant.config_id, "product_id": variant.product_id, "id": variant.id}
    rows = await unit.fetch(_select_other_attributes(), keys)
    return [row.attributes for row in rows]


@cache
def _select_other_attributes() -> Statement:
    is_other = (variants.c.product_id == bindparam("product_id")) & (variants.c.id != bindparam("id"))
    return compile_statement(select(variants.c.attributes).where(variants.c.config_id == bind_store(), is_other))


def _reject_unknown_image(values: Values, product: ProductRow) -> None:
    if errors := find_image_errors(values, product.images):
        raise MutationRejected(*errors)


async def _record_change(
    unit: UnitOfWork, product: ProductRow, row: VariantRow, fields: Sequence[str], former_variants: FormerVariants | None
) -> Sequence[VariantRow]:
    if fields:
        await _summarize_and_record(unit, product, row, fields, former_variants)
    return await load_variants_by_keys(unit.connection, list_keys([row]))


async def _summarize_and_record(
    unit: UnitOfWork, product: ProductRow, row: VariantRow, fields: Sequence[str], former_variants: FormerVariants | None
) -> None:
    summarized = (await summarize_products(unit, [product]))[product.id]
    if not _SEARCHED_FIELDS.isdisjoint(fields):
        await write_search_documents(unit.connection, product.config_id, [product.id])
    record_child_change(unit, product, row, [*fields, *list_changed_fields(product, summarized)], former_variants)


# The changed fields that the search document of the product follows.
_SEARCHED_FIELDS = {"options", "variants", *(f"variants.{to_camel_case(name)}" for name in SEARCHED_VARIANT_COLUMNS)}

# The product is locked: no other transaction adds a variant to it.
_NEXT_POSITION_SQL = """(
SELECT coalesce(max(position) + 1, 0) FROM product_variants
WHERE config_id = CAST(:config_id AS uuid) AND product_id = CAST(:of_product AS uuid)
)"""
_DELETE_DEFAULT_VARIANT_SQL = f"""
DELETE FROM product_variants
WHERE config_id = CAST(:config_id AS uuid) AND product_id = CAST(:product_id AS uuid)
  AND folded_attributes = '{{}}' AND name = '{DEFAULT_VARIANT_NAME}'
  AND sku IS NULL AND barcode IS NULL AND weight IS NULL AND cost IS NULL AND image IS NULL
RETURNING id, {", ".join(FILTERED_VARIANT_COLUMNS)}
"""


@cache
def _delete_default_variant() -> Statement:
    """Deletes the variant that a product without options has, unless it has been given more than price and stock."""
    return compile_statement(text(_DELETE_DEFAULT_VARIANT_SQL))
