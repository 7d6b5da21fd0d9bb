"""What a client sends as a request, whatever it came over: {query, variables, operationName}."""

from typing import Any

from storefront.core.errors import RequestError
from storefront.serving.operations import GraphQLRequest


class BadRequest(RequestError):
    """Not a GraphQL request at all."""


def checked_request(given: Any) -> GraphQLRequest:
    """The request, once its parts are what they have to be."""
    if not isinstance(given, dict):
        raise BadRequest('The request must be a JSON object with "query".')
    query, variables, name = given.get("query"), given.get("variables"), given.get("operationName")
    if not isinstance(query, str):
        raise BadRequest('"query" must be the text of a GraphQL document.')
    if variables is not None and not isinstance(variables, dict):
        raise BadRequest('"variables" must be an object.')
    if name is not None and not isinstance(name, str):
        raise BadRequest('"operationName" must be text.')
    return GraphQLRequest(query, variables or {}, name or None)
