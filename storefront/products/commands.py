"""Commands that write single products and record the change in the store's log."""

from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from storefront.core.casing import to_camel_case
from storefront.core.cooperative import run_in_thread_if_long
from storefront.core.currencies import get_fraction_digits, list_currencies_with_digits
from storefront.core.db.json_parameters import render_rows
from storefront.core.db.pipeline import QueuedStatement
from storefront.core.handles import generate_handle
from storefront.core.ids import new_id
from storefront.models import VARIANT_FIELDS, products, variants
from storefront.models.former_values import FormerVariants
from storefront.models.options import Option, OptionEditor
from storefront.models.rows import ProductRow
from storefront.models.search_document import build_search_vector, list_codes
from storefront.models.variant import MAX_VARIANTS, build_variant_name
from storefront.models.variant_summary import SETTABLE_COLUMNS, summarize_variants
from storefront.writes import validation
from storefront.writes.amounts import has_amounts, print_amounts, require_printed_amounts
from storefront.writes.authorization import OWN_STORE_ID_SQL, get_currency, lock_own_product, lock_store_for_insert
from storefront.writes.changelog import record_product_change
from storefront.writes.descriptions import format_description, sanitize_html_field
from storefront.writes.field_errors import InvalidInputReason, MutationRejected, make_invalid_input_error
from storefront.writes.former_names import enqueue_handle_takeover
from storefront.writes.image_changes import enqueue_image_changes
from storefront.writes.optimistic_lock import get_set_values, reject_stale_version
from storefront.writes.product_options import (
    OPTIONS_RULE,
    find_option_limit_errors,
    get_renamed_variants,
    plan_options,
    revise_options,
)
from storefront.writes.product_updates import build_change, find_variant_errors, is_searched, update_products
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
from storefront.writes.transaction import FailedShortcutError, PendingRow, UnitOfWork
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
    **validation.UPDATE_LOCK_RULES,
    **PRODUCT_RULES,
    "options": validation.non_null_rule(OPTIONS_RULE),
}
DELETE_RULES: validation.Rules = {"id": validation.validate_id, "expectedVersion": validation.accept_any}


async def create_product(unit: UnitOfWork, values: Values) -> Sequence[PendingRow]:
    """Create a product with its variants in one transaction. The default handle derives from the title."""
    steps = len(values.get("variants", ())) + sum(len(option["values"]) for option in values.get("options") or ())
    clean, errors = await run_in_thread_if_long(steps, validation.validate_fields, CREATE_RULES, values)
    clean, html_errors = await sanitize_html_field(clean)
    errors += html_errors
    config_id = validation.pop_valid_field(clean, "configId", errors)
    currency = await lock_store_for_insert(unit, config_id, ["configId"])
    printed, amount_errors = await run_in_thread_if_long(steps, print_amounts, clean, currency)
    if amount_errors and unit.is_optimistic:
        # The store may have another currency.
        raise FailedShortcutError
    if errors or amount_errors:
        raise MutationRejected(*errors, *amount_errors)
    row, variant_rows = await run_in_thread_if_long(steps, build_rows, config_id, format_description(printed))
    rows_json = await render_rows(list_variant_rows(row, variant_rows))
    pending = PendingRow(SimpleNamespace(**row), _queue_product_insert(unit, row, currency))
    unit.enqueue(build_insert_of_rows(variants, VARIANT_COLUMNS), {"rows": rows_json})
    enqueue_handle_takeover(unit.connection, row["config_id"], [row["id"]])
    enqueue_image_changes(unit.connection, row["config_id"], [(row["id"], (), row.get("images", ()))])
    record_product_change(unit, "product_created", None, pending.state)
    return [pending]


async def update_product(unit: UnitOfWork, values: Values) -> Sequence[ProductRow]:
    """Update the given fields of a product. Without a difference there is no new version and no change.

    Price, compare-at price and stock are written to its variants. Prices are refused where these differ, and stock where there
    are several.
    """
    clean, errors = validation.validate_fields(UPDATE_RULES, values)
    clean, html_errors = await sanitize_html_field(clean)
    errors += html_errors
    product_id = validation.pop_valid_field(clean, "id", errors)
    locked_with = {"locks_currency": has_amounts([clean]), "reads_codes": is_searched(clean)}
    old = await lock_own_product(unit, product_id, ["id"], **locked_with)
    clean = format_description(require_printed_amounts(clean, get_currency(old), errors), old)
    await reject_stale_version(unit, old, clean, old.config_id)
    clean = get_set_values(clean)
    renamed: FormerVariants = {}
    if "options" in clean:
        clean["options"], renamed = await _revise_options(unit, old, clean["options"], clean.get("images", old.images))
    change = build_change(old, clean)
    if variant_errors := (await find_variant_errors(unit, [change])).get(old.id):
        raise MutationRejected(*variant_errors)
    updated = (await update_products(unit, [change])).get(old.id)
    if updated is None:
        return [old]
    former_variants = {**updated.former_variants, **renamed}
    record_product_change(unit, "product_updated", old, updated.row, change.changed_fields, former_variants)
    return [updated.row]


async def delete_product(unit: UnitOfWork, values: Values) -> Sequence[ProductRow]:
    """Delete a product with its variants and reviews."""
    clean = validation.require_valid_fields(DELETE_RULES, values)
    old = await lock_own_product(unit, clean["id"], ["id"])
    await reject_stale_version(unit, old, clean, old.config_id)
    delete_row(unit, products, old)
    record_product_change(unit, "product_deleted", old, None)
    return [old]


async def _revise_options(
    unit: UnitOfWork, product: ProductRow, inputs: Sequence[Values], images: Sequence[str]
) -> tuple[list[Option], FormerVariants]:
    """The options as listed, and the variants that are renamed because their attributes are called something else now."""
    stored = await lock_variants(unit.connection, product.config_id, [product.id])
    options, renamed = plan_options(product, inputs, images, stored)
    if renamed:
        enqueue_renames(unit, product.config_id, renamed)
    return options, get_renamed_variants(stored, renamed)


# ------------------------------------------------------------------------------------------------ creating


def build_rows(config_id: str, values: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The rows of the product and of its variants. Raises MutationRejected."""
    options = _build_options(values)
    forms = _build_variant_forms(values, options)
    variant_rows = [
        {"id": new_id(), "position": n, **VARIANT_DEFAULTS, **convert_to_columns(form)} for n, form in enumerate(forms)
    ]
    product = {
        "id": new_id(),
        "config_id": config_id,
        "version": 1,
        "status": "active",
        **convert_to_columns(values),
        **summarize_variants(variant_rows),
        "options": options.options,
    }
    product["search_vector"] = build_search_vector(product, list_codes(variant_rows))
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


def _queue_product_insert(unit: UnitOfWork, row: Values, currency: str) -> QueuedStatement:
    computed_columns = {"config_id": OWN_STORE_ID_SQL}
    if row["status"] == "active":
        computed_columns["published_at"] = "now()"
    # With this currency, which may be withdrawn and not be listed.
    currencies = [currency, *list_currencies_with_digits(get_fraction_digits(currency))]
    parameters: dict[str, Any] = {"store": row["config_id"], "actor_id": unit.actor_id, "currencies": currencies}
    if row.get("handle") is None:
        computed_columns["handle"] = _FREE_HANDLE_SQL
        parameters["base"] = generate_handle(row["title"], "product")
    plain_columns = {name: value for name, value in row.items() if name not in computed_columns}
    statement = build_insert(products, sort_column_names(plain_columns), tuple(computed_columns.items()))
    return unit.enqueue(statement, {**convert_to_parameters(products, plain_columns), **parameters})


# The handle of a title, with a number if it is taken. The store's row is locked, so no other transaction can take it.
#
# A taken number is doubled until one is free, then the interval between both is halved: a title that has been used n times takes
# some 2 log n look-ups. Where some of its products are gone, the number may be another than the first that is free.
_FREE_HANDLE_SQL = """(
WITH RECURSIVE tried (taken, free) AS (
  SELECT 0, CAST(NULL AS integer)
  UNION ALL
  SELECT CASE WHEN is_taken THEN number ELSE taken END, CASE WHEN is_taken THEN free ELSE number END
  FROM (
    SELECT taken, free, number, (
      SELECT true FROM products WHERE config_id = CAST(:store AS uuid)
        AND handle = CAST(:base AS text) || CASE WHEN number > 1 THEN '-' || number ELSE '' END LIMIT 1
    ) AS is_taken
    FROM tried CROSS JOIN LATERAL (SELECT coalesce((taken + free) / 2, greatest(1, 2 * taken)) AS number) AS next
    WHERE free IS DISTINCT FROM taken + 1
    -- So that each number is looked up once.
    OFFSET 0
  ) AS probed
)
SELECT CAST(:base AS text) || CASE WHEN free > 1 THEN '-' || free ELSE '' END FROM tried WHERE free = taken + 1
)"""


def list_variant_rows(product: Values, variant_rows: Sequence[Values]) -> list[dict[str, Any]]:
    """The rows of the variants of a new product, with VARIANT_COLUMNS."""
    return [{"config_id": product["config_id"], "product_id": product["id"], **variant} for variant in variant_rows]


# All rows of one INSERT have the same columns.
VARIANT_COLUMNS = ("id", "config_id", "product_id", "position", *(field.name for field in VARIANT_FIELDS))
