"""How much the inputs of a request may hold: items of a list, characters of text. Checked once, before anything is executed.

Arguments and input fields declare their limits in `extensions`. A document's literals are checked when it is prepared. The
positions of its variables are found then, and the values of each request are checked at those: once for each variable and
position, however many fields use it.
"""

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
    get_nullable_type,
    is_input_object_type,
    is_list_type,
    is_scalar_type,
)

from storefront.core.errors import InputTooLarge, InvalidInput
from storefront.execution.resolve_info import variables

# The name under which an argument or an input field declares its limit.
LIMIT = "limit"

# Characters of a text that declares no limit. What is looked up by is short. What mutations store is checked by rules that
# report all faults at once: here only the work until then is bounded.
MAX_CHARACTERS = 200
MAX_MUTATION_CHARACTERS = 100_000


@dataclass(frozen=True, slots=True)
class InputLimit:
    """The most that an input may hold: items, where it is a list, and characters of each text in it.

    `check`: what else a text or an integer must be, called with the path of the input and the value; raises InvalidInput.
    `description`: what the schema says of that. `allows_nul`: whether texts may hold the character NUL, which Postgres does not
    store: where rules of their own report it.
    """

    items: int | None = None
    characters: int | None = None
    check: Callable[[str, Any], None] | None = None
    description: str = ""
    allows_nul: bool = False


UNDECLARED = InputLimit()
_LOOKED_UP = InputLimit(characters=MAX_CHARACTERS)
_STORED = InputLimit(characters=MAX_MUTATION_CHARACTERS, allows_nul=True)

Path = tuple[str | int, ...]
# Checks a value; raises InputTooLarge.
Check = Callable[[Path, Any], None]


class Position(NamedTuple):
    """Where a variable is used: its name, the path of the input, and what the schema says of it there."""

    variable: str
    path: Path
    type: Any
    limit: InputLimit


class InputLimits:
    """The limits on the inputs of a valid document. Raises GraphQLError where a literal is beyond one."""

    def __init__(self, schema: GraphQLSchema, document: DocumentNode) -> None:
        fragments: dict[str, _Inputs] = {}
        operations: list[tuple[OperationDefinitionNode, _Inputs]] = []
        for one in document.definitions:
            if isinstance(one, FragmentDefinitionNode):
                on = schema.get_type(one.type_condition.name.value)
                fragments[one.name.value] = _Inputs(schema, on, one.selection_set)
            elif isinstance(one, OperationDefinitionNode):
                operations.append((one, _Inputs(schema, schema.get_root_type(one.operation), one.selection_set)))
        self._checks: dict[str | None, list[tuple[str, Path, Check]]] = {}
        for node, inputs in operations:
            positions = _reached(inputs, fragments)
            _check_defaults(node, positions)
            checks = ((p.variable, p.path, check_of(p.type, p.limit)) for p in positions)
            self._checks[_name(node)] = [(variable, path, check) for variable, path, check in checks if check]

    def check(self, operation: OperationDefinitionNode, given: Mapping[str, Any]) -> None:
        """Check the values of the operation's variables; raises InputTooLarge."""
        for variable, path, check in self._checks[_name(operation)]:
            if variable in given:
                check(path, given[variable])


def _name(operation: OperationDefinitionNode) -> str | None:
    return operation.name.value if operation.name else None


def _reached(inputs: "_Inputs", fragments: Mapping[str, "_Inputs"]) -> Sequence[Position]:
    """The positions of variables in a definition and in all fragments that it spreads, each once."""
    found: dict[tuple[str, Path, int, InputLimit], Position] = {}
    seen: set[str] = set()
    left = [inputs]
    while left:
        one = left.pop()
        found |= {(p.variable, p.path, id(p.type), p.limit): p for p in one.positions}
        left += [fragments[name] for name in one.spreads - seen]
        seen |= one.spreads
    return [*found.values()]


def _check_defaults(operation: OperationDefinitionNode, positions: Sequence[Position]) -> None:
    defaults = {node.variable.name.value: node.default_value for node in operation.variable_definitions or ()}
    for position in positions:
        if (default := defaults.get(position.variable)) is not None:
            _check_literal(position.path, default, position.type, position.limit, [])


class _Inputs:
    """The inputs of one definition: the positions of variables in them, and the fragments that it spreads."""

    def __init__(self, schema: GraphQLSchema, type_: Any, selections: SelectionSetNode) -> None:
        self.positions: list[Position] = []
        self.spreads: set[str] = set()
        self._schema = schema
        self._select(type_, selections)

    def _select(self, type_: Any, selections: SelectionSetNode) -> None:
        for node in selections.selections:
            if isinstance(node, FragmentSpreadNode):
                self.spreads.add(node.name.value)
            elif isinstance(node, FieldNode):
                self._field(type_, node)
            else:
                condition = node.type_condition  # type: ignore[attr-defined]
                on = type_ if condition is None else self._schema.get_type(condition.name.value)
                self._select(on, node.selection_set)  # type: ignore[attr-defined]

    def _field(self, parent: Any, node: FieldNode) -> None:
        definition = self._schema.get_field(parent, node.name.value)
        assert definition is not None  # noqa: S101 - a valid document selects what the type has
        default = _STORED if parent is self._schema.mutation_type else _LOOKED_UP
        for argument in node.arguments or ():
            name = argument.name.value
            one = definition.args[name]
            _check_literal((name,), argument.value, one.type, declared(one, default), self.positions)
        if node.selection_set:
            inner = definition.type
            while hasattr(inner, "of_type"):
                inner = inner.of_type
            self._select(inner, node.selection_set)


def declared(definition: Any, inherited: InputLimit = UNDECLARED) -> InputLimit:
    """What an argument or an input field declares; for characters it does not, those of the input around it."""
    limit: InputLimit = definition.extensions.get(LIMIT, UNDECLARED)
    characters = limit.characters if limit.characters is not None else inherited.characters
    return replace(limit, characters=characters, allows_nul=inherited.allows_nul)


# ------------------------------------------------------------------------------------------------ literals


def _check_literal(path: Path, node: Any, type_: Any, limit: InputLimit, positions: list[Position]) -> None:
    """Check a literal, and add the positions of the variables in it; raises GraphQLError."""
    inner: Any = get_nullable_type(type_)
    if isinstance(node, VariableNode):
        positions.append(Position(node.name.value, path, inner, limit))
    elif inner is GraphQLInt:
        _check_literal_value(path, node, limit)
    elif _has_text(inner):
        _check_scalar(path, node, inner, limit, positions)
    elif is_list_type(inner) or isinstance(node, ObjectValueNode):
        for part in _parts(path, node, inner, limit):
            _check_literal(*part, positions)


def _parts(path: Path, node: Any, type_: Any, limit: InputLimit) -> Iterator[tuple[Path, Any, Any, InputLimit]]:
    if is_list_type(type_):
        items = node.values if isinstance(node, ListValueNode) else (node,)
        _check_size(path, "items", limit.items, len(items), node)
        yield from (((*path, n), item, type_.of_type, limit) for n, item in enumerate(items))
    else:
        for field in node.fields:
            name, one = field.name.value, type_.fields[field.name.value]
            yield (*path, name), field.value, one.type, declared(one, limit)


def _check_scalar(path: Path, node: Any, type_: Any, limit: InputLimit, positions: list[Position]) -> None:
    # A literal with parts, of a scalar that takes them, is as large as its text.
    has_parts = isinstance(node, ListValueNode | ObjectValueNode)
    size = node.loc.end - node.loc.start if has_parts else len(getattr(node, "value", None) or "")
    _check_size(path, "characters", limit.characters, size, node)
    _check_literal_value(path, node, _text_limit(type_, limit))
    positions += (Position(name, path, type_, limit) for name in variables(node))


def _check_literal_value(path: Path, node: Any, limit: InputLimit) -> None:
    try:
        if isinstance(node, StringValueNode):
            _check_value(limit, path, node.value)
        elif isinstance(node, IntValueNode) and limit.check:
            limit.check(_shown(path), int(node.value))
    except InvalidInput as error:
        raise GraphQLError(str(error), node, original_error=error) from None


def _text_limit(type_: Any, limit: InputLimit) -> InputLimit:
    # Scalars of our own say themselves what they take.
    return limit if type_ in (GraphQLString, GraphQLID) else replace(limit, allows_nul=True)


def _has_text(type_: Any) -> bool:
    return is_scalar_type(type_) and type_ not in (GraphQLInt, GraphQLFloat, GraphQLBoolean)


def _check_size(path: Path, unit: str, most: int | None, found: int, node: Any) -> None:
    if most is not None and found > most:
        error = InputTooLarge(_shown(path), unit, most, found)
        raise GraphQLError(str(error), node, original_error=error)


def _shown(path: Path) -> str:
    return ".".join(map(str, path))


# ------------------------------------------------------------------------------------------------- values


def check_of(type_: Any, limit: InputLimit) -> Check | None:
    """The check of a variable's value where the schema wants a type; None where there is nothing to check."""
    inner: Any = get_nullable_type(type_)
    if is_list_type(inner):
        item = check_of(inner.of_type, limit)
        return None if item is None and limit.items is None else partial(_check_list, item, limit.items)
    if is_input_object_type(inner):
        # Looked at when it is needed: input types may hold each other.
        return _CheckObject(inner, limit)
    if inner is GraphQLInt:
        return partial(_check_int, limit.check) if limit.check else None
    return partial(_check_text, _text_limit(inner, limit)) if _has_text(inner) else None


def _check_int(check: Callable[[str, Any], None], path: Path, value: Any) -> None:
    # What is no Int is told so when it is coerced.
    if type(value) is int and -(2**31) <= value < 2**31:
        check(_shown(path), value)


def _check_list(check: Check | None, most: int | None, path: Path, value: Any) -> None:
    if type(value) is not list:
        # A value stands for a list of itself.
        if check:
            check(path, value)
        return
    if most is not None and len(value) > most:
        raise InputTooLarge(_shown(path), "items", most, len(value))
    if check:
        for n, item in enumerate(value):
            check((*path, n), item)


class _CheckObject:
    """The check of an input object: of the fields that it has."""

    def __init__(self, type_: Any, limit: InputLimit) -> None:
        self._type, self._limit = type_, limit
        self._checks: dict[str, Check] | None = None

    def __call__(self, path: Path, value: Any) -> None:
        if type(value) is not dict:
            return
        if len(value) > len(self._type.fields):
            # Some are unknown. To say which of thousands, and what they may have meant, takes long.
            raise InputTooLarge(_shown(path), "fields", len(self._type.fields), len(value))
        if self._checks is None:
            checks = {name: check_of(one.type, declared(one, self._limit)) for name, one in self._type.fields.items()}
            self._checks = {name: check for name, check in checks.items() if check}
        for name, inner in value.items():
            if (check := self._checks.get(name)) is not None:
                check((*path, name), inner)


def _check_text(limit: InputLimit, path: Path, value: Any) -> None:
    most = limit.characters
    if type(value) is str:
        if most is not None and len(value) > most:
            raise InputTooLarge(_shown(path), "characters", most, len(value))
        _check_value(limit, path, value)
    elif most is not None and type(value) in _PARTS and not _is_within(value, most):
        raise InputTooLarge(_shown(path), "characters", most, None)


def _check_value(limit: InputLimit, path: Path, text: str) -> None:
    if "\0" in text and not limit.allows_nul:
        raise InvalidInput(_shown(path), "must not contain the character NUL.")
    if limit.check:
        limit.check(_shown(path), text)


_PARTS = {list, dict}


def _is_within(value: Any, most: int) -> bool:
    """Whether a value has at most so many characters: its names and texts, and one for each value. Counts no further."""
    left = [value]
    while left and most >= 0:
        one = left.pop()
        if type(one) is str:
            most -= len(one)
        elif type(one) is list:
            most -= len(one)
            left += one
        elif type(one) is dict:
            most -= len(one) + sum(map(len, one))
            left += one.values()
    return most >= 0


def items_in(value: Any) -> int:
    """How many items all lists in a value have together."""
    found, left = 0, [value]
    while left:
        one = left.pop()
        if type(one) is list:
            found += len(one)
            left += [item for item in one if type(item) in _PARTS]
        elif type(one) is dict:
            left += [item for item in one.values() if type(item) in _PARTS]
    return found


def items_in_literal(node: Any) -> tuple[int, Sequence[str]]:
    """The same of a literal, and the names of the variables in it."""
    found, names, left = 0, list[str](), [node]
    while left:
        one = left.pop()
        if isinstance(one, VariableNode):
            names.append(one.name.value)
        elif isinstance(one, ListValueNode):
            found += len(one.values)
            left += one.values
        elif isinstance(one, ObjectValueNode):
            left += [field.value for field in one.fields]
    return found, names
