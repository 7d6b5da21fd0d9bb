"""Which columns of a row a selection needs: a plain field its own, a method those that it says."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from strawberry.types import get_object_definition

from storefront.execution.lookahead import selected
from storefront.graph.context import Info


def needs(*columns: str) -> dict[str, Any]:
    """The metadata of a method that reads columns. Keys, and what rows are grouped by, are always there."""
    return {"columns": columns}


def columns_of(info: Info, type_: type) -> tuple[str, ...] | None:
    """The columns of a noun that the selection below a field needs; None: all of them."""
    definition = get_object_definition(type_, strict=True)
    names = selected(info._raw_info, definition.name)
    if names is None:
        return None
    needed = _needed(type_)
    return tuple(sorted({column for name in names for column in needed.get(name, ())}))


@cache
def _needed(type_: type) -> Mapping[str, tuple[str, ...]]:
    fields = get_object_definition(type_, strict=True).fields
    return {
        field.python_name: field.metadata.get("columns", () if field.base_resolver else (field.python_name,)) for field in fields
    }
