"""Reader of Shopify's product CSV: a stream of records, from the start of the file or from a checkpoint."""

import csv
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn

from storefront.core.cooperative import iterate_cooperatively
from storefront.imports import lossless_cell
from storefront.imports.csv_columns import COLUMNS, CsvRecord, SourceLayout, sanitize_excerpt
from storefront.imports.product_parser import ProductParser
from storefront.imports.row_types import Checkpoint, EarlyStop, RowError, SourceItem

# Shopify renamed its columns in 2024. The older names are the keys here; case is ignored in both.
COLUMN_ALIASES = {
    "url handle": "handle",
    "description": "body (html)",
    "published on online store": "published",
    "sku": "variant sku",
    "price": "variant price",
    "compare-at price": "variant compare at price",
    "inventory tracker": "variant inventory tracker",
    "inventory quantity": "variant inventory qty",
    "continue selling when out of stock": "variant inventory policy",
    "barcode": "variant barcode",
    "weight value (grams)": "variant grams",
    "weight unit for display": "variant weight unit",
    "requires shipping": "variant requires shipping",
    "charge tax": "variant taxable",
    "product image url": "image src",
    "variant image url": "variant image",
    lossless_cell.UNQUOTED_COLUMN.lower(): lossless_cell.QUOTED_COLUMN.lower(),
}
READ_CHUNK_BYTES = 65_536
# Limits of a record, because parsing one blocks the event loop: a record at these limits takes about 10 ms of CPU.
# docs/adr/csv-reader.md has the figures. Every comma may begin a cell, so cells are bounded by commas.
MAX_RECORD_BYTES = 1_000_000
MAX_RECORD_LINES = 10_000
MAX_RECORD_COMMAS = 50_000
MAX_COLUMNS = 1_000
# Rows of a file, empty ones included.
MAX_ROWS = 2_000_000
BYTE_ORDER_MARK = "\ufeff"
NOT_UTF_8_MESSAGE = "is not UTF-8 text: save it as “CSV UTF-8”."


class UnreadableFileError(ValueError):
    """The file is not a product CSV. The message says why, for the user who uploaded it."""


def read_csv_products(
    file: BinaryIO,
    name: str,
    resume_point: Mapping[str, Any] | None = None,
    *,
    remember_handles: bool = True,
    max_rows: int = MAX_ROWS,
) -> Iterator[SourceItem]:
    """Products and row errors of a file in file order, with checkpoints between them. `name`: of the file, for error messages.

    A checkpoint's `resume_point` is where a later call may resume; its `progress` counts bytes. Memory holds no rows, only
    handles, and these only with `remember_handles`. A file of more than `max_rows` rows ends with an EarlyStop. Raises
    UnreadableFileError at once if the header is not that of a product CSV.
    """
    return (item for item in _open_items(file, name, resume_point, remember_handles, max_rows) if item is not None)


def read_csv_products_cooperatively(
    file: BinaryIO,
    name: str,
    resume_point: Mapping[str, Any] | None = None,
    *,
    remember_handles: bool = True,
    max_rows: int = MAX_ROWS,
) -> AsyncIterator[SourceItem]:
    """`read_csv_products` for the event loop: yields to other tasks between any two records."""
    return iterate_cooperatively(_open_items(file, name, resume_point, remember_handles, max_rows))


def _open_items(
    file: BinaryIO, name: str, resume_point: Mapping[str, Any] | None, remember_handles: bool, max_rows: int
) -> Iterator[SourceItem | None]:
    source = _CsvSource(file, name)
    layout = source.layout
    if resume_point:
        source.resume(resume_point)
    return _parse_items(source, ProductParser(layout, remember_handles=remember_handles), max_rows)


def _parse_items(source: "_CsvSource", parser: ProductParser, max_rows: int) -> Iterator[SourceItem | None]:
    """Parse the records. Yields None for work without a result yet, so that callers can yield to the event loop."""
    for record in source.read_records(max_rows):
        if record is not None:
            yield from parser.add_row(record)
        yield None
    yield from parser.finish()
    yield source.build_checkpoint()
    if source.row_count >= max_rows and not source.line_reader.is_at_end():
        problem = (
            f"{source.layout.source_name}: has more than {max_rows:,} rows, empty ones included: import the rest as another file."
        )
        yield EarlyStop(problem)


def is_record_within_limits(record: str) -> bool:
    """Whether the reader accepts a record of this length."""
    lines, commas = record.count("\n") + record.count("\r"), record.count(",")
    return lines <= MAX_RECORD_LINES and commas <= MAX_RECORD_COMMAS and len(record.encode()) <= MAX_RECORD_BYTES


class _RecordTooLongError(Exception):
    """A record exceeds a limit. The message names the limit."""


class _LineTooLongError(_RecordTooLongError):
    """A line exceeds a limit; the rest of it is still to be skipped."""


class _LineReader:
    """Iterator over the lines of a file, with any line ending, that tracks its offset in bytes and its line number.

    Raises _RecordTooLongError if a record exceeds a limit. The line that exceeds it begins the next record.
    """

    def __init__(self, file: BinaryIO, offset: int = 0, line: int = 0) -> None:
        file.seek(offset)
        self._file = file
        self.offset, self.line = offset, line
        # In reverse order, as a stack.
        self._reversed_lines: list[bytes] = []
        self._unfinished_chunks: list[bytes] = []
        self.begin_record()

    def begin_record(self) -> None:
        """Start a new record: reset its limits."""
        self._bytes_left, self._lines_left, self._commas_left = MAX_RECORD_BYTES, MAX_RECORD_LINES, MAX_RECORD_COMMAS

    def __iter__(self) -> "_LineReader":
        return self

    def __next__(self) -> str:
        if not self._reversed_lines:
            self._read_lines()
        line = self._reversed_lines.pop()
        size = len(line)
        self._bytes_left -= size
        self._lines_left -= 1
        self._commas_left -= line.count(b",")
        if self._bytes_left < 0 or self._lines_left < 0 or self._commas_left < 0:
            self._raise_too_long(line)
        is_first = not self.offset
        self.offset += size
        self.line += 1
        text = line.decode()
        # A byte order mark before a quoted column name would hide the quote from the parser.
        return text.removeprefix(BYTE_ORDER_MARK) if is_first else text

    def _raise_too_long(self, line: bytes) -> NoReturn:
        if self._lines_left < MAX_RECORD_LINES - 1:
            self._reversed_lines.append(line)
        else:
            self.offset += len(line)
            self.line += 1
        if self._lines_left < 0:
            raise _RecordTooLongError(f"{MAX_RECORD_LINES:,} lines")
        raise _RecordTooLongError(f"{MAX_RECORD_BYTES:,} bytes" if self._bytes_left < 0 else f"{MAX_RECORD_COMMAS:,} commas")

    def _read_lines(self) -> None:
        """Read up to a line ending. Raises StopIteration at the end of the file, _LineTooLongError if there is none in reach."""
        size = sum(map(len, self._unfinished_chunks))
        while chunk := self._file.read(READ_CHUNK_BYTES):
            size += len(chunk)
            if b"\n" in chunk or b"\r" in chunk or (self._unfinished_chunks and self._unfinished_chunks[-1].endswith(b"\r")):
                # A carriage return at the end of the chunk may be half of a CRLF.
                carriage_return = b"\r" if chunk.endswith(b"\r") else b""
                self._reversed_lines = b"".join([*self._unfinished_chunks, chunk.removesuffix(carriage_return)]).splitlines(
                    keepends=True
                )
                unfinished_line = (
                    self._reversed_lines.pop()
                    if self._reversed_lines and not self._reversed_lines[-1].endswith((b"\n", b"\r"))
                    else b""
                )
                self._unfinished_chunks = [piece for piece in (unfinished_line, carriage_return) if piece]
                size = len(unfinished_line) + len(carriage_return)
                if self._reversed_lines:
                    self._reversed_lines.reverse()
                    return
            else:
                self._unfinished_chunks.append(chunk)
            # After a carriage return the next chunk decides: a line feed may follow.
            if size > MAX_RECORD_BYTES and not self._unfinished_chunks[-1].endswith(b"\r"):
                self.offset += size
                self._unfinished_chunks = []
                raise _LineTooLongError(f"{MAX_RECORD_BYTES:,} bytes")
        self._reversed_lines, self._unfinished_chunks = b"".join(self._unfinished_chunks).splitlines(keepends=True)[::-1], []
        if not self._reversed_lines:
            raise StopIteration

    def skip_chunk(self) -> bool:
        """Skip a chunk of a line that is too long. True once its end was found, which is then read as a line of its own."""
        chunk = self._file.read(READ_CHUNK_BYTES)
        line_ends = [end for end in (chunk.find(b"\n"), chunk.find(b"\r")) if end >= 0]
        end = min(line_ends, default=len(chunk))
        self.offset += end
        self._unfinished_chunks = [chunk[end:]] if line_ends else []
        return bool(line_ends) or not chunk

    def is_at_end(self) -> bool:
        """Whether the file has no more lines."""
        if not self._reversed_lines:
            try:
                self._read_lines()
            except StopIteration:
                return True
            except _LineTooLongError:
                return False
        return False


@dataclass(frozen=True, slots=True)
class _ColumnMap:
    """Maps the known columns to their indexes in the file."""

    index_by_column: Mapping[str, int]
    column_count: int
    has_quoted_formulas: bool

    def build_record(self, line: int, cells: Sequence[str], start_offset: int, preceding_rows: int) -> CsvRecord:
        cells_by_column = {
            column: self._clean_cell(cells[n]) for column, n in self.index_by_column.items() if n < len(cells) and cells[n]
        }
        return CsvRecord(line, cells_by_column, sum(map(bool, cells[self.column_count :])), start_offset, preceding_rows)

    def _clean_cell(self, cell: str) -> str:
        return (lossless_cell.unquote_formula(cell) if self.has_quoted_formulas else cell).strip()


class _CsvSource:
    """A file whose header has been parsed."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self.line_reader = _LineReader(file)
        self.row_count = 0
        # Strict: the lenient parser silently reads everything after an unclosed quote as one cell.
        self._csv_reader = csv.reader(self.line_reader, strict=True)
        try:
            header = next(self._csv_reader, [])
        except UnicodeDecodeError:
            raise UnreadableFileError(f"{name}: {NOT_UTF_8_MESSAGE}") from None
        except (csv.Error, _RecordTooLongError) as error:
            problem = error if isinstance(error, csv.Error) else f"it has more than {error}"
            raise UnreadableFileError(f"{name}: the header row cannot be read ({problem}).") from None
        self.layout, self._column_map = _parse_header(header, name)

    def resume(self, resume_point: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.line_reader = _LineReader(self._file, resume_point["offset"], resume_point["line"] - 1)
        self.row_count = resume_point.get("rows", 0)
        self._csv_reader = csv.reader(self.line_reader, strict=True)

    def build_checkpoint(self) -> Checkpoint:
        """The checkpoint after the last record."""
        resume_point = {"offset": self.line_reader.offset, "line": self.line_reader.line + 1, "rows": self.row_count}
        return Checkpoint(resume_point, self.line_reader.offset)

    def read_records(self, max_rows: int) -> Iterator[CsvRecord | RowError | None]:
        """Yield records and errors of unreadable ones; None for an empty row, or a part of a line that is too long."""
        line_reader, column_map = self.line_reader, self._column_map
        while self.row_count < max_rows:
            line, start_offset, preceding_rows = line_reader.line + 1, line_reader.offset, self.row_count
            line_reader.begin_record()
            try:
                cells = next(self._csv_reader)
            except StopIteration:
                return
            except (_RecordTooLongError, UnicodeDecodeError, csv.Error) as error:
                # The parser restarts on the next line: one broken record does not cost the rest of the file.
                yield self._build_row_error(line, error)
                while isinstance(error, _LineTooLongError) and not line_reader.skip_chunk():
                    yield None
            else:
                # Spreadsheets write empty lines.
                yield column_map.build_record(line, cells, start_offset, preceding_rows) if any(cells) else None
            self.row_count += 1

    def _build_row_error(self, first_line: int, error: Exception) -> RowError:
        problem = f"not valid CSV ({error}), left out: close or double the quotes"
        if isinstance(error, _RecordTooLongError):
            problem = f"has more than {error}, left out: close the quotes, or shorten the row"
        elif isinstance(error, UnicodeDecodeError):
            problem = f"is left out, it {NOT_UTF_8_MESSAGE}"
        last_line = self.line_reader.line
        line_range = f"lines {first_line:,} to {last_line:,}: " if last_line > first_line else ""
        return self.layout.build_row_error(first_line, None, "", line_range + problem)


def _parse_header(header: Sequence[str], name: str) -> tuple[SourceLayout, _ColumnMap]:
    columns = [COLUMN_ALIASES.get(column, column) for column in (spelling.strip().lower() for spelling in header)]
    if problem := _find_header_problem(header, columns):
        raise UnreadableFileError(f"{name}: {problem}")
    index_by_column = {column: index for index, column in enumerate(columns) if column in COLUMNS}
    spellings = {column: header[index].strip() for column, index in index_by_column.items()}
    has_quoted_formulas = spellings.get(lossless_cell.QUOTED_COLUMN.lower(), "").lower() == lossless_cell.QUOTED_COLUMN.lower()
    return SourceLayout(name, len(header), spellings), _ColumnMap(index_by_column, len(header), has_quoted_formulas)


def _find_header_problem(header: Sequence[str], columns: Sequence[str]) -> str | None:
    """The problem with a header that is not a product CSV's, or None."""
    if len(header) > MAX_COLUMNS:
        return f"the header row has {len(header):,} columns, at most {MAX_COLUMNS:,} are allowed."
    # In UTF-16 every other byte of ASCII text is NUL.
    if any("\0" in spelling for spelling in header):
        return NOT_UTF_8_MESSAGE
    for column, spellings in (("handle", "“Handle” or “URL handle”"), ("title", "“Title”")):
        if column not in columns:
            return f"the header row has no column {spellings}. Is it a product CSV separated by commas?"
    repeated = [column for column, count in Counter(columns).items() if count > 1 and column in COLUMNS]
    repeated_spellings = " and ".join(f"“{header[n].strip()}”" for n, column in enumerate(columns) if column in repeated[:1])
    return (
        f"the header row has one column several times ({sanitize_excerpt(repeated_spellings, 200)}): keep one of them."
        if repeated
        else None
    )
