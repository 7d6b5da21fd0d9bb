"""Shopify's product CSV, read from bytes one record at a time, from its beginning or from a place in its midst."""

import csv
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn

from storefront.core.cooperative import in_turns
from storefront.imports import lossless_cell
from storefront.imports.csv_columns import COLUMNS, Layout, Record, quoted
from storefront.imports.product_parser import Assembly
from storefront.imports.row_types import Item, Mark, Rejection, Stop

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
    lossless_cell.PLAIN.lower(): lossless_cell.QUOTED.lower(),
}
CHUNK = 65_536
# What is parsed in one piece is bounded, because nothing else runs on the event loop meanwhile: a record at these limits takes
# about 10 ms of CPU. docs/adr/csv-reader.md has the figures. Every comma may begin a cell, so cells are bounded by commas.
MAX_RECORD_BYTES = 1_000_000
MAX_RECORD_LINES = 10_000
MAX_RECORD_COMMAS = 50_000
MAX_COLUMNS = 1_000
# Rows of a file, empty ones included.
MAX_ROWS = 2_000_000
BYTE_ORDER_MARK = "\ufeff"
NOT_UTF_8 = "is not UTF-8 text: save it as “CSV UTF-8”."


class UnreadableFile(ValueError):
    """The file is no product CSV at all. The message says why, for the one who chose the file."""


def read(
    file: BinaryIO,
    name: str,
    place: Mapping[str, Any] | None = None,
    *,
    remembers: bool = True,
    max_rows: int = MAX_ROWS,
) -> Iterator[Item]:
    """The products and rejected rows of a file in file order, with marks between them; `name` is for the rejections.

    A mark's `place` is where a later reading may go on; its `done` counts bytes. Of what was read nothing is kept but the
    handles, and these only where it `remembers`. A file of more than `max_rows` rows ends with a Stop. Raises UnreadableFile at
    once if the header is not that of a product CSV.
    """
    return (item for item in _read(file, name, place, remembers, max_rows) if item is not None)


def read_in_turns(
    file: BinaryIO,
    name: str,
    place: Mapping[str, Any] | None = None,
    *,
    remembers: bool = True,
    max_rows: int = MAX_ROWS,
) -> AsyncIterator[Item]:
    """The same as `read`, for the event loop: other tasks run between any two records, whatever the file holds."""
    return in_turns(_read(file, name, place, remembers, max_rows))


def _read(file: BinaryIO, name: str, place: Mapping[str, Any] | None, remembers: bool, max_rows: int) -> Iterator[Item | None]:
    source = _Source(file, name)
    layout = source.layout
    if place:
        source.go_on(place)
    return _items(source, Assembly(layout, remembers=remembers), max_rows)


def _items(source: "_Source", assembly: Assembly, max_rows: int) -> Iterator[Item | None]:
    """What the records come to. None stands for work that has come to nothing yet: there may be much of it."""
    for record in source.records(max_rows):
        if record is not None:
            yield from assembly.take(record)
        yield None
    yield from assembly.finish()
    yield source.mark()
    if source.rows >= max_rows and not source.lines.is_at_end():
        problem = f"{source.layout.file}: has more than {max_rows:,} rows, empty ones included: import the rest as another file."
        yield Stop(problem)


def fits(record: str) -> bool:
    """Whether a record is within the limits of what is read."""
    lines, commas = record.count("\n") + record.count("\r"), record.count(",")
    return lines <= MAX_RECORD_LINES and commas <= MAX_RECORD_COMMAS and len(record.encode()) <= MAX_RECORD_BYTES


class _RecordTooLong(Exception):
    """More than is parsed in one piece. The message says of what."""


class _LineTooLong(_RecordTooLong):
    """The rest of the line is still to be skipped."""


class _Lines:
    """Lines of text out of bytes, whatever they end in, and how far they have come: in bytes and in lines.

    Raises _RecordTooLong where a record is longer than the limits. The line that is one too many begins the next record.
    """

    def __init__(self, file: BinaryIO, offset: int = 0, line: int = 0) -> None:
        file.seek(offset)
        self._file = file
        self.offset, self.line = offset, line
        # The last one comes first.
        self._ready: list[bytes] = []
        self._rest: list[bytes] = []
        self.begin_record()

    def begin_record(self) -> None:
        """What comes now belongs to another record."""
        self._bytes, self._count, self._commas = MAX_RECORD_BYTES, MAX_RECORD_LINES, MAX_RECORD_COMMAS

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        if not self._ready:
            self._fill()
        line = self._ready.pop()
        size = len(line)
        self._bytes -= size
        self._count -= 1
        self._commas -= line.count(b",")
        if self._bytes < 0 or self._count < 0 or self._commas < 0:
            self._refuse(line)
        is_first = not self.offset
        self.offset += size
        self.line += 1
        text = line.decode()
        # A byte order mark before a quoted name would hide the quote from the parser.
        return text.removeprefix(BYTE_ORDER_MARK) if is_first else text

    def _refuse(self, line: bytes) -> NoReturn:
        if self._count < MAX_RECORD_LINES - 1:
            self._ready.append(line)
        else:
            self.offset += len(line)
            self.line += 1
        if self._count < 0:
            raise _RecordTooLong(f"{MAX_RECORD_LINES:,} lines")
        raise _RecordTooLong(f"{MAX_RECORD_BYTES:,} bytes" if self._bytes < 0 else f"{MAX_RECORD_COMMAS:,} commas")

    def _fill(self) -> None:
        """Read on to the end of a line; raises StopIteration at the end of the file, _LineTooLong where the line goes on."""
        size = sum(map(len, self._rest))
        while chunk := self._file.read(CHUNK):
            size += len(chunk)
            if b"\n" in chunk or b"\r" in chunk or (self._rest and self._rest[-1].endswith(b"\r")):
                # A carriage return at the very end may be half of a line's end.
                held = b"\r" if chunk.endswith(b"\r") else b""
                self._ready = b"".join([*self._rest, chunk.removesuffix(held)]).splitlines(keepends=True)
                last = self._ready.pop() if self._ready and not self._ready[-1].endswith((b"\n", b"\r")) else b""
                self._rest = [part for part in (last, held) if part]
                size = len(last) + len(held)
                if self._ready:
                    self._ready.reverse()
                    return
            else:
                self._rest.append(chunk)
            # One that ends in a carriage return is known to the next chunk: whether a line feed belongs to it.
            if size > MAX_RECORD_BYTES and not self._rest[-1].endswith(b"\r"):
                self.offset += size
                self._rest = []
                raise _LineTooLong(f"{MAX_RECORD_BYTES:,} bytes")
        self._ready, self._rest = b"".join(self._rest).splitlines(keepends=True)[::-1], []
        if not self._ready:
            raise StopIteration

    def skip(self) -> bool:
        """Skip a chunk of a line that is too long; returns whether its end was found, which then comes as a line of its own."""
        chunk = self._file.read(CHUNK)
        ends = [place for place in (chunk.find(b"\n"), chunk.find(b"\r")) if place >= 0]
        place = min(ends, default=len(chunk))
        self.offset += place
        self._rest = [chunk[place:]] if ends else []
        return bool(ends) or not chunk

    def is_at_end(self) -> bool:
        """Whether the file has no more lines."""
        if not self._ready:
            try:
                self._fill()
            except StopIteration:
                return True
            except _LineTooLong:
                return False
        return False


@dataclass(frozen=True, slots=True)
class _Columns:
    """Where the known columns stand in the file."""

    places: Mapping[str, int]
    width: int
    quotes: bool

    def record(self, line: int, cells: Sequence[str], start: int, number: int) -> Record:
        named = {column: self._cell(cells[n]) for column, n in self.places.items() if n < len(cells) and cells[n]}
        return Record(line, named, sum(map(bool, cells[self.width :])), start, number)

    def _cell(self, cell: str) -> str:
        return (lossless_cell.unquoted(cell) if self.quotes else cell).strip()


class _Source:
    """A file whose header was read."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self.lines = _Lines(file)
        self.rows = 0
        # Strict, because the lenient parser takes all that follows an unclosed quote for one cell without a word.
        self._reader = csv.reader(self.lines, strict=True)
        try:
            header = next(self._reader, [])
        except UnicodeDecodeError:
            raise UnreadableFile(f"{name}: {NOT_UTF_8}") from None
        except (csv.Error, _RecordTooLong) as error:
            problem = error if isinstance(error, csv.Error) else f"it has more than {error}"
            raise UnreadableFile(f"{name}: the header row cannot be read ({problem}).") from None
        self.layout, self._columns = _layout(header, name)

    def go_on(self, place: Mapping[str, Any]) -> None:
        """Read from another place on."""
        self.lines = _Lines(self._file, place["offset"], place["line"] - 1)
        self.rows = place.get("rows", 0)
        self._reader = csv.reader(self.lines, strict=True)

    def mark(self) -> Mark:
        """The place that comes next."""
        place = {"offset": self.lines.offset, "line": self.lines.line + 1, "rows": self.rows}
        return Mark(place, self.lines.offset)

    def records(self, max_rows: int) -> Iterator[Record | Rejection | None]:
        """The rows, and what is none. None: a row without anything in it, or a part of a line that is too long."""
        lines, columns = self.lines, self._columns
        while self.rows < max_rows:
            line, start, number = lines.line + 1, lines.offset, self.rows
            lines.begin_record()
            try:
                cells = next(self._reader)
            except StopIteration:
                return
            except (_RecordTooLong, UnicodeDecodeError, csv.Error) as error:
                # The parser starts afresh on the next line, so one broken record does not cost the rest of the file.
                yield self._rejection(line, error)
                while isinstance(error, _LineTooLong) and not lines.skip():
                    yield None
            else:
                # Spreadsheets leave empty lines.
                yield columns.record(line, cells, start, number) if any(cells) else None
            self.rows += 1

    def _rejection(self, first: int, error: Exception) -> Rejection:
        problem = f"not valid CSV ({error}), left out: close or double the quotes"
        if isinstance(error, _RecordTooLong):
            problem = f"has more than {error}, left out: close the quotes, or shorten the row"
        elif isinstance(error, UnicodeDecodeError):
            problem = f"is left out, it {NOT_UTF_8}"
        last = self.lines.line
        lines = f"lines {first:,} to {last:,}: " if last > first else ""
        return self.layout.rejection(first, None, "", lines + problem)


def _layout(header: Sequence[str], name: str) -> tuple[Layout, _Columns]:
    columns = [RENAMED.get(column, column) for column in (spelling.strip().lower() for spelling in header)]
    if problem := _fault(header, columns):
        raise UnreadableFile(f"{name}: {problem}")
    known = {column: place for place, column in enumerate(columns) if column in COLUMNS}
    spelt_as = {column: header[place].strip() for column, place in known.items()}
    quotes = spelt_as.get(lossless_cell.QUOTED.lower(), "").lower() == lossless_cell.QUOTED.lower()
    return Layout(name, len(header), spelt_as), _Columns(known, len(header), quotes)


def _fault(header: Sequence[str], columns: Sequence[str]) -> str | None:
    """Why no products can be read under this header, or None."""
    if len(header) > MAX_COLUMNS:
        return f"the header row has {len(header):,} columns, at most {MAX_COLUMNS:,} are allowed."
    # Every other byte of UTF-16 is NUL where the text is plain.
    if any("\0" in spelling for spelling in header):
        return NOT_UTF_8
    for column, spellings in (("handle", "“Handle” or “URL handle”"), ("title", "“Title”")):
        if column not in columns:
            return f"the header row has no column {spellings}. Is it a product CSV separated by commas?"
    twice = [column for column, count in Counter(columns).items() if count > 1 and column in COLUMNS]
    spelt = " and ".join(f"“{header[n].strip()}”" for n, column in enumerate(columns) if column in twice[:1])
    return f"the header row has one column several times ({quoted(spelt, 200)}): keep one of them." if twice else None
