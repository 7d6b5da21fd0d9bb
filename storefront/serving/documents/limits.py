"""What a document may be, before anybody asks whether it fits the schema: one pass over its text, one over what was read."""

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
    OperationDefinitionNode,
    OperationType,
    SelectionSetNode,
    parse,
)

from storefront.core.errors import TOO_LARGE, InvalidInput, LimitExceeded
from storefront.serving.documents.field_merging import Merged


@dataclass(frozen=True, slots=True)
class DocumentLimits:
    """The most that a document may have of each: generous for one written by hand, small for an attacker.

    `characters` and `tokens` of its text; `depth` in levels of fields; `fields`, `aliases`, `directives` and
    `operations` in all of it; `roots`: fields of one operation at the top, and `mutations` where it is a mutation; `cost` as the
    module of that name works it out.
    """

    characters: int = 100_000
    tokens: int = 2_000
    depth: int = 20
    fields: int = 500
    aliases: int = 100
    directives: int = 100
    operations: int = 10
    roots: int = 50
    mutations: int = 20
    cost: int = 100_000


GENEROUS = DocumentLimits()


def parsed(text: str, schema: GraphQLSchema, limits: DocumentLimits) -> DocumentNode:
    """The document that a text is; raises GraphQLSyntaxError, LimitExceeded and InvalidInput. None of it need fit a schema."""
    _check("characters", limits.characters, len(text), "The document is too long", "characters")
    tokens = [token for token in _TOKENS.findall(text) if token]
    _check("tokens", limits.tokens, len(tokens), "The document is too long", "tokens")
    try:
        document = parse(text, max_tokens=limits.tokens)
        _check_shape(document, schema, limits)
    except RecursionError:
        raise LimitExceeded("depth", limits.depth, None, "The document is nested too deeply", "levels") from None
    _check_numbers(tokens)
    return document


def _check_numbers(tokens: Sequence[str]) -> None:
    for token in tokens:
        if token[0] in "-0123456789" and math.isinf(float(token)):
            raise InvalidInput(token[:20], TOO_LARGE)


# Names, numbers, strings, punctuation; comments match as nothing. What is not closed goes on to the end, so that each character
# is looked at once; parsing says what is wrong with it.
_TOKENS = re.compile(
    r'#[^\n\r]*|("""(?:[^"\\]|\\"""|\\|"(?!""))*+(?:"""|\Z)|"(?:[^"\\\n\r]|\\.)*+"?|[A-Za-z_]\w*|-?\d[\w.+-]*|\.\.\.|[!$&()\[\]{}:=@|])'
)


@dataclass(slots=True)
class _Shape:
    """What was counted in one definition: its own depth, and the fragments that it spreads, with the depth that they stand at."""

    depth: int = 0
    fields: int = 0
    aliases: int = 0
    directives: int = 0
    spreads: list[tuple[str, int]] = field(default_factory=list)

    def count(self, selections: SelectionSetNode, depth: int) -> None:
        """Count what is selected, and what is selected below."""
        for node in selections.selections:
            self.directives += len(node.directives or ())
            if isinstance(node, FragmentSpreadNode):
                self.spreads.append((node.name.value, depth - 1))
                continue
            below: SelectionSetNode | None = node.selection_set  # type: ignore[attr-defined]
            is_field = isinstance(node, FieldNode)
            if isinstance(node, FieldNode):
                self.fields += 1
                self.aliases += node.alias is not None
                self.depth = max(self.depth, depth)
            if below is not None:
                self.count(below, depth + is_field)


def _check_shape(document: DocumentNode, schema: GraphQLSchema, limits: DocumentLimits) -> None:
    shapes: dict[Any, _Shape] = {}
    for definition in document.definitions:
        shape = _Shape(directives=len(getattr(definition, "directives", None) or ()))
        if isinstance(definition, OperationDefinitionNode | FragmentDefinitionNode):
            shape.count(definition.selection_set, 1)
        name = definition.name.value if isinstance(definition, FragmentDefinitionNode) else id(definition)
        shapes[name] = shape
    for name in ("fields", "aliases", "directives"):
        _check(
            name, getattr(limits, name), sum(getattr(one, name) for one in shapes.values()), f"The document has too many {name}"
        )
    # Each is validated with all fragments that it spreads.
    operations = sum(isinstance(one, OperationDefinitionNode) for one in document.definitions)
    _check("operations", limits.operations, operations, "The document has too many operations")
    _check("depth", limits.depth, _depth(shapes), "The document is nested too deeply", "levels")
    merged = Merged(schema, document)
    for definition in document.definitions:
        if isinstance(definition, OperationDefinitionNode):
            _check_roots(definition, merged, limits)


def _depth(shapes: dict[Any, _Shape]) -> int:
    """The depth of the deepest definition with the fragments that it spreads. Those that spread themselves are for validation."""
    known: dict[Any, int] = {}

    def depth(name: Any) -> int:
        if name not in known:
            shape, known[name] = shapes.get(name, _Shape()), 0
            known[name] = max([shape.depth, *(at + depth(spread) for spread, at in shape.spreads)])
        return known[name]

    return max(map(depth, shapes))


def _check_roots(operation: OperationDefinitionNode, merged: Merged, limits: DocumentLimits) -> None:
    found = len(merged.fields([(None, operation.selection_set)]))
    if operation.operation is OperationType.MUTATION:
        _check("mutations", limits.mutations, found, "Too many mutations in one request")
    _check("roots", limits.roots, found, "The operation has too many fields at the top")


def check_cost(cost: int, limits: DocumentLimits) -> None:
    """What an operation may cost; raises LimitExceeded."""
    _check("cost", limits.cost, cost, "The operation costs too much. Ask for fewer fields or shorter pages")


def _check(limit: str, most: int, found: int, problem: str, unit: str = "") -> None:
    if found > most:
        raise LimitExceeded(limit, most, found, problem, unit)
