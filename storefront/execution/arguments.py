"""Converts graphql-core's argument values for Strawberry methods, and calls root field methods without Strawberry's wrappers."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import MISSING
from functools import cache, partial
from inspect import isawaitable
from types import FunctionType
from typing import Any

from graphql import GraphQLResolveInfo, GraphQLSchema
from strawberry import UNSET
from strawberry.relay import GlobalID
from strawberry.types import get_object_definition

from storefront.core.cooperative import MAX_INLINE_STEPS, count_input_steps, run_in_thread_if_long, yield_before_freeing
from storefront.execution.strawberry_adapter import (
    LazyType,
    StrawberryField,
    StrawberryList,
    StrawberryMaybe,
    StrawberryObjectDefinition,
    StrawberryOptional,
    convert_with_strawberry,
    create_info,
    create_input_context,
    get_custom_input_factory,
    get_info_parameter_name,
    get_plain_method,
    get_strawberry_field,
    get_strawberry_schema,
    has_exception_handlers,
)


class ArgumentConverter:
    """Converts the arguments of one field: GraphQL names to Python names, and values to what the method expects."""

    __slots__ = ("_arguments",)

    def __init__(self, schema: GraphQLSchema, field: StrawberryField) -> None:
        strawberry_schema = get_strawberry_schema(schema)
        self._arguments = [
            (
                strawberry_schema.config.name_converter.from_argument(argument),
                argument.python_name,
                make_converter(argument.type, strawberry_schema),
            )
            for argument in field.arguments
        ]

    def convert_arguments(self, values: Mapping[str, Any], info: Any) -> dict[str, Any]:
        """The method's keyword arguments. Arguments without a value are left out, so that the method's defaults apply."""
        return {
            python_name: values[name] if convert is None else convert(values[name], info)
            for name, python_name, convert in self._arguments
            if name in values
        }


# Converts a value as graphql-core coerced it, called with the value and `info`; None if no conversion is needed.
ConvertValue = Callable[[Any, Any], Any] | None


@cache
def make_converter(type_: Any, schema: Any) -> ConvertValue:
    """The converter for values of a Strawberry type: input objects become instances of their class, lists are copied.

    Built once per type; Strawberry itself inspects the type again for every value.
    """
    if isinstance(type_, LazyType):
        resolved_type: Any = type_.resolve_type()
        return make_converter(resolved_type, schema)
    if isinstance(type_, StrawberryMaybe) or type_ is GlobalID:
        return partial(convert_with_strawberry, type_, schema)
    if isinstance(type_, StrawberryOptional):
        return make_converter(type_.of_type, schema)
    if isinstance(type_, StrawberryList):
        return partial(_convert_list, make_converter(type_.of_type, schema))
    definition = get_object_definition(type_)
    if definition is None:
        return None
    custom_factory = get_custom_input_factory(definition)
    return _CustomInputConverter(type_, custom_factory, schema) if custom_factory else _InputConverter(type_, definition, schema)


def _convert_list(convert: ConvertValue, values: Any, info: Any) -> Any:
    if values is None or values is UNSET:
        return values
    return list(values) if convert is None else [convert(value, info) for value in values]


class _CustomInputConverter:
    """Converts values of an input type that defines its own conversion."""

    def __init__(self, type_: type, factory: Callable[..., Any], schema: Any) -> None:
        self._type, self._factory, self._schema = type_, factory, schema

    def __call__(self, value: Any, info: Any) -> Any:
        if value is None or value is UNSET:
            return value
        return self._factory(self._type, value, create_input_context(self._schema, info))


class _InputConverter:
    """Creates instances of one input type. Field converters are built on first use, because input types may be recursive."""

    def __init__(self, type_: type, definition: StrawberryObjectDefinition, schema: Any) -> None:
        self._type, self._definition, self._schema = type_, definition, schema
        self._fields: list[tuple[str, str, ConvertValue]] | None = None
        # Optional fields without a default are null if they are left out.
        self._null_defaults = {
            input_field.python_name: None
            for input_field in definition.fields
            if input_field.default_value is MISSING and input_field.default_factory is MISSING
        }

    def __call__(self, value: Any, info: Any) -> Any:
        if value is None or value is UNSET:
            return value
        if self._fields is None:
            self._fields = [self._make_field_converter(field) for field in self._definition.fields]
        arguments = {
            python_name: value[name] if convert is None else convert(value[name], info)
            for name, python_name, convert in self._fields
            if name in value
        }
        return self._type(**{**self._null_defaults, **arguments})

    def _make_field_converter(self, field: StrawberryField) -> tuple[str, str, ConvertValue]:
        type_: Any = field.resolve_type(type_definition=self._definition)
        return self._schema.config.name_converter.from_field(field), field.python_name, make_converter(type_, self._schema)


def bypass_strawberry_wrappers(schema: GraphQLSchema) -> GraphQLSchema:
    """Let graphql-core call the methods of root fields directly: Strawberry's wrappers take as long as a short query.

    Returns the same schema.
    """
    if has_exception_handlers(schema):
        return schema
    for root_type in filter(None, (schema.query_type, schema.mutation_type)):
        for definition in root_type.fields.values():
            field = get_strawberry_field(definition)
            method = get_plain_method(field)
            if field is not None and method is not None:
                definition.resolve = _make_direct_resolver(schema, field, method)
    return schema


def _make_direct_resolver(schema: GraphQLSchema, field: StrawberryField, method: FunctionType) -> Any:
    convert_arguments, info_name = ArgumentConverter(schema, field).convert_arguments, get_info_parameter_name(field)

    def resolve(parent: Any, raw_info: GraphQLResolveInfo[Any], **values: Any) -> Any:
        info = create_info(schema, raw_info, field)
        info_argument = {info_name: info} if info_name else {}
        steps = count_input_steps(values)
        if steps > MAX_INLINE_STEPS:
            arguments = run_in_thread_if_long(steps, convert_arguments, values, info)
            return resolve_later(parent, info_argument, arguments, steps)
        return method(parent, **info_argument, **convert_arguments(values, info))

    async def resolve_later(
        parent: Any, info_argument: dict[str, Any], pending_arguments: Awaitable[dict[str, Any]], steps: int
    ) -> Any:
        result = method(parent, **info_argument, **await pending_arguments)
        value = await result if isawaitable(result) else result
        await yield_before_freeing(steps)
        return value

    return resolve
