"""Upsert of many products of a store with their variants. Set-based: 250 rows take as many statements as one."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from psycopg import errors
from sqlalchemy import text

from storefront.core.casing import to_camel_case
from storefront.core.cooperative import count_input_steps, run_in_thread_if_long
from storefront.core.db.database import Statement, compile_statement
from storefront.models.former_values import FormerVariants
from storefront.models.rows import ProductRow, VariantRow
from storefront.models.search_document import list_codes
from storefront.models.variant_summary import SETTABLE_COLUMNS
from storefront.products.bulk import (
    NewRow,
    assign_handles,
    build_new_products,
    get_new_handle,
    insert_products,
    prefix_errors,
    reject_taken_handles,
    sanitize_descriptions,
)
from storefront.writes import validation
from storefront.writes.authorization import lock_own_store, lock_products_of_own_store
from storefront.writes.bulk import (
    NumberedRow,
    RowOutcome,
    Values,
    describe_outcome,
    filter_current,
    is_all_or_nothing,
    make_duplicate_row_error,
    print_row_amounts,
    reject_errors,
    validate_rows,
)
from storefront.writes.changelog import record_product_change
from storefront.writes.descriptions import format_description
from storefront.writes.field_errors import (
    FieldError,
    InvalidInputReason,
    MutationRejected,
    make_invalid_input_error,
    make_invalid_state_error,
    make_limit_reached_error,
    make_not_found_error,
)
from storefront.writes.optimistic_lock import get_set_values
from storefront.writes.product_options import OPTIONS_RULE, get_renamed_variants, plan_options
from storefront.writes.product_updates import ProductChange, build_change, find_variant_errors, update_products
from storefront.writes.product_validation import PRODUCT_RULES
from storefront.writes.transaction import ConcurrentChangeError, UnitOfWork
from storefront.writes.variant_plan import VARIANTS_RULE, VariantPlan, plan_variants
from storefront.writes.variant_rows import enqueue_renames, lock_variants, write_variants
from storefront.writes.variant_summary import list_changed_fields

# Stored variants of the products of one request.
MAX_STORED_VARIANTS = 10_000

ROW_RULES: validation.Rules = {
    **validation.UPDATE_LOCK_RULES,
    "id": validation.optional_rule(validation.validate_id),
    **PRODUCT_RULES,
    "options": validation.non_null_rule(OPTIONS_RULE),
    "variants": validation.non_null_rule(VARIANTS_RULE),
}
_REQUEST_RULES: validation.Rules = {"configId": validation.validate_id}
# What a row with variants or options changes beside them, as the log names it.
_FIELDS_OF_VARIANTS = ("variants", "options", *map(to_camel_case, SETTABLE_COLUMNS))
_PRICES = ("price", "compareAtPrice")
# The column of products that a row is matched by, which is also its field. SKUs are those of variants.
_KEY_BY_MATCH = {"id": "id", "handle": "handle", "sku": None}


async def bulk_upsert_products(unit: UnitOfWork, values: Values) -> Sequence[RowOutcome | None]:
    """Create the products of a store that do not exist, and update the others. Results are in the order of the rows.

    A stored product has the id or the handle of its row, or a variant with one of its SKUs (`matchBy`). Omitted fields of it stay
    as they are. `errorPolicy` as in `bulk_update_products`.
    """
    rows, match_by = values["rows"], values["matchBy"]
    config_id = validation.require_valid_fields(_REQUEST_RULES, {"configId": values["configId"]})["configId"]
    valid_rows = await validate_rows(unit, rows, "rows", ROW_RULES, _KEY_BY_MATCH[match_by])
    valid_rows = await sanitize_descriptions(unit, _filter_identified(unit, valid_rows, match_by), "rows")
    store = await lock_own_store(unit, config_id, ["configId"])
    valid_rows = print_row_amounts(unit, valid_rows, "rows", {n: store.currency for n, _ in valid_rows})
    matches = await _match_products(unit, config_id, valid_rows, match_by)
    current_rows = await _filter_current(unit, matches)
    variants = await _lock_variants(unit, config_id, current_rows, matches)
    steps = count_input_steps(rows) + sum(map(len, variants.values()))
    new_rows = _filter_complete(unit, [(n, row) for n, row in current_rows if n not in matches.products])
    new = await run_in_thread_if_long(steps, build_new_products, unit, config_id, new_rows)
    changed_rows = [(n, row) for n, row in current_rows if n in matches.products]
    planned = await run_in_thread_if_long(steps, _plan_updates, unit, changed_rows, matches, variants)
    planned = await _filter_writable(unit, planned)
    new, planned = await _filter_free_handles(unit, config_id, new, planned)
    reject_errors(unit, all_or_nothing=is_all_or_nothing(values))
    try:
        created, updated = await _write(unit, config_id, new, planned)
    except errors.UniqueViolation as error:
        # An import or an update of one product takes a handle without the lock of the store.
        raise ConcurrentChangeError from error
    outcomes = {n: describe_outcome(created[product["id"]], "created") for n, (product, _) in new.items()}
    for n, update in planned.items():
        row = updated.get(update.product.id)
        outcomes[n] = describe_outcome(row or update.product, "updated" if row else "unchanged")
    return [outcomes.get(n) for n in range(len(rows))]


# ------------------------------------------------------------------------------------------------ matching


@dataclass(slots=True)
class _Matches:
    """The valid rows, and the locked products of those that have one, by the number of the row."""

    rows: list[NumberedRow] = field(default_factory=list)
    products: dict[int, ProductRow] = field(default_factory=dict)
    # By product: where the match depends on them, all variants are locked.
    variants: dict[str, list[VariantRow]] | None = None


def _filter_identified(unit: UnitOfWork, rows: Sequence[NumberedRow], match_by: str) -> list[NumberedRow]:
    """The rows that have what they are matched by."""
    identified: list[NumberedRow] = []
    for n, row in rows:
        if error := _find_identity_error(row, match_by, ["rows", str(n)]):
            unit.field_errors.append(error)
        else:
            identified.append((n, row))
    return identified


def _find_identity_error(row: Values, match_by: str, path: Sequence[str]) -> FieldError | None:
    if match_by != "id" and row.get("id") is not None:
        problem = "is what rows are matched by only if `matchBy` is ID. Leave it out."
        return make_invalid_input_error([*path, "id"], problem, InvalidInputReason.CONFLICTING)
    if match_by == "handle" and "handle" not in row:
        problem = "is required: rows are matched by it."
        return make_invalid_input_error([*path, "handle"], problem, InvalidInputReason.REQUIRED)
    if match_by == "sku" and not _list_skus(row):
        problem = "must have a variant with a SKU: rows are matched by it."
        return make_invalid_input_error([*path, "variants"], problem, InvalidInputReason.REQUIRED)
    if row.get("variants") == []:
        problem = "must have at least one entry: a product has a variant."
        return make_invalid_input_error([*path, "variants"], problem, InvalidInputReason.TOO_SHORT)
    return None


def _list_skus(row: Values) -> list[str]:
    return [sku for variant in row.get("variants", ()) if (sku := variant.get("sku")) is not None]


async def _match_products(unit: UnitOfWork, config_id: str, rows: Sequence[NumberedRow], match_by: str) -> _Matches:
    if match_by == "sku":
        return await _match_by_sku(unit, config_id, rows)
    keys = {n: key for n, row in rows if (key := row.get(match_by)) is not None}
    locked = await lock_products_of_own_store(unit, config_id, match_by, list(keys.values()))
    products_by_key = {getattr(product, match_by): product for product in locked}
    matches = _Matches()
    for n, row in rows:
        if product := products_by_key.get(keys.get(n)):
            matches.products[n] = product
        elif match_by == "id" and n in keys:
            unit.field_errors.append(make_not_found_error("product of this store", keys[n], ["rows", str(n), "id"]))
            continue
        matches.rows.append((n, row))
    return matches


async def _match_by_sku(unit: UnitOfWork, config_id: str, rows: Sequence[NumberedRow]) -> _Matches:
    skus = sorted({sku for _, row in rows for sku in _list_skus(row)})
    found = await unit.fetch(_select_products_of_skus(), {"config_id": config_id, "skus": skus}) if skus else []
    ids_by_sku = {row.sku: row.product_ids for row in found}
    matches, product_ids = _Matches(), dict[int, str]()
    # By product and by SKU of a new one: the first row that has it.
    first_by_key: dict[str, int] = {}
    for n, row in rows:
        row_skus, path = _list_skus(row), ["rows", str(n), "variants"]
        ids = sorted({id_ for sku in row_skus for id_ in ids_by_sku.get(sku, ())})
        if len(ids) > 1:
            problem = "have SKUs of several products. Give those of one."
            unit.field_errors.append(make_invalid_state_error(path, problem))
            continue
        keys = [*ids, *row_skus]
        if (first := next((first_by_key[key] for key in keys if key in first_by_key), None)) is not None:
            unit.field_errors.append(make_duplicate_row_error(path, first))
            continue
        first_by_key.update(dict.fromkeys(keys, n))
        matches.rows.append((n, row))
        if ids:
            product_ids[n] = ids[0]
    locked = {row.id: row for row in await lock_products_of_own_store(unit, config_id, "id", list(product_ids.values()))}
    _check_variant_count(locked.values())
    matches.variants = _group_variants(await lock_variants(unit.connection, config_id, list(locked)))
    for n, row in matches.rows:
        if (id_ := product_ids.get(n)) is not None:
            if not {variant.sku for variant in matches.variants.get(id_, ())} & {*_list_skus(row)}:
                raise ConcurrentChangeError
            matches.products[n] = locked[id_]
    return matches


@cache
def _select_products_of_skus() -> Statement:
    """Two products of each SKU, at most: a third one makes no difference."""
    sql = """
SELECT sku, (array_agg(DISTINCT product_id))[1:2] AS product_ids FROM product_variants
WHERE config_id = CAST(:config_id AS uuid) AND sku = ANY(CAST(:skus AS text[])) GROUP BY sku
"""
    return compile_statement(text(sql), needs_custom_plan=True)


async def _lock_variants(
    unit: UnitOfWork, config_id: str, rows: Sequence[NumberedRow], matches: _Matches
) -> Mapping[str, Sequence[VariantRow]]:
    """All variants of the products whose variants or options are given, by product."""
    if matches.variants is not None:
        return matches.variants
    owners = [matches.products[n] for n, row in rows if n in matches.products and ("variants" in row or "options" in row)]
    _check_variant_count(owners)
    return _group_variants(await lock_variants(unit.connection, config_id, [product.id for product in owners]))


def _check_variant_count(products: Iterable[ProductRow]) -> None:
    if (count := sum(product.variants_total for product in products)) > MAX_STORED_VARIANTS:
        problem = f"the products have {count:,} variants, and may have {MAX_STORED_VARIANTS:,} together. Send fewer rows."
        raise MutationRejected(make_limit_reached_error(["rows"], problem, MAX_STORED_VARIANTS))


def _group_variants(rows: Iterable[VariantRow]) -> dict[str, list[VariantRow]]:
    groups: dict[str, list[VariantRow]] = {}
    for row in rows:
        groups.setdefault(row.product_id, []).append(row)
    return groups


# ------------------------------------------------------------------------------------------------ planning


@dataclass(frozen=True, slots=True)
class _Update:
    """What one row changes: the product, its variants as a whole, or what they are called."""

    product: ProductRow
    row: Values
    change: ProductChange
    plan: VariantPlan | None = None
    renamed: Sequence[Values] = ()
    former_variants: FormerVariants = field(default_factory=dict)


async def _filter_current(unit: UnitOfWork, matches: _Matches) -> list[NumberedRow]:
    """The rows whose products have the version that they expect. A new product has none."""
    rows: list[NumberedRow] = []
    for n, row in matches.rows:
        if n not in matches.products and row.get("expectedVersion") is not None:
            problem = "there is no such product, so it has no version. Leave it out to create the product."
            unit.field_errors.append(make_invalid_state_error(["rows", str(n), "expectedVersion"], problem))
        else:
            rows.append((n, row))
    return await filter_current(unit, rows, "rows", matches.products, {n: _list_implied_fields(row) for n, row in rows})


def _list_implied_fields(row: Values) -> list[str]:
    """What a row changes beside the fields that it has."""
    implied = [*_FIELDS_OF_VARIANTS] if "variants" in row or "options" in row else []
    return [*implied, "descriptionHtml"] if "description" in row else implied


def _filter_complete(unit: UnitOfWork, rows: Sequence[NumberedRow]) -> list[NumberedRow]:
    """The rows of new products that can be created, as inputs of `build_new_products`."""
    complete: list[NumberedRow] = []
    for n, row in rows:
        path = ["rows", str(n)]
        missing = [] if "title" in row else [make_invalid_input_error([*path, "title"], *_MISSING_TITLE)]
        for m, variant in enumerate(row.get("variants", ())):
            if (id_ := variant.get("id")) is not None:
                missing.append(make_not_found_error("variant of this product", id_, [*path, "variants", str(m), "id"]))
        unit.field_errors += missing
        if not missing:
            new = {"inventory": 0, **get_set_values(row)}
            if "variants" in new:
                new["variants"] = [{name: value for name, value in form.items() if name != "id"} for form in new["variants"]]
            complete.append((n, new))
    return complete


_MISSING_TITLE = "is required: the product is new.", InvalidInputReason.REQUIRED


def _plan_updates(
    unit: UnitOfWork, rows: Sequence[NumberedRow], matches: _Matches, variants: Mapping[str, Sequence[VariantRow]]
) -> dict[int, _Update]:
    """The updates of the rows that can be planned, by the number of the row. Errors of others go to the unit."""
    planned: dict[int, _Update] = {}
    for n, row in rows:
        product = matches.products[n]
        try:
            planned[n] = _plan_update(product, row, variants.get(product.id, ()), ["rows", str(n)])
        except MutationRejected as rejection:
            unit.field_errors += prefix_errors(rejection, n)
    return planned


def _plan_update(product: ProductRow, row: Values, stored: Sequence[VariantRow], path: Sequence[str]) -> _Update:
    """Raises MutationRejected."""
    values = get_set_values(format_description(row, product))
    images = values.get("images", product.images)
    if "variants" in values:
        forms, options = _inherit_prices(values), values.get("options")
        plan = plan_variants(product, stored, forms, options, images)
        of_product = {name: value for name, value in values.items() if name not in _FIELDS_OF_VARIANTS}
        change = build_change(product, {**of_product, "options": plan.product_columns["options"]}, path, plan.has_changes)
        return _Update(product, row, change, plan, former_variants=plan.former_variants)
    if "options" in values:
        options, renamed = plan_options(product, values["options"], images, stored)
        change = build_change(product, {**values, "options": options}, path)
        return _Update(product, row, change, renamed=renamed, former_variants=get_renamed_variants(stored, renamed))
    return _Update(product, row, build_change(product, values, path))


def _inherit_prices(values: Values) -> list[dict[str, Any]]:
    """The inputs of the variants, which have the prices of the row where they have none of their own."""
    prices = {name: values[name] for name in _PRICES if name in values}
    return [form if form.get("price") is not None else {**prices, **form} for form in values["variants"]]


async def _filter_writable(unit: UnitOfWork, planned: Mapping[int, _Update]) -> dict[int, _Update]:
    """The updates without those that would give variants values that they cannot have."""
    errors_by_id = await find_variant_errors(unit, [update.change for update in planned.values()])
    for variant_errors in errors_by_id.values():
        unit.field_errors += variant_errors
    return {n: update for n, update in planned.items() if not errors_by_id.get(update.product.id)}


async def _filter_free_handles(
    unit: UnitOfWork, config_id: str, new: Mapping[int, NewRow], planned: Mapping[int, _Update]
) -> tuple[dict[int, NewRow], dict[int, _Update]]:
    """The rows whose handles are free. Of several rows with the same new handle the first one gets it."""
    wanted = {n: (config_id, product["handle"]) for n, (product, _) in new.items() if product.get("handle") is not None}
    wanted |= {n: key for n, update in planned.items() if (key := get_new_handle(update.product, update.row))}
    rejected_numbers, taken = await reject_taken_handles(unit, dict(sorted(wanted.items())), "rows")
    creatable = {n: row for n, row in new.items() if n not in rejected_numbers}
    await assign_handles(unit, config_id, creatable, taken)
    return creatable, {n: update for n, update in planned.items() if n not in rejected_numbers}


# ------------------------------------------------------------------------------------------------ writing


async def _write(
    unit: UnitOfWork, config_id: str, new: Mapping[int, NewRow], planned: Mapping[int, _Update]
) -> tuple[dict[str, ProductRow], dict[str, ProductRow]]:
    """The products that were created, and those that changed, by id."""
    plans = [update.plan for update in planned.values() if update.plan]
    unit.variant_codes |= {update.product.id: list_codes(update.plan.rows) for update in planned.values() if update.plan}
    removed_ids = [id_ for plan in plans for id_ in plan.removed_ids]
    changed_variants = [row for plan in plans for row in plan.updated]
    await write_variants(unit.connection, config_id, updated=changed_variants, removed_ids=removed_ids)
    if renamed := [row for update in planned.values() for row in update.renamed]:
        enqueue_renames(unit, config_id, renamed)
    created = await insert_products(unit, config_id, list(new.values()), [row for plan in plans for row in plan.created])
    updated = await update_products(unit, [update.change for update in planned.values()])
    for update in planned.values():
        if written := updated.get(update.product.id):
            old, change = update.product, update.change
            fields = [*change.changed_fields, *(["variants"] if change.has_written_variants else [])]
            fields += [name for name in list_changed_fields(old, written.row) if name not in fields]
            former_variants = {**written.former_variants, **update.former_variants}
            record_product_change(unit, "product_updated", old, written.row, fields, former_variants)
    return created, {id_: update.row for id_, update in updated.items()}
