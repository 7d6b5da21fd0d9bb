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

from storefront.serving.documents.field_merging import Level, Merged, Selected, below, known_by
from storefront.serving.documents.one_of import VariablesFit


class FieldsCanBeMerged(ValidationRule):
    """One error for each name under which something is selected that cannot stand there together."""

    def enter_document(self, document: DocumentNode, *_: Any) -> None:
        """Look at the operations. What no operation spreads is an error of its own."""
        self._merged = Merged(self.context.schema, document)
        self._seen: set[tuple[bool, Hashable]] = set()
        for one in document.definitions:
            if isinstance(one, OperationDefinitionNode):
                self._check([(self.context.schema.get_root_type(one.operation), one.selection_set)])

    def _check(self, level: Level, *, exclusive: bool = False) -> None:
        """Look at a level; at one of which no two fields are ever of the same object, for the types only."""
        key = exclusive, known_by(level)
        if not level or key in self._seen:
            return
        self._seen.add(key)
        for name, group in self._merged.fields(level).items():
            together = [group] if exclusive else list(_together(group))
            if reason := ("" if exclusive else next(filter(None, map(_differ, together)), "")) or _types_differ(group):
                self._report(name, reason, group)
                continue
            for one in together:
                self._check(below(one), exclusive=exclusive)
            if len(together) > 1:
                self._check(below(group), exclusive=True)

    def _report(self, name: str, reason: str, group: Sequence[Selected]) -> None:
        problem = f"Fields '{name[:100]}' conflict because {reason}."
        mend = "Use different aliases on the fields to fetch both if this was intentional."
        self.report_error(GraphQLError(f"{problem} {mend}", [one.node for one in group[:20]]))


_OURS: dict[Any, Any] = {OverlappingFieldsCanBeMergedRule: FieldsCanBeMerged, VariablesInAllowedPositionRule: VariablesFit}
RULES = tuple(_OURS.get(rule, rule) for rule in specified_rules)


def _together(group: Sequence[Selected]) -> Iterable[Sequence[Selected]]:
    """The fields that one object may have to answer: those of its own type, and those of abstract types."""
    if len({id(one.parent) for one in group}) == 1:
        return [group]
    abstract = [one for one in group if not is_object_type(one.parent)]
    by_type: dict[int, list[Selected]] = {}
    for one in group:
        if is_object_type(one.parent):
            by_type.setdefault(id(one.parent), list(abstract)).append(one)
    return by_type.values() or [abstract]


def _differ(group: Sequence[Selected]) -> str:
    """Why fields of one object are not the same, if they are not."""
    first, *others = group
    for one in others:
        if one.node.name.value != first.node.name.value:
            return f"'{first.node.name.value[:100]}' and '{one.node.name.value[:100]}' are different fields"
    if any(one.node.arguments for one in group) and len({_arguments(one.node.arguments or ()) for one in group}) > 1:
        return "they have differing arguments"
    return ""


def _arguments(given: Iterable[ArgumentNode]) -> Hashable:
    return frozenset((one.name.value, _value(one.value)) for one in given)


def _value(node: Any) -> Hashable:
    """What a value says, without where it stands."""
    if isinstance(node, ListValueNode):
        return "[]", *map(_value, node.values)
    if isinstance(node, ObjectValueNode):
        return "{}", frozenset((field.name.value, _value(field.value)) for field in node.fields)
    if isinstance(node, VariableNode):
        return "$", node.name.value
    return node.kind, getattr(node, "value", None), isinstance(node, StringValueNode) and bool(node.block)


def _types_differ(group: Sequence[Selected]) -> str:
    """Why the values of fields are not of one shape, if they are not."""
    types = {one.definition.type: None for one in group if one.definition}
    if len(types) < 2:
        return ""
    first, *others = types
    shape = list(_shape(first))
    other = next((type_ for type_ in others if list(_shape(type_)) != shape), None)
    return f"they return conflicting types '{first}' and '{other}'" if other else ""


def _shape(type_: GraphQLOutputType) -> Iterator[str]:
    while is_list_type(type_) or is_non_null_type(type_):
        yield "[]" if is_list_type(type_) else "!"
        type_ = type_.of_type
    named = get_named_type(type_)
    yield named.name if is_leaf_type(named) else ""
