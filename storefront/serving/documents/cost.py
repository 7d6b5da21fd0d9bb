"""What an operation may cost: its fields and the items of their inputs, as often as the lists around them can repeat them.

Known before anything runs. Fields declare what they cost in their `extensions`; the rest costs one. A document's costs are worked
out once, as sums of products: of each request only the sizes that its variables say have to be put in.
"""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

from graphql import (
    ArgumentNode,
    DocumentNode,
    GraphQLField,
    GraphQLSchema,
    IntValueNode,
    ListValueNode,
    ObjectValueNode,
    OperationDefinitionNode,
    OperationType,
    Undefined,
    VariableNode,
    get_nullable_type,
    is_input_object_type,
    is_list_type,
    type_from_ast,
)

from storefront.serving.documents.field_merging import Level, Merged, Selected, below, known_by
from storefront.serving.documents.input_coercion import items_in, items_in_literal

# The name under which a field of the schema says so.
COST = "cost"

# Items of a list of which nothing is declared and no argument says how many.
ASSUMED = 10

# What a mutation costs besides what is told of it: a transaction, and an entry in a log.
TRANSACTION = 50


@dataclass(frozen=True, slots=True)
class Cost:
    """What a field costs, each time that it is resolved, and how many items its list has.

    `by`: the arguments that say how many, the first that is given: a number, or a list as long; "input.limit" is a field of an
    input. `size`: how many there are
    where none is given; as a rule the argument's own default. `most`: more are refused by the field itself. Where the field is no
    list, these are the sizes of the lists right below it, such as a connection's nodes.
    """

    weight: float = 1
    size: float | None = None
    by: tuple[str, ...] = ("first", "last")
    most: int = 100


@dataclass(frozen=True, slots=True)
class Size:
    """How many items there are by what a request says: the first of the variables that is given."""

    variables: tuple[tuple[str, tuple[str, ...], Any], ...]
    otherwise: float
    most: int

    def of(self, given: Mapping[str, Any]) -> float:
        """The number for these variables. What is no number is refused where it is used."""
        for name, path, default in self.variables:
            value = given.get(name, default)
            for part in path:
                value = value.get(part) if isinstance(value, dict) else None
            if isinstance(value, int | list):
                return max(0, min(len(value) if isinstance(value, list) else value, self.most))
        return self.otherwise


@dataclass(frozen=True, slots=True)
class Either:
    """Whether a condition holds: 1, or 0."""

    name: str
    wanted: bool
    default: Any

    def of(self, given: Mapping[str, Any]) -> float:
        """For these variables."""
        return given.get(self.name, self.default) is self.wanted


@dataclass(frozen=True, slots=True)
class Items:
    """How many items all lists in a variable's value have together: each costs as much as a field."""

    name: str
    otherwise: int

    def of(self, given: Mapping[str, Any]) -> float:
        """The number for these variables."""
        return items_in(given[self.name]) if self.name in given else self.otherwise


Factor = Size | Either | Items
# The weights that are multiplied by the same factors, added up.
Sum = Mapping[tuple[Factor, ...], float]


class Costs:
    """The costs of a document's operations, by their names."""

    def __init__(self, schema: GraphQLSchema, document: DocumentNode) -> None:
        self._of: dict[str | None, Sum] = {}
        self._factors: dict[str | None, set[Factor]] = {}
        self._fixed: dict[str | None, int] = {}
        for one in document.definitions:
            if isinstance(one, OperationDefinitionNode):
                self._add(one.name.value if one.name else None, _Count(schema, document, one).sum())

    def _add(self, name: str | None, terms: Sum) -> None:
        self._of[name], self._factors[name] = terms, {factor for factors in terms for factor in factors}
        if not any(terms):
            self._fixed[name] = round(sum(terms.values()))

    def of(self, operation: OperationDefinitionNode, given: Mapping[str, Any]) -> int:
        """What the operation costs, at most, with these variables."""
        name = operation.name.value if operation.name else None
        fixed = self._fixed.get(name)
        if fixed is not None:
            return fixed
        # Each once: a variable's value may be large, and used by many fields.
        values = {factor: factor.of(given) for factor in self._factors[name]}
        return round(sum(weight * prod(values[factor] for factor in factors) for factors, weight in self._of[name].items()))


class _Count:
    """Counts one operation of a valid document."""

    def __init__(self, schema: GraphQLSchema, document: DocumentNode, operation: OperationDefinitionNode) -> None:
        self._merged = Merged(schema, document)
        self._sizes = _introspection(schema)
        self._writes = operation.operation is OperationType.MUTATION
        self._root: Level = [(schema.get_root_type(operation.operation), operation.selection_set)]
        definitions = operation.variable_definitions or ()
        self._defaults = {one.variable.name.value: _constant(one.default_value) for one in definitions}
        self._items = {one.variable.name.value: items_in_literal(one.default_value)[0] for one in definitions}
        # What no list is ever made of costs nothing.
        self._listed = {one.variable.name.value for one in definitions if _has_lists(type_from_ast(schema, one.type))}
        self._known: dict[Hashable, Sum] = {}

    def sum(self) -> Sum:
        """The cost of the operation."""
        total = self._level(self._root, None)
        return _plus(TRANSACTION * len(self._merged.fields(self._root)), total) if self._writes else total

    def _level(self, level: Level, inherited: Sum | None) -> Sum:
        key = known_by(level), None if inherited is None else frozenset(inherited.items())
        known = self._known.get(key)
        if known is None:
            total: defaultdict[tuple[Factor, ...], float] = defaultdict(float)
            for group in self._merged.fields(level).values():
                for factors, weight in self._field(group, inherited).items():
                    total[factors] += weight
            known = self._known[key] = total
        return known

    def _field(self, group: Sequence[Selected], inherited: Sum | None) -> Sum:
        definition = group[0].definition
        if definition is None:
            return {(): 1}
        cost, size, level = _declared(definition), self._size(group[0], inherited), below(group)
        total: Sum = {(): cost.weight}
        if level and is_list_type(get_nullable_type(definition.type)):
            total = _plus(cost.weight, _times(size or {(): ASSUMED}, self._level(level, None)))
        elif level:
            total = _plus(cost.weight, self._level(level, size))
        if arguments := group[0].node.arguments:
            total = self._with_inputs(total, arguments)
        conditions = {one.conditions for one in group}
        # Where it is selected on several conditions, any of them will do: it is counted as if it were on none.
        on = (
            [Either(name, wanted, self._defaults.get(name)) for name, wanted in sorted(*conditions)]
            if len(conditions) == 1
            else []
        )
        return _times({tuple(on): 1}, total)

    def _with_inputs(self, total: Sum, arguments: Sequence[ArgumentNode]) -> Sum:
        found = defaultdict(float, total)
        for argument in arguments:
            number, names = items_in_literal(argument.value)
            found[()] += number
            for name in names:
                if name in self._listed:
                    found[Items(name, self._items[name]),] += 1
        return found

    def _size(self, one: Selected, inherited: Sum | None) -> Sum | None:
        """How many items the field's list has, or those right below it."""
        definition, name = one.definition, one.node.name.value
        assert definition is not None  # noqa: S101 - asked of known fields only
        declared = _declared(definition)
        by = [path for path in declared.by if path.partition(".")[0] in definition.args]
        if by:
            return _slice(declared, definition, by, {a.name.value: a for a in one.node.arguments or ()}, self._defaults)
        if declared.size is not None:
            return {(): declared.size}
        if one.parent and (fixed := self._sizes.get(f"{one.parent.name}.{name}")):
            return {(): fixed}
        return inherited


def _slice(
    declared: Cost, definition: GraphQLField, by: Sequence[str], given: Mapping[str, ArgumentNode], defaults: Mapping[str, Any]
) -> Sum:
    variables: list[tuple[str, tuple[str, ...], Any]] = []
    otherwise = declared.size
    for path in by:
        name, *inner = path.split(".")
        value, rest = _inside(given[name].value if name in given else None, tuple(inner))
        if isinstance(value, IntValueNode | ListValueNode):
            found = len(value.values) if isinstance(value, ListValueNode) else int(value.value)
            otherwise = max(0, min(found, declared.most))
            break
        if isinstance(value, VariableNode):
            variables.append((value.name.value, rest, defaults.get(value.name.value)))
        if otherwise is None and (default := definition.args[name].default_value) is not Undefined:
            otherwise = default if isinstance(default, int) else None
    fallback = ASSUMED if otherwise is None else otherwise
    return {(Size(tuple(variables), fallback, declared.most),): 1} if variables else {(): fallback}


def _has_lists(type_: Any, around: frozenset[Any] = frozenset()) -> bool:
    """Whether values of an input type hold lists."""
    inner = get_nullable_type(type_)
    if not is_input_object_type(inner):
        return is_list_type(inner)
    return inner not in around and any(_has_lists(field.type, around | {inner}) for field in inner.fields.values())


def _inside(value: Any, path: tuple[str, ...]) -> tuple[Any, tuple[str, ...]]:
    """As far into a literal as the path leads, and the rest of the path, which is for a variable's value."""
    while path and isinstance(value, ObjectValueNode):
        value = next((field.value for field in value.fields if field.name.value == path[0]), None)
        path = path[1:]
    return value, path


def _constant(node: Any) -> Any:
    """The default of a variable, as far as a cost may depend on it: numbers and conditions."""
    if isinstance(node, IntValueNode):
        return int(node.value)
    if isinstance(node, ObjectValueNode):
        return {field.name.value: _constant(field.value) for field in node.fields}
    return getattr(node, "value", None)


def _declared(definition: GraphQLField) -> Cost:
    found = definition.extensions.get(COST)
    return found if isinstance(found, Cost) else _PLAIN


_PLAIN = Cost()


def _plus(weight: float, total: Sum) -> Sum:
    return {**total, (): total.get((), 0) + weight}


def _times(some: Sum, others: Sum) -> Sum:
    found: defaultdict[tuple[Factor, ...], float] = defaultdict(float)
    for factors, weight in some.items():
        for more, times in others.items():
            found[factors + more] += weight * times
    return found


# ------------------------------------------------------------------------------------------- introspection


@lru_cache(10)
def _introspection(schema: GraphQLSchema) -> Mapping[str, float]:
    """How many items the lists of introspection have: as many as this schema's have on average."""
    types = schema.type_map.values()
    fields = [field for type_ in types for field in getattr(type_, "fields", {}).values()]
    arguments = [one for field in fields for one in getattr(field, "args", {})]

    def average(name: str) -> float:
        return sum(len(getattr(type_, name, ())) for type_ in types) / len(types)

    return {
        "__Schema.types": len(types),
        "__Schema.directives": len(schema.directives),
        "__Type.fields": average("fields"),
        "__Type.inputFields": average("fields"),
        "__Type.enumValues": average("values"),
        "__Type.interfaces": average("interfaces"),
        "__Type.possibleTypes": average("types"),
        "__Field.args": len(arguments) / len(fields),
        "__Directive.args": 1,
    }
