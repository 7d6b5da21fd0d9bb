"""Updates of many products of a store in as many statements as of one. Prices and stock are written to their variants."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from typing import Any

import orjson
from sqlalchemy import Column, bindparam, text
from sqlalchemy.dialects.postgresql import JSONB

from storefront.core.casing import to_camel_case, to_snake_case
from storefront.core.db.database import Row, Statement, compile_statement
from storefront.core.db.pipeline import QueuedStatement
from storefront.models import PRODUCT_FIELDS, products, variants
from storefront.models.former_values import FILTERED_VARIANT_COLUMNS, FormerVariants, get_former_variant
from storefront.models.product import build_published_at
from storefront.models.row_keys import build_key_parameters, group_by_store, list_keys
from storefront.models.rows import ProductRow
from storefront.models.search_document import SEARCHED_COLUMNS, get_searched_values
from storefront.models.variant_summary import SETTABLE_COLUMNS, SUMMARY_COLUMNS, SUMMARY_SQL
from storefront.queries.projection import PRODUCT_COLUMNS
from storefront.writes.field_errors import FieldError, make_invalid_state_error
from storefront.writes.former_names import enqueue_former_handles
from storefront.writes.image_changes import enqueue_image_changes
from storefront.writes.product_validation import find_contradictions
from storefront.writes.search_documents import build_search_documents
from storefront.writes.transaction import UnitOfWork

# The assignment of one column: the new value of the row if it has one, else the old value.
_COLUMN_ASSIGNMENT = "{name} = CASE WHEN changed.given ? '{name}' THEN {value} ELSE {table}.{name} END"


@dataclass(frozen=True, slots=True)
class ProductChange:
    """The new values of a locked product, by column. `path` is the input path of its object.

    `has_written_variants`: some of its variants have been written already, and the product follows them.
    """

    product: ProductRow
    values: Mapping[str, Any]
    path: Sequence[str] = ()
    has_written_variants: bool = False

    @property
    def has_changes(self) -> bool:
        """Whether the product has to be written."""
        return bool(self.values) or self.has_written_variants

    @property
    def config_id(self) -> str:
        """The store of the product."""
        return self.product.config_id

    @property
    def variant_values(self) -> dict[str, Any]:
        """The values that its variants get."""
        return {name: value for name, value in self.values.items() if name in SETTABLE_COLUMNS}

    @property
    def changed_fields(self) -> list[str]:
        """The GraphQL names of the fields that change."""
        return [to_camel_case(name) for name in self.values]


def build_change(
    old: ProductRow, values: Mapping[str, Any], path: Sequence[str] = (), has_written_variants: bool = False
) -> ProductChange:
    """The change that an input makes, by its GraphQL names: only values that differ."""
    columns = {to_snake_case(name): value for name, value in values.items()}
    changed = {name: value for name, value in columns.items() if getattr(old, name) != value}
    return ProductChange(old, changed, path, has_written_variants)


async def find_variant_errors(unit: UnitOfWork, changes: Sequence[ProductChange]) -> dict[str, list[FieldError]]:
    """Why the variants of products cannot get the values, by the id of the product: they differ, or the values do not fit."""
    variant_changes = {change.product.id: change for change in changes if change.variant_values}
    if not variant_changes:
        return {}
    locked = [change.product for change in variant_changes.values()]
    ranges = [unit.enqueue(_select_variant_ranges(), build_key_parameters(list_keys(rows))) for _, rows in group_by_store(locked)]
    await unit.connection.flush()
    return {row.product_id: _find_errors(variant_changes[row.product_id], row) for found in ranges for row in found.rows}


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


@dataclass(frozen=True, slots=True)
class UpdatedProduct:
    """A product after an update, and its variants whose prices changed, as they were before."""

    row: ProductRow
    former_variants: FormerVariants = field(default_factory=dict)


async def update_products(unit: UnitOfWork, changes: Sequence[ProductChange]) -> dict[str, UpdatedProduct]:
    """Write the changes, which have no errors; returns the products that changed by id."""
    written = [
        _enqueue_updates(unit, config_id, store_changes, await _build_search_documents(unit, config_id, store_changes))
        for config_id, store_changes in group_by_store(change for change in changes if change.has_changes)
    ]
    await unit.connection.flush()
    updated = {row.id: UpdatedProduct(row) for statement, _ in written for row in statement.rows}
    # All variants of a product whose price is set had that price.
    former_prices = {change.product.id: change.product.price for change in changes if "price" in change.values}
    for row in chain.from_iterable(variants_statement.rows for _, variants_statement in written if variants_statement):
        if row.product_id in former_prices:
            former = {**get_former_variant(row), "price": former_prices[row.product_id]}
            updated[row.product_id].former_variants[row.id] = former
    return updated


async def _build_search_documents(unit: UnitOfWork, config_id: str, changes: Sequence[ProductChange]) -> dict[str, str]:
    """The search documents of the products of which something changes that is searched."""
    searched = [
        {"id": change.product.id, **get_searched_values(change.product), **change.values}
        for change in changes
        if change.has_written_variants or not change.values.keys().isdisjoint(SEARCHED_COLUMNS)
    ]
    if not searched:
        return {}
    return await build_search_documents(unit.connection, config_id, searched, unit.variant_codes)


def is_searched(values: Mapping[str, Any]) -> bool:
    """Whether an input of a product, by GraphQL names, gives values that its search document contains."""
    return any(to_snake_case(name) in SEARCHED_COLUMNS or name == "descriptionHtml" for name in values)


def _enqueue_updates(
    unit: UnitOfWork, config_id: str, changes: Sequence[ProductChange], search_documents: Mapping[str, str]
) -> tuple[QueuedStatement, QueuedStatement | None]:
    """The updates of the products, and of their variants if these change."""
    variants_statement = None
    if variant_changes := {change.product.id: values for change in changes if (values := change.variant_values)}:
        variants_statement = unit.enqueue(_update_variants(), _build_parameters(config_id, variant_changes))
    own_changes = {change.product.id: dict(change.values) for change in changes}
    for id_, document in search_documents.items():
        own_changes[id_]["search_vector"] = document
    has_changed_variants = bool(variant_changes) or any(change.has_written_variants for change in changes)
    products_statement = unit.enqueue(_update_products(has_changed_variants), _build_parameters(config_id, own_changes))
    if renamed := [(change.product, change.values["handle"]) for change in changes if "handle" in change.values]:
        enqueue_former_handles(unit.connection, config_id, renamed)
    images = [
        (change.product.id, change.product.images, change.values["images"]) for change in changes if "images" in change.values
    ]
    enqueue_image_changes(unit.connection, config_id, images)
    return products_statement, variants_statement


def _build_parameters(config_id: str, changes: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    rows = orjson.dumps([{"id": id_, "given": values} for id_, values in changes.items()]).decode()
    return {"config_id": config_id, "rows": rows}


@cache
def _select_variant_ranges() -> Statement:
    sql = """
SELECT product_id, count(*) AS total, min(price) AS min_price, max(price) AS max_price,
  min(compare_at_price) AS compare_at_price, count(DISTINCT coalesce(compare_at_price, -1)) AS compare_at_prices,
  bool_and(inventory_policy = 'continue') AS may_be_negative
FROM product_variants WHERE config_id = CAST(:config_id AS uuid) AND product_id = ANY(CAST(:ids AS uuid[]))
GROUP BY product_id
"""
    return compile_statement(text(sql))


@cache
def _update_variants() -> Statement:
    assignments = ", ".join(_build_assignment(variants.c[name]) for name in SETTABLE_COLUMNS)
    sql = f"""
UPDATE product_variants SET {assignments}, version = version + 1, updated_at = now()
FROM jsonb_to_recordset(:rows) AS changed (id uuid, given jsonb)
WHERE product_variants.config_id = CAST(:config_id AS uuid) AND product_variants.product_id = changed.id
RETURNING product_variants.id, product_id, {", ".join(FILTERED_VARIANT_COLUMNS)}
"""
    return compile_statement(text(sql).bindparams(bindparam("rows", type_=JSONB)))


@cache
def _update_products(with_summary: bool) -> Statement:
    assignments = [
        _build_assignment(products.c[name]) for name in (*(field.name for field in PRODUCT_FIELDS), "options", "search_vector")
    ]
    assignments.append("published_at = " + build_published_at("changed.given ->> 'status'", "products.published_at"))
    assignments += [f"{name} = summary.{name}" for name in SUMMARY_COLUMNS] if with_summary else []
    summary = f" CROSS JOIN LATERAL {SUMMARY_SQL}" if with_summary else ""
    sql = f"""
UPDATE products SET {", ".join(assignments)}, version = version + 1, updated_at = now()
FROM jsonb_to_recordset(:rows) AS changed (id uuid, given jsonb){summary}
WHERE products.config_id = CAST(:config_id AS uuid) AND products.id = changed.id
RETURNING {", ".join(f"products.{column.name}" for column in PRODUCT_COLUMNS)}
"""
    return compile_statement(text(sql).bindparams(bindparam("rows", type_=JSONB)))


def _build_assignment(column: Column[Any]) -> str:
    return _COLUMN_ASSIGNMENT.format(name=column.name, table=column.table.name, value=_render_value(column))


def _render_value(column: Column[Any]) -> str:
    if isinstance(column.type, JSONB):
        return f"changed.given -> '{column.name}'"
    return f"(changed.given ->> '{column.name}')::{column.type.compile()}"
