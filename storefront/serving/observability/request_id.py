"""Gives each request the id that it is known by: in the answer's `x-request-id`, in errors, in each line of the log."""

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from storefront.core.ids import new_id
from storefront.core.request_context import RequestContext

REQUEST_ID_HEADER = b"x-request-id"
MAX_REQUEST_ID_CHARACTERS = 100

# Told of each HTTP request that is over: its scope, the status of its answer (499: gone before there was one), seconds.
RequestReporter = Callable[[Scope, int, float], None]


class RequestIdMiddleware:
    """The ASGI application, each of whose requests is an activity with an id: the one that it came with, or a new one."""

    def __init__(self, app: ASGIApp, report: RequestReporter | None = None) -> None:
        self._app, self._report = app, report

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a connection on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        request_id = extract_request_id(scope)
        # What its headers say is known to be secret without looking.
        with RequestContext(request_id, sensitive_inputs=_extract_credentials(scope)):
            if scope["type"] == "http":
                await self._handle_http(scope, receive, send, request_id)
            else:
                await self._app(scope, receive, send)

    async def _handle_http(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        started_at, status = perf_counter(), 499

        async def send_with_request_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (REQUEST_ID_HEADER, request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_with_request_id)
        finally:
            if self._report is not None:
                self._report(scope, status, perf_counter() - started_at)


def extract_request_id(scope: Mapping[str, Any]) -> str:
    """The id of a request."""
    request_id = next((value for name, value in scope["headers"] if name == REQUEST_ID_HEADER), b"").decode("latin-1")
    return (
        request_id
        if 0 < len(request_id) <= MAX_REQUEST_ID_CHARACTERS and request_id.isascii() and request_id.isprintable()
        else new_id()
    )


def _extract_credentials(scope: Scope) -> list[str]:
    """The credentials: what Authorization and Cookie say, whole, and the token and the cookies' values by themselves."""
    headers = [(name, value.decode("latin-1")) for name, value in scope["headers"] if name in (b"authorization", b"cookie")]
    tokens = [value.partition(" ")[2].strip() for name, value in headers if name == b"authorization"]
    cookie_values = [pair.partition("=")[2].strip() for name, value in headers if name == b"cookie" for pair in value.split(";")]
    return [*(value for _, value in headers), *filter(None, tokens + cookie_values)]
