"""Values that JSON can hold and nothing behind it can: lone surrogates in strings, and numbers beyond a double's range.

orjson rejects the whole text for one of them. Here only the value is refused, by its path.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import orjson
from graphql import GraphQLSchema, OperationDefinitionNode, is_input_object_type, is_list_type, is_non_null_type, type_from_ast

from storefront.core.errors import TOO_LARGE, InvalidInput
from storefront.execution.arguments import DEFINITION
from storefront.serving.requests import BadRequest

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


def check_request(given: Any, variables: Path = ("variables",)) -> None:
    """Raise BadRequest for such a value anywhere but in the variables of a request, which stand under that path."""
    for path, problem in _unusable(given):
        if path[: len(variables)] != variables:
            raise BadRequest(f"{_shown(path) or 'The body'}: {problem}")


def check_numbers(given: Any) -> None:
    """Raise InvalidInput for a number that is too large."""
    for path, problem in _unusable(given):
        if problem is TOO_LARGE:
            raise InvalidInput(_shown(path) or "The body", problem)


def check_variables(schema: GraphQLSchema, operation: OperationDefinitionNode | None, variables: Mapping[str, Any]) -> None:
    """Raise InvalidInput for such a value in a variable, but for lone surrogates in inputs that are handed over as they are."""
    nodes = operation.variable_definitions or () if operation else ()
    types = {node.variable.name.value: type_from_ast(schema, node.type) for node in nodes}
    for path, problem in _unusable(variables):
        if problem is TOO_LARGE or not _is_handed_over(types.get(str(path[0])), path[1:]):
            raise InvalidInput(_shown(("variables", *path)), problem)


def _unusable(value: Any) -> Iterator[tuple[Path, str]]:
    """The way to each value that cannot be used, or to the name that cannot, and what is wrong with it."""
    # A list of what is left, not a call per level.
    left: list[tuple[Path, Any]] = [((), value)]
    while left:
        path, value = left.pop()
        if isinstance(value, str) and _HALF.search(value):
            yield path, PROBLEM
        elif isinstance(value, float) and math.isinf(value):
            yield path, TOO_LARGE
        elif isinstance(value, list):
            left += [((*path, n), item) for n, item in enumerate(value)]
        elif isinstance(value, dict):
            left += [((*path, name), item) for name, item in value.items()]
            yield from (((*path, name), PROBLEM) for name in value if _HALF.search(name))


def _is_handed_over(type_: Any, path: Path) -> bool:
    for step in path:
        while is_non_null_type(type_) or (is_list_type(type_) and isinstance(step, str)):
            type_ = type_.of_type
        if is_list_type(type_):
            type_ = type_.of_type
        elif is_input_object_type(type_) and step in type_.fields:
            if type_.extensions[DEFINITION].from_input:
                return True
            type_ = type_.fields[step].type
        else:
            return False
    return False


def _shown(path: Path) -> str:
    return ".".join(map(str, path))[:200].encode(errors="replace").decode()
