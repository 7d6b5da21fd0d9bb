"""Exports round-trip through imports: property-based tests of CSV text, and tests through the database."""

import csv
import io
import sys
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any, assert_never

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, text, update

from storefront.core.db.database import Database, Statement, compile_statement
from storefront.imports import exports, lossless_cell
from storefront.imports.changes import ProductChange
from storefront.imports.csv_columns import PRODUCT_FIELD_NAMES, VARIANT_FIELD_NAMES
from storefront.imports.descriptions import sanitize_row
from storefront.imports.exports import ExportSummary, count_products, export_products
from storefront.imports.product_writer import import_products
from storefront.imports.row_types import Checkpoint, ProductRow, RowError, UnwritableProductError, VariantRow
from storefront.imports.shopify.csv_file import read_csv_products
from storefront.imports.shopify.rows import ProductCsvWriter
from storefront.models import PRODUCT_FIELDS, VARIANT_FIELDS, images, products, variants
from storefront.models.variant import fold_attributes
from storefront.models.variant_summary import SUMMARY_COLUMNS
from storefront.models.writable_fields import (
    MAX_INT32,
    Amount,
    Boolean,
    Choice,
    Html,
    Integer,
    ItemList,
    Slug,
    Text,
    TextMap,
    Url,
    ValueType,
    Weight,
    WritableField,
)
from storefront.writes.descriptions import sanitize_description_now
from tests.factories import make_image, make_product, make_store, make_variant
from tests.imports.catalogues import catalogue

# As commands store text: what Postgres accepts, without whitespace at either end.
LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
HARD = st.sampled_from(
    ["=1+1", "+1", "-1", "@x", "'=1", "''", "a,b", 'a"b', "a\nb", "a\r\nb", "a\rb", "ß", "🫖", "<p>&amp;</p>", "Default Title"]
)


HTML_PARTS = st.one_of(
    st.sampled_from(
        ["<p>", "</p>", "<b>", "<i>", "</b>", "<ul><li>", "<table><tr><td>", "</table>", "<br>", "<pre>", "=1+1", "'"]
    ),
    st.text(LETTERS, max_size=8),
)


def sanitize_parts(parts: Sequence[str]) -> str:
    return sanitize_description_now("".join(parts)).html


def texts(most: int = 12, least: int = 1) -> st.SearchStrategy[str]:
    whole = st.one_of(HARD, st.text(LETTERS, min_size=least, max_size=most))
    return whole.map(str.strip).filter(lambda text: len(text) >= least)


AMOUNTS = st.one_of(
    st.sampled_from([Decimal("0.00"), Decimal("99999999.99"), Decimal("0.01")]),
    # Of currencies with other digits than two.
    st.sampled_from([Decimal(999999999999999), Decimal("1.255"), Decimal("999999999999999.9999")]),
    st.integers(0, 9_999_999_999).map(lambda cents: Decimal(cents).scaleb(-2).quantize(Decimal("0.01"))),
)
URLS = st.sampled_from([f"https://x.example/{n}.jpg?a=1,b='2'" for n in range(9)])


def format_thousandths(number: int) -> str:
    return f"{Decimal(number).scaleb(-3):.3f}"


def values_of(value_type: ValueType) -> st.SearchStrategy[Any]:  # noqa: C901, PLR0911 - a case for each type of value
    """What a field of this type may hold. Most texts and lists are short."""
    match value_type:
        case Text():
            return texts(12 if value_type.max_characters < 2_000 else 60, value_type.min_characters)
        case Html():
            return st.lists(HTML_PARTS, min_size=1, max_size=8).map(sanitize_parts).filter(bool)
        case Slug():
            return st.from_regex(r"[a-z0-9]{1,9}(-[a-z0-9]{1,9}){0,3}", fullmatch=True)
        case Url():
            return URLS
        case Amount():
            return AMOUNTS
        case Integer():
            return st.integers(max(-5, value_type.minimum), MAX_INT32)
        case Boolean():
            return st.booleans()
        case Choice():
            return st.sampled_from(value_type.values)
        case ItemList():
            return st.lists(values_of(value_type.item), unique=True, max_size=6)
        case TextMap():
            return st.dictionaries(values_of(value_type.name), values_of(value_type.value), max_size=4)
        case Weight():
            values = st.sampled_from(["0.000", "0.001", "1.500", "250.000"]) | st.integers(0, 9_999_999_999).map(
                format_thousandths
            )
            return st.fixed_dictionaries({"value": values, "unit": st.sampled_from(value_type.units)})
    assert_never(value_type)


def rows_of(fields: Sequence[WritableField]) -> st.SearchStrategy[dict[str, Any]]:
    """A value for each of the fields."""
    columns = {
        field.name: st.none() | values_of(field.value_type) if field.is_nullable else values_of(field.value_type)
        for field in fields
    }
    return st.fixed_dictionaries(columns).map(drop_invalid_compare_at_price)


def drop_invalid_compare_at_price(row: dict[str, Any]) -> dict[str, Any]:
    compare_at_price = row.get("compare_at_price")
    is_invalid = compare_at_price is not None and compare_at_price < row["price"]
    return row | {"compare_at_price": None} if is_invalid else row


def drop_html_without_text(row: dict[str, Any]) -> dict[str, Any]:
    """Commands write the text with the HTML."""
    return row | {"description_html": None} if row["description"] is None else row


VARIANTS = rows_of(VARIANT_FIELDS).map(lambda row: VariantRow(line=0, **row))
PRODUCTS = st.builds(
    lambda row, parts: ProductRow(line=0, row_count=0, is_complete=True, variants=parts, **row),
    rows_of(PRODUCT_FIELDS).map(drop_html_without_text),
    st.lists(VARIANTS, min_size=1, max_size=4, unique_by=lambda variant: fold_attributes(variant.attributes)),
)


def without_position(product: ProductRow) -> ProductRow:
    """The product without its position in the file."""
    parts = [replace(variant, line=0) for variant in product.variants]
    return replace(product, line=0, row_count=0, variants=parts)


@pytest.mark.parametrize("quotes", [True, False])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(PRODUCTS, max_size=3, unique_by=lambda product: product.handle))
def test_any_products_round_trip(quotes: bool, catalogue: list[ProductRow]) -> None:
    writer = ProductCsvWriter(quote_formulas=quotes)
    file = writer.render_header() + "".join(map(writer.render_product, catalogue))
    found = [item for item in read_csv_products(io.BytesIO(file.encode()), "x") if not isinstance(item, Checkpoint)]
    rows = [sanitize_row(item) for item in found if isinstance(item, ProductRow)]
    assert [without_position(row) for row in rows if isinstance(row, ProductRow)] == catalogue
    assert not [item for item in found if isinstance(item, RowError)]


@given(st.text(LETTERS))
@example("'")
@example("''=1")
def test_formula_quoting_is_reversible(cell: str) -> None:
    assert lossless_cell.unquote_formula(lossless_cell.quote_formula(cell)) == cell
    assert not lossless_cell.quote_formula(cell).startswith(lossless_cell.FORMULA_PREFIXES)


def test_export_contains_no_formulas() -> None:
    variant = VariantRow(0, "=V", Decimal(1), None, {"=O": "+v", "@p": "-w"}, None, "=SKU")
    product = ProductRow(
        handle="a", line=0, row_count=0, is_complete=True,
        title="=T", description="@d", description_html="=h", vendor="=v", product_type="@t", gift_card=True, images=["https://x.example/=i"],
        image_alts={"https://x.example/=i": "=a"}, category="+c", tags=["-t"], track_inventory=False,
        seo_title="\uff1ds", seo_description="=d", status="active", variants=[variant],
    )  # fmt: skip
    rows = list(csv.reader(io.StringIO(ProductCsvWriter().render_product(product), newline="")))
    assert not [cell for row in rows for cell in row if cell.startswith(lossless_cell.FORMULA_PREFIXES)]
    assert "'=T" in rows[0]


def test_ordinary_product_needs_no_lossless_cell() -> None:
    # Stock below zero is stored as zero.
    for item in read_csv_products(io.BytesIO(catalogue(300).replace(",-1,", ",0,").replace(",-2,", ",0,").encode()), "x"):
        if isinstance(item, ProductRow):
            row = sanitize_row(item)
            assert isinstance(row, ProductRow)
            assert not [row for row in ProductCsvWriter().render_product(row).splitlines() if row.endswith('}"')]


def test_shopify_file_keeps_apostrophes() -> None:
    [item, _, _] = sorted(
        read_csv_products(io.BytesIO(b"Handle,Title,Price\na,'=x,1\n"), "x"), key=lambda one: not isinstance(one, ProductRow)
    )
    assert isinstance(item, ProductRow) and item.title == "'=x"


def test_unwritable_product_is_an_error() -> None:
    [item] = [one for one in read_csv_products(io.BytesIO(b"Handle,Title,Price\na,A,1\n"), "x") if isinstance(one, ProductRow)]
    for wrong in ({"handle": "a b"}, {"images": ["x", "x"] * 60 + ["y" * 2_000] * 60, "tags": [" "] * 3}):
        if wrong.get("handle"):
            with pytest.raises(UnwritableProductError, match="handle"):
                ProductCsvWriter().render_product(replace(item, **wrong))


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("{", "JSON"),
        ("[]", "JSON"),
        ('{"variant": {"price": "-1.00"}}', "variant.price"),
        ('{"variant": {"price": 1.5}}', "variant.price"),
        ('{"product": {"prices": "1.00"}}', "product.prices"),
        ('{"product": {"tags": ["\\u0000"]}}', "NUL"),
        ('{"product": {"handle": "x"}}', "handle"),
        ('{"variant": {"attributes": {"a": 1}}}', "variant.attributes"),
        ('{"variant": {"inventory": -3000000000}}', "variant.inventory"),
        ('{"variant": {"name": ""}}', "variant.name"),
        ('{"variant": {"weight": {"value": "1", "unit": "gram"}}}', "variant.weight.value"),
        ('{"variant": {"weight": {"value": "1.000", "unit": "stone"}}}', "variant.weight.unit"),
        ('{"variant": {"inventoryPolicy": "maybe"}}', "variant.inventoryPolicy"),
    ],
)
def test_edited_lossless_cell_is_validated(cell: str, words: str) -> None:
    row = '"' + cell.replace('"', '""') + '"'
    items = list(read_csv_products(io.BytesIO(f"Handle,Title,Price,Storefront\na,A,1,{row}\n".encode()), "x"))
    [rejection] = [item for item in items if isinstance(item, RowError)]
    assert rejection.column == "Storefront"
    assert words in rejection.problem


def read_products(*rows: Sequence[str]) -> list[ProductRow]:
    """The products of a file with these rows; fails if one is rejected."""
    file = io.StringIO(newline="")
    csv.writer(file).writerows(rows)
    found = [item for item in read_csv_products(io.BytesIO(file.getvalue().encode()), "x") if not isinstance(item, Checkpoint)]
    products = [item for item in found if isinstance(item, ProductRow)]
    assert products == found
    return products


def test_cell_of_earlier_release_is_read() -> None:
    cell = '{"product": {"price": "9.00", "compareAtPrice": null, "inventory": -3, "trackInventory": false}, "variant": {}}'
    [mug] = read_products(("Handle", "Title", "Variant Price", "Storefront"), ("mug", "Mug", "5", cell))
    [variant] = mug.variants
    assert (variant.price, variant.inventory, mug.track_inventory) == (Decimal(5), None, False)


def test_edited_price_drops_lower_compare_at_price() -> None:
    cell = '{"variant": {"compareAtPrice": "10.00"}}'
    rows = [("mug", "Mug", "10", cell), ("cup", "Cup", "12", cell)]
    mug, cup = read_products(("Handle", "Title", "Variant Price", "Storefront"), *rows)
    assert [row.variants[0].compare_at_price for row in (mug, cup)] == [Decimal(10), None]


# ------------------------------------------------------------------------------------ through the database


def stored_products() -> Statement:
    names = [products.c[name] for name in ("id", "handle", *PRODUCT_FIELD_NAMES)]
    return compile_statement(select(*names).order_by(products.c.config_id, products.c.handle))


def stored_variants() -> Statement:
    names = [variants.c[name] for name in ("product_id", *VARIANT_FIELD_NAMES)]
    return compile_statement(select(*names).order_by(variants.c.product_id, variants.c.created_at, variants.c.id))


async def load_contents(database: Database, config_id: str) -> list[Any]:
    """The products and variants of a store, without ids and timestamps."""
    [*rows] = await database.fetch(compile_statement(select(products).where(products.c.config_id == config_id)))
    parts: dict[str, list[Any]] = {row.id: [] for row in rows}
    for variant in await database.fetch(stored_variants()):
        if variant.product_id in parts:
            parts[variant.product_id].append(variant._asdict() | {"product_id": None})
    received = ("handle", *PRODUCT_FIELD_NAMES, *SUMMARY_COLUMNS)
    return sorted(
        ([{name: getattr(row, name) for name in received}, parts[row.id]] for row in rows), key=lambda one: one[0]["handle"]
    )


async def export_file(database: Database, config_id: str, **options: Any) -> bytes:
    return b"".join([part async for part in export_products(database, config_id, **options)])


async def import_file(database: Database, config_id: str, file: bytes) -> Any:
    return await import_products(database, config_id, read_csv_products(io.BytesIO(file), "x"))


async def test_store_round_trips_through_export(database: Database) -> None:
    first, second = await make_store(database), await make_store(database)
    summary = await import_file(database, first, catalogue(1_200).encode())
    assert summary.created > 400 and summary.rejected > 0
    odd = await make_product(
        database, first, handle="odd", tags=["a, b", 'c"d', "", "a, b"], images=["https://x.example/1", "https://x.example/2"],
        description="",
        track_inventory=False, category="\u2028", seo_title="'=x",
    )  # fmt: skip
    for n in range(3):
        await make_variant(database, odd, name="Twin", attributes=dict.fromkeys("abcd"[: n * 2], "1"), is_available=n > 0)
    plain = await make_product(database, first, handle="plain", price="7.00", compare_at_price="7.00", inventory=-3)
    weight = text("""'{"value": "0.001", "unit": "pound"}'::jsonb""")
    values = {"sku": "P-1", "barcode": "4006381333931", "weight": weight, "cost": text("0.10")}
    await database.fetch(compile_statement(update(variants).values(values).where(variants.c.product_id == plain)))
    for quotes in (True, False):
        received = ExportSummary()
        file = await export_file(database, first, quote_formulas=quotes, summary=received)
        assert received.products == await count_products(database, first) and not received.issues
        again = await import_file(database, first, file)
        assert (again.created, again.updated, again.rejected) == (0, 0, 0)
    await import_file(database, second, file)
    assert await load_contents(database, second) == await load_contents(database, first)
    assert await export_file(database, second, quote_formulas=False) == file


@pytest.mark.parametrize(
    ("code", "shown", "is_rounded"),
    [
        ("4006381333931", "4.00638E+12", True),
        ("4006381333931", "4,01E+12", True),
        ("4006381333931", "4E+12", True),
        ("0400638133393", "4.00638E+11", True),
        ("12E5", "1.20E+06", True),
        ("4006381333931", "4.00639E+12", False),
        ("4006381333931", "4.00638E+11", False),
        ("A-4006381", "4.01E+06", False),
        ("1E5", "1E5", False),
    ],
)
@pytest.mark.parametrize("name", ["sku", "barcode"])
async def test_code_that_a_spreadsheet_rounded_keeps_the_stored_one(
    database: Database, name: str, code: str, shown: str, is_rounded: bool
) -> None:
    store, column = await make_store(database), f"Variant {name.upper() if name == 'sku' else name.title()}"
    header = f"Handle,Title,Option1 Name,Option1 Value,Price,{column}\n"
    await import_file(database, store, f"{header}mug,Mug,Size,S,5,{code}\nmug,,,M,5,{code}1\n".encode())
    file = (await export_file(database, store)).replace(f",{code},".encode(), f',"{shown}",'.encode())
    assert shown.encode() in file
    summary = await import_file(database, store, file.replace(b",5.00,", b",6.00,"))
    reasons = [(error.line, error.reason) for error in summary.row_errors]
    problem = f"{column}: “{shown}” is the stored “{code}” as a spreadsheet has rounded it: format the column as text, and enter"
    assert [(line, reason[: len(problem)]) for line, reason in reasons] == ([(2, problem)] if is_rounded else [])
    [(_, stored)] = await load_contents(database, store)
    assert sorted(variant[name] for variant in stored) == sorted([code if is_rounded else shown, f"{code}1"])


async def test_alternative_texts_of_uploaded_images_round_trip(database: Database) -> None:
    store = await make_store(database)
    product = await make_product(database, config_id=store, handle="mug")
    image = await make_image(database, product, alt="A red mug")
    alts = compile_statement(select(images.c.alt, images.c.version).where(images.c.id == image))
    file = await export_file(database, store)
    assert b",A red mug," in file
    assert (await import_file(database, store, file)).unchanged == 1
    changed = list[ProductChange]()
    items = read_csv_products(io.BytesIO(file.replace(b"A red mug", b"A blue mug")), "x")
    assert (await import_products(database, store, items, on_changes=changed.extend)).updated == 1
    assert await database.fetch(alts) == [("A blue mug", 2)]
    assert [(change.field, change.old, change.new) for change in changed[0].changes] == [("imageAlts", "A red mug", "A blue mug")]
    [row] = await database.fetch(compile_statement(select(products.c.image_alts)))
    assert row.image_alts == {}


async def test_many_variants_and_images_round_trip(database: Database) -> None:
    first, second = await make_store(database), await make_store(database)
    product = await make_product(database, first, images=[f"https://x.example/{n}.jpg" for n in range(250)])
    for n in range(300):
        await make_variant(database, product, name=f"{n}", attributes={"Number": str(n)}, price=f"{n}.00")
    await import_file(database, second, await export_file(database, first))
    assert await load_contents(database, second) == await load_contents(database, first)


async def test_empty_store_exports_header_only(database: Database) -> None:
    store = await make_store(database)
    assert (await export_file(database, store)).count(b"\n") == 1


async def test_export_memory_is_bounded_by_page(database: Database) -> None:
    store = await make_store(database)
    await import_file(database, store, catalogue(600).encode())
    largest = max([sys.getsizeof(part) async for part in export_products(database, store)])
    assert largest < 200_000


@pytest.mark.parametrize("html", ["a\n" * 10_001, "," * 50_001])
async def test_product_too_large_for_row_is_rejected(database: Database, html: str) -> None:
    store = await make_store(database)
    await make_product(database, config_id=store, handle="long", description="a", description_html=html.strip())
    await make_product(database, config_id=store, handle="mug", description="a\n" * 9_000)
    summary = ExportSummary()
    file = b"".join([part async for part in export_products(database, store, summary=summary)])
    assert (summary.products, summary.rejected) == (2, 1)
    assert [(issue.handle, issue.column) for issue in summary.issues] == [("long", "description")]
    [mug] = [item for item in read_csv_products(io.BytesIO(file), "shop.csv") if not isinstance(item, Checkpoint)]
    assert isinstance(mug, ProductRow) and (mug.description or "").split() == ["a"] * 9_000


async def test_export_pages_are_bounded_by_text(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await make_store(database)
    for n in range(8):
        product = await make_product(database, config_id=store, handle=f"mug-{n}", description="tea " * 300 * n)
        for size in range(3):
            await make_variant(database, product_id=product, name=str(size), attributes={"Size": str(size)})

    async def parts() -> list[bytes]:
        exports._select_page_statement.cache_clear()
        return [part async for part in export_products(database, store)]

    whole = await parts()
    monkeypatch.setattr(exports, "_PAGE_SQL", exports._PAGE_SQL.replace(f"< {exports.MAX_PAGE_BYTES}", "< 2000"))
    cut = await parts()
    exports._select_page_statement.cache_clear()
    assert (len(whole), len(cut) > 4) == (2, True)
    assert b"".join(cut) == b"".join(whole)


async def test_issues_of_an_export_are_bounded(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "MAX_ROW_ERRORS", 2)
    store = await make_store(database)
    for n in range(4):
        await make_product(database, config_id=store, handle=f"mug-{n}", description="," * 50_001)
    summary = ExportSummary()
    assert len([part async for part in export_products(database, store, summary=summary)]) == 2
    assert (summary.rejected, len(summary.issues)) == (4, 2)
