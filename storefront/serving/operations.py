"""Runs documents: parsed and validated once, kept while they are in use, executed for each request."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from inspect import isawaitable
from typing import Any, Protocol, cast

import orjson
from graphql import (
    DocumentNode,
    ExecutionResult,
    FragmentDefinitionNode,
    GraphQLError,
    GraphQLSchema,
    Node,
    OperationDefinitionNode,
    OperationType,
    Visitor,
    execute,
    get_operation_ast,
    parse,
    validate,
    visit,
)
from graphql.execution import Executor, create_source_event_stream

from storefront.serving.errors import InvalidDocument, formatted

# Generous for a hand-written document, small for an attacker.
MOST_TOKENS = 5_000
MOST_DOCUMENTS = 1_000
# What was executed for one listener is kept for the others: so many characters, and so many results.
MOST_KEPT, MOST_RESULTS = 32_000_000, 20_000


class Renewable(Protocol):
    """The context of an operation that goes on: `renewed` for each event, and over once it `expires` (seconds since 1970)."""

    @property
    def expires(self) -> float | None: ...

    def renewed(self) -> "Renewable": ...


@dataclass(frozen=True, slots=True)
class GraphQLRequest:
    """One operation as a client sent it."""

    query: str
    variables: dict[str, Any] = field(default_factory=dict)
    operation_name: str | None = None


class NotExecutable(Exception):
    """A document that cannot be run at all."""

    def __init__(self, errors: list[GraphQLError]) -> None:
        super().__init__(errors[0].message)
        self.errors = errors


class Operations:
    """The schema with the documents that its clients use, the most recent ones."""

    def __init__(self, schema: GraphQLSchema, executor: type[Executor[Any]]) -> None:
        self._schema = schema
        self._executor = executor
        self._documents: OrderedDict[str, DocumentNode] = OrderedDict()
        self._results: deque[tuple[dict[Any, Any], Any, int]] = deque()
        self._kept = 0

    def document(self, query: str) -> DocumentNode:
        """The document, valid for the schema; raises NotExecutable."""
        known = self._documents.get(query)
        if known is not None:
            self._documents.move_to_end(query)
            return known
        document = self._documents[query] = self._checked(query)
        if len(self._documents) > MOST_DOCUMENTS:
            self._documents.popitem(last=False)
        return document

    def _checked(self, query: str) -> DocumentNode:
        try:
            document = parse(query, max_tokens=MOST_TOKENS)
        except GraphQLError as error:
            raise NotExecutable([error]) from None
        except RecursionError:
            raise NotExecutable([GraphQLError("The document is nested too deeply to be read.")]) from None
        errors = validate(self._schema, document, max_errors=20)
        if errors:
            raise NotExecutable([InvalidDocument(e.message, e.nodes) for e in errors])
        return document

    def kind(self, request: GraphQLRequest) -> OperationType | None:
        """Query, mutation or subscription; None where the request does not say which operation of several."""
        operation = get_operation_ast(self.document(request.query), request.operation_name)
        return operation.operation if operation else None

    async def run(self, request: GraphQLRequest, context: object) -> ExecutionResult:
        """Execute a query or mutation; raises NotExecutable."""
        document = self.document(request.query)
        result = execute(
            self._schema,
            document,
            context_value=context,
            variable_values=request.variables,
            operation_name=request.operation_name,
            executor_class=self._executor,
        )
        return await result if isawaitable(result) else result

    async def stream(self, request: GraphQLRequest, context: Renewable, request_id: str) -> AsyncGenerator[str, None]:
        """A subscription's results as JSON text, as they come; raises NotExecutable before the first.

        Each event is executed with a context of its own. An event with a dictionary `shared` is executed once for all
        listeners that ask for the same of it.
        """
        document = self.document(request.query)
        asked = (request.query, request.operation_name, _selected_variables(document, request))
        source = await self._source(document, request, context)
        async with aclosing(source):
            async for event in source:
                yield await self._told(event, asked, document, request, context, request_id)

    async def _source(self, document: DocumentNode, request: GraphQLRequest, context: Renewable) -> AsyncGenerator[Any, None]:
        executor = self._executor.build(
            self._schema,
            document,
            context_value=context,
            raw_variable_values=request.variables,
            operation_name=request.operation_name,
        )
        if isinstance(executor, list):
            raise NotExecutable(executor)
        stream = create_source_event_stream(executor)
        opened = await stream if isawaitable(stream) else stream
        if isinstance(opened, ExecutionResult):
            raise NotExecutable(opened.errors or [GraphQLError("The subscription could not be opened.")])
        return cast("AsyncGenerator[Any, None]", opened)

    async def _told(
        self, event: Any, asked: Any, document: DocumentNode, request: GraphQLRequest, context: Renewable, request_id: str
    ) -> str:
        shared = getattr(event, "shared", {})
        told = shared.get(asked)
        if told is None:
            told = asyncio.ensure_future(self._executed(event, document, request, context.renewed(), request_id))
            shared[asked] = told
            told.add_done_callback(lambda done: self._keep(shared, asked, done))
        # One listener that leaves must not take the result from the others.
        return cast(str, await asyncio.shield(told))

    def _keep(self, shared: dict[Any, Any], asked: Any, told: "asyncio.Future[str]") -> None:
        # Events are few; who asks for something of their own of each of them makes many results.
        size = 0 if told.cancelled() or told.exception() else len(told.result())
        self._results.append((shared, asked, size))
        self._kept += size
        while self._kept > MOST_KEPT or len(self._results) > MOST_RESULTS:
            oldest, name, size = self._results.popleft()
            oldest.pop(name, None)
            self._kept -= size

    async def _executed(
        self, event: Any, document: DocumentNode, request: GraphQLRequest, context: object, request_id: str
    ) -> str:
        result = execute(
            self._schema,
            document,
            root_value=event,
            context_value=context,
            variable_values=request.variables,
            operation_name=request.operation_name,
            executor_class=self._executor,
        )
        return orjson.dumps(answer(await result if isawaitable(result) else result, request_id)).decode()


def wrapped(error: Exception) -> GraphQLError:
    """Anything that went wrong outside of execution, as an error of the whole request."""
    return GraphQLError(str(error), original_error=error)


def answer(result: ExecutionResult, request_id: str) -> dict[str, Any]:
    """A result as clients get it."""
    errors = {"errors": formatted(result.errors, request_id)} if result.errors else {}
    return {**errors, "data": result.data}


def _selected_variables(document: DocumentNode, request: GraphQLRequest) -> bytes:
    """The variables that what is told of an event depends on: all but those that only choose the events."""
    operation = get_operation_ast(document, request.operation_name)
    chosen: set[str] = set()
    for field_ in operation.selection_set.selections if operation else ():
        for argument in getattr(field_, "arguments", None) or ():
            chosen |= _variables_in(argument)
    inside = {name for field_ in _selections(document) for name in _variables_in(field_)}
    return orjson.dumps({name: value for name, value in request.variables.items() if name in inside or name not in chosen})


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
