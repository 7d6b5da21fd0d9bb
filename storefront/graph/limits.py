"""Input limits: one declaration per argument or input field, `metadata=limits(…)`.

It determines the check before execution (`storefront.serving.documents.input_limits`), the description in the schema, and
the cost.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

from graphql import (
    GraphQLArgument,
    GraphQLInputField,
    GraphQLSchema,
    Undefined,
    get_nullable_type,
    is_input_object_type,
    is_list_type,
)

from storefront.execution.strawberry_adapter import DEFINITION_EXTENSION_KEY
from storefront.graph import arguments
from storefront.queries import search
from storefront.serving.documents.input_limits import LIMIT_EXTENSION_KEY, InputLimit

# Items of a list in a filter.
MAX_FILTER_ITEMS = 100
MAX_CURSOR_CHARACTERS = 2_000


def limits(items: int | None = None, characters: int | None = None, *, item_weight: int = 1) -> dict[str, Any]:
    """The metadata of an input: the maximum number of list items, and of characters in each text.

    `item_weight`: how many items each item of the list counts as, in the limit of all items of an operation.
    """
    return {LIMIT_EXTENSION_KEY: InputLimit(items, characters, item_weight=item_weight)}


def row_limits(max_rows: int = arguments.MAX_ROWS, *, min_rows: int = 1) -> dict[str, Any]:
    """The metadata of an input for the number of rows to return."""
    return {LIMIT_EXTENSION_KEY: InputLimit(check=partial(_check_rows, max_rows, min_rows))}


def _check_rows(max_rows: int, min_rows: int, field: str, number: int) -> None:
    arguments.check_row_count(number, field, max_rows, min_rows)


def _check_rating(field: str, number: int) -> None:
    arguments.check_rating(number, field)


ROW_LIMITS = row_limits()
RATING_LIMITS = {LIMIT_EXTENSION_KEY: InputLimit(check=_check_rating)}
# A search runs statements of its own, and reads its text: as much work as so many list items of a filter.
SEARCH_ITEM_COUNT = 250
SEARCH_LIMITS = {
    LIMIT_EXTENSION_KEY: InputLimit(
        characters=search.MAX_CHARACTERS,
        check=search.check_search_size,
        item_count=SEARCH_ITEM_COUNT,
        description=f", {search.MAX_FOLDED_CHARACTERS} once they are folded, and {search.MAX_WORDS} words",
    )
}


def declare_limits(schema: GraphQLSchema) -> GraphQLSchema:
    """Copy the limits to the extensions and descriptions of graphql-core inputs. Returns the same schema.

    Raises TypeError for a list without a limit.
    """
    for coordinate, input_ in iterate_inputs(schema):
        limit = (
            input_.extensions[DEFINITION_EXTENSION_KEY].metadata.get(LIMIT_EXTENSION_KEY)
            if DEFINITION_EXTENSION_KEY in input_.extensions
            else None
        )
        if limit is not None:
            input_.extensions |= {LIMIT_EXTENSION_KEY: limit}
            input_.description = " ".join(filter(None, (input_.description, _describe_limit(limit)))) or None
        if is_list_type(get_nullable_type(input_.type)) and (limit is None or limit.items is None):
            raise TypeError(f"{coordinate} is a list without a limit: declare metadata=limits(items=…).")
    return schema


def omit_null_defaults(schema: GraphQLSchema) -> GraphQLSchema:
    """Declare inputs with the default null as optional instead: null and omitted mean the same there. Returns the same schema."""
    for _, input_ in iterate_inputs(schema):
        if input_.default_value is None:
            input_.default_value = Undefined
    return schema


def iterate_inputs(schema: GraphQLSchema) -> Iterator[tuple[str, GraphQLArgument | GraphQLInputField]]:
    """All field arguments and input fields with their schema coordinates, without those of introspection."""
    for type_ in schema.type_map.values():
        if type_.name.startswith("__"):
            continue
        for name, field in getattr(type_, "fields", {}).items():
            if is_input_object_type(type_):
                yield f"{type_.name}.{name}", field
            else:
                yield from ((f"{type_.name}.{name}({argument}:)", input_) for argument, input_ in field.args.items())


def _describe_limit(limit: InputLimit) -> str:
    units = ((limit.items, "items"), (limit.characters, "characters"))
    phrases = [f"{number:,} {unit}" for number, unit in units if number is not None]
    return f"At most {', of '.join(phrases)}{' each' if len(phrases) > 1 else ''}{limit.description}." if phrases else ""
