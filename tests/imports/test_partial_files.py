"""Files that have some of the columns and rows of a catalogue: what they do not mention stays as it is."""

import asyncio
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import bindparam, select

from storefront.core.db.database import Database, compile_statement
from storefront.imports.changes import ProductChange
from storefront.imports.product_writer import ImportSummary, import_products
from storefront.imports.shopify.csv_file import read_csv_products
from storefront.models import products, variants
from storefront.models.variant import MAX_ATTRIBUTES
from tests.imports.catalogues import text
from tests.imports.test_product_writer import new_store

Row = Mapping[str, str]

# Three products: with two options, with one, and without any.
COLUMNS = {
    "Handle": ["tee", "tee", "tee", "cup", "cup", "hat"],
    "Title": ["Tee", "", "", "Cup", "", "Hat"],
    "Body (HTML)": ["<p>Soft</p>", "", "", "<p>Hard</p>", "", "<p>Warm</p>"],
    "Vendor": ["Weaver", "", "", "Potter", "", ""],
    "Type": ["Shirts", "", "", "", "", "Hats"],
    "Product Category": ["Clothing > Shirts", "", "", "Kitchen", "", ""],
    "Gift Card": ["false", "", "", "true", "", "false"],
    "Tags": ["red, new", "", "", "", "", "wool"],
    "Published": ["true", "", "", "false", "", "true"],
    "Status": ["active", "", "", "active", "", "archived"],
    "SEO Title": ["Tees", "", "", "", "", "Hats"],
    "SEO Description": ["All tees", "", "", "Cups", "", ""],
    "Option1 Name": ["Size", "", "", "Colour", "", "Title"],
    "Option1 Value": ["S", "M", "M", "Red", "Blue", "Default Title"],
    "Option2 Name": ["Fit", "", "", "", "", ""],
    "Option2 Value": ["Slim", "Slim", "Wide", "", "", ""],
    "Variant SKU": ["T-S", "T-M", "T-MW", "C-R", "C-B", "H-1"],
    "Variant Price": ["20.00", "25.00", "26.00", "5.00", "6.00", "12.00"],
    "Variant Compare At Price": ["30.00", "", "40.00", "", "7.00", "15.00"],
    "Variant Inventory Tracker": ["shopify", "shopify", "shopify", "", "", "shopify"],
    "Variant Inventory Qty": ["7", "8", "-3", "", "", "4"],
    "Variant Inventory Policy": ["deny", "deny", "continue", "deny", "continue", "deny"],
    "Variant Barcode": ["4006381333931", "", "", "12345670", "", "96385074"],
    "Variant Grams": ["200", "454", "907", "0", "350", "80"],
    "Variant Weight Unit": ["g", "lb", "lb", "g", "kg", "oz"],
    "Variant Taxable": ["true", "false", "true", "true", "true", "false"],
    "Variant Requires Shipping": ["true", "true", "true", "false", "true", "true"],
    "Cost per item": ["8.00", "9.00", "", "", "2.00", "5.00"],
    "Image Src": [f"https://x.example/{n}.jpg" for n in range(6)],
    "Image Position": ["1", "2", "3", "1", "2", "1"],
    "Image Alt Text": ["A red tee", "", "Folded", "Cup", "", "Hat"],
    "Variant Image": ["https://x.example/1.jpg", "", "", "", "https://x.example/4.jpg", ""],
}
BASE: Sequence[Row] = [dict(zip(COLUMNS, cells, strict=True)) for cells in zip(*COLUMNS.values(), strict=True)]
BASE_FILE = text(BASE, COLUMNS)
# The columns that may change a field.
PRODUCT_COLUMNS = {
    "title": {"Title"},
    "description": {"Body (HTML)"},
    "description_html": {"Body (HTML)"},
    "vendor": {"Vendor"},
    "product_type": {"Type"},
    "category": {"Product Category"},
    "gift_card": {"Gift Card"},
    "tags": {"Tags"},
    "status": {"Status", "Published"},
    "seo_title": {"SEO Title"},
    "seo_description": {"SEO Description"},
    "images": {"Image Src", "Variant Image"},
    "image_alts": {"Image Src", "Image Alt Text"},
    "track_inventory": {"Variant Inventory Tracker", "Variant Inventory Qty"},
    "options": {"Option1 Value"},
}
VARIANT_COLUMNS = {
    "attributes": {"Option1 Value"},
    "name": {"Option1 Value"},
    "sku": {"Variant SKU"},
    "price": {"Variant Price"},
    "compare_at_price": {"Variant Compare At Price", "Variant Price"},
    "inventory": {"Variant Inventory Tracker", "Variant Inventory Qty"},
    "inventory_policy": {"Variant Inventory Policy"},
    "barcode": {"Variant Barcode"},
    "weight": {"Variant Grams"},
    "taxable": {"Variant Taxable"},
    "requires_shipping": {"Variant Requires Shipping"},
    "cost": {"Cost per item"},
    "image": {"Variant Image"},
    "is_available": set[str](),
    "position": set[str](),
}
# New cells, also for rows that have none.
OTHER_CELLS = {
    "Title": "Other",
    "Body (HTML)": "<b>Other</b>",
    "Vendor": "Other",
    "Type": "Other",
    "Product Category": "Other > More",
    "Gift Card": "yes",
    "Tags": "other",
    "Status": "draft",
    "Published": "FALSE",
    "Variant Price": "21.50",
    "Variant Compare At Price": "28.00",
    "Variant Inventory Qty": "3",
    "Variant Inventory Policy": "continue",
    "Variant Grams": "1000",
    "Variant Barcode": "73513537",
    "Variant Taxable": "false",
    "Cost per item": "3.00",
    "Image Src": "https://x.example/other.jpg",
}


@pytest.fixture
async def store(database: Database) -> str:
    return await new_store(database)


async def import_file(database: Database, store: str, file: str, **options: Any) -> ImportSummary:
    return await import_products(database, store, read_csv_products(io.BytesIO(file.encode()), "shop.csv"), **options)


async def load_products(database: Database, store: str) -> dict[str, dict[str, Any]]:
    """The products by handle, each with its variants by id."""
    of_store = compile_statement(select(products).where(products.c.config_id == bindparam("store")))
    rows = {row.id: {**row._asdict(), "variants": {}} for row in await database.fetch(of_store, {"store": store})}
    columns = [variants.c[name] for name in ("id", "product_id", "version", *VARIANT_COLUMNS)]
    of_products = compile_statement(
        select(*columns).where(variants.c.config_id == bindparam("store")).order_by(variants.c.position)
    )
    for variant in await database.fetch(of_products, {"store": store}):
        rows[variant.product_id]["variants"][variant.id] = variant._asdict()
    return {row["handle"]: row for row in rows.values()}


async def load_variants(database: Database, store: str, *names: str) -> list[tuple[Any, ...]]:
    """Columns of all variants, in order."""
    statement = select(*(variants.c[name] for name in names)).where(variants.c.config_id == bindparam("store"))
    rows = await database.fetch(
        compile_statement(statement.order_by(variants.c.product_id, variants.c.position)), {"store": store}
    )
    return [tuple(row) for row in rows]


# --------------------------------------------------------------------------------- any columns and any rows


@st.composite
def partial_files(draw: st.DrawFn) -> dict[int, dict[str, str]]:
    """Rows of the catalogue by number, with some of its columns, and with some cells that differ."""
    identifying = draw(st.sampled_from([("Handle",), ("Variant SKU",), ("Handle", "Variant SKU"), ("Handle", "Option1 Value")]))
    names = {*identifying, *draw(st.sets(st.sampled_from([*COLUMNS])))}
    numbers = sorted(draw(st.sets(st.integers(0, len(BASE) - 1), min_size=1)))
    rows = {number: {name: BASE[number][name] for name in COLUMNS if name in names} for number in numbers}
    for row in rows.values():
        for name in sorted(draw(st.sets(st.sampled_from([*OTHER_CELLS]), max_size=4)) & row.keys()):
            row[name] = draw(st.sampled_from([OTHER_CELLS[name], ""]))
    return rows


def mentions_variant(number: int, row: Row) -> bool:
    """Whether a row says which variant it is, or is that of a product with one variant."""
    return "Variant SKU" in row or "Option1 Value" in row or BASE[number]["Handle"] == "hat"


async def check_partial_file(database: Database, store: str, rows: Mapping[int, Row]) -> None:
    """Import the catalogue and then some of it: what the file has no column or no row for has not changed."""
    await import_file(database, store, BASE_FILE)
    before = await load_products(database, store)
    columns = {*next(iter(rows.values()))}
    file = text(rows.values(), [name for name in COLUMNS if name in columns])
    planned, done = list[ProductChange](), list[ProductChange]()
    preview = await import_file(database, store, file, dry_run=True, on_changes=planned.extend)
    assert await load_products(database, store) == before
    summary = await import_file(database, store, file, on_changes=done.extend)
    after = await load_products(database, store)
    mentioned_products = {BASE[number]["Handle"] for number in rows}
    mentioned_variants = {BASE[number]["Variant SKU"] for number, row in rows.items() if mentions_variant(number, row)}
    for handle, product in before.items():
        for name, needed in PRODUCT_COLUMNS.items():
            if needed & columns and handle in mentioned_products:
                continue
            assert after[handle][name] == product[name], (handle, name)
        assert after[handle]["variants"].keys() == product["variants"].keys()
        for id_, variant in product["variants"].items():
            names = {*VARIANT_COLUMNS}
            if variant["sku"] in mentioned_variants:
                names = {name for name, needed in VARIANT_COLUMNS.items() if not needed & columns}
            for name in names:
                assert after[handle]["variants"][id_][name] == variant[name], (handle, variant["sku"], name)
    # A dry run tells what is done, and what is told is what differs.
    assert (planned, preview.row_errors) == (done, summary.row_errors)
    assert {change.handle for change in done} == {handle for handle in before if after[handle] != before[handle]}
    again = await import_file(database, store, file)
    assert (again.created, again.updated) == (0, 0)
    # No cell is lost without an error of its row.
    refused_lines = {error.line for error in summary.row_errors}
    prices = {variant["sku"]: variant["price"] for product in after.values() for variant in product["variants"].values()}
    for line, (number, row) in enumerate(rows.items(), 2):
        if row.get("Variant Price") and line not in refused_lines and summary.rejected == len(summary.row_errors):
            known = prices.values() if not mentions_variant(number, row) else [prices[BASE[number]["Variant SKU"]]]
            assert row["Variant Price"] in known, (line, row)


@pytest.mark.parametrize(
    "count", [60, pytest.param(int(os.environ.get("STOREFRONT_SOAK_EXAMPLES", "10000")), marks=pytest.mark.soak)]
)
async def test_partial_file_changes_only_what_it_mentions(database: Database, store: str, count: int) -> None:
    loop = asyncio.get_running_loop()

    @settings(max_examples=count, deadline=None, suppress_health_check=[*HealthCheck], derandomize=count < 1_000)
    @given(partial_files())
    def check(rows: Mapping[int, Row]) -> None:
        asyncio.run_coroutine_threadsafe(check_partial_file(database, store, rows), loop).result()

    await asyncio.to_thread(check)


# ------------------------------------------------------------------------------------------ kinds of files

TEE = "Handle,Title,Option1 Name,Option1 Value,Variant SKU,Variant Price,Variant Inventory Tracker,Variant Inventory Qty,Tags\n"
TEE += "tee,Tee,Size,S,T-S,20.00,shopify,7,old\ntee,,,M,T-M,25.00,shopify,8,\n"


async def import_over_tee(database: Database, store: str, file: str, **options: Any) -> ImportSummary:
    await import_file(database, store, TEE)
    return await import_file(database, store, file, **options)


def reasons(summary: ImportSummary) -> list[tuple[int, str]]:
    return [(error.line, error.reason) for error in summary.row_errors]


@pytest.mark.parametrize("rows", ["T-S,21\nT-M,26\n", "T-M,26\nT-S,21\n"])
@pytest.mark.parametrize("columns", ["Handle,Title,Variant SKU,Variant Price", "Handle,SKU,Price", "SKU,Price"])
async def test_prices_by_sku_change_these_variants(database: Database, store: str, columns: str, rows: str) -> None:
    first_cells = "".join({"Handle": "tee,", "Title": "Tee,"}.get(name, "") for name in columns.split(","))
    file = f"{columns}\n" + "".join(f"{first_cells}{row}\n" for row in rows.splitlines())
    summary = await import_over_tee(database, store, file)
    assert (summary.updated, summary.rejected) == (1, 0)
    assert await load_variants(database, store, "name", "price", "sku", "inventory", "position") == [
        ("S", "21.00", "T-S", 7, 0),
        ("M", "26.00", "T-M", 8, 1),
    ]


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("Handle,Variant Price\ntee,20.50\n", "names none of the 2 variants"),
        ("Handle,Variant SKU,Variant Price\ntee,T-L,30\n", "Variant SKU: no variant of the product has “T-L”"),
        ("Variant SKU,Variant Price\nT-L,30\n", "Variant SKU: no variant has “T-L”: add the columns Handle and Title"),
        ("Variant SKU,Variant Price\n,30\n", "Variant SKU: is missing"),
        ("Handle,Option1 Value,Option2 Value,Variant Price\ntee,S,Slim,30\n", "needs a name for option 2"),
        ("Handle,Option1 Name,Option1 Value\ntee,Size,L\n", "Variant Price: is missing: the variant is new"),
        ("Handle,Variant SKU,Option1 Name,Option1 Value\ntee,T-S,Size,M\n", "would give two variants the options “M”"),
    ],
)
async def test_row_that_names_no_variant_is_reported(database: Database, store: str, file: str, reason: str) -> None:
    before = await load_products(database, store)
    summary = await import_over_tee(database, store, file)
    [(line, found)] = reasons(summary)
    assert (line, summary.rejected) == (2, 1)
    assert reason in found
    assert await load_variants(database, store, "name", "price", "inventory") == [("S", "20.00", 7), ("M", "25.00", 8)]
    assert before == {}


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("Handle,Title,Tags\nmug,Mug,new\n", "Variant Price: is missing: the variant is new"),
        ("Handle,Price\nmug,5\n", "Title: is missing: the product is new"),
        ("Handle,Title,SKU,Price\nmug,,M-1,5\n", "Title: is missing: the product is new"),
        ("Handle,Title,Option1 Value,Price\nmug,Mug,Red,5\n", "Option1 Value: “Red” needs a name for option 1 on line 2"),
    ],
)
async def test_new_product_needs_title_price_and_names(database: Database, store: str, file: str, reason: str) -> None:
    summary = await import_file(database, store, file)
    [(line, found)] = reasons(summary)
    assert (line, summary.rejected, summary.created) == (2, 1, 0)
    assert reason in found
    assert await load_products(database, store) == {}


async def test_second_variant_of_new_product_needs_options(database: Database, store: str) -> None:
    summary = await import_file(database, store, "Handle,Title,SKU,Price\nmug,Mug,M-1,5\nmug,,M-2,6\n")
    assert (summary.created, reasons(summary)) == (
        1,
        [(3, "Option1 Value: is missing: each variant of a new product needs its options")],
    )


async def test_sku_of_several_products_is_reported(database: Database, store: str) -> None:
    for handle in ("cup", "mug"):
        await import_file(database, store, f"Handle,Title,SKU,Price\n{handle},Cup,X-1,5\n")
    summary = await import_file(database, store, "SKU,Price\nX-1,6\n")
    assert reasons(summary) == [(2, "SKU: 2 variants have “X-1”, of the products “cup” and “mug”: add the column Handle")]


async def test_rows_of_skus_in_any_order_are_one_change_of_a_product(database: Database, store: str) -> None:
    await import_file(database, store, TEE + "cup,Cup,Size,S,C-S,5,,,\n")
    summary = await import_file(database, store, "SKU,Price,Tags\nT-M,1,new\nC-S,2,\nT-S,3,\nT-M,4,\nC-S,5,a\n")
    assert (summary.updated, [error.line for error in summary.row_errors]) == (2, [5, 6])
    rows = await load_products(database, store)
    assert (rows["tee"]["tags"], rows["tee"]["version"], rows["cup"]["tags"]) == (["new"], 2, [])


async def test_option_without_columns_stays(database: Database, store: str) -> None:
    await import_file(database, store, BASE_FILE)
    file = "Handle,Option1 Name,Option1 Value,Variant SKU,Price\ntee,Size,S,,21\ntee,,XL,T-M,26\ntee,,M,,9\ntee,,L,,30\n"
    summary = await import_file(database, store, file)
    rows = await load_variants(database, store, "attributes", "price")
    assert rows[:2] == [({"Size": "S", "Fit": "Slim"}, "21.00"), ({"Size": "XL", "Fit": "Slim"}, "26.00")]
    assert reasons(summary)[-1] == (
        5,
        "Option1 Value: the product has the options Size and Fit, and the source has columns for 1: add the others",
    )


async def test_cell_of_rows_without_title_clears_nothing(database: Database, store: str) -> None:
    await import_file(database, store, BASE_FILE)
    before = await load_products(database, store)
    await import_file(database, store, text([{**BASE[2], "Variant Price": "27.00"}], COLUMNS))
    after = await load_products(database, store)
    for name in PRODUCT_COLUMNS.keys() - {"images"}:
        assert after["tee"][name] == before["tee"][name]
    assert after["tee"]["images"] == before["tee"]["images"]
    assert [variant["price"] for variant in after["tee"]["variants"].values()] == ["20.00", "25.00", "27.00"]


@pytest.mark.parametrize(
    ("columns", "cells", "expected"),
    [
        ("Tracker", "shopify", (7, True)),
        ("Tracker", "", (None, False)),
        ("Qty", "3", (3, True)),
        ("Qty", "", (7, True)),
        ("Qty", "-2", (0, True)),
        ("Tracker,Variant Inventory Qty", "shopify,", (7, True)),
        ("Tracker,Variant Inventory Qty", ",5", (None, False)),
        ("Policy,Variant Inventory Qty", "continue,-2", (-2, True)),
        ("Policy", "continue", (7, True)),
    ],
)
async def test_stock_follows_the_columns_that_there_are(
    database: Database, store: str, columns: str, cells: str, expected: tuple[int | None, bool]
) -> None:
    head = "Handle,Title,Price,Variant Inventory"
    await import_file(database, store, f"{head} Tracker,Variant Inventory Qty\nmug,Mug,5,shopify,7\n")
    await import_file(database, store, f"{head} {columns}\nmug,Mug,5,{cells}\n")
    [mug] = (await load_products(database, store)).values()
    [only] = mug["variants"].values()
    assert (only["inventory"], mug["track_inventory"]) == expected
    assert mug["in_stock"] == (only["inventory"] != 0)


async def test_counted_stock_without_tracker_runs_out(database: Database, store: str) -> None:
    await import_file(database, store, "Handle,Title,Price,Variant Inventory Qty\nmug,Mug,5,0\ncup,Cup,5,1\nhat,Hat,5,\n")
    stock = {handle: row["in_stock"] for handle, row in (await load_products(database, store)).items()}
    assert stock == {"mug": False, "cup": True, "hat": True}


async def test_stored_policy_decides_on_stock_below_zero(database: Database, store: str) -> None:
    head = "Handle,Title,Price,Variant Inventory Qty"
    await import_file(database, store, f"{head},Variant Inventory Policy\nmug,Mug,5,1,continue\ncup,Cup,5,1,deny\n")
    await import_file(database, store, f"{head}\nmug,Mug,5,-4\ncup,Cup,5,-4\n")
    assert await load_variants(database, store, "inventory") == [(-4,), (0,)]


async def test_weight_without_unit_keeps_the_stored_unit(database: Database, store: str) -> None:
    await import_file(database, store, "Handle,Title,Price,Variant Grams,Variant Weight Unit\nmug,Mug,5,454,lb\n")
    await import_file(database, store, "Handle,Variant Grams\nmug,907\n")
    assert await load_variants(database, store, "weight") == [({"value": "2.000", "unit": "pound"},)]


@pytest.mark.parametrize(("cell", "expected"), [("TRUE", "archived"), ("FALSE", "archived"), ("", "archived")])
async def test_published_does_not_restore_archived_product(database: Database, store: str, cell: str, expected: str) -> None:
    await import_file(database, store, "Handle,Title,Price,Status\nmug,Mug,5,archived\n")
    await import_file(database, store, f"Handle,Published\nmug,{cell}\n")
    assert (await load_products(database, store))["mug"]["status"] == expected


async def test_empty_status_does_not_publish_a_draft(database: Database, store: str) -> None:
    await import_file(database, store, "Handle,Title,Price,Status\nmug,Mug,5,draft\n")
    await import_file(database, store, "Handle,Title,Status,Published\nmug,Mug,,\n")
    assert (await load_products(database, store))["mug"]["status"] == "inactive"


async def test_images_stay_unless_the_file_lists_all_variants(database: Database, store: str) -> None:
    url = "https://x.example/{}.jpg".format
    file = f"{TEE.splitlines()[0]},Image Src\ntee,Tee,Size,S,T-S,20,,,,{url(1)}\ntee,,,M,T-M,25,,,,{url(2)}\n"

    async def images_after(file: str) -> list[str]:
        await import_file(database, store, file)
        return (await load_products(database, store))["tee"]["images"]

    assert await images_after(file) == [url(1), url(2)]
    assert await images_after(f"Handle,SKU,Image Src\ntee,T-S,{url(3)}\n") == [url(1), url(2), url(3)]
    assert await images_after("Handle,SKU,Image Src\ntee,T-S,\ntee,T-M,\n") == [url(1), url(2), url(3)]
    assert await images_after(f"SKU,Variant Image\nT-S,{url(4)}\n") == [url(n) for n in (1, 2, 3, 4)]
    assert await images_after(file) == [url(1), url(2)]


async def test_first_options_take_over_the_only_variant(database: Database, store: str) -> None:
    await import_file(database, store, "Handle,Title,Price,Variant Barcode\nmug,Mug,5,73513537\n")
    [before] = await load_variants(database, store, "id")
    await import_file(database, store, "Handle,Title,Option1 Name,Option1 Value,Price\nmug,Mug,Size,S,5\nmug,,,M,6\n")
    assert (await load_variants(database, store, "id", "name", "barcode"))[0] == (*before, "S", "73513537")


async def test_product_with_too_many_options_is_rejected(database: Database, store: str) -> None:
    def file(*numbers: int) -> str:
        variants = [{"name": f"a{n}", "attributes": {f"Option {n}": f"a{n}"}} for n in numbers]
        cells = [orjson.dumps({"variant": variant}).decode() for variant in variants]
        rows = [{"Handle": "mug", "Title": "Mug", "Price": "5", "Option1 Value": "x", "Storefront": cell} for cell in cells]
        return text(rows, rows[0])

    summary = await import_file(database, store, file(*range(MAX_ATTRIBUTES + 1)))
    expected = "Option1 Name: the product would have 11 options, at most 10 are allowed"
    assert (reasons(summary), summary.rejected) == ([(2, expected)], 11)
    assert (await import_file(database, store, file(*range(MAX_ATTRIBUTES)))).created == 1
    assert reasons(await import_file(database, store, file(MAX_ATTRIBUTES))) == [(2, expected)]
    [mug] = (await load_products(database, store)).values()
    assert (len(mug["options"]), len(mug["variants"])) == (MAX_ATTRIBUTES, MAX_ATTRIBUTES)


async def test_alternative_texts_of_images_are_kept(database: Database, store: str) -> None:
    url = "https://x.example/{}.jpg".format
    head = "Handle,Title,Price,Image Src,Image Alt Text"

    async def alts_after(file: str) -> dict[str, str]:
        await import_file(database, store, file)
        alts: dict[str, str] = (await load_products(database, store))["mug"]["image_alts"]
        return alts

    first = {url(1): "A red mug", url(2): "Its handle"}
    assert await alts_after(f"{head}\nmug,Mug,5,{url(1)},A red mug\nmug,,,{url(2)},Its handle\nmug,,,{url(3)},\n") == first
    assert await alts_after(f"Handle,Image Src\nmug,{url(1)}\nmug,{url(2)}\n") == first
    assert await alts_after(f"Handle,Image Src,Image Alt Text\nmug,{url(2)},A handle\n") == {url(2): "A handle"}
    summary = await import_file(database, store, f"{head}\nmug,Mug,5,,Lost\n")
    assert [error.column for error in summary.row_errors] == ["Image Alt Text"]
