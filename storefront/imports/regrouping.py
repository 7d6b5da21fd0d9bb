"""Regrouping of files whose variants are apart from their products: a copy in which the rows of a product follow each other.

Rows are sorted in a temporary SQLite file, so that memory is bounded. Synchronous, for a thread.
"""

import csv
import io
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from html import unescape
from typing import BinaryIO

import orjson

from storefront.core.handles import generate_handle
from storefront.imports.row_types import RowError
from storefront.imports.shopify.csv_file import UNREADABLE_MARK, CsvSource, ReadingPlan

BATCH_ROWS = 500
_SCHEMA = """
CREATE TABLE rows (number INTEGER PRIMARY KEY, line INTEGER, parent TEXT, title TEXT, problem TEXT, cells TEXT);
CREATE TABLE names (name TEXT PRIMARY KEY, number INTEGER) WITHOUT ROWID;
"""
# A variant without its product in the file is a product of its own, found by its SKU.
_SORTED_ROWS = """
SELECT rows.line, rows.problem, rows.cells, coalesce(parents.title, CASE WHEN rows.parent IS NULL THEN rows.title END) AS title
FROM rows LEFT JOIN names ON names.name = rows.parent LEFT JOIN rows AS parents ON parents.number = names.number
ORDER BY coalesce(names.number, rows.number), rows.number
"""


def regroup_file(file: BinaryIO, target: BinaryIO, name: str, plan: ReadingPlan, max_rows: int) -> None:
    """Write the rows with two more cells: their line in the file, and the handle of their product. Raises UnreadableFileError."""
    source = CsvSource(file, name, plan)
    # An empty name is a temporary file, which SQLite deletes with the connection.
    with closing(sqlite3.connect("", isolation_level=None)) as sqlite:
        sqlite.executescript(_SCHEMA)
        sqlite.execute("BEGIN")
        for number, row in enumerate(source.read_rows(max_rows + 1)):
            if row is None:
                continue
            if isinstance(row.cells, RowError):
                sqlite.execute("INSERT INTO rows VALUES (?, ?, NULL, NULL, ?, NULL)", [number, row.line, row.cells.problem])
                continue
            kinds, sku, id_ = (source.get_cell(row.cells, key) for key in ("~type", "variant sku", "~id"))
            parent = source.get_cell(row.cells, "~parent") if "variation" in kinds.lower() else ""
            # As HTML: `formats.py`.
            title = unescape(source.get_cell(row.cells, "title"))
            values = [number, row.line, parent or None, title, None, orjson.dumps(row.cells, default=str).decode()]
            sqlite.execute("INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?)", values)
            if not parent:
                names = [(each, number) for each in (sku, f"id:{id_}" if id_ else "") if each]
                sqlite.executemany("INSERT OR IGNORE INTO names VALUES (?, ?)", names)
        target.writelines(text.encode("utf-8", "surrogatepass") for text in _render_rows(sqlite, source.header))


def _render_rows(sqlite: sqlite3.Connection, header: Sequence[str]) -> Iterator[str]:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(["Line", "Handle", *header])
    for count, (line, problem, cells, title) in enumerate(sqlite.execute(_SORTED_ROWS)):
        if problem is not None:
            writer.writerow([line, UNREADABLE_MARK + problem])
        else:
            writer.writerow([line, generate_handle(title or "", ""), *orjson.loads(cells)])
        if count % BATCH_ROWS == 0:
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue()
