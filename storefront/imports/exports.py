"""Export of the products of a store as Shopify CSV, streamed in pages (keyset pagination). Independent of jobs."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from typing import Any

from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import UUID

from storefront.core.cooperative import TimeSlice, run_in_thread_if_long
from storefront.core.db.database import Database, Row, Statement, compile_statement
from storefront.imports.csv_columns import AMOUNT_FIELD_NAMES, PRODUCT_FIELD_NAMES, VARIANT_FIELD_NAMES
from storefront.imports.product_writer import MAX_ROW_ERRORS
from storefront.imports.row_types import ProductRow, RowError, VariantRow
from storefront.imports.shopify.rows import ProductCsvWriter, UnwritableProductError
from storefront.models import PRODUCT_FIELDS
from storefront.models.writable_fields import ItemList, Text

# The size of a page: so many products, or fewer if their text exceeds so many bytes, with an estimate for each variant.
MAX_PAGE_PRODUCTS, MAX_PAGE_BYTES, ESTIMATED_VARIANT_BYTES = 100, 1_000_000, 300
NO_FIELDS: frozenset[str] = frozenset()


@dataclass(slots=True)
class ExportSummary:
    """Progress of an export: products so far, and rejected ones, which CSV cannot represent. `issues` has the first of these."""

    products: int = 0
    rejected: int = 0
    issues: list[RowError] = field(default_factory=list)


async def count_products(database: Database, config_id: str) -> int:
    """The number of products to export."""
    [(total,)] = await database.fetch(_count_products_statement(), {"config_id": config_id})
    return int(total)


async def export_products(
    database: Database,
    config_id: str,
    *,
    quote_formulas: bool = True,
    summary: ExportSummary | None = None,
) -> AsyncIterator[bytes]:
    """Stream the file in chunks of UTF-8: products by creation time, each as of when its page is read.

    `quote_formulas` prevents CSV injection: spreadsheets read no cell as a formula. An import reads the same from either file.
    `summary` is updated with each product.
    """
    writer, time_slice = ProductCsvWriter(quote_formulas=quote_formulas), TimeSlice()
    summary = summary or ExportSummary()
    yield writer.render_header().encode()
    last_key: dict[str, Any] = {"created_at": None, "id": None}
    while rows := await database.fetch(_select_page_statement(), {"config_id": config_id, **last_key}):
        lines = []
        for row in rows:
            lines.append(await run_in_thread_if_long(len(row.variants), _render_product, writer, row, summary))
            await time_slice.yield_if_expired()
        last_key = {"created_at": rows[-1].created_at, "id": rows[-1].id}
        yield "".join(lines).encode()


def _render_product(writer: ProductCsvWriter, row: Row, summary: ExportSummary) -> str:
    summary.products += 1
    try:
        return writer.render_product(_to_product_row(row))
    except UnwritableProductError as error:
        field_name, _, problem = str(error).partition(": ")
        summary.rejected += 1
        if len(summary.issues) < MAX_ROW_ERRORS:
            summary.issues.append(RowError("", 0, problem, row.handle, field_name))
        return ""


def _to_product_row(row: Row) -> ProductRow:
    values = {name: _parse_value(name, getattr(row, name)) for name in PRODUCT_FIELD_NAMES}
    option_names = [option["name"] for option in row.options]
    variants = [_to_variant_row(variant, option_names) for variant in row.variants]
    return ProductRow(
        handle=row.handle, line=0, row_count=0, is_complete=True, present_fields=NO_FIELDS, variants=variants, **values
    )


def _to_variant_row(variant: dict[str, Any], option_names: Sequence[str]) -> VariantRow:
    values = {name: _parse_value(name, variant[name]) for name in VARIANT_FIELD_NAMES}
    # The columns of options are in the order of the product.
    attributes = values.pop("attributes")
    ordered = {name: attributes[name] for name in option_names if name in attributes}
    return VariantRow(line=0, attributes=ordered | attributes, **values)


def _parse_value(name: str, value: Any) -> Any:
    return Decimal(value) if name in AMOUNT_FIELD_NAMES and value is not None else value


# Amounts as text: JSON numbers would be parsed as floats.
_VARIANT_VALUES_SQL = {
    name: f"variant.{name}{'::text' if name in AMOUNT_FIELD_NAMES else ''}" for name in VARIANT_FIELD_NAMES
} | {"image": "CASE WHEN product.images ? variant.image THEN variant.image END"}
_VARIANT_JSON_SQL = ", ".join(f"'{name}', {value}" for name, value in _VARIANT_VALUES_SQL.items())
# The texts and lists, which may be long.
_PRODUCT_BYTES_SQL = " + ".join(
    f"octet_length(coalesce(CAST({field.name} AS text), ''))"
    for field in PRODUCT_FIELDS
    if isinstance(field.value_type, Text | ItemList)
)
_PAGE_SQL = f"""
SELECT product.id, product.created_at, product.handle, product.options,
  {", ".join(f"product.{name}" for name in PRODUCT_FIELD_NAMES)}, (
  SELECT coalesce(jsonb_agg(jsonb_build_object({_VARIANT_JSON_SQL}) ORDER BY variant.position, variant.id), '[]')
  FROM product_variants AS variant WHERE variant.product_id = product.id
) AS variants
FROM (
  SELECT *, sum(weight) OVER (ORDER BY created_at, id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS weight_before FROM (
    SELECT *, {ESTIMATED_VARIANT_BYTES} * variants_total + {_PRODUCT_BYTES_SQL} AS weight
    FROM products
    WHERE config_id = :config_id
      AND (CAST(:id AS uuid) IS NULL OR (created_at, id) > (CAST(:created_at AS timestamptz), CAST(:id AS uuid)))
    ORDER BY created_at, id LIMIT {MAX_PAGE_PRODUCTS}
  ) AS following
) AS product
WHERE coalesce(weight_before, 0) < {MAX_PAGE_BYTES}
ORDER BY created_at, id
"""


@cache
def _select_page_statement() -> Statement:
    # A custom plan for each page: a generic plan would scan from the start of the index.
    return compile_statement(
        text(_PAGE_SQL).bindparams(bindparam("config_id", type_=UUID(as_uuid=False))), needs_custom_plan=True
    )


@cache
def _count_products_statement() -> Statement:
    sql = text("SELECT count(*) FROM products WHERE config_id = :config_id")
    return compile_statement(sql.bindparams(bindparam("config_id", type_=UUID(as_uuid=False))))
