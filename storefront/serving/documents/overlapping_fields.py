"""Validation rule "Overlapping Fields Can Be Merged" in linear time.

graphql-core compares fields in pairs, in quadratic time: a field that is repeated a thousand times takes a second. Here all
fields with one response name are compared with the first of them, which gives the same result because equality is transitive.
Fields of different object types cannot conflict: they are grouped by object type, and fields of abstract types belong to every
group.
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
    StringValueNode,
    ValidationRule,
    VariableNode,
    get_named_type,
    is_leaf_type,
    is_list_type,
    is_non_null_type,
    is_object_type,
)

from storefront.serving.documents.field_merging import (
    FieldCollector,
    FieldOccurrence,
    SelectionLevel,
    get_child_level,
    get_level_key,
)


class FieldsCanBeMergedRule(ValidationRule):
    """Reports one error for each response name whose fields cannot be merged."""

    def enter_document(self, document: DocumentNode, *_: Any) -> None:
        """Check all operations. Another rule reports fragments that no operation spreads."""
        self._collector = FieldCollector(self.context.schema, document)
        self._checked_levels: set[tuple[bool, Hashable]] = set()
        for definition in document.definitions:
            if isinstance(definition, OperationDefinitionNode):
                self._check_level([(self.context.schema.get_root_type(definition.operation), definition.selection_set)])

    def _check_level(self, level: SelectionLevel, *, types_only: bool = False) -> None:
        """Check a level. `types_only`: its fields never belong to the same object, so only their types must match."""
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


def _group_by_object_type(occurrences: Sequence[FieldOccurrence]) -> Iterable[Sequence[FieldOccurrence]]:
    """Group the fields that may belong to the same object: those of one object type, and those of abstract types."""
    if len({id(occurrence.parent_type) for occurrence in occurrences}) == 1:
        return [occurrences]
    abstract_occurrences = [occurrence for occurrence in occurrences if not is_object_type(occurrence.parent_type)]
    by_type: dict[int, list[FieldOccurrence]] = {}
    for occurrence in occurrences:
        if is_object_type(occurrence.parent_type):
            by_type.setdefault(id(occurrence.parent_type), list(abstract_occurrences)).append(occurrence)
    return by_type.values() or [abstract_occurrences]


def _explain_field_conflict(occurrences: Sequence[FieldOccurrence]) -> str:
    """Why fields of one object conflict; empty if they do not."""
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
    """A value that is equal for equal literals, wherever they are in the document."""
    if isinstance(node, ListValueNode):
        return "[]", *map(_get_value_key, node.values)
    if isinstance(node, ObjectValueNode):
        return "{}", frozenset((field.name.value, _get_value_key(field.value)) for field in node.fields)
    if isinstance(node, VariableNode):
        return "$", node.name.value
    return node.kind, getattr(node, "value", None), isinstance(node, StringValueNode) and bool(node.block)


def _explain_type_conflict(occurrences: Sequence[FieldOccurrence]) -> str:
    """Why the types of fields conflict; empty if they have the same shape."""
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
