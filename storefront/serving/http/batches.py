"""Several requests in one body: each is answered as if it had come alone, in their order."""

import asyncio
from collections.abc import Sequence
from typing import Any

import orjson
from graphql import OperationType

from storefront.core.errors import RequestError
from storefront.serving.documents.document_store import NotExecutableError
from storefront.serving.http.graphql_request import BadRequest, parse_request
from storefront.serving.run.operations import OperationContext, Operations, PreparedOperation, format_request_error, format_result


class RequestBatch:
    """The requests of one body. Who asks is known once for all of them; what one has loaded the others load again."""

    def __init__(self, operations: Operations, entries: "Sequence[PreparedOperation | Exception]", request_id: str) -> None:
        self._operations, self._entries, self._request_id = operations, entries, request_id
        # Bytes of the answers so far.
        self._response_bytes = 0

    @classmethod
    async def prepare(cls, operations: Operations, items: Sequence[Any], request_id: str) -> "RequestBatch":
        """What the items ask for, or why they ask for nothing."""
        return cls(operations, [await _prepare_entry(operations, item) for item in items], request_id)

    @property
    def cost(self) -> int:
        """What all of them cost together."""
        return sum(entry.cost for entry in self._entries if isinstance(entry, PreparedOperation))

    @property
    def has_mutations(self) -> bool:
        """Whether any of them is a mutation."""
        return any(isinstance(entry, PreparedOperation) and entry.kind is OperationType.MUTATION for entry in self._entries)

    async def execute_all(self, context: OperationContext) -> list[Any]:
        """One answer for each request: queries at the same time, but one after the other where any of them writes.

        An answer with which all of them would be too large is an error in its place.
        """
        if self.has_mutations:
            return [await self._execute_in_current_context(entry, context) for entry in self._entries]
        return await asyncio.gather(*(self._execute_entry(entry, context.fork()) for entry in self._entries))

    async def _execute_in_current_context(self, entry: PreparedOperation | Exception, context: OperationContext) -> Any:
        # The one before may have made a store, or signed its user out.
        try:
            return await self._execute_entry(entry, await context.reauthenticate())
        except RequestError as error:
            return format_request_error(error, self._request_id)

    async def _execute_entry(self, entry: PreparedOperation | Exception, context: OperationContext) -> Any:
        if isinstance(entry, Exception):
            return format_request_error(entry, self._request_id)
        try:
            # Encoded at once: as JSON an answer takes a fraction of what its objects do.
            content = self._operations.encode_response(
                format_result(await self._operations.run(entry, context), self._request_id), entry.kind
            )
            self._operations.check_response_size(self._response_bytes + len(content), entry.kind)
            self._response_bytes += len(content)
            return orjson.Fragment(content)
        except Exception as error:
            return format_request_error(error, self._request_id)


async def _prepare_entry(operations: Operations, item: Any) -> PreparedOperation | Exception:
    try:
        operation = await operations.prepare_async(parse_request(item))
    except (NotExecutableError, RequestError) as error:
        return error
    if operation.kind is OperationType.SUBSCRIPTION:
        return BadRequest("A subscription cannot be one of several requests: send it alone.")
    return operation
