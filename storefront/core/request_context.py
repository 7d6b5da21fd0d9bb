"""What is being done for somebody: its request's id, and what it has cost so far. Knows no GraphQL and no HTTP.

Whatever runs on an activity's behalf finds it, tasks that are begun meanwhile included: lines of the log take its id, the
database counts its statements.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import Context, ContextVar, Token
from typing import Any, Protocol

from storefront.core.ids import new_id

NO_SPAN: AbstractContextManager[None] = nullcontext()


class Tracer(Protocol):
    """Who is told what an activity consists of."""

    def span(self, name: str, **attributes: object) -> AbstractContextManager[Any]:
        """A part that lasts as long as the context."""

    def record_round_trip(self, statements: Sequence[bytes], seconds: float, error: BaseException | None) -> None:
        """SQL that went to Postgres and came back together just now."""


class RequestContext:
    """One operation, or the request around it. `asked` is what its asker gave: no value that is in it may get into a log.

    What was given to the activity around it counts as given to this one, too.
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
        """Be what is being done."""
        self._token = _CURRENT.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            _CURRENT.reset(self._token)

    def record_round_trip(self, statements: Sequence[bytes], seconds: float, error: BaseException | None) -> None:
        """Statements went to Postgres and came back together."""
        self.round_trips += 1
        self.statements += len(statements)
        self.seconds_in_sql += seconds
        if self.tracer is not None:
            self.tracer.record_round_trip(statements, seconds, error)


_CURRENT: ContextVar[RequestContext | None] = ContextVar("activity", default=None)


def get_current_context() -> RequestContext | None:
    """What is being done, where it is for somebody."""
    return _CURRENT.get()


def get_request_id() -> str:
    """The id of the request that is being answered; a new one outside of any."""
    context = _CURRENT.get()
    return context.request_id if context else new_id()


def register_sensitive(value: object) -> None:
    """This was given by whoever asks: no value that is in it may get into a log."""
    context = _CURRENT.get()
    if context is not None:
        context.sensitive_inputs.append(value)


def batch_span(work: Callable[..., object], count: int) -> AbstractContextManager[Any]:
    """A part of what is being done, by the function that does it for `count` keys; for whoever traces, and else nothing."""
    context = _CURRENT.get()
    if context is None or context.tracer is None:
        return NO_SPAN
    return context.tracer.span(work.__name__, keys=count)


def create_detached_task(coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Begin what is done for everybody: it is no part of the activity that happened to begin it."""
    return asyncio.create_task(coroutine, context=Context())
