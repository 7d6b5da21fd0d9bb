"""Errors as clients see them: always a code and the request's id, never the inside of a failure of ours."""

import logging
import re
from collections.abc import Sequence
from typing import Any

from graphql import GraphQLError, GraphQLSyntaxError

from storefront.core.errors import RequestError
from storefront.core.logs import Verbatim

log = logging.getLogger("storefront")

MASKED = "Something went wrong on our side; nothing was half done. Quote the requestId when you report it."

# The codes that Apollo's clients know.
PARSE_FAILED = "GRAPHQL_PARSE_FAILED"
VALIDATION_FAILED = "GRAPHQL_VALIDATION_FAILED"
BAD_USER_INPUT = "BAD_USER_INPUT"
INTERNAL = "INTERNAL_SERVER_ERROR"

# A variable may hold a secret, and the engine quotes what it cannot use. Of what it says only these beginnings are told, which
# end before a value: whatever else it may say one day is not. Unknown fields are named where their names look like names.
_PLACE = re.compile(r"(Variable '\$\w+' has invalid value(?: at [\w.\[\]]+)?): ")
_EXPECTATION = re.compile(
    r"\w+ cannot represent [\w -]*value(?=: )"
    r"|Enum '\w+' cannot represent non-string value(?=: )"
    r"|(Value) '.*' (does not exist in '\w+' enum(?:\. Did you mean the enum value [\w ,']+\?)?)"
    r"|Expected (?:a )?value of (?:non-null )?type '[\w\[\]!]+'"
    r"(?: to be an object| to be provided| not to be None| to include required field '\w+'"
    r"| not to include unknown field(?: '\w{1,60}'(?:\. Did you mean [\w ,']+\?)?)?)?"
    # Scalars of our own say what is wrong with a value, and never quote it.
    r"|\w+ must be .+",
    re.DOTALL,
)


class InvalidDocument(GraphQLError):
    """A document that parses but does not fit the schema."""


def formatted(errors: Sequence[GraphQLError], request_id: str) -> list[dict[str, Any]]:
    """The errors of a result, with codes; causes that are ours alone are logged and masked."""
    return [_formatted(error, request_id) for error in errors]


def _formatted(error: GraphQLError, request_id: str) -> dict[str, Any]:
    code, message, more = _classified(error)
    if code == INTERNAL:
        log.error("failed at %s", Verbatim(error.path), exc_info=error.original_error or error)
    answer: dict[str, Any] = {"message": message}
    if error.locations:
        answer["locations"] = [location.formatted for location in error.locations]
    if error.path:
        answer["path"] = error.path
    return {**answer, "extensions": {"code": code, **more, "requestId": request_id}}


def code_of(error: GraphQLError) -> str:
    """The code of an error, as clients see it."""
    return _classified(error)[0]


def _classified(error: GraphQLError) -> tuple[str, str, dict[str, Any]]:
    cause = _cause(error)
    if isinstance(cause, RequestError):
        return cause.code, str(cause), cause.details
    if cause is not None:
        return INTERNAL, MASKED, {}
    if isinstance(error, GraphQLSyntaxError):
        return PARSE_FAILED, error.message, {}
    if isinstance(error, InvalidDocument):
        return VALIDATION_FAILED, error.message, {}
    return BAD_USER_INPUT, _without_values(error.message), {}


def _without_values(message: str) -> str:
    place = _PLACE.match(message)
    if place is None:
        return message
    expectation = _EXPECTATION.match(message, place.end())
    if expectation is None:
        return f"{place[1]}."
    told = " ".join(filter(None, expectation.groups())) or expectation[0]
    return f"{place[1]}: {told}" if told.endswith(("?", ".")) else f"{place[1]}: {told}."


def _cause(error: GraphQLError) -> Exception | None:
    """What a resolver raised; a GraphQLError is the engine's own word about the request, all the way down."""
    cause: Exception | None = error
    while isinstance(cause, GraphQLError):
        cause = cause.original_error
    return cause
