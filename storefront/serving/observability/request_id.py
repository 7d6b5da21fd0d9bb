"""Request ids (correlation ids): in the response header `x-request-id`, in errors, and in each log line."""

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from storefront.core.ids import new_id
from storefront.core.request_context import RequestContext

REQUEST_ID_HEADER = b"x-request-id"
MAX_REQUEST_ID_CHARACTERS = 100

# Called for each finished HTTP request: its scope, the status of the response (499: the client disconnected before), and seconds.
RequestReporter = Callable[[Scope, int, float], None]


class RequestIdMiddleware:
    """ASGI middleware that runs each request in a RequestContext with its id: the client's `x-request-id`, or a new one."""

    def __init__(self, app: ASGIApp, report: RequestReporter | None = None) -> None:
        self._app, self._report = app, report

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        request_id = extract_request_id(scope)
        # Credentials in headers are redacted from logs without parsing them.
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
    """The id that a request came with, if it is printable ASCII and short enough; otherwise a new one."""
    request_id = next((value for name, value in scope["headers"] if name == REQUEST_ID_HEADER), b"").decode("latin-1")
    return (
        request_id
        if 0 < len(request_id) <= MAX_REQUEST_ID_CHARACTERS and request_id.isascii() and request_id.isprintable()
        else new_id()
    )


def _extract_credentials(scope: Scope) -> list[str]:
    """The credentials in the headers: the values of Authorization and Cookie, and the token and each cookie's value in them."""
    headers = [(name, value.decode("latin-1")) for name, value in scope["headers"] if name in (b"authorization", b"cookie")]
    tokens = [value.partition(" ")[2].strip() for name, value in headers if name == b"authorization"]
    cookie_values = [pair.partition("=")[2].strip() for name, value in headers if name == b"cookie" for pair in value.split(";")]
    return [*(value for _, value in headers), *filter(None, tokens + cookie_values)]
