"""The schema compared with tests/contract.graphql, the target of the first release.

`python -m tests.contract` writes the differences to tests/contract_differences.txt.
"""

from pathlib import Path
from typing import Any

from graphql import (
    GraphQLEnumType,
    GraphQLInputObjectType,
    GraphQLSchema,
    GraphQLUnionType,
    build_schema,
    is_introspection_type,
    is_specified_directive,
    is_specified_scalar_type,
    print_ast,
)

FOLDER = Path(__file__).parent
TARGET, DIFFERENCES = FOLDER / "contract.graphql", FOLDER / "contract_differences.txt"
HEADER = "# Differences between schema.graphql and contract.graphql: - only in the schema, + only in the target, ~ in both.\n"


def describe_schema(schema: GraphQLSchema) -> dict[str, str]:
    """Everything that documents depend on, by coordinate: kinds, interfaces, members, types and defaults."""
    described = {}
    for directive in schema.directives:
        if not is_specified_directive(directive):
            described[f"@{directive.name}"] = "directive on " + " | ".join(sorted(one.name for one in directive.locations))
            described |= _describe_inputs(f"@{directive.name}", directive.args)
    for type_ in schema.type_map.values():
        if not (is_introspection_type(type_) or is_specified_scalar_type(type_)):
            described[type_.name] = _describe_type(type_)
            described |= _describe_members(type_)
    return described


def _describe_type(type_: Any) -> str:
    kind = type(type_).__name__.removeprefix("GraphQL").removesuffix("Type")
    interfaces = " & ".join(sorted(interface.name for interface in getattr(type_, "interfaces", ())))
    members = " | ".join(sorted(member.name for member in type_.types)) if isinstance(type_, GraphQLUnionType) else ""
    return (
        kind
        + (f" implements {interfaces}" if interfaces else "")
        + (f" = {members}" if members else "")
        + (" @oneOf" if getattr(type_, "is_one_of", False) else "")
    )


def _describe_members(type_: Any) -> dict[str, str]:
    if isinstance(type_, GraphQLEnumType):
        return {f"{type_.name}.{name}": "value" for name in type_.values}
    if isinstance(type_, GraphQLInputObjectType):
        return {f"{type_.name}.{name}": _describe_input(field) for name, field in type_.fields.items()}
    described = {}
    for name, field in getattr(type_, "fields", {}).items():
        described[f"{type_.name}.{name}"] = str(field.type)
        described |= _describe_inputs(f"{type_.name}.{name}", field.args)
    return described


def _describe_inputs(coordinate: str, arguments: dict[str, Any]) -> dict[str, str]:
    return {f"{coordinate}({name}:)": _describe_input(argument) for name, argument in arguments.items()}


def _describe_input(input_: Any) -> str:
    default = input_.ast_node.default_value
    return f"{input_.type}" + (f" = {print_ast(default)}" if default else "")


def list_differences(schema: GraphQLSchema, target: GraphQLSchema) -> list[str]:
    """The coordinates that differ, in order. The members of a type, field or directive that only one side has are left out."""
    ours, theirs = describe_schema(schema), describe_schema(target)
    differences = []
    for coordinate in sorted(ours.keys() | theirs.keys()):
        owners = [coordinate.partition(mark)[0] for mark in (".", "(") if mark in coordinate]
        if all((owner in ours) == (owner in theirs) for owner in owners):
            differences += _compare(coordinate, ours.get(coordinate), theirs.get(coordinate))
    return differences


def _compare(coordinate: str, ours: str | None, theirs: str | None) -> list[str]:
    if ours == theirs:
        return []
    if ours is None or theirs is None:
        return [f"{'+' if ours is None else '-'} {coordinate}: {ours or theirs}"]
    return [f"~ {coordinate}: {ours} → {theirs}"]


def compare_with_contract() -> str:
    """The text of tests/contract_differences.txt for the schema as it is."""
    schema, target = (build_schema(path.read_text()) for path in (FOLDER.parent / "schema.graphql", TARGET))
    return HEADER + "".join(f"{line}\n" for line in list_differences(schema, target))


if __name__ == "__main__":
    DIFFERENCES.write_text(compare_with_contract())
