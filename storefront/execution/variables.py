"""Variables as the engine reads them. How a type is read is worked out once; the engine asks for every value what its type is.

What is not plainly right is left to graphql-core, so that what is told of it is told by graphql-core.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

from graphql import (
    GraphQLInputObjectType,
    GraphQLSchema,
    GraphQLString,
    OperationDefinitionNode,
    Undefined,
    get_named_type,
    is_input_object_type,
    is_list_type,
    is_non_null_type,
)
from graphql.execution.get_variable_signature import GraphQLVariableSignature, get_variable_signature
from graphql.execution.values import VariableValues, VariableValueSource
from graphql.type import is_required_input_field
from graphql.utilities.coerce_input_value import coerce_default_value

Read = Callable[[Any], Any]


class Unclear(Exception):
    """Values that may be wrong, or are of a kind that is rare."""


class Variables:
    """The variables of one operation."""

    def __init__(self, schema: GraphQLSchema, operation: OperationDefinitionNode) -> None:
        self._variables: list[tuple[GraphQLVariableSignature, Read]] = []
        for node in operation.variable_definitions or ():
            signature = get_variable_signature(schema, node)
            if not isinstance(signature, GraphQLVariableSignature):
                raise Unclear
            self._variables.append((signature, _reader(signature.type)))

    def values(self, given: Mapping[str, Any]) -> VariableValues:
        """What graphql-core makes of the values; raises Unclear."""
        sources: dict[str, VariableValueSource] = {}
        read: dict[str, Any] = {}
        for signature, reader in self._variables:
            name, value = signature.name, given.get(signature.name, Undefined)
            if value is not Undefined:
                read[name] = _clear(reader, value)
            elif signature.default or is_non_null_type(signature.type):
                raise Unclear
            sources[name] = VariableValueSource(signature, value)
        return VariableValues(sources, read)


def _clear(read: Read, value: Any) -> Any:
    try:
        return read(value)
    except Exception as error:
        raise Unclear from error


def _reader(type_: Any) -> Read:
    inner: Any = type_.of_type if is_non_null_type(type_) else type_
    read = _list_of(_reader(inner.of_type)) if is_list_type(inner) else _of_named(inner)
    return _present(read) if is_non_null_type(type_) else _nullable(read)


# Those alone are worth keeping: graphql-core makes lists and what may not be null anew for each document.
@cache
def _of_named(type_: Any) -> Read:
    if is_input_object_type(type_):
        return _Object(type_)
    read: Read = _text if type_ is GraphQLString else type_.coerce_input_value
    return read


def _text(value: Any) -> str:
    if type(value) is not str:
        raise Unclear
    return value


def _present(read: Read) -> Read:
    def present(value: Any) -> Any:
        made = None if value is None else read(value)
        # What a scalar may say instead of raising an error.
        if made is None or made is Undefined:
            raise Unclear
        return made

    return present


def _nullable(read: Read) -> Read:
    def nullable(value: Any) -> Any:
        made = None if value is None else read(value)
        if made is Undefined:
            raise Unclear
        return made

    return nullable


def _list_of(read: Read) -> Read:
    def list_(values: Any) -> list[Any]:
        if type(values) is not list:
            raise Unclear
        return [read(value) for value in values]

    return list_


class _Object:
    """Reads values of one input type."""

    def __init__(self, type_: GraphQLInputObjectType) -> None:
        # One that can hold itself may be nested too deeply.
        if type_ in _within(type_):
            raise Unclear
        self._is_one_of = bool(type_.is_one_of)
        self._make = type_.out_type
        self._names = type_.fields.keys()
        self._required = {name for name, field in type_.fields.items() if is_required_input_field(field)}
        self._fields = [
            (name, field.out_name or name, _reader(field.type), coerce_default_value(field))
            for name, field in type_.fields.items()
        ]

    def __call__(self, value: Any) -> Any:
        if type(value) is not dict or not self._required <= value.keys() <= self._names:
            raise Unclear
        if self._is_one_of and (len(value) != 1 or None in value.values()):
            raise Unclear
        read = {
            out_name: reader(value[name]) if name in value else default
            for name, out_name, reader, default in self._fields
            if name in value or default is not Undefined
        }
        return self._make(read)


def _within(type_: GraphQLInputObjectType) -> set[GraphQLInputObjectType]:
    """The input types that values of a type may hold, at any depth."""
    found: set[GraphQLInputObjectType] = set()
    left = [type_]
    while left:
        inner = {named for named in _named(left.pop()) if named not in found}
        found |= inner
        left += inner
    return found


def _named(type_: GraphQLInputObjectType) -> Iterator[GraphQLInputObjectType]:
    for field in type_.fields.values():
        named = get_named_type(field.type)
        if is_input_object_type(named):
            yield named
