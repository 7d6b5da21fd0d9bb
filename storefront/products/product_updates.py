"""Updates of many products in as many statements as of one. Price, compare-at price and stock are written to their variants."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import orjson
from sqlalchemy import Column, bindparam, text
from sqlalchemy.dialects.postgresql import JSONB

from storefront.core.casing import to_camel_case, to_snake_case
from storefront.core.db.database import Row, Statement, compile_statement
from storefront.models import PRODUCT_FIELDS, products, variants
from storefront.models.rows import ProductRow
from storefront.models.variant_summary import SETTABLE_COLUMNS, SUMMARY_COLUMNS, SUMMARY_SQL
from storefront.queries.projection import PRODUCT_COLUMNS
from storefront.writes.field_errors import FieldError, make_invalid_state_error
from storefront.writes.product_validation import find_contradictions
from storefront.writes.transaction import UnitOfWork

# The assignment of one column: the new value of the row if it has one, else the old value.
_COLUMN_ASSIGNMENT = "{name} = CASE WHEN changed.given ? '{name}' THEN {value} ELSE {table}.{name} END"


@dataclass(frozen=True, slots=True)
class ProductChange:
    """The new values of a locked product, by column. `path` is the input path of its object."""

    product: ProductRow
    values: Mapping[str, Any]
    path: Sequence[str] = ()

    @property
    def variant_values(self) -> dict[str, Any]:
        """The values that its variants get."""
        return {name: value for name, value in self.values.items() if name in SETTABLE_COLUMNS}

    @property
    def changed_fields(self) -> list[str]:
        """The GraphQL names of the fields that change."""
        return [to_camel_case(name) for name in self.values]


def build_change(old: ProductRow, values: Mapping[str, Any], path: Sequence[str] = ()) -> ProductChange:
    """The change that an input makes, by its GraphQL names: only values that differ."""
    columns = {to_snake_case(name): value for name, value in values.items()}
    return ProductChange(old, {name: value for name, value in columns.items() if getattr(old, name) != value}, path)


async def find_variant_errors(unit: UnitOfWork, changes: Sequence[ProductChange]) -> dict[str, list[FieldError]]:
    """Why the variants of products cannot get the values, by the id of the product: they differ, or the values do not fit."""
    variant_changes = {change.product.id: change for change in changes if change.variant_values}
    if not variant_changes:
        return {}
    rows = await unit.fetch(_select_variant_ranges(), {"ids": list(variant_changes)})
    return {row.product_id: _find_errors(variant_changes[row.product_id], row) for row in rows}


def _find_errors(change: ProductChange, variants_of_product: Row) -> list[FieldError]:
    values, ranges, path = change.variant_values, variants_of_product, change.path
    if "inventory" in values and ranges.total > 1:
        problem = f"the product has {ranges.total:,} variants. Set the stock of each with updateVariant or adjustInventory."
        return [make_invalid_state_error([*path, "inventory"], problem)]
    has_one_price = ranges.min_price == ranges.max_price
    for name, is_same in (("price", has_one_price), ("compare_at_price", has_one_price and ranges.compare_at_prices == 1)):
        if name in values and not is_same:
            problem = (
                "the variants of the product have different prices. Set those of each with updateVariant or setProductVariants."
            )
            return [make_invalid_state_error([*path, to_camel_case(name)], problem)]
    new_values = {"price": ranges.min_price, "compare_at_price": ranges.compare_at_price} | values
    policy = "continue" if ranges.may_be_negative else "deny"
    fields = {to_camel_case(name): value for name, value in new_values.items()}
    return find_contradictions({**fields, "inventoryPolicy": policy}, path)


async def update_products(unit: UnitOfWork, changes: Sequence[ProductChange]) -> dict[str, ProductRow]:
    """Write the changes, which have no errors; returns the new rows by id."""
    changes = [change for change in changes if change.values]
    if not changes:
        return {}
    if variant_changes := {change.product.id: values for change in changes if (values := change.variant_values)}:
        unit.enqueue(_update_variants(), _build_parameters(variant_changes))
    own_changes = {change.product.id: change.values for change in changes}
    rows = await unit.fetch(_update_products(bool(variant_changes)), _build_parameters(own_changes))
    return {row.id: row for row in rows}


def _build_parameters(changes: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    return {"rows": orjson.dumps([{"id": id_, "given": values} for id_, values in changes.items()]).decode()}


@cache
def _select_variant_ranges() -> Statement:
    sql = """
SELECT product_id, count(*) AS total, min(price) AS min_price, max(price) AS max_price,
  min(compare_at_price) AS compare_at_price, count(DISTINCT coalesce(compare_at_price, -1)) AS compare_at_prices,
  bool_and(inventory_policy = 'continue') AS may_be_negative
FROM product_variants WHERE product_id = ANY(CAST(:ids AS uuid[])) GROUP BY product_id
"""
    return compile_statement(text(sql))


@cache
def _update_variants() -> Statement:
    assignments = ", ".join(_build_assignment(variants.c[name]) for name in SETTABLE_COLUMNS)
    sql = f"""
UPDATE product_variants SET {assignments}, version = version + 1, updated_at = now()
FROM jsonb_to_recordset(:rows) AS changed (id uuid, given jsonb)
WHERE product_variants.product_id = changed.id
"""
    return compile_statement(text(sql).bindparams(bindparam("rows", type_=JSONB)))


@cache
def _update_products(with_summary: bool) -> Statement:
    assignments = [_build_assignment(products.c[name]) for name in (*(field.name for field in PRODUCT_FIELDS), "options")]
    assignments += [f"{name} = summary.{name}" for name in SUMMARY_COLUMNS] if with_summary else []
    summary = f" CROSS JOIN LATERAL {SUMMARY_SQL}" if with_summary else ""
    sql = f"""
UPDATE products SET {", ".join(assignments)}, version = version + 1, updated_at = now()
FROM jsonb_to_recordset(:rows) AS changed (id uuid, given jsonb){summary}
WHERE products.id = changed.id
RETURNING {", ".join(f"products.{column.name}" for column in PRODUCT_COLUMNS)}
"""
    return compile_statement(text(sql).bindparams(bindparam("rows", type_=JSONB)))


def _build_assignment(column: Column[Any]) -> str:
    return _COLUMN_ASSIGNMENT.format(name=column.name, table=column.table.name, value=_render_value(column))


def _render_value(column: Column[Any]) -> str:
    if isinstance(column.type, JSONB):
        return f"changed.given -> '{column.name}'"
    return f"(changed.given ->> '{column.name}')::{column.type.compile()}"
