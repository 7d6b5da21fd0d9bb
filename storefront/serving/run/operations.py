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
from storefront.core.memory import compact
from storefront.execution.executor import BreadthFirst, Progress
from storefront.serving.documents.document_store import Document, Documents, NotExecutable
from storefront.serving.documents.field_merging import Merged
from storefront.serving.documents.limits import check_cost
from storefront.serving.documents.parse_lock import Turns
from storefront.serving.errors import code_of, formatted
from storefront.serving.http import lone_surrogates
from storefront.serving.http.graphql_request import GraphQLRequest
from storefront.serving.observability.instrumentation import Observers
from storefront.serving.run.cancellation import Timer
from storefront.serving.run.fanout import Crowds, Execute, Listener, Source, Tell

# For how many seconds an event is executed again whose results are not available, and those between two tries.
UNAVAILABLE_SECONDS = 60.0
SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 1.0
# What was executed for one listener is kept for the others: so many bytes, so many results, and for so many seconds.
MOST_KEPT, MOST_RESULTS, KEPT_SECONDS = 32_000_000, 20_000, 2.0


NOBODY = Observers()

T = TypeVar("T")


class Renewable(Protocol):
    """The context of an operation that goes on: made anew for each event, and over once it `expires` (seconds since 1970)."""

    @property
    def asker(self) -> str | None:
        """Who asks; None for somebody unknown."""

    @property
    def expires(self) -> float | None: ...

    @property
    def proof(self) -> Hashable | None:
        """What the asker is known by, to be revoked."""

    async def current(self) -> "Renewable":
        """The same asker as known by now; raises Unauthenticated once their proof no longer counts."""

    def renewed(self) -> "Renewable":
        """The same asker, a new context."""

    def apart(self) -> "Renewable":
        """The same asker at the same moment, for another operation."""

    def anonymous(self) -> "Renewable":
        """A new context of somebody unknown."""

    def abandon(self) -> None:
        """Nobody waits for the operation any more: what runs on its behalf is to stop."""

    def release(self) -> None:
        """The operation is over: free what was loaded for it."""


@dataclass(frozen=True, slots=True)
class Operation:
    """What a request asks for, once its document is found.

    `kind` is query, mutation or subscription; None where the request does not say which operation of several. `name` is the one
    that was asked for, `label` the one that the operation has in its document.
    """

    document: Document
    kind: OperationType | None
    name: str | None
    variables: dict[str, Any]
    cost: int = 0
    tells_cost: bool = False
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
class Capacity:
    """How many queries and mutations run at a time, how many seconds each of them has, and how many bytes its response."""

    operations: int = 200
    seconds: float = 30.0
    response: int = 16_000_000


AMPLE = Capacity()


class Operations:
    """The operations of a schema's documents."""

    def __init__(self, documents: Documents, capacity: Capacity = AMPLE, observers: Observers = NOBODY) -> None:
        self._documents, self._capacity, self._observers = documents, capacity, observers
        self._running, self._turns = 0, Turns(capacity.operations)
        self._schema, self._hides_suggestions = documents.schema, not documents.policy.introspection
        self._results: deque[tuple[float, dict[Any, Any], Any, int]] = deque()
        self._kept = self._listeners = 0
        self._crowds = Crowds()

    async def prepared(self, request: GraphQLRequest) -> Operation:
        """What the request asks for, without keeping others waiting; raises what `prepare` raises, and Unavailable."""
        return self.prepare(request) if self._documents.knows(request) else await self._turns.take(partial(self.prepare, request))

    def prepare(self, request: GraphQLRequest) -> Operation:
        """What the request asks for; raises NotExecutable, and LimitExceeded where it costs too much."""
        try:
            return self._prepared(request)
        except (NotExecutable, RequestError) as error:
            self._observers.refused(error.errors[0] if isinstance(error, NotExecutable) else wrapped(error))
            raise

    def _prepared(self, request: GraphQLRequest) -> Operation:
        document = self._documents.find(request)
        asked = document.operation(request.operation_name)
        if request.may_be_torn:
            lone_surrogates.check_variables(self._schema, asked, request.variables)
        if asked:
            document.inputs.check(asked, request.variables)
        cost = document.costs.of(asked, request.variables) if asked else 0
        check_cost(cost, self._documents.limits)
        kind = asked.operation if asked else None
        label = asked.name.value if asked and asked.name else None
        return Operation(document, kind, request.operation_name, request.variables, cost, request.tells_cost, label)

    async def run(self, operation: Operation, context: Renewable) -> ExecutionResult:
        """Execute a query or mutation; raises Unavailable where too many are running, and TimedOut."""
        if self._running >= self._capacity.operations:
            raise Unavailable(f"This server runs at most {self._capacity.operations:,} operations at a time. Try again soon.")
        self._running += 1
        progress = Progress() if operation.kind is OperationType.MUTATION else None
        timer = Timer(self._capacity.seconds)
        try:
            result = await self._executed(operation, context, progress=progress)
        except asyncio.CancelledError:
            context.abandon()
            if timer.ended():
                raise self._timed_out(operation, progress) from None
            raise
        finally:
            timer.stop()
            self._running -= 1
            context.release()
        if operation.tells_cost:
            result.extensions = {"cost": {"estimate": operation.cost, "maximum": self._documents.limits.cost}}
        return result

    def encode(self, whole: Any, kind: OperationType | None = None) -> bytes:
        """An answer as JSON. Raises LimitExceeded where a response may not have so many bytes."""
        content = orjson.dumps(whole)
        self.check_size(len(content), kind)
        return content

    def check_size(self, size: int, kind: OperationType | None = None) -> None:
        """Raise LimitExceeded where a response may not have so many bytes."""
        if size > self._capacity.response:
            done = " The mutation is done." if kind is OperationType.MUTATION else ""
            problem = f"The response is too large.{done} Select fewer fields or ask for shorter pages"
            raise LimitExceeded("responseBytes", self._capacity.response, size, problem, "bytes")

    async def stream(
        self, operation: Operation, context: Renewable, request_id: str, tell: Tell | None = None
    ) -> AsyncGenerator[bytes, None]:
        """A subscription's results as JSON, as they come; raises NotExecutable before the first.

        Each event is executed with a context of its own; one with a dictionary `shared` once for all who ask for the same of it.
        Where the source of the events is shared, too, results are given to `tell` as long as it takes them, and only the others
        are returned.
        """
        source = await self._source(operation, context)
        # What is for everybody is asked for by nobody in particular: one asker's answer never reaches another.
        if isinstance(source, Source) and source.is_public and not operation.document.is_personal:
            context = context.anonymous()
        asked = (operation.document.hash, operation.name, _selected_variables(operation), context.asker)

        async def execute(event: Any) -> bytes:
            return await self._told(event, asked, operation, context, request_id)

        self._listeners += 1
        try:
            async with aclosing(self._listened(source, asked, execute, tell)) as results:
                async for result in results:
                    yield result
        finally:
            self._listeners -= 1
            self._drop_results()

    def _listened(
        self, source: AsyncIterable[Any], asked: Hashable, execute: Execute, tell: Tell | None
    ) -> AsyncGenerator[bytes, None]:
        if isinstance(source, Source) and tell is not None:
            return Listener(self._crowds, source, asked, execute, tell).results()
        return _each(source, execute)

    async def _source(self, operation: Operation, context: Renewable) -> AsyncIterable[Any]:
        executor = Executor.build(
            self._schema,
            operation.document.ast,
            context_value=context,
            raw_variable_values=operation.variables,
            operation_name=operation.name,
            hide_suggestions=self._hides_suggestions,
        )
        if isinstance(executor, list):
            raise NotExecutable(executor)
        stream = create_source_event_stream(executor)
        opened = await stream if isawaitable(stream) else stream
        if isinstance(opened, ExecutionResult):
            raise NotExecutable(opened.errors or [GraphQLError("The subscription could not be opened.")])
        return opened

    async def _told(self, event: Any, asked: Hashable, operation: Operation, context: Renewable, request_id: str) -> bytes:
        shared = getattr(event, "shared", {})
        told = shared.get(asked)
        if isinstance(told, bytes):
            return told
        if told is None:
            told = asyncio.ensure_future(self._text(event, operation, context, request_id))
            shared[asked] = told
            told.add_done_callback(lambda done: self._keep(shared, asked, done))
        # One listener that leaves must not take the result from the others.
        return cast(bytes, await asyncio.shield(told))

    def _keep(self, shared: dict[Any, Any], asked: Any, told: "asyncio.Future[bytes]") -> None:
        # Events are few; who asks for something of their own of each of them makes many results.
        size, now = 0, monotonic()
        if not told.cancelled() and not told.exception():
            # The bytes alone: a task keeps everything alive that its operation made.
            shared[asked] = told.result()
            size = len(told.result())
        self._results.append((now, shared, asked, size))
        self._kept += size
        self._drop_results()

    def _drop_results(self) -> None:
        """Drop results beyond the limits, and those that no listener asks for any more.

        These are the ones that are older than the events that listeners share, and all of them once there is no listener.
        """
        now = monotonic()
        while self._results and (
            not self._listeners
            or self._kept > MOST_KEPT
            or len(self._results) > MOST_RESULTS
            or now - self._results[0][0] > KEPT_SECONDS
        ):
            _, oldest, name, size = self._results.popleft()
            oldest.pop(name, None)
            self._kept -= size

    async def _text(self, event: Any, operation: Operation, context: Renewable, request_id: str) -> bytes:
        # An event comes once: while the database is away it is not answered with an error, but executed again.
        end, pause = monotonic() + UNAVAILABLE_SECONDS, SHORTEST_PAUSE_SECONDS
        while True:
            fresh = context.renewed()
            try:
                result = await self._executed(operation, fresh, event)
                if not is_unavailable(result) or monotonic() > end:
                    return compact(self.encode(answer(result, request_id)))
            except LimitExceeded as error:
                # Only this event: those after it may be smaller.
                return orjson.dumps(refused(error, request_id))
            finally:
                fresh.release()
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def wait_until_deadline(self, operation: Operation, outcome: Awaitable[T]) -> T:
        """What is waited for with others, within the time that an operation has; raises TimedOut."""
        try:
            async with asyncio.timeout(self._capacity.seconds):
                return await outcome
        except TimeoutError:
            raise self._timed_out(operation, None) from None

    def _timed_out(self, operation: Operation, progress: Progress | None) -> TimedOut:
        limit = f"This took longer than the {self._capacity.seconds:g} s that it has"
        if progress is None:
            return TimedOut(f"{limit}, and was given up. Ask for less at a time.")
        done, asked = list(progress.done), operation.document.operation(operation.name)
        interrupted = [name for name in progress.begun if name not in progress.done]
        names = Merged(self._schema, operation.document.ast).fields([(None, asked.selection_set)]) if asked else {}
        left = [name for name in names if name not in progress.begun]
        parts = {"done": done, "interrupted": interrupted, "not begun": left}
        told = "; ".join(f"{state}: {', '.join(names)}" for state, names in parts.items() if names)
        advice = "What was interrupted is done whole or not at all: the same idempotencyKey makes it safe to send it again."
        return TimedOut(f"{limit}. {told}. {advice}", done=done, interrupted=interrupted, notBegun=left)

    async def _executed(
        self, operation: Operation, context: object, root: Any = None, progress: Progress | None = None
    ) -> ExecutionResult:
        with self._observers.execution(operation) as done:
            result = await self._begun(operation, context, root, progress)
            done.came_to(result)
        return result

    async def _begun(self, operation: Operation, context: object, root: Any, progress: Progress | None) -> ExecutionResult:
        result = execute(
            self._schema,
            operation.document.ast,
            root_value=root,
            context_value=context,
            variable_values=operation.variables,
            operation_name=operation.name,
            executor_class=BreadthFirst,
            plans=operation.document.plans,
            hide_suggestions=self._hides_suggestions,
            progress=progress,
        )
        return await result if isawaitable(result) else result


async def _each(source: AsyncIterable[Any], execute: Execute) -> AsyncGenerator[bytes, None]:
    events = cast("AsyncGenerator[Any, None]", aiter(source))
    async with aclosing(events):
        async for event in events:
            yield await execute(event)


def is_unavailable(result: ExecutionResult) -> bool:
    """Whether a result has errors, and all of them say that something was not available just then."""
    return bool(result.errors) and all(code_of(error) == Unavailable.code for error in result.errors or ())


def wrapped(error: Exception) -> GraphQLError:
    """Anything that went wrong outside of execution, as an error of the whole request."""
    return GraphQLError(str(error), original_error=error)


def answer(result: ExecutionResult, request_id: str) -> dict[str, Any]:
    """A result as clients get it. Without a place in the data its first error kept the operation from being begun."""
    extensions = {"extensions": result.extensions} if result.extensions else {}
    if not result.errors:
        return {"data": result.data, **extensions}
    data = {"data": result.data} if result.data is not None or result.errors[0].path else {}
    return {"errors": formatted(result.errors, request_id), **data, **extensions}


def refused(error: Exception, request_id: str) -> dict[str, Any]:
    """What clients get instead of a result."""
    errors = error.errors if isinstance(error, NotExecutable) else [wrapped(error)]
    return {"errors": formatted(errors, request_id)}


def _selected_variables(operation: Operation) -> bytes:
    """The variables that what is told of an event depends on: all but those that only choose the events."""
    asked = operation.document.operation(operation.name)
    chosen: set[str] = set()
    for field in asked.selection_set.selections if asked else ():
        for argument in getattr(field, "arguments", None) or ():
            chosen |= _variables_in(argument)
    inside = {name for field in _selections(operation.document.ast) for name in _variables_in(field)}
    selected = {name: value for name, value in operation.variables.items() if name in inside or name not in chosen}
    try:
        return orjson.dumps(selected)
    except orjson.JSONEncodeError:
        # Nested too deeply, or beyond 64 bits: the results are shared with no other operation.
        return new_id().encode()


def _selections(document: DocumentNode) -> Iterator[Node]:
    for definition in document.definitions:
        if isinstance(definition, FragmentDefinitionNode):
            yield definition
        elif isinstance(definition, OperationDefinitionNode):
            inner = (getattr(selection, "selection_set", None) for selection in definition.selection_set.selections)
            yield from (selections for selections in inner if selections is not None)


def _variables_in(node: Node) -> set[str]:
    found: set[str] = set()

    class Collector(Visitor):
        def enter_variable(self, variable: Any, *_: Any) -> None:
            found.add(variable.name.value)

    visit(node, Collector())
    return found
