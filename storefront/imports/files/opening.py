"""Opening of an uploaded file as UTF-8 text: unpacked and converted into a temporary file where it has to be."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from tempfile import TemporaryFile
from typing import Any, BinaryIO

import orjson

from storefront.imports.files.encodings import UTF_8, UnknownEncodingError, convert_to_utf_8, detect_encoding
from storefront.imports.files.unpack import EMPTY_ZIP_MAGIC, GZIP_MAGIC, MAX_CPU_SECONDS, OLE_MAGIC, ZIP_MAGIC

# Archives in an archive, such as a workbook in a .zip.
MAX_CONTAINERS = 2


class UnreadableFileError(ValueError):
    """The file is not a catalogue. The message says why, for the user who uploaded it."""


@dataclass(frozen=True, slots=True)
class FileOrigin:
    """What a file was before it was opened. `entry`: of its archive or workbook. `first_row`: of a sheet; None for text."""

    encoding: str = UTF_8
    container: str | None = None
    entry: str | None = None
    first_row: int | None = None


@asynccontextmanager
async def open_as_text(
    file: BinaryIO, name: str, *, max_bytes: int, entry: str | None = None
) -> AsyncIterator[tuple[BinaryIO, FileOrigin]]:
    """The file as UTF-8 text, and what it was. `max_bytes`: once it is unpacked. `entry`: the file of an archive, or
    the sheet of a workbook, to read. Raises UnreadableFileError.
    """
    origin = FileOrigin()
    async with AsyncExitStack() as stack:
        for _ in range(MAX_CONTAINERS + 1):
            if not await asyncio.to_thread(_is_container, file):
                break
            if origin.container and (origin.container == "xlsx" or entry is not None):
                # The name was that of the archive's file.
                entry = None
            target = await stack.enter_async_context(open_temporary_file())
            origin = await _unpack(file, target, name, max_bytes, entry)
            file = target
        else:
            raise UnreadableFileError(f"{name}: is an archive in an archive: unpack it first.")
        if entry is not None and origin.container in {None, "gzip"}:
            raise UnreadableFileError(f"{name}: is neither an archive nor a workbook, so it has no “{entry[:100]}”.")
        try:
            encoding = await asyncio.to_thread(detect_encoding, file)
        except UnknownEncodingError as error:
            raise UnreadableFileError(f"{name}: {error}") from None
        if not encoding.is_utf_8:
            target = await stack.enter_async_context(open_temporary_file())
            await asyncio.to_thread(convert_to_utf_8, file, target, encoding)
            file = target
        yield file, replace(origin, encoding=encoding.name)


@asynccontextmanager
async def open_temporary_file() -> AsyncIterator[BinaryIO]:
    """A temporary file. It is closed in a thread: freeing a gigabyte takes 50 ms, which would block the event loop."""
    file = TemporaryFile()  # noqa: SIM115  closed in a thread
    try:
        yield file
    finally:
        # Also where the caller is cancelled once more.
        await asyncio.shield(asyncio.to_thread(file.close))


def _is_container(file: BinaryIO) -> bool:
    file.seek(0)
    return file.read(8).startswith((GZIP_MAGIC, ZIP_MAGIC, EMPTY_ZIP_MAGIC, OLE_MAGIC))


async def _unpack(file: BinaryIO, target: BinaryIO, name: str, max_bytes: int, entry: str | None) -> FileOrigin:
    """Unpack the file in a process of its own. Raises UnreadableFileError."""
    file.flush()
    arguments = [str(max_bytes), *([] if entry is None else [entry])]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "storefront.imports.files.unpack", *arguments),
        stdin=file,
        stdout=target,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(2 * MAX_CPU_SECONDS):
            _, output = await process.communicate()
    except TimeoutError:
        output = b""
    finally:
        with suppress(ProcessLookupError):
            process.kill()
    result = _parse_result(output)
    if problem := result.get("problem"):
        raise UnreadableFileError(f"{name}: {problem}")
    return FileOrigin(container=result["container"], entry=result.get("entry"), first_row=result.get("firstRow"))


def _parse_result(output: bytes) -> dict[str, Any]:
    try:
        result: dict[str, Any] = orjson.loads(output.rpartition(b"\n")[2])
    except orjson.JSONDecodeError:
        # Killed by a limit.
        return {"problem": "takes too much memory or time to be unpacked: save it as CSV."}
    return result
