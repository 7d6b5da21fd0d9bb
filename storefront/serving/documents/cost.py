"""Static cost analysis: the cost of an operation's fields and input items, multiplied by the sizes of the lists around them.

The cost is known before execution. Fields declare theirs in `extensions`; any other field costs one. The costs of a document are
computed once, as sums of products; for each request only the list sizes in its variables are filled in.
"""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
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
    VariableNode,
    get_nullable_type,
    is_input_object_type,
    is_list_type,
    type_from_ast,
)

from storefront.execution.document_nodes import get_operation_name
from storefront.serving.documents.field_merging import (
    FieldCollector,
    FieldOccurrence,
    SelectionLevel,
    get_child_level,
    get_level_key,
)
from storefront.serving.documents.input_limits import count_items, count_literal_items, descend_literal
from storefront.serving.documents.introspection_cost import OF_TYPE_FIELD, compute_introspection_sizes

# The key of a field's `extensions` with its FieldCost.
COST_EXTENSION_KEY = "cost"

# The size of a list without a declared size or a size argument.
DEFAULT_LIST_SIZE = 10

# The cost of a mutation field besides its selection: a transaction, and an entry in a log.
MUTATION_FIELD_COST = 50


@dataclass(frozen=True, slots=True)
class FieldCost:
    """The cost of a field each time that it is resolved (`weight`), and the size of its list.

    `size_arguments`: the arguments with the size, of which the first given one counts: a number, or a list of that length;
    "input.limit" is a field of an input. `default_size`: the size if none is given; usually the argument's own default.
    `max_size`: the field itself rejects more. If the field is not a list, these apply to the lists directly below it, such as
    the nodes of a connection.
    """

    weight: float = 1
    default_size: float | None = None
    size_arguments: tuple[str, ...] = ("first", "last")
    max_size: int = 100


@dataclass(frozen=True, slots=True)
class DeclaredSize:
    """The size of a field's list, or of the lists below it: the first given one of `arguments`, otherwise `assumed_size`."""

    arguments: tuple[str, ...]
    assumed_size: float


@dataclass(frozen=True, slots=True)
class ListSizeFactor:
    """The size of a list that depends on variables, each with a path inside its value and a default: the first that is given."""

    variables: tuple[tuple[str, tuple[str, ...], Any], ...]
    fallback: float
    max_size: int

    def evaluate(self, variable_values: Mapping[str, Any]) -> float:
        """The size for these variables. Values of the wrong type are ignored here: coercion rejects them."""
        for name, path, default in self.variables:
            value: Any = default
            if name in variable_values:
                value = variable_values[name]
                for key in path:
                    value = value.get(key) if isinstance(value, dict) else None
            if isinstance(value, int | list):
                return max(0, min(len(value) if isinstance(value, list) else value, self.max_size))
        return self.fallback


@dataclass(frozen=True, slots=True)
class ConditionFactor:
    """A @skip or @include condition: 1 if the selection is included, otherwise 0."""

    name: str
    expected: bool
    default: Any

    def evaluate(self, variable_values: Mapping[str, Any]) -> float:
        """1 or 0 for these variables."""
        return variable_values.get(self.name, self.default) is self.expected


@dataclass(frozen=True, slots=True)
class InputItemsFactor:
    """The number of list items in a variable's value, at all levels: each costs as much as a field."""

    name: str
    fallback: int

    def evaluate(self, variable_values: Mapping[str, Any]) -> float:
        """The number of items for these variables."""
        return count_items(variable_values[self.name]) if self.name in variable_values else self.fallback


Factor = ListSizeFactor | ConditionFactor | InputItemsFactor
# A sum of products: the total weight of the fields that are multiplied by the same factors.
CostSum = Mapping[tuple[Factor, ...], float]


class DocumentCosts:
    """The costs of a document's operations, by operation name."""

    def __init__(self, schema: GraphQLSchema, document: DocumentNode) -> None:
        self._sums: dict[str | None, CostSum] = {}
        self._factors: dict[str | None, set[Factor]] = {}
        self._constant_costs: dict[str | None, int] = {}
        for definition in document.definitions:
            if isinstance(definition, OperationDefinitionNode):
                self._add_operation(
                    get_operation_name(definition),
                    _OperationCostBuilder(schema, document, definition).build_sum(),
                )

    def _add_operation(self, name: str | None, terms: CostSum) -> None:
        self._sums[name], self._factors[name] = terms, {factor for factors in terms for factor in factors}
        if not any(terms):
            self._constant_costs[name] = round(sum(terms.values()))

    def estimate(self, operation: OperationDefinitionNode, variable_values: Mapping[str, Any]) -> int:
        """The maximum cost of the operation with these variables."""
        name = get_operation_name(operation)
        constant_cost = self._constant_costs.get(name)
        if constant_cost is not None:
            return constant_cost
        # Each factor is evaluated once: a variable's value may be large and used by many fields.
        factor_values = {factor: factor.evaluate(variable_values) for factor in self._factors[name]}
        return round(
            sum(weight * prod(factor_values[factor] for factor in factors) for factors, weight in self._sums[name].items())
        )


class _OperationCostBuilder:
    """Builds the cost sum of one operation of a valid document."""

    def __init__(self, schema: GraphQLSchema, document: DocumentNode, operation: OperationDefinitionNode) -> None:
        self._merged = FieldCollector(schema, document)
        self._introspection_sizes = compute_introspection_sizes(schema)
        self._is_mutation = operation.operation is OperationType.MUTATION
        self._root_level: SelectionLevel = [(schema.get_root_type(operation.operation), operation.selection_set)]
        definitions = operation.variable_definitions or ()
        self._defaults = {definition.variable.name.value: _read_literal(definition.default_value) for definition in definitions}
        self._default_item_counts = {
            definition.variable.name.value: count_literal_items(definition.default_value)[0] for definition in definitions
        }
        # Variables whose types have no lists cost nothing.
        self._list_variables = {
            definition.variable.name.value for definition in definitions if _has_lists(type_from_ast(schema, definition.type))
        }
        self._level_sums: dict[Hashable, CostSum] = {}

    def build_sum(self) -> CostSum:
        """The cost of the operation."""
        total = self._sum_level(self._root_level, None)
        return (
            _add_weight(MUTATION_FIELD_COST * len(self._merged.collect_fields(self._root_level)), total)
            if self._is_mutation
            else total
        )

    def _sum_level(self, level: SelectionLevel, inherited_size: CostSum | None) -> CostSum:
        key = get_level_key(level), None if inherited_size is None else frozenset(inherited_size.items())
        level_sum = self._level_sums.get(key)
        if level_sum is None:
            total: defaultdict[tuple[Factor, ...], float] = defaultdict(float)
            for group in self._merged.collect_fields(level).values():
                for factors, weight in self._sum_field(group, inherited_size).items():
                    total[factors] += weight
            level_sum = self._level_sums[key] = total
        return level_sum

    def _sum_field(self, group: Sequence[FieldOccurrence], inherited_size: CostSum | None) -> CostSum:
        definition = group[0].definition
        if definition is None:
            return {(): 1}
        cost, size, level = get_field_cost(definition), self._compute_list_size(group[0], inherited_size), get_child_level(group)
        total: CostSum = {(): cost.weight}
        is_wrapped_type = definition is OF_TYPE_FIELD
        if level and (is_wrapped_type or is_list_type(get_nullable_type(definition.type))):
            total = _add_weight(cost.weight, _multiply_sums(size or {(): DEFAULT_LIST_SIZE}, self._sum_level(level, None)))
        elif level:
            total = _add_weight(cost.weight, self._sum_level(level, size))
        if arguments := group[0].node.arguments:
            total = self._add_input_items(total, arguments)
        conditions = {selected.conditions for selected in group}
        # A field that is selected under several conditions counts as unconditional, because any of them includes it.
        condition_factors = (
            [ConditionFactor(name, expected, self._defaults.get(name)) for name, expected in sorted(*conditions)]
            if len(conditions) == 1
            else []
        )
        return _multiply_sums({tuple(condition_factors): 1}, total)

    def _add_input_items(self, total: CostSum, arguments: Sequence[ArgumentNode]) -> CostSum:
        total_with_inputs = defaultdict(float, total)
        for argument in arguments:
            item_count, variable_names = count_literal_items(argument.value)
            total_with_inputs[()] += item_count
            for name in variable_names:
                if name in self._list_variables:
                    total_with_inputs[InputItemsFactor(name, self._default_item_counts[name]),] += 1
        return total_with_inputs

    def _compute_list_size(self, selected: FieldOccurrence, inherited_size: CostSum | None) -> CostSum | None:
        """The size of the field's list, or of the lists directly below it; None if nothing declares it."""
        definition, name = selected.definition, selected.node.name.value
        assert definition is not None  # noqa: S101 - called for known fields only
        declared = get_declared_size(definition)
        if declared:
            arguments = {argument.name.value: argument for argument in selected.node.arguments or ()}
            return _compute_argument_size(declared, get_field_cost(definition).max_size, arguments, self._defaults)
        introspection_size = (
            self._introspection_sizes.get(f"{selected.parent_type.name}.{name}") if selected.parent_type else None
        )
        if introspection_size is not None:
            return {(): introspection_size}
        return inherited_size


def get_field_cost(definition: GraphQLField) -> FieldCost:
    """The cost that a field declares, or that of all other fields."""
    declared_cost = definition.extensions.get(COST_EXTENSION_KEY)
    return declared_cost if isinstance(declared_cost, FieldCost) else _DEFAULT_FIELD_COST


def get_declared_size(definition: GraphQLField) -> DeclaredSize | None:
    """How a field determines the size of its list, or of the lists below it; None if it does not."""
    cost = get_field_cost(definition)
    arguments = tuple(path for path in cost.size_arguments if path.partition(".")[0] in definition.args)
    if cost.default_size is not None:
        return DeclaredSize(arguments, cost.default_size)
    if not arguments:
        return None
    defaults = [definition.args[path].default_value for path in arguments if "." not in path]
    return DeclaredSize(arguments, next((default for default in defaults if isinstance(default, int)), DEFAULT_LIST_SIZE))


def _compute_argument_size(
    declared: DeclaredSize, max_size: int, arguments: Mapping[str, ArgumentNode], defaults: Mapping[str, Any]
) -> CostSum:
    variables: list[tuple[str, tuple[str, ...], Any]] = []
    fallback = declared.assumed_size
    for path in declared.arguments:
        name, *input_path = path.split(".")
        value, remaining_path = descend_literal(arguments[name].value if name in arguments else None, tuple(input_path))
        if isinstance(value, IntValueNode | ListValueNode):
            literal_size = len(value.values) if isinstance(value, ListValueNode) else int(value.value)
            fallback = max(0, min(literal_size, max_size))
            break
        if isinstance(value, VariableNode):
            default = defaults.get(value.name.value)
            for key in remaining_path:
                default = default.get(key) if isinstance(default, dict) else None
            variables.append((value.name.value, remaining_path, default))
    return {(ListSizeFactor(tuple(variables), fallback, max_size),): 1} if variables else {(): fallback}


def _has_lists(type_: Any, ancestors: frozenset[Any] = frozenset()) -> bool:
    """Whether values of an input type can contain lists."""
    nullable_type = get_nullable_type(type_)
    if not is_input_object_type(nullable_type):
        return is_list_type(nullable_type)
    return nullable_type not in ancestors and any(
        _has_lists(field.type, ancestors | {nullable_type}) for field in nullable_type.fields.values()
    )


def _read_literal(node: Any) -> Any:
    """The default value of a variable, as far as a cost depends on it: numbers, booleans, and the lengths of lists."""
    if isinstance(node, IntValueNode):
        return int(node.value)
    if isinstance(node, ListValueNode):
        return len(node.values)
    if isinstance(node, ObjectValueNode):
        return {field.name.value: _read_literal(field.value) for field in node.fields}
    return getattr(node, "value", None)


_DEFAULT_FIELD_COST = FieldCost()


def _add_weight(weight: float, total: CostSum) -> CostSum:
    return {**total, (): total.get((), 0) + weight}


def _multiply_sums(left: CostSum, right: CostSum) -> CostSum:
    product: defaultdict[tuple[Factor, ...], float] = defaultdict(float)
    for factors, weight in left.items():
        for other_factors, other_weight in right.items():
            product[factors + other_factors] += weight * other_weight
    return product
