"""Projection: the columns that a selection needs. A plain field needs its own column, a resolver those that it declares."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from strawberry.types import get_object_definition

from storefront.execution.lookahead import get_selected_names
from storefront.graph.context import Info


def requires_columns(*columns: str) -> dict[str, Any]:
    """The metadata of a resolver that reads these columns. Keys and grouping columns are always loaded."""
    return {"columns": columns}


def get_selected_columns(info: Info, type_: type) -> tuple[str, ...] | None:
    """The columns of an object type that the selection of a field needs; None for all."""
    definition = get_object_definition(type_, strict=True)
    names = get_selected_names(info, definition.name)
    if names is None:
        return None
    columns_by_field = _map_fields_to_columns(type_)
    return tuple(sorted({column for name in names for column in columns_by_field.get(name, ())}))


@cache
def _map_fields_to_columns(type_: type) -> Mapping[str, tuple[str, ...]]:
    fields = get_object_definition(type_, strict=True).fields
    return {
        field.python_name: field.metadata.get("columns", () if field.base_resolver else (field.python_name,)) for field in fields
    }
