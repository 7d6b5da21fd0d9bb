"""Document limits, checked before validation: one pass over the text, and one over the parsed document."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLSchema,
    Location,
    OperationDefinitionNode,
    OperationType,
    SelectionSetNode,
    Token,
    TokenKind,
)

from storefront.core.errors import NUMBER_TOO_LARGE_PROBLEM, InvalidInput, LimitExceeded
from storefront.execution.strawberry_adapter import Parser
from storefront.serving.documents.field_merging import FieldCollector


@dataclass(frozen=True, slots=True)
class DocumentLimits:
    """Maximum sizes of a document: generous for one written by hand, small for an attacker.

    `characters` and `tokens` of its text; `depth` in levels of fields; `fields`, `aliases`, `directives` and `operations` of the
    whole document; `roots`: root fields of one operation, and `mutations`: those of a mutation; `input_items`: items of the lists
    in an operation's arguments, see `input_coercion`; `cost`: see the module `cost`.
    """

    characters: int = 100_000
    tokens: int = 1_000
    depth: int = 20
    fields: int = 300
    aliases: int = 100
    directives: int = 100
    operations: int = 10
    roots: int = 50
    mutations: int = 20
    input_items: int = 2_000
    cost: int = 100_000


DEFAULT_DOCUMENT_LIMITS = DocumentLimits()


def parse_document(text: str, schema: GraphQLSchema, limits: DocumentLimits) -> DocumentNode:
    """Parse a document and check its limits. It need not be valid. Raises GraphQLSyntaxError, LimitExceeded and InvalidInput."""
    _check_limit("characters", limits.characters, len(text), "The document is too long", "characters")
    tokens = [token for token in _TOKEN_PATTERN.findall(text) if token]
    _check_limit("tokens", limits.tokens, len(tokens), "The document is too long", "tokens")
    try:
        document = _LeanParser(text).parse_document()
        _check_counts(document, schema, limits)
    except RecursionError:
        raise LimitExceeded("depth", limits.depth, None, "The document is nested too deeply", "levels") from None
    _check_numbers(tokens)
    return document


class _LeanParser(Parser):
    """Omits the tokens from the locations of nodes: errors need only positions, and tokens are most of a document's memory."""

    def loc(self, start_token: Token) -> Location | None:
        """The location of the node that begins with this token and ends with the last one."""
        location = super().loc(start_token)
        if location is not None:
            location.start_token = location.end_token = _EMPTY_TOKEN
        return location


_EMPTY_TOKEN = Token(TokenKind.SOF, 0, 0, 0, 0)


def _check_numbers(tokens: Sequence[str]) -> None:
    for token in tokens:
        if token[0] in "-0123456789" and math.isinf(float(token)):
            raise InvalidInput(token[:20], NUMBER_TOO_LARGE_PROBLEM)


# Names, numbers, strings, punctuation; comments match without a group. An unclosed string matches up to the end, so that each
# character is visited once; the parser reports it.
_TOKEN_PATTERN = re.compile(
    r'#[^\n\r]*|("""(?:[^"\\]|\\"""|\\|"(?!""))*+(?:"""|\Z)|"(?:[^"\\\n\r]|\\.)*+"?|[A-Za-z_]\w*|-?\d[\w.+-]*|\.\.\.|[!$&()\[\]{}:=@|])'
)


@dataclass(slots=True)
class _DefinitionCounts:
    """The counts of one definition: its own depth, and the fragments that it spreads with the depth of each spread."""

    depth: int = 0
    fields: int = 0
    aliases: int = 0
    directives: int = 0
    spreads: list[tuple[str, int]] = field(default_factory=list)

    def count_selections(self, selections: SelectionSetNode, depth: int) -> None:
        """Count the selections of a selection set, at all levels."""
        for node in selections.selections:
            self.directives += len(node.directives or ())
            if isinstance(node, FragmentSpreadNode):
                self.spreads.append((node.name.value, depth - 1))
                continue
            child_selections: SelectionSetNode | None = node.selection_set  # type: ignore[attr-defined]
            is_field = isinstance(node, FieldNode)
            if isinstance(node, FieldNode):
                self.fields += 1
                self.aliases += node.alias is not None
                self.depth = max(self.depth, depth)
            if child_selections is not None:
                self.count_selections(child_selections, depth + is_field)


def _check_counts(document: DocumentNode, schema: GraphQLSchema, limits: DocumentLimits) -> None:
    counts_by_definition: dict[Any, _DefinitionCounts] = {}
    for definition in document.definitions:
        counts = _DefinitionCounts(directives=len(getattr(definition, "directives", None) or ()))
        if isinstance(definition, OperationDefinitionNode | FragmentDefinitionNode):
            counts.count_selections(definition.selection_set, 1)
        name = definition.name.value if isinstance(definition, FragmentDefinitionNode) else id(definition)
        counts_by_definition[name] = counts
    for name in ("fields", "aliases", "directives"):
        _check_limit(
            name,
            getattr(limits, name),
            sum(getattr(counted, name) for counted in counts_by_definition.values()),
            f"The document has too many {name}",
        )
    # Operations are limited because each is validated with all fragments that it spreads.
    operations = sum(isinstance(counted, OperationDefinitionNode) for counted in document.definitions)
    _check_limit("operations", limits.operations, operations, "The document has too many operations")
    _check_limit("depth", limits.depth, _measure_depth(counts_by_definition), "The document is nested too deeply", "levels")
    collector = FieldCollector(schema, document)
    for definition in document.definitions:
        if isinstance(definition, OperationDefinitionNode):
            _check_root_fields(definition, collector, limits)


def _measure_depth(counts_by_definition: dict[Any, _DefinitionCounts]) -> int:
    """The depth of the deepest definition including fragments. Validation rejects fragments that spread themselves."""
    depths: dict[Any, int] = {}

    def measure(name: Any) -> int:
        if name not in depths:
            counts, depths[name] = counts_by_definition.get(name, _DefinitionCounts()), 0
            depths[name] = max([counts.depth, *(spread_depth + measure(spread) for spread, spread_depth in counts.spreads)])
        return depths[name]

    return max(map(measure, counts_by_definition))


def _check_root_fields(operation: OperationDefinitionNode, collector: FieldCollector, limits: DocumentLimits) -> None:
    field_count = len(collector.collect_fields([(None, operation.selection_set)]))
    if operation.operation is OperationType.MUTATION:
        _check_limit("mutations", limits.mutations, field_count, "Too many mutations in one request")
    _check_limit("roots", limits.roots, field_count, "The operation has too many fields at the top")


def check_cost(cost: int, limits: DocumentLimits) -> None:
    """Check the cost of an operation. Raises LimitExceeded."""
    _check_limit("cost", limits.cost, cost, "The operation costs too much. Ask for fewer fields or shorter pages")


def check_input_items(item_count: int, limits: DocumentLimits) -> None:
    """Check the number of items in all inputs of an operation. Raises LimitExceeded."""
    problem = (
        "The arguments of the operation's fields have too many list items and searches. Ask for shorter lists or fewer fields"
    )
    _check_limit("inputItems", limits.input_items, item_count, problem, "items")


def _check_limit(limit_name: str, maximum: int, actual: int, problem: str, unit: str = "") -> None:
    if actual > maximum:
        raise LimitExceeded(limit_name, maximum, actual, problem, unit)
