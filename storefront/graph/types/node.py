"""The Node interface: objects that can be refetched by their id alone."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, cast

import strawberry
from graphql import GraphQLAbstractType, GraphQLSchema

from storefront.core.db.database import Row
from storefront.graph import arguments, loaders
from storefront.graph.cache_hints import PERSONAL, VOLATILE
from storefront.graph.context import Context, Info
from storefront.graph.cost_hints import costs
from storefront.graph.limits import limits
from storefront.models.row_keys import RowKey


@strawberry.interface(description="An object with a globally unique ID that can be refetched with `node`.")
class Node:
    id: strawberry.ID = strawberry.field(description="Globally unique, opaque and permanent.")

    @classmethod
    def resolve_type(cls, value: Any, info: Any, _: GraphQLAbstractType) -> str:
        """The object type of a row, which a resolver has noted in the context."""
        return str(info.context.node_types[value.id])


# Loaders by ids, and by the keys of rows of stores.
GLOBAL_NODE_LOADERS: dict[str, Callable[[Context, Sequence[str]], Awaitable[Sequence[Row | None]]]] = {
    "Config": loaders.load_configs,
    "User": loaders.load_users,
}
NODE_LOADERS: dict[str, Callable[[Context, Sequence[RowKey]], Awaitable[Sequence[Row | None]]]] = {
    "Product": loaders.load_products,
    "ProductVariant": loaders.load_variants,
    "Review": loaders.load_reviews,
    "Webhook": loaders.load_webhooks,
    "WebhookDelivery": loaders.load_deliveries,
    "ImportJob": loaders.load_jobs,
    "ExportJob": loaders.load_jobs,
}
MAX_NODES = 100


@strawberry.type
class NodeQuery:
    @strawberry.field(
        description="Any object by its ID; null if it does not exist or is not visible.", metadata={**PERSONAL, **VOLATILE}
    )
    async def node(
        self, info: Info, id: Annotated[strawberry.ID, strawberry.argument(description="ID of the object.")]
    ) -> Node | None:
        [row] = await load_nodes(info.context, [arguments.check_id(id, "id")])
        return cast(Node | None, row)

    @strawberry.field(
        description="Objects by their IDs, in the same order; null for each that does not exist or is not visible.",
        metadata={**PERSONAL, **VOLATILE, **costs(size_arguments=("ids",), max_size=MAX_NODES)},
    )
    async def nodes(
        self,
        info: Info,
        ids: Annotated[
            list[strawberry.ID],
            strawberry.argument(description=f"IDs of the objects; at most {MAX_NODES}.", metadata=limits(items=MAX_NODES)),
        ],
    ) -> list[Node | None] | None:
        keys = [arguments.check_id(id_, f"ids.{n}") for n, id_ in enumerate(ids)]
        return cast(list[Node | None], await load_nodes(info.context, keys))


async def load_nodes(context: Context, keys: Sequence[str]) -> list[Row | None]:
    """The visible objects with these ids: one statement per type, and one for what is not known of the ids."""
    locations = await context.load_many(loaders.load_locations, keys)
    keys_by_type: dict[str, list[RowKey]] = {}
    for key, location in zip(keys, locations, strict=True):
        if location is not None and location.type is not None:
            keys_by_type.setdefault(location.type, []).append(RowKey(location.config_id or "", key))
            context.node_types[key] = location.type
    pending = [_load_of_type(context, type_, typed_keys) for type_, typed_keys in keys_by_type.items()]
    rows_by_id = {row.id: row for rows in pending for row in await rows if row is not None}
    return [rows_by_id.get(key) for key in keys]


def _load_of_type(context: Context, type_: str, keys: Sequence[RowKey]) -> Awaitable[Sequence[Row | None]]:
    if type_ in GLOBAL_NODE_LOADERS:
        return context.load_many(GLOBAL_NODE_LOADERS[type_], [key.id for key in keys])
    return context.load_many(NODE_LOADERS[type_], keys)


def resolve_node_types(schema: GraphQLSchema) -> GraphQLSchema:
    """Let rows be nodes: an object type does not check the class of its objects. Returns the same schema."""
    for type_ in schema.get_possible_types(schema.type_map["Node"]):  # type: ignore[arg-type]
        type_.is_type_of = None
    return schema
