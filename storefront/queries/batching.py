"""Batches: parameters that hold lists, and the rows of many parents grouped by their parents."""

from collections.abc import Sequence
from operator import attrgetter
from typing import Any, TypeVar

from sqlalchemy import ARRAY, ColumnElement, Text, bindparam

from storefront.core.db.database import Row

K = TypeVar("K", str, int)


def bind_text_array(name: str) -> ColumnElement[Any]:
    """A parameter that holds a list of strings."""
    return bindparam(name, type_=ARRAY(Text))


def group_by_parent(rows: Sequence[Row], keys: Sequence[K], parent_column: str = "parent_id") -> list[list[Row]]:
    """The rows of each key, in their order; an empty list for a key without rows."""
    rows_by_parent: dict[K, list[Row]] = {key: [] for key in keys}
    for row, key in zip(rows, map(attrgetter(parent_column), rows), strict=True):
        rows_by_parent[key].append(row)
    return [rows_by_parent[key] for key in keys]


def align_by_key(rows: Sequence[Row], keys: Sequence[str], key_column: str = "id") -> list[Row | None]:
    """The row of each key; None for a key without a row."""
    row_by_key = {getattr(row, key_column): row for row in rows}
    return [row_by_key.get(requested_key) for requested_key in keys]
