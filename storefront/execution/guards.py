"""Guards of root fields: checks, such as that the viewer has signed in, before any input of the field is coerced.

graphql-core coerces all variables of an operation before it resolves the first field. For a request that a guard refuses, the
operation is executed without the inputs of the guarded fields: their errors are those of the guard, and nothing is coerced for
them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLField,
    GraphQLNamedType,
    GraphQLSchema,
    OperationDefinitionNode,
    SelectionSetNode,
)

from storefront.execution.document_nodes import find_variable_names
from storefront.execution.plan import DocumentPlans

# The key of a root field's `extensions` with its guard.
GUARD_EXTENSION_KEY = "guard"

# Called with the operation's context. Raises the error of the field.
Guard = Callable[[Any], None]


def get_guard(definition: GraphQLField | None) -> Guard | None:
    """The guard of a field; None without one."""
    guard: Guard | None = definition.extensions.get(GUARD_EXTENSION_KEY) if definition else None
    return guard


@dataclass(frozen=True, slots=True)
class GuardedDocument:
    """The guards of a document's root fields; the document without the inputs of these fields, and its plans."""

    guards: Sequence[Guard]
    without_inputs: DocumentNode
    plans: DocumentPlans

    def is_refused(self, context: Any) -> bool:
        """Whether a guard refuses this context."""
        try:
            for guard in self.guards:
                guard(context)
        except Exception:
            return True
        return False


def find_guards(schema: GraphQLSchema, document: DocumentNode) -> GuardedDocument | None:
    """The guards of a valid document; None without any."""
    rewriter = _Rewriter(schema)
    definitions = [rewriter.rewrite_definition(definition) for definition in document.definitions]
    if not rewriter.guards:
        return None
    used_names = {name for definition in definitions for name in _find_used_variables(definition)}
    without_inputs = replace(document, definitions=tuple(_omit_variables(definition, used_names) for definition in definitions))
    return GuardedDocument(list(rewriter.guards), without_inputs, DocumentPlans(without_inputs))


class _Rewriter:
    """Removes the arguments of guarded root fields, and collects their guards."""

    def __init__(self, schema: GraphQLSchema) -> None:
        self._schema = schema
        self.guards: dict[Guard, None] = {}

    def rewrite_definition(self, definition: Any) -> Any:
        """A definition without the arguments of guarded fields."""
        if isinstance(definition, OperationDefinitionNode):
            type_: GraphQLNamedType | None = self._schema.get_root_type(definition.operation)
        elif isinstance(definition, FragmentDefinitionNode):
            type_ = self._schema.get_type(definition.type_condition.name.value)
        else:
            return definition
        return replace(definition, selection_set=self._rewrite_selections(type_, definition.selection_set))

    def _rewrite_selections(self, type_: GraphQLNamedType | None, selections: SelectionSetNode) -> SelectionSetNode:
        return replace(selections, selections=tuple(self._rewrite_selection(type_, node) for node in selections.selections))

    def _rewrite_selection(self, type_: Any, node: Any) -> Any:
        if isinstance(node, FragmentSpreadNode):
            return node
        if not isinstance(node, FieldNode):
            # An inline fragment.
            condition = node.type_condition
            nested_type = type_ if condition is None else self._schema.get_type(condition.name.value)
            return replace(node, selection_set=self._rewrite_selections(nested_type, node.selection_set))
        guard = get_guard(self._schema.get_field(type_, node.name.value))
        if guard is None:
            return node
        self.guards[guard] = None
        return replace(node, arguments=())


def _find_used_variables(definition: Any) -> Iterator[str]:
    """The variables that are used in a definition; their own definitions are no use."""
    for node in (getattr(definition, "selection_set", None), *(getattr(definition, "directives", None) or ())):
        if node is not None:
            yield from find_variable_names(node)


def _omit_variables(definition: Any, used_names: set[str]) -> Any:
    if not isinstance(definition, OperationDefinitionNode):
        return definition
    nodes = definition.variable_definitions or ()
    return replace(definition, variable_definitions=tuple(node for node in nodes if node.variable.name.value in used_names))
