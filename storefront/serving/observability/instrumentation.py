"""Instrumentation of executions: duration, database use and outcome, for metrics, traces and the slow operation log."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Protocol

from graphql import ExecutionResult, GraphQLError

from storefront.core import request_context
from storefront.core.request_context import NO_SPAN, RequestContext, Tracer
from storefront.serving.errors import get_error_code

log = logging.getLogger("storefront")

OK, CANCELLED, FAILED = "OK", "CANCELLED", "INTERNAL_SERVER_ERROR"

# Bounds of a logged shape: names per object, characters of each name, and levels.
MAX_SHAPE_NAMES, MAX_SHAPE_NAME_CHARACTERS, MAX_SHAPE_DEPTH = 50, 100, 4


class ObservedOperation(Protocol):
    """An operation as observers see it: its kind, its name in the document, the hash of the document, and its variables."""

    @property
    def kind_name(self) -> str: ...

    @property
    def label(self) -> str | None: ...

    @property
    def hash(self) -> str: ...

    @property
    def variables(self) -> Mapping[str, Any]: ...


@dataclass(slots=True)
class Execution:
    """One execution of an operation, or of a subscription for one event. `seconds` and `code` are set when it has ended."""

    operation: ObservedOperation
    context: RequestContext
    seconds: float = 0.0
    code: str = OK

    def record_result(self, result: ExecutionResult) -> None:
        """Set the code from the first error of a result."""
        if result.errors:
            self.code = get_error_code(result.errors[0])


ExecutionReporter = Callable[[Execution], None]


class OperationTracer(Tracer, Protocol):
    """A tracer that also has spans for operations."""

    def trace_operation(self, operation: ObservedOperation) -> AbstractContextManager[Callable[[Execution], None]]:
        """A span for the duration of the context. Yields a function that completes it with the finished execution."""


@dataclass(frozen=True, slots=True)
class Observers:
    """Observers of executions: `reporters` are called when one has ended, `rejection_reporters` for those that never start."""

    reporters: Sequence[ExecutionReporter] = ()
    rejection_reporters: Sequence[Callable[[str], None]] = ()
    tracer: OperationTracer | None = field(default=None)

    def report_rejection(self, error: GraphQLError) -> None:
        """Report an operation that was rejected before execution."""
        for report in self.rejection_reporters:
            report(get_error_code(error))

    @contextmanager
    def observe_execution(self, operation: ObservedOperation) -> Iterator[Execution]:
        """Observe an execution for the duration of the context: trace it, time it, and report it."""
        with self.tracer.trace_operation(operation) if self.tracer else NO_SPAN as finish_span:
            execution = Execution(
                operation,
                RequestContext(request_context.get_request_id(), sensitive_inputs=[operation.variables], tracer=self.tracer),
            )
            started_at = perf_counter()
            try:
                with execution.context:
                    yield execution
            except BaseException as error:
                execution.code = FAILED if isinstance(error, Exception) else CANCELLED
                raise
            finally:
                execution.seconds = perf_counter() - started_at
                for report in self.reporters:
                    report(execution)
                if finish_span is not None:
                    finish_span(execution)


def make_slow_operation_logger(threshold_seconds: float) -> ExecutionReporter:
    """A reporter that logs executions slower than the threshold."""

    def log_if_slow(execution: Execution) -> None:
        if execution.seconds > threshold_seconds:
            # The log line has the request id from the request context.
            log.warning("slow operation", extra={"fields": _build_log_fields(execution)})

    return log_if_slow


def _build_log_fields(execution: Execution) -> dict[str, Any]:
    return {
        "operation": execution.operation.label,
        "kind": execution.operation.kind_name,
        "document": execution.operation.hash,
        "variables": describe_shape(execution.operation.variables),
        "code": execution.code,
        "statements": execution.context.statements,
        "trips": execution.context.round_trips,
        "secondsInSql": round(execution.context.seconds_in_sql, 4),
        "seconds": round(execution.seconds, 4),
    }


def describe_shape(value: Any, depth: int = MAX_SHAPE_DEPTH) -> Any:
    """The names and types in a JSON value, without its data: `{"first": "Int", "filter": {"ids": ["String", 2]}}`.

    A list is the shape of its first item, and its length.
    """
    if isinstance(value, Mapping):
        names = list(value)[:MAX_SHAPE_NAMES]
        return {name[:MAX_SHAPE_NAME_CHARACTERS]: describe_shape(value[name], depth - 1) for name in names} if depth else "Object"
    if isinstance(value, list):
        return [describe_shape(value[0], depth - 1), len(value)] if depth and value else []
    return _TYPE_NAMES.get(type(value), "Unknown")


_TYPE_NAMES = {str: "String", bool: "Boolean", int: "Int", float: "Float", type(None): "Null"}
