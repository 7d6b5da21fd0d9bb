"""The marks of fields whose answers are not to be shared or kept: one declaration per field, as `metadata`.

PERSONAL depends on who asks, beyond whether the asker owns the store that it is about: of all else there are two answers at
most, the owner's and everybody else's. VOLATILE changes without the log of a store that is read for it: of all else what
everybody is told holds until one of these logs moves.
"""

from collections.abc import Mapping
from typing import Any

from graphql import GraphQLField, GraphQLInterfaceType, GraphQLObjectType, GraphQLSchema

from storefront.execution.strawberry_adapter import DEFINITION_EXTENSION_KEY
from storefront.serving.cache import cacheability
from storefront.serving.documents.cost import COST_EXTENSION_KEY

PERSONAL: Mapping[str, Any] = {cacheability.PERSONAL_EXTENSION_KEY: True}
VOLATILE: Mapping[str, Any] = {cacheability.VOLATILE_EXTENSION_KEY: True}

# What serving reads of fields.
_COPIED_METADATA_KEYS = (cacheability.PERSONAL_EXTENSION_KEY, cacheability.VOLATILE_EXTENSION_KEY, COST_EXTENSION_KEY)


def declare_field_metadata(schema: GraphQLSchema) -> GraphQLSchema:
    """Tell the engine's fields, which serving knows, what their definitions say. Returns the same schema."""
    for type_ in schema.type_map.values():
        if isinstance(type_, GraphQLObjectType | GraphQLInterfaceType):
            for field in type_.fields.values():
                _copy_field_metadata(field)
    return schema


def _copy_field_metadata(field: GraphQLField) -> None:
    definition = field.extensions.get(DEFINITION_EXTENSION_KEY)
    if definition is not None:
        field.extensions |= {name: definition.metadata[name] for name in _COPIED_METADATA_KEYS if name in definition.metadata}
