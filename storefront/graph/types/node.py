"""Objects with a globally unique id."""

import strawberry
from graphql import GraphQLSchema, is_object_type


@strawberry.interface(description="An object with a globally unique ID that can be refetched with `node`.")
class Node:
    id: strawberry.ID = strawberry.field(description="Globally unique, opaque and permanent.")


def accept_rows_as_nodes(schema: GraphQLSchema) -> GraphQLSchema:
    """Let database rows be objects of the types that implement Node. Returns the same schema.

    Strawberry requires the objects of a type with interfaces to be instances of its class, and checks each of them.
    """
    for type_ in schema.type_map.values():
        if is_object_type(type_) and any(interface.name == "Node" for interface in type_.interfaces):
            type_.is_type_of = None
    return schema
