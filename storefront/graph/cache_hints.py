"""The marks of fields whose answers are not to be shared or kept: one declaration per field, as `metadata`.

PERSONAL depends on who asks, beyond whether the asker owns the store that it is about: of all else there are two answers at
most, the owner's and everybody else's. VOLATILE changes without the log of a store that is read for it: of all else what
everybody is told holds until one of these logs moves.
"""

from collections.abc import Mapping
from typing import Any

from graphql import GraphQLField, GraphQLInterfaceType, GraphQLObjectType, GraphQLSchema

from storefront.serving.cache import cacheability
from storefront.serving.documents.cost import COST

PERSONAL: Mapping[str, Any] = {cacheability.PERSONAL: True}
VOLATILE: Mapping[str, Any] = {cacheability.VOLATILE: True}

# Where the engine's field keeps the definition that it was made of.
_DEFINITION = "strawberry-definition"

# What serving reads of fields.
_DECLARED = (cacheability.PERSONAL, cacheability.VOLATILE, COST)


def declare(schema: GraphQLSchema) -> GraphQLSchema:
    """Tell the engine's fields, which serving knows, what their definitions say. Returns the same schema."""
    for type_ in schema.type_map.values():
        if isinstance(type_, GraphQLObjectType | GraphQLInterfaceType):
            for field in type_.fields.values():
                _declare(field)
    return schema


def _declare(field: GraphQLField) -> None:
    definition = field.extensions.get(_DEFINITION)
    if definition is not None:
        field.extensions |= {name: definition.metadata[name] for name in _DECLARED if name in definition.metadata}
