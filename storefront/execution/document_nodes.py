"""Helpers for the nodes of parsed documents (the AST)."""

from collections.abc import Iterator

from graphql import Node, OperationDefinitionNode, VariableNode, Visitor, visit


def find_variable_names(node: Node) -> Iterator[str]:
    """The names of the variables below a node, each as often as it is used."""
    names: list[str] = []

    class Collector(Visitor):
        def enter_variable(self, node: VariableNode, *_: object) -> None:
            names.append(node.name.value)

    visit(node, Collector())
    yield from names


def get_operation_name(operation: OperationDefinitionNode | None) -> str | None:
    """The name of an operation; None if it has none, or there is no operation."""
    return operation.name.value if operation and operation.name else None
