"""Files as spreadsheets write them: encodings, delimiters, decimal commas, workbooks and archives."""

import csv
import gzip
import io
import zipfile
from contextlib import suppress
from decimal import Decimal
from tempfile import TemporaryFile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storefront.imports.catalogue_file import FileOptions, open_catalogue
from storefront.imports.files.encodings import Encoding, convert_to_utf_8
from storefront.imports.files.numbers import DecimalSeparator, NumberColumns, NumberFormat, UnclearNumberError, normalize_number
from storefront.imports.files.opening import UnreadableFileError
from storefront.imports.row_types import Checkpoint, ProductRow, RowError, SourceItem
from tests.imports.workbooks import build_sheet_workbook, build_workbook, render_sheet

GERMAN = "Handle;Title;Variant Price;Variant Inventory Qty;Variant Grams;Published\n"
GERMAN += "mug;Tässe;19,90;7;250;WAHR\ncup;Cup “x”;1.299,00;5;1,5;FALSCH\n"
MUG = b"Handle,Title,Price\nmug,Mug,5\n"


async def read(content: bytes, max_bytes: int = 50_000_000, **options: Any) -> list[SourceItem]:
    with TemporaryFile() as file:
        file.write(content)
        limits = {"max_bytes": max_bytes, "max_rows": 100_000}
        async with open_catalogue(file, "shop", FileOptions(**options), None, **limits) as catalogue:
            return [item async for item in catalogue.items]


async def read_products(content: bytes, **options: Any) -> list[ProductRow]:
    """The products; fails if a row is rejected."""
    items = [item for item in await read(content, **options) if not isinstance(item, Checkpoint)]
    products = [item for item in items if isinstance(item, ProductRow)]
    assert products == items
    return products


async def read_errors(content: bytes, **options: Any) -> list[tuple[int, str]]:
    return [(item.line, item.reason) for item in await read(content, **options) if isinstance(item, RowError)]


async def load_reading(content: bytes, **options: Any) -> dict[str, Any]:
    last = (await read(content, **options))[-1]
    assert isinstance(last, Checkpoint)
    file: dict[str, Any] = last.resume_point["file"]
    return file


async def refuse(content: bytes, **options: Any) -> str:
    with pytest.raises(UnreadableFileError) as error:
        await read(content, **options)
    assert len(str(error.value)) < 400
    return str(error.value)


def pack(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


# -------------------------------------------------------------------------------------- encodings, delimiters


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
@pytest.mark.parametrize(
    ("codec", "name"),
    [
        ("utf-8", "UTF-8"),
        ("utf-8-sig", "UTF-8 with BOM"),
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16"),
        ("utf-16-be", "UTF-16"),
        ("cp1252", "Windows-1252"),
    ],
)
async def test_encoding_and_delimiter_are_detected(codec: str, name: str, delimiter: str) -> None:
    content = GERMAN.replace(";", delimiter).encode(codec)
    mug, cup = await read_products(content)
    assert (mug.title, cup.title, mug.status, cup.status) == ("Tässe", "Cup “x”", "active", "inactive")
    assert [product.variants[0].price for product in (mug, cup)] == [Decimal("19.9"), Decimal(1299)]
    assert cup.variants[0].weight == {"value": "1.500", "unit": "gram"}
    file = await load_reading(content)
    assert (file["encoding"], file["delimiter"]) == (name, delimiter)
    assert file["decimalCommaColumns"] == ["Variant Price", "Variant Grams"]


@pytest.mark.parametrize("end", ["\r\n", "\n"])
@pytest.mark.parametrize("first", ["sep=;", "SEP=;", '"sep=;"'])
async def test_delimiter_line_is_obeyed(first: str, end: str) -> None:
    content = f"{first}{end}Handle;Title;Price{end}mug;Mug, big;5{end}mug2;Mug;x{end}".encode("utf-8-sig")
    items = await read(content)
    assert [item.title for item in items if isinstance(item, ProductRow)] == ["Mug, big"]
    assert [item.line for item in items if isinstance(item, RowError)] == [4]


async def test_unusual_delimiter_line_is_refused() -> None:
    assert "“#”" in await refuse(b"sep=#\nHandle#Title\n")


async def test_broken_characters_reject_their_row() -> None:
    rows = "Handle,Title,Price\nmug,Tässe,5\ncup,C\udc00,6\nhat,Hütte,7\n"
    content = rows.encode("utf-16-le", "surrogatepass")
    [(line, reason)] = await read_errors(content)
    assert (line, "UTF-8" in reason) == (3, True)
    assert [line for line, _ in await read_errors("Handle,Title,Price\n".encode("utf-16") + b"m\0u")] == [2]
    many = "".join(f"mug-{n},Größe,5\n" for n in range(50)).encode()
    assert [line for line, _ in await read_errors(b"Handle,Title,Price\n" + many + b"cup,Tass\xe9,5\n")] == [52]
    many = b"".join(b"mug-%d,Gr\xf6\xdfe,5\n" % n for n in range(50))
    assert [line for line, _ in await read_errors(b"Handle,Title,Price\n" + many + b"hat,a\x81b,5\n")] == [52]


@pytest.mark.parametrize("codec", ["cp1251", "koi8-r", "utf-32"])
async def test_other_encodings_are_refused(codec: str) -> None:
    assert "CSV UTF-8" in await refuse("Handle,Title,Price\nmug,Кружка синяя,5\n".encode(codec))


@pytest.mark.parametrize("codec", ["shift_jis", "euc_jp", "gb18030"])
@pytest.mark.parametrize("title", ["茶碗と湯呑み", "コップ", "お皿とカップのセット"])
async def test_other_encodings_are_never_misread(codec: str, title: str) -> None:
    content = f"Handle,Title,Price\nmug,{title},5\n".encode(codec)
    items = list[SourceItem]()
    # Refused as a whole, or by row.
    with suppress(UnreadableFileError):
        items = await read(content)
    assert not any(isinstance(item, ProductRow) for item in items)


@given(st.lists(st.text(st.characters(codec="cp1252", exclude_categories=["Cc"]), max_size=20), min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_windows_1252_is_converted_as_python_does(titles: list[str]) -> None:
    text, target = "\n".join(titles), io.BytesIO()
    convert_to_utf_8(io.BytesIO(text.encode("cp1252")), target, Encoding("Windows-1252", "cp1252"))
    assert target.getvalue().decode() == text


# ------------------------------------------------------------------------------------------ decimal separators


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["19,90", "1.299,00", "5"], NumberFormat.COMMA),
        (["19,90", "1.299"], NumberFormat.COMMA),
        (["0,500"], NumberFormat.COMMA),
        (["1.234.567"], NumberFormat.COMMA),
        (["1 299,90"], NumberFormat.COMMA),
        (["1’299,90"], NumberFormat.COMMA),
        (["19.90", "1299.00"], None),
        (["1,299.00", "5.00"], NumberFormat.POINT),
        (["1,299", "19.90"], NumberFormat.POINT),
        (["1,29,999.50"], NumberFormat.POINT),
        (["12,34,567"], NumberFormat.POINT),
        (["1.299"], None),
        (["1,299", "2,499"], NumberFormat.UNCLEAR),
        (["19,90", "19.90"], NumberFormat.UNCLEAR),
        (["abc", "1,2,3", ""], None),
    ],
)
def test_whole_column_decides(cells: list[str], expected: NumberFormat | None) -> None:
    for order in (cells, cells[::-1]):
        numbers = NumberColumns()
        for cell in order:
            numbers.add_cell("price", cell)
        assert numbers.decide_formats().get("price") is expected


def test_other_columns_make_thousands_unclear() -> None:
    numbers = NumberColumns()
    for column, cell in (("price", "19,90"), ("stock", "1.000"), ("weight", "250"), ("cost", "7.5")):
        numbers.add_cell(column, cell)
    assert numbers.decide_formats() == {"price": NumberFormat.COMMA, "stock": NumberFormat.UNCLEAR}


@given(st.decimals(0, 99_999_999, places=2, allow_nan=False), st.sampled_from(["", ".", " ", "'", "\u00a0"]))
@settings(max_examples=200, deadline=None)
def test_number_with_commas_is_normalized_exactly(amount: Decimal, group: str) -> None:
    whole, _, decimals = f"{amount:,}".partition(".")
    assert Decimal(normalize_number(f"{whole.replace(',', group)},{decimals}", NumberFormat.COMMA)) == amount
    assert Decimal(normalize_number(f"{amount:,}", NumberFormat.POINT)) == amount


@pytest.mark.parametrize("cell", ["1,2,3", "1.2.3,4", "12.34,5", "abc", "1,,5", "-", ""])
def test_what_is_no_number_stays(cell: str) -> None:
    assert normalize_number(cell, NumberFormat.COMMA) == cell


@pytest.mark.parametrize("cell", ["1.299", "1,299", "19,90"])
def test_unclear_number_is_an_error(cell: str) -> None:
    with pytest.raises(UnclearNumberError, match="decimal separator"):
        normalize_number(cell, NumberFormat.UNCLEAR)


async def test_cells_in_doubt_are_rejected_with_their_row() -> None:
    content = b'Handle,Title,Price\nmug,Mug,"19,90"\ncup,Cup,19.90\nhat,Hat,1.299\n'
    assert [(line, reason.split(":")[0]) for line, reason in await read_errors(content)] == [(2, "Price"), (4, "Price")]
    by_word = await read(content, decimal_separator=DecimalSeparator.COMMA)
    assert [item.variants[0].price for item in by_word if isinstance(item, ProductRow)] == [Decimal("19.9"), Decimal(1299)]
    assert [item.line for item in by_word if isinstance(item, RowError)] == [3]
    points = await read_products(b'Handle,Title,Price\nhat,Hat,"1,299.50"\n', decimal_separator=DecimalSeparator.POINT)
    assert points[0].variants[0].price == Decimal("1299.5")


@pytest.mark.parametrize(
    ("cells", "prices"),
    [
        (["1,299.00", "19.90", "1,299"], ["1299", "19.9", "1299"]),
        (["1,29,999.50", "2,500.00", "12,34,567"], ["129999.5", "2500", "1234567"]),
        (["1 299.50", "1’299", "1\u202f299", "5"], ["1299.5", "1299", "1299", "5"]),
    ],
)
async def test_grouped_numbers_that_mean_one_amount_are_read(cells: list[str], prices: list[str]) -> None:
    rows = "".join(f"mug-{n}\tMug\t{cell}\n" for n, cell in enumerate(cells))
    products = await read_products(f"Handle\tTitle\tPrice\n{rows}".encode())
    assert [product.variants[0].price for product in products] == [Decimal(price) for price in prices]


async def test_spaces_group_quantities_and_weights() -> None:
    [mug] = await read_products("Handle;Title;Price;Inventory quantity;Variant Grams\nmug;Mug;5;1 200;1\u00a0250\n".encode())
    assert (mug.variants[0].inventory, mug.variants[0].weight) == (1200, {"value": "1250.000", "unit": "gram"})


@pytest.mark.parametrize("price", ["1,29,99", "1,299,99.50", "12 50", "1 29 999", "1'2"])
async def test_numbers_with_other_groups_are_rejected(price: str) -> None:
    assert [line for line, _ in await read_errors(f"Handle\tTitle\tPrice\nmug\tMug\t{price}\n".encode())] == [2]


@pytest.mark.parametrize(
    ("currency", "cells", "prices"),
    [
        ("EUR", ["12,50 €", "1.299,00\u00a0€", "€ 7", "EUR 12,50", "12,5 Eur", "8"], ["12.5", "1299", "7", "12.5", "12.5", "8"]),
        ("EUR", ["12,-", "1.299,– €", "7,50"], ["12", "1299", "7.5"]),
        ("EUR", ["12,-"], ["12"]),
        ("EUR", ["12,–"], ["12"]),
        ("CHF", ["CHF 1’299.50", "Fr. 12.–", "12.-", "sFr. 3"], ["1299.5", "12", "12", "3"]),
        ("INR", ["₹ 2,500.00", "₹1,29,999.50", "Rs. 80"], ["2500", "129999.5", "80"]),
        ("USD", ["$9.99", "US$ 9.99", "$9.99 USD", "$1,299.00"], ["9.99", "9.99", "9.99", "1299"]),
        ("CAD", ["$9.99", "CA$9.99", "9.99 CAD"], ["9.99", "9.99", "9.99"]),
        ("SEK", ["12,50 kr", "1\u202f299,00 kr."], ["12.5", "1299"]),
        ("PLN", ["12,50 zł", "PLN 1 299,00"], ["12.5", "1299"]),
        ("AED", ["\u200f12.50 د.إ.\u200f"], ["12.5"]),
        ("JPY", ["￥1200", "1200円"], ["1200", "1200"]),
    ],
)
async def test_amounts_may_have_the_sign_of_the_currency(currency: str, cells: list[str], prices: list[str]) -> None:
    rows = "".join(f"mug-{n}\tMug\t{cell}\t{cell}\n" for n, cell in enumerate(cells))
    products = await read_products(f"Handle\tTitle\tPrice\tCost per item\n{rows}".encode(), currency=currency)
    assert [product.variants[0].price for product in products] == [Decimal(price) for price in prices]
    assert [product.variants[0].cost for product in products] == [Decimal(price) for price in prices]
    quoted = "".join(f'mug-{n},Mug,"{cell}"\n' for n, cell in enumerate(cells))
    products = await read_products(f"Handle,Title,Price\n{quoted}".encode(), currency=currency)
    assert [product.variants[0].price for product in products] == [Decimal(price) for price in prices]


@pytest.mark.parametrize(
    ("currency", "cell", "words"),
    [
        ("EUR", "$9.99", "“$9.99” is in USD or another currency of the sign “$”, and the prices of the store are in EUR"),
        ("USD", "12,50 €", "“12,50 €” is in EUR, and the prices of the store are in USD"),
        ("USD", "CA$9.99", "“CA$9.99” is in CAD, and the prices of the store are in USD"),
        ("EUR", "GBP 12", "“GBP 12” is in GBP, and the prices of the store are in EUR"),
        ("USD", "$9.99 CAD", "“$9.99 CAD” is in CAD, and the prices of the store are in USD"),
        ("EUR", "$9.99 USD", "“$9.99 USD” is in USD, and the prices of the store are in EUR"),
        ("EUR", "12 stones", "“12 stones” is not an amount"),
        ("EUR", "-5 €", "“-5 €” is not an amount"),
        ("EUR", "5-7 €", "“5-7 €” is not an amount"),
        ("EUR", "1.2.3 €", "“1.2.3” is not an amount"),
    ],
)
async def test_amount_in_another_currency_is_rejected(currency: str, cell: str, words: str) -> None:
    for columns in ("Handle\tTitle\tPrice", "SKU\tType\tName\tRegular price\tCategories"):
        cells = f"mug\tMug\t{cell}" if columns.startswith("Handle") else f"M-1\tsimple\tMug\t{cell}\tMugs"
        [(line, reason)] = await read_errors(f"{columns}\n{cells}\n".encode(), currency=currency)
        assert (line, words in reason) == (2, True), reason


async def test_sign_of_a_currency_does_not_decide_on_separators() -> None:
    content = "Handle\tTitle\tPrice\nmug\tMug\t12,50 €\ncup\tCup\t12.50 €\nhat\tHat\t1.299 €\n".encode()
    assert [line for line, _ in await read_errors(content, currency="EUR")] == [2, 4]
    # A quantity has none.
    content = "Handle\tTitle\tPrice\tInventory quantity\nmug\tMug\t5\t7 €\n".encode()
    assert ["whole number" in reason for _, reason in await read_errors(content, currency="EUR")] == [True]


@pytest.mark.parametrize("cell", ["4.00638E+12", "4,00638E+12", "1.23E+05"])
@pytest.mark.parametrize("column", ["Variant SKU", "Variant Barcode"])
async def test_codes_that_a_spreadsheet_rounded_are_rejected(column: str, cell: str) -> None:
    content = f'Handle,Title,Price,{column}\nmug,Mug,5,"{cell}"\ncup,Cup,5,1E5\n'
    assert [(line, reason.split(":")[0]) for line, reason in await read_errors(content.encode())] == [(2, column)]
    # What was exported here is what is stored.
    exported = content.replace("\n", ",\n").replace(",\n", ",Storefront\n", 1)
    assert len(await read_products(exported.encode())) == 2


@pytest.mark.parametrize(
    ("above", "line", "remedy"),
    [
        ("Summer 2024", 2, "delete line 1"),
        ("Summer 2024;;", 2, "delete line 1"),
        (";;", 2, "delete line 1"),
        ("Summer 2024\n\nall prices in EUR", 4, "delete the lines 1 to 3"),
        ('"Summer\n2024"', 3, "delete the lines 1 to 2"),
    ],
)
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
async def test_rows_above_the_header_are_named(delimiter: str, above: str, line: int, remedy: str) -> None:
    text = f"{above}\nSKU;Name;Price\nM-1;Mug;5\n".replace(";", delimiter)
    message = await refuse(text.encode())
    assert f"are on line {line}, and have to come first: {remedy}." in message
    mapped = text.replace("Price", "Preis").encode()
    assert f"are on line {line}," in await refuse(mapped, mapping={"preis": "variant price"})


async def test_title_of_a_sheet_is_named_with_its_row() -> None:
    sheet = render_sheet([["Summer 2024", None, None], ["Handle", "Title", "Price"], ["mug", "Mug", 5]], first_row=3)
    message = await refuse(build_workbook({"Products": sheet}))
    assert "are on row 4, and have to come first: delete row 3." in message


async def test_file_without_a_header_is_refused_as_before() -> None:
    assert "has no column “Handle”" in await refuse(b"Summer 2024\nmug,Mug,5\n" + b"cup,Cup,5\n" * 50)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("TRUE WAHR VRAI PRAWDA SANT TOSI DOĞRU ИСТИНА ΑΛΗΘΗΣ да", "active"),
        ("0 FAŁSZ FALSKT EPÄTOSI YANLIŞ ЛОЖЬ НЕТ ΨΕΥΔΗΣ", "inactive"),
    ],
)
async def test_words_for_yes_and_no_of_many_languages(words: str, expected: str) -> None:
    rows = "".join(f"mug-{n},Mug,5,{word}\n" for n, word in enumerate(words.split()))
    products = await read_products(f"Handle,Title,Price,Published\n{rows}".encode())
    assert {product.status for product in products} == {expected}


async def test_cells_below_an_empty_header_are_named() -> None:
    checkpoint = (await read(b"Handle,,Title,Price,\nmug,x,Mug,5,\ncup,,Cup,5,y\nhat,z,Hat,5,\n"))[-1]
    assert isinstance(checkpoint, Checkpoint)
    assert checkpoint.resume_point["ignoredColumns"] == {"2 (without a name)": 2, "5 (without a name)": 1}


async def test_cell_that_is_too_long_is_named_as_such() -> None:
    content = b"Handle,Title,Body (HTML),Price\nmug,Mug," + b"x" * 140_000 + b",5\n"
    assert "131,072 characters" in (await read_errors(content))[0][1]


async def test_resumed_file_keeps_its_number_formats() -> None:
    rows = "".join(f"mug-{n};Mug;{n},50\n" for n in range(20)) + "last;Last;1.299\n"
    content = f"Handle;Title;Price\n{rows}".encode("utf-16")
    items = await read(content)
    for number, mark in enumerate(items):
        if isinstance(mark, Checkpoint):
            with TemporaryFile() as file:
                file.write(content)
                limits = {"max_bytes": 10_000_000, "max_rows": 100}
                async with open_catalogue(file, "shop", FileOptions(), mark.resume_point, **limits) as catalogue:
                    rest = [item async for item in catalogue.items]
            assert [item for item in rest if isinstance(item, ProductRow)] == [
                item for item in items[number:] if isinstance(item, ProductRow)
            ]


# -------------------------------------------------------------------------------------- workbooks and archives


async def test_workbook_is_read_as_its_cells_are() -> None:
    content = build_sheet_workbook(
        ["Handle", "Title", "Variant Price", "Variant Inventory Qty", "Published", "Variant Barcode"],
        ["mug", "Mug\nwith lines, “quotes”", 19.9, 5, True, 4006381333931],
        [None] * 3,
        ["cup", "Cup", 0.1 + 0.2, 1000, False, "00123"],
        ["hat", "Hat", "free"],
    )
    items = await read(content)
    mug, cup = [item for item in items if isinstance(item, ProductRow)]
    assert mug.title == "Mug\nwith lines, “quotes”"
    [[first], [second]] = (mug.variants, cup.variants)
    assert (first.price, first.inventory, first.barcode, mug.status) == (Decimal("19.9"), 5, "4006381333931", "active")
    assert (second.price, second.inventory, second.barcode, cup.status) == (Decimal("0.3"), 1000, "00123", "inactive")
    # The row of the sheet, though a cell before it has two lines and a row is empty.
    assert (cup.line, [item.line for item in items if isinstance(item, RowError)]) == (4, [5])
    assert (await load_reading(content))["entry"] == "Products"


async def test_sheet_is_the_only_visible_one_or_the_named_one() -> None:
    first, second = (render_sheet([["Handle", "Title", "Price"], [name, name, 1]], first_row=4) for name in ("a", "b"))
    empty = render_sheet([])
    [only] = await read_products(build_workbook({"One": first, "Old": second, "Empty": empty}, hidden=["Old"]))
    assert (only.handle, only.line) == ("a", 5)
    two = build_workbook({"One": first, "Two": second})
    assert "2 sheets (“One”, “Two”)" in await refuse(two)
    assert [item.handle for item in await read_products(two, entry="Two")] == ["b"]
    assert "named “Three”" in await refuse(two, entry="Three")


@pytest.mark.parametrize("cell", ["#N/A", "#DIV/0!", "#REF!"])
async def test_formula_error_names_its_cell(cell: str) -> None:
    assert "the cell B3 of the sheet “Products”" in await refuse(
        build_sheet_workbook(["Handle", "Title", "Price"], ["a", "A", 1], ["b", cell, 2])
    )


async def test_sheet_of_endless_cells_is_refused() -> None:
    for place in ("XFD1048576", "AZ1048576"):
        far = f'<row r="1048576"><c r="{place}"><v>1</v></c></row></sheetData>'
        sheet = render_sheet([["Handle"]]).replace("</sheetData>", far)
        message = await refuse(build_workbook({"A": sheet}))
        assert "cells" in message or "memory" in message


@pytest.mark.parametrize("damage", ["cut", "start", "empty", "old", "password"])
async def test_damaged_containers_are_refused(damage: str) -> None:
    workbook = build_sheet_workbook(["Handle", "Title", "Price"], ["a", "A", 1])
    locked = bytearray(pack({"a.csv": MUG}))
    locked[6] |= 1
    locked[locked.rfind(b"PK\x01\x02") + 8] |= 1
    contents = {
        "cut": (workbook[:-50], "damaged"),
        "start": (workbook[:200], "damaged"),
        "empty": (pack({}), "without files"),
        "old": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "old Excel"),
        "password": (bytes(locked), "password"),
    }
    content, words = contents[damage]
    assert words in await refuse(content)


async def test_archives_are_unpacked() -> None:
    for content in (gzip.compress(MUG), pack({"a.csv": MUG, "__MACOSX/._a.csv": b"x", ".DS_Store": b"x", "b/": b""})):
        assert [item.handle for item in await read_products(content)] == ["mug"]
    two = pack({"a.csv": MUG, "b.csv": MUG.replace(b"mug", b"cup")})
    assert "2 files (“a.csv”, “b.csv”)" in await refuse(two)
    assert [item.handle for item in await read_products(two, entry="b.csv")] == ["cup"]
    assert "named “c.csv”" in await refuse(two, entry="c.csv")
    workbook = build_sheet_workbook(["Handle", "Title", "Price"], ["a", "A", 1])
    assert [item.handle for item in await read_products(pack({"a.xlsx": workbook}))] == ["a"]
    assert "archive in an archive" in await refuse(gzip.compress(gzip.compress(gzip.compress(MUG))))
    assert "damaged" in await refuse(gzip.compress(MUG * 100)[:-20])
    assert "neither an archive" in await refuse(MUG, entry="a.csv")


async def test_decompression_bombs_are_refused() -> None:
    zeros = bytes(20_000_000)
    for content in (gzip.compress(zeros), pack({"a.csv": zeros})):
        assert "250 times" in await refuse(content)
    rows = csv_of_rows(60_000)
    assert "more than 1,000,000 bytes" in await refuse(gzip.compress(rows), max_bytes=1_000_000)
    sheet = build_workbook({"A": render_sheet([["Handle"]]) + " " * 30_000_000})
    assert "250 times" in await refuse(sheet)


def csv_of_rows(count: int) -> bytes:
    file = io.StringIO(newline="")
    csv.writer(file).writerows([["Handle", "Title", "Price"], *([f"mug-{n}", f"Mug {n * 7919}", n % 90] for n in range(count))])
    return file.getvalue().encode()
