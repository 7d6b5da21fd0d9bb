"""Commands that write single products and record the change in the store's log."""

import re
from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from storefront.core.casing import to_camel_case
from storefront.core.cooperative import run_in_thread_if_long
from storefront.core.db.json_parameters import to_json
from storefront.core.db.pipeline import QueuedStatement
from storefront.core.ids import new_id
from storefront.models import VARIANT_FIELDS, products, variants
from storefront.models.options import Option, OptionEditor
from storefront.models.rows import ProductRow
from storefront.models.variant import MAX_VARIANTS, build_variant_name
from storefront.models.variant_summary import SETTABLE_COLUMNS, summarize_variants
from storefront.products.product_updates import build_change, find_variant_errors, update_products
from storefront.queries.search import fold_text
from storefront.writes import validation
from storefront.writes.authorization import OWN_STORE_ID_SQL, lock_own_product, lock_store_for_insert
from storefront.writes.changelog import record_product_change
from storefront.writes.field_errors import InvalidInputReason, MutationRejected, make_invalid_input_error
from storefront.writes.optimistic_lock import reject_stale_version
from storefront.writes.product_options import OPTIONS_RULE, find_option_limit_errors, rename_variants, revise_options
from storefront.writes.product_validation import (
    PRODUCT_RULES,
    VARIANT_CREATION_RULES,
    find_contradictions,
    find_equal_attributes,
    find_image_errors,
)
from storefront.writes.sql import (
    build_insert,
    build_insert_of_rows,
    convert_to_columns,
    convert_to_parameters,
    delete_row,
    sort_column_names,
)
from storefront.writes.transaction import PendingRow, UnitOfWork
from storefront.writes.validation import optional_rule
from storefront.writes.variant_rows import VARIANT_DEFAULTS, enqueue_renames, lock_variants

Values = Mapping[str, Any]

CREATE_RULES: validation.Rules = {
    "configId": validation.validate_id,
    **PRODUCT_RULES,
    # The default is derived from the title.
    "handle": optional_rule(PRODUCT_RULES["handle"]),
    # Variants may have prices of their own, or that of the product.
    "price": optional_rule(PRODUCT_RULES["price"]),
    "options": optional_rule(OPTIONS_RULE),
    "variants": validation.list_rule(
        validation.object_rule({**VARIANT_CREATION_RULES, "price": optional_rule(VARIANT_CREATION_RULES["price"])}),
        MAX_VARIANTS,
        distinct=False,
    ),
}
UPDATE_RULES: validation.Rules = {
    "id": validation.validate_id,
    "expectedVersion": validation.accept_any,
    **PRODUCT_RULES,
    "options": validation.non_null_rule(OPTIONS_RULE),
}
DELETE_RULES: validation.Rules = {"id": validation.validate_id, "expectedVersion": validation.accept_any}


async def create_product(unit: UnitOfWork, values: Values) -> Sequence[PendingRow]:
    """Create a product with its variants in one transaction. The default handle derives from the title."""
    steps = len(values.get("variants", ())) + sum(len(option["values"]) for option in values.get("options") or ())
    row, variant_rows = await run_in_thread_if_long(steps, _build_rows, values)
    await lock_store_for_insert(unit, row["config_id"], ["configId"])
    pending = PendingRow(SimpleNamespace(**row), _queue_product_insert(unit, row))
    _queue_variants_insert(unit, row, variant_rows)
    record_product_change(unit, "product_created", None, pending.state)
    return [pending]


async def update_product(unit: UnitOfWork, values: Values) -> Sequence[ProductRow]:
    """Update the given fields of a product. Without a difference there is no new version and no change.

    Price, compare-at price and stock are written to its variants. Prices are refused where these differ, and stock where there
    are several.
    """
    clean = validation.require_valid_fields(UPDATE_RULES, values)
    old = await lock_own_product(unit, clean.pop("id"), ["id"])
    await reject_stale_version(unit, old, clean.pop("expectedVersion", None), old.config_id)
    if "options" in clean:
        clean["options"] = await _revise_options(unit, old, clean["options"], clean.get("images", old.images))
    change = build_change(old, clean)
    if errors := (await find_variant_errors(unit, [change])).get(old.id):
        raise MutationRejected(*errors)
    new = (await update_products(unit, [change])).get(old.id, old)
    if new is not old:
        record_product_change(unit, "product_updated", old, new, change.changed_fields)
    return [new]


async def delete_product(unit: UnitOfWork, values: Values) -> Sequence[ProductRow]:
    """Delete a product with its variants and reviews."""
    clean = validation.require_valid_fields(DELETE_RULES, values)
    old = await lock_own_product(unit, clean["id"], ["id"])
    await reject_stale_version(unit, old, clean.get("expectedVersion"), old.config_id)
    delete_row(unit, products, old)
    record_product_change(unit, "product_deleted", old, None)
    return [old]


async def _revise_options(unit: UnitOfWork, product: ProductRow, inputs: Sequence[Values], images: Sequence[str]) -> list[Option]:
    """The options as listed; variants whose attributes are called something else now are renamed."""
    revised = revise_options(product.options, inputs, images)
    renamed = rename_variants(revised, await lock_variants(unit.connection, [product.id]))
    if errors := revised.errors or renamed.errors or find_option_limit_errors(OptionEditor(revised.options), ["options"]):
        raise MutationRejected(*errors)
    if renamed.rows:
        enqueue_renames(unit, renamed.rows)
    return revised.options


# ------------------------------------------------------------------------------------------------ creating


def _build_rows(values: Values) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The rows of the product and of its variants. Raises MutationRejected."""
    clean = validation.require_valid_fields(CREATE_RULES, values)
    options = _build_options(clean)
    forms = _build_variant_forms(clean, options)
    variant_rows = [
        {"id": new_id(), "position": n, **VARIANT_DEFAULTS, **convert_to_columns(form)} for n, form in enumerate(forms)
    ]
    product = {
        "id": new_id(),
        "version": 1,
        "status": "active",
        **convert_to_columns(clean),
        **summarize_variants(variant_rows),
        "options": options.options,
    }
    return product, variant_rows


def _build_variant_forms(values: dict[str, Any], options: OptionEditor) -> list[dict[str, Any]]:
    """The inputs of the variants, which take what `values` has for them. Without variants there is one without attributes.

    Options get the attributes that they lack.
    """
    product_values = {name: values.pop(name, None) for name in map(to_camel_case, SETTABLE_COLUMNS)}
    given = values.pop("variants", [])
    if product_values["price"] is None and any(form.get("price") is None for form in given or [{}]):
        problem = "is required, unless each variant has a price."
        raise MutationRejected(make_invalid_input_error(["price"], problem, InvalidInputReason.REQUIRED))
    if not given:
        forms, paths, errors = [product_values], [list[str]()], find_contradictions(product_values)
    else:
        prices = {name: product_values[name] for name in ("price", "compareAtPrice")}
        # A variant with a price of its own does not take the product's compare-at price.
        forms = [form if form.get("price") is not None else {**prices, **_drop_nulls(form, prices)} for form in given]
        paths = [["variants", str(n)] for n in range(len(forms))]
        # The prices of the product are checked once, not with each variant that takes both.
        errors = find_contradictions(prices) if prices["price"] is not None else []
        for form, own, path in zip(forms, given, paths, strict=True):
            takes_both = all(own.get(name) is None for name in prices)
            errors += find_contradictions({**form, "compareAtPrice": None} if takes_both else form, path)
    for form, path in zip(forms, paths, strict=True):
        errors += find_image_errors(form, values.get("images", ()), path)
    errors += find_equal_attributes([form.get("attributes", {}) for form in forms])
    if errors:
        raise MutationRejected(*errors)
    for form in forms:
        form["attributes"] = options.adopt(form.get("attributes", {}))
        form["name"] = form.get("name") or build_variant_name(form["attributes"])
    if errors := find_option_limit_errors(options, ["variants"]):
        raise MutationRejected(*errors)
    return forms


def _build_options(values: dict[str, Any]) -> OptionEditor:
    revised = revise_options((), values.pop("options", None) or (), values.get("images", ()))
    if revised.errors:
        raise MutationRejected(*revised.errors)
    return OptionEditor(revised.options)


def _drop_nulls(form: Values, names: Iterable[str]) -> Values:
    return {name: value for name, value in form.items() if name not in names or value is not None}


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


def _queue_variants_insert(unit: UnitOfWork, product: Values, variant_rows: Sequence[Values]) -> None:
    rows = [{"config_id": product["config_id"], "product_id": product["id"], **variant} for variant in variant_rows]
    unit.enqueue(build_insert_of_rows(variants, _VARIANT_COLUMNS), {"rows": to_json(rows)})


# All rows of one INSERT have the same columns.
_VARIANT_COLUMNS = ("id", "config_id", "product_id", "position", *(field.name for field in VARIANT_FIELDS))
