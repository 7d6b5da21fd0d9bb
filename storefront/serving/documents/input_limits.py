"""Input limits: the number of items in lists and of characters in strings. Checked once per request, before execution.

Arguments and input fields declare their limits in `extensions`. A document's literals are checked when it is prepared. The
positions of its variables are found then, and the values of each request are checked at those: once for each variable and
position, however many fields use it.

The items of all inputs of an operation are counted as well, as often as a field takes them: each field reads its arguments anew.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLBoolean,
    GraphQLError,
    GraphQLFloat,
    GraphQLID,
    GraphQLInt,
    GraphQLSchema,
    GraphQLString,
    IntValueNode,
    ListValueNode,
    ObjectValueNode,
    OperationDefinitionNode,
    SelectionSetNode,
    StringValueNode,
    VariableNode,
    get_named_type,
    get_nullable_type,
    is_input_object_type,
    is_list_type,
    is_scalar_type,
)

from storefront.core.errors import InputTooLarge, InvalidInput
from storefront.execution.document_nodes import find_variable_names, get_operation_name

# The key of an argument's or input field's `extensions` with its InputLimit.
LIMIT_EXTENSION_KEY = "limit"

# Characters of a string without a declared limit. Lookup keys are short. What mutations store is validated by rules that report
# all problems at once; here only the work until then is bounded.
MAX_CHARACTERS = 200
MAX_MUTATION_CHARACTERS = 100_000


@dataclass(frozen=True, slots=True)
class InputLimit:
    """The limits of an input: items of a list, and characters of each string in it.

    `check`: a further check of a string or an integer, called with the path of the input and the value; raises InvalidInput.
    `item_weight`: how many items each item of the list counts as. `description`: how the schema describes the check.
    `allows_nul`: whether strings may contain the character NUL, which Postgres does not store; set where other rules report it.
    `item_count`: how many list items the input itself counts as.
    """

    items: int | None = None
    characters: int | None = None
    check: Callable[[str, Any], None] | None = None
    description: str = ""
    allows_nul: bool = False
    item_count: int = 0
    item_weight: int = 1


NO_LIMIT = InputLimit()
_LOOKUP_DEFAULT_LIMIT = InputLimit(characters=MAX_CHARACTERS)
_MUTATION_DEFAULT_LIMIT = InputLimit(characters=MAX_MUTATION_CHARACTERS, allows_nul=True)

InputPath = tuple[str | int, ...]


class ItemSource(NamedTuple):
    """The lists of a variable that count: all of them, at all levels; with a `weight` the one at a path inside the value."""

    variable: str
    path: tuple[str, ...] = ()
    weight: int | None = None

    def count_items(self, value: Any) -> int:
        """The number of items in the variable's value."""
        if self.weight is None:
            return count_items(value)
        for name in self.path:
            value = value.get(name) if type(value) is dict else None
        return self.weight * len(value) if type(value) is list else 0

    def count_literal_items(self, node: Any) -> int:
        """The number of items in the variable's default value."""
        if self.weight is None:
            return count_literal_items(node)[0]
        literal, _ = descend_literal(node, self.path)
        return self.weight * len(literal.values) if isinstance(literal, ListValueNode) else 0


# How many fields take the lists of a variable; under None the items that do not depend on variables.
ItemCounts = Mapping[ItemSource | None, int]
# Checks a value. Raises InputTooLarge and InvalidInput.
InputCheck = Callable[[InputPath, Any], None]


class VariablePosition(NamedTuple):
    """A use of a variable: its name, the path of the input, and the type and limit of the input there."""

    variable: str
    path: InputPath
    type: Any
    limit: InputLimit


class InputLimits:
    """The input limits of a valid document. Raises GraphQLError if a literal exceeds one."""

    def __init__(self, schema: GraphQLSchema, document: DocumentNode) -> None:
        fragments: dict[str, _DefinitionInputs] = {}
        operations: list[tuple[OperationDefinitionNode, _DefinitionInputs]] = []
        for definition in document.definitions:
            if isinstance(definition, FragmentDefinitionNode):
                parent_type = schema.get_type(definition.type_condition.name.value)
                fragments[definition.name.value] = _DefinitionInputs(schema, parent_type, definition.selection_set)
            elif isinstance(definition, OperationDefinitionNode):
                operations.append(
                    (definition, _DefinitionInputs(schema, schema.get_root_type(definition.operation), definition.selection_set))
                )
        self._checks: dict[str | None, list[tuple[str, InputPath, InputCheck]]] = {}
        self._item_counts: dict[str | None, ItemCounts] = {}
        self._default_item_counts: dict[str | None, Mapping[ItemSource, int]] = {}
        item_counter = _ItemCounter(fragments)
        for node, definition_inputs in operations:
            positions = _collect_positions(definition_inputs, fragments)
            _check_defaults(node, positions)
            checks = ((position.variable, position.path, make_check(position.type, position.limit)) for position in positions)
            name = get_operation_name(node)
            self._checks[name] = [(variable, path, check) for variable, path, check in checks if check]
            self._item_counts[name] = item_counter.count_all(definition_inputs)
            defaults = {variable.variable.name.value: variable.default_value for variable in node.variable_definitions or ()}
            self._default_item_counts[name] = {
                source: source.count_literal_items(defaults[source.variable]) for source in self._item_counts[name] if source
            }

    def check_variables(self, operation: OperationDefinitionNode, values: Mapping[str, Any]) -> None:
        """Check the values of the operation's variables. Raises InputTooLarge and InvalidInput."""
        for variable, path, check in self._checks[get_operation_name(operation)]:
            if variable in values:
                check(path, values[variable])

    def count_items(self, operation: OperationDefinitionNode, values: Mapping[str, Any]) -> int:
        """The number of items in all inputs of the operation with these variables, as often as a field takes them."""
        name = get_operation_name(operation)
        default_counts = self._default_item_counts[name]
        return sum(
            uses
            * (
                1
                if source is None
                else source.count_items(values[source.variable])
                if source.variable in values
                else default_counts[source]
            )
            for source, uses in self._item_counts[name].items()
        )


class _ItemCounter:
    """Adds the items of definitions and of all fragments that they spread, as often as they do."""

    def __init__(self, fragments: Mapping[str, "_DefinitionInputs"]) -> None:
        self._fragments = fragments
        self._counts_by_fragment: dict[str, ItemCounts] = {}

    def count_all(self, inputs: "_DefinitionInputs") -> "ItemCounts":
        """The items of a definition and of the fragments in it."""
        total = Counter(inputs.item_counts)
        for fragment, spread_count in inputs.spreads.items():
            for source, uses in self._count_fragment(fragment).items():
                total[source] += uses * spread_count
        return total

    def _count_fragment(self, name: str) -> "ItemCounts":
        if name not in self._counts_by_fragment:
            self._counts_by_fragment[name] = self.count_all(self._fragments[name])
        return self._counts_by_fragment[name]


def _collect_positions(inputs: "_DefinitionInputs", fragments: Mapping[str, "_DefinitionInputs"]) -> Sequence[VariablePosition]:
    """The positions of variables in a definition and in all fragments that it spreads, without duplicates."""
    positions: dict[tuple[str, InputPath, int, InputLimit], VariablePosition] = {}
    visited_spreads: set[str] = set()
    pending = [inputs]
    while pending:
        current = pending.pop()
        positions |= {
            (position.variable, position.path, id(position.type), position.limit): position for position in current.positions
        }
        pending += [fragments[name] for name in current.spreads.keys() - visited_spreads]
        visited_spreads |= current.spreads.keys()
    return [*positions.values()]


def _check_defaults(operation: OperationDefinitionNode, positions: Sequence[VariablePosition]) -> None:
    defaults = {node.variable.name.value: node.default_value for node in operation.variable_definitions or ()}
    for position in positions:
        if (default := defaults.get(position.variable)) is not None:
            _check_literal(position.path, default, position.type, position.limit, [])


class _DefinitionInputs:
    """The inputs of one definition: the positions of variables in them, their items, and how often it spreads which fragments."""

    def __init__(self, schema: GraphQLSchema, type_: Any, selections: SelectionSetNode) -> None:
        self.positions: list[VariablePosition] = []
        self.item_counts: Counter[ItemSource | None] = Counter()
        self._declared_items: dict[int, tuple[int, Sequence[tuple[tuple[str, ...], int]]]] = {}
        self.spreads: Counter[str] = Counter()
        self._schema = schema
        self._walk_selections(type_, selections)

    def _walk_selections(self, type_: Any, selections: SelectionSetNode) -> None:
        for node in selections.selections:
            if isinstance(node, FragmentSpreadNode):
                self.spreads[node.name.value] += 1
            elif isinstance(node, FieldNode):
                self._check_field(type_, node)
            else:
                condition = node.type_condition  # type: ignore[attr-defined]
                parent_type = type_ if condition is None else self._schema.get_type(condition.name.value)
                self._walk_selections(parent_type, node.selection_set)  # type: ignore[attr-defined]

    def _check_field(self, parent: Any, node: FieldNode) -> None:
        definition = self._schema.get_field(parent, node.name.value)
        assert definition is not None  # noqa: S101 - a valid document selects what the type has
        default = _MUTATION_DEFAULT_LIMIT if parent is self._schema.mutation_type else _LOOKUP_DEFAULT_LIMIT
        for argument in node.arguments or ():
            name = argument.name.value
            argument_definition = definition.args[name]
            _check_literal(
                (name,),
                argument.value,
                argument_definition.type,
                get_declared_limit(argument_definition, default),
                self.positions,
            )
            self._add_items(argument.value, argument_definition)
        if node.selection_set:
            self._walk_selections(get_named_type(definition.type), node.selection_set)

    def _add_items(self, value: Any, definition: Any) -> None:
        item_count, variable_names = count_literal_items(value)
        declared = self._declared_items.get(id(definition))
        if declared is None:
            declared = self._declared_items[id(definition)] = _count_declared_items(definition), _find_weighted_lists(definition)
        declared_count, weighted_lists = declared
        self.item_counts[None] += item_count + declared_count
        self.item_counts.update(ItemSource(name) for name in variable_names)
        for path, weight in weighted_lists:
            literal, remaining_path = descend_literal(value, path)
            if isinstance(literal, VariableNode):
                self.item_counts[ItemSource(literal.name.value, remaining_path, weight - 1)] += 1
            elif isinstance(literal, ListValueNode):
                self.item_counts[None] += (weight - 1) * len(literal.values)


def _find_weighted_lists(definition: Any, ancestors: frozenset[Any] = frozenset()) -> Sequence[tuple[tuple[str, ...], int]]:
    """The paths of the lists in an input whose items have a weight, with that weight. Not those in other lists."""
    declared: InputLimit = definition.extensions.get(LIMIT_EXTENSION_KEY, NO_LIMIT)
    type_: Any = get_nullable_type(definition.type)
    own: list[tuple[tuple[str, ...], int]] = [((), declared.item_weight)] if declared.item_weight > 1 else []
    fields = type_.fields.items() if is_input_object_type(type_) and type_ not in ancestors else ()
    return own + [
        ((name, *path), weight) for name, field in fields for path, weight in _find_weighted_lists(field, ancestors | {type_})
    ]


def descend_literal(value: Any, path: tuple[str, ...]) -> tuple[Any, tuple[str, ...]]:
    """Follow a path into a literal. Returns the value there, or a variable with the rest of the path inside its value."""
    while path and isinstance(value, ObjectValueNode):
        value = next((field.value for field in value.fields if field.name.value == path[0]), None)
        path = path[1:]
    return value, path


def _count_declared_items(definition: Any, ancestors: frozenset[Any] = frozenset()) -> int:
    """How many items an argument or input field itself counts as, with all fields of its type, whatever its value is."""
    type_: Any = get_nullable_type(definition.type)
    fields = type_.fields.values() if is_input_object_type(type_) and type_ not in ancestors else ()
    declared: InputLimit = definition.extensions.get(LIMIT_EXTENSION_KEY, NO_LIMIT)
    return declared.item_count + sum(_count_declared_items(field, ancestors | {type_}) for field in fields)


def get_declared_limit(definition: Any, inherited: InputLimit = NO_LIMIT) -> InputLimit:
    """The limit that an argument or input field declares. If it declares no characters, it inherits them from the outer input."""
    limit: InputLimit = definition.extensions.get(LIMIT_EXTENSION_KEY, NO_LIMIT)
    characters = limit.characters if limit.characters is not None else inherited.characters
    return replace(limit, characters=characters, allows_nul=inherited.allows_nul)


# ------------------------------------------------------------------------------------------------ literals


def _check_literal(path: InputPath, node: Any, type_: Any, limit: InputLimit, positions: list[VariablePosition]) -> None:
    """Check a literal, and add the positions of the variables in it. Raises GraphQLError."""
    nullable_type: Any = get_nullable_type(type_)
    if isinstance(node, VariableNode):
        positions.append(VariablePosition(node.name.value, path, nullable_type, limit))
    elif nullable_type is GraphQLInt:
        _check_literal_value(path, node, limit)
    elif _has_text(nullable_type):
        _check_scalar(path, node, nullable_type, limit, positions)
    elif is_list_type(nullable_type) or isinstance(node, ObjectValueNode):
        for child in _iterate_children(path, node, nullable_type, limit):
            _check_literal(*child, positions)


def _iterate_children(
    path: InputPath, node: Any, type_: Any, limit: InputLimit
) -> Iterator[tuple[InputPath, Any, Any, InputLimit]]:
    if is_list_type(type_):
        items = node.values if isinstance(node, ListValueNode) else (node,)
        _check_size(path, "items", limit.items, len(items), node)
        yield from (((*path, n), item, type_.of_type, limit) for n, item in enumerate(items))
    else:
        for field in node.fields:
            name, field_definition = field.name.value, type_.fields[field.name.value]
            yield (*path, name), field.value, field_definition.type, get_declared_limit(field_definition, limit)


def _check_scalar(path: InputPath, node: Any, type_: Any, limit: InputLimit, positions: list[VariablePosition]) -> None:
    # The size of a list or object literal, for a scalar that accepts it, is the length of its source text.
    is_compound = isinstance(node, ListValueNode | ObjectValueNode)
    size = node.loc.end - node.loc.start if is_compound else len(getattr(node, "value", None) or "")
    _check_size(path, "characters", limit.characters, size, node)
    _check_literal_value(path, node, _get_text_limit(type_, limit))
    positions += (VariablePosition(name, path, type_, limit) for name in find_variable_names(node))


def _check_literal_value(path: InputPath, node: Any, limit: InputLimit) -> None:
    try:
        if isinstance(node, StringValueNode):
            _check_value(limit, path, node.value)
        elif isinstance(node, IntValueNode) and limit.check:
            limit.check(format_path(path), int(node.value))
    except InvalidInput as error:
        raise GraphQLError(str(error), node, original_error=error) from None


def _get_text_limit(type_: Any, limit: InputLimit) -> InputLimit:
    # Custom scalars report NUL themselves.
    return limit if type_ in (GraphQLString, GraphQLID) else replace(limit, allows_nul=True)


def _has_text(type_: Any) -> bool:
    return is_scalar_type(type_) and type_ not in (GraphQLInt, GraphQLFloat, GraphQLBoolean)


def _check_size(path: InputPath, unit: str, maximum: int | None, actual: int, node: Any) -> None:
    if maximum is not None and actual > maximum:
        error = InputTooLarge(format_path(path), unit, maximum, actual)
        raise GraphQLError(str(error), node, original_error=error)


def format_path(path: InputPath) -> str:
    """The path of an input as error messages show it: its steps with dots between them."""
    return ".".join(map(str, path))


# ------------------------------------------------------------------------------------------------- values


def make_check(type_: Any, limit: InputLimit) -> InputCheck | None:
    """The check of a variable's value at a position of a type; None if there is nothing to check."""
    nullable_type: Any = get_nullable_type(type_)
    if is_list_type(nullable_type):
        item_check = make_check(nullable_type.of_type, limit)
        return None if item_check is None and limit.items is None else partial(_check_list, item_check, limit.items)
    if is_input_object_type(nullable_type):
        # Its field checks are built on first use, because input types may be recursive.
        return _InputObjectCheck(nullable_type, limit)
    if nullable_type is GraphQLInt:
        return partial(_check_int, limit.check) if limit.check else None
    return partial(_check_text, _get_text_limit(nullable_type, limit)) if _has_text(nullable_type) else None


def _check_int(check: Callable[[str, Any], None], path: InputPath, value: Any) -> None:
    # Coercion rejects values that are not an Int.
    if type(value) is int and -(2**31) <= value < 2**31:
        check(format_path(path), value)


def _check_list(check: InputCheck | None, max_items: int | None, path: InputPath, value: Any) -> None:
    if type(value) is not list:
        # Input coercion wraps a single value in a list.
        if check:
            check(path, value)
        return
    if max_items is not None and len(value) > max_items:
        raise InputTooLarge(format_path(path), "items", max_items, len(value))
    if check:
        for n, item in enumerate(value):
            check((*path, n), item)


class _InputObjectCheck:
    """Checks the fields of an input object."""

    def __init__(self, type_: Any, limit: InputLimit) -> None:
        self._type, self._limit = type_, limit
        self._checks: dict[str, InputCheck] | None = None

    def __call__(self, path: InputPath, value: Any) -> None:
        if type(value) is not dict:
            return
        if len(value) > len(self._type.fields):
            # Some fields are unknown. Coercion would report each of them, with suggestions, which takes long for thousands.
            raise InputTooLarge(format_path(path), "fields", len(self._type.fields), len(value))
        if self._checks is None:
            checks = {
                name: make_check(field.type, get_declared_limit(field, self._limit)) for name, field in self._type.fields.items()
            }
            self._checks = {name: check for name, check in checks.items() if check}
        for name, field_value in value.items():
            if (check := self._checks.get(name)) is not None:
                check((*path, name), field_value)


def _check_text(limit: InputLimit, path: InputPath, value: Any) -> None:
    max_characters = limit.characters
    if type(value) is str:
        if max_characters is not None and len(value) > max_characters:
            raise InputTooLarge(format_path(path), "characters", max_characters, len(value))
        _check_value(limit, path, value)
    elif max_characters is not None and type(value) in _CONTAINER_TYPES and not _is_within_characters(value, max_characters):
        raise InputTooLarge(format_path(path), "characters", max_characters, None)


def _check_value(limit: InputLimit, path: InputPath, text: str) -> None:
    if "\0" in text and not limit.allows_nul:
        raise InvalidInput(format_path(path), "must not contain the character NUL.")
    if limit.check:
        limit.check(format_path(path), text)


_CONTAINER_TYPES = {list, dict}


def _is_within_characters(value: Any, remaining: int) -> bool:
    """Whether a JSON value has at most so many characters: those of names and strings, and one per value. Stops beyond that."""
    pending = [value]
    while pending and remaining >= 0:
        current = pending.pop()
        if type(current) is str:
            remaining -= len(current)
        elif type(current) is list:
            remaining -= len(current)
            pending += current
        elif type(current) is dict:
            remaining -= len(current) + sum(map(len, current))
            pending += current.values()
    return remaining >= 0


def count_items(value: Any) -> int:
    """The number of items of all lists in a value, at all levels."""
    count, pending = 0, [value]
    while pending:
        current = pending.pop()
        if type(current) is list:
            count += len(current)
            pending += [item for item in current if type(item) in _CONTAINER_TYPES]
        elif type(current) is dict:
            pending += [item for item in current.values() if type(item) in _CONTAINER_TYPES]
    return count


def count_literal_items(node: Any) -> tuple[int, Sequence[str]]:
    """The number of items of all lists in a literal, and the names of the variables in it."""
    count, variable_names, pending = 0, list[str](), [node]
    while pending:
        current = pending.pop()
        if isinstance(current, VariableNode):
            variable_names.append(current.name.value)
        elif isinstance(current, ListValueNode):
            count += len(current.values)
            pending += current.values
        elif isinstance(current, ObjectValueNode):
            pending += [field.value for field in current.fields]
    return count, variable_names
