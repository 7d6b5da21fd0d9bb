"""Errors as clients see them: always a code and the request's id, never the inside of a failure of ours."""

import logging
from collections.abc import Sequence
from typing import Any

from graphql import GraphQLError, GraphQLSyntaxError

from storefront.core.errors import RequestError

log = logging.getLogger("storefront")

MASKED = "Something went wrong on our side; nothing was half done. Quote the requestId when you report it."

# The codes that Apollo's clients know.
PARSE_FAILED = "GRAPHQL_PARSE_FAILED"
VALIDATION_FAILED = "GRAPHQL_VALIDATION_FAILED"
BAD_USER_INPUT = "BAD_USER_INPUT"
INTERNAL = "INTERNAL_SERVER_ERROR"


class InvalidDocument(GraphQLError):
    """A document that parses but does not fit the schema."""


def formatted(errors: Sequence[GraphQLError], request_id: str) -> list[dict[str, Any]]:
    """The errors of a result, with codes; causes that are ours alone are logged and masked."""
    return [_formatted(error, request_id) for error in errors]


def _formatted(error: GraphQLError, request_id: str) -> dict[str, Any]:
    code, message, more = _classified(error)
    if code == INTERNAL:
        log.error("request %s failed at %s", request_id, error.path, exc_info=error.original_error or error)
    answer: dict[str, Any] = {"message": message}
    if error.locations:
        answer["locations"] = [location.formatted for location in error.locations]
    if error.path:
        answer["path"] = error.path
    return {**answer, "extensions": {"code": code, **more, "requestId": request_id}}


def _classified(error: GraphQLError) -> tuple[str, str, dict[str, str]]:
    cause = _cause(error)
    if isinstance(cause, RequestError):
        return cause.code, str(cause), {"field": cause.field} if cause.field else {}
    if cause is not None:
        return INTERNAL, MASKED, {}
    if isinstance(error, GraphQLSyntaxError):
        return PARSE_FAILED, error.message, {}
    if isinstance(error, InvalidDocument):
        return VALIDATION_FAILED, error.message, {}
    # The engine quotes the whole variable, and a variable may hold a secret.
    return BAD_USER_INPUT, error.message.partition(", found: ")[0], {}


def _cause(error: GraphQLError) -> Exception | None:
    """What a resolver raised; a GraphQLError is the engine's own word about the request, all the way down."""
    cause: Exception | None = error
    while isinstance(cause, GraphQLError):
        cause = cause.original_error
    return cause
