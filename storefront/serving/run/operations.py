"""Runs operations: prepares requests, executes queries and mutations with a deadline, and opens subscriptions."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from inspect import isawaitable
from typing import Any, TypeVar, cast

import orjson
from graphql import ExecutionResult, OperationType

from storefront.core.cooperative import count_input_steps, run_in_thread_if_long
from storefront.core.errors import RequestError, Unavailable
from storefront.core.result_budget import ResultBudget, ResultBudgets, create_response_error
from storefront.execution.document_nodes import get_operation_name
from storefront.execution.executor import BreadthFirstExecutor
from storefront.execution.strawberry_adapter import EXECUTE_DEFAULT_ARGUMENTS
from storefront.serving.documents.document_store import DocumentStore, NotExecutableError, PreparedDocument
from storefront.serving.documents.limits import WorkCounts, check_work
from storefront.serving.documents.parse_lock import ParseLock
from storefront.serving.http import lone_surrogates
from storefront.serving.http.graphql_request import GraphQLRequest
from storefront.serving.observability.instrumentation import Observers
from storefront.serving.run.cancellation import OperationDeadline, create_timeout_error
from storefront.serving.run.fanout import TryWrite
from storefront.serving.run.prepared_operation import OperationContext, PreparedOperation
from storefront.serving.run.results import wrap_error
from storefront.serving.run.subscriptions import Subscriptions

DEFAULT_OBSERVERS = Observers()

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ConcurrencyLimits:
    """How many queries and mutations run at a time, the timeout of each in seconds, and sizes in bytes: of a response, of the
    rows that an operation reads for it, and of those that all operations hold at a time.
    """

    max_operations: int = 200
    timeout_seconds: float = 30.0
    max_response_bytes: int = 16_000_000
    max_row_bytes: int = 128_000_000


DEFAULT_CONCURRENCY_LIMITS = ConcurrencyLimits()


class Operations:
    """Prepares and runs operations on the documents of a store, within limits."""

    def __init__(
        self,
        documents: DocumentStore,
        limits: ConcurrencyLimits = DEFAULT_CONCURRENCY_LIMITS,
        observers: Observers = DEFAULT_OBSERVERS,
    ) -> None:
        self._documents, self._limits, self._observers = documents, limits, observers
        self._running_count, self._parse_lock = 0, ParseLock(limits.max_operations)
        share_bytes = limits.max_row_bytes // limits.max_operations
        self._budgets = ResultBudgets(limits.max_response_bytes, limits.max_row_bytes, share_bytes)
        self._schema, self._hides_suggestions = documents.schema, not documents.policy.allows_introspection
        self._subscriptions = Subscriptions(
            self._schema, self._execute_observed, self.encode_response, hides_suggestions=self._hides_suggestions
        )

    async def prepare(self, request: GraphQLRequest) -> PreparedOperation:
        """Find or parse the document of a request and check its inputs and cost.

        Other requests are served in between: new documents are parsed one at a time, and long inputs are checked in a thread.
        Raises NotExecutableError for a document that is invalid, RequestError, such as LimitExceeded for the cost, Unavailable if
        too many new documents wait, and TimedOut if they take too long.
        """
        with self._reporting_rejection():
            find_document = partial(self._documents.find_document, request)
            document = (
                find_document()
                if self._documents.can_find_without_parsing(request)
                else await self.await_with_timeout(self._parse_lock.run_exclusively(find_document))
            )
            return await run_in_thread_if_long(count_input_steps(request.variables), self._check_request, request, document)

    @contextmanager
    def _reporting_rejection(self) -> Iterator[None]:
        try:
            yield
        except (NotExecutableError, RequestError) as error:
            self._observers.report_rejection(error.errors[0] if isinstance(error, NotExecutableError) else wrap_error(error))
            raise

    def _check_request(self, request: GraphQLRequest, document: PreparedDocument) -> PreparedOperation:
        operation_node, counts = document.find_operation(request.operation_name), WorkCounts()
        if request.may_have_lone_surrogates:
            lone_surrogates.check_variables(self._schema, operation_node, request.variables)
        if operation_node:
            item_count = document.input_limits.count_items(operation_node, request.variables)
            if operation_node.operation is OperationType.MUTATION:
                # First what is cheapest to check.
                counts = WorkCounts(mutation_items=item_count)
                check_work(counts, self._schema, self._documents.limits)
            else:
                counts = WorkCounts(input_items=item_count)
            document.input_limits.check_variables(operation_node, request.variables)
            counts = counts._replace(
                cost=document.costs.estimate(operation_node, request.variables),
                introspection=document.introspection_costs[get_operation_name(operation_node)],
            )
            check_work(counts, self._schema, self._documents.limits)
        kind = operation_node.operation if operation_node else None
        label = get_operation_name(operation_node)
        return PreparedOperation(document, kind, request.operation_name, request.variables, counts, request.reports_cost, label)

    async def run(self, operation: PreparedOperation, context: OperationContext) -> ExecutionResult:
        """Execute a query or mutation. Raises Unavailable if too many are running (load shedding), and TimedOut.

        At the deadline of a mutation, its root fields that have no result have an error each, and the others keep their results.
        """
        if self._running_count >= self._limits.max_operations:
            raise Unavailable(f"This server runs at most {self._limits.max_operations:,} operations at a time. Try again soon.")
        self._running_count += 1
        deadline = OperationDeadline(self._limits.timeout_seconds, context.cancel)
        is_mutation = operation.kind is OperationType.MUTATION
        try:
            result = await self._execute_observed(operation, context, deadline=deadline if is_mutation else None)
        except asyncio.CancelledError:
            if deadline.absorb_cancellation():
                raise deadline.create_error() from None
            raise
        finally:
            deadline.stop()
            self._running_count -= 1
            context.release()
        if operation.reports_cost:
            result.extensions = {"cost": {"estimate": operation.cost, "maximum": self._documents.limits.cost}}
        return result

    def check_batch(self, counts: WorkCounts) -> None:
        """Raise LimitExceeded if all operations of a batch together are too much work."""
        check_work(counts, self._schema, self._documents.limits, is_batch=True)

    def encode_response(self, response: Any, kind: OperationType | None = None) -> bytes:
        """Encode a response as JSON. Raises LimitExceeded if it is too large."""
        content = orjson.dumps(response)
        self.check_response_size(len(content), kind)
        return content

    def check_response_size(self, size: int, kind: OperationType | None = None) -> None:
        """Raise LimitExceeded if a response of this size in bytes is too large."""
        if size > self._limits.max_response_bytes:
            raise create_response_error(self._limits.max_response_bytes, size, is_mutation=kind is OperationType.MUTATION)

    def stream(
        self, operation: PreparedOperation, context: OperationContext, request_id: str, try_write: TryWrite | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The results of a subscription as JSON: see `Subscriptions.stream`."""
        return self._subscriptions.stream(operation, context, request_id, try_write)

    async def await_with_timeout(self, outcome: Awaitable[T]) -> T:
        """Await what an operation waits for outside of its own execution, within the timeout of one. Raises TimedOut."""
        try:
            async with asyncio.timeout(self._limits.timeout_seconds):
                return await outcome
        except TimeoutError:
            raise create_timeout_error(self._limits.timeout_seconds) from None

    async def _execute_observed(
        self, operation: PreparedOperation, context: object, root: Any = None, deadline: OperationDeadline | None = None
    ) -> ExecutionResult:
        is_mutation = operation.kind is OperationType.MUTATION
        with self._observers.observe_execution(operation) as execution, self._budgets.limit_operation() as budget:
            result = await self._execute(operation, context, root, deadline, budget)
            # What a mutation has done is done: only its payload is refused.
            error = budget.response_error if is_mutation else budget.error
            execution.record_result(result if error is None else ExecutionResult(None, errors=[wrap_error(error)]))
        if error is not None:
            raise create_response_error(self._limits.max_response_bytes, is_mutation=True) if is_mutation else error
        return result

    async def _execute(
        self,
        operation: PreparedOperation,
        context: object,
        root: Any,
        deadline: OperationDeadline | None,
        budget: ResultBudget,
    ) -> ExecutionResult:
        document, plans = operation.document.ast, operation.document.plans
        if (guarded := operation.document.guarded) is not None and guarded.is_refused(context):
            document, plans = guarded.without_inputs, guarded.plans
        # What graphql-core's `execute` does. Building the executor coerces the variables.
        build: Callable[..., Any] = BreadthFirstExecutor.build
        executor = await run_in_thread_if_long(
            count_input_steps(operation.variables),
            build,
            self._schema,
            document,
            root,
            context,
            operation.variables,
            operation.name,
            *EXECUTE_DEFAULT_ARGUMENTS,
            plans=plans,
            hide_suggestions=self._hides_suggestions,
            deadline=deadline,
            budget=budget,
        )
        if isinstance(executor, list):
            return ExecutionResult(None, errors=executor)
        try:
            result = executor.execute_operation()
            return cast("ExecutionResult", await result if isawaitable(result) else result)
        finally:
            executor.release()
