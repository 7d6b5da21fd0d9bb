"""Conventions of the schema: descriptions, nullable root fields, connections as Relay has them, and the names of inputs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from graphql import (
    GraphQLEnumType,
    GraphQLField,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLNamedType,
    GraphQLObjectType,
    GraphQLSchema,
    build_schema,
    get_named_type,
    is_non_null_type,
    is_specified_directive,
    is_specified_scalar_type,
)

SCHEMA = build_schema((Path(__file__).parents[1] / "schema.graphql").read_text())

# Events are raw data, which are dropped after their retention: their id only distinguishes them.
NODES_WITHOUT_LOOKUP = {"AnalyticsEvent"}


def list_types(schema: GraphQLSchema = SCHEMA) -> list[GraphQLNamedType]:
    """The types of the schema's own, without introspection and built-in scalars."""
    return [type_ for name, type_ in schema.type_map.items() if not (name.startswith("__") or is_specified_scalar_type(type_))]


def iterate_fields() -> Iterator[tuple[str, GraphQLField]]:
    """All output fields, by their coordinates."""
    for type_ in list_types():
        if isinstance(type_, GraphQLObjectType | GraphQLInterfaceType):
            yield from ((f"{type_.name}.{name}", field) for name, field in type_.fields.items())


def iterate_described(type_: Any) -> Iterator[tuple[str, Any]]:
    """A type or directive with all that has a description of its own in it, by their coordinates."""
    yield str(type_), type_
    for name, argument in getattr(type_, "args", {}).items():
        yield f"{type_}({name}:)", argument
    for name, value in type_.values.items() if isinstance(type_, GraphQLEnumType) else ():
        yield f"{type_.name}.{name}", value
    for name, field in getattr(type_, "fields", {}).items():
        yield f"{type_.name}.{name}", field
        for argument_name, argument in getattr(field, "args", {}).items():
            yield f"{type_.name}.{name}({argument_name}:)", argument


def list_undescribed(type_: Any) -> list[str]:
    return [coordinate for coordinate, described in iterate_described(type_) if not (described.description or "").strip()]


# --------------------------------------------------------------------------------------------------- descriptions


def test_everything_has_a_description() -> None:
    undescribed = [coordinate for type_ in list_types() for coordinate in list_undescribed(type_)]
    assert not undescribed, "These have no description:\n" + "\n".join(undescribed)


def test_directives_have_descriptions() -> None:
    own = [directive for directive in SCHEMA.directives if not is_specified_directive(directive)]
    assert own
    assert not [coordinate for directive in own for coordinate in list_undescribed(directive)]


# ----------------------------------------------------------------------------------------------------- root fields


def test_root_fields_are_nullable() -> None:
    """The error of a root field leaves the others their data: a non-null field would null all of them."""
    roots = [root for root in (SCHEMA.query_type, SCHEMA.mutation_type) if root]
    assert len(roots) == 2
    assert not [f"{root.name}.{name}" for root in roots for name, field in root.fields.items() if is_non_null_type(field.type)]


# ---------------------------------------------------------------------------------------------------------- inputs


def test_names_of_inputs_end_in_input() -> None:
    wrong = [
        type_.name for type_ in list_types() if isinstance(type_, GraphQLInputObjectType) is not type_.name.endswith("Input")
    ]
    assert wrong == []


# ----------------------------------------------------------------------------------------------------- connections

CONNECTIONS: list[Any] = [type_ for type_ in list_types() if type_.name.endswith("Connection")]
EDGES = [type_ for type_ in list_types() if type_.name.endswith("Edge")]


def list_field_types(type_: Any) -> dict[str, str]:
    """The types of a type's fields, by name."""
    return {name: str(field.type) for name, field in type_.fields.items()}


def test_page_info_has_the_fields_of_relay() -> None:
    assert list_field_types(SCHEMA.type_map["PageInfo"]) == {
        "hasNextPage": "Boolean!",
        "hasPreviousPage": "Boolean!",
        "startCursor": "String",
        "endCursor": "String",
    }


@pytest.mark.parametrize("connection", CONNECTIONS, ids=str)
def test_connection_has_edges_nodes_and_page_info(connection: Any) -> None:
    name, fields = connection.name.removesuffix("Connection"), list_field_types(connection)
    node = get_named_type(connection.fields["nodes"].type).name
    assert isinstance(connection, GraphQLObjectType)
    assert (fields["edges"], fields["nodes"], fields["pageInfo"]) == (f"[{name}Edge!]!", f"[{node}!]!", "PageInfo!")
    edge = SCHEMA.type_map[f"{name}Edge"]
    assert isinstance(edge, GraphQLObjectType)
    edge_fields = list_field_types(edge)
    assert (edge_fields["node"], edge_fields["cursor"]) == (f"{node}!", "String!")


def test_every_edge_belongs_to_a_connection() -> None:
    assert {edge.name for edge in EDGES} == {connection.name.replace("Connection", "Edge") for connection in CONNECTIONS}


def test_nodes_of_connections_implement_node() -> None:
    nodes: set[Any] = {get_named_type(connection.fields["nodes"].type) for connection in CONNECTIONS}
    without = {node.name for node in nodes if "id" in node.fields and "Node" not in {one.name for one in node.interfaces}}
    assert without == NODES_WITHOUT_LOOKUP


def test_connections_take_arguments_in_pairs() -> None:
    wrong = []
    for coordinate, field in iterate_fields():
        is_connection = get_named_type(field.type) in CONNECTIONS
        arguments = {name: str(get_named_type(argument.type)) for name, argument in field.args.items()}
        forward, backward = arguments.keys() & {"first", "after"}, arguments.keys() & {"last", "before"}
        is_paired = len(forward) == 2 and len(backward) in (0, 2)
        is_typed = all(arguments[name] == ("Int" if name in ("first", "last") else "String") for name in forward | backward)
        if is_connection and not (is_paired and is_typed):
            wrong.append(coordinate)
    assert not wrong
