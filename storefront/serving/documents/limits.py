"""Document limits, checked before validation: one pass over the text, and one over the parsed document."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import add
from typing import Any, NamedTuple

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
    Source,
    Token,
    TokenKind,
    get_named_type,
    is_composite_type,
    is_introspection_type,
)

from storefront.core.errors import NUMBER_TOO_LARGE_PROBLEM, InvalidInput, LimitExceeded
from storefront.execution.document_nodes import get_operation_name
from storefront.execution.strawberry_adapter import Parser
from storefront.serving.documents.field_merging import FieldCollector
from storefront.serving.documents.introspection_cost import compute_max_introspection, estimate_introspection
from storefront.serving.documents.lexer import FastLexer


@dataclass(frozen=True, slots=True)
class DocumentLimits:
    """Maximum sizes of a document: generous for one written by hand, small for an attacker.

    `characters` and `tokens` of its text; `depth` in levels of fields; `fields`, `aliases`, `directives` and `operations` of the
    whole document; `roots`: root fields of one operation, and `mutations`: those of a mutation; `input_items`: items of the lists
    in an operation's arguments, see `input_limits`; `mutation_items`: those of a request's mutations; `cost`: see the module
    `cost`.
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
    mutation_items: int = 30_000
    cost: int = 100_000


# Fields of one operation that have arguments and return objects: each runs a statement of its own,
# which takes a millisecond and more. The documents of docs, examples and tests have nine at most.
MAX_LOADS = 30

# Aliases of one field without arguments and selections: its value is the same under each, and may be a long text.
MAX_FIELD_NAMES = 5

DEFAULT_DOCUMENT_LIMITS = DocumentLimits()


def parse_document(text: str, schema: GraphQLSchema, limits: DocumentLimits) -> DocumentNode:
    """Parse a document and check its limits. It need not be valid. Raises GraphQLSyntaxError, LimitExceeded and InvalidInput."""
    _check_limit("characters", limits.characters, len(text), "The document is too long", "characters")
    tokens = [token for token in _TOKEN_PATTERN.findall(text) if token]
    _check_limit("tokens", limits.tokens, len(tokens), "The document is too long", "tokens")
    try:
        source = Source(text)
        document = _LeanParser(source, lexer=FastLexer(source)).parse_document()
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


# Names, numbers, strings, punctuation; ignored text matches without a group. An unclosed string matches up to the end, so that
# each character is visited once; the parser reports it.
_TOKEN_PATTERN = re.compile(
    r"(?:[\ufeff\t ,\n\r]++|#[^\n\r]*+)++"
    r'|("""(?:[^"\\]|\\"""|\\|"(?!""))*+(?:"""|\Z)|"(?:[^"\\\n\r]|\\.)*+"?|[A-Za-z_]\w*|-?\d[\w.+-]*|\.\.\.|[!$&()\[\]{}:=@|])'
)


@dataclass(slots=True)
class _DefinitionCounts:
    """The counts of one definition: its own depth, and the fragments that it spreads with the depth of each spread.

    `loads`: fields with objects that have arguments, apart from mutations and introspection: each loads them by itself.
    `names`: the aliases of fields without arguments and selections, by type and field.
    """

    depth: int = 0
    fields: int = 0
    aliases: int = 0
    directives: int = 0
    loads: int = 0
    spreads: list[tuple[str, int]] = field(default_factory=list)
    names: dict[tuple[str, str], set[str]] = field(default_factory=dict)

    def count_selections(self, schema: GraphQLSchema, type_: Any, selections: SelectionSetNode, depth: int) -> None:
        """Count the selections of a selection set, at all levels. `type_`: that of their parent; None if it is unknown."""
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
                if node.alias is not None and child_selections is None and not node.arguments and node.name.value[:2] != "__":
                    key = getattr(type_, "name", ""), node.name.value
                    self.names.setdefault(key, set()).add(node.alias.value)
            if child_selections is not None:
                child_type = _get_child_type(schema, type_, node)
                if isinstance(node, FieldNode) and node.arguments and type_ is not schema.mutation_type:
                    self.loads += child_type is not None and not is_introspection_type(child_type)
                self.count_selections(schema, child_type, child_selections, depth + is_field)


def _get_child_type(schema: GraphQLSchema, type_: Any, node: Any) -> Any:
    """The type that the selections below a field or inline fragment are on; None if it is unknown."""
    if isinstance(node, FieldNode):
        definition = schema.get_field(type_, node.name.value) if is_composite_type(type_) else None
        return get_named_type(definition.type) if definition else None
    return type_ if node.type_condition is None else schema.get_type(node.type_condition.name.value)


def _check_counts(document: DocumentNode, schema: GraphQLSchema, limits: DocumentLimits) -> None:
    counts_by_definition: dict[Any, _DefinitionCounts] = {}
    for definition in document.definitions:
        counts = _DefinitionCounts(directives=len(getattr(definition, "directives", None) or ()))
        if isinstance(definition, OperationDefinitionNode | FragmentDefinitionNode):
            type_ = (
                schema.get_root_type(definition.operation)
                if isinstance(definition, OperationDefinitionNode)
                else schema.get_type(definition.type_condition.name.value)
            )
            counts.count_selections(schema, type_, definition.selection_set, 1)
        name = definition.name.value if isinstance(definition, FragmentDefinitionNode) else id(definition)
        counts_by_definition[name] = counts
    for name in ("fields", "aliases", "directives"):
        _check_limit(
            name,
            getattr(limits, name),
            sum(getattr(counted, name) for counted in counts_by_definition.values()),
            f"The document has too many {name}",
        )
    names: dict[tuple[str, str], set[str]] = {}
    for counted in counts_by_definition.values():
        for key, response_names in counted.names.items():
            names.setdefault(key, set()).update(response_names)
    for (type_name, field_name), response_names in names.items():
        problem = f"{type_name}.{field_name} has too many aliases. Select it once"
        _check_limit("names", MAX_FIELD_NAMES, len(response_names), problem, "aliases")
    # Operations are limited because each is validated with all fragments that it spreads.
    operations = sum(isinstance(counted, OperationDefinitionNode) for counted in document.definitions)
    _check_limit("operations", limits.operations, operations, "The document has too many operations")
    _check_limit("depth", limits.depth, _measure_depth(counts_by_definition), "The document is nested too deeply", "levels")
    collector, loads = FieldCollector(schema, document), dict[Any, int]()
    for definition in document.definitions:
        if isinstance(definition, OperationDefinitionNode):
            load_count = _count_loads(id(definition), counts_by_definition, loads)
            problem = "The operation has too many fields with arguments. Send it in parts"
            _check_limit("loads", MAX_LOADS, load_count, problem, "fields")
            _check_root_fields(definition, collector, limits)


def _measure_depth(counts_by_definition: dict[Any, _DefinitionCounts]) -> int:
    """The depth of the deepest definition including fragments. Validation rejects fragments that spread themselves."""
    depths: dict[Any, int] = {}
    return max(_measure_definition(name, counts_by_definition, depths) for name in counts_by_definition)


def _measure_definition(name: Any, counts_by_definition: Mapping[Any, _DefinitionCounts], depths: dict[Any, int]) -> int:
    if name not in depths:
        counts, depths[name] = counts_by_definition.get(name, _DefinitionCounts()), 0
        spread_depths = (depth + _measure_definition(spread, counts_by_definition, depths) for spread, depth in counts.spreads)
        depths[name] = max([counts.depth, *spread_depths])
    return depths[name]


def _count_loads(name: Any, counts_by_definition: Mapping[Any, _DefinitionCounts], loads: dict[Any, int]) -> int:
    """The loads of a definition, with those of a fragment each time that it is spread."""
    if name not in loads:
        counts, loads[name] = counts_by_definition.get(name, _DefinitionCounts()), 0
        loads[name] = counts.loads + sum(_count_loads(spread, counts_by_definition, loads) for spread, _ in counts.spreads)
    return loads[name]


def _check_root_fields(operation: OperationDefinitionNode, collector: FieldCollector, limits: DocumentLimits) -> None:
    field_count = len(collector.collect_fields([(None, operation.selection_set)]))
    if operation.operation is OperationType.MUTATION:
        _check_limit("mutations", limits.mutations, field_count, "Too many mutations in one request")
    _check_limit("roots", limits.roots, field_count, "The operation has too many fields at the top")


class WorkCounts(NamedTuple):
    """How much work an operation is, or all operations of a request together. Each count has a limit.

    `mutation_items` and `input_items`: items of the lists in its arguments, of a mutation or of any other operation; `cost`: see
    the module `cost`; `introspection`: see `introspection_cost`.
    """

    mutation_items: int = 0
    input_items: int = 0
    cost: int = 0
    introspection: int = 0

    def add(self, other: "WorkCounts") -> "WorkCounts":
        """The work of both."""
        return WorkCounts(*map(add, self, other))


# For each of the counts: its limit's name in errors, what is wrong beyond it, and the unit.
_WORK_PROBLEMS = (
    ("mutationItems", "The inputs of the request's mutations have too many list items. Send them in parts", "items"),
    (
        "inputItems",
        "The arguments of the operation's fields have too many list items and searches. Ask for shorter lists or fewer fields",
        "items",
    ),
    ("cost", "The operation costs too much. Ask for fewer fields or shorter pages", ""),
    ("introspection", "Introspection costs too much. Select each field once, without aliases", ""),
)


def check_work(counts: WorkCounts, schema: GraphQLSchema, limits: DocumentLimits, *, is_batch: bool = False) -> None:
    """Check the work of an operation, or of all operations of a batch together. Raises LimitExceeded."""
    max_introspection = compute_max_introspection(schema) if counts.introspection else 0
    maxima = (limits.mutation_items, limits.input_items, limits.cost, max_introspection)
    for (limit_name, problem, unit), maximum, actual in zip(_WORK_PROBLEMS, maxima, counts, strict=True):
        note = ". The operations of a batch are counted together" if is_batch else ""
        _check_limit(limit_name, maximum, actual, problem + note, unit)


def estimate_introspections(schema: GraphQLSchema, document: DocumentNode, limits: DocumentLimits) -> Mapping[str | None, int]:
    """The cost of the introspection fields of each operation of a valid document, by its name. Raises LimitExceeded."""
    costs: dict[str | None, int] = {}
    for definition in document.definitions:
        if isinstance(definition, OperationDefinitionNode):
            cost = costs[get_operation_name(definition)] = estimate_introspection(schema, document, definition)
            check_work(WorkCounts(introspection=cost), schema, limits)
    return costs


def _check_limit(limit_name: str, maximum: int, actual: int, problem: str, unit: str = "") -> None:
    if actual > maximum:
        raise LimitExceeded(limit_name, maximum, actual, problem, unit)
