"""The cost of introspection: an operation may read about as much of the schema as the standard introspection query does.

Introspection reads no database, but a large schema under forty aliases takes as long as hundreds of pages. Its cost is therefore
limited by itself, relative to this schema. Conditions (@skip, @include) are ignored: they do not make a document cheaper.
"""

from collections.abc import Hashable, Mapping, Sequence
from enum import Enum
from functools import lru_cache
from typing import Any

from graphql import (
    DocumentNode,
    GraphQLEnumType,
    GraphQLField,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLNamedType,
    GraphQLObjectType,
    GraphQLSchema,
    OperationDefinitionNode,
    get_introspection_query,
    get_named_type,
    get_nullable_type,
    introspection_types,
    is_abstract_type,
    is_leaf_type,
    is_list_type,
    parse,
)

from storefront.serving.documents.field_merging import (
    FieldCollector,
    FieldOccurrence,
    SelectionLevel,
    get_child_level,
    get_level_key,
)

# Measured: the time of an object, and of a list, in leaves.
_OBJECT_WEIGHT, _LIST_WEIGHT = 4, 2
# Tools add fields to the standard query, or ask for types that are wrapped more deeply.
_ALLOWANCE = 1.25
_ROOT_FIELDS = {"__schema", "__type"}
_TYPE = introspection_types["__Type"]
# It counts like a list with less than one item.
OF_TYPE_FIELD: GraphQLField = _TYPE.fields["ofType"]  # type: ignore[attr-defined]

Sizes = Mapping[str, float]


def estimate_introspection(schema: GraphQLSchema, document: DocumentNode, operation: OperationDefinitionNode) -> int:
    """The cost of the operation's introspection fields; 0 without any."""
    collector = FieldCollector(schema, document)
    root_fields = collector.collect_fields([(schema.get_root_type(operation.operation), operation.selection_set)])
    groups = [group for group in root_fields.values() if group[0].node.name.value in _ROOT_FIELDS]
    estimator = _Estimator(schema, collector)
    return round(sum(estimator.estimate_level(get_child_level(group), _Scope.ANY) for group in groups))


@lru_cache(10)
def compute_max_introspection(schema: GraphQLSchema) -> int:
    """The maximum cost of an operation's introspection fields."""
    document = parse(
        get_introspection_query(
            specified_by_url=True, directive_is_repeatable=True, schema_description=True, input_value_deprecation=True
        )
    )
    (operation,) = document.definitions[:1]
    assert isinstance(operation, OperationDefinitionNode)  # noqa: S101 - the query begins with its operation
    return round(_ALLOWANCE * estimate_introspection(schema, document, operation))


class _Scope(Enum):
    """Which types an object of introspection stands for: each of the schema, those that its fields refer to, or any one."""

    ALL, REFERENCED, ANY = "all", "referenced", "any"


class _Estimator:
    """Estimates levels of introspection fields, each of them once."""

    def __init__(self, schema: GraphQLSchema, collector: FieldCollector) -> None:
        self._collector, self._sizes = collector, _compute_sizes(schema)
        self._estimates: dict[Hashable, float] = {}

    def estimate_level(self, level: SelectionLevel, scope: _Scope) -> float:
        """The cost of one object at a level."""
        key = get_level_key(level), scope
        if key not in self._estimates:
            groups = self._collector.collect_fields(level).values()
            self._estimates[key] = _OBJECT_WEIGHT + sum(self._estimate_field(group, scope) for group in groups)
        return self._estimates[key]

    def _estimate_field(self, group: Sequence[FieldOccurrence], scope: _Scope) -> float:
        parent, node, definition, _ = group[0]
        if parent is None or definition is None or is_leaf_type(get_named_type(definition.type)):
            return 1
        coordinate, child_scope = f"{parent.name}.{node.name.value}", scope
        if coordinate == "__Schema.types":
            child_scope = _Scope.ALL
        elif scope is _Scope.ALL and get_named_type(definition.type) is _TYPE:
            child_scope = _Scope.REFERENCED
        list_weight = _LIST_WEIGHT if is_list_type(get_nullable_type(definition.type)) else 0
        child_cost = self.estimate_level(get_child_level(group), child_scope)
        return list_weight + self._sizes[scope].get(coordinate, 1) * child_cost


# ------------------------------------------------------------------------------------------------ sizes


def compute_introspection_sizes(schema: GraphQLSchema) -> Sizes:
    """The average sizes of introspection's lists in this schema, by coordinate."""
    return _compute_sizes(schema)[_Scope.ALL]


@lru_cache(10)
def _compute_sizes(schema: GraphQLSchema) -> Mapping[_Scope, Sizes]:
    types = [*schema.type_map.values()]
    fields = [field for type_ in types for field in getattr(type_, "fields", {}).values()]
    references = [input_or_output.type for field in fields for input_or_output in (field, *getattr(field, "args", {}).values())]
    wrapper_count = sum(map(_count_wrappers, references))
    constant_sizes = {
        "__Schema.types": len(types),
        "__Schema.directives": len(schema.directives),
        "__Directive.args": _compute_mean([len(directive.args) for directive in schema.directives]),
        # Null for most types: the share of types that wrap another one, among those of fields and arguments and those inside.
        "__Type.ofType": wrapper_count / (wrapper_count + len(references)),
    }
    lists_of_all = _collect_list_sizes(schema, types)
    lists_of_referenced = _collect_list_sizes(schema, [get_named_type(type_) for type_ in references])
    return {
        _Scope.ALL: constant_sizes | {name: _compute_mean(sizes) for name, sizes in lists_of_all.items()},
        _Scope.REFERENCED: constant_sizes | {name: _compute_mean(sizes) for name, sizes in lists_of_referenced.items()},
        _Scope.ANY: constant_sizes | {name: max(sizes, default=0) for name, sizes in lists_of_all.items()},
    }


def _collect_list_sizes(schema: GraphQLSchema, types: Sequence[GraphQLNamedType]) -> Mapping[str, list[int]]:
    """The sizes of the lists of each type and of its fields, by coordinate."""
    composite = (GraphQLObjectType, GraphQLInterfaceType)

    def list_sizes(attribute: str, kinds: Any) -> list[int]:
        return [len(getattr(type_, attribute)) if isinstance(type_, kinds) else 0 for type_ in types]

    return {
        "__Type.fields": list_sizes("fields", composite),
        "__Type.inputFields": list_sizes("fields", GraphQLInputObjectType),
        "__Type.enumValues": list_sizes("values", GraphQLEnumType),
        "__Type.interfaces": list_sizes("interfaces", composite),
        "__Type.possibleTypes": [len(schema.get_possible_types(type_)) if is_abstract_type(type_) else 0 for type_ in types],
        "__Field.args": [len(field.args) for type_ in types if isinstance(type_, composite) for field in type_.fields.values()],
    }


def _compute_mean(sizes: Sequence[int]) -> float:
    return sum(sizes) / max(len(sizes), 1)


def _count_wrappers(type_: Any) -> int:
    """The number of list and non-null types around a named type."""
    return 1 + _count_wrappers(type_.of_type) if hasattr(type_, "of_type") else 0
