"""Field collection: groups the fields of a selection level by response name, through fragments, as execution merges them.

Every selection set is one node of the document, so a level is identified by its nodes (`get_level_key`). Callers that memoize by
this key process no level twice, however often its fragments are spread.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

from graphql import (
    DirectiveNode,
    DocumentNode,
    ExecutableDefinitionNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLField,
    GraphQLNamedType,
    GraphQLSchema,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionSetNode,
    VariableNode,
    get_named_type,
)

from storefront.core.errors import LimitExceeded

# The number of selections that one collector visits. Fragments that are spread in many combinations multiply them.
MAX_SELECTIONS = 2_000

# A condition (@skip, @include) of a selection: a variable, and the value that it must have.
Condition = tuple[str, bool]


class FieldOccurrence(NamedTuple):
    """One occurrence of a field: its parent type, its node, its definition, and the conditions that it is included on."""

    parent_type: GraphQLNamedType | None
    node: FieldNode
    definition: GraphQLField | None
    conditions: frozenset[Condition]


# The selection sets that make up a level, each with the type that it selects from.
SelectionLevel = Sequence[tuple[GraphQLNamedType | None, SelectionSetNode]]


class FieldCollector:
    """Collects the fields of one document's levels. The document may be invalid: unknown names have no type or definition.

    Raises LimitExceeded after MAX_SELECTIONS selections.
    """

    def __init__(self, schema: GraphQLSchema, document: DocumentNode) -> None:
        self._schema = schema
        self._fragments_by_name = {
            definition.name.value: definition
            for definition in document.definitions
            if isinstance(definition, FragmentDefinitionNode)
        }
        self._remaining_selections = MAX_SELECTIONS

    def collect_fields(self, level: SelectionLevel) -> Mapping[str, list[FieldOccurrence]]:
        """The fields of a level by response name."""
        fields_by_name: dict[str, list[FieldOccurrence]] = {}
        visited_spreads: set[Hashable] = set()
        for type_, selections in level:
            self._add_occurrences(fields_by_name, type_, selections, frozenset(), visited_spreads)
        return fields_by_name

    def _add_occurrences(
        self,
        fields_by_name: dict[str, list[FieldOccurrence]],
        type_: GraphQLNamedType | None,
        selection_set: SelectionSetNode,
        inherited_conditions: frozenset[Condition],
        visited_spreads: set[Hashable],
    ) -> None:
        self._remaining_selections -= len(selection_set.selections)
        if self._remaining_selections < 0:
            raise LimitExceeded("selections", MAX_SELECTIONS, None, "The document's fragments make too many selections of it")
        for node in selection_set.selections:
            conditions = inherited_conditions | _find_conditions(node.directives) if node.directives else inherited_conditions
            if isinstance(node, FieldNode):
                occurrence = FieldOccurrence(type_, node, self._get_field_definition(type_, node.name.value), conditions)
                fields_by_name.setdefault((node.alias or node.name).value, []).append(occurrence)
            elif not isinstance(node, FragmentSpreadNode):
                condition, nested = self._get_type_condition(node, type_), node.selection_set  # type: ignore[attr-defined]
                self._add_occurrences(fields_by_name, condition, nested, conditions, visited_spreads)
            elif (node.name.value, conditions) not in visited_spreads and (
                fragment := self._fragments_by_name.get(node.name.value)
            ):
                visited_spreads.add((node.name.value, conditions))
                condition = self._get_type_condition(fragment, None)
                self._add_occurrences(fields_by_name, condition, fragment.selection_set, conditions, visited_spreads)

    def _get_type_condition(self, node: Any, default: GraphQLNamedType | None) -> GraphQLNamedType | None:
        condition = node.type_condition
        return default if condition is None else self._schema.get_type(condition.name.value)

    def _get_field_definition(self, type_: GraphQLNamedType | None, name: str) -> GraphQLField | None:
        # Every type has __typename, and the specification's validation rules ignore its type.
        return None if type_ is None or name == "__typename" else self._schema.get_field(cast(Any, type_), name)


def iterate_document_fields(schema: GraphQLSchema, document: DocumentNode) -> Iterator[FieldOccurrence]:
    """Each field of a document once, in no particular order, without its conditions. Unused fragments count."""
    levels: list[tuple[Any, SelectionSetNode]] = [
        (_get_definition_type(schema, definition), definition.selection_set)
        for definition in document.definitions
        if isinstance(definition, ExecutableDefinitionNode)
    ]
    while levels:
        type_, selection_set = levels.pop()
        for node in selection_set.selections:
            if isinstance(node, FieldNode):
                definition = None if type_ is None else schema.get_field(type_, node.name.value)
                yield FieldOccurrence(type_, node, definition, frozenset())
                if node.selection_set:
                    levels.append((get_named_type(definition.type) if definition else None, node.selection_set))
            elif isinstance(node, InlineFragmentNode):
                condition = node.type_condition
                levels.append((type_ if condition is None else schema.get_type(condition.name.value), node.selection_set))


def _get_definition_type(schema: GraphQLSchema, definition: ExecutableDefinitionNode) -> GraphQLNamedType | None:
    if isinstance(definition, OperationDefinitionNode):
        return schema.get_root_type(definition.operation)
    return schema.get_type(definition.type_condition.name.value) if isinstance(definition, FragmentDefinitionNode) else None


def get_child_level(occurrences: Sequence[FieldOccurrence]) -> SelectionLevel:
    """The level below one response name: the merged selection sets of all its occurrences."""
    return [
        (get_named_type(occurrence.definition.type) if occurrence.definition else None, occurrence.node.selection_set)
        for occurrence in occurrences
        if occurrence.node.selection_set
    ]


def get_level_key(level: SelectionLevel) -> Hashable:
    """The identity of a level within its document."""
    return frozenset(id(selections) for _, selections in level)


def _find_conditions(directives: Sequence[DirectiveNode]) -> frozenset[Condition]:
    """The conditions of @include and @skip. Constants are ignored: the field in `@skip(if: true)` counts as selected."""
    conditions = (
        (argument.value.name.value, directive.name.value == "include")
        for directive in directives
        if directive.name.value in {"include", "skip"}
        for argument in directive.arguments or ()
        if isinstance(argument.value, VariableNode)
    )
    return frozenset(conditions)
