"""Federation: the schema as a subgraph, and the root fields by which a router resolves entities."""

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from operator import or_
from typing import Annotated, Any, NewType, TypeVar, cast

import strawberry
from graphql import (
    ConstDirectiveNode,
    FieldDefinitionNode,
    GraphQLSchema,
    GraphQLUnionType,
    InputValueDefinitionNode,
    ObjectTypeDefinitionNode,
    ScalarTypeDefinitionNode,
    Visitor,
    parse,
    print_ast,
    visit,
)
from strawberry.types.scalar import ScalarDefinition

from storefront.core.errors import InvalidInput
from storefront.execution.strawberry_adapter import DEFINITION_EXTENSION_KEY
from storefront.graph import arguments
from storefront.graph.cache_hints import PERSONAL, VOLATILE
from storefront.graph.context import Info
from storefront.graph.cost_hints import costs
from storefront.graph.limits import limits
from storefront.graph.types.node import MAX_NODES, Node, load_nodes

# Apollo's @key with its @link, and the directives of Composite Schemas, which that does not know. @is maps the id of an entity to
# a `by` argument; its scalar stays out of the composed schema.
_HEADER = """extend schema @link(url: "https://specs.apollo.dev/federation/v2.3", import: ["@key", "@inaccessible"])

scalar FieldSelectionMap @inaccessible

directive @lookup on FIELD_DEFINITION

directive @is(field: FieldSelectionMap!) on ARGUMENT_DEFINITION
"""
DefinitionT = TypeVar("DefinitionT", ObjectTypeDefinitionNode, FieldDefinitionNode, InputValueDefinitionNode)
LOOKUP_FIELDS = ("node", "config", "product", "variant")

Representation = NewType("Representation", object)
FEDERATION_SCALARS: dict[object, ScalarDefinition] = {
    Representation: strawberry.scalar(
        name="_Any",
        description="`__typename` and `id` of an entity.",
        serialize=lambda value: value,
        parse_value=lambda value: value,
    )
}


def print_subgraph(sdl: str) -> str:
    """The SDL of the schema as a subgraph: nodes have @key, and fields that find one of them have @lookup."""
    return f"{_HEADER}\n{print_ast(visit(parse(sdl), _SubgraphVisitor()))}"


class _SubgraphVisitor(Visitor):
    """Adds the directives of a subgraph to type definitions."""

    def leave_object_type_definition(self, node: ObjectTypeDefinitionNode, *_: Any) -> ObjectTypeDefinitionNode | None:
        if any(interface.name.value == "Node" for interface in node.interfaces or ()):
            return _add_directive(node, '@key(fields: "id")')
        if node.name.value == "Query":
            return replace(node, fields=tuple(_add_lookup(field) for field in node.fields or ()))
        return None


def _add_lookup(field: FieldDefinitionNode) -> FieldDefinitionNode:
    if field.name.value not in LOOKUP_FIELDS:
        return field
    by_id = (
        _add_directive(argument, '@is(field: "{ id }")') if argument.name.value == "by" else argument
        for argument in field.arguments or ()
    )
    return _add_directive(replace(field, arguments=tuple(by_id)), "@lookup")


def _add_directive(node: DefinitionT, text: str) -> DefinitionT:
    return replace(node, directives=(*(node.directives or ()), *_parse_directives(text)))


def _parse_directives(text: str) -> Sequence[ConstDirectiveNode]:
    [definition] = parse(f"scalar Any {text}").definitions
    return cast(ScalarTypeDefinitionNode, definition).directives or ()


@strawberry.type(name="_Service", description="This subgraph.")
class Service:
    sdl: str = strawberry.field(description="The schema as a subgraph.")


async def _resolve_entities(
    info: Info,
    representations: Annotated[
        list[Representation],
        strawberry.argument(description="`__typename` and `id` of each entity.", metadata=limits(items=MAX_NODES)),
    ],
) -> Any:
    keys = [_check_representation(representation, n) for n, representation in enumerate(representations)]
    rows = await load_nodes(info.context, [key for _, key in keys])
    return [row if row and info.context.node_types[key] == type_ else None for row, (type_, key) in zip(rows, keys, strict=True)]


def _check_representation(representation: object, index: int) -> tuple[str, str]:
    """The type and the id of an entity. Raises InvalidInput."""
    match representation:
        case {"__typename": str(type_), "id": str(id_)}:
            return type_, arguments.check_id(id_, f"representations.{index}.id")
    raise InvalidInput(f"representations.{index}", "must be an object with the texts __typename and id.")


def add_federation_fields(query: type, schema: GraphQLSchema, sdl: str | None) -> type:
    """The query type with `_entities`, for the nodes of the schema, and with `_service` if there is an SDL to return."""
    node_types = schema.get_possible_types(schema.type_map["Node"])  # type: ignore[arg-type]
    classes = (type_.extensions[DEFINITION_EXTENSION_KEY].origin for type_ in node_types)
    union = strawberry.union("_Entity", description="An object that other subgraphs may extend.")
    entity: Any = Annotated[reduce(or_, classes), union]
    fields: dict[str, Any] = {
        "entities": strawberry.field(
            _resolve_entities,
            name="_entities",
            graphql_type=list[entity | None],
            description="Entities in the order of their representations; null for each that does not exist or is not visible.",
            metadata={**PERSONAL, **VOLATILE, **costs(size_arguments=("representations",), max_size=MAX_NODES)},
        )
    }
    if sdl is not None:
        fields["service"] = strawberry.field(
            lambda: Service(sdl=sdl), name="_service", graphql_type=Service, description="This subgraph."
        )
    return strawberry.type(type("Query", (query,), fields))


def resolve_entity_types(schema: GraphQLSchema) -> GraphQLSchema:
    """Let rows be entities, as they are nodes. Returns the same schema."""
    cast(GraphQLUnionType, schema.type_map["_Entity"]).resolve_type = Node.resolve_type
    return schema
