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

from storefront.core.errors import TOO_LARGE, InvalidInput
from storefront.execution.arguments import DEFINITION
from storefront.serving.http.graphql_request import BadRequest

Path = tuple[str | int, ...]

PROBLEM = "must be whole Unicode characters."
_HALF = re.compile("[\ud800-\udfff]")


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
        return json.loads(decoded, parse_constant=_refuse, parse_int=_parse_integer), True
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _parse_integer(digits: str) -> int | float:
    # As orjson does it. Python itself refuses to read more than 4,300 digits.
    number = float(digits)
    return int(digits) if abs(number) < 2**63 else number


def _refuse(name: str) -> NoReturn:
    raise ValueError(name)


def check_request(given: Any) -> None:
    """Raise BadRequest for such a value anywhere but in the variables of a request."""
    outside = {name: value for name, value in given.items() if name != "variables"} if isinstance(given, dict) else given
    for path, problem in _unusable(outside, None):
        raise BadRequest(f"{_shown(path) or 'The body'}: {problem}")


def check_numbers(given: Any) -> None:
    """Raise InvalidInput for a number that is too large."""
    for path, problem in _unusable(given, None):
        if problem is TOO_LARGE:
            raise InvalidInput(_shown(path) or "The body", problem)


def check_variables(schema: GraphQLSchema, operation: OperationDefinitionNode | None, variables: Mapping[str, Any]) -> None:
    """Raise InvalidInput for such a value in a variable, but for lone surrogates in inputs that are handed over as they are."""
    nodes = operation.variable_definitions or () if operation else ()
    types = {node.variable.name.value: type_from_ast(schema, node.type) for node in nodes}
    for name, value in variables.items():
        found = _unusable({name: value}, None) if _HALF.search(name) else _unusable(value, types.get(name), name)
        for path, problem in found:
            raise InvalidInput(_shown(("variables", *path)), problem)


# A path from its end: the way to the parent, and the step from there. Values share the ways that they have in common.
_Way = tuple["_Way", str | int] | None


def _unusable(value: Any, type_: Any, *root: str) -> Iterator[tuple[Path, str]]:
    """The path to each value that cannot be used, or to the name that cannot, and what is wrong with it.

    In inputs that are handed over as they are, lone surrogates can be used.
    """
    # A list of what is left, not a call per level.
    left: list[tuple[_Way, Any, Any, bool]] = [(None, value, type_, False)]
    while left:
        way, value, type_, is_handed_over = left.pop()
        if isinstance(value, str):
            if not is_handed_over and _HALF.search(value):
                yield (*root, *_path(way)), PROBLEM
        elif isinstance(value, float):
            if math.isinf(value):
                yield (*root, *_path(way)), TOO_LARGE
        elif isinstance(value, list):
            inner = _item_type(type_)
            left += [((way, n), item, inner, is_handed_over) for n, item in enumerate(value)]
        elif isinstance(value, dict):
            if not is_handed_over:
                yield from (((*root, *_path((way, name))), PROBLEM) for name in value if _HALF.search(name))
            fields = _fields(value, type_, is_handed_over)
            left += [((way, name), item, inner, is_handed) for name, item, inner, is_handed in fields]


def _item_type(type_: Any) -> Any:
    inner = get_nullable_type(type_)
    return inner.of_type if is_list_type(inner) else None


def _fields(value: Mapping[str, Any], type_: Any, is_handed_over: bool) -> Iterator[tuple[str, Any, Any, bool]]:
    """The fields of an object, each with its type where that is known, and whether it is handed over as it is."""
    inner = get_named_type(type_)
    known = inner.fields if is_input_object_type(inner) else {}
    hands_over = is_handed_over or (bool(known) and inner.extensions[DEFINITION].from_input is not None)
    for name, item in value.items():
        is_known = name in known
        yield name, item, known[name].type if is_known else None, is_handed_over or (is_known and hands_over)


def _path(way: "_Way") -> Path:
    steps: list[str | int] = []
    while way is not None:
        way, step = way
        steps.append(step)
    return tuple(reversed(steps))


def _shown(path: Path) -> str:
    return ".".join(map(str, path))[:200].encode(errors="replace").decode()
