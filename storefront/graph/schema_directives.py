"""The directives @cost and @listSize, which the schema prints from the cost metadata of its fields."""

from typing import Any

import strawberry
from graphql import (
    GraphQLDirective,
    GraphQLField,
    GraphQLInterfaceType,
    GraphQLObjectType,
    GraphQLSchema,
    get_named_type,
    is_composite_type,
)
from strawberry.schema_directive import Location

from storefront.execution.strawberry_adapter import DEFINITION_EXTENSION_KEY, get_strawberry_field, get_strawberry_schema
from storefront.serving.documents.cost import MUTATION_FIELD_COST, get_declared_size, get_field_cost


@strawberry.schema_directive(
    locations=[Location.FIELD_DEFINITION],
    name="cost",
    print_definition=False,
    description="Cost of a field, counted once for each parent object. Fields without this directive cost 1.",
)
class Cost:
    weight: int = strawberry.field(description="The cost, at least 0.")


@strawberry.schema_directive(
    locations=[Location.FIELD_DEFINITION],
    name="listSize",
    print_definition=False,
    description=(
        "How the number of items in a list is estimated for cost analysis. On a field that is not a list: in the lists below it, "
        "such as the nodes of a connection, unless they declare their own size."
    ),
)
class ListSize:
    assumed_size: int | None = strawberry.field(description="Number of items to assume when no slicing argument is given.")
    slicing_arguments: list[str] | None = strawberry.field(
        description=(
            "Arguments that limit the number of items, of which the first one given counts: a number, or a list of that length. "
            '"input.limit" is a field of an input.'
        )
    )


def declare_cost_directives(schema: GraphQLSchema) -> GraphQLSchema:
    """Give fields the directives that describe what the cost analysis counts for them. Returns the same schema."""
    schema.directives = (*schema.directives, *(_build_definition(schema, directive) for directive in (Cost, ListSize)))
    for type_ in schema.type_map.values():
        if isinstance(type_, GraphQLObjectType | GraphQLInterfaceType):
            extra_weight = MUTATION_FIELD_COST if type_ is schema.mutation_type else 0
            for field in type_.fields.values():
                if definition := get_strawberry_field(field):
                    # Types share the fields that they inherit: assigned, so that none has a directive twice.
                    definition.directives = _build_directives(field, extra_weight)
    return schema


def _build_definition(schema: GraphQLSchema, directive: Any) -> GraphQLDirective:
    """The definition of a directive with the descriptions of its arguments, which Strawberry's own does not have."""
    definition: GraphQLDirective = get_strawberry_schema(schema).schema_converter.from_schema_directive(directive)
    for argument, field in zip(definition.args.values(), directive.__strawberry_directive__.fields, strict=True):
        argument.description = field.description
    # Without it graphql-core prints the definition, not Strawberry.
    del definition.extensions[DEFINITION_EXTENSION_KEY]
    return definition


def _build_directives(field: GraphQLField, extra_weight: int) -> list[object]:
    directives: list[object] = []
    if (weight := get_field_cost(field).weight + extra_weight) != 1:
        directives.append(Cost(weight=round(weight)))
    if (size := get_declared_size(field)) and is_composite_type(get_named_type(field.type)):
        directives.append(
            ListSize(assumed_size=round(size.assumed_size), slicing_arguments=list(size.arguments) or strawberry.UNSET)
        )
    return directives
