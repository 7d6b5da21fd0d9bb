"""Bulk updates of products, and stock adjustments. Set-based: 250 rows take as many statements as one."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import orjson
from sqlalchemy import Column, bindparam, text
from sqlalchemy.dialects.postgresql import JSONB

from storefront.core.casing import to_camel_case, to_snake_case
from storefront.core.db.database import Row, Statement, compile_statement
from storefront.models import PRODUCT_FIELDS, products
from storefront.models.rows import ProductRow, VariantRow
from storefront.models.writable_fields import MAX_INT32
from storefront.queries.projection import PRODUCT_COLUMNS
from storefront.writes import validation
from storefront.writes.authorization import lock_own_product, lock_own_products, lock_own_variant
from storefront.writes.changelog import record_child_change, record_product_change
from storefront.writes.field_errors import (
    FieldError,
    InvalidInputReason,
    MutationRejected,
    UserErrorCode,
    make_already_exists_error,
    make_invalid_input_error,
    make_invalid_state_error,
    make_not_found_error,
)
from storefront.writes.optimistic_lock import StaleRow, load_stale_version_errors
from storefront.writes.product_validation import PRODUCT_RULES, find_contradictions
from storefront.writes.transaction import UnitOfWork

Values = Mapping[str, Any]
NumberedRow = tuple[int, dict[str, Any]]
# Store id and handle.
HandleKey = tuple[str, str]

MAX_ROWS = 250

ROW_RULES: validation.Rules = {"id": validation.validate_id, "expectedVersion": validation.accept_any, **PRODUCT_RULES}
# The assignment of one column: the new value of the bulk row if it has one, else the old value.
_COLUMN_ASSIGNMENT = "{name} = CASE WHEN entry.given ? '{name}' THEN {value} ELSE products.{name} END"


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
    changes = {row["id"]: _get_changed_columns(stored[row["id"]], row) for _, row in writable_rows}
    updated = await _update_products(unit, {id_: change for id_, change in changes.items() if change})
    for id_, new in updated.items():
        fields = [to_camel_case(name) for name in changes[id_]]
        record_product_change(unit, "product_updated", stored[id_], new, fields)
    results = {n: updated.get(row["id"], stored[row["id"]]) for n, row in writable_rows}
    return [results.get(n) for n in range(len(rows))]


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
    """The rows that pass the checks against the stored products: existence, version, price fields."""
    writable_rows: list[NumberedRow] = []
    outdated: list[StaleRow] = []
    for n, row in rows:
        path, old, expected = [field, str(n)], stored.get(row["id"]), row.get("expectedVersion")
        if old is None:
            unit.field_errors.append(make_not_found_error("product", row["id"], [*path, "id"]))
        elif expected not in (None, old.version):
            outdated.append(StaleRow(old, expected, old.config_id, path))
        elif faults := find_contradictions(row, path, old):
            unit.field_errors += faults
        else:
            writable_rows.append((n, row))
    unit.field_errors += await load_stale_version_errors(unit, outdated)
    return writable_rows


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


def _get_changed_columns(old: ProductRow, row: Values) -> dict[str, Any]:
    values = {to_snake_case(name): value for name, value in row.items() if name not in ("id", "expectedVersion")}
    return {name: value for name, value in values.items() if getattr(old, name) != value}


async def _update_products(unit: UnitOfWork, changes: Mapping[str, Values]) -> dict[str, ProductRow]:
    if not changes:
        return {}
    rows = orjson.dumps([{"id": id_, "given": change} for id_, change in changes.items()]).decode()
    return {row.id: row for row in await unit.fetch(_build_update_statement(), {"rows": rows})}


@cache
def _build_update_statement() -> Statement:
    columns = ", ".join(
        _COLUMN_ASSIGNMENT.format(name=field.name, value=_render_value(products.c[field.name])) for field in PRODUCT_FIELDS
    )
    statement = f"""
UPDATE products SET {columns}, version = version + 1, updated_at = now()
FROM jsonb_to_recordset(:rows) AS entry(id uuid, given jsonb)
WHERE products.id = entry.id
RETURNING {", ".join(f"products.{column.name}" for column in PRODUCT_COLUMNS)}
"""
    return compile_statement(text(statement).bindparams(bindparam("rows", type_=JSONB)))


def _render_value(column: Column[Any]) -> str:
    if isinstance(column.type, JSONB):
        return f"entry.given -> '{column.name}'"
    return f"(entry.given ->> '{column.name}')::{column.type.compile()}"


# --------------------------------------------------------------------------------------------------- stock


async def adjust_inventory(unit: UnitOfWork, values: Values) -> Sequence[ProductRow]:
    """Adjust the stock of a product or variant by `delta`, below zero only if more may be sold. Returns the product."""
    target = "variantId" if values.get("variantId") is not None else "productId"
    clean = validation.require_valid_fields(
        {target: validation.validate_id, "delta": _check_delta}, _select_target(values, target)
    )
    if target == "variantId":
        row, product = await lock_own_variant(unit, clean[target], [target])
        updated_row, updated_product = await _adjust_stock(unit, "product_variants", row, product.id, clean["delta"])
        fields = ["variants.inventory"]
    else:
        product = await lock_own_product(unit, clean[target], [target])
        updated_row, updated_product = await _adjust_stock(unit, "products", product, product.id, clean["delta"])
        fields = ["inventory"]
    record_child_change(unit, product.id, product, updated_row, fields)
    return [updated_product]


def _check_delta(value: int) -> int:
    if value == 0:
        raise validation.InvalidValueError("must not be 0: that changes nothing.", InvalidInputReason.NOT_ALLOWED)
    return int(validation.integer_rule(-MAX_INT32, MAX_INT32)(value))


def _select_target(values: Values, target: str) -> Values:
    if (values.get("variantId") is None) == (values.get("productId") is None):
        raise MutationRejected(
            make_invalid_input_error(["productId"], "give either productId or variantId.", InvalidInputReason.CONFLICTING)
        )
    return {target: values[target], "delta": values["delta"]}


async def _adjust_stock(
    unit: UnitOfWork, table: str, row: ProductRow | VariantRow, product_id: str, delta: int
) -> tuple[Row, ProductRow]:
    """The row with its new stock, and its product after the change."""
    if row.inventory is None:
        raise MutationRejected(make_invalid_state_error(["delta"], "this stock is not tracked. Set inventory to a number first."))
    if not -MAX_INT32 <= row.inventory + delta <= MAX_INT32:
        reason = InvalidInputReason.TOO_LARGE if delta > 0 else InvalidInputReason.TOO_SMALL
        raise MutationRejected(
            make_invalid_input_error(["delta"], f"would make more than {MAX_INT32:,}, or less than the negative.", reason)
        )
    adjusted = unit.enqueue(_build_stock_update(table), {"id": row.id, "delta": delta})
    [updated_product] = await unit.fetch(_select_product(), {"id": product_id})
    if not adjusted.rows:
        available = max(0, row.inventory)
        message = f"delta: only {available:,} are in stock, {-delta:,} were asked for."
        raise MutationRejected(FieldError(UserErrorCode.INSUFFICIENT_STOCK, message, ("delta",), {"available": available}))
    return adjusted.rows[0], updated_product


@cache
def _build_stock_update(table: str) -> Statement:
    # Check and update are one statement, so that concurrent orders cannot oversell.
    continues = " OR inventory_policy = 'continue'" if table == "product_variants" else ""
    return compile_statement(
        text(
            f"UPDATE {table} SET inventory = inventory + :delta, version = version + 1, updated_at = now() "
            f"WHERE id = CAST(:id AS uuid) AND (:delta > 0 OR inventory + :delta >= 0{continues}) "
            "RETURNING id, inventory, version"
        )
    )


@cache
def _select_product() -> Statement:
    columns = ", ".join(column.name for column in PRODUCT_COLUMNS)
    return compile_statement(text(f"SELECT {columns} FROM products WHERE id = CAST(:id AS uuid)"))
