"""Runs documents: parsed and validated once, kept while they are in use, executed for each request."""

from collections import OrderedDict
from dataclasses import dataclass, field
from inspect import isawaitable
from typing import Any

from graphql import (
    DocumentNode,
    ExecutionResult,
    GraphQLError,
    GraphQLSchema,
    OperationType,
    execute,
    get_operation_ast,
    parse,
    validate,
)
from graphql.execution import Executor

from storefront.serving.errors import InvalidDocument

# Generous for a hand-written document, small for an attacker.
MOST_TOKENS = 5_000
MOST_DOCUMENTS = 1_000


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
