"""Bulk updates of products. Set-based: 250 rows take as many statements as one."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import text

from storefront.core.db.database import Statement, compile_statement
from storefront.models.rows import ProductRow
from storefront.products.product_updates import ProductChange, build_change, find_variant_errors, update_products
from storefront.writes import validation
from storefront.writes.authorization import lock_own_products
from storefront.writes.changelog import record_product_change
from storefront.writes.field_errors import (
    InvalidInputReason,
    MutationRejected,
    make_already_exists_error,
    make_invalid_input_error,
    make_not_found_error,
)
from storefront.writes.optimistic_lock import StaleRow, load_stale_version_errors
from storefront.writes.product_validation import PRODUCT_RULES
from storefront.writes.transaction import UnitOfWork

Values = Mapping[str, Any]
NumberedRow = tuple[int, dict[str, Any]]
# Store id and handle.
HandleKey = tuple[str, str]

MAX_ROWS = 250

ROW_RULES: validation.Rules = {"id": validation.validate_id, "expectedVersion": validation.accept_any, **PRODUCT_RULES}


async def bulk_update_products(unit: UnitOfWork, values: Values) -> Sequence[ProductRow | None]:
    """Update many products; each row has the input of `update_product`. Results are in the order of the rows.

    `errorPolicy` all_or_nothing rejects everything if one row is invalid; valid_rows writes the valid ones. Errors have paths
    such as rows.3.price.
    """
    return await _update_rows(unit, values["rows"], "rows", all_or_nothing=values["errorPolicy"] == "all_or_nothing")


async def update_product_prices(unit: UnitOfWork, values: Values) -> Sequence[ProductRow | None]:
    """Update the prices of many products, all or nothing."""
    return await _update_rows(unit, values["prices"], "prices", all_or_nothing=True)


async def _update_rows(
    unit: UnitOfWork, rows: Sequence[Values], field: str, *, all_or_nothing: bool
) -> Sequence[ProductRow | None]:
    valid_rows = _validate_rows(unit, rows, field)
    stored = await lock_own_products(unit, [row["id"] for _, row in valid_rows])
    writable_rows = await _filter_free_handles(unit, await _filter_writable(unit, valid_rows, field, stored), field, stored)
    unit.field_errors.sort(key=lambda failure: int(failure.path[1]))
    if unit.field_errors and all_or_nothing:
        raise MutationRejected(*unit.field_errors)
    changes = [_build_row_change(stored, n, row, field) for n, row in writable_rows]
    updated = await update_products(unit, changes)
    for change in changes:
        if new := updated.get(change.product.id):
            record_product_change(unit, "product_updated", change.product, new, change.changed_fields)
    results = {n: updated.get(row["id"], stored[row["id"]]) for n, row in writable_rows}
    return [results.get(n) for n in range(len(rows))]


def _build_row_change(stored: Mapping[str, ProductRow], n: int, row: Values, field: str) -> ProductChange:
    values = {name: value for name, value in row.items() if name not in ("id", "expectedVersion")}
    return build_change(stored[row["id"]], values, [field, str(n)])


def _validate_rows(unit: UnitOfWork, rows: Sequence[Values], field: str) -> list[NumberedRow]:
    if not 1 <= len(rows) <= MAX_ROWS:
        problem = f"must have 1 to {MAX_ROWS} entries, not {len(rows):,}."
        raise MutationRejected(make_invalid_input_error([field], problem, validation.find_size_reason(len(rows), 1)))
    valid_rows: dict[str, NumberedRow] = {}
    for n, row in enumerate(rows):
        clean, faults = validation.validate_fields(ROW_RULES, row, [field, str(n)])
        if not faults and clean["id"] in valid_rows:
            faults = [
                make_invalid_input_error(
                    [field, str(n), "id"],
                    f"is in row {valid_rows[clean['id']][0]} already. Join the two.",
                    InvalidInputReason.DUPLICATE,
                )
            ]
        unit.field_errors += faults
        if not faults:
            valid_rows[clean["id"]] = (n, clean)
    return list(valid_rows.values())


async def _filter_writable(
    unit: UnitOfWork, rows: Sequence[NumberedRow], field: str, stored: Mapping[str, ProductRow]
) -> list[NumberedRow]:
    """The rows that pass the checks against the stored products: existence, version, values of variants."""
    current_rows: list[NumberedRow] = []
    outdated: list[StaleRow] = []
    for n, row in rows:
        path, old, expected = [field, str(n)], stored.get(row["id"]), row.get("expectedVersion")
        if old is None:
            unit.field_errors.append(make_not_found_error("product", row["id"], [*path, "id"]))
        elif expected not in (None, old.version):
            outdated.append(StaleRow(old, expected, old.config_id, path))
        else:
            current_rows.append((n, row))
    unit.field_errors += await load_stale_version_errors(unit, outdated)
    errors_by_id = await find_variant_errors(unit, [_build_row_change(stored, n, row, field) for n, row in current_rows])
    for errors in errors_by_id.values():
        unit.field_errors += errors
    return [(n, row) for n, row in current_rows if not errors_by_id.get(row["id"])]


async def _filter_free_handles(
    unit: UnitOfWork, rows: Sequence[NumberedRow], field: str, stored: Mapping[str, ProductRow]
) -> list[NumberedRow]:
    """The rows whose new handle is free in the store; the first of several rows with the same handle gets it."""
    new_handles = {row["id"]: _get_new_handle(stored[row["id"]], row) for _, row in rows}
    taken_handles = await _load_taken_handles(unit, [handle_key for handle_key in new_handles.values() if handle_key])
    free_rows: list[NumberedRow] = []
    for n, row in rows:
        handle_key = new_handles[row["id"]]
        if handle_key in taken_handles:
            unit.field_errors.append(
                make_already_exists_error("products_config_id_handle_key", handle_key or (), [field, str(n)])
            )
        else:
            free_rows.append((n, row))
            taken_handles |= {handle_key} if handle_key else set()
    return free_rows


def _get_new_handle(old: ProductRow, row: Values) -> HandleKey | None:
    return (old.config_id, row["handle"]) if row.get("handle", old.handle) != old.handle else None


async def _load_taken_handles(unit: UnitOfWork, handle_keys: Sequence[HandleKey]) -> set[HandleKey]:
    if not handle_keys:
        return set()
    config_ids, handles = zip(*handle_keys, strict=True)
    rows = await unit.fetch(_select_taken_handles(), {"config_ids": list(config_ids), "handles": list(handles)})
    return {(row.config_id, row.handle) for row in rows}


@cache
def _select_taken_handles() -> Statement:
    return compile_statement(
        text(
            "SELECT config_id, handle FROM products JOIN unnest(CAST(:config_ids AS uuid[]), CAST(:handles AS text[])) "
            "AS wanted (config_id, handle) USING (config_id, handle)"
        )
    )
