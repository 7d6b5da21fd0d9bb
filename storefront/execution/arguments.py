"""Arguments on their way from the engine to a Strawberry method, and methods that are called without detours."""

from collections.abc import Callable, Mapping
from dataclasses import MISSING
from functools import cache, partial
from types import FunctionType
from typing import Any

from graphql import GraphQLResolveInfo, GraphQLSchema
from strawberry import UNSET
from strawberry.relay import GlobalID
from strawberry.schema.schema_converter import GraphQLCoreConverter
from strawberry.types import get_object_definition
from strawberry.types.arguments import InputContext, convert_argument
from strawberry.types.base import StrawberryList, StrawberryMaybe, StrawberryObjectDefinition, StrawberryOptional
from strawberry.types.field import StrawberryField
from strawberry.types.lazy_type import LazyType

DEFINITION_EXTENSION_KEY = GraphQLCoreConverter.DEFINITION_BACKREF


class ArgumentConverter:
    """The arguments of one field: their names on both sides, and how their values become what the method takes."""

    __slots__ = ("_arguments",)

    def __init__(self, schema: GraphQLSchema, field: StrawberryField) -> None:
        strawberry_schema = schema.extensions[DEFINITION_EXTENSION_KEY]
        self._arguments = [
            (
                strawberry_schema.config.name_converter.from_argument(argument),
                argument.python_name,
                make_converter(argument.type, strawberry_schema),
            )
            for argument in field.arguments
        ]

    def convert_arguments(self, values: Mapping[str, Any], info: Any) -> dict[str, Any]:
        """The arguments as the method takes them; those without a value are left to its defaults."""
        return {
            python_name: values[name] if convert is None else convert(values[name], info)
            for name, python_name, convert in self._arguments
            if name in values
        }


# Makes of a value as the engine read it what Python code takes; None where that is the same.
ConvertValue = Callable[[Any, Any], Any] | None


@cache
def make_converter(type_: Any, schema: Any) -> ConvertValue:
    """How values of a Strawberry type are converted: inputs become objects of theirs, lists are copied.

    Worked out once. Strawberry asks again for every value what its type is.
    """
    if isinstance(type_, LazyType):
        resolved_type: Any = type_.resolve_type()
        return make_converter(resolved_type, schema)
    if isinstance(type_, StrawberryMaybe) or type_ is GlobalID:
        return partial(_convert_with_strawberry, type_, schema)
    if isinstance(type_, StrawberryOptional):
        return make_converter(type_.of_type, schema)
    if isinstance(type_, StrawberryList):
        return partial(_convert_list, make_converter(type_.of_type, schema))
    definition = get_object_definition(type_)
    if definition is None:
        return None
    return (
        _CustomInputConverter(type_, definition.from_input, schema)
        if definition.from_input
        else _InputConverter(type_, definition, schema)
    )


def _convert_with_strawberry(type_: Any, schema: Any, value: Any, info: Any) -> Any:
    return convert_argument(value, type_, schema.schema_converter.scalar_registry, schema.config, info)


def _convert_list(convert: ConvertValue, values: Any, info: Any) -> Any:
    if values is None or values is UNSET:
        return values
    return list(values) if convert is None else [convert(value, info) for value in values]


class _CustomInputConverter:
    """Makes of an input what the type itself says."""

    def __init__(self, type_: type, from_input: Callable[..., Any], schema: Any) -> None:
        self._type, self._from_input = type_, from_input
        self._make_context = partial(
            InputContext, config=schema.config, scalar_registry=schema.schema_converter.scalar_registry, path=()
        )

    def __call__(self, value: Any, info: Any) -> Any:
        return value if value is None or value is UNSET else self._from_input(self._type, value, self._make_context(info=info))


class _InputConverter:
    """Makes the objects of one input type. Its fields are looked at once they are needed: inputs may hold each other."""

    def __init__(self, type_: type, definition: StrawberryObjectDefinition, schema: Any) -> None:
        self._type, self._definition, self._schema = type_, definition, schema
        self._fields: list[tuple[str, str, ConvertValue]] | None = None
        # Fields that may be left out and have no default of their own are null then.
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


def _has_no_default(field: StrawberryField) -> bool:
    return field.default_value is MISSING and field.default_factory is MISSING


def get_plain_method(field: object) -> FunctionType | None:
    """The plain method that a Strawberry field is, called with the parent, and `info` if it takes that; None for any other."""
    if not isinstance(field, StrawberryField) or field.extensions or field.base_resolver is None:
        return None
    resolver = field.base_resolver
    is_method = resolver.self_parameter is not None and not (resolver.parent_parameter or resolver.root_parameter)
    return resolver.wrapped_func if is_method and isinstance(resolver.wrapped_func, FunctionType) else None


def bypass_strawberry_wrappers(schema: GraphQLSchema) -> GraphQLSchema:
    """Have the engine call the root fields' methods itself: the way through Strawberry's wrappers takes as long as a short query.

    Returns the same schema.
    """
    for root_type in filter(None, (schema.query_type, schema.mutation_type)):
        for definition in root_type.fields.values():
            field = definition.extensions.get(DEFINITION_EXTENSION_KEY)
            method = get_plain_method(field)
            if method is not None and not schema.extensions[DEFINITION_EXTENSION_KEY].exception_handlers:
                definition.resolve = _make_direct_resolver(schema, field, method)
    return schema


def _make_direct_resolver(schema: GraphQLSchema, field: Any, method: FunctionType) -> Any:
    argument_converter, info_class = (
        ArgumentConverter(schema, field),
        schema.extensions[DEFINITION_EXTENSION_KEY].config.info_class,
    )
    info_parameter = field.base_resolver.info_parameter

    def resolve(parent: Any, raw_info: GraphQLResolveInfo[Any], **values: Any) -> Any:
        info = info_class(_raw_info=raw_info, _field=field)
        info_argument = {info_parameter.name: info} if info_parameter else {}
        return method(parent, **info_argument, **argument_converter.convert_arguments(values, info))

    return resolve
