"""Opening of a catalogue file of any container, encoding and delimiter, for jobs and the command line."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from io import SEEK_END
from typing import Any, BinaryIO

from storefront.core.cooperative import iterate_cooperatively
from storefront.imports.files.numbers import DecimalSeparator, NumberFormat, choose_formats
from storefront.imports.files.opening import open_as_text, open_temporary_file
from storefront.imports.json_lines import is_json_lines, read_json_products
from storefront.imports.regrouping import regroup_file
from storefront.imports.row_types import SourceItem
from storefront.imports.shopify.csv_file import CsvSource, ReadingPlan, detect_number_formats, read_csv_products_cooperatively

_SAMPLE_BYTES = 4_096


@dataclass(frozen=True, slots=True)
class FileOptions:
    """What the user says of a file. `entry`: the file of an archive, or the sheet of a workbook, to read.

    `mapping`: names of columns by headers (`formats.parse_mapping`). `currency`: of the store.
    """

    entry: str | None = None
    decimal_separator: DecimalSeparator = DecimalSeparator.AUTO
    mapping: Mapping[str, str] = field(default_factory=dict)
    currency: str | None = None


@dataclass(frozen=True, slots=True)
class CatalogueFile:
    """An open file: its items, and the number of bytes that their checkpoints count towards."""

    items: AsyncIterator[SourceItem]
    size: int
    text_file: BinaryIO


@asynccontextmanager
async def open_catalogue(
    file: BinaryIO, name: str, options: FileOptions, resume_point: Mapping[str, Any] | None, *, max_bytes: int, max_rows: int
) -> AsyncIterator[CatalogueFile]:
    """Open a file from the start or a checkpoint. `max_bytes`: once it is unpacked. The consumer detects repeated handles.

    Raises UnreadableFileError.
    """
    async with AsyncExitStack() as stack:
        text_file, origin = await stack.enter_async_context(open_as_text(file, name, max_bytes=max_bytes, entry=options.entry))
        text_file.seek(0)
        if is_json_lines(text_file.read(_SAMPLE_BYTES)):
            size = text_file.seek(0, SEEK_END)
            lines = read_json_products(text_file, name, resume_point, max_rows, origin)
            yield CatalogueFile(iterate_cooperatively(lines), size, text_file)
            return
        plan = ReadingPlan(origin=origin, mapping=options.mapping, currency=options.currency)
        file_format = CsvSource(text_file, name, plan).file_format
        if file_format.has_parents:
            regrouped = await stack.enter_async_context(open_temporary_file())
            await asyncio.to_thread(regroup_file, text_file, regrouped, name, plan, max_rows)
            text_file, plan = regrouped, replace(plan, file_format=file_format)
        plan = replace(plan, number_formats=await _choose_number_formats(text_file, name, options, resume_point, max_rows, plan))
        size = text_file.seek(0, SEEK_END)
        items = read_csv_products_cooperatively(
            text_file, name, resume_point, remember_handles=False, max_rows=max_rows, plan=plan
        )
        yield CatalogueFile(items, size, text_file)


async def _choose_number_formats(
    file: BinaryIO,
    name: str,
    options: FileOptions,
    resume_point: Mapping[str, Any] | None,
    max_rows: int,
    plan: ReadingPlan,
) -> Mapping[str, NumberFormat]:
    if options.decimal_separator is not DecimalSeparator.AUTO:
        return choose_formats(options.decimal_separator, CsvSource(file, name, plan).file_format.number_keys)
    if resume_point and "file" in resume_point:
        return {column: NumberFormat(value) for column, value in resume_point["file"]["numberFormats"].items()}
    [formats] = [found async for found in iterate_cooperatively(detect_number_formats(file, name, plan, max_rows))]
    return formats
