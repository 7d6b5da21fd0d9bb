"""The HTTP endpoint: GET and POST, JSON in and out, media types and status codes as GraphQL over HTTP asks for."""

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

import orjson
from graphql import ExecutionResult, GraphQLError, OperationType
from starlette.requests import Request
from starlette.responses import Response

from storefront.core.errors import RequestError
from storefront.core.ids import uuid7
from storefront.serving.errors import formatted
from storefront.serving.operations import GraphQLRequest, NotExecutable, Operations, Renewable, answer, wrapped
from storefront.serving.requests import checked_request
from storefront.serving.sse import Streams

GRAPHQL_JSON = "application/graphql-response+json"
JSON = "application/json"
# A megabyte in one value is then refused as that value, not as a body.
MOST_BYTES = 1_500_000

# What a request that failed as a whole is answered with, by the code of its error.
STATUS = {"UNAUTHENTICATED": 401, "FORBIDDEN": 403, "SERVICE_UNAVAILABLE": 503, "BAD_REQUEST": 400}

ContextMaker = Callable[[Request], Awaitable[Renewable]]
Answer = Callable[[Request], Awaitable[Response]]


class HTTPError(RequestError):
    """A request that is no GraphQL request, with the status that says how."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers


def endpoint(operations: Operations, make_context: ContextMaker, streams: Streams, page: Answer | None = None) -> Answer:
    """The endpoint as a Starlette handler; `page` is what a browser gets that comes without a query."""

    async def graphql(request: Request) -> Response:
        if page is not None and _is_browser(request):
            return await page(request)
        request_id = request_id_of(request)
        response = await _answer(request, request_id, operations, make_context, streams)
        response.headers["x-request-id"] = request_id
        return response

    return graphql


async def _answer(
    request: Request, request_id: str, operations: Operations, make_context: ContextMaker, streams: Streams
) -> Response:
    media_type = _media_type(request)
    try:
        asked = await _read(request)
        kind = operations.kind(asked)
        _check_kind(request, kind)
        context = await make_context(request)
        if kind is OperationType.SUBSCRIPTION:
            return streams.response(operations.stream(asked, context, request_id), context, request_id)
        return _succeeded(await operations.run(asked, context), request_id, media_type)
    except NotExecutable as error:
        return _failed(400 if media_type == GRAPHQL_JSON else 200, error.errors, request_id, media_type)
    except HTTPError as error:
        return _failed(error.status, [wrapped(error)], request_id, media_type, error.headers)
    except RequestError as error:
        challenge = {"www-authenticate": "Bearer"} if error.code == "UNAUTHENTICATED" else None
        return _failed(STATUS.get(error.code, 400), [wrapped(error)], request_id, media_type, challenge)
    except Exception as error:
        return _failed(500, [wrapped(error)], request_id, media_type)


# ------------------------------------------------------------------------------------------------ requests


async def _read(request: Request) -> GraphQLRequest:
    if request.method == "GET":
        return checked_request(_from_url(request))
    if request.method != "POST":
        raise HTTPError(405, "Use POST, or GET for queries.", allow="GET, POST")
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
        raise HTTPError(415, "Send the request as JSON, with content-type: application/json.")
    return checked_request(_json(await body_of(request), "The body"))


async def body_of(request: Request) -> bytes:
    """The body, if it is not too long."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise HTTPError(413, f"The body must have at most {MOST_BYTES:,} bytes.")
    return bytes(body)


def _json(text: bytes, what: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        raise HTTPError(400, f"{what} is not JSON.") from None


def _from_url(request: Request) -> dict[str, Any]:
    given = {name: values[-1] for name, values in parse_qs(request.url.query).items()}
    if "variables" in given:
        return {**given, "variables": _json(given["variables"].encode(errors="replace"), "variables")}
    return dict(given)


def _check_kind(request: Request, kind: OperationType | None) -> None:
    if kind is OperationType.SUBSCRIPTION and "text/event-stream" not in request.headers.get("accept", ""):
        raise HTTPError(406, "A subscription is answered over a WebSocket, or as text/event-stream to those who accept it.")
    if request.method == "GET" and kind is OperationType.MUTATION:
        raise HTTPError(405, "GET is for queries: send this as POST.", allow="POST")


def _is_browser(request: Request) -> bool:
    return request.method == "GET" and "query" not in request.query_params and "text/html" in request.headers.get("accept", "")


def _media_type(request: Request) -> str:
    # application/json unless the newer type is asked for: older clients send */* and read the status code.
    return GRAPHQL_JSON if GRAPHQL_JSON in request.headers.get("accept", "") else JSON


def request_id_of(request: Request) -> str:
    """The id by which the request is known: its own, or a new one."""
    given = request.headers.get("x-request-id", "")
    return given if 0 < len(given) <= 100 and given.isascii() and given.isprintable() else str(uuid7())


# ----------------------------------------------------------------------------------------------- responses


def _succeeded(result: ExecutionResult, request_id: str, media_type: str) -> Response:
    # Without data the operation never began: its variables did not fit.
    status = 400 if result.data is None and result.errors and media_type == GRAPHQL_JSON and not result.errors[0].path else 200
    return Response(orjson.dumps(answer(result, request_id)), status, media_type=media_type)


def _failed(
    status: int, errors: list[GraphQLError], request_id: str, media_type: str, headers: dict[str, str] | None = None
) -> Response:
    return Response(orjson.dumps({"errors": formatted(errors, request_id)}), status, headers, media_type=media_type)
