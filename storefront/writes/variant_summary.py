"""Writes the summary of a product's variants after these have changed."""

from collections.abc import Sequence
from functools import cache

from sqlalchemy import text

from storefront.core.casing import to_camel_case
from storefront.core.db.database import Statement, compile_statement
from storefront.core.db.pipeline import QueuedStatement
from storefront.models.row_keys import build_key_parameters, list_keys
from storefront.models.rows import ProductRow
from storefront.models.variant_summary import SETTABLE_COLUMNS, SUMMARIZE_PRODUCTS_SQL
from storefront.queries.projection import PRODUCT_COLUMNS
from storefront.writes.transaction import UnitOfWork


async def summarize_products(unit: UnitOfWork, locked_products: Sequence[ProductRow]) -> dict[str, ProductRow]:
    """Write the summaries of these products of one store, whose variants have changed. Returns their rows by id, as of now."""
    written = enqueue_summaries(unit, locked_products)
    await unit.connection.flush()
    return {product.id: product for product in locked_products} | {row.id: row for row in written.rows}


def enqueue_summaries(unit: UnitOfWork, locked_products: Sequence[ProductRow]) -> QueuedStatement:
    """Write the summaries with the next statement that is sent. Its rows are the products whose summaries have changed."""
    return unit.enqueue(_update_summaries(), build_key_parameters(list_keys(locked_products)))


def list_changed_fields(old: ProductRow, new: ProductRow) -> list[str]:
    """The fields of the product that changed with its variants, as the log names them."""
    return [to_camel_case(name) for name in SETTABLE_COLUMNS if getattr(old, name) != getattr(new, name)]


@cache
def _update_summaries() -> Statement:
    columns = ", ".join(f"products.{column.name}" for column in PRODUCT_COLUMNS)
    return compile_statement(text(f"{SUMMARIZE_PRODUCTS_SQL} RETURNING {columns}"))
