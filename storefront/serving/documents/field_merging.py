"""The response that a document asks for: which fields stand together under one name, through fragments, at each level.

Every selection set is one node of the document, so a level is known by the nodes that it is made of. Whoever remembers levels by
that never looks at one twice, however often its fragments are spread.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

from graphql import (
    DirectiveNode,
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLField,
    GraphQLNamedType,
    GraphQLSchema,
    SelectionSetNode,
    VariableNode,
    get_named_type,
)

from storefront.core.errors import LimitExceeded

# Selections that are looked at of one document, for one purpose. Fragments that are spread in ever new company multiply them.
MOST_SELECTIONS = 5_000

# What a selection hangs on: a variable, and the value that it must have.
Condition = tuple[str, bool]


class Selected(NamedTuple):
    """A field where it is selected: of which type, what the type says of it, and on which conditions."""

    parent: GraphQLNamedType | None
    node: FieldNode
    definition: GraphQLField | None
    conditions: frozenset[Condition]


# The selection sets that make up a level, each with the type that it selects from.
Level = Sequence[tuple[GraphQLNamedType | None, SelectionSetNode]]


class Merged:
    """The levels of one document. Nothing has to be valid: what is unknown has no type and no definition.

    Raises LimitExceeded once more has been asked for than a document may take.
    """

    def __init__(self, schema: GraphQLSchema, document: DocumentNode) -> None:
        self._schema = schema
        self._fragments = {one.name.value: one for one in document.definitions if isinstance(one, FragmentDefinitionNode)}
        self._left = MOST_SELECTIONS

    def fields(self, level: Level) -> Mapping[str, list[Selected]]:
        """The fields of a level by the names that the response has for them."""
        found: dict[str, list[Selected]] = {}
        seen: set[Hashable] = set()
        for type_, selections in level:
            for one in self._selected(type_, selections, frozenset(), seen):
                name = one.node.alias or one.node.name
                found.setdefault(name.value, []).append(one)
        return found

    def _selected(
        self, type_: GraphQLNamedType | None, among: SelectionSetNode, on: frozenset[Condition], seen: set[Hashable]
    ) -> Iterator[Selected]:
        self._left -= len(among.selections)
        if self._left < 0:
            raise LimitExceeded("selections", MOST_SELECTIONS, None, "The document's fragments make too many selections of it")
        for node in among.selections:
            conditions = on | _conditions(node.directives) if node.directives else on
            if isinstance(node, FieldNode):
                yield Selected(type_, node, self._definition(type_, node.name.value), conditions)
            elif not isinstance(node, FragmentSpreadNode):
                yield from self._selected(self._type(node, type_), node.selection_set, conditions, seen)  # type: ignore[attr-defined]
            elif (node.name.value, conditions) not in seen and (fragment := self._fragments.get(node.name.value)):
                seen.add((node.name.value, conditions))
                yield from self._selected(self._type(fragment, None), fragment.selection_set, conditions, seen)

    def _type(self, node: Any, otherwise: GraphQLNamedType | None) -> GraphQLNamedType | None:
        condition = node.type_condition
        return otherwise if condition is None else self._schema.get_type(condition.name.value)

    def _definition(self, type_: GraphQLNamedType | None, name: str) -> GraphQLField | None:
        # Every type has that one, and the specification's rules know nothing of its type.
        return None if type_ is None or name == "__typename" else self._schema.get_field(cast(Any, type_), name)


def below(group: Sequence[Selected]) -> Level:
    """The level under one name: what is selected of it wherever it stands."""
    return [
        (get_named_type(one.definition.type) if one.definition else None, one.node.selection_set)
        for one in group
        if one.node.selection_set
    ]


def known_by(level: Level) -> Hashable:
    """What tells a level from others of the same document."""
    return frozenset(id(selections) for _, selections in level)


def _conditions(directives: Sequence[DirectiveNode]) -> frozenset[Condition]:
    """The variables of @include and @skip. What is constant is no condition: who writes `@skip(if: true)` pays for it."""
    found = (
        (argument.value.name.value, directive.name.value == "include")
        for directive in directives
        if directive.name.value in {"include", "skip"}
        for argument in directive.arguments or ()
        if isinstance(argument.value, VariableNode)
    )
    return frozenset(found)
