"""Adapter to the internals of Strawberry and graphql-core. Names that are private or undocumented there are used here only.

Fits strawberry-graphql 0.341 and graphql-core 3.3 from 3.3.2 on, as pyproject.toml pins them. Before one of these pins is raised,
check each adaptation below against the new version; `tests/execution` runs graphql-core's own tests on top of them.
"""

from collections.abc import Mapping
from enum import Enum
from types import FunctionType
from typing import Any

import strawberry
from graphql import GraphQLResolveInfo, GraphQLSchema
from graphql.execution.collect_fields import FieldDetails, GroupedFieldSet
from graphql.execution.get_variable_signature import GraphQLVariableSignature, get_variable_signature
from graphql.execution.values import VariableValueSource
from graphql.language.ast import QUERY_DOCUMENT_KEYS
from graphql.language.parser import Parser
from graphql.pyutils import RefMap
from graphql.utilities.coerce_input_value import coerce_default_value
from graphql.validation.validation_context import ValidationContext, VariableUsageVisitor
from strawberry.schema.schema_converter import GraphQLCoreConverter
from strawberry.types.arguments import InputContext, convert_argument
from strawberry.types.base import StrawberryList, StrawberryMaybe, StrawberryObjectDefinition, StrawberryOptional
from strawberry.types.field import StrawberryField
from strawberry.types.lazy_type import LazyType

# graphql-core exports these from no package: FieldDetails (a field node and the variables of the fragment that it stands in) and
# lists of them by response name, the parsed signature of a variable, a variable's raw value with its signature, the coercion of
# an input field's default, the keys of each node's children, the parser, and the visitor that finds uses of variables.
# Strawberry documents none of its type wrappers.
__all__ = [
    "DEFINITION_EXTENSION_KEY",
    "EXECUTE_DEFAULT_ARGUMENTS",
    "QUERY_DOCUMENT_KEYS",
    "FieldDetails",
    "GraphQLVariableSignature",
    "GroupedFieldSet",
    "IdentityValidationContext",
    "LazyType",
    "Parser",
    "StrawberryField",
    "StrawberryList",
    "StrawberryMaybe",
    "StrawberryObjectDefinition",
    "StrawberryOptional",
    "VariableUsageVisitor",
    "VariableValueSource",
    "coerce_default_value",
    "convert_with_strawberry",
    "create_info",
    "create_input_context",
    "declare_enum",
    "get_custom_input_factory",
    "get_graphql_schema",
    "get_info_parameter_name",
    "get_plain_method",
    "get_raw_info",
    "get_strawberry_field",
    "get_strawberry_schema",
    "get_variable_signature",
    "has_exception_handlers",
    "is_attribute_field",
]

# The key of `extensions` under which Strawberry stores the definition that a graphql-core type, field or argument was built from,
# and the Strawberry schema of a graphql-core schema.
DEFINITION_EXTENSION_KEY = GraphQLCoreConverter.DEFINITION_BACKREF

# What graphql-core's `execute` passes to `Executor.build` after the operation name when its caller sets nothing else: the three
# resolvers, 50 coercion errors at most, no early execution, no middleware, and its own checks for awaitables and async iterables.
EXECUTE_DEFAULT_ARGUMENTS = (None, None, None, 50, False, None, None, None)


class IdentityValidationContext(ValidationContext):
    """A validation context that recognises nodes by identity. graphql-core hashes them, which visits all nodes below."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        caches: Any = self
        caches._fragment_spreads, caches._variable_usages, caches._recursive_variable_usages = RefMap(), RefMap(), RefMap()


def get_graphql_schema(schema: strawberry.Schema) -> GraphQLSchema:
    """The graphql-core schema that a Strawberry schema wraps. Strawberry has it as the private attribute `_schema`."""
    return schema._schema


def get_strawberry_schema(schema: GraphQLSchema) -> Any:
    """The Strawberry schema that a graphql-core schema was built from. Raises KeyError if there is none."""
    return schema.extensions[DEFINITION_EXTENSION_KEY]


def get_strawberry_field(definition: Any) -> StrawberryField | None:
    """The Strawberry field that a graphql-core field was built from; None for a field from elsewhere."""
    field = definition.extensions.get(DEFINITION_EXTENSION_KEY)
    return field if isinstance(field, StrawberryField) else None


def declare_enum(enum: type[Enum], name: str, description: str, value_descriptions: Mapping[str, str]) -> None:
    """Declare an enum of a layer without GraphQL as an enum type, with a description for each value by its name.

    Strawberry takes descriptions of values only from the class body. Raises KeyError for a value without a description.
    """
    strawberry.enum(enum, name=name, description=description)
    for value in enum.__strawberry_definition__.values:  # type: ignore[attr-defined]
        value.description = value_descriptions[value.name]


def get_raw_info(info: strawberry.Info[Any, Any]) -> GraphQLResolveInfo[Any]:
    """graphql-core's info behind Strawberry's. Strawberry has it as the private attribute `_raw_info`."""
    return info._raw_info


def create_info(schema: GraphQLSchema, raw_info: GraphQLResolveInfo[Any], field: StrawberryField) -> Any:
    """Strawberry's `info` for a resolver of a field: of the class that the schema configures, whose arguments are private."""
    return get_strawberry_schema(schema).config.info_class(_raw_info=raw_info, _field=field)


def has_exception_handlers(schema: GraphQLSchema) -> bool:
    """Whether Strawberry's resolver wrappers convert exceptions: then they must not be bypassed."""
    return bool(get_strawberry_schema(schema).exception_handlers)


def get_plain_method(field: object) -> FunctionType | None:
    """The function behind a Strawberry field that is a method without field extensions; None for any other field.

    It is called with the parent object, and with `info` if it declares that. Strawberry wraps it in `base_resolver`.
    """
    if not isinstance(field, StrawberryField) or field.extensions or field.base_resolver is None:
        return None
    resolver = field.base_resolver
    is_method = resolver.self_parameter is not None and not (resolver.parent_parameter or resolver.root_parameter)
    return resolver.wrapped_func if is_method and isinstance(resolver.wrapped_func, FunctionType) else None


def get_info_parameter_name(field: StrawberryField) -> str | None:
    """The name of the parameter in which the field's method takes `info`; None if it takes none."""
    parameter = field.base_resolver.info_parameter if field.base_resolver else None
    return parameter.name if parameter else None


def is_attribute_field(field: StrawberryField) -> bool:
    """Whether the field reads an attribute of its parent: it has no resolver, extensions or permissions."""
    return field.is_basic_field and field.default_resolver is getattr


def convert_with_strawberry(type_: Any, schema: Any, value: Any, info: Any) -> Any:
    """Convert an argument as Strawberry itself does, for types that `arguments` does not convert. `schema` is Strawberry's."""
    return convert_argument(value, type_, schema.schema_converter.scalar_registry, schema.config, info)


def create_input_context(schema: Any, info: Any) -> InputContext:
    """What Strawberry passes to an input type's own conversion beside the value. `schema` is Strawberry's."""
    return InputContext(config=schema.config, scalar_registry=schema.schema_converter.scalar_registry, path=(), info=info)


def get_custom_input_factory(definition: Any) -> Any:
    """The function by which an input type converts its values itself; None where Strawberry converts them field by field."""
    return definition.from_input
