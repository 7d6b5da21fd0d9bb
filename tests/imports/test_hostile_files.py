"""Hostile files that could block an import or exhaust memory: records and parsing steps are bounded."""

import io
from collections.abc import Iterable

import pytest

from storefront.imports.csv_columns import CsvRecord
from storefront.imports.files.opening import UnreadableFileError
from storefront.imports.product_parser import ProductParser
from storefront.imports.row_types import Checkpoint, EarlyStop, ProductRow, RowError, SourceItem, SourceLayout
from storefront.imports.shopify import csv_file
from storefront.imports.shopify.csv_file import (
    MAX_RECORD_BYTES,
    READ_CHUNK_BYTES,
    read_csv_products,
    read_csv_products_cooperatively,
)

HEADER = b"Handle,Title,Variant Price\n"
MUG = b"mug,Mug,5\n"
# Read-ahead of a record, and how much a line may exceed the limit before this is detected.
STEP_BYTES = MAX_RECORD_BYTES + 2 * READ_CHUNK_BYTES

HOSTILE = {
    "a quote opened again and again": b'a,b,"' + b'x","\n' * 400_000,
    "a quote never closed": b'a,b,"' + b"word after word,\n" * 20_000,
    "one line": b"x" * 3_000_000,
    "only quotes": b'"' * 3_000_001,
    "only commas": b"," * 3_000_000,
    "lines of commas": b",,\n" * 100_000,
    "only line feeds": b"\n" * 100_000,
    "only carriage returns": b"\r" * 100_000,
    "only NUL": b"\0" * 3_000_000,
    "short cells in long lines": (b"ab," * 300_000 + b"\n") * 3,
    "one product in many rows": b"mug,,\n" * 30_000,
}


class Metered(io.BytesIO):
    """A file that counts the bytes read from it."""

    taken = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Read and count."""
        found = super().read(size)
        self.taken += len(found)
        return found


def steps(file: Metered, **options: int) -> Iterable[tuple[SourceItem | None, int]]:
    """The steps of the reader, between which other tasks run: the item of each, and the bytes that it has read."""
    taken = 0
    for item in csv_file._open_items(file, "shop.csv", None, False, options.get("max_rows", 2_000_000)):
        yield item, file.taken - taken
        taken = file.taken


def items(content: bytes, **options: int) -> list[SourceItem]:
    return [item for item in read_csv_products(io.BytesIO(content), "shop.csv", **options) if not isinstance(item, Checkpoint)]  # type: ignore[arg-type]


def rejections(content: bytes) -> list[RowError]:
    return [item for item in items(content) if isinstance(item, RowError)]


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_file_is_read_in_small_steps(content: bytes) -> None:
    file = Metered(HEADER + MUG + content)
    found = list(steps(file))
    assert file.taken == len(HEADER + MUG + content)
    assert max(taken for _, taken in found) <= STEP_BYTES
    # Whether a product without a title is new is known later.
    [product] = [item for item, _ in found if isinstance(item, ProductRow) and "title" in item.stated_fields]
    assert product.handle == "mug"


@pytest.mark.parametrize(
    "content", [b"\n" * 20_000, b",,\n" * 20_000, b"mug,,\n" * 20_000], ids=["empty", "commas", "one product"]
)
def test_rows_without_result_are_steps(content: bytes) -> None:
    # Rows without a result are steps of their own: a chunk of 64 kB has as many steps as rows.
    assert sum(item is None for item, _ in steps(Metered(HEADER + MUG + content))) >= 20_000


async def test_cooperative_reader_matches_plain_reader() -> None:
    content = HEADER + MUG + b"\n\ncup,Cup,x\n" + b'"' * 1_100_000 + b"\nbowl,Bowl,5\n"
    assert [item async for item in read_csv_products_cooperatively(io.BytesIO(content), "shop.csv")] == list(
        read_csv_products(io.BytesIO(content), "shop.csv")
    )


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        (b'a,"' + b"x\n" * 10_001, "lines 3 to 10,002: has more than 10,000 lines"),
        (b'a,"' + (b"x" * 900 + b"\n") * 1_200, "has a cell of more than 131,072 characters"),
        (b"a," + (b"x" * 90_000 + b",") * 12 + b"\n", "has more than 1,000,000 bytes"),
        (b"a," * 50_001 + b"\n", "has more than 50,000 commas"),
        (b"x" * 5_000_000 + b"\n", "has more than 1,000,000 bytes"),
        (b"cup,Caf\xe9,5\n", "is not UTF-8 text"),
    ],
    ids=["lines", "cell", "bytes", "commas", "line", "encoding"],
)
def test_record_beyond_limit_is_rejected(record: bytes, problem: str) -> None:
    found = items(HEADER + MUG + record + b"bowl,Bowl,7\n")
    first = next(item for item in found if isinstance(item, RowError))
    assert (first.line, first.column) == (3, "")
    assert problem in first.problem
    # The rest of the file is read, except for the record of an unclosed quote.
    titled = [item for item in found if isinstance(item, ProductRow) and "title" in item.stated_fields]
    assert [item.handle for item in titled] == ["mug", "bowl"]


def test_line_numbers_hold_after_long_lines() -> None:
    content = HEADER + b"x" * 1_500_000 + b"\n" + b'a,"' + b"\n" * 10_001 + b"cup,Cup,x\n"
    assert [(item.line, item.handle) for item in rejections(content)] == [(2, None), (3, None), (10_004, "cup")]


@pytest.mark.parametrize("end", [b"\r", b"\r\n", b"\n"])
@pytest.mark.parametrize(
    "size", [READ_CHUNK_BYTES - 1, READ_CHUNK_BYTES, MAX_RECORD_BYTES - 1, MAX_RECORD_BYTES, MAX_RECORD_BYTES + READ_CHUNK_BYTES]
)
def test_line_endings_at_chunk_edges(end: bytes, size: int) -> None:
    content = b"Handle,Title,Variant Price" + end
    content += b"x" * (size - len(content)) + end + b"mug,Mug,5" + end + b"cup,Cup,x" + end
    found = items(content)
    assert [item.handle for item in found if isinstance(item, ProductRow)] == ["mug"]
    assert found[-1] == RowError("shop.csv", 4, found[-1].problem, "cup", "Variant Price")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        (b"Handle,Title," + b"column," * 100_000, "more than 50,000 commas"),
        (b"Handle,Title," + b",".join(b"c%d" % n for n in range(1_000)), "has 1,002 columns"),
        (b"x" * 30_000_000, "more than 1,000,000 bytes"),
        (b'Handle,"' + b"x\n" * 30_000, "more than 10,000 lines"),
        (b"Handle,Title,Handle", "several times (“Handle” and “Handle”)"),
        (b"Handle,Title,SKU,Variant SKU", "several times (“SKU” and “Variant SKU”)"),
        ("Handle,Title\n".encode("utf-16"), "is not UTF-8 text"),
        ("Handle,Title\n".encode("utf-16-le"), "is not UTF-8 text"),
        ("Handle,Title\n".encode("utf-16-be"), "is not UTF-8 text"),
        (b"Handle,Titl\xe9\n", "is not UTF-8 text"),
        (b"\0" * 100_000, "is not UTF-8 text"),
        (b"\x1f\x8b\x08\x00", "is not UTF-8 text"),
        (b"\n" * 100_000, "first row is empty"),
    ],
    ids=[
        "columns",
        "some columns",
        "bytes",
        "lines",
        "names",
        "spellings",
        "utf-16",
        "le",
        "be",
        "latin-1",
        "nul",
        "gzip",
        "empty",
    ],
)
def test_header_beyond_limit_is_unreadable(header: bytes, problem: str) -> None:
    file = Metered(header + b"\n" + MUG)
    with pytest.raises(UnreadableFileError) as error:
        read_csv_products(file, "shop.csv")
    assert problem in str(error.value) and len(str(error.value)) < 400
    assert file.taken <= STEP_BYTES


def test_file_stops_at_row_limit() -> None:
    rows = b"".join(b"mug-%d,Mug,5\n,,\n" % n for n in range(10))
    content = HEADER + rows
    found = list(read_csv_products(io.BytesIO(content), "shop.csv", max_rows=7))
    assert isinstance(found[-1], EarlyStop) and "more than 7 rows" in found[-1].problem
    assert [item.handle for item in found if isinstance(item, ProductRow)] == ["mug-0", "mug-1", "mug-2", "mug-3"]
    mark = [item for item in found if isinstance(item, Checkpoint)][-1]
    assert mark.resume_point["rows"] == 7
    # Resumed, it is still at the limit; with a higher limit it continues.
    [again, stop] = read_csv_products(io.BytesIO(content), "shop.csv", mark.resume_point, max_rows=7)
    assert again == mark and isinstance(stop, EarlyStop)
    more = [
        item.handle
        for item in read_csv_products(io.BytesIO(content), "shop.csv", mark.resume_point)
        if isinstance(item, ProductRow)
    ]
    assert more == [f"mug-{n}" for n in range(4, 10)]
    assert not any(isinstance(item, EarlyStop) for item in read_csv_products(io.BytesIO(content), "shop.csv", max_rows=20))


def test_errors_of_huge_cells_are_truncated() -> None:
    content = b"Handle,Title,Variant Price,Storefront\n"
    content += b"/" * 100_000 + b",Mug,5,\n" + b'mug,Mug,5,"{""' + b"k" * 100_000 + b'"":1}"\n' + b"\0\0,Mug,5,\n"
    found = rejections(content)
    assert len(found) == 3
    assert all(len(item.problem) <= 1_000 and len(item.handle or "") <= 255 for item in found)
    assert not any("\0" in item.problem + (item.handle or "") for item in found)


@pytest.mark.parametrize(
    ("cell", "problem"), [("a\0b", "contains a NUL character"), ("a\ud800b", "contains half of a surrogate pair")]
)
def test_unstorable_characters_are_named(cell: str, problem: str) -> None:
    # Surrogates come from JSON: UTF-8 has none.
    spellings = {"handle": "Handle", "title": "Title", "variant price": "Price"}
    assembly = ProductParser(SourceLayout("shop", 3, spellings))
    found = list(assembly.add_row(CsvRecord(1, {"handle": "mug", "title": cell, "variant price": "5"})))
    [rejection] = [item for item in found if isinstance(item, RowError)]
    assert (rejection.column, rejection.handle) == ("Title", "mug")
    assert problem in rejection.problem
