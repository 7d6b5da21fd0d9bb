"""Value completion by column: the values of one field for many parents. Nulls, lists and leaves are completed at once."""

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
Rewrap = Callable[[Sequence[Any]], Sequence[Any]]

_MAX_INT32 = 2**31 - 1


class Unsupported(Exception):
    """Raised for what only the reference executor completes: an error, null for a non-null type, an unexpected value."""


@dataclass(frozen=True, slots=True)
class Wrapping:
    """The wrapping types around a named type: whether it is nullable, and for a list the wrapping of its items."""

    is_nullable: bool
    items: "Wrapping | None"


@lru_cache(5_000)
def get_wrapping(type_: GraphQLOutputType) -> Wrapping:
    """The wrapping of a type, cached."""
    nullable_type: Any = type_.of_type if is_non_null_type(type_) else type_
    return Wrapping(nullable_type is type_, get_wrapping(nullable_type.of_type) if is_list_type(nullable_type) else None)


def unwrap(values: Column, wrapping: Wrapping) -> tuple[Column, Rewrap]:
    """Flatten a column: the values without nulls and lists, and a function that puts their results back in place.

    Raises Unsupported.
    """
    classes = get_classes(values)
    if NoneType not in classes:
        return _flatten_lists(values, wrapping, classes)
    if not wrapping.is_nullable:
        raise Unsupported("null")
    non_null_values = [value for value in values if value is not None]
    inner_values, rewrap = _flatten_lists(non_null_values, wrapping, classes - {NoneType})
    return inner_values, lambda results: _reinsert_nulls(values, rewrap(results))


def _flatten_lists(values: Column, wrapping: Wrapping, classes: set[Any]) -> tuple[Column, Rewrap]:
    if wrapping.items is None:
        if any(map(_is_unsupported_class, classes)):
            raise Unsupported("an exception, Undefined, an awaitable or an async iterable")
        return values, return_unchanged
    if not classes <= _LIST_CLASSES:
        values = [list(value) if _is_collection(get_class(value)) else _raise_not_a_list(value) for value in values]
    inner_values, rewrap = unwrap(list(chain.from_iterable(values)), wrapping.items)
    return inner_values, lambda results: _regroup_lists(values, rewrap(results))


@lru_cache(1_000)
def _is_collection(class_: Any) -> bool:
    # Not iterators: they would be exhausted if the reference executor has to complete the field again.
    return issubclass(class_, Collection) and not issubclass(class_, _NON_LIST_CLASSES)


_NON_LIST_CLASSES = (str, bytes, bytearray, memoryview, Mapping)


def _raise_not_a_list(value: Any) -> Any:
    raise Unsupported(f"a {type(value).__name__} is not a list")


def return_unchanged(results: Column) -> Column:
    """The Rewrap function of a column without nulls and lists."""
    return results


def _reinsert_nulls(values: Column, results: Iterable[Any]) -> Column:
    remaining = iter(results)
    return [None if value is None else next(remaining) for value in values]


def _regroup_lists(values: Column, results: Column) -> Column:
    lists, start = [], 0
    for value in values:
        end = start + len(value)
        lists.append(results[start:end])
        start = end
    return lists


def get_class(value: Any) -> Any:
    """The class of a value, typed as Any."""
    return type(value)


def get_classes(values: Column) -> set[Any]:
    """The classes of the values."""
    return set(map(type, values))


_LIST_CLASSES = {list, tuple}


@lru_cache(1_000)
def _is_unsupported_class(class_: Any) -> bool:
    return (
        issubclass(class_, Exception) or class_ is type(Undefined) or is_awaitable_class(class_) or hasattr(class_, "__aiter__")
    )


@lru_cache(1_000)
def is_awaitable_class(class_: Any) -> bool:
    """Whether instances of a class are awaitable. Cached by class."""
    return hasattr(class_, "__await__")


# -------------------------------------------------------------------------------------------------- leaves

# Leaf types whose values are short, whatever they are: they are not counted towards the size of a response.
_SHORT_TYPES = {GraphQLBoolean, GraphQLInt, GraphQLFloat, GraphQLID}


def is_short(type_: Any) -> bool:
    """Whether the values of a leaf type are short."""
    return type_ in _SHORT_TYPES or isinstance(type_, GraphQLEnumType)


# The classes whose values a leaf type serializes to themselves.
_PASS_THROUGH_CLASSES = {str, bool}
_PASS_THROUGH_CLASSES_BY_TYPE: dict[Any, set[type]] = {GraphQLString: {str}, GraphQLID: {str}, GraphQLBoolean: {bool}}


def is_pass_through(type_: GraphQLLeafType, values: Column, *, is_nullable: bool) -> bool:
    """Whether a leaf type serializes each of the values to itself, so that the column is complete."""
    classes = get_classes(values)
    if is_nullable and NoneType in classes:
        classes.remove(NoneType)
        values = values if classes <= _PASS_THROUGH_CLASSES else [value for value in values if value is not None]
    if classes <= _get_pass_through_classes(type_):
        return True
    if type_ is GraphQLInt and classes == {int}:
        return bool(max(values) <= _MAX_INT32 and min(values) >= -_MAX_INT32 - 1)
    return type_ is GraphQLFloat and classes == {float} and all(map(isfinite, values))


def serialize_leaves(type_: GraphQLLeafType, values: Column) -> Column:
    """Serialize the values of a leaf type. Raises Unsupported, and what the type raises."""
    if is_pass_through(type_, values, is_nullable=False):
        return values
    if isinstance(type_, GraphQLEnumType) and len(values) > 1:
        return _serialize_enum_values(type_, values)
    return [_serialize_leaf(type_, value) for value in values]


def _get_pass_through_classes(type_: GraphQLLeafType) -> set[type]:
    return {str} if type_.coerce_output_value is str else _PASS_THROUGH_CLASSES_BY_TYPE.get(type_, set())


def _serialize_enum_values(type_: GraphQLLeafType, values: Column) -> Column:
    # Memoized: an enum has few values, and serializing one takes longer than a lookup. Keyed by class too, as 1 == True.
    serialized: dict[Any, Any] = {}
    try:
        for value in values:
            if (type(value), value) not in serialized:
                serialized[type(value), value] = _serialize_leaf(type_, value)
        return [serialized[type(value), value] for value in values]
    except TypeError as error:
        raise Unsupported("an unhashable enum value") from error


def _serialize_leaf(type_: GraphQLLeafType, value: Any) -> Any:
    serialized = type_.coerce_output_value(value)
    if serialized is None or serialized is Undefined:
        raise Unsupported("a leaf without a value")
    return serialized
