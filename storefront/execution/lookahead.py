"""What a resolver may know of the selection below its field: to load no more than is asked for, or all of it at once."""

import logging
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

from graphql import GraphQLResolveInfo, is_object_type
from graphql.execution import Executor

from storefront.execution.plan import Field
from storefront.execution.resolve_info import Info
from storefront.execution.resolvers import constant

log = logging.getLogger("storefront.execution")

T = TypeVar("T")


def selected(info: GraphQLResolveInfo[Any], type_name: str) -> tuple[str, ...] | None:
    """The fields, by the names that Strawberry knows them by, that are selected of the objects of a type below a field.

    Not of those that are reached through such an object. None where it is not known, and all may be.
    """
    return _known(lambda place, executor: _selected(place, executor, type_name), info)


def _known(ask: Callable[[Field, Executor[Any]], T | None], info: GraphQLResolveInfo[Any]) -> T | None:
    if not isinstance(info, Info) or not isinstance(info.place, Field):
        return None
    try:
        return ask(info.place, info.executor)
    except Exception as error:
        # What is wrong below is told where it is, not where it was looked for.
        log.debug("a selection that cannot be known: %s", error, exc_info=True)
        return None


def _selected(field: Field, executor: Executor[Any], type_name: str) -> tuple[str, ...]:
    names: tuple[str, ...] | None = field.notes.get(type_name)
    if names is None:
        names = field.notes[type_name] = tuple(sorted(_names(field, executor, type_name)))
    return names


def _names(field: Field, executor: Executor[Any], type_name: str) -> set[str]:
    if field.is_leaf:
        return set()
    type_, schema = field.named_type, executor.schema
    found: set[str] = set()
    for selection in (
        field.selection(executor, one) for one in ([type_] if is_object_type(type_) else schema.get_possible_types(type_))
    ):
        if selection.type.name == type_name:
            found |= {below.python_name for below in selection.fields}
        else:
            found = found.union(*(_names(below, executor, type_name) for below in selection.fields))
    return found


# ------------------------------------------------------------------------------------------------- as data


class Chosens(tuple["Chosen", ...]):  # noqa: SLOT001 - the hash has to stand somewhere
    """Selected fields as data. They are looked up by over and over, so their hash is made once.

    `size`: how many fields there are, those below included.
    """

    def __new__(cls, chosen: Iterable["Chosen"]) -> "Chosens":
        """Those of one selection."""
        made = super().__new__(cls, chosen)
        made._hash = tuple.__hash__(made)
        made.size = sum(1 + one.below.size for one in made)
        return made

    _hash: int
    size: int

    def __hash__(self) -> int:
        return self._hash


class Chosen(NamedTuple):
    """A selected field as data: its names in response and type, whether it is an attribute, its arguments, what is below."""

    key: str
    name: str
    is_attribute: bool
    arguments: tuple[tuple[str, Any], ...]
    below: Chosens


def chosen(info: GraphQLResolveInfo[Any], name: str, unless: str) -> Chosens | None:
    """What is selected of the objects under one field below the resolver's own, unless another one is selected beside it.

    None where that cannot be told as data: it is not selected, or twice, or something below it is of more than one type.
    """
    return _known(lambda place, executor: _objects(place, executor, name, unless), info)


def chosen_of(info: GraphQLResolveInfo[Any]) -> Chosens | None:
    """What is selected of the objects under the resolver's own field; None where that cannot be told as data."""
    return _known(_below, info)


def _objects(field: Field, executor: Executor[Any], name: str, unless: str) -> Chosens | None:
    if not is_object_type(field.named_type):
        return None
    below = field.selection(executor, field.named_type).fields
    found = [one for one in below if one.python_name in {name, unless}]
    return _below(found[0], executor) if [one.python_name for one in found] == [name] else None


_NOTHING = Chosens(())

# The note under which a field keeps what is below it, where that is always the same.
_BELOW = object()


def _below(field: Field, executor: Executor[Any]) -> Chosens | None:
    if field.is_leaf:
        return _NOTHING
    if not is_object_type(field.named_type):
        return None
    kept: Chosens | None = field.notes.get(_BELOW)
    if kept is None:
        fields = field.selection(executor, field.named_type).fields
        found = [_chosen(one, executor) for one in fields]
        kept = None if None in found else Chosens(one for one in found if one is not None)
        if kept is not None and not _varies(field, executor):
            field.notes[_BELOW] = kept
    return kept


def _chosen(field: Field, executor: Executor[Any]) -> Chosen | None:
    if field.method is None and not field.is_attribute and getattr(field.values_of, "func", None) is not constant:
        return None
    arguments = () if field.method is None else tuple(sorted(field.method.arguments(executor).items()))
    below = _below(field, executor)
    return None if below is None else Chosen(field.name, field.python_name, field.is_attribute, arguments, below)


def _varies(field: Field, executor: Executor[Any]) -> bool:
    below = field.selection(executor, field.named_type).fields
    return any(one.method is not None and not one.method.are_constant for one in below) or any(
        _varies(one, executor) for one in below if not one.is_leaf
    )
