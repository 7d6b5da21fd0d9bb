"""Where a field stands in an operation, and what its resolvers are told."""

from collections.abc import Iterator
from typing import Any

from graphql import FieldNode, GraphQLField, GraphQLObjectType, GraphQLResolveInfo, Node, VariableNode, Visitor, visit
from graphql.execution import Executor
from graphql.execution.collect_fields import FieldDetails
from graphql.pyutils import Path
from strawberry.types.field import StrawberryField

from storefront.execution.arguments import DEFINITION


class Place:
    """A field of an object type under the name that the response has for it."""

    __slots__ = ("definition", "details", "name", "parent_type")

    def __init__(self, definition: GraphQLField, parent_type: GraphQLObjectType, name: str, details: list[FieldDetails]) -> None:
        self.definition, self.parent_type, self.name, self.details = definition, parent_type, name, details

    @property
    def python_name(self) -> str:
        """The field's name in its Strawberry type."""
        return self.strawberry.python_name if self.strawberry else self.nodes[0].name.value

    @property
    def nodes(self) -> list[FieldNode]:
        """The places in the document where the field stands."""
        return [one.node for one in self.details]

    @property
    def strawberry(self) -> StrawberryField | None:
        """The field's definition, where Strawberry made it."""
        ours = self.definition.extensions.get(DEFINITION)
        return ours if isinstance(ours, StrawberryField) else None


class Info(GraphQLResolveInfo[Any]):
    """What resolvers are told, with the place that they stand for."""

    place: Place
    executor: Executor[Any]


def info_of(executor: Executor[Any], place: Place, path: Path) -> Info:
    """What resolvers are told. One for all parents: its path names the fields on the way, not the places in their lists."""
    told = Info._make(Executor.build_resolve_info(executor, place.definition, place.nodes, place.parent_type, path))
    told.place, told.executor = place, executor
    return told


def variables(node: Node) -> Iterator[str]:
    """The names of the variables in a part of a document."""
    found: list[str] = []

    class Collector(Visitor):
        def enter_variable(self, node: VariableNode, *_: Any) -> None:
            found.append(node.name.value)

    visit(node, Collector())
    yield from found
