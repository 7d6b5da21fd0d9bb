"""The specification's rule that fields under one name can be merged, in time that grows with the document, not with its square.

graphql-core compares fields in pairs: one that is repeated a thousand times costs it a second. Here all fields under one name are
compared with the first of them, which comes to the same because what is compared is equality. Only where types exclude each other
are there several firsts: one for each object type, beside the fields of abstract types, which are compared with all.
"""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any

from graphql import (
    ArgumentNode,
    DocumentNode,
    GraphQLError,
    GraphQLOutputType,
    ListValueNode,
    ObjectValueNode,
    OperationDefinitionNode,
    OverlappingFieldsCanBeMergedRule,
    StringValueNode,
    ValidationRule,
    VariableNode,
    VariablesInAllowedPositionRule,
    get_named_type,
    is_leaf_type,
    is_list_type,
    is_non_null_type,
    is_object_type,
    specified_rules,
)

from storefront.serving.documents.field_merging import (
    FieldCollector,
    FieldOccurrence,
    SelectionLevel,
    get_child_level,
    get_level_key,
)
from storefront.serving.documents.one_of import OneOfVariablesRule


class FieldsCanBeMergedRule(ValidationRule):
    """One error for each name under which something is selected that cannot stand there together."""

    def enter_document(self, document: DocumentNode, *_: Any) -> None:
        """Look at the operations. What no operation spreads is an error of its own."""
        self._collector = FieldCollector(self.context.schema, document)
        self._checked_levels: set[tuple[bool, Hashable]] = set()
        for definition in document.definitions:
            if isinstance(definition, OperationDefinitionNode):
                self._check_level([(self.context.schema.get_root_type(definition.operation), definition.selection_set)])

    def _check_level(self, level: SelectionLevel, *, types_only: bool = False) -> None:
        """Look at a level; at one of which no two fields are ever of the same object, for the types only."""
        key = types_only, get_level_key(level)
        if not level or key in self._checked_levels:
            return
        self._checked_levels.add(key)
        for name, occurrences in self._collector.collect_fields(level).items():
            overlapping_groups = [occurrences] if types_only else list(_group_by_object_type(occurrences))
            if reason := (
                "" if types_only else next(filter(None, map(_explain_field_conflict, overlapping_groups)), "")
            ) or _explain_type_conflict(occurrences):
                self._report_conflict(name, reason, occurrences)
                continue
            for overlapping in overlapping_groups:
                self._check_level(get_child_level(overlapping), types_only=types_only)
            if len(overlapping_groups) > 1:
                self._check_level(get_child_level(occurrences), types_only=True)

    def _report_conflict(self, name: str, reason: str, occurrences: Sequence[FieldOccurrence]) -> None:
        problem = f"Fields '{name[:100]}' conflict because {reason}."
        advice = "Use different aliases on the fields to fetch both if this was intentional."
        self.report_error(GraphQLError(f"{problem} {advice}", [occurrence.node for occurrence in occurrences[:20]]))


_RULE_REPLACEMENTS: dict[Any, Any] = {
    OverlappingFieldsCanBeMergedRule: FieldsCanBeMergedRule,
    VariablesInAllowedPositionRule: OneOfVariablesRule,
}
VALIDATION_RULES = tuple(_RULE_REPLACEMENTS.get(rule, rule) for rule in specified_rules)


def _group_by_object_type(occurrences: Sequence[FieldOccurrence]) -> Iterable[Sequence[FieldOccurrence]]:
    """The fields that one object may have to answer: those of its own type, and those of abstract types."""
    if len({id(occurrence.parent_type) for occurrence in occurrences}) == 1:
        return [occurrences]
    abstract_occurrences = [occurrence for occurrence in occurrences if not is_object_type(occurrence.parent_type)]
    by_type: dict[int, list[FieldOccurrence]] = {}
    for occurrence in occurrences:
        if is_object_type(occurrence.parent_type):
            by_type.setdefault(id(occurrence.parent_type), list(abstract_occurrences)).append(occurrence)
    return by_type.values() or [abstract_occurrences]


def _explain_field_conflict(occurrences: Sequence[FieldOccurrence]) -> str:
    """Why fields of one object are not the same, if they are not."""
    first, *others = occurrences
    for other in others:
        if other.node.name.value != first.node.name.value:
            return f"'{first.node.name.value[:100]}' and '{other.node.name.value[:100]}' are different fields"
    if (
        any(other.node.arguments for other in occurrences)
        and len({_get_arguments_key(other.node.arguments or ()) for other in occurrences}) > 1
    ):
        return "they have differing arguments"
    return ""


def _get_arguments_key(arguments: Iterable[ArgumentNode]) -> Hashable:
    return frozenset((argument.name.value, _get_value_key(argument.value)) for argument in arguments)


def _get_value_key(node: Any) -> Hashable:
    """What a value says, without where it stands."""
    if isinstance(node, ListValueNode):
        return "[]", *map(_get_value_key, node.values)
    if isinstance(node, ObjectValueNode):
        return "{}", frozenset((field.name.value, _get_value_key(field.value)) for field in node.fields)
    if isinstance(node, VariableNode):
        return "$", node.name.value
    return node.kind, getattr(node, "value", None), isinstance(node, StringValueNode) and bool(node.block)


def _explain_type_conflict(occurrences: Sequence[FieldOccurrence]) -> str:
    """Why the values of fields are not of one shape, if they are not."""
    types = {occurrence.definition.type: None for occurrence in occurrences if occurrence.definition}
    if len(types) < 2:
        return ""
    first, *others = types
    shape = list(_iterate_type_shape(first))
    conflicting = next((type_ for type_ in others if list(_iterate_type_shape(type_)) != shape), None)
    return f"they return conflicting types '{first}' and '{conflicting}'" if conflicting else ""


def _iterate_type_shape(type_: GraphQLOutputType) -> Iterator[str]:
    while is_list_type(type_) or is_non_null_type(type_):
        yield "[]" if is_list_type(type_) else "!"
        type_ = type_.of_type
    named = get_named_type(type_)
    yield named.name if is_leaf_type(named) else ""
