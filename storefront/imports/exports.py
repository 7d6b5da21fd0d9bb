"""Export of the products of a store as Shopify CSV or JSON Lines, streamed in pages (keyset pagination). Independent of jobs."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import Enum
from functools import cache
from typing import Any, Protocol

from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import UUID

from storefront.core.cooperative import TimeSlice, run_in_thread_if_long
from storefront.core.db.database import Database, Row, Statement, compile_statement
from storefront.imports.csv_columns import AMOUNT_FIELD_NAMES, PRODUCT_FIELD_NAMES, VARIANT_FIELD_NAMES
from storefront.imports.json_lines import ProductJsonWriter
from storefront.imports.product_writer import MAX_ROW_ERRORS
from storefront.imports.row_types import ProductRow, RowError, UnwritableProductError, VariantRow
from storefront.imports.shopify.rows import ProductCsvWriter
from storefront.models import PRODUCT_FIELDS
from storefront.models.writable_fields import Html, ItemList, Text, TextMap
from storefront.queries.images import parse_image_id

# The size of a page: so many products, or fewer if their text exceeds so many bytes, with an estimate for each variant.
MAX_PAGE_PRODUCTS, MAX_PAGE_BYTES, ESTIMATED_VARIANT_BYTES = 100, 1_000_000, 300
# Columns without a field of an exported file: with the others they are within the limit of an imported one.
MAX_KEPT_COLUMNS = 900


class ExportFormat(Enum):
    """The format of an exported file."""

    SHOPIFY_CSV = "shopify_csv"
    JSON_LINES = "json_lines"


class ProductWriter(Protocol):
    """Writes products as text."""

    def render_header(self) -> str:
        """What a file begins with."""

    def render_product(self, product: ProductRow, /) -> str:
        """The lines of a product. Raises UnwritableProductError."""


@dataclass(slots=True)
class ExportSummary:
    """Progress of an export: products so far, and rejected ones. `issues` has the first ones that the format cannot represent."""

    products: int = 0
    rejected: int = 0
    issues: list[RowError] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ExportPoint:
    """Where an export is: the last product, and the columns without a field of its file."""

    kept_columns: Sequence[str]
    created_at: str | None = None
    id: str | None = None

    def create_writer(self, export_format: ExportFormat, *, quote_formulas: bool) -> ProductWriter:
        """The writer of the file."""
        if export_format is ExportFormat.JSON_LINES:
            return ProductJsonWriter()
        return ProductCsvWriter(quote_formulas=quote_formulas, kept_columns=self.kept_columns)


@dataclass(frozen=True, slots=True)
class ExportedPage:
    """The text of some products, and where the export is after them."""

    content: bytes
    point: ExportPoint


async def count_products(database: Database, config_id: str) -> int:
    """The number of products to export."""
    [(total,)] = await database.fetch(_count_products_statement(), {"config_id": config_id})
    return int(total)


async def export_products(
    database: Database,
    config_id: str,
    *,
    export_format: ExportFormat = ExportFormat.SHOPIFY_CSV,
    quote_formulas: bool = True,
    summary: ExportSummary | None = None,
) -> AsyncIterator[bytes]:
    """Stream the file in chunks of UTF-8: products by creation time, each as of when its page is read.

    `quote_formulas` prevents CSV injection: spreadsheets read no cell as a formula. An import reads the same from any file.
    `summary` is updated with each product.
    """
    start = await start_export(database, config_id, export_format)
    writer = start.create_writer(export_format, quote_formulas=quote_formulas)
    yield writer.render_header().encode()
    async for page in iterate_pages(database, config_id, writer, start, summary or ExportSummary()):
        yield page.content


async def start_export(database: Database, config_id: str, export_format: ExportFormat) -> ExportPoint:
    """Where an export begins."""
    is_csv = export_format is ExportFormat.SHOPIFY_CSV
    return ExportPoint(await _list_kept_columns(database, config_id) if is_csv else ())


async def iterate_pages(
    database: Database, config_id: str, writer: ProductWriter, start: ExportPoint, summary: ExportSummary
) -> AsyncGenerator[ExportedPage, None]:
    """The pages after a point. `summary` is updated with each product."""
    time_slice, point = TimeSlice(), start
    while rows := await database.fetch(
        _select_page_statement(), {"config_id": config_id, "created_at": point.created_at, "id": point.id}
    ):
        lines = []
        for row in rows:
            lines.append(await run_in_thread_if_long(len(row.variants), _render_product, writer, row, summary))
            await time_slice.yield_if_expired()
        point = replace(point, created_at=rows[-1].created_at, id=rows[-1].id)
        yield ExportedPage("".join(lines).encode(), point)


def _render_product(writer: ProductWriter, row: Row, summary: ExportSummary) -> str:
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
    alts = values["image_alts"] | {
        url: row.hosted_alts[id_] for url in row.images if (id_ := parse_image_id(url)) in (row.hosted_alts or {})
    }
    values["image_alts"] = {url: alts[url] for url in row.images if url in alts}
    option_names = [option["name"] for option in row.options]
    variants = [_to_variant_row(variant, option_names) for variant in row.variants]
    options = [
        {"name": option["name"], "values": [{"value": each["value"], "swatch": each["swatch"]} for each in option["values"]]}
        for option in row.options
    ]
    return ProductRow(handle=row.handle, line=0, row_count=0, is_complete=True, variants=variants, options=options, **values)


def _to_variant_row(variant: dict[str, Any], option_names: Sequence[str]) -> VariantRow:
    values = {name: _parse_value(name, variant[name]) for name in VARIANT_FIELD_NAMES}
    # The columns of options are in the order of the product.
    attributes = values.pop("attributes")
    ordered = {name: attributes[name] for name in option_names if name in attributes}
    return VariantRow(line=0, attributes=ordered | attributes, kept_cells=variant["kept_cells"], **values)


def _parse_value(name: str, value: Any) -> Any:
    return Decimal(value) if name in AMOUNT_FIELD_NAMES and value is not None else value


# Amounts as text: JSON numbers would be parsed as floats.
_VARIANT_VALUES_SQL = {
    name: f"variant.{name}{'::text' if name in AMOUNT_FIELD_NAMES else ''}" for name in VARIANT_FIELD_NAMES
} | {"image": "CASE WHEN product.images ? variant.image THEN variant.image END"}
_VARIANT_VALUES_SQL["kept_cells"] = "variant.kept_cells"
_VARIANT_JSON_SQL = ", ".join(f"'{name}', {value}" for name, value in _VARIANT_VALUES_SQL.items())
# The texts and lists, which may be long.
_PRODUCT_BYTES_SQL = " + ".join(
    f"octet_length(coalesce(CAST({field.name} AS text), ''))"
    for field in PRODUCT_FIELDS
    if isinstance(field.value_type, Text | Html | ItemList | TextMap)
)
_PAGE_SQL = f"""
SELECT product.id, product.created_at, product.handle, product.options,
  {", ".join(f"product.{name}" for name in PRODUCT_FIELD_NAMES)}, (
  SELECT coalesce(jsonb_agg(jsonb_build_object({_VARIANT_JSON_SQL}) ORDER BY variant.position, variant.id), '[]')
  FROM product_variants AS variant WHERE variant.config_id = :config_id AND variant.product_id = product.id
) AS variants, (
  SELECT jsonb_object_agg(image.id, image.alt) FROM images AS image
  WHERE image.config_id = :config_id AND image.product_id = product.id AND image.alt IS NOT NULL
) AS hosted_alts
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


async def _list_kept_columns(database: Database, config_id: str) -> list[str]:
    """The columns without a field that variants of the store have cells of."""
    rows = await database.fetch(_select_kept_columns_statement(), {"config_id": config_id})
    return [row.name for row in rows]


@cache
def _select_kept_columns_statement() -> Statement:
    sql = text(f"""
SELECT DISTINCT column_name.name FROM product_variants, jsonb_object_keys(kept_cells) AS column_name (name)
WHERE config_id = :config_id AND kept_cells <> '{{}}' ORDER BY 1 LIMIT {MAX_KEPT_COLUMNS}
""")
    return compile_statement(sql.bindparams(bindparam("config_id", type_=UUID(as_uuid=False))))


@cache
def _count_products_statement() -> Statement:
    sql = text("SELECT count(*) FROM products WHERE config_id = :config_id")
    return compile_statement(sql.bindparams(bindparam("config_id", type_=UUID(as_uuid=False))))
