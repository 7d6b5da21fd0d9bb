"""Look-ahead: the selection below a resolver's field, so that it loads only what is selected, or all of it in one statement."""

import logging
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

from graphql import is_object_type
from graphql.execution import Executor
from strawberry import Info

from storefront.execution.plan import FieldPlan
from storefront.execution.resolve_info import ResolveInfo
from storefront.execution.resolvers import resolve_constant
from storefront.execution.strawberry_adapter import get_raw_info

log = logging.getLogger("storefront.execution")

T = TypeVar("T")


def get_selected_names(info: Info[Any, Any], type_name: str) -> tuple[str, ...] | None:
    """The Python names of the fields that are selected on objects of a type below the resolver's field.

    Objects nested in such an object do not count. None if the selection is unknown; then any field may be selected.
    """
    return _inspect_selection(lambda field, executor: _get_field_names(field, executor, type_name), info)


def _inspect_selection(inspect: Callable[[FieldPlan, Executor[Any]], T | None], info: Info[Any, Any]) -> T | None:
    raw_info = get_raw_info(info)
    if not isinstance(raw_info, ResolveInfo) or not isinstance(raw_info.field_context, FieldPlan):
        return None
    try:
        return inspect(raw_info.field_context, raw_info.executor)
    except Exception as error:
        # An invalid selection is reported by the field that has it, not by the look-ahead.
        log.debug("no look-ahead for a selection: %s", error, exc_info=True)
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


class SelectionTree(tuple["SelectedField", ...]):  # noqa: SLOT001 - it stores its hash
    """Selected fields as data. It is a cache key, so its hash is computed once.

    `size`: the number of fields at all levels.
    """

    def __new__(cls, fields: Iterable["SelectedField"]) -> "SelectionTree":
        """Create the tree of one selection."""
        tree = super().__new__(cls, fields)
        tree._hash = tuple.__hash__(tree)
        tree.size = sum(1 + field.children.size for field in tree)
        return tree

    _hash: int
    size: int

    def __hash__(self) -> int:
        return self._hash


class SelectedField(NamedTuple):
    """A selected field as data: its response name, its Python name, whether it is an attribute, its arguments, its children."""

    response_name: str
    name: str
    is_attribute: bool
    arguments: tuple[tuple[str, Any], ...]
    children: SelectionTree


def get_child_selection(info: Info[Any, Any], name: str, excluded_name: str) -> SelectionTree | None:
    """The selection below one child of the resolver's field; None if the excluded child is selected as well.

    Also None if the child is not selected or selected twice, or if a field below it has an abstract type.
    """
    return _inspect_selection(lambda field, executor: _get_child_tree(field, executor, name, excluded_name), info)


def get_child_field(info: Info[Any, Any], name: str) -> SelectedField | None:
    """A child of the resolver's field, with its arguments and selection; None as for `get_child_selection`."""
    return _inspect_selection(lambda field, executor: _get_child_field(field, executor, name), info)


def get_selection(info: Info[Any, Any]) -> SelectionTree | None:
    """The selection below the resolver's field; None if it cannot be represented as a tree, such as for an abstract type."""
    return _inspect_selection(_get_tree, info)


def _get_child_tree(field: FieldPlan, executor: Executor[Any], name: str, excluded_name: str) -> SelectionTree | None:
    if not is_object_type(field.named_type):
        return None
    children = field.get_selection(executor, field.named_type).fields
    matching = [child for child in children if child.python_name in {name, excluded_name}]
    return _get_tree(matching[0], executor) if [child.python_name for child in matching] == [name] else None


_EMPTY_TREE = SelectionTree(())


def _get_child_field(field: FieldPlan, executor: Executor[Any], name: str) -> SelectedField | None:
    if not is_object_type(field.named_type):
        return None
    matching = [child for child in field.get_selection(executor, field.named_type).fields if child.python_name == name]
    return _to_selected_field(matching[0], executor) if len(matching) == 1 else None


# The memo key of a field's tree, which is cached if no argument in it depends on variables.
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
    arguments = (
        () if field.method_resolver is None else tuple(sorted(field.method_resolver.get_arguments(field, executor).items()))
    )
    children = _get_tree(field, executor)
    return None if children is None else SelectedField(field.name, field.python_name, field.is_attribute, arguments, children)


def _has_variable_arguments(field: FieldPlan, executor: Executor[Any]) -> bool:
    children = field.get_selection(executor, field.named_type).fields
    return any(
        child.method_resolver is not None and not child.method_resolver.has_constant_arguments for child in children
    ) or any(_has_variable_arguments(child, executor) for child in children if not child.is_leaf)
