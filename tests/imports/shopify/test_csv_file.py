"""Reader of Shopify's product CSV: parsed products, rejected rows, and their messages."""

import csv
import io
import tracemalloc
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from storefront.imports.files.opening import UnreadableFileError
from storefront.imports.product_parser import clamp_inventory
from storefront.imports.row_types import Checkpoint, EarlyStop, ProductRow, RowError
from storefront.imports.shopify.csv_file import read_csv_products

HEADER = "Handle,Title,Option1 Name,Option1 Value,Option2 Name,Option2 Value,Variant Price"


def items(text: str) -> list[ProductRow | RowError]:
    return [
        item for item in read_csv_products(io.BytesIO(text.encode()), "shop.csv") if not isinstance(item, Checkpoint | EarlyStop)
    ]


def products(text: str) -> list[ProductRow]:
    return [item for item in items(text) if isinstance(item, ProductRow)]


def rejections(text: str) -> list[RowError]:
    return [item for item in items(text) if isinstance(item, RowError)]


def one(**cells: str) -> str:
    """A file of one row: a valid product with the given cells; underscores in column names stand for spaces."""
    row = {"Handle": "mug", "Title": "Mug", "Variant Price": "5"}
    row |= {name.replace("_", " "): cell for name, cell in cells.items()}
    file = io.StringIO(newline="")
    csv.writer(file).writerows([row.keys(), row.values()])
    return file.getvalue()


def product(**cells: str) -> ProductRow:
    [only] = products(one(**cells))
    return only


def reason(**cells: str) -> str:
    [only] = items(one(**cells))
    assert isinstance(only, RowError)
    assert only.line == 2
    return only.reason


def test_rows_of_one_handle_are_one_product_with_variants() -> None:
    text = f"{HEADER}\nshirt,Shirt,Size,S,Colour,Red,20\nshirt,,,M,,Red,18.5\nmug,Mug,,,,,5\n"
    shirt, mug = products(text)
    assert [variant.name for variant in shirt.variants] == ["S / Red", "M / Red"]
    assert shirt.variants[1].attributes == {"Size": "M", "Colour": "Red"}
    assert [variant.price for variant in shirt.variants] == [Decimal(20), Decimal("18.50")]
    assert (shirt.line, shirt.row_count, mug.line, mug.row_count) == (2, 2, 4, 1)


def test_header_aliases_case_and_bom_are_accepted() -> None:
    header = '\ufeff"URL HANDLE",Title,Description,SKU,Price,Compare-at price,Inventory quantity,Inventory tracker,'
    header += "Product image URL,Variant image URL,Published on online store,SEO title"
    row = "mug,Mug,Holds tea,M-1,5,9,3,shopify,https://x.example/1.jpg,https://x.example/2.jpg,FALSE,Mugs"
    [mug] = products(f"{header}\r\n{row}\r\n")
    assert (mug.handle, mug.raw_html, mug.seo_title, mug.status) == ("mug", "Holds tea", "Mugs", "inactive")
    [only] = mug.variants
    assert (only.sku, only.price, only.compare_at_price, only.inventory) == ("M-1", Decimal(5), Decimal(9), 3)
    assert mug.images == ["https://x.example/1.jpg", "https://x.example/2.jpg"]


@pytest.mark.parametrize(
    ("header", "problem"), [("Colour,Size", "Handle"), ("Price,Grams", "Variant SKU"), ("", "first row is empty")]
)
def test_missing_columns_are_rejected(header: str, problem: str) -> None:
    with pytest.raises(UnreadableFileError, match=f"shop.csv: .*{problem}"):
        read_csv_products(io.BytesIO(header.encode()), "shop.csv")


@pytest.mark.parametrize("content", [b"Handle,Tit\xe9le\nmug,Mug\n", "Handle,Title".encode("utf-16")])
def test_non_utf8_file_is_rejected(content: bytes) -> None:
    with pytest.raises(UnreadableFileError, match="UTF-8"):
        read_csv_products(io.BytesIO(content), "shop.csv")


def test_invalid_byte_rejects_only_its_record() -> None:
    content = b"Handle,Title,Price\n" + b"".join(b"mug-%d,Mug,5\n" % n for n in range(5_000)) + b"cup,Tass\xe9,5\n"
    found = [item for item in read_csv_products(io.BytesIO(content), "shop.csv") if not isinstance(item, Checkpoint)]
    [wrong] = [item for item in found if isinstance(item, RowError)]
    assert "UTF-8" in wrong.reason
    assert len(found) - 1 == wrong.line - 2 > 4_000


@pytest.mark.parametrize("options", [{"Option1_Name": "Title", "Option1_Value": "Default Title"}, {}], ids=["default", "none"])
def test_product_without_options_has_one_variant(options: dict[str, str]) -> None:
    stock = {"Variant_Inventory_Tracker": "shopify", "Variant_Inventory_Qty": "3"}
    ids = {"Variant_SKU": "M-1", "Variant_Barcode": "4006381333931", "Variant_Grams": "250"}
    [only] = product(**options, **stock, **ids, Variant_Compare_At_Price="8").variants
    assert (only.name, only.attributes, only.price, only.compare_at_price) == ("Default", {}, Decimal(5), Decimal(8))
    assert (only.inventory, only.sku, only.barcode) == (3, "M-1", "4006381333931")
    assert only.weight == {"value": "250.000", "unit": "gram"}
    [plain] = product(**options).variants
    assert (plain.name, plain.attributes, plain.inventory, plain.sku, plain.weight) == ("Default", {}, None, None, None)


def test_equal_options_are_compared_without_case() -> None:
    text = f"{HEADER}\nshirt,Shirt,Size,S,,,20\nshirt,,,s,,,21\n"
    assert [variant.name for variant in products(text)[0].variants] == ["S"]
    assert [item.reason for item in rejections(text)] == ["Option1 Value: “s” is already on line 2: change or remove one"]


@pytest.mark.parametrize("before", ["5", "4.99", "0", ""])
def test_lower_compare_at_price_is_dropped(before: str) -> None:
    [only] = product(Variant_Compare_At_Price=before).variants
    assert only.compare_at_price is None


def test_tracked_inventory_is_clamped() -> None:
    header = "Handle,Title,Option1 Name,Option1 Value,Price,Inventory tracker,Inventory quantity"
    rows = "mug,Mug,Size,S,5,shopify,3\nmug,,,M,5,shopify,-2\nmug,,,L,5,,7\nmug,,,XL,5,shopify,\n"
    [mug] = products(f"{header}\n{rows}")
    assert [clamp_inventory(variant.inventory, "deny") for variant in mug.variants] == [3, 0, None, None]
    assert ["inventory" in variant.stated_fields for variant in mug.variants] == [True, True, True, False]
    assert mug.track_inventory


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ({"Qty": "7"}, (7, True)),
        ({"Qty": ""}, (None, False)),
        ({"Tracker": "shopify"}, (None, False)),
        ({"Tracker": ""}, (None, True)),
        ({"Tracker": "", "Qty": "7"}, (None, True)),
        ({"Tracker": "FALSE", "Qty": "7"}, (None, True)),
        ({"Tracker": "true", "Qty": "7"}, (7, True)),
        ({"Tracker": "shopify", "Qty": ""}, (None, False)),
        ({}, (None, False)),
    ],
)
def test_inventory_is_stated_by_a_quantity_or_its_absence(cells: dict[str, str], expected: tuple[int | None, bool]) -> None:
    [only] = product(**{f"Variant Inventory {name}": cell for name, cell in cells.items()}).variants
    assert (only.inventory, "inventory" in only.stated_fields) == expected


def test_images_are_unique_and_ordered() -> None:
    header = "Handle,Title,Option1 Name,Option1 Value,Price,Image Src,Image Position,Variant Image"
    rows = "mug,Mug,Size,S,5,//b,2,//v\nmug,,,M,5,//a,1,//b\nmug,,,,,//c,,\nmug,,,,,//a,4,\n".replace("//", "https://x.example/")
    [mug] = products(f"{header}\n{rows}")
    assert mug.images == [f"https://x.example/{name}" for name in "abcv"]
    assert (mug.row_count, len(mug.variants)) == (4, 2)


@pytest.mark.parametrize(
    ("status", "published", "expected"),
    [
        ("Active", "false", "inactive"), ("Active", "true", "active"), ("Active", "", "active"),
        ("draft", "true", "inactive"), ("draft", "false", "inactive"), ("unlisted", "TRUE", "inactive"),
        ("archived", "", "archived"), ("archived", "false", "archived"), ("archived", "true", "archived"),
        ("", "", "active"), ("", "FALSCH", "inactive"), ("", "0", "inactive"), ("", "VRAI", "active"), ("", "yes", "active"),
    ],
)  # fmt: skip
def test_only_published_active_products_are_shown(status: str, published: str, expected: str) -> None:
    assert product(Status=status, Published=published).status == expected


def test_type_and_category_are_fields_of_their_own() -> None:
    mug = product(Vendor="Potter", Type="Cups", Product_Category="Home & Garden > Kitchen > Mugs")
    assert (mug.vendor, mug.product_type, mug.category) == ("Potter", "Cups", "Home & Garden > Kitchen > Mugs")
    assert (product().vendor, product().product_type, product().category) == (None, None, None)


@pytest.mark.parametrize(("cell", "expected"), [("TRUE", True), ("oui", True), ("false", False), ("", False)])
def test_gift_cards_are_parsed(cell: str, expected: bool) -> None:
    card = product(Gift_Card=cell)
    assert card.gift_card is expected
    assert ("gift_card" in card.stated_fields) == bool(cell)


def test_tags_are_trimmed_and_unique_in_order() -> None:
    assert product(Tags=" tea, gift,,tea ,new").tags == ["tea", "gift", "new"]


def test_handles_are_normalised() -> None:
    assert product(Handle=" Blue  Mug ").handle == "blue-mug"
    assert product(Handle="Tasse-Größe_1").handle == "tasse-größe-1"


def test_line_numbers_count_breaks_in_cells() -> None:
    text = 'Handle,Title,Body (HTML),Price\nmug,Mug,"a\nb\n",5\n\n,,,\ncup,Cup,,x\n'
    assert products(text)[0].raw_html == "a\nb"
    assert [item.line for item in rejections(text)] == [7]


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        *(({"Variant_Price": wrong}, "is not an amount") for wrong in ("abc", "NaN", "-1", "1e5", "1,299.00", "٣", ".", "$5")),
        ({"Variant_Price": "1" + "0" * 15}, "below 1,000,000,000,000,000"),
        ({"Variant_Price": "0" * 131_000 + "x"}, "131,001 characters, at most 64"),
        ({"Variant_Price": "9.99999"}, "more decimals than any currency"),
        ({"Variant_Compare_At_Price": "abc"}, "Variant Compare At Price: “abc”"),
        ({"Variant_Inventory_Qty": "1.5"}, "Variant Inventory Qty: “1.5” is not a whole number"),
        ({"Variant_Inventory_Qty": "3000000000"}, "at most 2,147,483,647"),
        ({"Title": "x" * 256}, "Title: has 256 characters, at most 255"),
        ({"SEO_Description": "x" * 65_537}, "has 65,537 characters, at most 65,536"),
        ({"Tags": ",".join(map(str, range(251)))}, "Tags: has 251 tags, at most 250"),
        ({"Tags": "x" * 256}, "Tags: has a tag of 256 characters"),
        ({"Status": "gone"}, "Status: “gone” is none of active, draft, archived"),
        ({"Published": "maybe"}, "Published: “maybe” is none of true, false"),
        ({"Handle": " "}, "Handle: is missing"),
        ({"Handle": "™ 🎉"}, "Handle: “™ 🎉” has no letter or digit"),
        ({"Handle": "ﷺ" * 20}, "Handle: has 360 characters, at most 255"),
        ({"Handle": "--"}, "Handle: “--”"),
        ({"Title": "a\0b"}, "Title: contains a NUL"),
        ({"Option4_Name": "Fit", "Option4_Value": "Slim"}, "a product may have 3 options"),
        ({"Option1_Name": "Size", "Option1_Value": ""}, "Option1 Value: is missing"),
        ({"Option1_Value": "M", "Option2_Name": "Size", "Option2_Value": "M"}, "Option1 Name: is missing"),
        ({"Option1_Name": "A", "Option1_Value": "1", "Option2_Name": "A", "Option2_Value": "2"}, "“A” names two options"),
        ({"Option1_Name": "A", "Option1_Value": "1", "Option2_Name": "a", "Option2_Value": "2"}, "“a” names two options"),
    ],
)
def test_invalid_product_is_rejected(cells: dict[str, str], words: str) -> None:
    assert words in reason(**cells)


@pytest.mark.parametrize(
    ("price", "expected"), [("19.99000", "19.99"), ("0", "0"), ("007.5", "7.5"), ("999999999999999.9999", "999999999999999.9999")]
)
def test_prices_are_read_exactly(price: str, expected: str) -> None:
    assert [str(variant.price) for variant in product(Variant_Price=price).variants] == [expected]


def test_invalid_variant_rejects_only_its_row() -> None:
    text = f"{HEADER}\nshirt,Shirt,Size,S,,,20\nshirt,,,M,,,x\nshirt,,,L,,,20\nshirt,,,S,,,21\nshirt,,Fit,XL,,,20\n"
    [shirt] = products(text)
    assert [variant.name for variant in shirt.variants] == ["S", "L"]
    assert not shirt.is_complete
    found = [(item.line, item.handle, item.reason.partition(" is")[0]) for item in rejections(text)]
    assert found == [(3, "shirt", "Variant Price: “x”"), (5, "shirt", "Option1 Value: “S”"), (6, "shirt", "Option1 Name: “Fit”")]


def test_invalid_first_row_rejects_product() -> None:
    text = f"{HEADER}\nshirt,Shirt,Size,S,,,free\nshirt,,,M,,,20\nmug,Mug,,,,,5\n"
    assert [item.handle for item in products(text)] == ["mug"]
    assert [item.reason for item in rejections(text)][1] == "belongs to the rejected product on line 2"


def test_repeated_handle_is_rejected() -> None:
    text = f"{HEADER}\nmug,Mug,,,,,5\ncup,Cup,,,,,5\nMug,Mug,,,,,6\nmug,Mug,,,,,7\n"
    assert [item.variants[0].price for item in products(text)] == [Decimal(5), Decimal(5)]
    assert [(item.line, "line 2" in item.reason) for item in rejections(text)] == [(4, True), (5, True)]


def test_row_without_handle_does_not_end_product() -> None:
    [shirt] = products(f"{HEADER}\nshirt,Shirt,Size,S,,,20\n,,,M,,,20\nshirt,,,L,,,20\n")
    assert (len(shirt.variants), shirt.is_complete) == (2, False)


def test_surplus_cell_is_rejected() -> None:
    [only] = rejections("Handle,Title,Price\nmug,Mug, white,5\n")
    assert "more cells than the header" in only.reason


def test_short_row_has_empty_cells() -> None:
    [mug] = products("Handle,Title,Price,Type,Tags\nmug,Mug,5\n")
    assert (mug.category, mug.tags) == (None, [])


INVALID_CELLS = {
    '"never closed\nx,X,1': "not valid CSV",
    '"x"y': "not valid CSV",
    '"' + "x" * 131_073 + '"': "131,072 characters",
}


@pytest.mark.parametrize(("cell", "problem"), INVALID_CELLS.items(), ids=["open", "quoted in part", "long"])
def test_invalid_csv_record_is_rejected(cell: str, problem: str) -> None:
    text = f"Handle,Title,Price\nmug,Mug,5\ncup,{cell},5\n"
    [mug] = products(text)
    assert mug.handle == "mug"
    [rejection] = rejections(text)
    assert rejection.line == 3 and problem in rejection.reason


def test_reading_continues_after_invalid_csv() -> None:
    assert [item.handle for item in products('Handle,Title,Price\ncup,"x"y,5\nmug,Mug,5\n')] == ["mug"]


def test_images_per_product_are_limited() -> None:
    rows = "".join(f"mug,,,https://x.example/{n}\n" for n in range(1, 252))
    text = f"Handle,Title,Price,Image Src\nmug,Mug,5,https://x.example/0\n{rows}"
    assert len(products(text)[0].images) == 250
    assert [item.line for item in rejections(text)] == [252, 253]
    assert "number 251" in rejections(text)[0].reason


def test_memory_is_independent_of_file_size(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        path = tmp_path / f"{count}.csv"
        path.write_text("Handle,Title,Body (HTML),Price\n" + "".join(f"mug-{n},Mug,{'tea ' * 250},5\n" for n in range(count)))
        tracemalloc.start()
        with path.open("rb") as file:
            seen = exhausted(read_csv_products(file, "shop.csv"))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert seen == count
        return most

    # Handles stay in memory, some 200 bytes each; the kilobyte of each product does not.
    assert peak(4_000) - peak(1_000) < 3_000 * 400


def exhausted(iterator: Iterator[object]) -> int:
    return sum(isinstance(item, ProductRow) for item in iterator)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_resuming_from_any_checkpoint_yields_rest(end: str) -> None:
    text = (
        HEADER
        + end
        + "".join(
            f'p-{n},"A ""product""{end}é",Size,S,,,{n}{end}p-{n},,,M,,,oops{end}{end}' + ("!,,,,,,1" + end) * (n % 3)
            for n in range(12)
        )
    )
    content = f"\ufeff{text}".encode()
    found = list(read_csv_products(io.BytesIO(content), "shop.csv", remember_handles=False))
    marks = [n for n, item in enumerate(found) if isinstance(item, Checkpoint)]
    assert len(marks) == 13
    for n in marks:
        mark = found[n]
        assert isinstance(mark, Checkpoint)
        rest = list(read_csv_products(io.BytesIO(content), "shop.csv", mark.resume_point, remember_handles=False))
        # The checkpoint that it resumes from is repeated.
        assert [item for item in rest if item != mark] == found[n + 1 :]


def test_endless_line_is_never_buffered() -> None:
    content = b"Handle,Title,Price\nmug,Mug,5\n" + b"x" * 5_000_000 + b"\ncup,Cup,5\n"
    found = [item for item in read_csv_products(io.BytesIO(content), "shop.csv") if not isinstance(item, Checkpoint)]
    assert [item.handle for item in found if isinstance(item, ProductRow)] == ["mug", "cup"]
    assert len([item for item in found if isinstance(item, RowError)]) >= 1


def test_only_own_files_are_unquoted() -> None:
    for column, title in (("Storefront", "=x"), ("Storefront (formulas as they are)", "'=x"), ("Vendor", "'=x")):
        [mug] = products(f"Handle,Title,Price,{column}\nmug,'=x,5,\n")
        assert mug.title == title


def test_list_of_urls_in_one_cell_is_several_images() -> None:
    urls = ["https://x.example/1.jpg?a=1,b=2", "http://x.example/2.jpg", "https://x.example/3.jpg"]
    for separator in (",", ", ", " ", "\n", ";", " | "):
        assert product(Image_Src=separator.join(urls)).images == urls


@pytest.mark.parametrize("column", ["Image Src", "Variant Image"])
@pytest.mark.parametrize(
    "url",
    ["javascript:alert(1)", "img/cup.png", "/img/cup.png", "//x.example/1.jpg", "data:image/png;base64,AA", "x.example/1.jpg",
     "ftp://x.example/1.jpg", "https://", "https://x.example/a b.jpg", "https://x.example/1.jpg, img/2.jpg"],
)  # fmt: skip
def test_image_that_is_no_web_address_is_rejected(column: str, url: str) -> None:
    found = reason(**{column: url})
    assert found.startswith(f"{column}: “") and "must be a web address" in found


def test_lossless_cell_with_image_that_is_no_web_address_is_rejected() -> None:
    for cell in ('{"product": {"images": ["javascript:alert(1)"]}}', '{"variant": {"image": "1.jpg"}}'):
        assert "must be a web address" in reason(Storefront=cell)


def test_columns_that_need_another_one_are_not_taken() -> None:
    only = product(Option2_Name="Size", Option2_Value="M", Variant_Weight_Unit="stone", Image_Position="1").variants[0]
    assert (only.attributes, only.weight) == ({}, None)
    assert not only.stated_fields & {"attributes", "weight"}
