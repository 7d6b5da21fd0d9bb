"""Validates documents by the rules of the specification, as `graphql.validate` does, at a fraction of its cost.

The rules are graphql-core's, except for those that take more than linear time or miss something. What differs is how a document
is visited: names are not, as no rule concerns them, and each node is passed only to the rules for its kind.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from graphql import (
    BREAK,
    SKIP,
    ASTValidationRule,
    DocumentNode,
    FragmentDefinitionNode,
    GraphQLError,
    GraphQLInputType,
    GraphQLSchema,
    Node,
    OverlappingFieldsCanBeMergedRule,
    TypeInfo,
    ValuesOfCorrectTypeRule,
    VariablesInAllowedPositionRule,
    Visitor,
    VisitorAction,
    specified_rules,
    validate_input_literal,
    visit,
)
from graphql.language.visitor import EnterLeaveVisitor

from storefront.execution.strawberry_adapter import QUERY_DOCUMENT_KEYS, IdentityValidationContext, VariableUsageVisitor
from storefront.serving.documents.one_of import OneOfVariablesRule
from storefront.serving.documents.overlapping_fields import FieldsCanBeMergedRule

# The number of validation errors in a response, and the characters of each, as it may quote the document.
MAX_VALIDATION_ERRORS, MAX_ERROR_CHARACTERS = 5, 500

# The children of each kind of node that rules concern. Descriptions must not affect validation.
_UNVISITED_KEYS = {"name", "alias", "description"}
_VISITED_KEYS = {kind: tuple(key for key in keys if key not in _UNVISITED_KEYS) for kind, keys in QUERY_DOCUMENT_KEYS.items()}


VisitFunction = Callable[..., Any]


class ShortLiteralErrorsRule(ValuesOfCorrectTypeRule):
    """Reports one error at most about a long literal: each error quotes the whole literal, which takes long to print."""

    def is_valid_value_node(self, node: Any, input_type: GraphQLInputType | None) -> VisitorAction:
        """Report what is wrong with a literal, and do not visit what is inside of it."""
        if input_type:
            is_long = node.loc is not None and node.loc.end - node.loc.start > MAX_ERROR_CHARACTERS

            def on_error(error: GraphQLError, _path: list[str | int]) -> None:
                self.report_error(error)
                if is_long:
                    raise _LiteralRejected

            with suppress(_LiteralRejected):
                validate_input_literal(node, input_type, on_error, None, None, self.context.hide_suggestions)
        return SKIP


class _LiteralRejected(Exception):
    """Raised to end the validation of a literal."""


_RULE_REPLACEMENTS: dict[Any, Any] = {
    OverlappingFieldsCanBeMergedRule: FieldsCanBeMergedRule,
    ValuesOfCorrectTypeRule: ShortLiteralErrorsRule,
    VariablesInAllowedPositionRule: OneOfVariablesRule,
}
VALIDATION_RULES: tuple[type[ASTValidationRule], ...] = tuple(_RULE_REPLACEMENTS.get(rule, rule) for rule in specified_rules)


def validate_document(
    schema: GraphQLSchema,
    document: DocumentNode,
    rules: Sequence[type[ASTValidationRule]] = VALIDATION_RULES,
    *,
    hide_suggestions: bool = False,
) -> list[GraphQLError]:
    """The first errors of a document, MAX_VALIDATION_ERRORS at most. Empty if it is valid.

    Raises RecursionError if fragments spread each other too deeply.
    """
    errors: list[GraphQLError] = []

    def add_error(error: GraphQLError) -> None:
        errors.append(error)
        if len(errors) == MAX_VALIDATION_ERRORS:
            raise _ValidationEnded

    type_info = TypeInfo(schema)
    context = _DocumentContext(schema, document, type_info, add_error, hide_suggestions)
    with suppress(_ValidationEnded):
        _visit_typed(document, type_info, [rule(context) for rule in rules])
    return errors


def _visit_typed(node: Node, type_info: TypeInfo, visitors: Sequence[Visitor]) -> None:
    try:
        visit(node, _TypedVisitor(type_info, visitors), _VISITED_KEYS)
    finally:
        # Visitors cache their own bound methods. These reference cycles would hold the document until it is garbage collected.
        for visitor in visitors:
            visitor.enter_leave_map.clear()


class _ValidationEnded(Exception):
    """Raised to end the validation of a document."""


class _DocumentContext(IdentityValidationContext):
    """A validation context that looks for variables only in definitions that have some."""

    def get_variable_usages(self, node: Any) -> Any:
        """The uses of variables in a definition, without those in the fragments that it spreads."""
        usages = self._variable_usages.get(node)
        if usages is None:
            usages = self._variable_usages[node] = self._find_variable_usages(node)
        return usages

    def _find_variable_usages(self, node: Any) -> Any:
        if node.loc is not None and "$" not in node.loc.source.body[node.loc.start : node.loc.end]:
            return []
        visitor = VariableUsageVisitor(self._type_info, node if isinstance(node, FragmentDefinitionNode) else None)
        _visit_typed(node, self._type_info, [visitor])
        return visitor.usages


class _TypedVisitor(Visitor):
    """Passes each node to several visitors, with the types there, like graphql-core's TypeInfoVisitor of a ParallelVisitor.

    The functions for a kind of node are looked up once. Visitors must not edit the document.
    """

    def __init__(self, type_info: TypeInfo, visitors: Sequence[Visitor]) -> None:
        super().__init__()
        self._type_info, self._visitors = type_info, visitors
        # The node that each visitor skips, or BREAK; and the visitors that skip a node, by its identity.
        self._skipped_nodes: list[Any] = [None] * len(visitors)
        self._skipping_visitors: defaultdict[int, list[int]] = defaultdict(list)

    def get_enter_leave_for_kind(self, kind: str) -> EnterLeaveVisitor:
        """The functions for nodes of one kind."""
        functions = self.enter_leave_map.get(kind)
        if functions is None:
            pairs = [visitor.get_enter_leave_for_kind(kind) for visitor in self._visitors]
            enter = self._make_enter(kind, [(n, pair.enter) for n, pair in enumerate(pairs) if pair.enter])
            leave = self._make_leave(kind, [(n, pair.leave) for n, pair in enumerate(pairs) if pair.leave])
            functions = self.enter_leave_map[kind] = EnterLeaveVisitor(enter, leave)
        return functions

    def _make_enter(self, kind: str, functions: Sequence[tuple[int, VisitFunction]]) -> VisitFunction:
        enter_type = getattr(self._type_info, f"enter_{kind}", None)
        skipped_nodes, skipping_visitors = self._skipped_nodes, self._skipping_visitors

        def enter(node: Node, *args: Any) -> None:
            if enter_type:
                enter_type(node)
            for n, function in functions:
                if skipped_nodes[n] is None:
                    action = function(node, *args)
                    if action is SKIP:
                        skipped_nodes[n] = node
                        skipping_visitors[id(node)].append(n)
                    elif action is BREAK:
                        skipped_nodes[n] = BREAK

        return enter

    def _make_leave(self, kind: str, functions: Sequence[tuple[int, VisitFunction]]) -> VisitFunction:
        leave_type = getattr(self._type_info, f"leave_{kind}", None)
        skipped_nodes, skipping_visitors = self._skipped_nodes, self._skipping_visitors

        def leave(node: Node, *args: Any) -> None:
            for n, function in functions:
                if skipped_nodes[n] is None and function(node, *args) is BREAK:
                    skipped_nodes[n] = BREAK
            if skipping_visitors:
                for n in skipping_visitors.pop(id(node), ()):
                    skipped_nodes[n] = None
            if leave_type:
                leave_type()

        return leave
