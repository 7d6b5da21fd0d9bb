"""Writer of products as rows of Shopify's CSV. Each product round-trips: a lossless cell holds what the columns cannot."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from itertools import zip_longest
from typing import Any

from storefront.core.html import render_text_as_html
from storefront.imports import lossless_cell
from storefront.imports.csv_columns import (
    COLUMNS,
    GRAMS_BY_WEIGHT_UNIT,
    OPTION_NUMBERS,
    PRODUCT_FIELD_NAMES,
    PRODUCT_TEXT_COLUMNS,
    VARIANT_FIELD_NAMES,
    VARIANT_TEXT_COLUMNS,
    WEIGHT_UNIT_BY_CELL,
    CsvRecord,
    build_layout,
)
from storefront.imports.descriptions import sanitize_row
from storefront.imports.product_parser import ProductParser
from storefront.imports.row_types import Checkpoint, ProductRow, RowError, UnwritableProductError, VariantRow
from storefront.imports.shopify.csv_file import MAX_RECORD_LINES, is_record_within_limits
from storefront.models.product import DESCRIPTION_CSV_COLUMN, MAX_HTML_CHARACTERS

# Shopify's original column names, which it still reads. The lossless column is appended to them.
HEADER = (
    *("Handle", DESCRIPTION_CSV_COLUMN, *PRODUCT_TEXT_COLUMNS.values(), "Tags", "Published", "Gift Card"),
    *(f"Option{n} {part}" for n in OPTION_NUMBERS for part in ("Name", "Value")),
    *(*VARIANT_TEXT_COLUMNS.values(), "Variant Inventory Tracker", "Variant Inventory Qty", "Variant Inventory Policy"),
    *("Variant Fulfillment Service", "Variant Price", "Variant Compare At Price", "Variant Requires Shipping"),
    *(
        "Variant Taxable",
        "Image Src",
        "Image Position",
        "Image Alt Text",
        "Variant Image",
        "Variant Grams",
        "Variant Weight Unit",
        "Cost per item",
    ),
    "Status",
)
SHOPIFY_STATUSES = {"active": "active", "inactive": "draft", "archived": "archived"}
# A column that Shopify requires and that has no counterpart here: its default for a new variant.
DEFAULT_VARIANT_CELLS = {"Variant Fulfillment Service": "manual"}
WEIGHT_UNIT_CELLS = {unit: cell for cell, unit in WEIGHT_UNIT_BY_CELL.items()}
DEFAULT_OPTION_CELLS = {"Option1 Name": "Title", "Option1 Value": "Default Title"}
# The option of variants whose attributes Shopify's options cannot represent.
SYNTHETIC_OPTION_NAME = "Variant"

_DESCRIPTION_FIELDS = {"description", "description_html"}
_CANONICAL_LAYOUT = build_layout("", 0, {column: column for column in COLUMNS})

Cells = dict[str, str]


class ProductCsvWriter:
    """Writes products as CSV text. `quote_formulas` prevents CSV injection: spreadsheets read no cell as a formula."""

    def __init__(self, *, quote_formulas: bool = True, kept_columns: Sequence[str] = ()) -> None:
        """`kept_columns`: of cells without a field."""
        further_columns = [name for name in kept_columns if name not in HEADER]
        lossless_column = lossless_cell.QUOTED_COLUMN if quote_formulas else lossless_cell.UNQUOTED_COLUMN
        self._column_names = (*HEADER, *further_columns, lossless_column)
        self._quote_formulas = quote_formulas

    def render_header(self) -> str:
        """The header line."""
        return _render_csv([self._column_names])

    def render_product(self, product: ProductRow) -> str:
        """The lines of a product. Raises UnwritableProductError."""
        quote = lossless_cell.quote_formula if self._quote_formulas else str
        cells_by_row = build_rows(product)
        for cells, variant in zip(cells_by_row, product.variants, strict=False):
            cells.update(variant.kept_cells)
        rows = [
            [quote(row.get(name, "")) for name in self._column_names]
            for row in _rename_lossless_column(cells_by_row, self._column_names[-1])
        ]
        text = _render_csv(rows)
        # A shorter text is within all limits.
        if len(text) > MAX_RECORD_LINES and not all(is_record_within_limits(_render_csv([row])) for row in rows):
            raise UnwritableProductError("description: has more text, lines or commas than a row of a file may have")
        return text


def _rename_lossless_column(rows: Iterable[Cells], column_name: str) -> Iterable[Cells]:
    return ({(column_name if name == lossless_cell.QUOTED_COLUMN else name): cell for name, cell in row.items()} for row in rows)


def _render_csv(rows: Iterable[Sequence[str]]) -> str:
    file = io.StringIO(newline="")
    csv.writer(file).writerows(rows)
    return file.getvalue()


def build_rows(product: ProductRow) -> list[Cells]:
    """The rows of a product as cells by column, verified by parsing them again. Raises UnwritableProductError."""
    differing_field = "handle"
    for options in _list_option_cells(product):
        rows = _build_shopify_rows(product, options)
        if (parsed := _parse_rows(rows)) is None or len(parsed.variants) != len(product.variants):
            continue
        missing_fields = [
            _diff_variants(variant, parsed_variant) or None
            for variant, parsed_variant in zip(product.variants, parsed.variants, strict=True)
        ]
        reparsed = _parse_rows(_add_lossless_cells(rows, _find_missing_product_fields(product, parsed), missing_fields))
        differing_field = _find_differing_field(reparsed, product) if reparsed else differing_field
        if reparsed and not differing_field:
            return rows
    raise UnwritableProductError(f"{differing_field}: would not come back from a file as it is")


def _list_option_cells(product: ProductRow) -> list[list[Cells]]:
    """Candidates for the option cells of the variants: their attributes if Shopify can represent them, and synthetic options."""
    names = list(product.variants[0].attributes)
    has_regular_options = len(names) <= len(OPTION_NUMBERS) and all(
        [*variant.attributes] == names for variant in product.variants
    )
    candidates = [_build_synthetic_options(product)]
    if not has_regular_options:
        return candidates
    return [[_build_option_cells(variant.attributes) for variant in product.variants], *candidates]


def _build_option_cells(attributes: Mapping[str, str]) -> Cells:
    cells: Cells = {} if attributes else {**DEFAULT_OPTION_CELLS}
    for n, (name, value) in enumerate(attributes.items(), 1):
        cells |= {f"Option{n} Name": name, f"Option{n} Value": value}
    return cells


def _build_synthetic_options(product: ProductRow) -> list[Cells]:
    return [
        _build_option_cells({SYNTHETIC_OPTION_NAME: f"{n} {variant.name}"[:255]}) for n, variant in enumerate(product.variants, 1)
    ]


def _build_shopify_rows(product: ProductRow, options: Sequence[Cells]) -> list[Cells]:
    """The rows without lossless cells."""
    variants = zip(product.variants, options, strict=True)
    rows = [
        {
            "Handle": product.handle,
            **(_build_variant_cells(*variant) if variant else {}),
            **(_build_image_cells(n, url, product.image_alts.get(url, "")) if url else {}),
        }
        for n, (variant, url) in enumerate(zip_longest(variants, product.images), 1)
    ]
    for row in rows[1:]:
        # Option names are only on the first row.
        for n in OPTION_NUMBERS:
            row.pop(f"Option{n} Name", None)
    rows[0] |= _build_product_cells(product)
    return rows


def _build_product_cells(product: ProductRow) -> Cells:
    return {
        **_build_text_cells(product, PRODUCT_TEXT_COLUMNS),
        DESCRIPTION_CSV_COLUMN: _build_html_cell(product),
        "Tags": ", ".join(product.tags),
        "Gift Card": str(product.gift_card).lower(),
        "Published": str(product.status == "active").lower(),
        "Status": SHOPIFY_STATUSES[product.status],
    }


def _build_html_cell(product: ProductRow) -> str:
    """The description for shops. One without HTML has its text in the lossless cell, too."""
    return product.description_html or render_text_as_html(product.description or "", MAX_HTML_CHARACTERS) or ""


def _build_text_cells(row: ProductRow | VariantRow, columns: Mapping[str, str]) -> Cells:
    return {column: getattr(row, name) or "" for name, column in columns.items()}


def _build_variant_cells(variant: VariantRow, options: Cells) -> Cells:
    is_tracked = variant.inventory is not None
    return {
        **options,
        **DEFAULT_VARIANT_CELLS,
        **_build_text_cells(variant, VARIANT_TEXT_COLUMNS),
        "Variant Inventory Tracker": "shopify" if is_tracked else "",
        "Variant Inventory Qty": str(variant.inventory) if is_tracked else "",
        "Variant Price": str(variant.price),
        "Variant Compare At Price": "" if variant.compare_at_price is None else str(variant.compare_at_price),
        "Variant Inventory Policy": variant.inventory_policy,
        "Variant Taxable": str(variant.taxable).lower(),
        "Variant Requires Shipping": str(variant.requires_shipping).lower(),
        "Cost per item": "" if variant.cost is None else str(variant.cost),
        "Variant Image": variant.image or "",
        **(_build_weight_cells(variant.weight) if variant.weight else {}),
    }


def _build_weight_cells(weight: Mapping[str, str]) -> Cells:
    # Shopify reads whole grams.
    grams = round(Decimal(weight["value"]) * GRAMS_BY_WEIGHT_UNIT[weight["unit"]])
    return {"Variant Grams": str(grams), "Variant Weight Unit": WEIGHT_UNIT_CELLS[weight["unit"]]}


def _build_image_cells(position: int, url: str, alt: str) -> Cells:
    return {"Image Src": url, "Image Position": str(position), "Image Alt Text": alt}


# ------------------------------------------------------------------------------------------ missing fields


def _add_lossless_cells(
    rows: list[Cells], product_fields: Mapping[str, Any], variant_fields: Sequence[Mapping[str, Any] | None]
) -> list[Cells]:
    """Add the lossless cell to each row."""
    for n, row in enumerate(rows):
        fields_of_variant = variant_fields[n] if n < len(variant_fields) else None
        row[lossless_cell.QUOTED_COLUMN] = lossless_cell.render_cell(product_fields if n == 0 else {}, fields_of_variant)
    return rows


def _find_missing_product_fields(product: ProductRow, parsed: ProductRow) -> dict[str, Any]:
    names = {name for name in PRODUCT_FIELD_NAMES if getattr(product, name) != getattr(parsed, name)}
    # Both forms of the description or none: an import derives a missing one from the other.
    names |= _DESCRIPTION_FIELDS if names & _DESCRIPTION_FIELDS else set()
    return {name: getattr(product, name) for name in PRODUCT_FIELD_NAMES if name in names}


def _diff_variants(variant: VariantRow, parsed: VariantRow) -> dict[str, Any]:
    return {name: getattr(variant, name) for name in VARIANT_FIELD_NAMES if getattr(variant, name) != getattr(parsed, name)}


def _parse_rows(rows: Iterable[Cells]) -> ProductRow | None:
    """The product that the rows parse to; None if a row is rejected."""
    parser = ProductParser(_CANONICAL_LAYOUT)
    items = [item for n, row in enumerate(rows) for item in parser.add_row(_to_record(n, row))] + [*parser.finish()]
    results = [sanitize_row(item) if isinstance(item, ProductRow) else item for item in items if not isinstance(item, Checkpoint)]
    return results[0] if len(results) == 1 and not isinstance(results[0], RowError) else None


def _to_record(n: int, row: Cells) -> CsvRecord:
    return CsvRecord(n, {name.lower(): cell.strip() for name, cell in row.items() if cell})


def _find_differing_field(left: ProductRow, right: ProductRow) -> str:
    """The name of the first field that differs; empty if none does."""
    if [_variant_values(variant) for variant in left.variants] != [_variant_values(variant) for variant in right.variants]:
        return "variants"
    names = ("handle", *PRODUCT_FIELD_NAMES)
    return next((name for name in names if getattr(left, name) != getattr(right, name)), "")


def _variant_values(variant: VariantRow) -> tuple[Any, ...]:
    return tuple(getattr(variant, name) for name in VARIANT_FIELD_NAMES)
