"""Runs documents: parsed and validated once, kept while they are in use, executed for each request."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, AsyncIterable, Hashable, Iterator
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
    Token,
    TokenKind,
    Visitor,
    execute,
    get_operation_ast,
    parse,
    validate,
    visit,
)
from graphql.execution import Executor, create_source_event_stream

from storefront.execution.executor import BreadthFirst
from storefront.execution.plan import Plans
from storefront.serving.crowds import Crowds, Execute, Listener, Source, Tell
from storefront.serving.errors import InvalidDocument, formatted
from storefront.serving.personal import is_personal

# Generous for a hand-written document, small for an attacker.
MOST_TOKENS = 5_000
# Documents are kept up to so many characters together: what is made of one, its plans included, takes about a hundred times that.
MOST_CHARACTERS = 400_000
# What was executed for one listener is kept for the others: so many bytes, and so many results.
MOST_KEPT, MOST_RESULTS = 32_000_000, 20_000


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

    def anonymous(self) -> "Renewable":
        """A new context of somebody unknown."""


@dataclass(frozen=True, slots=True)
class Document:
    """A document that fits the schema, how it is executed, and whether its answer depends on who asks."""

    ast: DocumentNode
    plans: Plans
    is_personal: bool


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

    def __init__(self, schema: GraphQLSchema) -> None:
        self._schema = schema
        self._documents: OrderedDict[str, Document] = OrderedDict()
        self._characters = 0
        self._results: deque[tuple[dict[Any, Any], Any, int]] = deque()
        self._kept = 0
        self._crowds = Crowds()

    def document(self, query: str) -> Document:
        """The document, valid for the schema; raises NotExecutable."""
        known = self._documents.get(query)
        if known is not None:
            self._documents.move_to_end(query)
            return known
        document = self._documents[query] = self._checked(query)
        self._characters += len(query)
        while self._characters > MOST_CHARACTERS and len(self._documents) > 1:
            oldest, _ = self._documents.popitem(last=False)
            self._characters -= len(oldest)
        return document

    def _checked(self, query: str) -> Document:
        try:
            document = parse(query, max_tokens=MOST_TOKENS)
        except GraphQLError as error:
            raise NotExecutable([error]) from None
        except RecursionError:
            raise NotExecutable([GraphQLError("The document is nested too deeply to be read.")]) from None
        errors = validate(self._schema, document, max_errors=20)
        if errors:
            raise NotExecutable([InvalidDocument(e.message, e.nodes) for e in errors])
        visit(document, _Forgetter())
        return Document(document, Plans(document), is_personal(self._schema, document))

    def kind(self, request: GraphQLRequest) -> OperationType | None:
        """Query, mutation or subscription; None where the request does not say which operation of several."""
        operation = get_operation_ast(self.document(request.query).ast, request.operation_name)
        return operation.operation if operation else None

    async def run(self, request: GraphQLRequest, context: object) -> ExecutionResult:
        """Execute a query or mutation; raises NotExecutable."""
        return await self._executed(self.document(request.query), request, context)

    async def stream(
        self, request: GraphQLRequest, context: Renewable, request_id: str, tell: Tell | None = None
    ) -> AsyncGenerator[bytes, None]:
        """A subscription's results as JSON, as they come; raises NotExecutable before the first.

        Each event is executed with a context of its own; one with a dictionary `shared` once for all who ask for the same of it.
        Where the source of the events is shared, too, results are given to `tell` as long as it takes them, and only the others
        are returned.
        """
        document = self.document(request.query)
        source = await self._source(document.ast, request, context)
        # What is for everybody is asked for by nobody in particular: one asker's answer never reaches another.
        if isinstance(source, Source) and source.is_public and not document.is_personal:
            context = context.anonymous()
        asked = (request.query, request.operation_name, _selected_variables(document.ast, request), context.asker)

        async def execute(event: Any) -> bytes:
            return await self._told(event, asked, document, request, context, request_id)

        async with aclosing(self._listened(source, asked, execute, tell)) as results:
            async for result in results:
                yield result

    def _listened(
        self, source: AsyncIterable[Any], asked: Hashable, execute: Execute, tell: Tell | None
    ) -> AsyncGenerator[bytes, None]:
        if isinstance(source, Source) and tell is not None:
            return Listener(self._crowds, source, asked, execute, tell).results()
        return _each(source, execute)

    async def _source(self, document: DocumentNode, request: GraphQLRequest, context: Renewable) -> AsyncIterable[Any]:
        executor = Executor.build(
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
        return opened

    async def _told(
        self, event: Any, asked: Hashable, document: Document, request: GraphQLRequest, context: Renewable, request_id: str
    ) -> bytes:
        shared = getattr(event, "shared", {})
        told = shared.get(asked)
        if told is None:
            told = asyncio.ensure_future(self._text(event, document, request, context.renewed(), request_id))
            shared[asked] = told
            told.add_done_callback(lambda done: self._keep(shared, asked, done))
        # One listener that leaves must not take the result from the others.
        return cast(bytes, await asyncio.shield(told))

    def _keep(self, shared: dict[Any, Any], asked: Any, told: "asyncio.Future[bytes]") -> None:
        # Events are few; who asks for something of their own of each of them makes many results.
        size = 0 if told.cancelled() or told.exception() else len(told.result())
        self._results.append((shared, asked, size))
        self._kept += size
        while self._kept > MOST_KEPT or len(self._results) > MOST_RESULTS:
            oldest, name, size = self._results.popleft()
            oldest.pop(name, None)
            self._kept -= size

    async def _text(self, event: Any, document: Document, request: GraphQLRequest, context: object, request_id: str) -> bytes:
        return orjson.dumps(answer(await self._executed(document, request, context, event), request_id))

    async def _executed(self, document: Document, request: GraphQLRequest, context: object, root: Any = None) -> ExecutionResult:
        result = execute(
            self._schema,
            document.ast,
            root_value=root,
            context_value=context,
            variable_values=request.variables,
            operation_name=request.operation_name,
            executor_class=BreadthFirst,
            plans=document.plans,
        )
        return await result if isawaitable(result) else result


async def _each(source: AsyncIterable[Any], execute: Execute) -> AsyncGenerator[bytes, None]:
    events = cast("AsyncGenerator[Any, None]", aiter(source))
    async with aclosing(events):
        async for event in events:
            yield await execute(event)


def wrapped(error: Exception) -> GraphQLError:
    """Anything that went wrong outside of execution, as an error of the whole request."""
    return GraphQLError(str(error), original_error=error)


def answer(result: ExecutionResult, request_id: str) -> dict[str, Any]:
    """A result as clients get it."""
    errors = {"errors": formatted(result.errors, request_id)} if result.errors else {}
    return {**errors, "data": result.data}


class _Forgetter(Visitor):
    """Takes from a document the tokens that it was read from. Errors need the places only, and tokens are most of its memory."""

    def enter(self, node: Node, *_: Any) -> None:
        if node.loc is not None:
            node.loc.start_token = node.loc.end_token = _NO_TOKEN


_NO_TOKEN = Token(TokenKind.SOF, 0, 0, 0, 0)


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
