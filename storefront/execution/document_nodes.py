"""Helpers for the nodes of parsed documents (the AST)."""

from collections.abc import Iterator
from dataclasses import replace

from graphql import DocumentNode, Node, OperationDefinitionNode, VariableNode


def find_variable_names(node: Node) -> Iterator[str]:
    """The names of the variables below a node, each as often as it is used."""
    if isinstance(node, VariableNode):
        yield node.name.value
        return
    for key in node.keys:
        child = getattr(node, key, None)
        for child_node in child if isinstance(child, tuple | list) else (child,):
            if isinstance(child_node, Node):
                yield from find_variable_names(child_node)


def omit_variable_definitions(document: DocumentNode) -> DocumentNode:
    """The document with operations that define no variables."""
    definitions = (
        replace(definition, variable_definitions=()) if isinstance(definition, OperationDefinitionNode) else definition
        for definition in document.definitions
    )
    return replace(document, definitions=tuple(definitions))


def get_operation_name(operation: OperationDefinitionNode | None) -> str | None:
    """The name of an operation; None if it has none, or there is no operation."""
    return operation.name.value if operation and operation.name else None
