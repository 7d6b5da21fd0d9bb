"""Shopify's product CSV, read from bytes one record at a time, from its beginning or from a place in its midst."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from storefront.imports import exact
from storefront.imports.assembly import Assembly
from storefront.imports.records import COLUMNS, Layout, Record
from storefront.imports.rows import Mark, ProductRow, Rejection

# Shopify renamed its columns in 2024. The older names are the keys here; case is ignored in both.
RENAMED = {
    "url handle": "handle",
    "description": "body (html)",
    "published on online store": "published",
    "sku": "variant sku",
    "price": "variant price",
    "compare-at price": "variant compare at price",
    "inventory tracker": "variant inventory tracker",
    "inventory quantity": "variant inventory qty",
    "product image url": "image src",
    "variant image url": "variant image",
    exact.PLAIN.lower(): exact.QUOTED.lower(),
}
CHUNK = 65_536
# Bytes. What is longer is no line of any table; it is cut, so that it never has to be held.
LONGEST_LINE = 1_000_000
MARK = "\ufeff"


class UnreadableFile(ValueError):
    """The file is no product CSV at all. The message says why, for the one who chose the file."""


def read(
    file: BinaryIO, name: str, place: Mapping[str, Any] | None = None, *, remembers: bool = True
) -> Iterator[ProductRow | Rejection | Mark]:
    """The products and rejected rows of a file in file order, with marks between them; `name` is for the rejections.

    A mark's `place` is where a later reading may go on; its `done` counts bytes. Of what was read nothing is kept but the
    handles, and these only where it `remembers`. Raises UnreadableFile at once if the header is not that of a product CSV.
    """
    source = _Source(file, name)
    layout = source.layout
    if place:
        source.go_on(place["offset"], place["line"])
    return _products(source, Assembly(layout, remembers=remembers))


def _products(source: "_Source", assembly: Assembly) -> Iterator[ProductRow | Rejection | Mark]:
    for record in source.records():
        yield from assembly.take(record)
    yield from assembly.finish()
    yield Mark({"offset": source.lines.offset, "line": source.line}, source.lines.offset)


class _Lines:
    """Lines of text out of bytes, whatever they end in, and how many bytes they have taken."""

    def __init__(self, file: BinaryIO, offset: int = 0) -> None:
        file.seek(offset)
        self.offset = offset
        self._lines = _split(file)

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        is_first, self.offset = not self.offset, self.offset + len(line)
        text = line.decode()
        # A byte order mark before a quoted name would hide the quote from the parser.
        return text.removeprefix(MARK) if is_first else text


def _split(file: BinaryIO) -> Iterator[bytes]:
    rest = b""
    while chunk := file.read(CHUNK):
        # A carriage return at the very end may be half of a line's end.
        held = b"\r" if chunk.endswith(b"\r") else b""
        lines = (rest + chunk.removesuffix(held)).splitlines(keepends=True)
        rest = (lines.pop() if lines and not lines[-1].endswith((b"\n", b"\r")) else b"") + held
        yield from lines
        if len(rest) > LONGEST_LINE:
            yield rest
            rest = b""
    yield from rest.splitlines(keepends=True)


@dataclass(frozen=True, slots=True)
class _Columns:
    """Where the known columns stand in the file."""

    places: Mapping[str, int]
    width: int
    quotes: bool

    def record(self, line: int, cells: Sequence[str], start: int) -> Record:
        named = {column: self._cell(cells[n]) for column, n in self.places.items() if n < len(cells) and cells[n]}
        return Record(line, named, sum(map(bool, cells[self.width :])), start)

    def _cell(self, cell: str) -> str:
        return (exact.unquoted(cell) if self.quotes else cell).strip()


class _Source:
    """A file whose header was read."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self.lines = _Lines(file)
        # Strict, because the lenient parser takes all that follows an unclosed quote for one cell without a word.
        self._reader, self._before = csv.reader(self.lines, strict=True), 0
        try:
            header = next(self._reader, [])
        except UnicodeDecodeError:
            raise UnreadableFile(f"{name}: is not UTF-8 text: save it as “CSV UTF-8”.") from None
        except csv.Error as error:
            raise UnreadableFile(f"{name}: the header row cannot be read ({error}).") from None
        self.layout, self._columns = _layout(header, name)

    @property
    def line(self) -> int:
        """The line that comes next."""
        return self._before + self._reader.line_num + 1

    def go_on(self, offset: int, line: int) -> None:
        """Read from another place on."""
        self.lines = _Lines(self._file, offset)
        self._reader, self._before = csv.reader(self.lines, strict=True), line - 1

    def records(self) -> Iterator[Record | Rejection]:
        """The rows that have anything in them, and what is none."""
        while True:
            line, start = self.line, self.lines.offset
            try:
                cells = next(self._reader)
            except StopIteration:
                return
            except UnicodeDecodeError:
                problem = "not UTF-8 text from here on, reading stopped: save it as “CSV UTF-8”"
                yield self.layout.rejection(line, None, "", problem)
                return
            except csv.Error as error:
                yield self._broken(line, error)
                continue
            # Spreadsheets leave empty lines.
            if any(cells):
                yield self._columns.record(line, cells, start)

    def _broken(self, line: int, error: csv.Error) -> Rejection:
        # The parser starts afresh on the next line, so one broken record does not cost the rest of the file.
        problem = f"not valid CSV ({error}), lines {line} to {self.line - 1} left out: mend the quotes"
        return self.layout.rejection(line, None, "", problem)


def _layout(header: Sequence[str], name: str) -> tuple[Layout, _Columns]:
    places: dict[str, int] = {}
    for place, spelling in enumerate(header):
        column = spelling.strip().lower()
        places.setdefault(RENAMED.get(column, column), place)
    for column, spellings in (("handle", "“Handle” or “URL handle”"), ("title", "“Title”")):
        if column not in places:
            raise UnreadableFile(f"{name}: the header row has no column {spellings}. Is it a product CSV separated by commas?")
    known = {column: place for column, place in places.items() if column in COLUMNS}
    spelt = {column: header[place].strip() for column, place in known.items()}
    quotes = spelt.get(exact.QUOTED.lower(), "").lower() == exact.QUOTED.lower()
    return Layout(name, len(header), spelt), _Columns(known, len(header), quotes)
