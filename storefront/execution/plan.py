"""Execution plans, computed once per document: the selected fields of each object type, and how their values are resolved."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from cachetools import LRUCache
from graphql import (
    DocumentNode,
    ExecutableDefinitionNode,
    GraphQLObjectType,
    GraphQLResolveInfo,
    OperationDefinitionNode,
    get_named_type,
    get_operation_ast,
    is_leaf_type,
    is_object_type,
)
from graphql.execution import Executor, VariableValues
from graphql.pyutils import Path

from storefront.execution.completion import Unsupported, Wrapping, get_wrapping, is_short
from storefront.execution.coroutines import require_immediate
from storefront.execution.document_nodes import find_variable_names
from storefront.execution.resolve_info import FieldNodeContext, resolve_info
from storefront.execution.resolvers import MethodResolver, Resolver, get_resolver, resolve_attribute
from storefront.execution.strawberry_adapter import FieldDetails
from storefront.execution.variables import UnsupportedVariables, VariableCoercer

# The number of cached plans per document: one per operation and combination of conditions (@skip, @include).
MAX_PLANS = 16


class DocumentPlans:
    """The plans of one document: one per operation and combination of conditions. An LRU cache."""

    def __init__(self, document: DocumentNode | None = None) -> None:
        # Without a document these are the plans of a single execution, whose conditions do not change.
        self._condition_variables = tuple(sorted(_find_condition_variables(document))) if document else ()
        self._root_fields: LRUCache[Any, dict[str, FieldPlan]] = LRUCache(MAX_PLANS)
        self._operations: dict[str | None, OperationPlan] = {}

    def get_operation(self, name: str | None) -> "OperationPlan | None":
        """The plan of the operation with this name; None until an executor was built for it."""
        return self._operations.get(name)

    def store_operation(self, name: str | None, document: DocumentNode, executor: Executor[Any]) -> "OperationPlan":
        """Cache the operation with this name, with what an executor of it has found."""
        node = get_operation_ast(document, name)
        assert node is not None  # noqa: S101 - the executor has found it
        self._operations[name] = OperationPlan(node, executor)
        return self._operations[name]

    def get_root_field(
        self, executor: Executor[Any], name: str, type_: GraphQLObjectType, details: list[FieldDetails]
    ) -> "FieldPlan":
        """The plan of the root field with this response name, from the cache or computed."""
        variable_values = executor.variable_values.coerced
        key = id(executor.operation), *(variable_values.get(condition) for condition in self._condition_variables)
        fields_by_name = self._root_fields.setdefault(key, {})
        if name not in fields_by_name:
            fields_by_name[name] = FieldPlan(executor, type_, name, details)
        return fields_by_name[name]


class OperationPlan:
    """An operation with the fragments of its document, and the coercer of its variables."""

    def __init__(self, node: OperationDefinitionNode, executor: Executor[Any]) -> None:
        self.node = node
        self.fragment_definitions, self.fragments = executor.fragment_definitions, executor.fragments
        try:
            self._variable_coercer: VariableCoercer | None = VariableCoercer(executor.schema, node)
        except UnsupportedVariables:
            self._variable_coercer = None

    def coerce_variables(self, raw_values: Mapping[str, Any]) -> VariableValues | None:
        """Coerce the variables; None if graphql-core has to do it, as it reports what is invalid."""
        try:
            return self._variable_coercer.coerce_values(raw_values) if self._variable_coercer else None
        except UnsupportedVariables:
            return None


def _find_condition_variables(document: DocumentNode) -> set[str]:
    names: set[str] = set()
    pending = [node.selection_set for node in document.definitions if isinstance(node, ExecutableDefinitionNode)]
    while pending:
        for node in pending.pop().selections:
            for directive in node.directives or ():
                if directive.name.value in {"skip", "include"}:
                    names.update(find_variable_names(directive))
            if nested := getattr(node, "selection_set", None):
                pending.append(nested)
    return names


class SelectionPlan:
    """The fields that are selected on one object type below one field."""

    __slots__ = ("fields", "response_names", "type")

    def __init__(self, executor: Executor[Any], type_: GraphQLObjectType, details: list[FieldDetails]) -> None:
        details_by_name = executor.collect_subfields(type_, details).grouped_field_set
        self.type = type_
        self.fields = [
            FieldPlan(executor, type_, name, field_details)
            for name, field_details in details_by_name.items()
            if executor.schema.get_field(type_, field_details[0].node.name.value)
        ]
        self.response_names = [field.name for field in self.fields]


_EMPTY_MAPPING: Any = MappingProxyType({})


class FieldPlan(FieldNodeContext):
    """One field of a selection, and how its values are resolved. `memo` caches what callers derive from the field."""

    __slots__ = (
        "_selections_by_type",
        "is_attribute",
        "is_leaf",
        "is_long",
        "memo",
        "method_resolver",
        "named_type",
        "resolve_values",
        "wrapping",
    )

    def __init__(self, executor: Executor[Any], parent: GraphQLObjectType, name: str, details: list[FieldDetails]) -> None:
        if any(detail.fragment_variable_values for detail in details):
            raise Unsupported("arguments of fragments")
        definition = executor.schema.get_field(parent, details[0].node.name.value)
        assert definition is not None  # noqa: S101 - a valid document selects what the type has
        super().__init__(definition, parent, name, details)
        self.wrapping: Wrapping = get_wrapping(definition.type)
        self.named_type: Any = get_named_type(definition.type)
        self.is_leaf = is_leaf_type(self.named_type)
        # Leaves that may be long: texts, and JSON.
        self.is_long = self.is_leaf and not is_short(self.named_type)
        self.resolve_values: Resolver = get_resolver(self, executor.schema)
        self.is_attribute = getattr(self.resolve_values, "func", None) is resolve_attribute
        self.method_resolver: MethodResolver | None = getattr(self.resolve_values, "__self__", None)
        # Most fields are leaves, which have neither selections nor a memo: they share an empty mapping.
        self._selections_by_type: dict[str, SelectionPlan] = _EMPTY_MAPPING if self.is_leaf else {}
        self.memo: dict[Any, Any] = _EMPTY_MAPPING if self.is_leaf else {}

    def get_selection(self, executor: Executor[Any], type_: GraphQLObjectType) -> SelectionPlan:
        """The selection below, for objects of a type."""
        selection = self._selections_by_type.get(type_.name)
        if selection is None:
            selection = self._selections_by_type[type_.name] = SelectionPlan(executor, type_, self.details)
        return selection

    def group_by_type(
        self, executor: Executor[Any], path: Path, objects: Sequence[Any]
    ) -> Mapping[GraphQLObjectType, Sequence[int]]:
        """The indexes of the objects by their object type. Raises Unsupported."""
        type_ = self.named_type
        if is_object_type(type_) and type_.is_type_of is None:
            return {type_: range(len(objects))}
        info = resolve_info(executor, self, path)
        if is_object_type(type_):
            if not all(_is_instance_of(type_, value, info) for value in objects):
                raise Unsupported("an object of another type")
            return {type_: range(len(objects))}
        resolve_type = type_.resolve_type or executor.type_resolver
        indexes_by_type: dict[GraphQLObjectType, list[int]] = {}
        for index, value in enumerate(objects):
            name = require_immediate(resolve_type(value, info, type_))
            runtime_type = executor.ensure_valid_runtime_type(name, type_, self.details, info, value)
            if not _is_instance_of(runtime_type, value, info):
                raise Unsupported("an object of another type")
            indexes_by_type.setdefault(runtime_type, []).append(index)
        return indexes_by_type


def _is_instance_of(type_: GraphQLObjectType, value: Any, info: GraphQLResolveInfo[Any]) -> bool:
    return type_.is_type_of is None or require_immediate(type_.is_type_of(value, info)) is True
