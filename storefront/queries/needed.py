"""Only the columns that somebody asked for."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement

# The names of columns, sorted; None for all of them.
Wanted = tuple[str, ...] | None

# There are more sets of columns than anybody needs: statements for the latest are kept.
MOST_STATEMENTS = 500


def needed(columns: Iterable[ColumnElement[Any]], wanted: Wanted, *always: str) -> list[ColumnElement[Any]]:
    """Those of the columns that are wanted, and those that are always needed."""
    return [column for column in columns if wanted is None or column.key in wanted or column.key in always]
