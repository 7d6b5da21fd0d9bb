"""Values that JSON can hold and nothing behind it can: lone surrogates in strings, and numbers beyond a double's range.

orjson rejects the whole text for one of them. Here only the value is refused, by its path.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import orjson
from graphql import (
    GraphQLSchema,
    OperationDefinitionNode,
    get_named_type,
    get_nullable_type,
    is_input_object_type,
    is_list_type,
    type_from_ast,
)

from storefront.core.errors import NUMBER_TOO_LARGE_PROBLEM, InvalidInput
from storefront.execution.arguments import DEFINITION_EXTENSION_KEY
from storefront.serving.http.graphql_request import BadRequest

ValuePath = tuple[str | int, ...]

LONE_SURROGATE_PROBLEM = "must be whole Unicode characters."
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def loads(text: bytes | str) -> tuple[Any, bool]:
    """What JSON says, and whether it may hold such values: lone surrogates as they are, numbers too large as infinity.

    Raises ValueError where it is no JSON.
    """
    try:
        return orjson.loads(text), False
    except orjson.JSONDecodeError:
        decoded = text if isinstance(text, str) else text.decode()
    try:
        # The library of Python takes them.
        return json.loads(decoded, parse_constant=_reject_constant, parse_int=_parse_integer), True
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _parse_integer(digits: str) -> int | float:
    # As orjson does it. Python itself refuses to read more than 4,300 digits.
    number = float(digits)
    return int(digits) if abs(number) < 2**63 else number


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(name)


def check_request(payload: Any) -> None:
    """Raise BadRequest for such a value anywhere but in the variables of a request."""
    without_variables = (
        {name: value for name, value in payload.items() if name != "variables"} if isinstance(payload, dict) else payload
    )
    for path, problem in _find_unusable_values(without_variables, None):
        raise BadRequest(f"{_format_path(path) or 'The body'}: {problem}")


def check_numbers(json_value: Any) -> None:
    """Raise InvalidInput for a number that is too large."""
    for path, problem in _find_unusable_values(json_value, None):
        if problem is NUMBER_TOO_LARGE_PROBLEM:
            raise InvalidInput(_format_path(path) or "The body", problem)


def check_variables(schema: GraphQLSchema, operation: OperationDefinitionNode | None, variables: Mapping[str, Any]) -> None:
    """Raise InvalidInput for such a value in a variable, but for lone surrogates in inputs that are handed over as they are."""
    nodes = operation.variable_definitions or () if operation else ()
    types = {node.variable.name.value: type_from_ast(schema, node.type) for node in nodes}
    for name, value in variables.items():
        unusable_values = (
            _find_unusable_values({name: value}, None)
            if _LONE_SURROGATE.search(name)
            else _find_unusable_values(value, types.get(name), name)
        )
        for path, problem in unusable_values:
            raise InvalidInput(_format_path(("variables", *path)), problem)


# A path from its end: the way to the parent, and the step from there. Values share the ways that they have in common.
_ReversedPath = tuple["_ReversedPath", str | int] | None


def _find_unusable_values(value: Any, type_: Any, *root: str) -> Iterator[tuple[ValuePath, str]]:
    """The path to each value that cannot be used, or to the name that cannot, and what is wrong with it.

    In inputs that are handed over as they are, lone surrogates can be used.
    """
    # A list of what is left, not a call per level.
    stack: list[tuple[_ReversedPath, Any, Any, bool]] = [(None, value, type_, False)]
    while stack:
        reversed_path, value, type_, is_opaque = stack.pop()
        if isinstance(value, str):
            if not is_opaque and _LONE_SURROGATE.search(value):
                yield (*root, *_build_path(reversed_path)), LONE_SURROGATE_PROBLEM
        elif isinstance(value, float):
            if math.isinf(value):
                yield (*root, *_build_path(reversed_path)), NUMBER_TOO_LARGE_PROBLEM
        elif isinstance(value, list):
            item_type = _get_item_type(type_)
            stack += [((reversed_path, n), item, item_type, is_opaque) for n, item in enumerate(value)]
        elif isinstance(value, dict):
            if not is_opaque:
                yield from (
                    ((*root, *_build_path((reversed_path, name))), LONE_SURROGATE_PROBLEM)
                    for name in value
                    if _LONE_SURROGATE.search(name)
                )
            fields = _iterate_fields(value, type_, is_opaque)
            stack += [
                ((reversed_path, name), item, item_type, is_field_opaque) for name, item, item_type, is_field_opaque in fields
            ]


def _get_item_type(type_: Any) -> Any:
    nullable_type = get_nullable_type(type_)
    return nullable_type.of_type if is_list_type(nullable_type) else None


def _iterate_fields(value: Mapping[str, Any], type_: Any, is_opaque: bool) -> Iterator[tuple[str, Any, Any, bool]]:
    """The fields of an object, each with its type where that is known, and whether it is handed over as it is."""
    named_type = get_named_type(type_)
    input_fields = named_type.fields if is_input_object_type(named_type) else {}
    has_opaque_fields = is_opaque or (
        bool(input_fields) and named_type.extensions[DEFINITION_EXTENSION_KEY].from_input is not None
    )
    for name, item in value.items():
        is_declared = name in input_fields
        yield name, item, input_fields[name].type if is_declared else None, is_opaque or (is_declared and has_opaque_fields)


def _build_path(reversed_path: "_ReversedPath") -> ValuePath:
    steps: list[str | int] = []
    while reversed_path is not None:
        reversed_path, step = reversed_path
        steps.append(step)
    return tuple(reversed(steps))


def _format_path(path: ValuePath) -> str:
    return ".".join(map(str, path))[:200].encode(errors="replace").decode()
