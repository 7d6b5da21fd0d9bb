"""Coerces variables as graphql-core does, but with coercers built once per type: graphql-core inspects the type for each value.

Anything but plainly valid values is left to graphql-core, so that all error messages are its own.
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
    is_required_input_field,
)
from graphql.execution import VariableValues

from storefront.execution.strawberry_adapter import (
    GraphQLVariableSignature,
    VariableValueSource,
    coerce_default_value,
    get_variable_signature,
)

CoerceValue = Callable[[Any], Any]


class UnsupportedVariables(Exception):
    """Raised for values that may be invalid, or for types that are rare: graphql-core has to coerce the variables."""


class VariableCoercer:
    """Coerces the variables of one operation. Raises UnsupportedVariables."""

    def __init__(self, schema: GraphQLSchema, operation: OperationDefinitionNode) -> None:
        self._coercers: list[tuple[GraphQLVariableSignature, CoerceValue]] = []
        for node in operation.variable_definitions or ():
            signature = get_variable_signature(schema, node)
            if not isinstance(signature, GraphQLVariableSignature):
                raise UnsupportedVariables
            self._coercers.append((signature, _make_coercer(signature.type)))

    def coerce_values(self, raw_values: Mapping[str, Any]) -> VariableValues:
        """The coerced values, as graphql-core would return them. Raises UnsupportedVariables."""
        sources: dict[str, VariableValueSource] = {}
        coerced: dict[str, Any] = {}
        for signature, coerce in self._coercers:
            name, value = signature.name, raw_values.get(signature.name, Undefined)
            if value is not Undefined:
                coerced[name] = _coerce_value(coerce, value)
            elif signature.default or is_non_null_type(signature.type):
                raise UnsupportedVariables
            sources[name] = VariableValueSource(signature, value)
        return VariableValues(sources, coerced)


def _coerce_value(coerce: CoerceValue, value: Any) -> Any:
    try:
        return coerce(value)
    except Exception as error:
        raise UnsupportedVariables from error


def _make_coercer(type_: Any) -> CoerceValue:
    nullable_type: Any = type_.of_type if is_non_null_type(type_) else type_
    coerce = (
        _make_list_coercer(_make_coercer(nullable_type.of_type))
        if is_list_type(nullable_type)
        else _make_named_coercer(nullable_type)
    )
    return _make_non_null_coercer(coerce) if is_non_null_type(type_) else _make_nullable_coercer(coerce)


# Only named types are cached: graphql-core creates new list and non-null types for each document.
@cache
def _make_named_coercer(type_: Any) -> CoerceValue:
    if is_input_object_type(type_):
        return _InputObjectCoercer(type_)
    coerce: CoerceValue = _coerce_string if type_ is GraphQLString else type_.coerce_input_value
    return coerce


def _coerce_string(value: Any) -> str:
    if type(value) is not str:
        raise UnsupportedVariables
    return value


def _make_non_null_coercer(coerce: CoerceValue) -> CoerceValue:
    def coerce_non_null(value: Any) -> Any:
        coerced = None if value is None else coerce(value)
        # A scalar may return these instead of raising an error.
        if coerced is None or coerced is Undefined:
            raise UnsupportedVariables
        return coerced

    return coerce_non_null


def _make_nullable_coercer(coerce: CoerceValue) -> CoerceValue:
    def coerce_nullable(value: Any) -> Any:
        coerced = None if value is None else coerce(value)
        if coerced is Undefined:
            raise UnsupportedVariables
        return coerced

    return coerce_nullable


def _make_list_coercer(coerce: CoerceValue) -> CoerceValue:
    def coerce_list(values: Any) -> list[Any]:
        if type(values) is not list:
            raise UnsupportedVariables
        return [coerce(value) for value in values]

    return coerce_list


class _InputObjectCoercer:
    """Coerces values of one input object type. Raises UnsupportedVariables for a recursive type."""

    def __init__(self, type_: GraphQLInputObjectType) -> None:
        # Values of a recursive type may be nested too deeply for recursive calls.
        if type_ in _find_nested_input_types(type_):
            raise UnsupportedVariables
        self._is_one_of = bool(type_.is_one_of)
        self._make_output = type_.out_type
        self._names = type_.fields.keys()
        self._required = {name for name, field in type_.fields.items() if is_required_input_field(field)}
        self._fields = [
            (name, field.out_name or name, _make_coercer(field.type), coerce_default_value(field))
            for name, field in type_.fields.items()
        ]

    def __call__(self, value: Any) -> Any:
        if type(value) is not dict or not self._required <= value.keys() <= self._names:
            raise UnsupportedVariables
        if self._is_one_of and (len(value) != 1 or None in value.values()):
            raise UnsupportedVariables
        coerced = {
            out_name: coerce(value[name]) if name in value else default
            for name, out_name, coerce, default in self._fields
            if name in value or default is not Undefined
        }
        return self._make_output(coerced)


def _find_nested_input_types(type_: GraphQLInputObjectType) -> set[GraphQLInputObjectType]:
    """The input types that are reachable from the fields of a type."""
    nested_types: set[GraphQLInputObjectType] = set()
    pending = [type_]
    while pending:
        new_types = {named for named in _iterate_field_input_types(pending.pop()) if named not in nested_types}
        nested_types |= new_types
        pending += new_types
    return nested_types


def _iterate_field_input_types(type_: GraphQLInputObjectType) -> Iterator[GraphQLInputObjectType]:
    for field in type_.fields.values():
        named = get_named_type(field.type)
        if is_input_object_type(named):
            yield named
