"""Lone surrogates in JSON strings, and numbers beyond a double's range.

orjson rejects the whole body for one of them. Here only the value is rejected, with its path.
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
from storefront.execution.strawberry_adapter import DEFINITION_EXTENSION_KEY, get_custom_input_factory
from storefront.serving.documents.input_limits import InputPath, format_path
from storefront.serving.http.graphql_request import BadRequest

LONE_SURROGATE_PROBLEM = "must be whole Unicode characters."
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_SURROGATE_ESCAPE = rb"\ud"
MAX_PATH_CHARACTERS = 200


def loads(text: bytes | str) -> tuple[Any, bool]:
    """Parse JSON. Returns the value, and whether it may hold lone surrogates, or infinity for numbers that are too large.

    Raises ValueError for text that is not JSON, or nested too deeply.
    """
    try:
        return orjson.loads(text), False
    except orjson.JSONDecodeError:
        decoded = text if isinstance(text, str) else text.decode()
    try:
        # Python's own library accepts both.
        return json.loads(decoded, parse_constant=_reject_constant, parse_int=_parse_integer), True
    except RecursionError:
        raise ValueError("nested too deeply") from None


def loads_cooperatively(text: bytes) -> tuple[Any, bool]:
    """Like `loads`, but for a thread beside the event loop's: others run after every object.

    orjson parses everything without interruption: 100,000 objects take 40 ms. Raises what `loads` raises.
    """
    large_numbers: list[str] = []

    def parse_float(digits: str) -> float:
        number = float(digits)
        if math.isinf(number):
            large_numbers.append(digits)
        return number

    def parse_integer(digits: str) -> int | float:
        return _parse_integer(digits) if len(digits) < 300 else parse_float(digits)

    try:
        value = json.loads(
            text.decode(),
            # Other threads run when Python code is called.
            object_hook=_return_unchanged,
            parse_constant=_reject_constant,
            parse_float=parse_float,
            parse_int=parse_integer,
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value, bool(large_numbers) or _SURROGATE_ESCAPE in text.lower()


def _return_unchanged(value: Any) -> Any:
    return value


def _parse_integer(digits: str) -> int | float:
    # As orjson does it. Python itself refuses to read more than 4,300 digits.
    number = float(digits)
    return int(digits) if abs(number) < 2**63 else number


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(name)


def check_request(payload: Any) -> None:
    """Check a request apart from its variables. Raises BadRequest."""
    without_variables = (
        {name: value for name, value in payload.items() if name != "variables"} if isinstance(payload, dict) else payload
    )
    for path, problem in _find_problems(without_variables):
        raise BadRequest(f"{_format_path(path) or 'The body'}: {problem}")


def check_numbers(json_value: Any) -> None:
    """Check the numbers in a JSON value. Raises InvalidInput."""
    for path, problem in _find_problems(json_value):
        if problem is NUMBER_TOO_LARGE_PROBLEM:
            raise InvalidInput(_format_path(path) or "The body", problem)


def check_variables(schema: GraphQLSchema, operation: OperationDefinitionNode | None, variables: Mapping[str, Any]) -> None:
    """Check the variables of a request. Raises InvalidInput.

    Lone surrogates are accepted in the fields of input types that convert their values themselves.
    """
    nodes = operation.variable_definitions or () if operation else ()
    types = {node.variable.name.value: type_from_ast(schema, node.type) for node in nodes}
    for name, value in variables.items():
        if _LONE_SURROGATE.search(name):
            raise InvalidInput(_format_path(("variables", name)), LONE_SURROGATE_PROBLEM)
        for path, problem in _find_problems(value, types.get(name)):
            raise InvalidInput(_format_path(("variables", name, *path)), problem)


# In the place of a type: the field of an input type that converts its values itself.
_OPAQUE: Any = object()
# A path as a linked list from its end: values share the path to their parent, so that deep JSON takes no quadratic memory.
_ReversedPath = tuple["_ReversedPath", str | int] | None


def _find_problems(json_value: Any, input_type: Any = None) -> Iterator[tuple[InputPath, str]]:
    """The paths of unusable values and names, each with what is wrong. Walks with a stack: JSON may be nested deeply."""
    stack: list[tuple[_ReversedPath, Any, Any]] = [(None, json_value, input_type)]
    while stack:
        path, value, type_ = stack.pop()
        if isinstance(value, str):
            if type_ is not _OPAQUE and _LONE_SURROGATE.search(value):
                yield _build_path(path), LONE_SURROGATE_PROBLEM
        elif isinstance(value, float):
            if math.isinf(value):
                yield _build_path(path), NUMBER_TOO_LARGE_PROBLEM
        elif isinstance(value, list):
            item_type = _get_item_type(type_)
            # Most items are strings without a problem: they are not put on the stack.
            stack += [
                ((path, index), item, item_type)
                for index, item in enumerate(value)
                if type(item) is not str or _LONE_SURROGATE.search(item)
            ]
        elif isinstance(value, dict):
            for name in value if type_ is not _OPAQUE else ():
                if _LONE_SURROGATE.search(name):
                    yield _build_path((path, name)), LONE_SURROGATE_PROBLEM
            stack += [((path, name), item, _get_field_type(type_, name)) for name, item in value.items()]


def _get_item_type(type_: Any) -> Any:
    nullable_type = type_ if type_ is _OPAQUE else get_nullable_type(type_)
    return nullable_type.of_type if is_list_type(nullable_type) else type_ if type_ is _OPAQUE else None


def _get_field_type(type_: Any, name: str) -> Any:
    if type_ is _OPAQUE:
        return type_
    named_type = get_named_type(type_)
    if not is_input_object_type(named_type) or name not in named_type.fields:
        return None
    is_custom = get_custom_input_factory(named_type.extensions[DEFINITION_EXTENSION_KEY]) is not None
    return _OPAQUE if is_custom else named_type.fields[name].type


def _build_path(reversed_path: _ReversedPath) -> InputPath:
    steps: list[str | int] = []
    while reversed_path is not None:
        reversed_path, step = reversed_path
        steps.append(step)
    return tuple(reversed(steps))


def _format_path(path: InputPath) -> str:
    return format_path(path)[:MAX_PATH_CHARACTERS].encode(errors="replace").decode()
