"""Request batching: a JSON array of requests, answered by an array of responses in the same order."""

import asyncio
from collections.abc import Sequence
from typing import Any

import orjson
from graphql import OperationType

from storefront.core.errors import RequestError
from storefront.serving.documents.document_store import NotExecutableError
from storefront.serving.documents.limits import WorkCounts
from storefront.serving.http.graphql_request import BadRequest, parse_request
from storefront.serving.run.operations import Operations
from storefront.serving.run.prepared_operation import OperationContext, PreparedOperation
from storefront.serving.run.results import format_request_error, format_result


class RequestBatch:
    """The requests of one batch. The viewer is authenticated once for all of them; each request has its own data loaders."""

    def __init__(self, operations: Operations, entries: "Sequence[PreparedOperation | Exception]", request_id: str) -> None:
        self._operations, self._entries, self._request_id = operations, entries, request_id
        # Bytes of the responses so far.
        self._response_bytes = 0

    @classmethod
    async def prepare(cls, operations: Operations, items: Sequence[Any], request_id: str) -> "RequestBatch":
        """Prepare the operation of each item. An item that fails becomes an exception in its place.

        Together they may be as much work as one operation: those beyond that fail.
        """
        entries: list[PreparedOperation | Exception] = []
        total = WorkCounts()
        for item in items:
            entry = await _prepare_entry(operations, item)
            if isinstance(entry, PreparedOperation):
                try:
                    operations.check_batch(total.add(entry.counts))
                    total = total.add(entry.counts)
                except RequestError as error:
                    entry = error
            entries.append(entry)
        return cls(operations, entries, request_id)

    @property
    def cost(self) -> int:
        """The total cost of the operations."""
        return sum(entry.cost for entry in self._entries if isinstance(entry, PreparedOperation))

    @property
    def has_mutations(self) -> bool:
        """Whether any of them is a mutation."""
        return any(isinstance(entry, PreparedOperation) and entry.kind is OperationType.MUTATION for entry in self._entries)

    async def execute_all(self, context: OperationContext) -> list[Any]:
        """Execute the requests and return one response each: concurrently, or in order if any of them is a mutation.

        A response that exceeds the size limit of the whole batch is replaced by an error.
        """
        if self.has_mutations:
            return [await self._execute_in_current_context(entry, context) for entry in self._entries]
        return await asyncio.gather(*(self._execute_entry(entry, context.fork()) for entry in self._entries))

    async def _execute_in_current_context(self, entry: PreparedOperation | Exception, context: OperationContext) -> Any:
        # The previous mutation may have changed the viewer's permissions or revoked their session.
        try:
            return await self._execute_entry(entry, await context.reauthenticate())
        except RequestError as error:
            return format_request_error(error, self._request_id)

    async def _execute_entry(self, entry: PreparedOperation | Exception, context: OperationContext) -> Any:
        if isinstance(entry, Exception):
            return format_request_error(entry, self._request_id)
        try:
            # Encoded immediately: as JSON a response takes a fraction of the memory of its objects.
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
        operation = await operations.prepare(parse_request(item))
    except (NotExecutableError, RequestError) as error:
        return error
    if operation.kind is OperationType.SUBSCRIPTION:
        return BadRequest("A subscription cannot be one of several requests: send it alone.")
    return operation
