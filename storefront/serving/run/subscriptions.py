"""Subscriptions: each event is executed once for all subscribers with the same operation, variables and viewer (fan-out)."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Hashable, Iterator
from contextlib import aclosing, contextmanager
from inspect import isawaitable
from time import monotonic
from typing import Any, cast

import orjson
from graphql import (
    DocumentNode,
    ExecutionResult,
    FragmentDefinitionNode,
    GraphQLError,
    GraphQLSchema,
    Node,
    OperationDefinitionNode,
)
from graphql.execution import Executor, create_source_event_stream

from storefront.core.errors import LimitExceeded, Unavailable
from storefront.core.ids import new_id
from storefront.core.memory import compact_bytes
from storefront.core.tasks import share
from storefront.execution.document_nodes import find_variable_names
from storefront.serving.documents.document_store import NotExecutableError
from storefront.serving.run.fanout import ExecuteEvent, SharedSource, SharedStreams, SubscriptionReader, TryWrite
from storefront.serving.run.prepared_operation import OperationContext, PreparedOperation
from storefront.serving.run.results import format_request_error, format_result, is_incomplete

log = logging.getLogger("storefront")

# For how many seconds an event is retried while the database is unavailable or slow, and the pauses between attempts (back-off).
EVENT_RETRY_SECONDS = 60.0
MIN_RETRY_PAUSE_SECONDS, MAX_RETRY_PAUSE_SECONDS = 0.1, 1.0
# Bounds of the results that are cached for other subscribers: bytes, number and age.
MAX_SHARED_RESULT_BYTES, MAX_SHARED_RESULTS, SHARED_RESULT_TTL_SECONDS = 32_000_000, 20_000, 2.0

# Executes an operation in a context, with an event as its root value.
ExecuteOperation = Callable[[PreparedOperation, OperationContext, Any], Awaitable[ExecutionResult]]
# Encodes a response as JSON; raises LimitExceeded.
EncodeResponse = Callable[[Any], bytes]


class Subscriptions:
    """The subscriptions to a schema. `execute` and `encode` are those of all operations."""

    def __init__(
        self, schema: GraphQLSchema, execute: ExecuteOperation, encode: EncodeResponse, *, hides_suggestions: bool = False
    ) -> None:
        self._schema, self._execute, self._encode, self._hides_suggestions = schema, execute, encode, hides_suggestions
        self._shared_results = SharedResults()
        self._shared_streams = SharedStreams()

    async def stream(
        self, operation: PreparedOperation, context: OperationContext, request_id: str, try_write: TryWrite | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The results of a subscription as JSON, one per event. Raises NotExecutableError before the first.

        Each event is executed in a context of its own. An event with a dictionary `shared` is executed once for all subscribers
        with the same operation. If the source of the events is shared as well, results are written with `try_write` as long as it
        accepts them, and only the others are yielded. Ends before an event for which the database is not available for long.
        """
        source = await self._open_source(operation, context)
        # A public result is computed for an anonymous viewer, so that nothing of one viewer can reach another.
        if isinstance(source, SharedSource) and source.is_public and not operation.document.cacheability.is_personal:
            context = context.as_anonymous()
        result_key = (operation.document.hash, operation.name, _encode_selection_variables(operation), context.viewer_id)

        async def execute_event(event: Any) -> bytes:
            return await self._shared_results.get_or_compute(
                event, result_key, lambda: self._execute_until_available(event, operation, context, request_id)
            )

        with self._shared_results.counting_subscriber():
            async with aclosing(self._open_results(source, result_key, execute_event, try_write)) as results:
                try:
                    async for result in results:
                        yield result
                except _EventFailedError:
                    # The stream is complete before the event that it cannot send: the client resumes there.
                    log.warning("a subscription ends: the database did not answer an event for %g s", EVENT_RETRY_SECONDS)

    def _open_results(
        self, source: AsyncIterable[Any], result_key: Hashable, execute: ExecuteEvent, try_write: TryWrite | None
    ) -> AsyncGenerator[bytes, None]:
        if isinstance(source, SharedSource) and try_write is not None:
            return SubscriptionReader(self._shared_streams, source, result_key, execute, try_write).iterate_results()
        return _execute_each(source, execute)

    async def _open_source(self, operation: PreparedOperation, context: OperationContext) -> AsyncIterable[Any]:
        executor = Executor.build(
            self._schema,
            operation.document.ast,
            context_value=context,
            raw_variable_values=operation.variables,
            operation_name=operation.name,
            hide_suggestions=self._hides_suggestions,
        )
        if isinstance(executor, list):
            raise NotExecutableError(executor)
        stream = create_source_event_stream(executor)
        events = await stream if isawaitable(stream) else stream
        if isinstance(events, ExecutionResult):
            raise NotExecutableError(events.errors or [GraphQLError("The subscription could not be opened.")])
        return events

    async def _execute_until_available(
        self, event: Any, operation: PreparedOperation, context: OperationContext, request_id: str
    ) -> bytes:
        # A source sends an event once. While the database is unavailable the event is retried instead of answered with an error.
        deadline, pause = monotonic() + EVENT_RETRY_SECONDS, MIN_RETRY_PAUSE_SECONDS
        while True:
            event_context = context.fresh()
            try:
                result = await self._execute(operation, event_context, event)
                if not is_incomplete(result):
                    return compact_bytes(self._encode(format_result(result, request_id)))
            except Unavailable:
                # Too many rows of other operations.
                pass
            except LimitExceeded as error:
                # The subscription goes on: later events may be smaller.
                return orjson.dumps(format_request_error(error, request_id))
            finally:
                event_context.release()
            if monotonic() > deadline:
                raise _EventFailedError
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_RETRY_PAUSE_SECONDS)


class _EventFailedError(Exception):
    """The database was unavailable or too slow for an event."""


class SharedResults:
    """The results of events that subscribers share, in the dictionary `shared` of each event. Single-flight per key.

    Bounded by bytes, number and age over all events; emptied when the last subscriber leaves.
    """

    def __init__(self) -> None:
        self._entries: deque[tuple[float, dict[Any, Any], Any, int]] = deque()
        self._total_bytes = self._subscriber_count = 0

    @contextmanager
    def counting_subscriber(self) -> Iterator[None]:
        """Count a subscriber while the context lasts."""
        self._subscriber_count += 1
        try:
            yield
        finally:
            self._subscriber_count -= 1
            self._evict()

    async def get_or_compute(self, event: Any, key: Hashable, compute: Callable[[], Awaitable[bytes]]) -> bytes:
        """The result of an event under a key, computed at most once while it is cached. Raises what `compute` raises."""
        results_by_key = getattr(event, "shared", {})
        result = results_by_key.get(key)
        if isinstance(result, bytes):
            return result
        if result is None:
            result = asyncio.ensure_future(compute())
            results_by_key[key] = result
            result.add_done_callback(lambda task: self._store(results_by_key, key, task))
        # A subscriber that leaves must not cancel the computation for the others.
        return cast(bytes, await share(result))

    def _store(self, results_by_key: dict[Any, Any], key: Any, task: "asyncio.Future[bytes]") -> None:
        # Events are few, but subscribers with different operations make many results of each.
        size, now = 0, monotonic()
        if not task.cancelled() and not task.exception():
            # Only the bytes: a task keeps alive all objects of its operation.
            results_by_key[key] = task.result()
            size = len(task.result())
        self._entries.append((now, results_by_key, key, size))
        self._total_bytes += size
        self._evict()

    def _evict(self) -> None:
        """Drop the oldest results beyond the bounds, and all of them once there is no subscriber."""
        now = monotonic()
        while self._entries and (
            not self._subscriber_count
            or self._total_bytes > MAX_SHARED_RESULT_BYTES
            or len(self._entries) > MAX_SHARED_RESULTS
            or now - self._entries[0][0] > SHARED_RESULT_TTL_SECONDS
        ):
            _, results_by_key, key, size = self._entries.popleft()
            results_by_key.pop(key, None)
            self._total_bytes -= size


async def _execute_each(source: AsyncIterable[Any], execute: ExecuteEvent) -> AsyncGenerator[bytes, None]:
    events = cast("AsyncGenerator[Any, None]", aiter(source))
    async with aclosing(events):
        async for event in events:
            yield await execute(event)


def _encode_selection_variables(operation: PreparedOperation) -> bytes:
    """The variables that the result of an event depends on: all but those that only the root field's arguments use.

    The root field's arguments choose the events, not what is selected of them.
    """
    operation_node = operation.document.find_operation(operation.name)
    source_variables: set[str] = set()
    for field in operation_node.selection_set.selections if operation_node else ():
        for argument in getattr(field, "arguments", None) or ():
            source_variables.update(find_variable_names(argument))
    selection_variables = {
        name for node in _iterate_selection_nodes(operation.document.ast) for name in find_variable_names(node)
    }
    values = {
        name: value for name, value in operation.variables.items() if name in selection_variables or name not in source_variables
    }
    try:
        return orjson.dumps(values)
    except orjson.JSONEncodeError:
        # Nested too deeply, or an integer beyond 64 bits: a random key, so that the results are not shared.
        return new_id().encode()


def _iterate_selection_nodes(document: DocumentNode) -> Iterator[Node]:
    for definition in document.definitions:
        if isinstance(definition, FragmentDefinitionNode):
            yield definition
        elif isinstance(definition, OperationDefinitionNode):
            inner = (getattr(selection, "selection_set", None) for selection in definition.selection_set.selections)
            yield from (selections for selections in inner if selections is not None)
