"""Formats errors for clients: always with a code and the request id. Internal errors are logged and masked."""

import logging
import re
from collections.abc import Sequence
from typing import Any

from graphql import GraphQLError, GraphQLSyntaxError

from storefront.core.errors import RequestError
from storefront.core.logs import Verbatim

log = logging.getLogger("storefront")

# Some messages quote the request: a name may have as many characters as a body.
MAX_MESSAGE_CHARACTERS = 1_000
MASKED_ERROR_MESSAGE = "Something went wrong on our side; nothing was half done. Quote the requestId when you report it."

# The error codes of Apollo Server.
PARSE_FAILED = "GRAPHQL_PARSE_FAILED"
VALIDATION_FAILED = "GRAPHQL_VALIDATION_FAILED"
BAD_USER_INPUT = "BAD_USER_INPUT"
INTERNAL_SERVER_ERROR = "INTERNAL_SERVER_ERROR"

# A variable may contain a secret, and graphql-core quotes invalid values. Only these prefixes of its messages, which end before a
# value, are sent (an allow list); any other message is redacted. Unknown fields are named if their names are valid names.
_INVALID_VARIABLE = re.compile(r"(Variable '\$\w+' has invalid value(?: at [\w.\[\]]+)?): ")
_SAFE_PROBLEM = re.compile(
    r"\w+ cannot represent [\w -]*value(?=: )"
    r"|Enum '\w+' cannot represent non-string value(?=: )"
    r"|(Value) '.*' (does not exist in '\w+' enum(?:\. Did you mean the enum value [\w ,']+\?)?)"
    r"|Expected (?:a )?value of (?:non-null )?type '[\w\[\]!]+'"
    r"(?: to be an object| to be provided| not to be None| to include required field '\w+'"
    r"| not to include unknown field(?: '\w{1,60}'(?:\. Did you mean [\w ,']+\?)?)?)?"
    # Custom scalars never quote the value.
    r"|\w+ must be .+",
    re.DOTALL,
)


class DocumentValidationError(GraphQLError):
    """An error of a document that parses but is not valid for the schema."""


def format_errors(errors: Sequence[GraphQLError], request_id: str) -> list[dict[str, Any]]:
    """Format the errors of a result, with codes. Internal errors are logged and masked."""
    return [_format_error(error, request_id) for error in errors]


def _format_error(error: GraphQLError, request_id: str) -> dict[str, Any]:
    code, message, details = _classify_error(error)
    if code == INTERNAL_SERVER_ERROR:
        log.error("failed at %s", Verbatim(error.path), exc_info=error.original_error or error)
    formatted_error: dict[str, Any] = {"message": message[:MAX_MESSAGE_CHARACTERS]}
    if error.locations:
        formatted_error["locations"] = [location.formatted for location in error.locations]
    if error.path:
        formatted_error["path"] = error.path
    return {**formatted_error, "extensions": {"code": code, **details, "requestId": request_id}}


def get_error_code(error: GraphQLError) -> str:
    """The code of an error in `extensions.code`."""
    return _classify_error(error)[0]


def _classify_error(error: GraphQLError) -> tuple[str, str, dict[str, Any]]:
    cause = _find_cause(error)
    if isinstance(cause, RequestError):
        return cause.code, str(cause), cause.details
    if cause is not None:
        return INTERNAL_SERVER_ERROR, MASKED_ERROR_MESSAGE, {}
    if isinstance(error, GraphQLSyntaxError):
        return PARSE_FAILED, error.message, {}
    if isinstance(error, DocumentValidationError):
        return VALIDATION_FAILED, error.message, {}
    return BAD_USER_INPUT, _redact_values(error.message), {}


def _redact_values(message: str) -> str:
    variable = _INVALID_VARIABLE.match(message)
    if variable is None:
        return message
    problem = _SAFE_PROBLEM.match(message, variable.end())
    if problem is None:
        return f"{variable[1]}."
    problem_text = " ".join(filter(None, problem.groups())) or problem[0]
    return f"{variable[1]}: {problem_text}" if problem_text.endswith(("?", ".")) else f"{variable[1]}: {problem_text}."


def _find_cause(error: GraphQLError) -> Exception | None:
    """The exception of a resolver; None for an error that graphql-core itself reports about the request."""
    cause: Exception | None = error
    while isinstance(cause, GraphQLError):
        cause = cause.original_error
    return cause
