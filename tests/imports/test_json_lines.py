"""JSON Lines: the exact round trip of every field, and lines that are rejected."""

from collections.abc import Sequence
from tempfile import TemporaryFile
from typing import Any

import orjson
import pytest

from storefront.core.db.database import Database, compile_statement
from storefront.imports.catalogue_file import FileOptions, open_catalogue
from storefront.imports.exports import ExportFormat, ExportSummary, export_products
from storefront.imports.jobs.checkpoints import SqliteHandleStore
from storefront.imports.json_lines import MAX_LINE_BYTES, MAX_VARIANT_BYTES
from storefront.imports.product_writer import ImportSummary, import_products
from storefront.imports.row_types import Checkpoint, EarlyStop, ProductRow, RowError, SourceItem
from storefront.models import products
from storefront.models.options import OptionEditor
from tests.factories import make_product, make_store, make_variant
from tests.imports.catalogues import catalogue
from tests.imports.test_partial_files import load_products
from tests.imports.test_round_trip import import_file as import_csv
from tests.imports.test_round_trip import load_contents

Line = dict[str, Any]


TEE: Line = {
    "handle": "tee",
    "title": "Tee",
    "description": "Soft",
    "descriptionHtml": "<p>Soft</p>",
    "vendor": "V",
    "productType": "T",
    "images": ["https://x.example/t.jpg"],
    "imageAlts": {"https://x.example/t.jpg": "A tee"},
    "category": "A > B",
    "tags": ["x"],
    "trackInventory": True,
    "seoTitle": "S",
    "seoDescription": "D",
    "options": [
        {
            "name": "Size",
            "values": [{"value": "M", "swatch": None}, {"value": "S", "swatch": {"color": "#ff0000", "image": None}}],
        },
        {"name": "Colour", "values": [{"value": "Red", "swatch": None}]},
    ],
    "variants": [
        {
            "name": "Small",
            "price": "19.90",
            "compareAtPrice": "19.90",
            "attributes": {"Size": "S", "Colour": "Red"},
            "inventory": -2,
            "sku": "T-S",
            "inventoryPolicy": "continue",
            "barcode": "1",
            "weight": {"value": "0.001", "unit": "pound"},
            "cost": "0.10",
            "taxable": False,
            "requiresShipping": False,
            "image": "https://x.example/t.jpg",
            "isAvailable": False,
        },
        {"price": 5, "attributes": {"Size": "M", "Colour": "Red"}, "inventory": None},
    ],
}


def render(lines: Sequence[Line | bytes]) -> bytes:
    return b"".join((line if isinstance(line, bytes) else orjson.dumps(line)) + b"\n" for line in lines)


async def read(content: bytes, resume_point: Any = None, max_rows: int = 1_000) -> list[SourceItem]:
    with TemporaryFile() as file:
        file.write(content)
        limits = {"max_bytes": 50_000_000, "max_rows": max_rows}
        async with open_catalogue(file, "shop.jsonl", FileOptions(), resume_point, **limits) as opened:
            return [item async for item in opened.items]


async def import_file(database: Database, store: str, content: bytes, **options: Any) -> ImportSummary:
    with TemporaryFile() as file, SqliteHandleStore() as handles:
        file.write(content)
        limits = {"max_bytes": 50_000_000, "max_rows": 100_000}
        async with open_catalogue(file, "shop.jsonl", FileOptions(), None, **limits) as opened:
            return await import_products(database, store, opened.items, checkpointer=handles, **options)


async def export(database: Database, store: str) -> bytes:
    summary = ExportSummary()
    parts = export_products(database, store, export_format=ExportFormat.JSON_LINES, summary=summary)
    content = b"".join([part async for part in parts])
    assert not summary.rejected
    return content


async def load_options(database: Database, store: str) -> dict[str, Any]:
    """The options of each product, without ids."""
    rows = await database.fetch(compile_statement(products.select().where(products.c.config_id == store)))
    return {
        row.handle: [
            (option["name"], [(value["value"], value["swatch"]) for value in option["values"]]) for option in row.options
        ]
        for row in rows
    }


async def test_every_field_round_trips(database: Database) -> None:
    first, second = await make_store(database), await make_store(database)
    assert (await import_csv(database, first, catalogue(600).encode())).created > 200
    odd = await make_product(
        database, first, handle="odd", tags=["a, b", 'c"d', "", "=1"], images=["https://x.example/1", "https://x.example/2"],
        description="", seo_title="'=x", category="\u2028", status="inactive", gift_card=True,
    )  # fmt: skip
    for n in range(3):
        await make_variant(database, odd, name="Twin", attributes=dict.fromkeys("abcd"[: n * 2], "1"), is_available=n > 0)
    await import_file(database, first, render([TEE]))
    # Factories write variants without the options of their product: an import adds these.
    await import_file(database, first, await export(database, first))
    file = await export(database, first)
    again = await import_file(database, first, file)
    assert (again.created, again.updated, again.rejected) == (0, 0, 0)
    done = await import_file(database, second, file)
    assert (done.rejected, done.ignored_columns) == (0, {})
    assert await load_contents(database, second) == await load_contents(database, first)
    options = await load_options(database, second)
    assert options == await load_options(database, first)
    assert options["tee"][0] == ("Size", [("M", None), ("S", {"color": "#ff0000", "image": None})])
    assert await export(database, second) == file


async def test_line_changes_only_its_fields(database: Database) -> None:
    store = await make_store(database)
    variants = [
        {"sku": "T-S", "price": "20", "attributes": {"Size": "S"}, "inventory": 7},
        {"sku": "T-M", "price": "25", "attributes": {"Size": "M"}, "inventory": 8},
    ]
    whole = {"handle": "tee", "title": "Tee", "tags": ["a"], "vendor": "V", "variants": variants}
    await import_file(database, store, render([whole]))
    part = {"handle": "tee", "tags": ["b"], "variants": [{"sku": "T-S", "price": "21"}]}
    summary = await import_file(database, store, render([part]))
    assert (summary.updated, summary.rejected) == (1, 0)
    after = (await load_products(database, store))["tee"]
    assert (after["title"], after["vendor"], after["tags"]) == ("Tee", "V", ["b"])
    assert [variant["price"] for variant in after["variants"].values()] == ["21.00", "25.00"]
    assert [variant["inventory"] for variant in after["variants"].values()] == [7, 8]
    summary = await import_file(database, store, render([{"handle": "tee", "vendor": None}, {"handle": "hat", "tags": []}]))
    assert (summary.updated, [(error.line, error.column) for error in summary.row_errors]) == (1, [(2, "title")])
    assert (await load_products(database, store))["tee"]["vendor"] is None


WRONG_SWATCH = {"name": "x", "values": [{"value": "y", "swatch": {"color": "no"}}]}


@pytest.mark.parametrize(
    ("line", "column", "words"),
    [
        (b"{", "", "not valid JSON"),
        (b"[1]", "", "no object"),
        (b'{"handle": "a", "handle', "", "not valid JSON"),
        ({"title": "A"}, "handle", "is missing"),
        ({"handle": "\u2122"}, "handle", "no letter"),
        ({"handle": "x" * 3_000}, "handle", "255"),
        ({"handle": "a", "title": 5}, "title", "string"),
        ({"handle": "a", "title": "a\0"}, "title", "NUL"),
        ({"handle": "a", "tags": ["x" * 300]}, "tags.0", "255"),
        ({"handle": "a", "images": ["javascript:x"]}, "images.0", "http"),
        ({"handle": "a", "status": "gone"}, "status", "active"),
        ({"handle": "a", "variants": {}}, "variants", "no list"),
        ({"handle": "a", "variants": [5]}, "variants.0", "no object"),
        ({"handle": "a", "variants": [{"price": "x"}]}, "variants.0.price", "pattern"),
        ({"handle": "a", "variants": [{"price": "1"}, {"price": True}]}, "variants.1.price", "string"),
        ({"handle": "a", "variants": [{"compareAtPrice": "x"}]}, "variants.0.compareAtPrice", "pattern"),
        ({"handle": "a", "variants": [{"sku": "x"}, {"sku": "x"}]}, "variants", "twice"),
        ({"handle": "a", "options": [{"name": "x"}]}, "options.0.values", "required"),
        ({"handle": "a", "options": [WRONG_SWATCH]}, "options.0.values.0.swatch.color", "colo"),
        (b'{"handle": "a", "tags": ["' + b"x" * MAX_LINE_BYTES + b'"]}', "", "1,000,000 bytes"),
        (b'{"handle": "a", "tags": [' + b"1," * 60_000 + b"1]}", "", "50,000 commas"),
        (b'{"handle": "a", "tags": [' + (b"[" * 400 + b"]" * 400 + b",") * 200 + b"1]}", "", "50,000 opening brackets"),
        (b"[" * 10_000, "", "not valid JSON"),
    ],
)  # fmt: skip
async def test_invalid_line_names_its_field(line: Line | bytes, column: str, words: str) -> None:
    good = {"handle": "b", "title": "B"}
    items = await read(render([{"handle": "first", "title": "F"}, line, good]))
    [error] = [item for item in items if isinstance(item, RowError)]
    assert (error.line, error.column) == (2, column)
    assert words in error.problem and len(error.problem) < 1_000
    assert [item.handle for item in items if isinstance(item, ProductRow)] == ["first", "b"]


async def test_enum_values_may_be_in_upper_case() -> None:
    weight = {"value": "1.000", "unit": "KILOGRAM"}
    variant = {"price": "5", "compareAtPrice": "6", "inventoryPolicy": "CONTINUE", "weight": weight}
    items = await read(render([{"handle": "a", "title": "A", "status": "ARCHIVED", "variants": [variant]}]))
    [product] = [item for item in items if isinstance(item, ProductRow)]
    assert (product.status, product.variants[0].inventory_policy) == ("archived", "continue")
    assert product.variants[0].weight == {"value": "1.000", "unit": "kilogram"}


async def test_unknown_fields_are_named_with_their_number() -> None:
    items = await read(render([{"handle": n, "colour": "red", "variants": [{"size": 1}]} for n in ("a", "b")]))
    last = items[-1]
    assert isinstance(last, Checkpoint)
    assert last.resume_point["ignoredColumns"] == {"colour": 2, "variants.size": 2}


async def test_reading_resumes_at_each_checkpoint() -> None:
    lines = [{"handle": f"p-{n // 2}", **({"title": "P"} if n % 2 == 0 else {"variants": [{"sku": str(n)}]})} for n in range(12)]
    content = b"\xef\xbb\xbf" + render(lines)
    items = await read(content)
    assert [item.row_count for item in items if isinstance(item, ProductRow)] == [2] * 6
    for number, mark in enumerate(items):
        if isinstance(mark, Checkpoint):
            rest = [item for item in await read(content, mark.resume_point) if isinstance(item, ProductRow)]
            assert rest == [item for item in items[number:] if isinstance(item, ProductRow)]
    assert isinstance((await read(content, max_rows=5))[-1], EarlyStop)


async def test_product_of_many_variants_takes_several_lines(database: Database) -> None:
    first, second = await make_store(database), await make_store(database)
    names = [f"{n} {'x' * 500}" for n in range(600)]
    variants = [{"name": name, "price": "1", "attributes": {"Number": str(n)}, "sku": name[:255]} for n, name in enumerate(names)]
    await import_file(database, first, render([{"handle": "big", "title": "Big", "variants": variants}]))
    file = await export(database, first)
    assert 1 < file.count(b"\n") < 20 and max(map(len, file.splitlines())) < MAX_VARIANT_BYTES * 2
    assert (await import_file(database, second, file)).created == 1
    assert await load_contents(database, second) == await load_contents(database, first)


def test_arranged_options_keep_their_ids() -> None:
    editor = OptionEditor()
    for size in ("S", "M", "L"):
        editor.adopt({"Size": size})
    before = {value["value"]: value["id"] for value in editor.options[0]["values"]}
    editor.arrange([{"name": "size", "values": [{"value": "L", "swatch": None}, {"value": "XL", "swatch": None}]}])
    values = editor.options[0]["values"]
    assert ([value["value"] for value in values], editor.options[0]["name"]) == (["L", "XL", "S", "M"], "Size")
    assert {value["value"]: value["id"] for value in values}.items() >= before.items()
