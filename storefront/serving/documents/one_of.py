"""Validation rule "All Variable Usages Are Allowed", also for the fields of non-null OneOf inputs.

graphql-core checks the parent type as it is declared, and so misses the fields of `by: ProductByInput!`.
"""

from typing import Any

from graphql import (
    GraphQLError,
    OperationDefinitionNode,
    VariablesInAllowedPositionRule,
    get_nullable_type,
    is_input_object_type,
    is_non_null_type,
    is_nullable_type,
    type_from_ast,
)


class OneOfVariablesRule(VariablesInAllowedPositionRule):
    """Rejects a nullable variable as the field of a OneOf input."""

    def leave_operation_definition(self, operation: OperationDefinitionNode, *_args: Any) -> None:
        """Check the variable usages of an operation."""
        super().leave_operation_definition(operation, *_args)
        for usage in self.context.get_recursive_variable_usages(operation):
            parent: Any = get_nullable_type(usage.parent_type) if is_non_null_type(usage.parent_type) else None
            if not is_input_object_type(parent) or not parent.is_one_of:
                continue
            name = usage.node.name.value
            definition = usage.fragment_variable_definition or self.var_def_map.get(name)
            type_ = type_from_ast(self.context.schema, definition.type) if definition else None
            if definition and type_ and is_nullable_type(type_):
                problem = f"Variable '${name}' is of type '{type_}' but must be non-nullable to be used for OneOf Input Object"
                self.report_error(GraphQLError(f"{problem} '{parent}'.", [definition, usage.node]))
