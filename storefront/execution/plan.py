"""What an operation selects, worked out once for its document: the fields of each object type, and the way to their values."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from graphql import (
    DirectiveNode,
    DocumentNode,
    GraphQLObjectType,
    GraphQLResolveInfo,
    Visitor,
    get_named_type,
    is_leaf_type,
    is_object_type,
    visit,
)
from graphql.execution import Executor
from graphql.execution.collect_fields import FieldDetails
from graphql.execution.values import VariableValues
from graphql.pyutils import Path

from storefront.execution.completion import Unplanned, Wrapping, wrapping
from storefront.execution.coroutines import at_once
from storefront.execution.resolve_info import Place, info_of, variables
from storefront.execution.resolvers import Method, Way, attribute, way_to
from storefront.execution.variables import Unclear, Variables

# How many combinations of conditions (@skip, @include) of one document are kept.
MOST_PLANS = 16


class Plans:
    """The plans of one document: one per operation and outcome of the conditions in it."""

    def __init__(self, document: DocumentNode | None = None) -> None:
        # Without a document these are the plans of one execution, whose conditions stay what they are.
        self._conditions = tuple(sorted(_conditions(document))) if document else ()
        self._roots: OrderedDict[Any, dict[str, Field]] = OrderedDict()
        self._operations: dict[str | None, Operation] = {}

    def operation(self, name: str | None) -> "Operation | None":
        """The operation that is meant by a name, once an executor was built for it."""
        return self._operations.get(name)

    def keep_operation(self, name: str | None, executor: Executor[Any]) -> None:
        """Remember the operation that an executor was built for."""
        if name not in self._operations:
            self._operations[name] = Operation(executor)

    def root_field(self, executor: Executor[Any], name: str, type_: GraphQLObjectType, details: list[FieldDetails]) -> "Field":
        """The plan of a root field, by its response name."""
        values = executor.variable_values.coerced
        key = id(executor.operation), *(values.get(condition) for condition in self._conditions)
        fields = self._roots.setdefault(key, {})
        self._roots.move_to_end(key)
        while len(self._roots) > MOST_PLANS:
            self._roots.popitem(last=False)
        if name not in fields:
            fields[name] = Field(executor, type_, name, details)
        return fields[name]


class Operation:
    """An operation with the fragments of its document, and how its variables are read."""

    def __init__(self, executor: Executor[Any]) -> None:
        self.node = executor.operation
        self.fragment_definitions, self.fragments = executor.fragment_definitions, executor.fragments
        try:
            self._variables: Variables | None = Variables(executor.schema, executor.operation)
        except Unclear:
            self._variables = None

    def values(self, given: Mapping[str, Any]) -> VariableValues | None:
        """The variables with these values; None where graphql-core has to say what they are."""
        try:
            return self._variables.values(given) if self._variables else None
        except Unclear:
            return None


def _conditions(document: DocumentNode) -> set[str]:
    found: set[str] = set()

    class Collector(Visitor):
        def enter_directive(self, node: DirectiveNode, *_: Any) -> None:
            if node.name.value in {"skip", "include"}:
                found.update(variables(node))

    visit(document, Collector())
    return found


class Selection:
    """The fields that are selected of one object type under one field."""

    __slots__ = ("fields", "names", "type")

    def __init__(self, executor: Executor[Any], type_: GraphQLObjectType, details: list[FieldDetails]) -> None:
        grouped = executor.collect_subfields(type_, details).grouped_field_set
        self.type = type_
        self.fields = [
            Field(executor, type_, name, group)
            for name, group in grouped.items()
            if executor.schema.get_field(type_, group[0].node.name.value)
        ]
        self.names = [field.name for field in self.fields]


_NOTHING: Any = MappingProxyType({})


class Field(Place):
    """One field of a selection. `notes` are for who wants to remember something about it."""

    __slots__ = ("_selections", "is_attribute", "is_leaf", "method", "named_type", "notes", "values_of", "wrapping")

    def __init__(self, executor: Executor[Any], parent: GraphQLObjectType, name: str, details: list[FieldDetails]) -> None:
        if any(one.fragment_variable_values for one in details):
            raise Unplanned("arguments of fragments")
        definition = executor.schema.get_field(parent, details[0].node.name.value)
        assert definition is not None  # noqa: S101 - a valid document selects what the type has
        super().__init__(definition, parent, name, details)
        self.wrapping: Wrapping = wrapping(definition.type)
        self.named_type: Any = get_named_type(definition.type)
        self.is_leaf = is_leaf_type(self.named_type)
        self.values_of: Way = way_to(self, executor.schema)
        self.is_attribute = getattr(self.values_of, "func", None) is attribute
        self.method: Method | None = getattr(self.values_of, "__self__", None)
        # Most fields are leaves, and nothing is below those, or to be noted.
        self._selections: dict[str, Selection] = _NOTHING if self.is_leaf else {}
        self.notes: dict[Any, Any] = _NOTHING if self.is_leaf else {}

    def selection(self, executor: Executor[Any], type_: GraphQLObjectType) -> Selection:
        """What is selected below, for objects of a type."""
        found = self._selections.get(type_.name)
        if found is None:
            found = self._selections[type_.name] = Selection(executor, type_, self.details)
        return found

    def by_type(self, executor: Executor[Any], path: Path, objects: Sequence[Any]) -> Mapping[GraphQLObjectType, Sequence[int]]:
        """Which of the objects are of which type."""
        type_ = self.named_type
        if is_object_type(type_) and type_.is_type_of is None:
            return {type_: range(len(objects))}
        info = info_of(executor, self, path)
        if is_object_type(type_):
            if not all(_is_of(type_, one, info) for one in objects):
                raise Unplanned("an object of another type")
            return {type_: range(len(objects))}
        resolve = type_.resolve_type or executor.type_resolver
        groups: dict[GraphQLObjectType, list[int]] = {}
        for index, one in enumerate(objects):
            name = at_once(resolve(one, info, type_))
            found = executor.ensure_valid_runtime_type(name, type_, self.details, info, one)
            if not _is_of(found, one, info):
                raise Unplanned("an object of another type")
            groups.setdefault(found, []).append(index)
        return groups


def _is_of(type_: GraphQLObjectType, one: Any, info: GraphQLResolveInfo[Any]) -> bool:
    return type_.is_type_of is None or at_once(type_.is_type_of(one, info)) is True
