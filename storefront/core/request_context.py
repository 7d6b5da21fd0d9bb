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

NOTHING: AbstractContextManager[None] = nullcontext()


class Tracer(Protocol):
    """Who is told what an activity consists of."""

    def part(self, name: str, **attributes: object) -> AbstractContextManager[Any]:
        """A part that lasts as long as the context."""

    def trip(self, statements: Sequence[bytes], seconds: float, error: BaseException | None) -> None:
        """SQL that went to Postgres and came back together just now."""


class Activity:
    """One operation, or the request around it. `asked` is what its asker gave: no value that is in it may get into a log.

    What was given to the activity around it counts as given to this one, too.
    """

    __slots__ = ("_token", "asked", "request_id", "seconds_in_sql", "statements", "tracer", "trips")

    def __init__(self, request_id: str, *, asked: Sequence[object] = (), tracer: Tracer | None = None) -> None:
        outer = _CURRENT.get()
        self.request_id, self.tracer = request_id, tracer
        self.asked: list[object] = [*(outer.asked if outer else ()), *asked]
        self.statements = self.trips = 0
        self.seconds_in_sql = 0.0
        self._token: Token[Activity | None] | None = None

    def __enter__(self) -> "Activity":
        """Be what is being done."""
        self._token = _CURRENT.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            _CURRENT.reset(self._token)

    def trip(self, statements: Sequence[bytes], seconds: float, error: BaseException | None) -> None:
        """Statements went to Postgres and came back together."""
        self.trips += 1
        self.statements += len(statements)
        self.seconds_in_sql += seconds
        if self.tracer is not None:
            self.tracer.trip(statements, seconds, error)


_CURRENT: ContextVar[Activity | None] = ContextVar("activity", default=None)


def current() -> Activity | None:
    """What is being done, where it is for somebody."""
    return _CURRENT.get()


def request_id() -> str:
    """The id of the request that is being answered; a new one outside of any."""
    activity = _CURRENT.get()
    return activity.request_id if activity else new_id()


def confide(given: object) -> None:
    """This was given by whoever asks: no value that is in it may get into a log."""
    activity = _CURRENT.get()
    if activity is not None:
        activity.asked.append(given)


def part(work: Callable[..., object], count: int) -> AbstractContextManager[Any]:
    """A part of what is being done, by the function that does it for `count` keys; for whoever traces, and else nothing."""
    activity = _CURRENT.get()
    if activity is None or activity.tracer is None:
        return NOTHING
    return activity.tracer.part(work.__name__, keys=count)


def for_all(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Begin what is done for everybody: it is no part of the activity that happened to begin it."""
    return asyncio.create_task(work, context=Context())
