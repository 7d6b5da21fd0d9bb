"""Column resolvers: the values of one field for many parents, from attributes, Strawberry methods or any other resolver."""

from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from functools import cache, partial
from operator import attrgetter
from types import FunctionType
from typing import Any

from graphql import GraphQLSchema
from graphql.execution import Executor, get_argument_values
from graphql.pyutils import Path

from storefront.execution.arguments import ArgumentConverter
from storefront.execution.batch_field import get_batch_resolver
from storefront.execution.coroutines import call_each
from storefront.execution.document_nodes import find_variable_names
from storefront.execution.resolve_info import FieldNodeContext, resolve_info
from storefront.execution.strawberry_adapter import (
    StrawberryField,
    create_info,
    get_info_parameter_name,
    get_plain_method,
    is_attribute_field,
)

# One value per parent, each of which may be awaitable; or one awaitable of all values.
ResolvedValues = list[Any] | Awaitable[Sequence[Any]]
# Called with the field: a resolver that held it would be part of a reference cycle with its plan, which only the garbage
# collector frees.
Resolver = Callable[[FieldNodeContext, Executor[Any], Path, Sequence[Any]], ResolvedValues]


def get_resolver(field_context: FieldNodeContext, schema: GraphQLSchema) -> Resolver:
    """The fastest resolver that fits the field: a constant, an attribute, a Strawberry method, or the field's own resolver."""
    if field_context.field_nodes[0].name.value == "__typename":
        return _get_constant_resolver(field_context.parent_type.name)
    strawberry_field = field_context.strawberry_field
    if strawberry_field is not None and is_attribute_field(strawberry_field):
        return _get_attribute_resolver(strawberry_field.python_name)
    method = get_plain_method(strawberry_field)
    if strawberry_field is not None and method is not None:
        return MethodResolver(field_context, schema, strawberry_field, method).resolve_values
    return _resolve_each


@cache
def _get_attribute_resolver(name: str) -> Resolver:
    return partial(resolve_attribute, attrgetter(name))


@cache
def _get_constant_resolver(value: str) -> Resolver:
    return partial(resolve_constant, value)


def resolve_constant(value: Any, _: FieldNodeContext, __: Executor[Any], ___: Path, parents: Sequence[Any]) -> list[Any]:
    """The same value for each parent, such as `__typename`."""
    return [value] * len(parents)


def resolve_attribute(
    get_attribute: Callable[[Any], Any], _: FieldNodeContext, __: Executor[Any], ___: Path, parents: Sequence[Any]
) -> list[Any]:
    """The value of an attribute of each parent."""
    return list(map(get_attribute, parents))


class MethodResolver:
    """Calls a method of a Strawberry type for each parent. Its arguments are the same for all parents and converted once."""

    __slots__ = (
        "_argument_converter",
        "_batch_resolver",
        "_constant_arguments",
        "_function",
        "_info_name",
        "_strawberry_field",
        "has_constant_arguments",
    )

    def __init__(
        self, field_context: FieldNodeContext, schema: GraphQLSchema, strawberry_field: StrawberryField, function: FunctionType
    ) -> None:
        self._strawberry_field = strawberry_field
        self._function = function
        self._argument_converter = ArgumentConverter(schema, strawberry_field)
        self._batch_resolver = get_batch_resolver(function)
        self._info_name = get_info_parameter_name(strawberry_field)
        self.has_constant_arguments = not any(
            True for node in field_context.field_nodes[0].arguments or () for _ in find_variable_names(node)
        )
        self._constant_arguments: dict[str, Any] | None = None

    def resolve_values(
        self, field_context: FieldNodeContext, executor: Executor[Any], path: Path, parents: Sequence[Any]
    ) -> ResolvedValues:
        """Call the method for each parent, or its batch resolver for all of them."""
        arguments = self.get_arguments(field_context, executor)
        if self._batch_resolver is not None:
            return self._batch_resolver(parents, self._build_info(field_context, executor, path), **arguments)
        if self._info_name is not None:
            arguments = {self._info_name: self._build_info(field_context, executor, path), **arguments}
        return call_each(partial(self._function, **arguments), parents)

    def get_arguments(self, field_context: FieldNodeContext, executor: Executor[Any]) -> dict[str, Any]:
        """The method's keyword arguments. Raises GraphQLError for an invalid argument."""
        return (
            self._convert_arguments(field_context, executor, Path(None, field_context.name, None))
            if self._constant_arguments is None
            else self._constant_arguments
        )

    def _convert_arguments(self, field_context: FieldNodeContext, executor: Executor[Any], path: Path) -> dict[str, Any]:
        if not field_context.definition.args:
            arguments: dict[str, Any] = {}
        else:
            values = _coerce_arguments(executor, field_context)
            arguments = self._argument_converter.convert_arguments(values, self._build_info(field_context, executor, path))
        # Only immutable values are cached: a method may change the others.
        if self.has_constant_arguments and all(isinstance(value, _IMMUTABLE_CLASSES) for value in arguments.values()):
            self._constant_arguments = arguments
        return arguments

    def _build_info(self, field_context: FieldNodeContext, executor: Executor[Any], path: Path) -> Any:
        return create_info(executor.schema, resolve_info(executor, field_context, path), self._strawberry_field)


_IMMUTABLE_CLASSES = (str, int, float, bool, type(None), Enum)


def _resolve_each(field_context: FieldNodeContext, executor: Executor[Any], path: Path, parents: Sequence[Any]) -> list[Any]:
    resolve = field_context.definition.resolve or executor.field_resolver
    info = resolve_info(executor, field_context, path)
    arguments = _coerce_arguments(executor, field_context)
    return call_each(lambda parent: resolve(parent, info, **arguments), parents)


def _coerce_arguments(executor: Executor[Any], field_context: FieldNodeContext) -> dict[str, Any]:
    if not field_context.definition.args:
        return {}
    return get_argument_values(
        field_context.definition, field_context.field_nodes[0], executor.variable_values, None, executor.hide_suggestions
    )
