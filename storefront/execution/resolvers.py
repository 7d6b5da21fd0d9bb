"""The ways from parents to the values of a field: attributes, methods of Strawberry's types, and whatever else resolves it."""

from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from functools import cache, partial
from operator import attrgetter
from types import FunctionType
from typing import Any

from graphql import GraphQLSchema
from graphql.execution import Executor
from graphql.execution.values import get_argument_values
from graphql.pyutils import Path
from strawberry.types.field import StrawberryField

from storefront.execution.arguments import DEFINITION, Arguments, method_of
from storefront.execution.batch_field import batch_of
from storefront.execution.coroutines import called
from storefront.execution.resolve_info import Place, info_of, variables

# The values of a field for its parents, some of which may have to be awaited; or all of them at once.
Values = list[Any] | Awaitable[Sequence[Any]]
Way = Callable[[Executor[Any], Path, Sequence[Any]], Values]


def way_to(place: Place, schema: GraphQLSchema) -> Way:
    """How the field's values come from its parents: an attribute, a method of Strawberry's, or whatever resolves it."""
    if place.nodes[0].name.value == "__typename":
        return _way_to_constant(place.parent_type.name)
    ours = place.strawberry
    if ours is not None and ours.is_basic_field and ours.default_resolver is getattr:
        return _way_to_attribute(ours.python_name)
    method = method_of(ours)
    if ours is not None and method is not None:
        return Method(place, schema, ours, method).values_of
    return partial(_resolved, place)


@cache
def _way_to_attribute(name: str) -> Way:
    return partial(attribute, attrgetter(name))


@cache
def _way_to_constant(value: str) -> Way:
    return partial(constant, value)


def constant(value: Any, _: Executor[Any], __: Path, parents: Sequence[Any]) -> list[Any]:
    """The same for all."""
    return [value] * len(parents)


def attribute(get: Callable[[Any], Any], _: Executor[Any], __: Path, parents: Sequence[Any]) -> list[Any]:
    """An attribute of each."""
    return list(map(get, parents))


class Method:
    """A method of a Strawberry type. Its arguments are the same for all parents and made once."""

    __slots__ = ("_arguments", "_batch", "_function", "_info_name", "_place", "_reader", "_strawberry", "are_constant")

    def __init__(self, place: Place, schema: GraphQLSchema, ours: StrawberryField, function: FunctionType) -> None:
        info = ours.base_resolver.info_parameter if ours.base_resolver else None
        self._place = place
        self._strawberry = ours
        self._function = function
        self._reader = Arguments(schema, ours)
        self._batch = batch_of(function)
        self._info_name = info.name if info else None
        self.are_constant = not any(True for node in place.nodes[0].arguments or () for _ in variables(node))
        self._arguments: dict[str, Any] | None = None

    def values_of(self, executor: Executor[Any], path: Path, parents: Sequence[Any]) -> Values:
        """Call the method of each parent, or its batch for all of them."""
        arguments = self.arguments(executor)
        if self._batch is not None:
            return self._batch(parents, self._info(executor, path), **arguments)
        if self._info_name is not None:
            arguments = {self._info_name: self._info(executor, path), **arguments}
        return called(partial(self._function, **arguments), parents)

    def arguments(self, executor: Executor[Any]) -> dict[str, Any]:
        """The arguments as the method takes them."""
        return self._read(executor, Path(None, self._place.name, None)) if self._arguments is None else self._arguments

    def _read(self, executor: Executor[Any], path: Path) -> dict[str, Any]:
        if not self._place.definition.args:
            arguments: dict[str, Any] = {}
        else:
            values = _arguments(executor, self._place)
            arguments = self._reader.read(values, self._info(executor, path))
        # What may be changed by who gets it is made anew for each operation.
        if self.are_constant and all(isinstance(value, _UNCHANGING) for value in arguments.values()):
            self._arguments = arguments
        return arguments

    def _info(self, executor: Executor[Any], path: Path) -> Any:
        raw = info_of(executor, self._place, path)
        return executor.schema.extensions[DEFINITION].config.info_class(_raw_info=raw, _field=self._strawberry)


_UNCHANGING = (str, int, float, bool, type(None), Enum)


def _resolved(place: Place, executor: Executor[Any], path: Path, parents: Sequence[Any]) -> list[Any]:
    resolve = place.definition.resolve or executor.field_resolver
    info = info_of(executor, place, path)
    arguments = _arguments(executor, place)
    return called(lambda parent: resolve(parent, info, **arguments), parents)


def _arguments(executor: Executor[Any], place: Place) -> dict[str, Any]:
    if not place.definition.args:
        return {}
    return get_argument_values(place.definition, place.nodes[0], executor.variable_values, None, executor.hide_suggestions)
