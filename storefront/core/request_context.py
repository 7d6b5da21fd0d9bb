"""The context of a request or operation: its id, its sensitive inputs, its tracer, and its statement counts.

It is a context variable, so that tasks inherit it: log lines take its id, the database counts its statements. Independent of
GraphQL and HTTP.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import Context, ContextVar, Token
from typing import Any, Protocol

from storefront.core.ids import new_id

NO_SPAN: AbstractContextManager[None] = nullcontext()


class Tracer(Protocol):
    """Receives the spans of a request."""

    def span(self, name: str, **attributes: object) -> AbstractContextManager[Any]:
        """A span that lasts as long as the context."""

    def record_round_trip(self, statements: Sequence[bytes], seconds: float, error: BaseException | None) -> None:
        """Record a span for statements that were sent to Postgres in one round trip, which has just ended."""


class RequestContext:
    """One operation, or the request around it. A context manager, which makes it the current context.

    `sensitive_inputs` are the client's inputs: no value in them may be logged. Those of the outer context are inherited.
    """

    __slots__ = ("_token", "request_id", "round_trips", "seconds_in_sql", "sensitive_inputs", "statements", "tracer")

    def __init__(self, request_id: str, *, sensitive_inputs: Sequence[object] = (), tracer: Tracer | None = None) -> None:
        outer = _CURRENT.get()
        self.request_id, self.tracer = request_id, tracer
        self.sensitive_inputs: list[object] = [*(outer.sensitive_inputs if outer else ()), *sensitive_inputs]
        self.statements = self.round_trips = 0
        self.seconds_in_sql = 0.0
        self._token: Token[RequestContext | None] | None = None

    def __enter__(self) -> "RequestContext":
        """Become the current context."""
        self._token = _CURRENT.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            _CURRENT.reset(self._token)

    def record_round_trip(self, statements: Sequence[bytes], seconds: float, error: BaseException | None) -> None:
        """Count statements that were sent to Postgres in one round trip of this many seconds, and trace them."""
        self.round_trips += 1
        self.statements += len(statements)
        self.seconds_in_sql += seconds
        if self.tracer is not None:
            self.tracer.record_round_trip(statements, seconds, error)


_CURRENT: ContextVar[RequestContext | None] = ContextVar("request_context", default=None)


def get_current_context() -> RequestContext | None:
    """The current context; None outside of requests."""
    return _CURRENT.get()


def get_request_id() -> str:
    """The id of the current request; a new one outside of requests."""
    context = _CURRENT.get()
    return context.request_id if context else new_id()


def register_sensitive(value: object) -> None:
    """Register an input of the client: no value in it may be logged. Outside of requests, nothing is registered."""
    context = _CURRENT.get()
    if context is not None:
        context.sensitive_inputs.append(value)


def batch_span(work: Callable[..., object], count: int) -> AbstractContextManager[Any]:
    """A span for a batch of `count` keys, named after the function; does nothing without a tracer."""
    context = _CURRENT.get()
    if context is None or context.tracer is None:
        return NO_SPAN
    return context.tracer.span(work.__name__, keys=count)


def create_detached_task(coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Start a task in an empty context: shared work must not count towards the request that happened to start it."""
    return asyncio.create_task(coroutine, context=Context())
