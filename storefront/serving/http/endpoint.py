"""The GraphQL over HTTP endpoint: GET and POST, content negotiation, status codes, batches and streams."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from functools import lru_cache, partial
from typing import Any, TypeVar
from urllib.parse import parse_qs

import orjson
from graphql import OperationType
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from storefront.core import request_context
from storefront.core.errors import Unavailable
from storefront.serving.cache.response_cache import CacheLookup, ResponseCache
from storefront.serving.documents.document_store import NotExecutableError
from storefront.serving.http import lone_surrogates
from storefront.serving.http.batches import RequestBatch
from storefront.serving.http.graphql_request import BadRequest, GraphQLRequest, parse_request
from storefront.serving.http.headers import join_header_lines
from storefront.serving.http.negotiation import GRAPHQL_JSON, JSON, AcceptedTypes, negotiate_media_types
from storefront.serving.http.request_body import (
    DEFAULT_BODY_LIMITS,
    BodyBudget,
    BodyLimits,
    HTTPError,
    parse_body,
    parse_lenient_json,
    read_body,
)
from storefront.serving.http.status_codes import DRAFT, SpecEdition, build_error_headers
from storefront.serving.http.stream_formats import StreamFormat
from storefront.serving.http.streams import STREAM_HEADERS, Streams
from storefront.serving.protection.rate_limit import DEFAULT_RATE_LIMITER, RateLimiter, RateLimitScope, RequestQuota
from storefront.serving.run.cancellation import ClientDisconnectedError, DisconnectWatcher, create_shutdown_error
from storefront.serving.run.operations import Operations
from storefront.serving.run.prepared_operation import OperationContext, PreparedOperation
from storefront.serving.run.results import format_request_error, format_result

# The key of the ASGI scope with the request's RequestQuota.
REQUEST_QUOTA_SCOPE_KEY = "storefront.request_quota"

T = TypeVar("T")

# Maximum size of a query string in bytes. Most proxies allow less.
MAX_QUERY_STRING_BYTES = 32_768
# Query strings of up to so many characters are cached in decoded form.
MAX_CACHED_QUERY_STRING_CHARACTERS = 4_000

ALLOWED_METHODS = "GET, HEAD, OPTIONS, POST"

ContextFactory = Callable[[Request], Awaitable[OperationContext]]
RequestHandler = Callable[[Request], Awaitable[Response]]


class GraphQLEndpoint:
    """Serves operations over HTTP: an ASGI application.

    `serve_page` serves a browser that navigates here without a query. `max_batch_size`: requests per batch (0: no batches).
    `response_cache` has public responses. `vary`: the request headers that a response depends on.
    """

    def __init__(
        self,
        operations: Operations,
        create_context: ContextFactory,
        streams: Streams,
        serve_page: RequestHandler | None = None,
        *,
        response_cache: ResponseCache | None = None,
        vary: str = "accept",
        max_batch_size: int = 10,
        edition: SpecEdition = DRAFT,
        body_limits: BodyLimits = DEFAULT_BODY_LIMITS,
        body_budget: BodyBudget,
        rate_limiter: RateLimiter = DEFAULT_RATE_LIMITER,
    ) -> None:
        self._operations, self._create_context, self._streams, self._serve_page = operations, create_context, streams, serve_page
        self._response_cache, self._vary = response_cache, vary
        self._max_batch_size, self._edition = max_batch_size, edition
        self._body_limits, self._body_budget = body_limits, body_budget
        self._rate_limiter = rate_limiter if rate_limiter.has_limit(RateLimitScope.ADDRESS, RateLimitScope.VIEWER) else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, of any method."""
        response = await self._serve(Request(scope, receive))
        await response(scope, receive, send)

    async def _serve(self, request: Request) -> Response:
        if self._serve_page is not None and _is_browser_navigation(request):
            return await self._serve_page(request)
        if request.method == "OPTIONS":
            return Response(status_code=204, headers={"allow": ALLOWED_METHODS})
        request_id = request_context.get_request_id()
        accept = negotiate_media_types(join_header_lines(request.headers, "accept"), self._edition.media_types)
        quota = self._start_quota(request)
        try:
            if quota:
                await quota.count_requests(1)
            response = await self._handle_request(request, accept, request_id)
        except asyncio.CancelledError:
            # Deadlines and disconnects absorb their cancellations. So this is the end of a graceful shutdown: Uvicorn cancels
            # what it waits for no longer, and the event loop what still cleans up.
            response = self._build_error_response(create_shutdown_error(), accept, request_id)
        except Exception as error:
            response = self._build_error_response(error, accept, request_id)
        response.headers["vary"] = self._vary
        response.headers.setdefault("cache-control", "no-store")
        if quota and quota.state:
            response.headers.update(quota.state.to_headers())
        return response

    def _start_quota(self, request: Request) -> RequestQuota | None:
        if self._rate_limiter is not None:
            request.scope[REQUEST_QUOTA_SCOPE_KEY] = RequestQuota(
                self._rate_limiter, request.client.host if request.client else None
            )
        return _get_quota(request)

    async def _handle_request(self, request: Request, accept: AcceptedTypes, request_id: str) -> Response:
        payload, needs_value_check = await self._read_request(request)
        request_context.register_sensitive(payload)
        if needs_value_check:
            lone_surrogates.check_request(payload)
        if isinstance(payload, list):
            return await self._execute_batch(payload, request, accept, request_id)
        graphql_request = parse_request(payload, may_have_lone_surrogates=needs_value_check)
        cache_lookup = None if needs_value_check else self._build_cache_lookup(request, graphql_request, accept)
        cached_response = await cache_lookup.get() if cache_lookup else None
        return cached_response or await self._execute_request(request, graphql_request, cache_lookup, accept, request_id)

    def _build_cache_lookup(self, request: Request, graphql_request: GraphQLRequest, accept: AcceptedTypes) -> CacheLookup | None:
        return (
            self._response_cache.create_lookup(request, graphql_request, accept.json)
            if self._response_cache and accept.json
            else None
        )

    async def _execute_request(
        self,
        request: Request,
        graphql_request: GraphQLRequest,
        cache_lookup: CacheLookup | None,
        accept: AcceptedTypes,
        request_id: str,
    ) -> Response:
        operation = await self._operations.prepare(graphql_request)
        _check_kind(request, operation.kind)
        media_type = _choose_media_type(accept, operation.kind)
        if quota := _get_quota(request):
            await quota.count_cost(operation.cost)
        if cache_lookup and operation.is_public:
            # A caller that joins a running execution has its own deadline.
            run = partial(self._operations.run, operation)
            shared_execution = self._operations.await_with_timeout(cache_lookup.compute(run, self._operations.encode_response))
            response_or_result = await _await_unless_disconnected(request, shared_execution, has_mutations=False)
            return (
                response_or_result
                if isinstance(response_or_result, Response)
                else self._build_response(format_result(response_or_result, request_id), cache_lookup.media_type)
            )
        context = await self._create_counted_context(request)
        if isinstance(media_type, StreamFormat):
            return self._build_stream_response(request, operation, context, media_type, request_id)
        execution = self._operations.run(operation, context)
        result = await _await_unless_disconnected(request, execution, has_mutations=operation.kind is OperationType.MUTATION)
        return self._build_response(format_result(result, request_id), media_type, kind=operation.kind)

    def _build_stream_response(
        self,
        request: Request,
        operation: PreparedOperation,
        context: OperationContext,
        stream_format: StreamFormat,
        request_id: str,
    ) -> Response:
        if request.method == "HEAD":
            return self._streams.create_head_response(stream_format)
        return self._streams.create_response(
            stream_format, self._iterate_results(operation, context, request_id), context, request_id
        )

    async def _read_request(self, request: Request) -> tuple[Any, bool]:
        """Read the payload of a request, and whether it may have lone surrogates or numbers that are too large.

        Raises HTTPError, LimitExceeded and Unavailable.
        """
        if request.method in ("GET", "HEAD"):
            return _read_url_parameters(request)
        if request.method != "POST":
            raise HTTPError(405, "Use POST, or GET for queries.", allow=ALLOWED_METHODS)
        _check_content_type(request.headers.get("content-type", ""))
        limits, budget, is_signed_in = self._body_limits, self._body_budget, partial(self._is_signed_in, request)
        with budget.track() as body:
            return await parse_body(await read_body(request, limits, budget, body, is_signed_in), limits, is_signed_in)

    async def _is_signed_in(self, request: Request) -> bool:
        context = await self._operations.await_with_timeout(self._create_context(request))
        return context.viewer_id is not None

    async def _create_counted_context(self, request: Request) -> OperationContext:
        # Checking a token may wait for the database.
        context = await self._operations.await_with_timeout(self._create_context(request))
        if quota := _get_quota(request):
            await quota.count_viewer(context.viewer_id)
        return context

    def _iterate_results(
        self, operation: PreparedOperation, context: OperationContext, request_id: str
    ) -> AsyncGenerator[bytes, None]:
        if operation.kind is OperationType.SUBSCRIPTION:
            return self._operations.stream(operation, context, request_id)
        return _run_once(self._operations, operation, context, request_id)

    async def _execute_batch(self, items: list[Any], request: Request, accept: AcceptedTypes, request_id: str) -> Response:
        if not 0 < len(items) <= self._max_batch_size:
            raise BadRequest(_describe_batch_limit(self._max_batch_size))
        media_type = _choose_media_type(accept, None)
        if isinstance(media_type, StreamFormat):
            raise HTTPError(406, f"Accept {JSON} or {GRAPHQL_JSON}: the response to a batch has no other media type.")
        batch = await RequestBatch.prepare(self._operations, items, request_id)
        if quota := _get_quota(request):
            await quota.count_requests(len(items) - 1)
            await quota.count_cost(batch.cost)
        execution = batch.execute_all(await self._create_counted_context(request))
        return _build_json_response(
            orjson.dumps(await _await_unless_disconnected(request, execution, has_mutations=batch.has_mutations)), 200, media_type
        )

    def _build_response(
        self,
        payload: dict[str, Any],
        media_type: str,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        kind: OperationType | None = None,
    ) -> Response:
        status = status or self._edition.choose_status(payload, media_type)
        if status == 503 and not headers:
            headers = {"retry-after": str(Unavailable.retry_after)}
        content = self._operations.encode_response(payload, kind)
        return _build_json_response(content, status, self._edition.choose_media_type(status, media_type), headers)

    def _build_error_response(self, error: Exception, accept: AcceptedTypes, request_id: str) -> Response:
        payload, media_type = format_request_error(error, request_id), accept.json or JSON
        if isinstance(error, HTTPError):
            return self._build_response(payload, media_type, error.status, error.headers)
        if isinstance(error, NotExecutableError) and accept.stream and not accept.json:
            return _build_single_result_stream(accept.stream, orjson.dumps(payload))
        return self._build_response(payload, media_type, headers=build_error_headers(error))


# ------------------------------------------------------------------------------------------------ requests


def _read_url_parameters(request: Request) -> tuple[dict[str, Any], bool]:
    query_string = request.scope["query_string"].decode("latin-1")
    if len(query_string) > MAX_QUERY_STRING_BYTES:
        raise HTTPError(414, f"The query string must have at most {MAX_QUERY_STRING_BYTES:,} bytes. Send the request as POST.")
    parameters: dict[str, Any] = dict(
        _parse_query_string_cached(query_string)
        if len(query_string) <= MAX_CACHED_QUERY_STRING_CHARACTERS
        else _parse_query_string(query_string)
    )
    needs_value_check = False
    for name in {"variables", "extensions"} & parameters.keys():
        parameters[name], value_needs_check = parse_lenient_json(parameters[name].encode(errors="replace"), name)
        needs_value_check |= value_needs_check
    return parameters, needs_value_check


def _parse_query_string(query_string: str) -> dict[str, str]:
    parameters = parse_qs(query_string)
    for name, values in parameters.items():
        # Of two, caches and proxies may read another one than this server.
        if len(values) > 1 and name in _PARAMETER_NAMES:
            raise HTTPError(400, f"Send the parameter {name} once, not {len(values)} times.")
    return {name: values[0] for name, values in parameters.items()}


# The parameters of GraphQL over HTTP. Others are ignored.
_PARAMETER_NAMES = {"query", "operationName", "variables", "extensions", "documentId", "id"}


# Decoding a query string takes as long as the rest of a response cache hit, and clients repeat the same ones.
_parse_query_string_cached = lru_cache(maxsize=500)(_parse_query_string)


@lru_cache(maxsize=256)
def _is_json(content_type: str) -> bool:
    # CSRF protection: other sites cannot send application/json without a CORS preflight. And no encoding but UTF-8.
    media_type, _, parameters = content_type.lower().partition(";")
    charset = parameters.partition("charset=")[2].split(";")[0].strip(' "')
    return media_type.strip() == JSON and charset in ("", "utf-8", "utf8")


def _check_content_type(content_type: str) -> None:
    if not _is_json(content_type):
        raise HTTPError(415, f"Send the request as JSON in UTF-8, with content-type: {JSON}.", accept_post=JSON)


def _check_kind(request: Request, kind: OperationType | None) -> None:
    if request.method != "POST" and kind is OperationType.MUTATION:
        raise HTTPError(405, "GET is for queries: send this as POST.", allow="POST")


def _choose_media_type(accept: AcceptedTypes, kind: OperationType | None) -> str | StreamFormat:
    """The media type of the response, or the format of the stream. Raises HTTPError 406."""
    if kind is OperationType.SUBSCRIPTION:
        if accept.stream is None:
            raise HTTPError(
                406,
                "Subscriptions are sent over a WebSocket, or as a stream: accept text/event-stream "
                "or multipart/mixed;subscriptionSpec=1.0.",
            )
        return accept.stream
    media_type = accept.json or accept.stream
    if media_type is None:
        raise HTTPError(406, f"Accept {GRAPHQL_JSON} or {JSON}: responses have no other media type.")
    return media_type


def _get_quota(request: Request) -> RequestQuota | None:
    quota: RequestQuota | None = request.scope.get(REQUEST_QUOTA_SCOPE_KEY)
    return quota


async def _await_unless_disconnected(request: Request, execution: Awaitable[T], *, has_mutations: bool) -> T:
    # A mutation is not cancelled when its client disconnects.
    if has_mutations:
        return await execution
    watcher = DisconnectWatcher(request.receive)
    try:
        return await execution
    except asyncio.CancelledError:
        if watcher.absorb_cancellation():
            raise ClientDisconnectedError from None
        raise
    finally:
        watcher.stop()


def _is_browser_navigation(request: Request) -> bool:
    accept = join_header_lines(request.headers, "accept") or ""
    if request.method not in ("GET", "HEAD") or "text/html" not in accept:
        return False
    # Persisted documents have no text that the page could show.
    if any(name in request.query_params for name in ("documentId", "id", "extensions")):
        return False
    # A link with a document opens it in the page. Browsers that navigate put text/html first.
    return "query" not in request.query_params or accept.partition(",")[0].strip() == "text/html"


def _describe_batch_limit(max_batch_size: int) -> str:
    return (
        f"Send one to {max_batch_size} requests in an array."
        if max_batch_size
        else "Send one request, as an object: batches are not accepted (STOREFRONT_MAX_BATCH)."
    )


# ----------------------------------------------------------------------------------------------- responses


async def _run_once(
    operations: Operations, operation: PreparedOperation, context: OperationContext, request_id: str
) -> AsyncGenerator[bytes, None]:
    yield operations.encode_response(format_result(await operations.run(operation, context), request_id), operation.kind)


def _build_single_result_stream(stream_format: StreamFormat, result: bytes) -> Response:
    content = stream_format.preamble + stream_format.encode_result(result) + stream_format.terminator
    return Response(content, headers={**STREAM_HEADERS, "content-type": stream_format.content_type})


def _build_json_response(content: bytes, status: int, media_type: str, headers: Mapping[str, str] | None = None) -> Response:
    return Response(content, status, {**(headers or {}), "content-type": f"{media_type}; charset=utf-8"})
