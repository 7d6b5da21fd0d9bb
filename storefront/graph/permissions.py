"""Authorization of reads: stores that the viewer may see, and data that only a store's owner may read."""

from typing import Any

from graphql import GraphQLSchema

from storefront.core.errors import Forbidden, NotFound
from storefront.execution.guards import GUARD_EXTENSION_KEY
from storefront.execution.strawberry_adapter import get_strawberry_field
from storefront.graph import arguments, loaders
from storefront.graph.context import Context, Info

_ANONYMOUS_METADATA_KEY = "anonymous"
# The metadata of a mutation field that needs no viewer.
ALLOWS_ANONYMOUS: dict[str, Any] = {_ANONYMOUS_METADATA_KEY: True}


def guard_mutations(schema: GraphQLSchema) -> GraphQLSchema:
    """Refuse mutations of anonymous viewers before their input is coerced, unless they declare ALLOWS_ANONYMOUS.

    Returns the same schema.
    """
    for definition in schema.mutation_type.fields.values() if schema.mutation_type else ():
        field = get_strawberry_field(definition)
        if field is None or not field.metadata.get(_ANONYMOUS_METADATA_KEY):
            definition.extensions[GUARD_EXTENSION_KEY] = _require_viewer
    return schema


def _require_viewer(context: Context) -> None:
    context.require_viewer()


async def require_visible_store(info: Info, config_id: str, field: str = "configId") -> str:
    """The canonical id of a store that the viewer may see. Raises InvalidInput for `field`, and NotFound."""
    store = arguments.check_id(config_id, field)
    if await info.context.load(loaders.load_configs, store) is None:
        raise NotFound(f"configId: no published store has the id {store}.", "configId")
    return store


async def require_own_store(info: Info, config_id: str, subject: str) -> str:
    """The canonical id of a store that the viewer owns.

    Raises Unauthenticated, InvalidInput, NotFound for a store that is hidden from the viewer, else Forbidden.
    """
    info.context.require_viewer()
    store = arguments.check_id(config_id, "configId")
    if store in info.context.owned_store_ids:
        return store
    await require_visible_store(info, store)
    raise Forbidden(f"configId: only the store's owner may read {subject}.", "configId")
