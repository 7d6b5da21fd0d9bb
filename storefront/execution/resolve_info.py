"""Where a field stands in an operation, and what its resolvers are told."""

from collections.abc import Iterator
from typing import Any

from graphql import FieldNode, GraphQLField, GraphQLObjectType, GraphQLResolveInfo, Node, VariableNode, Visitor, visit
from graphql.execution import Executor
from graphql.execution.collect_fields import FieldDetails
from graphql.pyutils import Path
from strawberry.types.field import StrawberryField

from storefront.execution.arguments import DEFINITION_EXTENSION_KEY


class FieldNodeContext:
    """A field of an object type under the name that the response has for it."""

    __slots__ = ("definition", "details", "name", "parent_type")

    def __init__(self, definition: GraphQLField, parent_type: GraphQLObjectType, name: str, details: list[FieldDetails]) -> None:
        self.definition, self.parent_type, self.name, self.details = definition, parent_type, name, details

    @property
    def python_name(self) -> str:
        """The field's name in its Strawberry type."""
        return self.strawberry_field.python_name if self.strawberry_field else self.field_nodes[0].name.value

    @property
    def field_nodes(self) -> list[FieldNode]:
        """The places in the document where the field stands."""
        return [details.node for details in self.details]

    @property
    def strawberry_field(self) -> StrawberryField | None:
        """The field's definition, where Strawberry made it."""
        field = self.definition.extensions.get(DEFINITION_EXTENSION_KEY)
        return field if isinstance(field, StrawberryField) else None


class ResolveInfo(GraphQLResolveInfo[Any]):
    """What resolvers are told, with the place that they stand for."""

    field_context: FieldNodeContext
    executor: Executor[Any]


def resolve_info(executor: Executor[Any], field_context: FieldNodeContext, path: Path) -> ResolveInfo:
    """What resolvers are told. One for all parents: its path names the fields on the way, not the places in their lists."""
    info = ResolveInfo._make(
        Executor.build_resolve_info(
            executor, field_context.definition, field_context.field_nodes, field_context.parent_type, path
        )
    )
    info.field_context, info.executor = field_context, executor
    return info


def find_variable_names(node: Node) -> Iterator[str]:
    """The names of the variables in a part of a document."""
    names: list[str] = []

    class Collector(Visitor):
        def enter_variable(self, node: VariableNode, *_: Any) -> None:
            names.append(node.name.value)

    visit(node, Collector())
    yield from names
