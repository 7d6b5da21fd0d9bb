"""Unpacks an archive or a workbook: a program of its own, so that a hostile file can exhaust only this process.

`python -m storefront.imports.files.unpack MAX_BYTES [ENTRY]` reads the file from its standard input, which must be seekable, and
writes the text to its standard output. The last line of its standard error is JSON: what it found, or why it failed.
"""

import csv
import gzip
import io
import re
import resource
import sys
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime, time, timedelta
from typing import Any, BinaryIO

import orjson
from python_calamine import CalamineError, CalamineSheet, CalamineWorkbook, PasswordError, SheetTypeEnum, SheetVisibleEnum

# Bytes of memory, and seconds of CPU, of this process.
MAX_MEMORY_BYTES, MAX_CPU_SECONDS = 2_000_000_000, 300
# Text shrinks to a hundredth at most; what expands more, beyond so many bytes, is a decompression bomb.
MAX_RATIO, MIN_BOMB_BYTES = 250, 10_000_000
CHUNK_BYTES = 65_536
# Cells of a workbook, empty ones inside of its range included: they are held in memory.
MAX_CELLS = 30_000_000
MAX_ENTRIES = 1_000
MAX_SHOWN_ENTRIES = 5
GZIP_MAGIC, ZIP_MAGIC, OLE_MAGIC = b"\x1f\x8b", b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
EMPTY_ZIP_MAGIC = b"PK\x05\x06"
_IGNORED_PREFIXES = ("__MACOSX/", ".")
_WORKBOOK_PREFIX = "xl/"

_ERROR_CELL = re.compile(rb'<(?:\w+:)?c\s[^>]*\bt="e"[^>]*>')

Cell = int | float | str | bool | time | date | datetime | timedelta


class UnpackError(Exception):
    """The file cannot be unpacked. The message says why."""


def main(arguments: Sequence[str]) -> int:
    """Unpack standard input to standard output."""
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_SECONDS, MAX_CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    try:
        result = unpack(sys.stdin.buffer, sys.stdout.buffer, int(arguments[0]), *arguments[1:])
        sys.stdout.flush()
    except UnpackError as error:
        result = {"problem": str(error)}
    except MemoryError:
        result = {"problem": "needs too much memory to be unpacked: save it as CSV."}
    sys.stderr.write("\n" + orjson.dumps(result).decode())
    return 0


def unpack(file: BinaryIO, target: BinaryIO, max_bytes: int, entry: str | None = None) -> dict[str, Any]:
    """Write the only file of an archive, or the named one, or the rows of a sheet as CSV. Returns what it is.

    Raises UnpackError.
    """
    # The other process may have read from it.
    file.seek(0)
    magic = file.read(8)
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    output = _BoundedOutput(target, max_bytes, size)
    if magic.startswith(GZIP_MAGIC):
        with gzip.GzipFile(fileobj=file) as content:
            _copy(content, output)
        return {"container": "gzip"}
    if magic.startswith(OLE_MAGIC):
        raise UnpackError("is a workbook of an old Excel, or has a password: save it as .xlsx or CSV without one.")
    with _open_archive(file) as archive:
        if any(info.filename.startswith(_WORKBOOK_PREFIX) for info in archive.infolist()):
            _check_sizes(archive, max_bytes, size)
            return _write_sheet(archive, file, output, entry)
        member = _choose_member(archive, entry)
        if member.flag_bits & 1:
            raise UnpackError(f"“{member.filename}” in it has a password: remove it.")
        with archive.open(member) as content:
            _copy(content, output)
        return {"container": "zip", "entry": member.filename}


def _open_archive(file: BinaryIO) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UnpackError(f"is a damaged archive ({error}): pack it again.") from None
    if len(archive.infolist()) > MAX_ENTRIES:
        raise UnpackError(f"is an archive of {len(archive.infolist()):,} files, at most {MAX_ENTRIES:,} are read.")
    return archive


def _choose_member(archive: zipfile.ZipFile, entry: str | None) -> zipfile.ZipInfo:
    members = [
        info
        for info in archive.infolist()
        if not info.is_dir() and not info.filename.startswith(_IGNORED_PREFIXES) and "/." not in info.filename
    ]
    names = [info.filename for info in members]
    return members[_choose(names, entry, "file", "an archive")]


def _choose(names: Sequence[str], entry: str | None, noun: str, container: str) -> int:
    """The index of the named entry, or of the only one. Raises UnpackError."""
    shown = ", ".join(f"“{name[:100]}”" for name in names[:MAX_SHOWN_ENTRIES]) + (", …" if len(names) > MAX_SHOWN_ENTRIES else "")
    if entry is not None:
        if names.count(entry) != 1:
            raise UnpackError(f"is {container} without one {noun} named “{entry[:100]}”. It has {shown or 'none'}.")
        return names.index(entry)
    if len(names) != 1:
        problem = (
            f"has {len(names):,} {noun}s ({shown}): name the one to import." if names else f"is {container} without {noun}s."
        )
        raise UnpackError(problem)
    return 0


class _BoundedOutput:
    """Writes text within the limits of an unpacked file."""

    def __init__(self, target: BinaryIO, max_bytes: int, packed_bytes: int) -> None:
        self._target, self._max_bytes, self._packed_bytes, self._size = target, max_bytes, packed_bytes, 0

    def write(self, chunk: bytes) -> None:
        """Write a chunk. Raises UnpackError beyond a limit."""
        self._size += len(chunk)
        check_size(self._size, self._max_bytes, self._packed_bytes)
        self._target.write(chunk)


def check_size(size: int, max_bytes: int, packed_bytes: int) -> None:
    """Raises UnpackError if so many unpacked bytes are too many."""
    if size > max_bytes:
        raise UnpackError(f"has more than {max_bytes:,} bytes once it is unpacked. Import it in parts.")
    if size > max(MIN_BOMB_BYTES, MAX_RATIO * packed_bytes):
        raise UnpackError(f"unpacks to more than {MAX_RATIO} times its size, as decompression bombs do. Import it unpacked.")


def _copy(content: gzip.GzipFile | Any, output: _BoundedOutput) -> None:
    try:
        while chunk := content.read(CHUNK_BYTES):
            output.write(chunk)
    except (EOFError, OSError, zlib.error, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise UnpackError(f"is damaged, or packed in a way that is not read ({error}): pack it again as .zip or .gz.") from None


def _check_sizes(archive: zipfile.ZipFile, max_bytes: int, packed_bytes: int) -> None:
    """The parts of a workbook are unpacked in memory, so their sizes are checked first. The limit of memory is behind it."""
    size = sum(info.file_size for info in archive.infolist())
    check_size(size, min(max_bytes, MAX_MEMORY_BYTES // 2), packed_bytes)


# ----------------------------------------------------------------------------------------------- workbooks


def _write_sheet(archive: zipfile.ZipFile, file: BinaryIO, output: _BoundedOutput, entry: str | None) -> dict[str, Any]:
    file.seek(0)
    try:
        with CalamineWorkbook.from_filelike(file) as workbook:
            name, sheet = _choose_sheet(workbook, entry)
            number = next(n for n, metadata in enumerate(workbook.sheets_metadata) if metadata.name == name)
            if cell := _find_error_cell(archive, number):
                raise UnpackError(f"the cell {cell} of the sheet “{name[:100]}” has an error of a formula: correct it.")
            first_row = (sheet.start or (0, 0))[0] + 1
            _write_rows(sheet.to_python(), output)
    except PasswordError:
        raise UnpackError("has a password: save it without one.") from None
    except (CalamineError, zipfile.BadZipFile, zlib.error, OSError, ValueError, KeyError) as error:
        raise UnpackError(f"is a damaged workbook ({str(error)[:200]}): save it again as .xlsx, or as CSV.") from None
    return {"container": "xlsx", "entry": name, "firstRow": first_row}


def _choose_sheet(workbook: CalamineWorkbook, entry: str | None) -> tuple[str, CalamineSheet]:
    """The named sheet, or the only visible one that has cells."""
    sheets = dict[str, CalamineSheet]()
    for metadata in workbook.sheets_metadata:
        if metadata.typ != SheetTypeEnum.WorkSheet or (entry is None and metadata.visible != SheetVisibleEnum.Visible):
            continue
        if entry is not None and metadata.name != entry:
            continue
        sheet = workbook.get_sheet_by_name(metadata.name)
        if sheet.height * sheet.width > MAX_CELLS:
            raise UnpackError(f"the sheet “{metadata.name[:100]}” has more than {MAX_CELLS:,} cells, empty ones included.")
        if sheet.height:
            sheets[metadata.name] = sheet
    names = [*sheets] if entry is None or sheets else [metadata.name for metadata in workbook.sheets_metadata]
    if entry is not None and entry in names and entry not in sheets:
        raise UnpackError(f"the sheet “{entry[:100]}” is empty.")
    index = _choose(names, entry, "sheet", "a workbook")
    return names[index], sheets[names[index]]


def _find_error_cell(archive: zipfile.ZipFile, number: int) -> str | None:
    """The first cell with an error, such as #N/A, of the sheet with this number. They are read as empty cells otherwise."""
    sheets = re.findall(rb"<(?:\w+:)?sheet\s[^>]*>", archive.read("xl/workbook.xml"))
    relations = archive.read("xl/_rels/workbook.xml.rels")
    if number >= len(sheets) or not (relation := re.search(rb':id="([^"]+)"', sheets[number])):
        return None
    elements = [element for element in re.findall(rb"<[^>]+>", relations) if b'Id="' + relation[1] + b'"' in element]
    if not elements or not (target := re.search(rb'Target="/?(?:xl/)?([^"]+)"', elements[0])):
        return None
    rest = b""
    with archive.open(f"xl/{target[1].decode()}") as part:
        while chunk := part.read(CHUNK_BYTES):
            if (element := _ERROR_CELL.search(rest + chunk)) and (place := re.search(rb'\sr="([A-Z]+[0-9]+)"', element[0])):
                return place[1].decode()
            rest = chunk[-200:]
    return None


def _write_rows(rows: Iterable[Sequence[Cell]], output: _BoundedOutput) -> None:
    for chunk in _render_rows(rows):
        output.write(chunk.encode("utf-8", "surrogatepass"))


def _render_rows(rows: Iterable[Sequence[Cell]]) -> Iterator[str]:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    for row in rows:
        cells = [render_cell(cell) for cell in row]
        while cells and not cells[-1]:
            cells.pop()
        # One empty cell is written in quotes, as a row of its own.
        writer.writerow(cells or [""])
        if buffer.tell() > CHUNK_BYTES:
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue()


def render_cell(cell: Cell) -> str:
    """A cell as text: whole numbers without a point, others with one, dates as in ISO 8601."""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, bool):
        return "TRUE" if cell else "FALSE"
    if isinstance(cell, int | float):
        # In Excel all numbers are floats of 15 digits.
        return str(int(cell)) if cell == int(cell) else f"{cell:.15g}"
    return str(cell) if isinstance(cell, timedelta) else cell.isoformat()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
