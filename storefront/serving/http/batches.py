"""Several requests in one body: each is answered as if it had come alone, in their order."""

import asyncio
from collections.abc import Sequence
from typing import Any

import orjson
from graphql import OperationType

from storefront.core.errors import RequestError
from storefront.serving.documents.document_store import NotExecutable
from storefront.serving.http.graphql_request import BadRequest, checked_request
from storefront.serving.run.operations import Operation, Operations, Renewable, answer, refused


class Batch:
    """The requests of one body. Who asks is known once for all of them; what one has loaded the others load again."""

    def __init__(self, operations: Operations, asked: "Sequence[Operation | Exception]", request_id: str) -> None:
        self._operations, self._asked, self._request_id = operations, asked, request_id
        # Bytes of the answers so far.
        self._size = 0

    @classmethod
    async def of(cls, operations: Operations, items: Sequence[Any], request_id: str) -> "Batch":
        """What the items ask for, or why they ask for nothing."""
        return cls(operations, [await _prepared(operations, item) for item in items], request_id)

    @property
    def cost(self) -> int:
        """What all of them cost together."""
        return sum(asked.cost for asked in self._asked if isinstance(asked, Operation))

    @property
    def writes(self) -> bool:
        """Whether any of them is a mutation."""
        return any(isinstance(asked, Operation) and asked.kind is OperationType.MUTATION for asked in self._asked)

    async def answers(self, context: Renewable) -> list[Any]:
        """One answer for each request: queries at the same time, but one after the other where any of them writes.

        An answer with which all of them would be too large is an error in its place.
        """
        if self.writes:
            return [await self._in_turn(asked, context) for asked in self._asked]
        return await asyncio.gather(*(self._answer(asked, context.apart()) for asked in self._asked))

    async def _in_turn(self, asked: Operation | Exception, context: Renewable) -> Any:
        # The one before may have made a store, or signed its user out.
        try:
            return await self._answer(asked, await context.current())
        except RequestError as error:
            return refused(error, self._request_id)

    async def _answer(self, asked: Operation | Exception, context: Renewable) -> Any:
        if isinstance(asked, Exception):
            return refused(asked, self._request_id)
        try:
            # Encoded at once: as JSON an answer takes a fraction of what its objects do.
            content = self._operations.encode(answer(await self._operations.run(asked, context), self._request_id), asked.kind)
            self._operations.check_size(self._size + len(content), asked.kind)
            self._size += len(content)
            return orjson.Fragment(content)
        except Exception as error:
            return refused(error, self._request_id)


async def _prepared(operations: Operations, item: Any) -> Operation | Exception:
    try:
        operation = await operations.prepared(checked_request(item))
    except (NotExecutable, RequestError) as error:
        return error
    if operation.kind is OperationType.SUBSCRIPTION:
        return BadRequest("A subscription cannot be one of several requests: send it alone.")
    return operation
