"""How much inputs may hold: one declaration per argument or input field, `metadata=limits(…)`.

From it come the check before execution (`storefront.serving.documents.input_coercion`), what the schema says of the input, and its
cost.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

from graphql import GraphQLArgument, GraphQLInputField, GraphQLSchema, get_nullable_type, is_input_object_type, is_list_type

from storefront.execution.arguments import DEFINITION
from storefront.graph import arguments
from storefront.queries import search
from storefront.serving.documents.input_coercion import LIMIT, InputLimit

# Items of a list that says which of a noun's rows are wanted.
MAX_FILTER_ITEMS = 100
MAX_CURSOR_CHARACTERS = 2_000


def limits(items: int | None = None, characters: int | None = None) -> dict[str, Any]:
    """The metadata of an input: the most items of a list, and the most characters of each text in it."""
    return {LIMIT: InputLimit(items, characters)}


def rows(most: int = arguments.MOST_ROWS) -> dict[str, Any]:
    """The metadata of an input that says how many rows to return."""
    return {LIMIT: InputLimit(check=partial(_check_rows, most))}


def _check_rows(most: int, field: str, number: int) -> None:
    arguments.first(number, field, most)


ROWS = rows()
SEARCH = {
    LIMIT: InputLimit(
        characters=search.MAX_CHARACTERS,
        check=search.check_size,
        description=f", {search.MAX_FOLDED_CHARACTERS} once they are folded, and {search.MAX_WORDS} words",
    )
}


def declare_limits(schema: GraphQLSchema) -> GraphQLSchema:
    """Copy the limits to the engine's inputs and into their descriptions. Returns the same schema.

    Raises TypeError for a list without a limit.
    """
    for coordinate, one in inputs_of(schema):
        limit = one.extensions[DEFINITION].metadata.get(LIMIT) if DEFINITION in one.extensions else None
        if limit is not None:
            one.extensions |= {LIMIT: limit}
            one.description = " ".join(filter(None, (one.description, _described(limit)))) or None
        if is_list_type(get_nullable_type(one.type)) and (limit is None or limit.items is None):
            raise TypeError(f"{coordinate} is a list without a limit: declare metadata=limits(items=…).")
    return schema


def inputs_of(schema: GraphQLSchema) -> Iterator[tuple[str, GraphQLArgument | GraphQLInputField]]:
    """All arguments of fields, introspection's aside, and all input fields, with their schema coordinates."""
    for type_ in schema.type_map.values():
        if type_.name.startswith("__"):
            continue
        for name, field in getattr(type_, "fields", {}).items():
            if is_input_object_type(type_):
                yield f"{type_.name}.{name}", field
            else:
                yield from ((f"{type_.name}.{name}({argument}:)", one) for argument, one in field.args.items())


def _described(limit: InputLimit) -> str:
    parts = ((limit.items, "items"), (limit.characters, "characters"))
    found = [f"{number:,} {unit}" for number, unit in parts if number is not None]
    return f"At most {', of '.join(found)}{' each' if len(found) > 1 else ''}{limit.description}." if found else ""
