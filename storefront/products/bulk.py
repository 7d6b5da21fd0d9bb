"""Bulk mutations of products. Set-based: 250 rows of a store take as many statements as one."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from sqlalchemy import delete, insert, literal_column, select, text

from storefront.core.cooperative import count_input_steps, run_in_thread_if_long
from storefront.core.db.database import Statement, compile_statement
from storefront.core.db.json_parameters import render_rows
from storefront.core.db.pipeline import QueuedStatement
from storefront.core.handles import generate_handle
from storefront.models import PRODUCT_FIELDS, products, variants
from storefront.models.product import build_published_at
from storefront.models.row_keys import group_by_store, has_any_id
from storefront.models.rows import ProductRow
from storefront.models.variant_summary import SUMMARY_COLUMNS
from storefront.products.commands import CREATE_RULES, VARIANT_COLUMNS, build_rows, list_variant_rows
from storefront.queries.projection import PRODUCT_COLUMNS
from storefront.writes import validation
from storefront.writes.amounts import has_amounts
from storefront.writes.authorization import get_currency, lock_own_products, lock_own_store
from storefront.writes.bulk import (
    NumberedRow,
    RowOutcome,
    describe_outcome,
    filter_existing,
    is_all_or_nothing,
    print_row_amounts,
    reject_errors,
    validate_rows,
)
from storefront.writes.changelog import record_product_change
from storefront.writes.descriptions import format_description, sanitize_html_field
from storefront.writes.field_errors import FieldError, MutationRejected, make_already_exists_error
from storefront.writes.former_names import enqueue_handle_takeover
from storefront.writes.image_changes import enqueue_image_changes
from storefront.writes.optimistic_lock import get_set_values
from storefront.writes.product_updates import ProductChange, build_change, find_variant_errors, is_searched, update_products
from storefront.writes.product_validation import PRODUCT_RULES
from storefront.writes.sql import build_insert_of_rows, select_json_rows
from storefront.writes.transaction import UnitOfWork

Values = Mapping[str, Any]
# Store id and handle.
HandleKey = tuple[str, str]

UPDATE_RULES: validation.Rules = {**validation.UPDATE_LOCK_RULES, **PRODUCT_RULES}
DELETE_RULES: validation.Rules = {"id": validation.validate_id, "expectedVersion": validation.accept_any}
CREATE_ROW_RULES: validation.Rules = {name: rule for name, rule in CREATE_RULES.items() if name != "configId"}
CREATE_REQUEST_RULES: validation.Rules = {"configId": validation.validate_id}


async def bulk_update_products(unit: UnitOfWork, values: Values) -> Sequence[RowOutcome | None]:
    """Update many products; each row has the input of `update_product`. Results are in the order of the rows.

    `errorPolicy` all_or_nothing rejects everything if one row is invalid; valid_rows writes the valid ones. Errors have paths
    such as rows.3.price.
    """
    rows = values["rows"]
    valid_rows = await validate_rows(unit, rows, "rows", UPDATE_RULES)
    stored, updated = await update_rows(unit, valid_rows, "rows", all_or_nothing=is_all_or_nothing(values))
    changed = {n: describe_outcome(row, "updated") for n, row in updated.items()}
    return [changed.get(n) or (describe_outcome(stored[n], "unchanged") if n in stored else None) for n in range(len(rows))]


async def bulk_delete_products(unit: UnitOfWork, values: Values) -> Sequence[RowOutcome | None]:
    """Delete many products with their variants and reviews. `errorPolicy` as in `bulk_update_products`."""
    rows = values["rows"]
    valid_rows = await validate_rows(unit, rows, "rows", DELETE_RULES)
    stored = await lock_own_products(unit, [row["id"] for _, row in valid_rows])
    current_rows = await filter_existing(unit, valid_rows, "rows", "product", stored)
    reject_errors(unit, all_or_nothing=is_all_or_nothing(values))
    deleted = {n: stored[row["id"]] for n, row in current_rows}
    for config_id, store_products in group_by_store(deleted.values()):
        unit.enqueue(_delete_products(), {"config_id": config_id, "ids": [product.id for product in store_products]})
    for product in deleted.values():
        record_product_change(unit, "product_deleted", product, None)
    return [describe_outcome(deleted[n], "deleted") if n in deleted else None for n in range(len(rows))]


async def bulk_create_products(unit: UnitOfWork, values: Values) -> Sequence[RowOutcome | None]:
    """Create many products of a store; each row has the input of `create_product`. `errorPolicy` as in `bulk_update_products`.

    Rows without a handle get that of their title, with a number if it is taken.
    """
    rows = values["rows"]
    config_id = validation.require_valid_fields(CREATE_REQUEST_RULES, {"configId": values["configId"]})["configId"]
    valid_rows = await validate_rows(unit, rows, "rows", CREATE_ROW_RULES, key=None)
    valid_rows = await sanitize_descriptions(unit, valid_rows, "rows")
    store = await lock_own_store(unit, config_id, ["configId"])
    printed_rows = print_row_amounts(unit, valid_rows, "rows", {n: store.currency for n, _ in valid_rows})
    built = await run_in_thread_if_long(count_input_steps(rows), build_new_products, unit, config_id, printed_rows)
    creatable = await _filter_creatable(unit, config_id, built)
    reject_errors(unit, all_or_nothing=is_all_or_nothing(values))
    created = await insert_products(unit, config_id, list(creatable.values()))
    return [describe_outcome(created[creatable[n][0]["id"]], "created") if n in creatable else None for n in range(len(rows))]


# ------------------------------------------------------------------------------------------------ updating


async def update_rows(
    unit: UnitOfWork, valid_rows: Sequence[NumberedRow], field: str, *, all_or_nothing: bool, entity_name: str = "product"
) -> tuple[dict[int, ProductRow], dict[int, ProductRow]]:
    """Update the products of rows that UPDATE_RULES accept. Returns the products as they were, and those that changed, by the
    number of the row. Raises MutationRejected for errors of the unit, also earlier ones, if `all_or_nothing`.
    """
    valid_rows = await sanitize_descriptions(unit, valid_rows, field)
    locks_currency = has_amounts(row for _, row in valid_rows)
    reads_codes = any(is_searched(row) for _, row in valid_rows)
    ids = [row["id"] for _, row in valid_rows]
    stored = await lock_own_products(unit, ids, locks_currency=locks_currency, reads_codes=reads_codes)
    currencies = {n: get_currency(stored[row["id"]]) for n, row in valid_rows if row["id"] in stored} if locks_currency else {}
    printed_rows = print_row_amounts(unit, valid_rows, field, currencies)
    formatted_rows = [(n, format_description(row, stored.get(row["id"]))) for n, row in printed_rows]
    known_rows = await filter_existing(unit, formatted_rows, field, entity_name, stored)
    writable_rows = await _filter_free_handles(unit, await _filter_writable(unit, known_rows, field, stored), field, stored)
    reject_errors(unit, all_or_nothing=all_or_nothing)
    changes = [_build_row_change(stored, n, row, field) for n, row in writable_rows]
    updated = await update_products(unit, changes)
    for change in changes:
        if new := updated.get(change.product.id):
            record_product_change(unit, "product_updated", change.product, new.row, change.changed_fields, new.former_variants)
    changed = {n: updated[row["id"]].row for n, row in writable_rows if row["id"] in updated}
    return {n: stored[row["id"]] for n, row in writable_rows}, changed


def _build_row_change(stored: Mapping[str, ProductRow], n: int, row: Values, field: str) -> ProductChange:
    return build_change(stored[row["id"]], get_set_values(row), [field, str(n)])


async def sanitize_descriptions(unit: UnitOfWork, rows: Sequence[NumberedRow], field: str) -> list[NumberedRow]:
    """The rows with both forms of their descriptions. Errors go to the unit."""
    sanitized_rows: list[NumberedRow] = []
    for n, row in rows:
        sanitized, faults = await sanitize_html_field(row, [field, str(n)])
        unit.field_errors += faults
        if not faults:
            sanitized_rows.append((n, sanitized))
    return sanitized_rows


async def _filter_writable(
    unit: UnitOfWork, rows: Sequence[NumberedRow], field: str, stored: Mapping[str, ProductRow]
) -> list[NumberedRow]:
    """The rows whose values the variants of the stored products can get."""
    errors_by_id = await find_variant_errors(unit, [_build_row_change(stored, n, row, field) for n, row in rows])
    for errors in errors_by_id.values():
        unit.field_errors += errors
    return [(n, row) for n, row in rows if not errors_by_id.get(row["id"])]


async def _filter_free_handles(
    unit: UnitOfWork, rows: Sequence[NumberedRow], field: str, stored: Mapping[str, ProductRow]
) -> list[NumberedRow]:
    """The rows whose new handle is free in the store; the first of several rows with the same handle gets it."""
    wanted = {n: key for n, row in rows if (key := get_new_handle(stored[row["id"]], row))}
    rejected_numbers, _ = await reject_taken_handles(unit, wanted, field)
    return [(n, row) for n, row in rows if n not in rejected_numbers]


async def reject_taken_handles(unit: UnitOfWork, wanted: Mapping[int, HandleKey], field: str) -> tuple[set[int], set[HandleKey]]:
    """The numbers of the rows whose handles are taken, with errors in the unit, and all of these handles that are taken then.

    `wanted`: new handles by the number of the row.
    """
    taken = await _load_taken_handles(unit, list(wanted.values()))
    rejected_numbers: set[int] = set()
    for n, handle_key in wanted.items():
        if handle_key in taken:
            unit.field_errors.append(make_already_exists_error("products_config_id_handle_key", handle_key, [field, str(n)]))
            rejected_numbers.add(n)
        taken.add(handle_key)
    return rejected_numbers, taken


def get_new_handle(old: ProductRow, row: Values) -> HandleKey | None:
    """The handle that a row gives a product, if it is another one than before."""
    return (old.config_id, row["handle"]) if row.get("handle", old.handle) != old.handle else None


# ------------------------------------------------------------------------------------------------ creating

# A product and its variants.
NewRow = tuple[dict[str, Any], list[dict[str, Any]]]
# The columns of an inserted product.
_NEW_PRODUCT: dict[str, Any] = {field.name: field.default for field in PRODUCT_FIELDS}


def build_new_products(unit: UnitOfWork, config_id: str, rows: Sequence[NumberedRow]) -> dict[int, NewRow]:
    """The products of the rows that can be built, by the number of the row. Errors of others go to the unit."""
    built: dict[int, NewRow] = {}
    for n, row in rows:
        try:
            built[n] = build_rows(config_id, format_description(row))
        except MutationRejected as rejection:
            unit.field_errors += prefix_errors(rejection, n)
    return built


def prefix_errors(rejection: MutationRejected, n: int) -> list[FieldError]:
    """The errors of what one row would write, with paths of the request."""
    return [replace(error, path=("rows", str(n), *error.path)) for error in rejection.field_errors]


async def _filter_creatable(unit: UnitOfWork, config_id: str, built: Mapping[int, NewRow]) -> dict[int, NewRow]:
    """The rows with handles that are free in the store, and those without one, which get one. Of two rows with the same the first
    has it.
    """
    named = {n: (config_id, product["handle"]) for n, (product, _) in built.items() if product.get("handle") is not None}
    rejected_numbers, taken = await reject_taken_handles(unit, named, "rows")
    creatable = {n: new for n, new in built.items() if n not in rejected_numbers}
    await assign_handles(unit, config_id, creatable, taken)
    return creatable


async def assign_handles(unit: UnitOfWork, config_id: str, new: Mapping[int, NewRow], taken: set[HandleKey]) -> None:
    """Give the new products without a handle that of their title, with a number if it is taken, also by one of `taken`."""
    unnamed = {
        n: generate_handle(product["title"], "product") for n, (product, _) in new.items() if product.get("handle") is None
    }
    for n, handle in (await _find_free_handles(unit, config_id, unnamed, {handle for _, handle in taken})).items():
        new[n][0]["handle"] = handle


async def insert_products(
    unit: UnitOfWork, config_id: str, new: Sequence[NewRow], variants_of_others: Sequence[Values] = ()
) -> dict[str, ProductRow]:
    """Insert products with their variants, and further variants of stored products. Returns the new products by id."""
    product_rows = [product for product, _ in new]
    variant_rows = [row for product, of_product in new for row in list_variant_rows(product, of_product)]
    inserted: QueuedStatement | None = None
    if product_rows:
        products_json = await render_rows([{**_NEW_PRODUCT, **row} for row in product_rows])
        inserted = unit.enqueue(_insert_products(), {"rows": products_json})
        enqueue_handle_takeover(unit.connection, config_id, [row["id"] for row in product_rows])
        enqueue_image_changes(unit.connection, config_id, [(row["id"], (), row.get("images", ())) for row in product_rows])
    if all_variant_rows := [*variant_rows, *variants_of_others]:
        unit.enqueue(build_insert_of_rows(variants, VARIANT_COLUMNS), {"rows": await render_rows(all_variant_rows)})
    await unit.connection.flush()
    created = {row.id: row for row in inserted.rows} if inserted else {}
    for row in product_rows:
        record_product_change(unit, "product_created", None, created[row["id"]])
    return created


async def _find_free_handles(unit: UnitOfWork, config_id: str, bases: Mapping[int, str], taken: set[str]) -> dict[int, str]:
    """A free handle for each row: its base, or else that with the first number that is free."""
    found: dict[int, str] = {}
    numbers = dict.fromkeys(bases, 1)
    # So many numbers are tried at once; twice as many the next time.
    width = 1 + max(Counter(bases.values()).values(), default=0)
    while open_rows := [n for n in bases if n not in found]:
        candidates = {number_handle(bases[n], number) for n in open_rows for number in range(numbers[n], numbers[n] + width)}
        taken |= {handle for _, handle in await _load_taken_handles(unit, [(config_id, name) for name in sorted(candidates)])}
        for n in open_rows:
            free = (number_handle(bases[n], number) for number in range(numbers[n], numbers[n] + width))
            if handle := next((name for name in free if name not in taken), None):
                found[n] = handle
                taken.add(handle)
            numbers[n] += width
        width *= 2
    return found


def number_handle(base: str, number: int) -> str:
    """The handle of the product with this number among those of a title."""
    return base if number == 1 else f"{base}-{number}"


@cache
def _insert_products() -> Statement:
    names = ("id", "config_id", "version", "options", "search_vector", *_NEW_PRODUCT, *SUMMARY_COLUMNS)
    entry = select_json_rows(products, *names)
    rows = select(*entry.c, literal_column(build_published_at("entry.status")))
    insertion = insert(products).from_select((*names, "published_at"), rows, include_defaults=False)
    return compile_statement(insertion.returning(*PRODUCT_COLUMNS))


@cache
def _delete_products() -> Statement:
    return compile_statement(delete(products).where(has_any_id(products)), needs_custom_plan=True)


async def _load_taken_handles(unit: UnitOfWork, handle_keys: Sequence[HandleKey]) -> set[HandleKey]:
    handles_by_store: dict[str, list[str]] = {}
    for config_id, handle in handle_keys:
        handles_by_store.setdefault(config_id, []).append(handle)
    taken = [
        unit.enqueue(_select_taken_handles(), {"config_id": config_id, "handles": handles})
        for config_id, handles in handles_by_store.items()
    ]
    await unit.connection.flush()
    return {(row.config_id, row.handle) for statement in taken for row in statement.rows}


@cache
def _select_taken_handles() -> Statement:
    is_wanted = "config_id = CAST(:config_id AS uuid) AND handle = ANY(CAST(:handles AS text[]))"
    return compile_statement(text(f"SELECT config_id, handle FROM products WHERE {is_wanted}"))
