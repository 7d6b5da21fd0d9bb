"""Gives each request the id that it is known by: in the answer's `x-request-id`, in errors, in each line of the log."""

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from storefront.core.ids import new_id
from storefront.core.request_context import Activity

HEADER = b"x-request-id"
LONGEST = 100

# Told of each HTTP request that is over: its scope, the status of its answer (499: gone before there was one), seconds.
Report = Callable[[Scope, int, float], None]


class Identified:
    """The ASGI application, each of whose requests is an activity with an id: the one that it came with, or a new one."""

    def __init__(self, app: ASGIApp, report: Report | None = None) -> None:
        self._app, self._report = app, report

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a connection on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        id_ = id_of(scope)
        # What its headers say is known to be secret without looking.
        with Activity(id_, asked=_confidential(scope)):
            if scope["type"] == "http":
                await self._http(scope, receive, send, id_)
            else:
                await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send, id_: str) -> None:
        began, status = perf_counter(), 499

        async def identified(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (HEADER, id_.encode())]
            await send(message)

        try:
            await self._app(scope, receive, identified)
        finally:
            if self._report is not None:
                self._report(scope, status, perf_counter() - began)


def id_of(scope: Mapping[str, Any]) -> str:
    """The id of a request."""
    given = next((value for name, value in scope["headers"] if name == HEADER), b"").decode("latin-1")
    return given if 0 < len(given) <= LONGEST and given.isascii() and given.isprintable() else new_id()


def _confidential(scope: Scope) -> list[str]:
    """The credentials: what Authorization and Cookie say, whole, and the token and the cookies' values by themselves."""
    given = [(name, value.decode("latin-1")) for name, value in scope["headers"] if name in (b"authorization", b"cookie")]
    tokens = [value.partition(" ")[2].strip() for name, value in given if name == b"authorization"]
    cookies = [pair.partition("=")[2].strip() for name, value in given if name == b"cookie" for pair in value.split(";")]
    return [*(value for _, value in given), *filter(None, tokens + cookies)]
