"""What a resolver may know of the selection below its field: to load no more than is asked for, or all of it at once."""

import logging
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

from graphql import GraphQLResolveInfo, is_object_type
from graphql.execution import Executor

from storefront.execution.plan import FieldPlan
from storefront.execution.resolve_info import ResolveInfo
from storefront.execution.resolvers import resolve_constant

log = logging.getLogger("storefront.execution")

T = TypeVar("T")


def get_selected_names(info: GraphQLResolveInfo[Any], type_name: str) -> tuple[str, ...] | None:
    """The fields, by the names that Strawberry knows them by, that are selected of the objects of a type below a field.

    Not of those that are reached through such an object. None where it is not known, and all may be.
    """
    return _inspect_selection(lambda field, executor: _get_field_names(field, executor, type_name), info)


def _inspect_selection(inspect: Callable[[FieldPlan, Executor[Any]], T | None], info: GraphQLResolveInfo[Any]) -> T | None:
    if not isinstance(info, ResolveInfo) or not isinstance(info.field_context, FieldPlan):
        return None
    try:
        return inspect(info.field_context, info.executor)
    except Exception as error:
        # What is wrong below is told where it is, not where it was looked for.
        log.debug("a selection that cannot be known: %s", error, exc_info=True)
        return None


def _get_field_names(field: FieldPlan, executor: Executor[Any], type_name: str) -> tuple[str, ...]:
    names: tuple[str, ...] | None = field.memo.get(type_name)
    if names is None:
        names = field.memo[type_name] = tuple(sorted(_collect_field_names(field, executor, type_name)))
    return names


def _collect_field_names(field: FieldPlan, executor: Executor[Any], type_name: str) -> set[str]:
    if field.is_leaf:
        return set()
    type_, schema = field.named_type, executor.schema
    names: set[str] = set()
    for selection in (
        field.get_selection(executor, possible_type)
        for possible_type in ([type_] if is_object_type(type_) else schema.get_possible_types(type_))
    ):
        if selection.type.name == type_name:
            names |= {child.python_name for child in selection.fields}
        else:
            names = names.union(*(_collect_field_names(child, executor, type_name) for child in selection.fields))
    return names


# ------------------------------------------------------------------------------------------------- as data


class SelectionTree(tuple["SelectedField", ...]):  # noqa: SLOT001 - the hash has to stand somewhere
    """Selected fields as data. They are looked up by over and over, so their hash is made once.

    `size`: how many fields there are, those below included.
    """

    def __new__(cls, fields: Iterable["SelectedField"]) -> "SelectionTree":
        """Those of one selection."""
        tree = super().__new__(cls, fields)
        tree._hash = tuple.__hash__(tree)
        tree.size = sum(1 + field.children.size for field in tree)
        return tree

    _hash: int
    size: int

    def __hash__(self) -> int:
        return self._hash


class SelectedField(NamedTuple):
    """A selected field as data: its names in response and type, whether it is an attribute, its arguments, what is below."""

    response_name: str
    name: str
    is_attribute: bool
    arguments: tuple[tuple[str, Any], ...]
    children: SelectionTree


def get_child_selection(info: GraphQLResolveInfo[Any], name: str, excluded_name: str) -> SelectionTree | None:
    """What is selected of the objects under one field below the resolver's own, unless another one is selected beside it.

    None where that cannot be told as data: it is not selected, or twice, or something below it is of more than one type.
    """
    return _inspect_selection(lambda field, executor: _get_child_tree(field, executor, name, excluded_name), info)


def get_selection(info: GraphQLResolveInfo[Any]) -> SelectionTree | None:
    """What is selected of the objects under the resolver's own field; None where that cannot be told as data."""
    return _inspect_selection(_get_tree, info)


def _get_child_tree(field: FieldPlan, executor: Executor[Any], name: str, excluded_name: str) -> SelectionTree | None:
    if not is_object_type(field.named_type):
        return None
    children = field.get_selection(executor, field.named_type).fields
    matching = [child for child in children if child.python_name in {name, excluded_name}]
    return _get_tree(matching[0], executor) if [child.python_name for child in matching] == [name] else None


_EMPTY_TREE = SelectionTree(())

# The note under which a field keeps what is below it, where that is always the same.
_TREE_MEMO = object()


def _get_tree(field: FieldPlan, executor: Executor[Any]) -> SelectionTree | None:
    if field.is_leaf:
        return _EMPTY_TREE
    if not is_object_type(field.named_type):
        return None
    tree: SelectionTree | None = field.memo.get(_TREE_MEMO)
    if tree is None:
        fields = field.get_selection(executor, field.named_type).fields
        children = [_to_selected_field(child, executor) for child in fields]
        tree = None if None in children else SelectionTree(child for child in children if child is not None)
        if tree is not None and not _has_variable_arguments(field, executor):
            field.memo[_TREE_MEMO] = tree
    return tree


def _to_selected_field(field: FieldPlan, executor: Executor[Any]) -> SelectedField | None:
    if (
        field.method_resolver is None
        and not field.is_attribute
        and getattr(field.resolve_values, "func", None) is not resolve_constant
    ):
        return None
    arguments = () if field.method_resolver is None else tuple(sorted(field.method_resolver.get_arguments(executor).items()))
    children = _get_tree(field, executor)
    return None if children is None else SelectedField(field.name, field.python_name, field.is_attribute, arguments, children)


def _has_variable_arguments(field: FieldPlan, executor: Executor[Any]) -> bool:
    children = field.get_selection(executor, field.named_type).fields
    return any(
        child.method_resolver is not None and not child.method_resolver.has_constant_arguments for child in children
    ) or any(_has_variable_arguments(child, executor) for child in children if not child.is_leaf)
