"""Sees each execution through: how long it took and what it cost, told to whoever counts, and to the log where it was slow."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Protocol

from graphql import ExecutionResult, GraphQLError

from storefront.core import request_context
from storefront.core.request_context import NOTHING, Activity, Tracer
from storefront.serving.errors import code_of

log = logging.getLogger("storefront")

OK, CANCELLED, FAILED = "OK", "CANCELLED", "INTERNAL_SERVER_ERROR"

# Variables whose shape is told, and how deep.
MOST_NAMES, DEEPEST = 50, 4


class Asked(Protocol):
    """What is known of an operation: its kind, its name as the document has it, its document's hash, the values it came with."""

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
    """One execution of an operation, or of a subscription for one event: over after so many `seconds`, with this `code`."""

    operation: Asked
    activity: Activity
    seconds: float = 0.0
    code: str = OK

    def came_to(self, result: ExecutionResult) -> None:
        """It has a result."""
        if result.errors:
            self.code = code_of(result.errors[0])


Report = Callable[[Execution], None]


class OperationTracer(Tracer, Protocol):
    """Who traces operations, too."""

    def operation(self, asked: Asked) -> AbstractContextManager[Callable[[Execution], None]]:
        """An operation that lasts as long as the context; gives what to tell its execution to, once it is over."""


@dataclass(frozen=True, slots=True)
class Observers:
    """Who is told of executions: `reports` when they are over, the `tracer` while they last; `refusals` of what is not begun."""

    reports: Sequence[Report] = ()
    refusals: Sequence[Callable[[str], None]] = ()
    tracer: OperationTracer | None = field(default=None)

    def refused(self, error: GraphQLError) -> None:
        """An operation is not begun."""
        for report in self.refusals:
            report(code_of(error))

    @contextmanager
    def execution(self, asked: Asked) -> Iterator[Execution]:
        """An execution that lasts as long as the context."""
        with self.tracer.operation(asked) if self.tracer else NOTHING as traced:
            done = Execution(asked, Activity(request_context.request_id(), asked=[asked.variables], tracer=self.tracer))
            began = perf_counter()
            try:
                with done.activity:
                    yield done
            except BaseException as error:
                done.code = FAILED if isinstance(error, Exception) else CANCELLED
                raise
            finally:
                done.seconds = perf_counter() - began
                for report in self.reports:
                    report(done)
                if traced is not None:
                    traced(done)


def slow_ones(seconds: float) -> Report:
    """Logs executions that took longer."""

    def report(done: Execution) -> None:
        if done.seconds > seconds:
            # Its request's id is that of the line.
            log.warning("slow operation", extra={"fields": _fields(done)})

    return report


def _fields(done: Execution) -> dict[str, Any]:
    return {
        "operation": done.operation.label,
        "kind": done.operation.kind_name,
        "document": done.operation.hash,
        "variables": shape(done.operation.variables),
        "code": done.code,
        "statements": done.activity.statements,
        "trips": done.activity.trips,
        "secondsInSql": round(done.activity.seconds_in_sql, 4),
        "seconds": round(done.seconds, 4),
    }


def shape(value: Any, depth: int = DEEPEST) -> Any:
    """Names and types of a value, nothing of what it is: `{"first": "Int", "filter": {"ids": ["String"]}}`."""
    if isinstance(value, Mapping):
        names = list(value)[:MOST_NAMES]
        return {name[:MOST_NAMES]: shape(value[name], depth - 1) for name in names} if depth else "Object"
    if isinstance(value, list):
        return [shape(value[0], depth - 1), len(value)] if depth and value else []
    return _TYPES.get(type(value), "Unknown")


_TYPES = {str: "String", bool: "Boolean", int: "Int", float: "Float", type(None): "Null"}
