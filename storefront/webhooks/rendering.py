"""What a webhook is sent: which change it is, and what the webhook's document selects of the store as it is by now."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from graphql import OperationType, print_ast

from storefront.core.db.database import Row
from storefront.core.errors import RequestError
from storefront.core.request_context import Activity
from storefront.graph.context import Context, Viewer
from storefront.serving.documents.document_store import NotExecutable
from storefront.serving.http.graphql_request import GraphQLRequest
from storefront.serving.run.operations import Operation, Operations, answer, refused
from storefront.webhooks.sending import NotMade
from storefront.webhooks.topics import RESET

# Seconds for a document, and what it may cost: fields times sizes of lists.
PATIENCE, MOST_COST = 5.0, 5_000
# What may be otherwise the next time.
_PASSING = {"INTERNAL_SERVER_ERROR", "TIMEOUT", "SERVICE_UNAVAILABLE"}

# The variables that a document may have, and the types under which it may.
_VARIABLES = {
    "configId": ("ID!", "ID"),
    "productId": ("ID!", "ID"),
    "position": ("Position!", "Position"),
    "changedFields": ("[String!]!", "[String!]", "[String]!", "[String]"),
}


@dataclass(frozen=True, slots=True)
class Renderer:
    """Makes messages of at most so many bytes. `nobody` is the context of somebody unknown."""

    operations: Operations
    nobody: Context
    most_bytes: int

    async def body(self, hook: Row, *, is_last: bool = False) -> bytes:
        """A message; raises NotMade, but not for the last attempt: then it says what is wrong with it."""
        about = envelope(hook)
        if hook.query is None or hook.type == RESET:
            return orjson.dumps(about)
        try:
            with Activity(hook.id):
                told = await self._executed(hook)
        except TimeoutError:
            told = _failed("TIMEOUT", f"The document took longer than the {PATIENCE:g} s that it has.")
        passing = {error["extensions"]["code"] for error in told.get("errors", ())} & _PASSING
        if passing and not is_last:
            raise NotMade(f"the document could not be executed: {', '.join(sorted(passing))}")
        return self._bounded(about, told)

    def _bounded(self, about: Mapping[str, Any], told: Mapping[str, Any]) -> bytes:
        body = orjson.dumps({**about, "data": None, **told})
        if len(body) <= self.most_bytes:
            return body
        problem = f"The message would have {len(body):,} bytes, and may have {self.most_bytes:,}. Select less."
        return orjson.dumps({**about, **_failed("LIMIT_EXCEEDED", problem)})

    async def _executed(self, hook: Row) -> dict[str, Any]:
        try:
            operation = await self.operations.prepared(_request(hook.query, _variables(hook)))
            if (fault := _kind_fault(operation)) is not None:
                return _failed("BAD_REQUEST", fault)
            if hook.product_id is None and _declared(operation).get("productId") == "ID!":
                return {"data": None}
            async with asyncio.timeout(PATIENCE):
                return answer(await self.operations.run(operation, self._reader(hook)), hook.id)
        except (NotExecutable, RequestError) as error:
            return refused(error, hook.id)

    def _reader(self, hook: Row) -> Context:
        if hook.read_as != "owner":
            return self.nobody.anonymous()
        # Of all that is the owner's this one store: what else they have is none of the webhook's business.
        return self.nobody.seen_by(Viewer(hook.owner_id, frozenset({hook.config_id})))


def envelope(hook: Row) -> dict[str, Any]:
    """Which change it is."""
    about = {
        "type": hook.type,
        "timestamp": hook.occurred_at,
        "configId": hook.config_id,
        "position": str(hook.position),
        "productId": hook.product_id,
        "changedFields": hook.changed_fields,
        "clientMutationId": hook.client_mutation_id,
    }
    return about | ({"reason": hook.reason} if hook.reason else {})


async def document_fault(operations: Operations, query: str) -> str | None:
    """What keeps a text from being a webhook's document, or None."""
    samples = {"configId": _SAMPLE, "productId": _SAMPLE, "position": "1", "changedFields": ["title"]}
    try:
        operation = await operations.prepared(_request(query, samples))
    except NotExecutable as error:
        return "; ".join(one.message for one in error.errors)
    except RequestError as error:
        return str(error)
    return _kind_fault(operation) or _variables_fault(operation)


_SAMPLE = "018f0000-0000-7000-8000-000000000000"


def _request(query: str, variables: dict[str, Any]) -> GraphQLRequest:
    return GraphQLRequest(query, variables)


def _variables(hook: Row) -> dict[str, Any]:
    return {
        "configId": hook.config_id,
        "productId": hook.product_id,
        "position": str(hook.position),
        "changedFields": hook.changed_fields,
    }


def _kind_fault(operation: Operation) -> str | None:
    if operation.kind is None:
        return "must have one operation, and not several."
    if operation.kind is not OperationType.QUERY:
        return f"must be a query, not a {operation.kind.value}."
    if operation.cost > MOST_COST:
        return f"costs {operation.cost:,}, and may cost {MOST_COST:,}: it is executed for each message. Select less."
    if operation.document.is_personal:
        return "must not ask for what is told to one person alone, such as me or an e-mail address."
    return None


def _variables_fault(operation: Operation) -> str | None:
    for name, type_ in _declared(operation).items():
        if name not in _VARIABLES:
            offered = ", ".join(f"${one}: {types[0]}" for one, types in _VARIABLES.items())
            return f"must not have the variable ${name}: there are {offered}."
        if type_ not in _VARIABLES[name]:
            return f"must have ${name} as {_VARIABLES[name][0]}, not as {type_}."
    return None


def _declared(operation: Operation) -> dict[str, str]:
    """The variables of a document, with their types."""
    asked = operation.document.operation(None)
    definitions = asked.variable_definitions or () if asked else ()
    return {definition.variable.name.value: print_ast(definition.type) for definition in definitions}


def _failed(code: str, message: str) -> dict[str, Any]:
    return {"data": None, "errors": [{"message": message, "extensions": {"code": code}}]}
