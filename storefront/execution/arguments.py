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

DEFINITION = GraphQLCoreConverter.DEFINITION_BACKREF


class Arguments:
    """The arguments of one field: their names on both sides, and how their values become what the method takes."""

    __slots__ = ("_names",)

    def __init__(self, schema: GraphQLSchema, field: StrawberryField) -> None:
        ours = schema.extensions[DEFINITION]
        self._names = [
            (ours.config.name_converter.from_argument(argument), argument.python_name, converter(argument.type, ours))
            for argument in field.arguments
        ]

    def read(self, values: Mapping[str, Any], info: Any) -> dict[str, Any]:
        """The arguments as the method takes them; those without a value are left to its defaults."""
        return {
            python_name: values[name] if convert is None else convert(values[name], info)
            for name, python_name, convert in self._names
            if name in values
        }


# Makes of a value as the engine read it what Python code takes; None where that is the same.
Convert = Callable[[Any, Any], Any] | None


@cache
def converter(type_: Any, schema: Any) -> Convert:
    """How values of a Strawberry type are converted: inputs become objects of theirs, lists are copied.

    Worked out once. Strawberry asks again for every value what its type is.
    """
    if isinstance(type_, LazyType):
        resolved: Any = type_.resolve_type()
        return converter(resolved, schema)
    if isinstance(type_, StrawberryMaybe) or type_ is GlobalID:
        return partial(_as_strawberry_does, type_, schema)
    if isinstance(type_, StrawberryOptional):
        return converter(type_.of_type, schema)
    if isinstance(type_, StrawberryList):
        return partial(_list, converter(type_.of_type, schema))
    definition = get_object_definition(type_)
    if definition is None:
        return None
    return _HandedOver(type_, definition.from_input, schema) if definition.from_input else _Input(type_, definition, schema)


def _as_strawberry_does(type_: Any, schema: Any, value: Any, info: Any) -> Any:
    return convert_argument(value, type_, schema.schema_converter.scalar_registry, schema.config, info)


def _list(convert: Convert, values: Any, info: Any) -> Any:
    if values is None or values is UNSET:
        return values
    return list(values) if convert is None else [convert(value, info) for value in values]


class _HandedOver:
    """Makes of an input what the type itself says."""

    def __init__(self, type_: type, make: Callable[..., Any], schema: Any) -> None:
        self._type, self._make = type_, make
        self._context = partial(
            InputContext, config=schema.config, scalar_registry=schema.schema_converter.scalar_registry, path=()
        )

    def __call__(self, value: Any, info: Any) -> Any:
        return value if value is None or value is UNSET else self._make(self._type, value, self._context(info=info))


class _Input:
    """Makes the objects of one input type. Its fields are looked at once they are needed: inputs may hold each other."""

    def __init__(self, type_: type, definition: StrawberryObjectDefinition, schema: Any) -> None:
        self._type, self._definition, self._schema = type_, definition, schema
        self._fields: list[tuple[str, str, Convert]] | None = None
        # Fields that may be left out and have no default of their own are null then.
        self._nulls = {
            f.python_name: None for f in definition.fields if f.default_value is MISSING and f.default_factory is MISSING
        }

    def __call__(self, value: Any, info: Any) -> Any:
        if value is None or value is UNSET:
            return value
        if self._fields is None:
            self._fields = [self._read(field) for field in self._definition.fields]
        given = {
            python_name: value[name] if convert is None else convert(value[name], info)
            for name, python_name, convert in self._fields
            if name in value
        }
        return self._type(**{**self._nulls, **given})

    def _read(self, field: StrawberryField) -> tuple[str, str, Convert]:
        type_: Any = field.resolve_type(type_definition=self._definition)
        return self._schema.config.name_converter.from_field(field), field.python_name, converter(type_, self._schema)


def _has_no_default(field: StrawberryField) -> bool:
    return field.default_value is MISSING and field.default_factory is MISSING


def method_of(field: object) -> FunctionType | None:
    """The plain method that a Strawberry field is, called with the parent, and `info` if it takes that; None for any other."""
    if not isinstance(field, StrawberryField) or field.extensions or field.base_resolver is None:
        return None
    resolver = field.base_resolver
    is_method = resolver.self_parameter is not None and not (resolver.parent_parameter or resolver.root_parameter)
    return resolver.wrapped_func if is_method and isinstance(resolver.wrapped_func, FunctionType) else None


def call_directly(schema: GraphQLSchema) -> GraphQLSchema:
    """Have the engine call the root fields' methods itself: the way through Strawberry's wrappers takes as long as a short query.

    Returns the same schema.
    """
    for root in filter(None, (schema.query_type, schema.mutation_type)):
        for definition in root.fields.values():
            field = definition.extensions.get(DEFINITION)
            method = method_of(field)
            if method is not None and not schema.extensions[DEFINITION].exception_handlers:
                definition.resolve = _direct(schema, field, method)
    return schema


def _direct(schema: GraphQLSchema, field: Any, method: FunctionType) -> Any:
    arguments, info_class = Arguments(schema, field), schema.extensions[DEFINITION].config.info_class
    takes_info = field.base_resolver.info_parameter

    def resolve(parent: Any, raw: GraphQLResolveInfo[Any], **values: Any) -> Any:
        info = info_class(_raw_info=raw, _field=field)
        told = {takes_info.name: info} if takes_info else {}
        return method(parent, **told, **arguments.read(values, info))

    return resolve
