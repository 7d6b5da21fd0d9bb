"""Rows of many parents, sorted back to their parents."""

from collections.abc import Sequence
from operator import attrgetter
from typing import TypeVar

from storefront.core.db.database import Row

K = TypeVar("K", str, int)


def by_parent(rows: Sequence[Row], keys: Sequence[K], parent: str = "parent_id") -> list[list[Row]]:
    """The rows of each key, in the order they came; an empty list for a key without any."""
    found: dict[K, list[Row]] = {key: [] for key in keys}
    for row, key in zip(rows, map(attrgetter(parent), rows), strict=True):
        found[key].append(row)
    return [found[key] for key in keys]


def by_key(rows: Sequence[Row], keys: Sequence[str], key: str = "id") -> list[Row | None]:
    """The row of each key, None for a key without one."""
    found = {getattr(row, key): row for row in rows}
    return [found.get(wanted) for wanted in keys]
