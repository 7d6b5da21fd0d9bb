"""Runs operations: queries and mutations at once, subscriptions for each event, and that once for all who ask the same."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Hashable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from inspect import isawaitable
from time import monotonic
from typing import Any, Protocol, TypeVar, cast

import orjson
from graphql import (
    DocumentNode,
    ExecutionResult,
    FragmentDefinitionNode,
    GraphQLError,
    Node,
    OperationDefinitionNode,
    OperationType,
    Visitor,
    execute,
    visit,
)
from graphql.execution import Executor, create_source_event_stream

from storefront.core.errors import LimitExceeded, RequestError, TimedOut, Unavailable
from storefront.core.ids import new_id
from storefront.core.memory import compact_bytes
from storefront.execution.executor import BreadthFirstExecutor, OperationProgress
from storefront.serving.documents.document_store import DocumentStore, NotExecutableError, PreparedDocument
from storefront.serving.documents.field_merging import FieldCollector
from storefront.serving.documents.limits import check_cost
from storefront.serving.documents.parse_lock import ParseLock
from storefront.serving.errors import format_errors, get_error_code
from storefront.serving.http import lone_surrogates
from storefront.serving.http.graphql_request import GraphQLRequest
from storefront.serving.observability.instrumentation import Observers
from storefront.serving.run.cancellation import Deadline
from storefront.serving.run.fanout import ExecuteEvent, SharedSource, SharedStreams, SubscriptionReader, TryWrite

# For how many seconds an event is executed again whose results are not available, and those between two tries.
UNAVAILABLE_RETRY_SECONDS = 60.0
MIN_RETRY_PAUSE_SECONDS, MAX_RETRY_PAUSE_SECONDS = 0.1, 1.0
# What was executed for one listener is kept for the others: so many bytes, so many results, and for so many seconds.
MAX_SHARED_RESULT_BYTES, MAX_SHARED_RESULTS, SHARED_RESULT_TTL_SECONDS = 32_000_000, 20_000, 2.0


DEFAULT_OBSERVERS = Observers()

T = TypeVar("T")


class OperationContext(Protocol):
    """The context of an operation that goes on: made anew for each event, and over once it `expires` (seconds since 1970)."""

    @property
    def viewer_id(self) -> str | None:
        """Who asks; None for somebody unknown."""

    @property
    def expires(self) -> float | None: ...

    @property
    def credentials(self) -> Hashable | None:
        """What the asker is known by, to be revoked."""

    async def reauthenticate(self) -> "OperationContext":
        """The same asker as known by now; raises Unauthenticated once their proof no longer counts."""

    def fresh(self) -> "OperationContext":
        """The same asker, a new context."""

    def fork(self) -> "OperationContext":
        """The same asker at the same moment, for another operation."""

    def as_anonymous(self) -> "OperationContext":
        """A new context of somebody unknown."""

    def cancel(self) -> None:
        """Nobody waits for the operation any more: what runs on its behalf is to stop."""

    def release(self) -> None:
        """The operation is over: free what was loaded for it."""


@dataclass(frozen=True, slots=True)
class PreparedOperation:
    """What a request asks for, once its document is found.

    `kind` is query, mutation or subscription; None where the request does not say which operation of several. `name` is the one
    that was asked for, `label` the one that the operation has in its document.
    """

    document: PreparedDocument
    kind: OperationType | None
    name: str | None
    variables: dict[str, Any]
    cost: int = 0
    reports_cost: bool = False
    label: str | None = None

    @property
    def kind_name(self) -> str:
        """The kind as a word."""
        return self.kind.value if self.kind else "unknown"

    @property
    def hash(self) -> str:
        """That of its document."""
        return self.document.hash

    @property
    def is_public(self) -> bool:
        """A query whose answer is the same to everybody who is unknown, and changes with nothing but logs."""
        return self.kind is OperationType.QUERY and self.document.is_public


@dataclass(frozen=True, slots=True)
class ConcurrencyLimits:
    """How many queries and mutations run at a time, how many seconds each of them has, and how many bytes its response."""

    max_operations: int = 200
    timeout_seconds: float = 30.0
    max_response_bytes: int = 16_000_000


DEFAULT_CONCURRENCY_LIMITS = ConcurrencyLimits()


class Operations:
    """The operations of a schema's documents."""

    def __init__(
        self,
        documents: DocumentStore,
        limits: ConcurrencyLimits = DEFAULT_CONCURRENCY_LIMITS,
        observers: Observers = DEFAULT_OBSERVERS,
    ) -> None:
        self._documents, self._limits, self._observers = documents, limits, observers
        self._running_count, self._parse_lock = 0, ParseLock(limits.max_operations)
        self._schema, self._hides_suggestions = documents.schema, not documents.policy.allows_introspection
        self._shared_results: deque[tuple[float, dict[Any, Any], Any, int]] = deque()
        self._shared_result_bytes = self._subscriber_count = 0
        self._shared_streams = SharedStreams()

    async def prepare_async(self, request: GraphQLRequest) -> PreparedOperation:
        """What the request asks for, without keeping others waiting; raises what `prepare` raises, and Unavailable."""
        return (
            self.prepare(request)
            if self._documents.can_find_without_parsing(request)
            else await self._parse_lock.run_exclusively(partial(self.prepare, request))
        )

    def prepare(self, request: GraphQLRequest) -> PreparedOperation:
        """What the request asks for; raises NotExecutable, and LimitExceeded where it costs too much."""
        try:
            return self._prepare(request)
        except (NotExecutableError, RequestError) as error:
            self._observers.report_rejection(error.errors[0] if isinstance(error, NotExecutableError) else wrap_error(error))
            raise

    def _prepare(self, request: GraphQLRequest) -> PreparedOperation:
        document = self._documents.find_document(request)
        operation_node = document.find_operation(request.operation_name)
        if request.may_have_lone_surrogates:
            lone_surrogates.check_variables(self._schema, operation_node, request.variables)
        if operation_node:
            document.input_limits.check_variables(operation_node, request.variables)
        cost = document.costs.estimate(operation_node, request.variables) if operation_node else 0
        check_cost(cost, self._documents.limits)
        kind = operation_node.operation if operation_node else None
        label = operation_node.name.value if operation_node and operation_node.name else None
        return PreparedOperation(document, kind, request.operation_name, request.variables, cost, request.reports_cost, label)

    async def run(self, operation: PreparedOperation, context: OperationContext) -> ExecutionResult:
        """Execute a query or mutation; raises Unavailable where too many are running, and TimedOut."""
        if self._running_count >= self._limits.max_operations:
            raise Unavailable(f"This server runs at most {self._limits.max_operations:,} operations at a time. Try again soon.")
        self._running_count += 1
        progress = OperationProgress() if operation.kind is OperationType.MUTATION else None
        deadline = Deadline(self._limits.timeout_seconds)
        try:
            result = await self._execute_observed(operation, context, progress=progress)
        except asyncio.CancelledError:
            context.cancel()
            if deadline.absorb_cancellation():
                raise self._create_timeout_error(operation, progress) from None
            raise
        finally:
            deadline.stop()
            self._running_count -= 1
            context.release()
        if operation.reports_cost:
            result.extensions = {"cost": {"estimate": operation.cost, "maximum": self._documents.limits.cost}}
        return result

    def encode_response(self, response: Any, kind: OperationType | None = None) -> bytes:
        """An answer as JSON. Raises LimitExceeded where a response may not have so many bytes."""
        content = orjson.dumps(response)
        self.check_response_size(len(content), kind)
        return content

    def check_response_size(self, size: int, kind: OperationType | None = None) -> None:
        """Raise LimitExceeded where a response may not have so many bytes."""
        if size > self._limits.max_response_bytes:
            mutation_note = " The mutation is done." if kind is OperationType.MUTATION else ""
            problem = f"The response is too large.{mutation_note} Select fewer fields or ask for shorter pages"
            raise LimitExceeded("responseBytes", self._limits.max_response_bytes, size, problem, "bytes")

    async def stream(
        self, operation: PreparedOperation, context: OperationContext, request_id: str, try_write: TryWrite | None = None
    ) -> AsyncGenerator[bytes, None]:
        """A subscription's results as JSON, as they come; raises NotExecutable before the first.

        Each event is executed with a context of its own; one with a dictionary `shared` once for all who ask for the same of it.
        Where the source of the events is shared, too, results are given to `tell` as long as it takes them, and only the others
        are returned.
        """
        source = await self._open_source(operation, context)
        # What is for everybody is asked for by nobody in particular: one asker's answer never reaches another.
        if isinstance(source, SharedSource) and source.is_public and not operation.document.is_personal:
            context = context.as_anonymous()
        result_key = (operation.document.hash, operation.name, _encode_selection_variables(operation), context.viewer_id)

        async def execute_event(event: Any) -> bytes:
            return await self._get_shared_result(event, result_key, operation, context, request_id)

        self._subscriber_count += 1
        try:
            async with aclosing(self._open_results(source, result_key, execute_event, try_write)) as results:
                async for result in results:
                    yield result
        finally:
            self._subscriber_count -= 1
            self._evict_shared_results()

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

    async def _get_shared_result(
        self, event: Any, result_key: Hashable, operation: PreparedOperation, context: OperationContext, request_id: str
    ) -> bytes:
        results_by_key = getattr(event, "shared", {})
        result = results_by_key.get(result_key)
        if isinstance(result, bytes):
            return result
        if result is None:
            result = asyncio.ensure_future(self._execute_until_available(event, operation, context, request_id))
            results_by_key[result_key] = result
            result.add_done_callback(lambda task: self._store_shared_result(results_by_key, result_key, task))
        # One listener that leaves must not take the result from the others.
        return cast(bytes, await asyncio.shield(result))

    def _store_shared_result(self, results_by_key: dict[Any, Any], result_key: Any, task: "asyncio.Future[bytes]") -> None:
        # Events are few; who asks for something of their own of each of them makes many results.
        size, now = 0, monotonic()
        if not task.cancelled() and not task.exception():
            # The bytes alone: a task keeps everything alive that its operation made.
            results_by_key[result_key] = task.result()
            size = len(task.result())
        self._shared_results.append((now, results_by_key, result_key, size))
        self._shared_result_bytes += size
        self._evict_shared_results()

    def _evict_shared_results(self) -> None:
        """Drop results beyond the limits, and those that no listener asks for any more.

        These are the ones that are older than the events that listeners share, and all of them once there is no listener.
        """
        now = monotonic()
        while self._shared_results and (
            not self._subscriber_count
            or self._shared_result_bytes > MAX_SHARED_RESULT_BYTES
            or len(self._shared_results) > MAX_SHARED_RESULTS
            or now - self._shared_results[0][0] > SHARED_RESULT_TTL_SECONDS
        ):
            _, results_by_key, result_key, size = self._shared_results.popleft()
            results_by_key.pop(result_key, None)
            self._shared_result_bytes -= size

    async def _execute_until_available(
        self, event: Any, operation: PreparedOperation, context: OperationContext, request_id: str
    ) -> bytes:
        # An event comes once: while the database is away it is not answered with an error, but executed again.
        deadline, pause = monotonic() + UNAVAILABLE_RETRY_SECONDS, MIN_RETRY_PAUSE_SECONDS
        while True:
            event_context = context.fresh()
            try:
                result = await self._execute_observed(operation, event_context, event)
                if not is_unavailable(result) or monotonic() > deadline:
                    return compact_bytes(self.encode_response(format_result(result, request_id)))
            except LimitExceeded as error:
                # Only this event: those after it may be smaller.
                return orjson.dumps(format_request_error(error, request_id))
            finally:
                event_context.release()
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_RETRY_PAUSE_SECONDS)

    async def await_with_timeout(self, operation: PreparedOperation, outcome: Awaitable[T]) -> T:
        """What is waited for with others, within the time that an operation has; raises TimedOut."""
        try:
            async with asyncio.timeout(self._limits.timeout_seconds):
                return await outcome
        except TimeoutError:
            raise self._create_timeout_error(operation, None) from None

    def _create_timeout_error(self, operation: PreparedOperation, progress: OperationProgress | None) -> TimedOut:
        limit = f"This took longer than the {self._limits.timeout_seconds:g} s that it has"
        if progress is None:
            return TimedOut(f"{limit}, and was given up. Ask for less at a time.")
        done, operation_node = list(progress.completed), operation.document.find_operation(operation.name)
        interrupted = [name for name in progress.started if name not in progress.completed]
        root_names = (
            FieldCollector(self._schema, operation.document.ast).collect_fields([(None, operation_node.selection_set)])
            if operation_node
            else {}
        )
        not_started = [name for name in root_names if name not in progress.started]
        names_by_state = {"done": done, "interrupted": interrupted, "not begun": not_started}
        states_text = "; ".join(f"{state}: {', '.join(root_names)}" for state, root_names in names_by_state.items() if root_names)
        advice = "What was interrupted is done whole or not at all: the same idempotencyKey makes it safe to send it again."
        return TimedOut(f"{limit}. {states_text}. {advice}", done=done, interrupted=interrupted, notBegun=not_started)

    async def _execute_observed(
        self, operation: PreparedOperation, context: object, root: Any = None, progress: OperationProgress | None = None
    ) -> ExecutionResult:
        with self._observers.observe_execution(operation) as execution:
            result = await self._execute(operation, context, root, progress)
            execution.record_result(result)
        return result

    async def _execute(
        self, operation: PreparedOperation, context: object, root: Any, progress: OperationProgress | None
    ) -> ExecutionResult:
        result = execute(
            self._schema,
            operation.document.ast,
            root_value=root,
            context_value=context,
            variable_values=operation.variables,
            operation_name=operation.name,
            executor_class=BreadthFirstExecutor,
            plans=operation.document.plans,
            hide_suggestions=self._hides_suggestions,
            progress=progress,
        )
        return await result if isawaitable(result) else result


async def _execute_each(source: AsyncIterable[Any], execute: ExecuteEvent) -> AsyncGenerator[bytes, None]:
    events = cast("AsyncGenerator[Any, None]", aiter(source))
    async with aclosing(events):
        async for event in events:
            yield await execute(event)


def is_unavailable(result: ExecutionResult) -> bool:
    """Whether a result has errors, and all of them say that something was not available just then."""
    return bool(result.errors) and all(get_error_code(error) == Unavailable.code for error in result.errors or ())


def wrap_error(error: Exception) -> GraphQLError:
    """Anything that went wrong outside of execution, as an error of the whole request."""
    return GraphQLError(str(error), original_error=error)


def format_result(result: ExecutionResult, request_id: str) -> dict[str, Any]:
    """A result as clients get it. Without a place in the data its first error kept the operation from being begun."""
    extensions = {"extensions": result.extensions} if result.extensions else {}
    if not result.errors:
        return {"data": result.data, **extensions}
    data = {"data": result.data} if result.data is not None or result.errors[0].path else {}
    return {"errors": format_errors(result.errors, request_id), **data, **extensions}


def format_request_error(error: Exception, request_id: str) -> dict[str, Any]:
    """What clients get instead of a result."""
    errors = error.errors if isinstance(error, NotExecutableError) else [wrap_error(error)]
    return {"errors": format_errors(errors, request_id)}


def _encode_selection_variables(operation: PreparedOperation) -> bytes:
    """The variables that what is told of an event depends on: all but those that only choose the events."""
    operation_node = operation.document.find_operation(operation.name)
    source_variables: set[str] = set()
    for field in operation_node.selection_set.selections if operation_node else ():
        for argument in getattr(field, "arguments", None) or ():
            source_variables |= _find_variable_names(argument)
    selection_variables = {
        name for field in _iterate_selection_nodes(operation.document.ast) for name in _find_variable_names(field)
    }
    values = {
        name: value for name, value in operation.variables.items() if name in selection_variables or name not in source_variables
    }
    try:
        return orjson.dumps(values)
    except orjson.JSONEncodeError:
        # Nested too deeply, or beyond 64 bits: the results are shared with no other operation.
        return new_id().encode()


def _iterate_selection_nodes(document: DocumentNode) -> Iterator[Node]:
    for definition in document.definitions:
        if isinstance(definition, FragmentDefinitionNode):
            yield definition
        elif isinstance(definition, OperationDefinitionNode):
            inner = (getattr(selection, "selection_set", None) for selection in definition.selection_set.selections)
            yield from (selections for selections in inner if selections is not None)


def _find_variable_names(node: Node) -> set[str]:
    names: set[str] = set()

    class Collector(Visitor):
        def enter_variable(self, variable: Any, *_: Any) -> None:
            names.add(variable.name.value)

    visit(node, Collector())
    return names
