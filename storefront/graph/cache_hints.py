"""Cache hints: field metadata that limits how the response cache stores and shares a response.

PERSONAL fields depend on the viewer, beyond whether the viewer owns the store: all other fields have at most two values, one
for the owner and one for everyone else. VOLATILE fields change without a change in the log of a store that was read for them:
all other fields stay fresh until one of these logs moves.
"""

from collections.abc import Mapping
from typing import Any

from graphql import GraphQLField, GraphQLInterfaceType, GraphQLObjectType, GraphQLSchema

from storefront.execution.strawberry_adapter import DEFINITION_EXTENSION_KEY
from storefront.serving.cache import cacheability
from storefront.serving.documents.cost import COST_EXTENSION_KEY

PERSONAL: Mapping[str, Any] = {cacheability.PERSONAL_EXTENSION_KEY: True}
VOLATILE: Mapping[str, Any] = {cacheability.VOLATILE_EXTENSION_KEY: True}

# The metadata that `storefront.serving` reads, as extensions of graphql-core fields.
_COPIED_METADATA_KEYS = (cacheability.PERSONAL_EXTENSION_KEY, cacheability.VOLATILE_EXTENSION_KEY, COST_EXTENSION_KEY)


def declare_field_metadata(schema: GraphQLSchema) -> GraphQLSchema:
    """Copy cache hints and costs from Strawberry's definitions to graphql-core fields. Returns the same schema."""
    for type_ in schema.type_map.values():
        if isinstance(type_, GraphQLObjectType | GraphQLInterfaceType):
            for field in type_.fields.values():
                _copy_field_metadata(field)
    return schema


def _copy_field_metadata(field: GraphQLField) -> None:
    definition = field.extensions.get(DEFINITION_EXTENSION_KEY)
    if definition is not None:
        field.extensions |= {name: definition.metadata[name] for name in _COPIED_METADATA_KEYS if name in definition.metadata}
