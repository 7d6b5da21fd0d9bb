"""Reports of imports: what was changed, field by field, and what was rejected, as rows of a table or of a CSV file."""

import csv
import io
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Table, bindparam, select

from storefront.core.cooperative import TimeSlice
from storefront.core.db.database import Database, Statement, compile_statement
from storefront.imports.changes import Change, ProductChange
from storefront.imports.files.encodings import UTF_8
from storefront.imports.formats import FORMATS_BY_NAME, SHOPIFY
from storefront.imports.json_lines import FORMAT_NAME
from storefront.imports.lossless_cell import quote_formula
from storefront.imports.row_types import RowError
from storefront.imports.shopify.csv_file import DELIMITER_NAMES
from storefront.models import job_changes, job_issues, jobs
from storefront.models.row_keys import RowKey, has_key

REPORT_COLUMNS = ("Row", "Handle", "Variant", "Change", "Field", "Old", "New")
REJECTION, READING = "reject", "read"
_FORMAT_LABELS = {name: file_format.label for name, file_format in FORMATS_BY_NAME.items()} | {FORMAT_NAME: "JSON Lines"}
# Rows that are read and rendered at a time.
PAGE_ROWS = 1_000


def build_change_rows(product: ProductChange) -> Iterator[tuple[str, ...]]:
    """The rows of a product's changes."""
    for change in product.changes:
        yield _build_row(product.line, product.handle, change)


def describe_reading(file: Mapping[str, Any]) -> dict[str, str]:
    """How a file was read, where it is not Shopify's CSV in UTF-8, separated by commas. `file`: of a checkpoint."""
    delimiter, columns = file.get("delimiter") or ",", file.get("decimalCommaColumns", ())
    facts = {
        "format": _FORMAT_LABELS[file.get("format", SHOPIFY.name)],
        "entry": file.get("entry") or "",
        "encoding": file.get("encoding", UTF_8),
        "separated by": DELIMITER_NAMES[delimiter],
        "decimal commas": ", ".join(columns),
    }
    usual = {"format": SHOPIFY.label, "entry": "", "encoding": UTF_8, "separated by": DELIMITER_NAMES[","], "decimal commas": ""}
    return {name: value for name, value in facts.items() if value != usual[name]}


def build_reading_rows(file: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The rows of how a file was read."""
    for name, value in describe_reading(file).items():
        yield ("", "", "", READING, name, "", value)


def build_error_row(error: RowError) -> tuple[str, ...]:
    """The row of an error."""
    return (str(error.line), error.handle or "", "", REJECTION, error.column, "", error.problem)


def _build_row(line: int, handle: str, change: Change) -> tuple[str, ...]:
    cells = (change.variant, change.kind.replace("_", " "), change.field, change.old, change.new)
    return (str(line), handle, *(cell or "" for cell in cells))


def render_rows(rows: Iterable[Sequence[str]]) -> str:
    """The rows as CSV. No cell is one that a spreadsheet would run as a formula."""
    file = io.StringIO(newline="")
    csv.writer(file).writerows(map(quote_formula, row) for row in rows)
    return file.getvalue()


async def render_report(database: Database, job: RowKey) -> AsyncIterator[bytes]:
    """The report of a dry run in chunks of UTF-8: what it would change, then what it has rejected."""
    time_slice = TimeSlice()
    [(checkpoint,)] = await database.fetch(_select_checkpoint_statement(), job._asdict())
    yield render_rows([REPORT_COLUMNS, *build_reading_rows((checkpoint or {}).get("file", {}))]).encode()
    last = 0
    while rows := await database.fetch(_select_changes_statement(), {**job._asdict(), "after": last}):
        lines = []
        for row in rows:
            change = Change(row.kind, row.variant, row.field, row.old_value, row.new_value)
            lines.append(render_rows([_build_row(row.row, row.handle, change)]))
            await time_slice.yield_if_expired()
        last = rows[-1].number
        yield "".join(lines).encode()
    issues = await database.fetch(_select_issues_statement(), job._asdict())
    errors = [RowError("", row.row or 0, row.message, row.handle, row.field or "") for row in issues]
    yield render_rows(map(build_error_row, errors)).encode()


@cache
def _select_checkpoint_statement() -> Statement:
    return compile_statement(select(jobs.c.checkpoint).where(has_key(jobs)))


@cache
def _select_changes_statement() -> Statement:
    of_job = _is_of_job(job_changes) & (job_changes.c.number > bindparam("after"))
    return compile_statement(select(job_changes).where(of_job).order_by(job_changes.c.number).limit(PAGE_ROWS))


@cache
def _select_issues_statement() -> Statement:
    return compile_statement(select(job_issues).where(_is_of_job(job_issues)).order_by(job_issues.c.number))


def _is_of_job(table: Table) -> ColumnElement[bool]:
    return (table.c.config_id == bindparam("config_id")) & (table.c.job_id == bindparam("id"))
