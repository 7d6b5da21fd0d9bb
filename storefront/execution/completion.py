"""Columns: the values of one field for many parents. Nulls, lists and leaves are completed by the column, not one by one."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from math import isfinite
from types import NoneType
from typing import Any

from graphql import (
    GraphQLBoolean,
    GraphQLEnumType,
    GraphQLFloat,
    GraphQLID,
    GraphQLInt,
    GraphQLLeafType,
    GraphQLOutputType,
    GraphQLString,
    Undefined,
    is_list_type,
    is_non_null_type,
)

Column = Sequence[Any]
Restore = Callable[[Sequence[Any]], Sequence[Any]]

_LARGEST = 2**31 - 1


class Unplanned(Exception):
    """Something that is for the reference executor to complete: an error, a null where none may be, a value of another kind."""


@dataclass(frozen=True, slots=True)
class Wrapping:
    """What stands around a named type: whether null may be there, and for lists what stands around their items."""

    is_nullable: bool
    items: "Wrapping | None"


@lru_cache(5_000)
def wrapping(type_: GraphQLOutputType) -> Wrapping:
    """The wrapping of a type."""
    inner: Any = type_.of_type if is_non_null_type(type_) else type_
    return Wrapping(inner is type_, wrapping(inner.of_type) if is_list_type(inner) else None)


def unwrapped(values: Column, around: Wrapping) -> tuple[Column, Restore]:
    """The values that are neither null nor lists, and the way to put what was made of them back where they stood."""
    kinds = kinds_of(values)
    if NoneType not in kinds:
        return _unlisted(values, around, kinds)
    if not around.is_nullable:
        raise Unplanned("null")
    there = [value for value in values if value is not None]
    found, restore = _unlisted(there, around, kinds - {NoneType})
    return found, lambda made: _with_nulls(values, restore(made))


def _unlisted(values: Column, around: Wrapping, kinds: set[Any]) -> tuple[Column, Restore]:
    if around.items is None:
        if any(map(_is_special, kinds)):
            raise Unplanned("an exception, nothing at all, or something to await")
        return values, as_is
    if not kinds <= _LISTS:
        values = [list(value) if _is_collection(class_of(value)) else _refused(value) for value in values]
    found, restore = unwrapped(list(chain.from_iterable(values)), around.items)
    return found, lambda made: _as_lists(values, restore(made))


@lru_cache(1_000)
def _is_collection(kind: Any) -> bool:
    # An iterator would be used up, should the reference executor need it too.
    return issubclass(kind, Collection) and not issubclass(kind, _NO_LISTS)


_NO_LISTS = (str, bytes, bytearray, memoryview, Mapping)


def _refused(value: Any) -> Any:
    raise Unplanned(f"a {type(value).__name__} is no list")


def as_is(made: Column) -> Column:
    """Nothing to put back."""
    return made


def _with_nulls(values: Column, made: Iterable[Any]) -> Column:
    following = iter(made)
    return [None if value is None else next(following) for value in values]


def _as_lists(values: Column, made: Column) -> Column:
    lists, start = [], 0
    for value in values:
        end = start + len(value)
        lists.append(made[start:end])
        start = end
    return lists


def class_of(value: Any) -> Any:
    """The class of a value."""
    return type(value)


def kinds_of(values: Column) -> set[Any]:
    """The classes of the values."""
    return set(map(type, values))


_LISTS = {list, tuple}


@lru_cache(1_000)
def _is_special(kind: Any) -> bool:
    return issubclass(kind, Exception) or kind is type(Undefined) or is_awaitable(kind) or hasattr(kind, "__aiter__")


@lru_cache(1_000)
def is_awaitable(kind: Any) -> bool:
    """Whether values of a class are to be awaited."""
    return hasattr(kind, "__await__")


# -------------------------------------------------------------------------------------------------- leaves

# The classes whose values a leaf type hands through as they are.
_ANY_OF = {str, bool}
_UNCHANGED: dict[Any, set[type]] = {GraphQLString: {str}, GraphQLID: {str}, GraphQLBoolean: {bool}}


def unchanged(type_: GraphQLLeafType, values: Column, *, nullable: bool) -> bool:
    """Whether a leaf type hands all of the values through as they are."""
    kinds = kinds_of(values)
    if nullable and NoneType in kinds:
        kinds.remove(NoneType)
        values = values if kinds <= _ANY_OF else [value for value in values if value is not None]
    if kinds <= _unchanged(type_):
        return True
    if type_ is GraphQLInt and kinds == {int}:
        return bool(max(values) <= _LARGEST and min(values) >= -_LARGEST - 1)
    return type_ is GraphQLFloat and kinds == {float} and all(map(isfinite, values))


def leaves(type_: GraphQLLeafType, values: Column) -> Column:
    """The values as the type prints them."""
    if unchanged(type_, values, nullable=False):
        return values
    if isinstance(type_, GraphQLEnumType) and len(values) > 1:
        return _repeated(type_, values)
    return [_leaf(type_, value) for value in values]


def _unchanged(type_: GraphQLLeafType) -> set[type]:
    return {str} if type_.coerce_output_value is str else _UNCHANGED.get(type_, set())


def _repeated(type_: GraphQLLeafType, values: Column) -> Column:
    # An enum has few values, and looking one up takes longer than remembering it. Equal is not enough: 1 and True are.
    known: dict[Any, Any] = {}
    try:
        for value in values:
            if (type(value), value) not in known:
                known[type(value), value] = _leaf(type_, value)
        return [known[type(value), value] for value in values]
    except TypeError as error:
        raise Unplanned("no enum value") from error


def _leaf(type_: GraphQLLeafType, value: Any) -> Any:
    printed = type_.coerce_output_value(value)
    if printed is None or printed is Undefined:
        raise Unplanned("a leaf without a value")
    return printed
