"""Half a character: JSON may hold one where text was cut, and nothing else can. Only what has it is refused."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import orjson
from graphql import GraphQLSchema, OperationDefinitionNode, is_input_object_type, is_list_type, is_non_null_type, type_from_ast

from storefront.core.errors import InvalidInput
from storefront.execution.arguments import DEFINITION
from storefront.serving.requests import BadRequest

Path = tuple[str | int, ...]

PROBLEM = "must be whole Unicode characters."

_ESCAPED = re.compile(r"\\u[dD][89a-fA-F]")
_HALF = re.compile("[\ud800-\udfff]")


def loads(text: bytes | str) -> tuple[Any, bool]:
    """What JSON says, and whether there may be half characters in it; raises ValueError where it is no JSON."""
    try:
        return orjson.loads(text), False
    except orjson.JSONDecodeError:
        decoded = text if isinstance(text, str) else text.decode()
        if not _ESCAPED.search(decoded):
            raise
    try:
        # The library of Python takes them.
        return json.loads(decoded, parse_constant=_refuse), True
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse(name: str) -> NoReturn:
    raise ValueError(name)


def check_request(given: Any) -> None:
    """Raise BadRequest for half a character anywhere but in the variables of a request."""
    for path in _halves(given):
        if path[:1] != ("variables",):
            raise BadRequest(f"{_shown(path) or 'The body'}: {PROBLEM}")


def check_variables(schema: GraphQLSchema, operation: OperationDefinitionNode | None, variables: Mapping[str, Any]) -> None:
    """Raise InvalidInput for half a character in a variable, but for those in inputs that are handed over as they are."""
    nodes = operation.variable_definitions or () if operation else ()
    types = {node.variable.name.value: type_from_ast(schema, node.type) for node in nodes}
    for path in _halves(variables):
        if not _is_handed_over(types.get(str(path[0])), path[1:]):
            raise InvalidInput(_shown(("variables", *path)), PROBLEM)


def _halves(value: Any) -> Iterator[Path]:
    """The way to each text or name with half a character."""
    # A list of what is left, not a call per level.
    left: list[tuple[Path, Any]] = [((), value)]
    while left:
        path, value = left.pop()
        if isinstance(value, str) and _HALF.search(value):
            yield path
        elif isinstance(value, list):
            left += [((*path, n), item) for n, item in enumerate(value)]
        elif isinstance(value, dict):
            left += [((*path, name), item) for name, item in value.items()]
            yield from ((*path, name) for name in value if _HALF.search(name))


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
