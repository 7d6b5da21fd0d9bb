"""A field's position in an operation, and the `info` that its resolvers get."""

from typing import Any

from graphql import FieldNode, GraphQLField, GraphQLObjectType, GraphQLResolveInfo
from graphql.execution import Executor
from graphql.pyutils import Path

from storefront.execution.strawberry_adapter import FieldDetails, StrawberryField, get_strawberry_field


class FieldNodeContext:
    """A field of an object type under its response name, with its field nodes."""

    __slots__ = ("definition", "details", "name", "parent_type")

    def __init__(self, definition: GraphQLField, parent_type: GraphQLObjectType, name: str, details: list[FieldDetails]) -> None:
        self.definition, self.parent_type, self.name, self.details = definition, parent_type, name, details

    @property
    def python_name(self) -> str:
        """The field's name in its Strawberry class; the GraphQL name of a field from elsewhere."""
        return self.strawberry_field.python_name if self.strawberry_field else self.field_nodes[0].name.value

    @property
    def field_nodes(self) -> list[FieldNode]:
        """The AST nodes of the field: it may be selected more than once."""
        return [details.node for details in self.details]

    @property
    def strawberry_field(self) -> StrawberryField | None:
        """The field's definition in Strawberry; None for a field from elsewhere."""
        return get_strawberry_field(self.definition)


class ResolveInfo(GraphQLResolveInfo[Any]):
    """graphql-core's resolve info, extended by the field context and the executor for look-ahead."""

    field_context: FieldNodeContext
    executor: Executor[Any]


def resolve_info(executor: Executor[Any], field_context: FieldNodeContext, path: Path) -> ResolveInfo:
    """The resolve info of a field, shared by all parents: its path has the fields on the way, but no list indexes."""
    info = ResolveInfo._make(
        Executor.build_resolve_info(
            executor, field_context.definition, field_context.field_nodes, field_context.parent_type, path
        )
    )
    info.field_context, info.executor = field_context, executor
    return info
