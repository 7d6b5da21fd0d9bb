"""What @cost and @listSize in schema.graphql say is what the cost analysis counts, for every field of the schema."""

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from graphql import (
    GraphQLField,
    GraphQLNamedType,
    GraphQLObjectType,
    IntValueNode,
    build_schema,
    get_directive_values,
    get_named_type,
    get_nullable_type,
    is_abstract_type,
    is_composite_type,
    is_list_type,
    is_object_type,
    parse,
)

from storefront.schema import schema
from storefront.serving.documents.cost import DocumentCosts

PRINTED = build_schema((Path(__file__).parents[1] / "schema.graphql").read_text())
ROOTS = {"Query": "query", "Mutation": "mutation", "Subscription": "subscription"}
SIZE = 3
# The fields that lead from a root to one, each with its type.
FieldPath = tuple[tuple[GraphQLObjectType, str], ...]


def find_paths() -> Iterator[FieldPath]:
    """The shortest path to every field of every object type."""
    queue: deque[tuple[GraphQLNamedType, FieldPath]] = deque((PRINTED.type_map[name], ()) for name in ROOTS)
    visited = set()
    while queue:
        type_, path = queue.popleft()
        if is_abstract_type(type_):
            queue.extend((possible, path) for possible in PRINTED.get_possible_types(type_))
        elif is_object_type(type_) and type_ not in visited:
            visited.add(type_)
            paths = [(*path, (type_, name)) for name in type_.fields]
            yield from paths
            queue.extend((get_named_type(type_.fields[path[-1][1]].type), path) for path in paths)


PATHS = {f"{path[-1][0].name}.{path[-1][1]}": path for path in find_paths()}


def read_directive(field: GraphQLField, name: str) -> dict[str, Any]:
    """The arguments of a directive of a field; empty without it."""
    definition = PRINTED.get_directive(name)
    assert definition and field.ast_node
    return get_directive_values(definition, field.ast_node) or {}


def write_size(field: GraphQLField, argument: str) -> tuple[str, int]:
    """A slicing argument with the size, as a literal, and the number of list items in that."""
    name, *inner = argument.split(".")
    type_ = field.args[name].type
    for key in inner:
        type_ = get_named_type(type_).fields[key].type  # type: ignore[attr-defined]
    is_list = is_list_type(get_nullable_type(type_))
    literal = f"[{', '.join(['{}'] * SIZE)}]" if is_list else f"{SIZE}"
    for key in reversed(inner):
        literal = f"{{{key}: {literal}}}"
    return f"{name}: {literal}", SIZE if is_list else 0


def build_document(path: FieldPath, place: int | None, inherited_size: int | None = None) -> tuple[str, int]:
    """A selection of the last field of the path, and its cost as the directives have it.

    `place`: which slicing argument is given to each field that has any.
    """
    (type_, name), *rest = path
    field = type_.fields[name]
    list_size, arguments, item_count = read_directive(field, "listSize"), "", 0
    size = list_size.get("assumedSize", inherited_size)
    if place is not None and list_size.get("slicingArguments"):
        argument, item_count = write_size(field, list_size["slicingArguments"][place])
        arguments, size = f"({argument})", SIZE
    is_list, selection, child_cost = is_list_type(get_nullable_type(field.type)), "", 0
    if rest:
        selection, child_cost = build_document(tuple(rest), place, None if is_list else size)
    elif is_composite_type(get_named_type(field.type)):
        selection, child_cost = " { __typename }", 1
    if is_list and child_cost:
        assert size is not None, f"{type_.name}.{name} is a list of unknown size"
        child_cost *= size
    return (
        f" {{ ... on {type_.name} {{ {name}{arguments}{selection} }} }}",
        read_directive(field, "cost").get("weight", 1) + item_count + child_cost,
    )


@pytest.mark.parametrize("place", [None, 0, -1])
def test_directives_are_what_the_cost_analysis_counts(place: int | None) -> None:
    differing = {}
    for coordinate, path in PATHS.items():
        selection, expected = build_document(path, place)
        document = parse(ROOTS[path[0][0].name] + selection)
        estimate = DocumentCosts(schema._schema, document).estimate(document.definitions[0], {})  # type: ignore[arg-type]
        if estimate != expected:
            differing[coordinate] = (selection, estimate, expected)
    assert not differing


def test_assumed_sizes_are_the_defaults_of_arguments() -> None:
    compared = {}
    for coordinate, path in PATHS.items():
        type_, name = path[-1]
        size = read_directive(type_.fields[name], "listSize")
        argument = type_.fields[name].args.get(size.get("slicingArguments", [""])[0])
        default = argument.ast_node.default_value if argument and argument.ast_node else None
        if isinstance(default, IntValueNode):
            compared[coordinate] = (size["assumedSize"], int(default.value))
    assert compared["AttributeFacet.values"] == compared["ProductFacets.tags"] == (50, 50)
    # Few categories have as many below them as a page holds, so that a tree of several levels is affordable.
    assert [coordinate for coordinate, (assumed, default) in compared.items() if assumed != default] == ["Category.children"]


def test_every_kind_of_size_occurs() -> None:
    printed = {coordinate: read_directive(path[-1][0].fields[path[-1][1]], "listSize") for coordinate, path in PATHS.items()}
    assert printed["Query.products"] == {"assumedSize": 20, "slicingArguments": ["first", "last"]}
    assert printed["Query.nodes"]["slicingArguments"] == ["ids"]
    assert printed["Query.searchProducts"]["slicingArguments"] == ["input.limit"]
    assert printed["Config.webhooks"] == {"assumedSize": 20}
    assert len(PATHS) > 500


def test_sdl_defines_directives_that_are_not_built_in() -> None:
    printed = schema.as_str()
    assert [printed.count(f"directive @{name}") for name in ("cost", "listSize", "oneOf")] == [1, 1, 0]
    assert "input ConfigByInput @oneOf {" in printed
