"""Product files of other makers, recognised by their headers: what they mean, and that what they lack stays."""

import asyncio
import csv
import io
import os
from collections.abc import Mapping, Sequence
from decimal import Decimal
from tempfile import TemporaryFile
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storefront.core.db.database import Database
from storefront.core.handles import normalize_handle
from storefront.imports.catalogue_file import FileOptions, open_catalogue
from storefront.imports.files.opening import UnreadableFileError
from storefront.imports.formats import parse_mapping, recognize_format
from storefront.imports.jobs.checkpoints import SqliteHandleStore
from storefront.imports.product_writer import ImportSummary, import_products
from storefront.imports.row_types import Checkpoint, ProductRow, RowError, SourceItem
from tests.imports.test_partial_files import load_products
from tests.imports.test_product_writer import new_store

Rows = Sequence[Sequence[str]]

WOOCOMMERCE: Rows = [
    ["ID", "Type", "SKU", "GTIN, UPC, EAN, or ISBN", "Name", "Published", "Visibility in catalog", "Description", "Tax status",
     "In stock?", "Stock", "Backorders allowed?", "Weight (kg)", "Sale price", "Regular price", "Categories", "Tags", "Images",
     "Parent", "Attribute 1 name", "Attribute 1 value(s)", "Brands"],
    ["44", "variable", "tee", "", "V-Neck Tee", "1", "visible", "Soft\\nand blue", "taxable", "1", "", "0", "", "", "",
     "Clothing > Tees", "cotton, summer", "https://x.example/1.jpg, https://x.example/2.jpg", "", "Colour", "Red, Blue",
     "Weaver"],
    ["45", "simple", "mug", "4006381333931", "Mug", "0", "visible", "Holds tea", "none", "0", "", "0", "0.3", "4.50", "5.00",
     "Kitchen", "", "https://x.example/mug.jpg", "", "", "", ""],
    ["46", "variation", "tee-red", "", "V-Neck Tee - Red", "1", "visible", "", "taxable", "1", "7", "notify", "0.2", "", "20.00",
     "", "", "https://x.example/red.jpg", "tee", "Colour", "Red", ""],
    ["47", "variation", "tee-blue", "", "V-Neck Tee - Blue", "1", "visible", "", "taxable", "1", "", "0", "0.2", "18.00", "21.00",
     "", "", "", "id:44", "Colour", "Blue", ""],
]  # fmt: skip
MATRIXIFY: Rows = [
    ["Handle", "Command", "Title", "Body HTML", "Vendor", "Tags", "Tags Command", "Status", "Option1 Name", "Option1 Value",
     "Variant SKU", "Variant Price", "Variant Cost", "Variant Weight", "Variant Weight Unit", "Variant Inventory Qty",
     "Image Src"],
    ["v-neck-tee", "MERGE", "V-Neck Tee", "<p>Soft</p>", "Weaver", "cotton, summer", "REPLACE", "Active", "Colour", "Red",
     "tee-red", "20.00", "5", "0.2", "kg", "7", "https://x.example/1.jpg"],
    ["v-neck-tee", "MERGE", "V-Neck Tee", "<p>Soft</p>", "Weaver", "cotton, summer", "REPLACE", "Active", "Colour", "Blue",
     "tee-blue", "21.00", "", "1", "lb", "8", ""],
    ["mug", "NEW", "Mug", "", "", "", "", "Draft", "", "", "mug", "5.00", "", "", "", "", ""],
]  # fmt: skip
MEDUSA: Rows = [
    ["Product Handle", "Product Title", "Product Description", "Product Status", "Product Thumbnail", "Product Image 1 Url",
     "Product Tag 1", "Product Tag 2", "Variant SKU", "Variant Barcode", "Variant Price EUR", "Variant Price USD",
     "Variant Option 1 Name", "Variant Option 1 Value", "Variant Allow Backorder", "Variant Manage Inventory",
     "Variant Inventory Quantity"],
    ["v-neck-tee", "V-Neck Tee", "Soft", "published", "https://x.example/t.jpg", "https://x.example/1.jpg", "cotton", "summer",
     "tee-red", "", "20.00", "22.00", "Colour", "Red", "true", "true", "7"],
    ["v-neck-tee", "V-Neck Tee", "Soft", "published", "", "", "cotton", "summer", "tee-blue", "", "21.00", "23.00", "Colour",
     "Blue", "false", "false", ""],
    ["mug", "Mug", "", "draft", "", "", "", "", "mug", "4006381333931", "5.00", "6.00", "", "", "false", "true", "3"],
]  # fmt: skip
VENDURE: Rows = [
    ["name", "slug", "description", "assets", "facets", "optionGroups", "optionValues", "sku", "price", "stockOnHand",
     "trackInventory", "variantAssets"],
    ["V-Neck Tee", "v-neck-tee", "Soft", "https://x.example/1.jpg|tee.jpg", "season:summer|cotton", "Colour|Size", "Red|S",
     "tee-red", "20.00", "7", "true", ""],
    ["", "", "", "", "", "", "Blue|S", "tee-blue", "21.00", "8", "false", "https://x.example/blue.jpg"],
    ["Mug", "", "", "", "", "", "", "mug", "5.00", "3", "true", ""],
]  # fmt: skip
PLAIN: Rows = [
    ["sku", "name", "price", "stock", "brand", "image_url", "ean", "weight_kg", "rrp"],
    ["tee-red", "V-Neck Tee", "20.00", "7", "Weaver", "https://x.example/1.jpg", "4006381333931", "0.2", "25"],
    ["mug", "Mug", "5.00", "3", "", "", "", "", ""],
]
FILES = {"woocommerce": WOOCOMMERCE, "matrixify": MATRIXIFY, "medusa": MEDUSA, "vendure": VENDURE, "plain": PLAIN}


def render(rows: Rows) -> bytes:
    file = io.StringIO(newline="")
    csv.writer(file).writerows(rows)
    return file.getvalue().encode()


async def read(content: bytes, **options: Any) -> list[SourceItem]:
    with TemporaryFile() as file:
        file.write(content)
        limits = {"max_bytes": 10_000_000, "max_rows": 10_000}
        options = {"currency": "EUR", **options}
        async with open_catalogue(file, "shop.csv", FileOptions(**options), None, **limits) as catalogue:
            return [item async for item in catalogue.items]


async def import_file(database: Database, store: str, content: bytes, **options: Any) -> ImportSummary:
    with TemporaryFile() as file, SqliteHandleStore() as handles:
        file.write(content)
        limits = {"max_bytes": 10_000_000, "max_rows": 10_000}
        options = {"currency": "EUR", **options}
        async with open_catalogue(file, "shop.csv", FileOptions(**options), None, **limits) as catalogue:
            return await import_products(database, store, catalogue.items, checkpointer=handles)


def list_products(items: Sequence[SourceItem]) -> dict[str, ProductRow]:
    """The products by handle; fails if a row was rejected."""
    assert not [item for item in items if isinstance(item, RowError)]
    return {item.handle: item for item in items if isinstance(item, ProductRow)}


def get_reading(items: Sequence[SourceItem]) -> dict[str, Any]:
    assert isinstance(items[-1], Checkpoint)
    return dict(items[-1].resume_point)


@pytest.fixture
async def store(database: Database) -> str:
    return await new_store(database)


# --------------------------------------------------------------------------------------------- what they mean


@pytest.mark.parametrize("name", FILES)
async def test_format_is_recognised_and_read(name: str) -> None:
    items = await read(render(FILES[name]))
    assert get_reading(items)["file"]["format"] == name
    products = list_products(items)
    assert [*products] == ["v-neck-tee", "mug"]
    tee, mug = products.values()
    assert (tee.title, tee.status, mug.title) == ("V-Neck Tee", "active", "Mug")
    assert (tee.variants[0].sku, tee.variants[0].price, tee.variants[0].inventory) == ("tee-red", Decimal(20), 7)
    assert mug.variants[0].price in {Decimal(5), Decimal("4.5")}


async def test_woocommerce_file_means_what_its_shop_shows() -> None:
    items = await read(render(WOOCOMMERCE))
    tee, mug = list_products(items).values()
    red, blue = tee.variants
    assert (tee.category, tee.tags, tee.vendor, tee.raw_html) == (
        "Clothing > Tees",
        ["cotton", "summer"],
        "Weaver",
        "Soft\nand blue",
    )
    assert tee.images == [f"https://x.example/{name}.jpg" for name in ("1", "2", "red")]
    assert (red.attributes, red.inventory_policy, red.image, red.line) == (
        {"Colour": "Red"}, "continue", "https://x.example/red.jpg", 4
    )  # fmt: skip
    assert (blue.price, blue.compare_at_price, blue.inventory, blue.weight) == (
        Decimal(18), Decimal(21), None, {"value": "0.200", "unit": "kilogram"}
    )  # fmt: skip
    [only] = mug.variants
    assert (mug.status, only.price, only.compare_at_price, only.inventory, only.taxable, only.barcode) == (
        "inactive", Decimal("4.5"), Decimal(5), 0, False, "4006381333931"
    )  # fmt: skip
    # The SKU of the parent is not that of a variant.
    assert get_reading(items)["ignoredColumns"] == {"SKU": 1}


@pytest.mark.parametrize(("header", "cell"), [("Published", "yes"), ("Backorders allowed?", "maybe"), ("Weight (kg)", "heavy")])
async def test_unreadable_cell_of_a_format_names_row_and_column(header: str, cell: str) -> None:
    rows = [[*row] for row in WOOCOMMERCE]
    rows[2][rows[0].index(header)] = cell
    errors = [(item.line, item.column) for item in await read(render(rows)) if isinstance(item, RowError)]
    assert errors == [(3, header)]


@pytest.mark.parametrize(
    ("header", "cell"),
    [("Command", "DELETE"), ("Command", "REPLACE"), ("Tags Command", "MERGE"), ("Tags Command", "DELETE"), ("Status", "gone")],
)
async def test_matrixify_command_is_not_ignored(header: str, cell: str) -> None:
    rows = [[*row] for row in MATRIXIFY]
    rows[3][rows[0].index(header)] = cell
    errors = [(item.line, item.column) for item in await read(render(rows)) if isinstance(item, RowError)]
    assert errors == [(4, header)]


async def test_medusa_price_is_that_of_the_currency() -> None:
    for currency, price, other in (("EUR", 20, "Variant Price USD"), ("USD", 22, "Variant Price EUR")):
        items = await read(render(MEDUSA), currency=currency)
        tee, mug = list_products(items).values()
        assert (tee.variants[0].price, tee.tags) == (Decimal(price), ["cotton", "summer"])
        assert (tee.images, mug.status) == (["https://x.example/t.jpg", "https://x.example/1.jpg"], "inactive")
        assert get_reading(items)["ignoredColumns"] == {other: 3}
    items = await read(render(MEDUSA), currency="CHF")
    assert not any("price" in variant.stated_fields for item in list_products(items).values() for variant in item.variants)


async def test_vendure_rows_without_name_are_variants() -> None:
    items = await read(render(VENDURE))
    tee, mug = list_products(items).values()
    assert [variant.attributes for variant in tee.variants] == [{"Colour": "Red", "Size": "S"}, {"Colour": "Blue", "Size": "S"}]
    assert (tee.tags, tee.images) == (["season:summer", "cotton"], ["https://x.example/1.jpg", "https://x.example/blue.jpg"])
    assert [variant.inventory for variant in tee.variants] == [7, None]
    assert get_reading(items)["ignoredColumns"] == {"assets": 1}
    assert [variant.attributes for variant in mug.variants] == [{}]


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("sku,name,price", "plain"),
        ("name,price", "plain"),
        ("Title,Price", "plain"),
        ("name,description,price", "plain"),
        ("SKU,Name,Published,Tags", "plain"),
        ("SKU,Price", "shopify"),
        ("Title,Handle", "shopify"),
        ("name,slug,sku,price,stockOnHand", "vendure"),
        ("ID,SKU,Name,Published,Stock", "woocommerce"),
        ("Handle,Title,Body HTML,Command", "matrixify"),
        ("Product Handle,Product Title,Variant Price EUR", "medusa"),
    ],
)
def test_makers_are_recognised_by_headers_of_their_own(header: str, name: str) -> None:
    assert recognize_format(header.split(","))[0].name == name


async def test_plain_sheet_makes_handles_of_its_names() -> None:
    products = list_products(await read(render([["name", "price"], ["Blue mug", "5"], ["Кружка", "7"]])))
    assert [(handle, product.variants[0].price) for handle, product in products.items()] == [
        ("blue-mug", Decimal(5)),
        ("кружка", Decimal(7)),
    ]


async def test_woocommerce_names_are_html() -> None:
    header = ["Type", "SKU", "Name", "Published", "Regular price", "Categories", "Tags", "Parent", "Attribute 1 name",
              "Attribute 1 value(s)"]  # fmt: skip
    rows = [
        [
            "variable",
            "tee",
            "Salt &amp; Pepper",
            "1",
            "",
            "Home &amp; Garden > Mugs &#8211; big",
            "R&amp;B",
            "",
            "Size",
            "S\\, M",
        ],
        ["variation", "tee-s", "Salt &amp; Pepper - S, M", "1", "5", "", "", "tee", "Size", "S\\, M &amp; L"],
    ]
    [product] = list_products(await read(render([header, *rows]))).values()
    assert (product.handle, product.title, product.tags) == ("salt-pepper", "Salt & Pepper", ["R&B"])
    assert product.category == "Home & Garden > Mugs – big"
    assert product.variants[0].attributes == {"Size": "S, M & L"}


@pytest.mark.parametrize("kind", ["", " [string]", " [single_line_text_field]"])
async def test_matrixify_metafields_of_search_engines_are_fields(kind: str) -> None:
    header = ["Handle", "Title", "Command", "Variant Price", f"Metafield: title_tag{kind}", f"Metafield: description_tag{kind}"]
    [product] = list_products(await read(render([header, ["mug", "Mug", "NEW", "5", "Best mug", "Holds tea"]]))).values()
    assert (product.seo_title, product.seo_description) == ("Best mug", "Holds tea")
    assert not product.variants[0].kept_cells


async def test_mapping_names_columns() -> None:
    rows = [
        ["Artikelnummer", "Bezeichnung", "Preis", "Bestand", "Größe"],
        ["A1", "Tee", "19,90", "5", "S"],
        ["A2", "Tee", "20,90", "6", "M"],
    ]
    content = "\n".join(";".join(row) for row in rows).encode("cp1252")
    words = [("Artikelnummer", "SKU"), ("bezeichnung", "title"), ("Preis", "price"), ("Bestand", "stock"), ("GRÖSSE", "option")]
    with pytest.raises(UnreadableFileError, match="grösse"):
        await read(content, mapping=parse_mapping(words))
    mapping = parse_mapping([*words[:-1], ("Größe", "option")])
    [tee] = list_products(await read(content, mapping=mapping)).values()
    assert [(variant.sku, variant.attributes, variant.price, variant.inventory) for variant in tee.variants] == [
        ("A1", {"Größe": "S"}, Decimal("19.9"), 5),
        ("A2", {"Größe": "M"}, Decimal("20.9"), 6),
    ]
    # Errors name the column as the file does.
    [error] = [
        item
        for item in await read(content.replace(b"19,90", b"free"), mapping=parse_mapping([*words[:-1], ("Größe", "option")]))
        if isinstance(item, RowError)
    ][:1]
    assert (error.line, error.column) == (2, "Preis")


@pytest.mark.parametrize(
    ("pairs", "problem"),
    [([("Preis", "costs")], "“costs” is no column"), ([("Preis", "price"), ("PREIS", "sku")], "“PREIS” is mapped twice")],
)
def test_wrong_mapping_is_an_error(pairs: list[tuple[str, str]], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_mapping(pairs)


# ----------------------------------------------------------------------------------------- what they leave alone


@pytest.mark.parametrize("name", FILES)
async def test_second_import_changes_nothing(database: Database, store: str, name: str) -> None:
    first = await import_file(database, store, render(FILES[name]))
    assert (first.created, first.rejected) == (2, 0)
    again = await import_file(database, store, render(FILES[name]))
    assert (again.created, again.updated, again.unchanged, again.rejected) == (0, 0, 2, 0)


@pytest.mark.parametrize("handles", [["blue-mug", "blue_mug"], ["Blue Mug", "blue mug™", "blue-mug"], ["a", "A b", "a_b", "a"]])
async def test_further_spellings_of_a_handle_reject_their_rows(database: Database, store: str, handles: list[str]) -> None:
    rows = [["Handle", "Title", "Price"], *([handle, f"Mug {n}", "5"] for n, handle in enumerate(handles))]
    summary = await import_file(database, store, render(rows))
    first_lines = {normalize_handle(handle): line for line, handle in reversed([*enumerate(handles, 2)])}
    others = sorted({*range(2, len(handles) + 2)} - {*first_lines.values()})
    assert [(error.line, error.column) for error in summary.row_errors] == [(line, "Handle") for line in others]
    assert all(f"line {first_lines[normalize_handle(handles[error.line - 2])]}" in error.problem for error in summary.row_errors)
    assert summary.created == len(first_lines)


async def test_products_are_found_by_sku_before_their_title(database: Database, store: str) -> None:
    for name in ("woocommerce", "plain"):
        await import_file(database, store, render(FILES[name]))
        renamed = render(FILES[name]).replace(b"Mug", b"Big mug")
        summary = await import_file(database, store, renamed)
        assert (summary.created, summary.rejected) == (0, 0)
        products = await load_products(database, store)
        assert {*products} == {"v-neck-tee", "mug"}
        assert products["mug"]["title"] == "Big mug"


async def test_variations_alone_are_found_by_sku(database: Database, store: str) -> None:
    await import_file(database, store, render(WOOCOMMERCE))
    rows = [["SKU", "Type", "Parent", "Regular price"], ["tee-blue", "variation", "tee", "30"], ["mug", "simple", "", "9"]]
    summary = await import_file(database, store, render(rows))
    assert (summary.updated, summary.rejected) == (2, 0)
    products = await load_products(database, store)
    assert {variant["sku"]: variant["price"] for product in products.values() for variant in product["variants"].values()} == {
        "tee-red": "20.00", "tee-blue": "30.00", "mug": "9.00"
    }  # fmt: skip


async def test_parent_alone_keeps_its_variants(database: Database, store: str) -> None:
    await import_file(database, store, render(WOOCOMMERCE))
    before = await load_products(database, store)
    rows = [["ID", "Type", "Name", "Tags"], ["44", "variable", "V-Neck Tee", "new"], ["50", "variable", "Hat", "new"]]
    summary = await import_file(database, store, render(rows))
    assert (summary.updated, [error.line for error in summary.row_errors]) == (1, [3])
    after = await load_products(database, store)
    assert after["v-neck-tee"]["tags"] == ["new"]
    assert after["v-neck-tee"]["variants"] == before["v-neck-tee"]["variants"]


# The columns that identify rows, and the fields that each other column may change.
PRODUCT, VARIANT = "product", "variant"
IDENTIFYING = {
    "woocommerce": ["Type", "SKU", "Name", "Parent", "ID"],
    "matrixify": ["Handle", "Variant SKU"],
    "medusa": ["Product Handle", "Variant SKU"],
    "vendure": ["name", "slug", "sku"],
    "plain": ["sku"],
}
FIELDS_BY_HEADER: Mapping[str, set[str]] = {
    "GTIN, UPC, EAN, or ISBN": {"barcode"},
    "Name": {"title"},
    "name": {"title"},
    "Title": {"title"},
    "Product Title": {"title"},
    "Type": {"requires_shipping"},
    "Published": {"status"},
    "Visibility in catalog": set(),
    "Status": {"status"},
    "Product Status": {"status"},
    "Description": {"description", "description_html"},
    "description": {"description", "description_html"},
    "Product Description": {"description", "description_html"},
    "Body HTML": {"description", "description_html"},
    "Tax status": {"taxable"},
    "In stock?": set(),
    "Stock": {"inventory", "track_inventory"},
    "stock": {"inventory", "track_inventory"},
    "stockOnHand": {"inventory", "track_inventory"},
    "trackInventory": {"inventory", "track_inventory"},
    "Variant Inventory Qty": {"inventory", "track_inventory"},
    "Variant Inventory Quantity": {"inventory", "track_inventory"},
    "Variant Manage Inventory": {"inventory", "track_inventory"},
    "Variant Allow Backorder": {"inventory_policy"},
    "Backorders allowed?": {"inventory_policy"},
    "Weight (kg)": {"weight"},
    "weight_kg": {"weight"},
    "Variant Weight": {"weight"},
    "Regular price": {"price", "compare_at_price"},
    "Variant Price": {"price", "compare_at_price"},
    "Variant Price EUR": {"price", "compare_at_price"},
    "price": {"price", "compare_at_price"},
    "rrp": {"compare_at_price"},
    "Sale price": {"compare_at_price"},
    "Variant Cost": {"cost"},
    "Variant Barcode": {"barcode"},
    "ean": {"barcode"},
    "Categories": {"category"},
    "Tags": {"tags"},
    "facets": {"tags"},
    "Product Tag 1": {"tags"},
    "Product Tag 2": set(),
    "Images": {"images", "image"},
    "assets": {"images"},
    "variantAssets": {"images", "image"},
    "Image Src": {"images"},
    "image_url": {"images"},
    "Product Thumbnail": {"images"},
    "Product Image 1 Url": {"images"},
    "Brands": {"vendor"},
    "Vendor": {"vendor"},
    "brand": {"vendor"},
}
PRODUCT_FIELDS = (
    *("title", "description", "description_html", "vendor", "category", "tags", "status", "images", "image_alts"),
    *("track_inventory", "product_type", "seo_title", "gift_card", "options", "handle"),
)
VARIANT_FIELDS = (
    *("attributes", "name", "sku", "price", "compare_at_price", "inventory", "inventory_policy", "barcode", "weight", "taxable"),
    *("requires_shipping", "cost", "image", "is_available"),
)


@st.composite
def partial_files(draw: st.DrawFn) -> tuple[str, Rows]:
    """Some columns and rows of a file."""
    name = draw(st.sampled_from([*FILES]))
    header, *rows = FILES[name]
    headers = {*IDENTIFYING[name], *draw(st.sets(st.sampled_from(header)))}
    numbers = draw(st.sets(st.integers(0, len(rows) - 1), min_size=1))
    if name == "vendure":
        # Rows without a name are of the one above.
        numbers |= {number - 1 for number in numbers if not rows[number][0]}
    columns = [n for n, each in enumerate(header) if each in headers]
    return name, [[row[n] for n in columns] for row in [header, *(rows[number] for number in sorted(numbers))]]


async def check_partial_file(database: Database, store: str, name: str, rows: Rows) -> None:
    """Give all products of the store other values, and import some of a file: what it has no column for stays so."""
    await import_file(database, store, render(FILES[name]))
    changes = (
        "UPDATE products SET vendor = 'V', tags = '[\"t\"]', category = 'C', title = 'T', status = 'archived', description = 'D',"
    )
    changes += " description_html = 'D', seo_title = 'S', gift_card = true, product_type = 'P' WHERE config_id = %s"
    variant_changes = "UPDATE product_variants SET barcode = 'B', cost = 1, taxable = false, requires_shipping = false,"
    variant_changes += " inventory = 99, inventory_policy = 'continue' WHERE config_id = %s"
    async with database.transaction() as connection:
        for statement in (changes, variant_changes):
            await connection.raw.execute(statement, [store])
        await connection.commit()
    before = await load_products(database, store)
    await import_file(database, store, render(rows))
    after = await load_products(database, store)
    assert after.keys() == before.keys()
    allowed = {field for header in rows[0] for field in FIELDS_BY_HEADER.get(header, ())}
    for handle, product in before.items():
        for field in PRODUCT_FIELDS:
            assert field in allowed or after[handle][field] == product[field], (name, handle, field)
        assert after[handle]["variants"].keys() == product["variants"].keys()
        for id_, variant in product["variants"].items():
            for field in VARIANT_FIELDS:
                assert field in allowed or after[handle]["variants"][id_][field] == variant[field], (name, handle, field)


@pytest.mark.parametrize(
    "count", [40, pytest.param(int(os.environ.get("STOREFRONT_SOAK_EXAMPLES", "10000")), marks=pytest.mark.soak)]
)
async def test_partial_file_of_any_format_changes_only_its_columns(database: Database, store: str, count: int) -> None:
    loop = asyncio.get_running_loop()
    stores = {name: await new_store(database) for name in FILES}

    @settings(max_examples=count, deadline=None, suppress_health_check=[*HealthCheck], derandomize=count < 1_000)
    @given(partial_files())
    def check(drawn: tuple[str, Rows]) -> None:
        name, rows = drawn
        asyncio.run_coroutine_threadsafe(check_partial_file(database, stores[name], name, rows), loop).result()

    await asyncio.to_thread(check)
