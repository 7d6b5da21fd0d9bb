"""A product as rows of Shopify's CSV, which read to the same product again: what the columns cannot say stands in one of ours."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from itertools import zip_longest
from typing import Any

from storefront.imports import lossless_cell
from storefront.imports.csv_columns import COLUMNS, OPTIONS, Layout, Record
from storefront.imports.product_parser import Assembly
from storefront.imports.row_types import Mark, ProductRow, Rejection, VariantRow
from storefront.imports.shopify.csv_file import MAX_RECORD_LINES, fits

# As Shopify has written them since ever, and still reads them. Ours is the last: without it the file is one of Shopify's.
HEADER = (
    *("Handle", "Title", "Body (HTML)", "Type", "Tags", "Published"),
    *(f"Option{n} {part}" for n in OPTIONS for part in ("Name", "Value")),
    *("Variant SKU", "Variant Inventory Tracker", "Variant Inventory Qty", "Variant Inventory Policy"),
    *("Variant Fulfillment Service", "Variant Price", "Variant Compare At Price", "Variant Requires Shipping"),
    *("Variant Taxable", "Image Src", "Image Position", "SEO Title", "SEO Description", "Status"),
)
STATUSES = {"active": "active", "inactive": "draft", "archived": "archived"}
# What Shopify wants to know of a variant and we do not: as it would be at a new one.
USUAL = {
    "Variant Inventory Policy": "deny",
    "Variant Fulfillment Service": "manual",
    "Variant Requires Shipping": "true",
    "Variant Taxable": "true",
}
DEFAULT = {"Option1 Name": "Title", "Option1 Value": "Default Title"}
# The option of variants whose attributes are no options that Shopify could have.
MADE_UP = "Variant"

_OURS = Layout("", 0, {column: column for column in COLUMNS})
_VARIANT = tuple(field.name for field in fields(VariantRow) if field.name != "line")
# What a cell of ours may say of a product. The rest always comes back.
_PRODUCT = (
    *("title", "description", "price", "compare_at_price", "images", "category", "tags"),
    *("inventory", "track_inventory", "seo_title", "seo_description"),
)

Cells = dict[str, str]


class Unwritable(Exception):
    """A product that would not come back as it is. The message names the field."""


class Writer:
    """Rows of products as text. With `quotes`, spreadsheets take no cell for a formula."""

    def __init__(self, *, quotes: bool = True) -> None:
        self._names = (*HEADER, lossless_cell.QUOTED if quotes else lossless_cell.PLAIN)
        self._quotes = quotes

    def header(self) -> str:
        """The first line."""
        return _text([self._names])

    def product(self, product: ProductRow) -> str:
        """The lines of a product; raises Unwritable."""
        quoted = lossless_cell.quoted if self._quotes else str
        rows = [[quoted(row.get(name, "")) for name in self._names] for row in _renamed(rows_of(product), self._names[-1])]
        text = _text(rows)
        # What is shorter is within all of the limits.
        if len(text) > MAX_RECORD_LINES and not all(fits(_text([row])) for row in rows):
            raise Unwritable("description: has more text, lines or commas than a row of a file may have")
        return text


def _renamed(rows: Iterable[Cells], ours: str) -> Iterable[Cells]:
    return ({(ours if name == lossless_cell.QUOTED else name): cell for name, cell in row.items()} for row in rows)


def _text(rows: Iterable[Sequence[str]]) -> str:
    file = io.StringIO(newline="")
    csv.writer(file).writerows(rows)
    return file.getvalue()


def rows_of(product: ProductRow) -> list[Cells]:
    """The cells of its rows by column. They were read again, and were the same product."""
    differing = "handle"
    for options in _ways(product):
        rows = _plain(product, options)
        if (told := _read(rows)) is None or len(told.variants) not in (len(product.variants), 0):
            continue
        missing = [_missing(variant, told, n) for n, variant in enumerate(product.variants)]
        # What is said of the variants says something of their product: that comes after it.
        if (told := _read(_tell(rows, {}, missing))) is None:
            continue
        again = _read(_tell(rows, _of_product(product, told), missing))
        differing = _differing(again, product) if again else differing
        if again and not differing:
            return rows
    raise Unwritable(f"{differing}: would not come back from a file as it is")


def _ways(product: ProductRow) -> list[list[Cells]]:
    """The options of the variants as cells: as they are where Shopify could have them, else made up."""
    if not product.variants:
        return [[DEFAULT]]
    names = list(product.variants[0].attributes)
    if not names:
        return [[DEFAULT], _made_up(product)]
    regular = len(names) <= len(OPTIONS) and all([*variant.attributes] == names for variant in product.variants)
    return [*([[_options(variant.attributes) for variant in product.variants]] if regular else []), _made_up(product)]


def _options(attributes: Mapping[str, str]) -> Cells:
    cells: Cells = {}
    for n, (name, value) in enumerate(attributes.items(), 1):
        cells |= {f"Option{n} Name": name, f"Option{n} Value": value}
    return cells


def _made_up(product: ProductRow) -> list[Cells]:
    return [_options({MADE_UP: f"{n} {variant.name}"[:255]}) for n, variant in enumerate(product.variants, 1)]


def _plain(product: ProductRow, options: Sequence[Cells]) -> list[Cells]:
    """The rows as Shopify has them."""
    # Of a product without variants Shopify's one variant has the price and the stock.
    own = VariantRow(0, "", product.price, product.compare_at_price, {}, product.inventory, None)
    own = own if product.track_inventory else replace(own, inventory=None)
    variants = zip(product.variants or [own], options, strict=False)
    rows = [
        {"Handle": product.handle, **(_variant(*variant) if variant else {}), **(_image(n, url) if url else {})}
        for n, (variant, url) in enumerate(zip_longest(variants, product.images), 1)
    ]
    for row in rows[1:]:
        # The names of the options stand on the first row alone.
        for n in OPTIONS:
            row.pop(f"Option{n} Name", None)
    rows[0] |= _product(product)
    return rows


def _product(product: ProductRow) -> Cells:
    return {
        "Title": product.title,
        "Body (HTML)": product.description or "",
        "Type": product.category or "",
        "Tags": ", ".join(product.tags),
        "Published": str(product.status == "active").lower(),
        "SEO Title": product.seo_title or "",
        "SEO Description": product.seo_description or "",
        "Status": STATUSES[product.status],
    }


def _variant(variant: VariantRow, options: Cells) -> Cells:
    counted = variant.inventory is not None
    return {
        **options,
        **USUAL,
        "Variant SKU": variant.sku or "",
        "Variant Inventory Tracker": "shopify" if counted else "",
        "Variant Inventory Qty": str(variant.inventory) if counted else "",
        "Variant Price": str(variant.price),
        "Variant Compare At Price": "" if variant.compare_at_price is None else str(variant.compare_at_price),
    }


def _image(position: int, url: str) -> Cells:
    return {"Image Src": url, "Image Position": str(position)}


# ------------------------------------------------------------------------------------------ what is missing


def _tell(rows: list[Cells], of_product: Mapping[str, Any], of_variants: Sequence[Mapping[str, Any] | None]) -> list[Cells]:
    """Write what the other columns do not say into our own."""
    for n, row in enumerate(rows):
        of_variant = of_variants[n] if n < len(of_variants) else None
        row[lossless_cell.QUOTED] = lossless_cell.write(of_product if n == 0 else {}, of_variant)
    return rows


def _of_product(product: ProductRow, told: ProductRow) -> dict[str, Any]:
    return {name: getattr(product, name) for name in _PRODUCT if getattr(product, name) != getattr(told, name)}


def _missing(variant: VariantRow, told: ProductRow, n: int) -> dict[str, Any] | None:
    """What the row does not say of its variant; None: nothing is missing."""
    if n < len(told.variants):
        return _different(variant, told.variants[n]) or None
    # A variant without options is read as none at all, unless something is said of it.
    return _different(variant, replace(variant, name="Default", attributes={}, is_available=True))


def _different(variant: VariantRow, found: VariantRow) -> dict[str, Any]:
    return {name: getattr(variant, name) for name in _VARIANT if getattr(variant, name) != getattr(found, name)}


def _read(rows: Iterable[Cells]) -> ProductRow | None:
    """The product that the rows are read as, where all of them are."""
    assembly = Assembly(_OURS)
    items = [item for n, row in enumerate(rows) for item in assembly.take(_record(n, row))] + [*assembly.finish()]
    found = [item for item in items if not isinstance(item, Mark)]
    return found[0] if len(found) == 1 and not isinstance(found[0], Rejection) else None


def _record(n: int, row: Cells) -> Record:
    return Record(n, {name.lower(): cell.strip() for name, cell in row.items() if cell})


def _differing(one: ProductRow, other: ProductRow) -> str:
    """The first field in which they differ."""
    if [_facts(variant) for variant in one.variants] != [_facts(variant) for variant in other.variants]:
        return "variants"
    names = ("handle", "status", *_PRODUCT)
    return next((name for name in names if getattr(one, name) != getattr(other, name)), "")


def _facts(variant: VariantRow) -> tuple[Any, ...]:
    return tuple(getattr(variant, name) for name in _VARIANT)
