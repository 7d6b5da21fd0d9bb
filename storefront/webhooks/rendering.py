"""Rendering of webhook messages: the envelope of the change, and the result of the webhook's query on the current state."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from graphql import OperationType, print_ast

from storefront.core.db.database import Row
from storefront.core.errors import RequestError
from storefront.core.request_context import RequestContext
from storefront.graph.context import Context, Viewer
from storefront.serving.documents.document_store import NotExecutableError
from storefront.serving.http.graphql_request import GraphQLRequest
from storefront.serving.run.operations import Operations
from storefront.serving.run.prepared_operation import PreparedOperation
from storefront.serving.run.results import format_request_error, format_result
from storefront.webhooks.sending import RenderError
from storefront.webhooks.topics import RESET_MESSAGE_TYPE

# Timeout of a query in seconds, and its maximum cost: fields times sizes of lists.
QUERY_TIMEOUT_SECONDS, MAX_QUERY_COST = 5.0, 5_000
# Errors that a retry may resolve.
_RETRYABLE_CODES = {"INTERNAL_SERVER_ERROR", "TIMEOUT", "SERVICE_UNAVAILABLE"}

# The variables that a query may declare, with the types that are accepted for each.
_VARIABLE_TYPES = {
    "configId": ("ID!", "ID"),
    "productId": ("ID!", "ID"),
    "position": ("Position!", "Position"),
    "changedFields": ("[String!]!", "[String!]", "[String]!", "[String]"),
}


@dataclass(frozen=True, slots=True)
class MessageRenderer:
    """Renders messages of at most `max_bytes`. `anonymous_context`: the context of an anonymous viewer."""

    operations: Operations
    anonymous_context: Context
    max_bytes: int

    async def render_body(self, hook: Row, *, is_last: bool = False) -> bytes:
        """Render the body. Raises RenderError if a retry may succeed; the body of the last attempt has the error instead."""
        fields = build_envelope(hook)
        if hook.query is None or hook.type == RESET_MESSAGE_TYPE:
            return orjson.dumps(fields)
        try:
            with RequestContext(hook.id):
                response = await self._execute_query(hook)
        except TimeoutError:
            response = _build_error_response(
                "TIMEOUT", f"The query exceeded its timeout of {QUERY_TIMEOUT_SECONDS:g} s. Select less."
            )
        retryable = {error["extensions"]["code"] for error in response.get("errors", ())} & _RETRYABLE_CODES
        if retryable and not is_last:
            raise RenderError(f"the query could not be executed: {', '.join(sorted(retryable))}")
        return self._limit_size(fields, response)

    def _limit_size(self, fields: Mapping[str, Any], response: Mapping[str, Any]) -> bytes:
        body = orjson.dumps({**fields, "data": None, **response})
        if len(body) <= self.max_bytes:
            return body
        problem = f"The message has {len(body):,} bytes, at most {self.max_bytes:,} are allowed. Select less."
        return orjson.dumps({**fields, **_build_error_response("LIMIT_EXCEEDED", problem)})

    async def _execute_query(self, hook: Row) -> dict[str, Any]:
        try:
            operation = await self.operations.prepare(_build_request(hook.query, _build_variables(hook)))
            if (problem := _find_operation_problem(operation)) is not None:
                return _build_error_response("BAD_REQUEST", problem)
            if hook.product_id is None and _get_variable_types(operation).get("productId") == "ID!":
                return {"data": None}
            async with asyncio.timeout(QUERY_TIMEOUT_SECONDS):
                return format_result(await self.operations.run(operation, self._build_viewer_context(hook)), hook.id)
        except (NotExecutableError, RequestError) as error:
            return format_request_error(error, hook.id)

    def _build_viewer_context(self, hook: Row) -> Context:
        if hook.read_as != "owner":
            return self.anonymous_context.as_anonymous()
        # Least privilege: the owner's access to this store only, not to their other stores.
        return self.anonymous_context.as_viewer(Viewer(hook.owner_id, frozenset({hook.config_id})))


def build_envelope(hook: Row) -> dict[str, Any]:
    """The envelope of a message: the fields that describe the change."""
    fields = {
        "type": hook.type,
        "timestamp": hook.occurred_at,
        "configId": hook.config_id,
        "position": str(hook.position),
        "productId": hook.product_id,
        "changedFields": hook.changed_fields,
        "clientMutationId": hook.client_mutation_id,
    }
    return fields | ({"reason": hook.reason} if hook.reason else {})


async def find_document_problem(operations: Operations, query: str) -> str | None:
    """The problem with a query that a webhook cannot execute, or None."""
    sample_variables = {"configId": _SAMPLE_ID, "productId": _SAMPLE_ID, "position": "1", "changedFields": ["title"]}
    try:
        operation = await operations.prepare(_build_request(query, sample_variables))
    except NotExecutableError as error:
        return "; ".join(fault.message for fault in error.errors)
    except RequestError as error:
        return str(error)
    return _find_operation_problem(operation) or _find_variables_problem(operation)


_SAMPLE_ID = "018f0000-0000-7000-8000-000000000000"


def _build_request(query: str, variables: dict[str, Any]) -> GraphQLRequest:
    return GraphQLRequest(query, variables)


def _build_variables(hook: Row) -> dict[str, Any]:
    return {
        "configId": hook.config_id,
        "productId": hook.product_id,
        "position": str(hook.position),
        "changedFields": hook.changed_fields,
    }


def _find_operation_problem(operation: PreparedOperation) -> str | None:
    if operation.kind is None:
        return "must have exactly one operation."
    if operation.kind is not OperationType.QUERY:
        return f"must be a query, not a {operation.kind.value}."
    if operation.cost > MAX_QUERY_COST:
        return f"costs {operation.cost:,}, at most {MAX_QUERY_COST:,} are allowed: it is executed for each message. Select less."
    if operation.document.cacheability.is_personal:
        return "must not select personal fields, such as me or an e-mail address."
    return None


def _find_variables_problem(operation: PreparedOperation) -> str | None:
    for name, type_ in _get_variable_types(operation).items():
        if name not in _VARIABLE_TYPES:
            offered = ", ".join(f"${variable}: {types[0]}" for variable, types in _VARIABLE_TYPES.items())
            return f"must not declare the variable ${name}. Available are {offered}."
        if type_ not in _VARIABLE_TYPES[name]:
            return f"must declare ${name} as {_VARIABLE_TYPES[name][0]}, not as {type_}."
    return None


def _get_variable_types(operation: PreparedOperation) -> dict[str, str]:
    """The variables that a query declares, with their types."""
    operation_node = operation.document.find_operation(None)
    definitions = operation_node.variable_definitions or () if operation_node else ()
    return {definition.variable.name.value: print_ast(definition.type) for definition in definitions}


def _build_error_response(code: str, message: str) -> dict[str, Any]:
    return {"data": None, "errors": [{"message": message, "extensions": {"code": code}}]}
