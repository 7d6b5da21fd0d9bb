"""Reader of product files: a stream of records, from the start of the file or from a checkpoint."""

import csv
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, BinaryIO, NoReturn

from storefront.core.cooperative import iterate_cooperatively
from storefront.core.handles import generate_handle
from storefront.imports import lossless_cell
from storefront.imports.csv_columns import OPTION_NUMBERS, REQUIRED_COLUMN_BY_COLUMN, CsvRecord, build_layout
from storefront.imports.files.currency_signs import OtherCurrencyError, remove_currency
from storefront.imports.files.numbers import (
    NumberColumns,
    NumberFormat,
    UnclearNumberError,
    find_decimal_commas,
    normalize_number,
)
from storefront.imports.files.opening import FileOrigin, UnreadableFileError
from storefront.imports.formats import (
    OPTION_TARGET,
    SHOPIFY,
    FileFormat,
    UnreadableCellError,
    find_column,
    identifies_products,
    is_kept_column,
    normalize_header,
    recognize_format,
)
from storefront.imports.product_parser import ProductParser
from storefront.imports.row_types import Checkpoint, EarlyStop, RowError, SourceItem, SourceLayout, sanitize_excerpt

READ_CHUNK_BYTES = 65_536
# Limits of a record, because parsing one blocks the event loop: a record at these limits takes about 10 ms of CPU.
# docs/adr/csv-reader.md has the figures. Every comma may begin a cell, so cells are bounded by commas.
MAX_RECORD_BYTES = 1_000_000
MAX_RECORD_LINES = 10_000
MAX_RECORD_COMMAS = 50_000
MAX_COLUMNS = 1_000
# Columns that are not taken of which the cells are counted, and characters of their names.
MAX_IGNORED_COLUMNS, MAX_IGNORED_COLUMN_NAME = 250, 100
# Rows of a file, empty ones included.
MAX_ROWS = 2_000_000
BYTE_ORDER_MARK = "\ufeff"
NOT_UTF_8_MESSAGE = "is not UTF-8 text: save it as “CSV UTF-8”."
# Rows above a header, such as a title, of which the header is found for the message.
MAX_ROWS_BEFORE_HEADER = 10
# Delimiters with their names in the plural.
DELIMITER_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
# `sep=,` is two cells.
_DELIMITER_CELL = re.compile(r"sep=(.?)", re.IGNORECASE)
# In a regrouped file, before the problem of a row that could not be read.
UNREADABLE_MARK = "\x1f"
# As of csv.reader.
CellReader = Iterator[list[str]]


@dataclass(frozen=True, slots=True)
class ReadingPlan:
    """How a file is read. `number_formats`: of the columns that are not plain. `origin`: what the file was before.

    `mapping`: names of columns by headers of the file, in lower case. `currency`: of the store, whose sign amounts may have, and
    whose prices are taken of a file with several currencies.
    `file_format`: of a regrouped file, in which the first two cells of each record are its line and the handle of its product
    (`regrouping.py`); of others it is recognised by the header.
    """

    number_formats: Mapping[str, NumberFormat] = field(default_factory=dict)
    origin: FileOrigin = field(default_factory=FileOrigin)
    mapping: Mapping[str, str] = field(default_factory=dict)
    currency: str | None = None
    file_format: FileFormat | None = None

    @property
    def is_regrouped(self) -> bool:
        """Whether the file is a regrouped one."""
        return self.file_format is not None


DEFAULT_PLAN = ReadingPlan()


def read_csv_products(
    file: BinaryIO,
    name: str,
    resume_point: Mapping[str, Any] | None = None,
    *,
    remember_handles: bool = True,
    max_rows: int = MAX_ROWS,
    plan: ReadingPlan = DEFAULT_PLAN,
) -> Iterator[SourceItem]:
    """Products and row errors of a UTF-8 file in file order, with checkpoints between them. `name`: of the file, for messages.

    A checkpoint's `resume_point` is where a later call may resume; its `progress` counts bytes. Memory holds no rows, only
    handles, and these only with `remember_handles`. A file of more than `max_rows` rows ends with an EarlyStop. Raises
    UnreadableFileError at once if the header is not that of a product CSV.
    """
    return (item for item in _open_items(file, name, resume_point, remember_handles, max_rows, plan) if item is not None)


def read_csv_products_cooperatively(
    file: BinaryIO,
    name: str,
    resume_point: Mapping[str, Any] | None = None,
    *,
    remember_handles: bool = True,
    max_rows: int = MAX_ROWS,
    plan: ReadingPlan = DEFAULT_PLAN,
) -> AsyncIterator[SourceItem]:
    """`read_csv_products` for the event loop: yields to other tasks between any two records."""
    return iterate_cooperatively(_open_items(file, name, resume_point, remember_handles, max_rows, plan))


def detect_number_formats(
    file: BinaryIO, name: str, plan: ReadingPlan = DEFAULT_PLAN, max_rows: int = MAX_ROWS
) -> Iterator[Mapping[str, NumberFormat] | None]:
    """Read the numbers of the whole file: yields None after each step of work, and then the formats of its columns.

    Raises UnreadableFileError.
    """
    source = CsvSource(file, name, plan)
    if not (yield from find_decimal_commas(file, source.delimiter)):
        yield {}
        return
    numbers, source = NumberColumns(), CsvSource(file, name, plan)
    for row in source.read_rows(max_rows):
        if row is not None and not isinstance(row.cells, RowError):
            for key, cell in source.list_numbers(row.cells):
                numbers.add_cell(key, cell)
        yield None
    yield numbers.decide_formats()


def _open_items(
    file: BinaryIO,
    name: str,
    resume_point: Mapping[str, Any] | None,
    remember_handles: bool,
    max_rows: int,
    plan: ReadingPlan = DEFAULT_PLAN,
) -> Iterator[SourceItem | None]:
    source = CsvSource(file, name, plan)
    if resume_point:
        source.resume(resume_point)
    return _parse_items(source, ProductParser(source.layout, remember_handles=remember_handles), max_rows)


def _parse_items(source: "CsvSource", parser: ProductParser, max_rows: int) -> Iterator[SourceItem | None]:
    """Parse the records. Yields None for work without a result yet, so that callers can yield to the event loop."""
    for record in source.read_records(max_rows):
        if record is not None:
            for item in parser.add_row(record):
                yield source.describe_progress(item) if isinstance(item, Checkpoint) else item
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

    def __init__(self, file: BinaryIO, offset: int = 0, line: int = 0, delimiter: str = ",") -> None:
        file.seek(offset)
        self._file = file
        self._delimiter, self._delimiter_byte = delimiter, delimiter.encode()
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
        self._commas_left -= line.count(self._delimiter_byte)
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
        delimiters = f"{MAX_RECORD_COMMAS:,} {DELIMITER_NAMES[self._delimiter]}"
        raise _RecordTooLongError(f"{MAX_RECORD_BYTES:,} bytes" if self._bytes_left < 0 else delimiters)

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
class RawRow:
    """The cells of a record, or why it cannot be read; where it starts, and how many rows are before it."""

    line: int
    cells: Sequence[str] | RowError
    start_offset: int
    preceding_rows: int


@dataclass(slots=True)
class _ColumnMap:
    """Maps the columns of a format to their indexes in the file. Keys that begin with `~` are of the format (`formats.py`)."""

    file_format: FileFormat
    header: Sequence[str]
    index_by_key: Mapping[str, int]
    has_quoted_formulas: bool
    # The columns that are not taken, by index.
    ignored_columns: Mapping[int, str]
    number_formats: Mapping[str, NumberFormat]
    is_regrouped: bool
    option_names: Mapping[str, str]
    makes_handles: bool
    # Columns without a field whose cells are kept, by index.
    kept_columns: Mapping[int, str]
    currency: str | None
    # For rows that leave it empty.
    last_handle: str = ""

    def build_record(self, row: RawRow, cells: Sequence[str]) -> CsvRecord:
        """The record of a row that can be read."""
        untaken: Sequence[str] = ()
        invalid_cells, has_variant = dict[str, str](), True
        cell_count, clean_cell = len(cells), self._clean_cell if self.has_quoted_formulas else str.strip
        by_key = {key: clean_cell(cells[n]) for key, n in self.index_by_key.items() if n < cell_count and cells[n]}
        invalid_cells |= self._remove_currencies(by_key)
        if self.number_formats:
            invalid_cells |= self._normalize_numbers(by_key)
        if self.file_format is not SHOPIFY:
            untaken, problems = self._adapt(by_key)
            invalid_cells |= problems
            has_variant = by_key.pop("~has variant", "1") != ""
        kept_cells = {name: clean_cell(cells[n]) if n < cell_count else "" for n, name in self.kept_columns.items()}
        return CsvRecord(
            int(cells[0]) if self.is_regrouped else row.line,
            by_key,
            sum(map(bool, cells[len(self.header) :])) if cell_count > len(self.header) else 0,
            row.start_offset,
            row.preceding_rows,
            invalid_cells,
            untaken,
            kept_cells,
            has_variant=has_variant,
        )

    def _adapt(self, cells: dict[str, str]) -> tuple[Sequence[str], dict[str, str]]:
        """Make the columns of Shopify of those of the format. Returns the names of untaken columns, and problems of cells."""
        untaken, problems = list[str](), dict[str, str]()
        try:
            untaken += self.file_format.adapt(cells) if self.file_format.adapt else ()
        except UnreadableCellError as error:
            problems[error.key] = str(error)
        if not cells.get("handle") and (title := cells.get("title")) and (self.makes_handles or self.file_format.fills_handles):
            cells["handle"] = generate_handle(title, "")
        if self.file_format.fills_handles:
            cells["handle"] = self.last_handle = cells.get("handle") or self.last_handle
        for column, name in self.option_names.items():
            if column.replace("name", "value") in cells:
                cells[column] = name
        for key in [key for key, cell in cells.items() if not cell or (key.startswith("~") and key != "~has variant")]:
            if key != "~has variant":
                del cells[key]
        return [self.header[self.index_by_key[key]].strip()[:MAX_IGNORED_COLUMN_NAME] for key in untaken], problems

    def list_numbers(self, cells: Sequence[str]) -> Iterator[tuple[str, str]]:
        """The cells of columns of numbers, of which amounts are without signs of currencies."""
        numbers = {
            key: cell
            for key in self.file_format.number_keys & self.index_by_key.keys()
            if (n := self.index_by_key[key]) < len(cells) and (cell := self._clean_cell(cells[n]))
        }
        self._remove_currencies(numbers)
        yield from numbers.items()

    def _remove_currencies(self, cells: dict[str, str]) -> dict[str, str]:
        """Remove the signs of the store's currency from the amounts. Returns the problems of those with others."""
        problems = dict[str, str]()
        for key in self.file_format.amount_keys:
            if cell := cells.get(key):
                try:
                    cells[key] = remove_currency(cell, self.currency)
                except OtherCurrencyError as error:
                    problems[key] = str(error)
        return problems

    def _normalize_numbers(self, cells: dict[str, str]) -> dict[str, str]:
        """Write the numbers in canonical form. Returns the problems of those that are unclear."""
        problems = dict[str, str]()
        for key, number_format in self.number_formats.items():
            if cell := cells.get(key):
                try:
                    cells[key] = normalize_number(cell, number_format)
                except UnclearNumberError as error:
                    problems[key] = str(error)
        return problems

    def count_ignored_cells(self, cells: Sequence[str], counts: Counter[str]) -> None:
        """Count the cells of columns that are not taken."""
        for index, name in self.ignored_columns.items():
            if index < len(cells) and cells[index]:
                counts[name] += 1

    def _clean_cell(self, cell: str) -> str:
        return (lossless_cell.unquote_formula(cell) if self.has_quoted_formulas else cell).strip()


class CsvSource:
    """A file whose header has been parsed."""

    def __init__(self, file: BinaryIO, name: str, plan: ReadingPlan) -> None:
        self._file, self._plan = file, plan
        self.delimiter, header, self.line_reader, self._csv_reader = _read_header(file, name, plan.mapping)
        self.row_count = 0
        self._ignored_cell_counts = Counter[str]()
        self.header = header
        try:
            self.layout, self._column_map = _parse_header(header, name, plan)
        except UnreadableFileError:
            if _count_known_columns(header, plan.mapping) < 2 and (position := _find_later_header(file, name, plan)):
                raise UnreadableFileError(f"{name}: {_describe_rows_above(position, plan.origin.first_row)}.") from None
            raise
        self._file_description = self._describe_file()

    @property
    def file_format(self) -> FileFormat:
        """The format of the file, by its header."""
        return self._column_map.file_format

    def list_numbers(self, cells: Sequence[str]) -> Iterator[tuple[str, str]]:
        """The cells of columns of numbers, with their keys."""
        return self._column_map.list_numbers(cells)

    def get_cell(self, cells: Sequence[str], key: str) -> str:
        """The cell of a key; empty if there is none."""
        index = self._column_map.index_by_key.get(key)
        return cells[index].strip() if index is not None and index < len(cells) else ""

    def resume(self, resume_point: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.line_reader = _LineReader(self._file, resume_point["offset"], resume_point["line"] - 1, self.delimiter)
        self.row_count = resume_point.get("rows", 0)
        self._ignored_cell_counts = Counter(resume_point.get("ignoredColumns"))
        self._csv_reader = _read_cells(self.line_reader, self.delimiter)

    def build_checkpoint(self) -> Checkpoint:
        """The checkpoint after the last record."""
        resume_point = {"offset": self.line_reader.offset, "line": self.line_reader.line + 1, "rows": self.row_count}
        return self.describe_progress(Checkpoint(resume_point, self.line_reader.offset))

    def describe_progress(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint with how the file is read, and the number of cells that were not taken before it, by column."""
        ignored = {"ignoredColumns": {**self._ignored_cell_counts}} if self._ignored_cell_counts else {}
        return Checkpoint({**checkpoint.resume_point, **ignored, "file": self._file_description}, checkpoint.progress)

    def _describe_file(self) -> dict[str, Any]:
        origin, column_map = self._plan.origin, self._column_map
        return {
            "format": self.file_format.name,
            "encoding": origin.encoding,
            "delimiter": self.delimiter,
            "entry": origin.entry,
            "numberFormats": {key: number_format.value for key, number_format in column_map.number_formats.items()},
            "decimalCommaColumns": [
                self.header[index].strip()
                for key, index in column_map.index_by_key.items()
                if column_map.number_formats.get(key) is NumberFormat.COMMA
            ],
        }

    def read_records(self, max_rows: int) -> Iterator[CsvRecord | RowError | None]:
        """Yield records and errors of unreadable ones; None for an empty row, or a part of a line that is too long."""
        for row in self.read_rows(max_rows):
            if row is None:
                yield None
            elif isinstance(row.cells, RowError):
                yield row.cells
            elif self._plan.is_regrouped and row.cells[1].startswith(UNREADABLE_MARK):
                yield self.layout.build_row_error(int(row.cells[0]), None, "", row.cells[1].removeprefix(UNREADABLE_MARK))
            else:
                record = self._column_map.build_record(row, row.cells)
                yield record
                # Afterwards: a checkpoint before this record does not include it.
                self._column_map.count_ignored_cells(row.cells, self._ignored_cell_counts)
                if record.untaken_columns:
                    self._ignored_cell_counts.update(record.untaken_columns)

    def read_rows(self, max_rows: int) -> Iterator[RawRow | None]:
        """Yield rows as they are; None for an empty one, or a part of a line that is too long."""
        line_reader, first_row = self.line_reader, self._plan.origin.first_row
        while self.row_count < max_rows:
            line, start_offset, preceding_rows = line_reader.line + 1, line_reader.offset, self.row_count
            if first_row is not None:
                # The row of a sheet, of which a cell may have several lines.
                line = first_row + 1 + self.row_count
            line_reader.begin_record()
            try:
                cells = next(self._csv_reader)
            except StopIteration:
                return
            except (_RecordTooLongError, UnicodeDecodeError, csv.Error) as error:
                # The parser restarts on the next line: one broken record does not cost the rest of the file.
                yield RawRow(line, self._build_row_error(line, error), start_offset, preceding_rows)
                while isinstance(error, _LineTooLongError) and not line_reader.skip_chunk():
                    yield None
            else:
                # Spreadsheets write empty lines.
                yield RawRow(line, cells, start_offset, preceding_rows) if any(cells) else None
            self.row_count += 1

    def _build_row_error(self, first_line: int, error: Exception) -> RowError:
        problem = f"not valid CSV ({error}), left out: close or double the quotes"
        if "field limit" in str(error):
            problem = f"has a cell of more than {csv.field_size_limit():,} characters, left out: shorten it, or close the quotes"
        if isinstance(error, _RecordTooLongError):
            problem = f"has more than {error}, left out: close the quotes, or shorten the row"
        elif isinstance(error, UnicodeDecodeError):
            problem = f"is left out, it {NOT_UTF_8_MESSAGE}"
        last_line = self.line_reader.line if self._plan.origin.first_row is None else first_line
        line_range = f"lines {first_line:,} to {last_line:,}: " if last_line > first_line else ""
        return self.layout.build_row_error(first_line, None, "", line_range + problem)


def _read_header(file: BinaryIO, name: str, mapping: Mapping[str, str]) -> tuple[str, Sequence[str], _LineReader, CellReader]:
    """The delimiter, the cells of the header, and readers of what follows. Raises UnreadableFileError."""
    header, line_reader, cell_reader = _read_header_with(file, name, ",")
    if match := _DELIMITER_CELL.fullmatch(header[0] if header else ""):
        # A line with which the file tells Excel its delimiter.
        if (delimiter := match[1] or ",") not in DELIMITER_NAMES:
            raise UnreadableFileError(f"{name}: cells separated by “{delimiter}” are not read: use commas, semicolons or tabs.")
        return delimiter, *_read_header_with(file, name, delimiter, line_reader.offset)
    best = (",", header, line_reader, cell_reader)
    if not _count_known_columns(header, mapping):
        for delimiter in [*DELIMITER_NAMES][1:]:
            with suppress(UnreadableFileError):
                read = (delimiter, *_read_header_with(file, name, delimiter))
                best = max(best, read, key=lambda candidate: _count_known_columns(candidate[1], mapping))
        # Each reader moves the file.
        return best[0], *_read_header_with(file, name, best[0])
    return best


def _read_header_with(
    file: BinaryIO, name: str, delimiter: str, offset: int = 0
) -> tuple[Sequence[str], _LineReader, CellReader]:
    line_reader = _LineReader(file, offset, int(offset > 0), delimiter)
    cell_reader = _read_cells(line_reader, delimiter)
    try:
        return next(cell_reader, []), line_reader, cell_reader
    except UnicodeDecodeError:
        raise UnreadableFileError(f"{name}: {NOT_UTF_8_MESSAGE}") from None
    except (csv.Error, _RecordTooLongError) as error:
        problem = error if isinstance(error, csv.Error) else f"it has more than {error}"
        raise UnreadableFileError(f"{name}: the header row cannot be read ({problem}).") from None


def _find_later_header(file: BinaryIO, name: str, plan: ReadingPlan) -> tuple[int, int] | None:
    """Where a header is that does not come first, as below a title: its row and line, counted from 1; None if there is none."""
    for delimiter in DELIMITER_NAMES:
        # The rest of the file is not CSV with this delimiter, or has a record that is too long.
        with suppress(UnreadableFileError, UnicodeDecodeError, csv.Error, _RecordTooLongError):
            _, line_reader, cell_reader = _read_header_with(file, name, delimiter)
            for number in range(2, MAX_ROWS_BEFORE_HEADER + 2):
                line_reader.begin_record()
                line = line_reader.line + 1
                if (cells := next(cell_reader, None)) is None:
                    break
                if not 1 < len(cells) <= MAX_COLUMNS:
                    continue
                headers = [plan.mapping.get(normalize_header(cell), cell) for cell in cells]
                file_format, count = recognize_format(headers, is_mapped=bool(plan.mapping))
                if count > 1 and identifies_products(file_format, headers):
                    return number, line
    return None


def _describe_rows_above(position: tuple[int, int], first_row: int | None) -> str:
    """The problem with rows above the header. `first_row`: of a sheet, whose rows are named; None for text."""
    row, line = position
    kind, first, header = ("line", 1, line) if first_row is None else ("row", first_row, first_row + row - 1)
    above = f"{kind} {first}" if header == first + 1 else f"the {kind}s {first} to {header - 1}"
    return f"the names of the columns are on {kind} {header}, and have to come first: delete {above}"


def _read_cells(lines: Iterator[str], delimiter: str) -> CellReader:
    # Strict: the lenient parser silently reads everything after an unclosed quote as one cell.
    return csv.reader(lines, strict=True, delimiter=delimiter)


def _count_known_columns(header: Sequence[str], mapping: Mapping[str, str]) -> int:
    return recognize_format(header)[1] + sum(normalize_header(spelling) in mapping for spelling in header)


def _parse_header(header: Sequence[str], name: str, plan: ReadingPlan) -> tuple[SourceLayout, _ColumnMap]:
    headers = _apply_mapping(header, name, plan.mapping)
    file_format = plan.file_format or recognize_format(headers, is_mapped=bool(plan.mapping))[0]
    keys = [find_column(file_format, spelling, plan.currency) for spelling in headers]
    if plan.is_regrouped:
        keys[:2] = ["~line", "handle"]
    if problem := _find_header_problem(header, keys, file_format):
        raise UnreadableFileError(f"{name}: {problem}")
    index_by_key: dict[str, int] = {}
    for index, key in enumerate(keys):
        if key is not None:
            index_by_key.setdefault(key, index)
    option_names = _take_mapped_options(header, headers, index_by_key)
    makes_handles = file_format.makes_handles and (file_format.has_parents or "handle" not in index_by_key)
    spellings = _list_spellings(header, index_by_key, file_format, option_names)
    for column, required_column in REQUIRED_COLUMN_BY_COLUMN.items():
        if required_column not in spellings and column not in option_names:
            index_by_key.pop(column, None)
            spellings.pop(column, None)
    quoted_column = lossless_cell.QUOTED_COLUMN.lower()
    taken = {*index_by_key.values()}
    untaken = [index for index in range(len(header)) if index not in taken]
    # Cells below an empty header are lost as others are. A regrouped file has two columns of its own before those of the file.
    ignored_columns = {
        index: sanitize_excerpt(header[index].strip(), MAX_IGNORED_COLUMN_NAME)
        or f"{index + 1 - 2 * plan.is_regrouped} (without a name)"
        for index in sorted(untaken, key=lambda index: not header[index].strip())
    }
    kept_columns = {
        index: header[index].strip() for index in ignored_columns if is_kept_column(file_format, header[index].strip())
    }
    for index in kept_columns:
        del ignored_columns[index]
    column_map = _ColumnMap(
        file_format,
        header,
        index_by_key,
        spellings.get(quoted_column, "").lower() == quoted_column,
        dict(islice(ignored_columns.items(), MAX_IGNORED_COLUMNS)),
        plan.number_formats,
        plan.is_regrouped,
        option_names,
        makes_handles,
        kept_columns,
        plan.currency,
    )
    return build_layout(name, len(header), spellings, makes_handles=makes_handles), column_map


def _apply_mapping(header: Sequence[str], name: str, mapping: Mapping[str, str]) -> list[str]:
    """The headers with their names by the mapping. Raises UnreadableFileError for a header that the file does not have."""
    spellings = [normalize_header(spelling) for spelling in header]
    if missing := [source for source in mapping if source not in spellings]:
        raise UnreadableFileError(f"{name}: the header row has no column “{sanitize_excerpt(missing[0], 100)}” to map.")
    return [mapping.get(normalized, spelling) for normalized, spelling in zip(spellings, header, strict=True)]


def _take_mapped_options(header: Sequence[str], headers: Sequence[str], index_by_key: dict[str, int]) -> dict[str, str]:
    """The columns that are mapped to options, each with its header as the name of the option."""
    option_names = dict[str, str]()
    for index, mapped in enumerate(headers):
        number = len(option_names) + 1
        if mapped == OPTION_TARGET and number <= len(OPTION_NUMBERS):
            index_by_key[f"option{number} value"] = index
            option_names[f"option{number} name"] = header[index].strip()
    return option_names


def _list_spellings(
    header: Sequence[str], index_by_key: Mapping[str, int], file_format: FileFormat, option_names: Iterable[str]
) -> dict[str, str]:
    """How the file spells each column, and those that are made of its columns. Also the keys, for errors of their cells."""
    spellings = {key: header[index].strip() for key, index in index_by_key.items()}
    for column, keys in file_format.derived:
        if all(key in index_by_key for key in keys):
            spellings.setdefault(column, spellings[keys[0]])
    if file_format.makes_handles and "title" in spellings:
        spellings.setdefault("handle", spellings["title"])
    for column in option_names:
        spellings.setdefault(column, spellings[column.replace("name", "value")])
    return spellings


def _find_header_problem(header: Sequence[str], keys: Sequence[str | None], file_format: FileFormat) -> str | None:
    """The problem with a header that is not a product file's, or None."""
    if len(header) > MAX_COLUMNS:
        return f"the header row has {len(header):,} columns, at most {MAX_COLUMNS:,} are allowed."
    # In UTF-16 every other byte of ASCII text is NUL.
    if any("\0" in spelling for spelling in header):
        return NOT_UTF_8_MESSAGE
    if not {"handle", "variant sku", *(["title"] if file_format.makes_handles else [])} & {*keys}:
        if not any(spelling.strip() for spelling in header):
            return "its first row is empty: it has to name the columns."
        return "the header row has no column “Handle”, “URL handle” or “Variant SKU”. Is it a product CSV?"
    if file_format is not SHOPIFY:
        # Other makers' files repeat columns; the first one is taken, and the others are named.
        return None
    repeated = [column for column, count in Counter(keys).items() if count > 1 and column is not None]
    repeated_spellings = " and ".join(f"“{header[n].strip()}”" for n, column in enumerate(keys) if column in repeated[:1])
    return (
        f"the header row has one column several times ({sanitize_excerpt(repeated_spellings, 200)}): keep one of them."
        if repeated
        else None
    )
