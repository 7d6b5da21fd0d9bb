"""Upsert of products: which rows are written, which stay unchanged, and the log entries."""

import asyncio
import io
from functools import cache
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import bindparam, column, insert, select, text, update

from storefront.core.db.database import Database, Statement, compile_statement
from storefront.feed import log
from storefront.imports.product_writer import ImportSummary, import_products
from storefront.imports.shopify.csv_file import read_csv_products
from storefront.models import configs, products, users, variants

HEADER = "Handle,Title,Option1 Name,Option1 Value,Variant Price,Variant SKU,Status,Variant Compare At Price"
SHIRT = f"{HEADER}\nshirt,Shirt,Size,S,20,S-1\nshirt,,,M,21,S-2\n"


@pytest.fixture
async def store(database: Database) -> str:
    return await new_store(database)


async def new_store(database: Database) -> str:
    user, config = str(uuid4()), str(uuid4())
    values: dict[str, Any] = {name: bindparam(name) for name in ("id", "email")}
    await database.fetch(compile_statement(insert(users).values(values)), {"id": user, "email": f"{user}@example.com"})
    names = ("id", "user_id", "store_name", "slug")
    row = insert(configs).values({name: bindparam(name) for name in names})
    await database.fetch(compile_statement(row), {"id": config, "user_id": user, "store_name": "Shop", "slug": config})
    return config


async def import_file(database: Database, store: str, file: str, **options: Any) -> ImportSummary:
    return await import_products(database, store, read_csv_products(io.BytesIO(file.encode()), "shop.csv"), **options)


def counts(summary: ImportSummary) -> tuple[int, int, int]:
    return summary.created, summary.updated, summary.unchanged


@cache
def all_products() -> Statement:
    return compile_statement(select(products).order_by(products.c.id))


@cache
def all_variants() -> Statement:
    return compile_statement(select(variants, column("xmin")).order_by(variants.c.id))


def many(count: int, price: int = 5) -> str:
    return f"{HEADER}\n" + "".join(f"p-{n},P,Size,S,{price}\np-{n},,,M,{price}\n" for n in range(count))


async def test_products_are_created_with_variants_and_logged(database: Database, store: str) -> None:
    summary = await import_file(database, store, SHIRT + "mug,Mug,,,5,,draft,9\n")
    assert counts(summary) == (2, 0, 0)
    assert (summary.rows, summary.position) == (3, 2)
    shirt, mug = await database.fetch(all_products())
    assert (shirt.handle, shirt.version, shirt.variants_total, shirt.inventory) == ("shirt", 1, 2, None)
    assert (shirt.price, shirt.max_price, shirt.total_inventory) == ("20.00", "21.00", 0)
    assert (mug.compare_at_price, mug.status, mug.images, mug.tags, mug.track_inventory) == ("9.00", "inactive", [], [], False)
    rows = [(row.name, row.sku, row.config_id) for row in await database.fetch(all_variants())]
    assert rows == [("S", "S-1", store), ("M", "S-2", store), ("Default", None, store)]
    entries = await log.read_entries(database, store, 0, 10)
    assert [(row.kind, row.entity_id, row.version, row.was_visible, row.is_visible) for row in entries] == [
        ("product_created", shirt.id, 1, False, True),
        ("product_created", mug.id, 1, False, False),
    ]


async def test_repeated_import_changes_nothing(database: Database, store: str) -> None:
    file = SHIRT + "mug,Mug,,,5,M-1,,9\n"
    await import_file(database, store, file)
    before = await database.fetch(all_products()), await database.fetch(all_variants())
    summary = await import_file(database, store, file)
    assert counts(summary) == (0, 0, 2)
    assert summary.position is None
    assert (await database.fetch(all_products()), await database.fetch(all_variants())) == before
    assert len(await log.read_entries(database, store, 0, 10)) == 2


async def test_only_differences_are_written(database: Database, store: str) -> None:
    await import_file(database, store, SHIRT + "mug,Mug,,,5\n")
    small, medium, default = await database.fetch(all_variants())
    actor = str(uuid4())
    changed = SHIRT.replace("M,21", "M,25").replace("Shirt", "Tee")
    summary = await import_file(database, store, changed + "mug,Mug,,,5\n", actor_id=actor)
    assert counts(summary) == (0, 1, 1)
    shirt, mug = await database.fetch(all_products())
    assert (shirt.title, shirt.version, mug.version) == ("Tee", 2, 1)
    assert shirt.updated_at > shirt.created_at
    assert mug.updated_at == mug.created_at
    small_now, medium_now, default_now = await database.fetch(all_variants())
    assert (small_now, default_now) == (small, default)
    assert (medium_now.id, medium_now.price, medium_now.version) == (medium.id, "25.00", 2)
    [entry] = await log.read_entries(database, store, 2, 10)
    assert (entry.kind, entry.version, entry.changed_fields) == ("product_updated", 2, ["title", "variants"])
    assert (entry.actor_id, entry.was_visible, entry.is_visible) == (actor, True, True)


async def test_log_uses_api_field_names(database: Database, store: str) -> None:
    await import_file(database, store, f"{HEADER},Variant Inventory Qty,SEO Title\nmug,Mug,,,5,,,,,\n")
    await import_file(database, store, f"{HEADER},Variant Inventory Qty,SEO Title\nmug,Mug,,,5,,archived,9,3,Mugs\n")
    [entry] = await log.read_entries(database, store, 1, 10)
    assert entry.changed_fields == ["trackInventory", "seoTitle", "status", "variants", "compareAtPrice", "inventory"]
    assert (entry.was_visible, entry.is_visible) == (True, False)


async def test_variants_match_by_attributes_or_name(database: Database, store: str) -> None:
    await import_file(database, store, SHIRT)
    small, medium = await database.fetch(all_variants())
    await import_file(database, store, SHIRT.replace("Size", "Fit"))
    assert [row.id for row in await database.fetch(all_variants())] == [small.id, medium.id]
    await database.fetch(compile_statement(update(variants).values(name=variants.c.name.concat("!"))))
    await import_file(database, store, SHIRT.replace("Size", "Fit"))
    # No column has the names of variants, so that one that was given stays.
    assert [(row.id, row.name) for row in await database.fetch(all_variants())] == [(small.id, "S!"), (medium.id, "M!")]


async def test_variants_missing_in_file_are_deleted_on_request(database: Database, store: str) -> None:
    await import_file(database, store, SHIRT)
    file = f"{HEADER}\nshirt,Shirt,Size,S,20,S-1\nshirt,,,L,20,\n"
    await import_file(database, store, file)
    assert [row.name for row in await database.fetch(all_variants())] == ["S", "M", "L"]
    summary = await import_file(database, store, file, delete_missing_variants=True)
    assert counts(summary) == (0, 1, 0)
    assert [row.name for row in await database.fetch(all_variants())] == ["S", "L"]
    [shirt] = await database.fetch(all_products())
    assert shirt.variants_total == 2


async def test_rejected_row_deletes_no_variant(database: Database, store: str) -> None:
    await import_file(database, store, SHIRT)
    summary = await import_file(database, store, SHIRT.replace("M,21", "M,oops"), delete_missing_variants=True)
    assert counts(summary) == (0, 0, 1)
    assert [item.line for item in summary.row_errors] == [3]
    assert summary.rows == 2
    assert [row.name for row in await database.fetch(all_variants())] == ["S", "M"]


EVERYTHING = """Handle,Title,Option1 Name,Option1 Value,Variant Price,Variant Barcode,Variant Grams,Variant Weight Unit,\
Variant Taxable,Variant Requires Shipping,Cost per item,Variant Inventory Policy,\
Variant Inventory Tracker,Variant Inventory Qty,Image Src,Variant Image
mug,Mug,Size,S,5,4006381333931,454,lb,FALSE,false,2.5,continue,shopify,-3,https://x.example/1.jpg,https://x.example/2.jpg
mug,,,M,5,,0.0,kg,,,,deny,shopify,-3,,
"""


async def test_columns_of_variants_are_imported(database: Database, store: str) -> None:
    names = ("barcode", "weight", "taxable", "requires_shipping", "cost", "inventory_policy", "inventory", "image")
    statement = compile_statement(select(*(variants.c[name] for name in names)).order_by(variants.c.position))
    await import_file(database, store, EVERYTHING)
    weight = {"value": "1.001", "unit": "pound"}
    large = ("4006381333931", weight, False, False, "2.50", "continue", -3, "https://x.example/2.jpg")
    assert await database.fetch(statement) == [large, (None, None, True, True, None, "deny", 0, None)]
    [mug] = await database.fetch(all_products())
    assert (mug.inventory, mug.total_inventory, mug.in_stock, mug.variants_in_stock) == (-3, -3, True, 1)
    # Columns that a file does not have leave the stored values.
    assert counts(await import_file(database, store, f"{HEADER}\nmug,Mug,Size,S,5\nmug,,,M,5\n")) == (0, 0, 1)
    assert counts(await import_file(database, store, EVERYTHING)) == (0, 0, 1)


@pytest.mark.parametrize(
    ("column", "cell"),
    [("Variant Grams", "heavy"), ("Variant Taxable", "perhaps"), ("Cost per item", "-1"),
     ("Variant Inventory Policy", "always"), ("Variant Grams", "99999999999")],
)  # fmt: skip
async def test_invalid_column_of_variant_is_reported(database: Database, store: str, column: str, cell: str) -> None:
    summary = await import_file(database, store, f"Handle,Title,Variant Price,{column}\nmug,Mug,5,{cell}\n")
    assert [item.column for item in summary.row_errors] == [column]


async def test_unknown_unit_of_weight_is_reported(database: Database, store: str) -> None:
    file = "Handle,Title,Variant Price,Variant Grams,Variant Weight Unit\nmug,Mug,5,250,stone\n"
    assert [item.column for item in (await import_file(database, store, file)).row_errors] == ["Variant Weight Unit"]


@cache
def variants_in_order() -> Statement:
    return compile_statement(select(variants.c.name, variants.c.position).order_by(variants.c.position, variants.c.id))


async def test_variants_are_in_the_order_of_the_file(database: Database, store: str) -> None:
    await import_file(database, store, SHIRT)
    assert await database.fetch(variants_in_order()) == [("S", 0), ("M", 1)]
    swapped = f"{HEADER}\nshirt,Shirt,Size,M,21,S-2\nshirt,,,L,22,\nshirt,,,S,20,S-1\n"
    assert counts(await import_file(database, store, swapped)) == (0, 1, 0)
    assert [row.name for row in await database.fetch(variants_in_order())] == ["M", "L", "S"]
    # A gap is no difference.
    without_large = "\n".join(line for line in swapped.splitlines() if ",L," not in line)
    assert counts(await import_file(database, store, without_large, delete_missing_variants=True)) == (0, 1, 0)
    assert counts(await import_file(database, store, without_large, delete_missing_variants=True)) == (0, 0, 1)
    assert await database.fetch(variants_in_order()) == [("M", 1), ("S", 3)]


async def test_rejected_row_keeps_the_order_and_appends_new_variants(database: Database, store: str) -> None:
    await import_file(database, store, SHIRT)
    await import_file(database, store, f"{HEADER}\nshirt,Shirt,Size,L,22,\nshirt,,,M,oops,S-2\nshirt,,,S,20,S-1\n")
    assert await database.fetch(variants_in_order()) == [("S", 0), ("M", 1), ("L", 2)]


async def test_dry_run_counts_and_writes_nothing(database: Database, store: str) -> None:
    await import_file(database, store, SHIRT)
    before = await database.fetch(all_products())
    summary = await import_file(database, store, SHIRT.replace("20", "19") + "mug,Mug,,,5\n", dry_run=True)
    assert counts(summary) == (1, 1, 0)
    assert summary.position is None
    assert await database.fetch(all_products()) == before
    assert len(await log.read_entries(database, store, 0, 10)) == 1


async def test_batches_keep_file_order_and_report_progress(database: Database, store: str) -> None:
    seen: list[int] = []
    summary = await import_file(database, store, many(1_001), on_progress=lambda so_far: seen.append(so_far.rows))
    assert (summary.created, summary.position) == (1_001, 1_001)
    assert seen == [1_000, 2_000, 2_002]
    assert [row.handle for row in await database.fetch(all_products())] == [f"p-{n}" for n in range(1_001)]


async def test_statement_count_is_independent_of_products(database: Database, store: str) -> None:
    async def statements(file: str) -> int:
        seen: list[str] = []
        database.observers.append(seen.append)
        await import_file(database, store, file)
        database.observers.remove(seen.append)
        return len(seen)

    assert await statements(many(1)) == await statements(many(50, price=6).replace("p-", "q-"))
    assert await statements(many(1, price=7)) == await statements(many(50, price=8).replace("p-", "q-"))


async def test_repeated_product_in_import_is_updated(database: Database, store: str) -> None:
    files = (io.BytesIO(f"{HEADER}\nmug,Mug,,,{price}\n".encode()) for price in (5, 6))
    summary = await import_products(database, store, (item for file in files for item in read_csv_products(file, "shop.csv")))
    assert counts(summary) == (1, 1, 0)


async def test_stores_do_not_touch_each_other(database: Database, store: str) -> None:
    other = await new_store(database)
    await import_file(database, store, SHIRT)
    assert counts(await import_file(database, other, SHIRT)) == (1, 0, 0)
    assert len(await database.fetch(all_products())) == 2


async def test_concurrent_imports_converge(database: Database, store: str) -> None:
    forwards = many(200)
    backwards = f"{HEADER}\n" + "".join(f"p-{n},P,Size,S,5\np-{n},,,M,5\n" for n in reversed(range(200)))
    done = await asyncio.gather(*(import_file(database, store, file) for file in (forwards, backwards) * 2))
    assert sum(summary.created for summary in done) == 200
    assert sum(summary.unchanged for summary in done) == 600
    assert len(await database.fetch(all_variants())) == 400


async def test_rejected_rows_alone_use_no_database(database: Database, store: str) -> None:
    seen: list[str] = []
    database.observers.append(seen.append)
    summary = await import_file(database, store, f"{HEADER}\n,Mug,,,5\n")
    assert (summary.rows, len(summary.row_errors), seen) == (1, 1, [])


async def test_hidden_variants_stay_hidden(database: Database, store: str) -> None:
    await import_file(database, store, SHIRT)
    await database.fetch(compile_statement(update(variants).values(is_available=False).where(text("sku = 'S-1'"))))
    await import_file(database, store, SHIRT.replace("S,20", "S,18"))
    assert [row.is_available for row in await database.fetch(all_variants())] == [False, True]


async def test_missing_columns_keep_stored_values(database: Database, store: str) -> None:
    await import_file(
        database,
        store,
        "Handle,Title,Variant Price,Variant Compare At Price,Status,SEO Title,Tags\nmug,Mug,10,15,archived,Best mug,a\n",
    )
    await import_file(database, store, "Handle,Title,Variant Price\nmug,Big mug,12\n")
    (row,) = await database.fetch(all_products())
    assert (row.title, row.price, row.compare_at_price) == ("Big mug", "12.00", "15.00")
    assert (row.status, row.seo_title, row.tags, row.version) == ("archived", "Best mug", ["a"], 2)


FULL_HEADER = f"{HEADER},Variant Barcode,Variant Grams,Variant Inventory Tracker,Variant Inventory Qty"
PLAIN_MUG = f"{FULL_HEADER}\nmug,Mug,,,5,M-1,,9,4006381333931,250,shopify,7\n"


async def test_product_without_options_keeps_values_of_its_variant(database: Database, store: str) -> None:
    names = ("id", "name", "sku", "barcode", "weight", "inventory", "price", "compare_at_price")
    statement = compile_statement(select(*(variants.c[name] for name in names)))
    await import_file(database, store, PLAIN_MUG)
    [before] = await database.fetch(statement)
    weight = {"value": "250.000", "unit": "gram"}
    assert before[1:] == ("Default", "M-1", "4006381333931", weight, 7, "5.00", "9.00")
    # Columns that a file does not have leave the stored values.
    await import_file(database, store, "Handle,Title,Option1 Name,Option1 Value,Variant Price\nmug,Mug,Title,Default Title,6\n")
    assert await database.fetch(statement) == [(*before[:6], "6.00", "9.00")]
    [mug] = await database.fetch(all_products())
    assert (mug.price, mug.compare_at_price, mug.inventory, mug.variants_total) == ("6.00", "9.00", 7, 1)
    assert counts(await import_file(database, store, PLAIN_MUG)) == (0, 1, 0)
    assert await database.fetch(statement) == [before]


async def test_options_replace_the_variant_without_them(database: Database, store: str) -> None:
    await import_file(database, store, PLAIN_MUG)
    [plain] = await database.fetch(all_variants())
    await import_file(database, store, f"{HEADER}\nmug,Mug,Size,S,5,M-1\nmug,,,M,6,M-2\n")
    small, medium = await database.fetch(all_variants())
    # The SKU says which of them it is.
    assert (small.id, small.name, small.inventory, medium.name) == (plain.id, "S", 7, "M")
    # Cells without options say nothing of them.
    await import_file(database, store, PLAIN_MUG.replace("mug,Mug,,,5", "mug,Mug,,,9"))
    rows = [(row.id, row.name, row.price) for row in await database.fetch(all_variants())]
    assert rows == [(plain.id, "S", "9.00"), (medium.id, "M", "6.00")]
    without_options = PLAIN_MUG.replace("mug,Mug,,,5", "mug,Mug,Title,Default Title,5")
    await import_file(database, store, without_options, delete_missing_variants=True)
    assert [(row.id, row.name) for row in await database.fetch(all_variants())] == [(plain.id, "Default")]


async def test_summary_includes_variants_that_stay(database: Database, store: str) -> None:
    stock = f"{HEADER},Variant Inventory Tracker,Variant Inventory Qty\n"
    await import_file(database, store, f"{stock}mug,Mug,Size,S,5,,,8,shopify,2\nmug,,,M,6,,,9,shopify,3\n")
    summary = await import_file(database, store, f"{stock}mug,Mug,Size,L,7,,,,shopify,4\nmug,,,S,oops\nmug,,,M,4,,,9,shopify,1\n")
    assert (counts(summary), summary.rejected) == ((0, 1, 0), 1)
    [mug] = await database.fetch(all_products())
    assert (mug.price, mug.compare_at_price, mug.max_price) == ("4.00", "9.00", "7.00")
    assert (mug.inventory, mug.variants_total, mug.variants_in_stock) == (7, 3, 3)
    [_, entry] = await log.read_entries(database, store, 0, 10)
    assert entry.changed_fields == ["variants", "price", "compareAtPrice", "inventory", "options"]


async def test_variant_that_would_equal_one_that_stays_is_rejected(database: Database, store: str) -> None:
    await import_file(database, store, SHIRT + "mug,Mug,,,5\n")
    before = await database.fetch(all_variants())
    # By its SKU the first row is the small one, which would become a second medium one: the row of that is rejected.
    swapped = f"{HEADER}\nshirt,Shirt,Size,M,20,S-1\nshirt,,,S,oops,S-2\nmug,Mug,,,5,\ncup,Cup,,,5,\n"
    summary = await import_file(database, store, swapped)
    assert (counts(summary), summary.rejected) == ((1, 0, 2), 2)
    assert "would give two variants the options “M”" in summary.row_errors[-1].problem
    assert (await database.fetch(all_variants()))[:3] == before


@pytest.mark.parametrize(("price", "expected"), [("12", "15.00"), ("15", None), ("16", None)])
async def test_stored_compare_at_price_that_is_reached_is_dropped(
    database: Database, store: str, price: str, expected: str | None
) -> None:
    await import_file(database, store, "Handle,Title,Variant Price,Variant Compare At Price\nmug,Mug,10,15\n")
    for _ in range(2):
        await import_file(database, store, f"Handle,Title,Variant Price\nmug,Mug,{price}\n")
        [mug] = await database.fetch(all_products())
        assert (mug.price, mug.compare_at_price, mug.version) == (f"{price}.00", expected, 2)


async def test_variants_match_by_sku_first(database: Database, store: str) -> None:
    await import_file(database, store, SHIRT)
    small, medium = await database.fetch(all_variants())
    swapped = SHIRT.replace("S-1", "x").replace("S-2", "S-1").replace("x", "S-2")
    assert counts(await import_file(database, store, swapped)) == (0, 1, 0)
    rows = {row.id: (row.name, row.sku) for row in await database.fetch(all_variants())}
    assert rows == {small.id: ("M", "S-1"), medium.id: ("S", "S-2")}


async def test_ambiguous_sku_is_not_matched(database: Database, store: str) -> None:
    await import_file(database, store, SHIRT.replace("S-2", "S-1"))
    before = await database.fetch(all_variants())
    assert counts(await import_file(database, store, SHIRT.replace("S-2", "S-1"))) == (0, 0, 1)
    await import_file(database, store, SHIRT.replace("S-2", "S-1").replace("20", "22"))
    assert [row.id for row in await database.fetch(all_variants())] == [row.id for row in before]
