"""A store's catalogue as Shopify's CSV, a page of products at a time. Knows no job."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from typing import Any

from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import UUID

from storefront.core.cooperative import Turns, in_thread_if_long
from storefront.core.db.database import Database, Row, Statement, compiled
from storefront.imports.diff import FACTS, VARIANT_FACTS
from storefront.imports.product_writer import MOST_TOLD
from storefront.imports.row_types import ProductRow, Rejection, VariantRow
from storefront.imports.shopify.rows import Unwritable, Writer

# Products that are read at a time; fewer where they have more text together, counted in bytes and a variant as so many.
PAGE, MAX_PAGE_BYTES, VARIANT_BYTES = 100, 1_000_000, 300
NOTHING: frozenset[str] = frozenset()


@dataclass(slots=True)
class ExportSummary:
    """How far an export has come: products, and of them those that no file can tell. Of these the first are in `issues`."""

    products: int = 0
    rejected: int = 0
    issues: list[Rejection] = field(default_factory=list)


async def count(database: Database, config_id: str) -> int:
    """How many products there are to export."""
    [(found,)] = await database.fetch(_count(), {"config_id": config_id})
    return int(found)


async def export_products(
    database: Database,
    config_id: str,
    *,
    quotes: bool = True,
    summary: ExportSummary | None = None,
) -> AsyncIterator[bytes]:
    """The file in parts: the products in the order in which they were made, each as it is when it comes to it.

    With `quotes` spreadsheets take no cell for a formula; read here again, the file says the same either way. `summary` says at
    any moment how far it has come.
    """
    writer, turns = Writer(quotes=quotes), Turns()
    summary = summary or ExportSummary()
    yield writer.header().encode()
    after: dict[str, Any] = {"created_at": None, "id": None}
    while rows := await database.fetch(_page(), {"config_id": config_id, **after}):
        lines = []
        for row in rows:
            lines.append(await in_thread_if_long(len(row.variants), _written, writer, row, summary))
            await turns.over()
        after = {"created_at": rows[-1].created_at, "id": rows[-1].id}
        yield "".join(lines).encode()


def _written(writer: Writer, row: Row, summary: ExportSummary) -> str:
    summary.products += 1
    try:
        return writer.product(_product(row))
    except Unwritable as error:
        field_, _, problem = str(error).partition(": ")
        summary.rejected += 1
        if len(summary.issues) < MOST_TOLD:
            summary.issues.append(Rejection("", 0, problem, row.handle, field_))
        return ""


def _product(row: Row) -> ProductRow:
    facts = {name: _value(name, getattr(row, name)) for name in FACTS}
    variants = [_variant(variant) for variant in row.variants]
    return ProductRow(handle=row.handle, line=0, rows=0, complete=True, given=NOTHING, variants=variants, **facts)


def _variant(variant: dict[str, Any]) -> VariantRow:
    return VariantRow(line=0, **{name: _value(name, variant[name]) for name in VARIANT_FACTS})


def _value(name: str, value: Any) -> Any:
    return Decimal(value) if name in ("price", "compare_at_price") and value is not None else value


# Amounts as text: as numbers of JSON they would be read as floats.
_PARTS = ", ".join(f"'{name}', {f'variant.{name}::text' if 'price' in name else f'variant.{name}'}" for name in VARIANT_FACTS)
_PAGE = f"""
SELECT product.id, product.created_at, product.handle, {", ".join(f"product.{name}" for name in FACTS)}, (
  SELECT coalesce(jsonb_agg(jsonb_build_object({_PARTS}) ORDER BY variant.created_at, variant.id), '[]')
  FROM product_variants AS variant WHERE variant.product_id = product.id
) AS variants
FROM (
  SELECT *, sum(weight) OVER (ORDER BY created_at, id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS weight_before FROM (
    SELECT *, {VARIANT_BYTES} * variants_total + octet_length(coalesce(description, '')) + octet_length(CAST(images AS text))
      + octet_length(coalesce(seo_description, '')) AS weight
    FROM products
    WHERE config_id = :config_id
      AND (CAST(:id AS uuid) IS NULL OR (created_at, id) > (CAST(:created_at AS timestamptz), CAST(:id AS uuid)))
    ORDER BY created_at, id LIMIT {PAGE}
  ) AS following
) AS product
WHERE coalesce(weight_before, 0) < {MAX_PAGE_BYTES}
ORDER BY created_at, id
"""


@cache
def _page() -> Statement:
    # Planned anew each time: a plan for any place would begin at the beginning.
    return compiled(text(_PAGE).bindparams(bindparam("config_id", type_=UUID(as_uuid=False))), varies=True)


@cache
def _count() -> Statement:
    found = text("SELECT count(*) FROM products WHERE config_id = :config_id")
    return compiled(found.bindparams(bindparam("config_id", type_=UUID(as_uuid=False))))
