"""Columns of Shopify without a field: their cells are kept, and exported again."""

import csv
import io

import pytest

from storefront.core.db.database import Database
from storefront.imports.changes import ProductChange
from storefront.imports.exports import ExportFormat, export_products
from storefront.imports.product_writer import ImportSummary, import_products
from storefront.imports.shopify.csv_file import read_csv_products
from tests.factories import make_store
from tests.imports.test_json_lines import import_file as import_json

COLUMNS = (
    "Handle,Title,Option1 Name,Option1 Value,Variant Price,Google Shopping / Gender,Google Shopping / Custom Label 0,"
    "Colour (product.metafields.custom.colour),Price / International,Variant Tax Code,Variant Fulfillment Service,"
    "Option1 Linked To,Unit Price Total Measure"
)
ROWS = "\ntee,Tee,Size,S,20,unisex,=x,red,25.00,P1,amazon,product.metafields.size,100\ntee,,,M,25,,'y,,27.00,,manual,,\n"


async def import_file(database: Database, store: str, text: str, **options: object) -> ImportSummary:
    items = read_csv_products(io.BytesIO(text.encode()), "shop.csv")
    return await import_products(database, store, items, **options)  # type: ignore[arg-type]


async def export(database: Database, store: str, **options: object) -> str:
    return b"".join([part async for part in export_products(database, store, **options)]).decode()  # type: ignore[arg-type]


async def list_cells(database: Database, store: str) -> list[dict[str, str]]:
    """The cells of the exported file that the imported one had columns for."""
    rows = csv.DictReader(io.StringIO(await export(database, store, quote_formulas=False), newline=""))
    names = COLUMNS.split(",")[5:]
    return [{name: row[name] for name in names if row.get(name)} for row in rows]


async def test_cells_without_field_come_back(database: Database) -> None:
    first, second, third = [await make_store(database) for _ in range(3)]
    summary = await import_file(database, first, COLUMNS + ROWS)
    assert (summary.created, summary.rejected, summary.ignored_columns) == (1, 0, {})
    cells = await list_cells(database, first)
    assert cells[0] == {
        "Google Shopping / Gender": "unisex",
        "Google Shopping / Custom Label 0": "=x",
        "Colour (product.metafields.custom.colour)": "red",
        "Price / International": "25.00",
        "Variant Tax Code": "P1",
        "Variant Fulfillment Service": "amazon",
        "Option1 Linked To": "product.metafields.size",
        "Unit Price Total Measure": "100",
    }
    assert cells[1] == {
        "Google Shopping / Custom Label 0": "'y",
        "Price / International": "27.00",
        "Variant Fulfillment Service": "manual",
    }
    # Quoted cells are those that they were.
    await import_file(database, second, await export(database, first))
    await import_json(database, third, (await export(database, first, export_format=ExportFormat.JSON_LINES)).encode())
    assert await list_cells(database, second) == await list_cells(database, third) == cells


async def test_file_without_these_columns_keeps_their_cells(database: Database) -> None:
    store = await make_store(database)
    await import_file(database, store, COLUMNS + ROWS)
    before = await list_cells(database, store)
    await import_file(database, store, "Handle,Title,Option1 Name,Option1 Value,Variant Price\ntee,New,Size,S,30\ntee,,,M,31\n")
    assert await list_cells(database, store) == before
    changes = list[ProductChange]()
    file = "Handle,Option1 Value,Google Shopping / Gender\ntee,S,\ntee,M,male\n"
    for dry_run in (True, False):
        await import_file(database, store, file, dry_run=dry_run, on_changes=changes.extend)
    after = [{**before[0]}, {**before[1], "Google Shopping / Gender": "male"}]
    del after[0]["Google Shopping / Gender"]
    assert await list_cells(database, store) == after
    assert changes[0] == changes[1]
    assert [(change.variant, change.field, change.old, change.new) for change in changes[0].changes] == [
        ("S", "Google Shopping / Gender", "unisex", None),
        ("M", "Google Shopping / Gender", None, "male"),
    ]


async def test_row_of_product_alone_is_of_its_first_variant(database: Database) -> None:
    store = await make_store(database)
    await import_file(database, store, COLUMNS + ROWS)
    await import_file(database, store, "Handle,Google Shopping / Gender\ntee,female\n")
    assert [cells.get("Google Shopping / Gender") for cells in await list_cells(database, store)] == ["female", None]


@pytest.mark.parametrize("name", ["Shade", "Google", "Metafields", "Price International"])
async def test_unknown_column_is_named(database: Database, name: str) -> None:
    store = await make_store(database)
    summary = await import_file(database, store, f"Handle,Title,Price,{name}\nmug,Mug,5,x\ncup,Cup,6,\nhat,Hat,7,y\n")
    assert summary.ignored_columns == {name: 2}


async def test_cell_of_image_row_is_an_error(database: Database) -> None:
    store = await make_store(database)
    file = "Handle,Title,Price,Image Src,Google Shopping / Gender\n"
    file += "mug,Mug,5,https://x.example/1.jpg,\nmug,,,https://x.example/2.jpg,male\n"
    summary = await import_file(database, store, file)
    assert [(error.line, error.column) for error in summary.row_errors] == [(3, "Google Shopping / Gender")]
