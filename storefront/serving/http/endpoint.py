"""The HTTP endpoint: GET and POST, JSON in and out, media types and status codes as GraphQL over HTTP asks for."""

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
from storefront.core.errors import RequestError, Unauthenticated, Unavailable
from storefront.serving.cache.response_cache import Question, Responses
from storefront.serving.documents.document_store import NotExecutable
from storefront.serving.http import lone_surrogates
from storefront.serving.http.batches import Batch
from storefront.serving.http.graphql_request import BadRequest, GraphQLRequest, checked_request
from storefront.serving.http.headers import join_lines
from storefront.serving.http.negotiation import GRAPHQL_JSON, JSON, Accepted, accepted
from storefront.serving.http.request_body import ROOMY, BodyLimits, HTTPError, body_of, torn_json_of
from storefront.serving.http.status_codes import DRAFT, Edition
from storefront.serving.http.stream_formats import Framing
from storefront.serving.http.streams import HEADERS, Streams
from storefront.serving.protection.rate_limit import UNLIMITED, Door, RateLimited, Rates, Visit
from storefront.serving.run.cancellation import Attendance, ClientGone
from storefront.serving.run.operations import Operation, Operations, Renewable, answer, refused

# Where a request keeps who is counted for it.
VISIT = "storefront.visit"

T = TypeVar("T")

# Bytes of a query string. Most proxies let less through.
LONGEST_QUERY = 32_768
# Characters of a query string that is remembered as it was decoded.
MOST_REMEMBERED = 4_000

METHODS = "GET, HEAD, OPTIONS, POST"

ContextMaker = Callable[[Request], Awaitable[Renewable]]
Answer = Callable[[Request], Awaitable[Response]]


class Endpoint:
    """Operations over HTTP.

    `page` is what a browser gets that comes without a query, `most` how many requests may come in one body (0: no arrays).
    `responses` are answers that are kept, `vary` names the headers of a request that its answer depends on.
    """

    def __init__(
        self,
        operations: Operations,
        make_context: ContextMaker,
        streams: Streams,
        page: Answer | None = None,
        *,
        responses: Responses | None = None,
        vary: str = "accept",
        most: int = 10,
        edition: Edition = DRAFT,
        bodies: BodyLimits = ROOMY,
        rates: Rates = UNLIMITED,
    ) -> None:
        self._operations, self._make_context, self._streams, self._page = operations, make_context, streams, page
        self._responses, self._vary = responses, vary
        self._most, self._edition, self._bodies = most, edition, bodies
        self._rates = rates if rates.watches(Door.ADDRESS, Door.VIEWER) else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request of whatever method: an ASGI application."""
        response = await self._serve(Request(scope, receive))
        await response(scope, receive, send)

    async def _serve(self, request: Request) -> Response:
        if self._page is not None and _is_browser(request):
            return await self._page(request)
        if request.method == "OPTIONS":
            return Response(status_code=204, headers={"allow": METHODS})
        request_id = request_context.request_id()
        takes = accepted(join_lines(request.headers, "accept"), self._edition.offers)
        visit = self._visit(request)
        try:
            if visit:
                await visit.count(1)
            response = await self._answer(request, takes, request_id)
        except Exception as error:
            response = self._refusal(error, takes, request_id)
        response.headers["vary"] = self._vary
        response.headers.setdefault("cache-control", "no-store")
        if visit and visit.allowance:
            response.headers.update(visit.allowance.headers())
        return response

    def _visit(self, request: Request) -> Visit | None:
        if self._rates is not None:
            request.scope[VISIT] = Visit(self._rates, request.client.host if request.client else None)
        return _visit_of(request)

    async def _answer(self, request: Request, takes: Accepted, request_id: str) -> Response:
        given, may_be_torn = await _read(request, self._bodies)
        request_context.confide(given)
        if may_be_torn:
            lone_surrogates.check_request(given)
        if isinstance(given, list):
            return await self._batch(given, request, takes, request_id)
        asked = checked_request(given, may_be_torn=may_be_torn)
        question = None if may_be_torn else self._question(request, asked, takes)
        known = await question.known() if question else None
        return known or await self._executed(request, asked, question, takes, request_id)

    def _question(self, request: Request, asked: GraphQLRequest, takes: Accepted) -> Question | None:
        return self._responses.question(request, asked, takes.json) if self._responses and takes.json else None

    async def _executed(
        self, request: Request, asked: GraphQLRequest, question: Question | None, takes: Accepted, request_id: str
    ) -> Response:
        operation = await self._operations.prepared(asked)
        _check_kind(request, operation.kind)
        media_type = _chosen(takes, operation.kind)
        if visit := _visit_of(request):
            await visit.ask(operation.cost)
        if question and operation.is_public:
            # Who joins an execution that began before has a deadline of its own.
            run = partial(self._operations.run, operation)
            outcome = self._operations.wait_until_deadline(operation, question.made(run, self._operations.encode))
            made = await _attended(request, outcome, writes=False)
            return made if isinstance(made, Response) else self._told(answer(made, request_id), question.media_type)
        context = await self._known(request)
        if isinstance(media_type, Framing):
            return self._streamed(request, operation, context, media_type, request_id)
        running = self._operations.run(operation, context)
        result = await _attended(request, running, writes=operation.kind is OperationType.MUTATION)
        return self._told(answer(result, request_id), media_type, kind=operation.kind)

    def _streamed(
        self, request: Request, operation: Operation, context: Renewable, framing: Framing, request_id: str
    ) -> Response:
        if request.method == "HEAD":
            return self._streams.head(framing)
        return self._streams.response(framing, self._results(operation, context, request_id), context, request_id)

    async def _known(self, request: Request) -> Renewable:
        context = await self._make_context(request)
        if visit := _visit_of(request):
            await visit.known_as(context.asker)
        return context

    def _results(self, operation: Operation, context: Renewable, request_id: str) -> AsyncGenerator[bytes, None]:
        if operation.kind is OperationType.SUBSCRIPTION:
            return self._operations.stream(operation, context, request_id)
        return _once(self._operations, operation, context, request_id)

    async def _batch(self, items: list[Any], request: Request, takes: Accepted, request_id: str) -> Response:
        if not 0 < len(items) <= self._most:
            raise BadRequest(_batch_refusal(self._most))
        media_type = _chosen(takes, None)
        if isinstance(media_type, Framing):
            raise HTTPError(406, f"Several requests are answered as {JSON} or {GRAPHQL_JSON}.")
        batch = await Batch.of(self._operations, items, request_id)
        if visit := _visit_of(request):
            await visit.count(len(items) - 1)
            await visit.ask(batch.cost)
        answers = batch.answers(await self._known(request))
        return _json_response(orjson.dumps(await _attended(request, answers, writes=batch.writes)), 200, media_type)

    def _told(
        self,
        whole: dict[str, Any],
        media_type: str,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        kind: OperationType | None = None,
    ) -> Response:
        status = status or self._edition.status(whole, media_type)
        if status == 503 and not headers:
            headers = {"retry-after": str(Unavailable.retry_after)}
        content = self._operations.encode(whole, kind)
        return _json_response(content, status, self._edition.media_type(status, media_type), headers)

    def _refusal(self, error: Exception, takes: Accepted, request_id: str) -> Response:
        whole, media_type = refused(error, request_id), takes.json or JSON
        if isinstance(error, HTTPError):
            return self._told(whole, media_type, error.status, error.headers)
        if isinstance(error, NotExecutable) and takes.stream and not takes.json:
            return _single(takes.stream, orjson.dumps(whole))
        return self._told(whole, media_type, headers=_headers(error))


# ------------------------------------------------------------------------------------------------ requests


async def _read(request: Request, limits: BodyLimits) -> tuple[Any, bool]:
    """What is asked, and whether there may be half characters in it."""
    if request.method in ("GET", "HEAD"):
        return _from_url(request)
    if request.method != "POST":
        raise HTTPError(405, "Use POST, or GET for queries.", allow=METHODS)
    _check_content_type(request.headers.get("content-type", ""))
    return torn_json_of(await body_of(request, limits), "The body", limits.values)


def _from_url(request: Request) -> tuple[dict[str, Any], bool]:
    query = request.scope["query_string"].decode("latin-1")
    if len(query) > LONGEST_QUERY:
        raise HTTPError(414, f"What a URL asks must have at most {LONGEST_QUERY:,} bytes. Send it as POST.")
    given: dict[str, Any] = dict(_parameters(query) if len(query) <= MOST_REMEMBERED else _parsed(query))
    may_be_torn = False
    for name in {"variables", "extensions"} & given.keys():
        given[name], is_torn = torn_json_of(given[name].encode(errors="replace"), name)
        may_be_torn |= is_torn
    return given, may_be_torn


def _parsed(query: str) -> dict[str, str]:
    return {name: values[-1] for name, values in parse_qs(query).items()}


# Decoding a document costs as much as all else that an answer takes which is kept, and the same ones come again and again.
_parameters = lru_cache(maxsize=500)(_parsed)


@lru_cache(maxsize=256)
def _is_json(content_type: str) -> bool:
    # Nothing that a page of another site could send without asking first, and no other encoding than UTF-8.
    media_type, _, parameters = content_type.lower().partition(";")
    charset = parameters.partition("charset=")[2].split(";")[0].strip(' "')
    return media_type.strip() == JSON and charset in ("", "utf-8", "utf8")


def _check_content_type(given: str) -> None:
    if not _is_json(given):
        raise HTTPError(415, f"Send the request as JSON in UTF-8, with content-type: {JSON}.", accept_post=JSON)


def _check_kind(request: Request, kind: OperationType | None) -> None:
    if request.method != "POST" and kind is OperationType.MUTATION:
        raise HTTPError(405, "GET is for queries: send this as POST.", allow="POST")


def _chosen(takes: Accepted, kind: OperationType | None) -> str | Framing:
    """As what to answer."""
    if kind is OperationType.SUBSCRIPTION:
        if takes.stream is None:
            raise HTTPError(
                406,
                "A subscription is answered over a WebSocket, or to those who accept it as text/event-stream "
                "or multipart/mixed;subscriptionSpec=1.0.",
            )
        return takes.stream
    chosen = takes.json or takes.stream
    if chosen is None:
        raise HTTPError(406, f"Accept {GRAPHQL_JSON} or {JSON}: answers come as nothing else.")
    return chosen


def _visit_of(request: Request) -> Visit | None:
    visit: Visit | None = request.scope.get(VISIT)
    return visit


async def _attended(request: Request, answer: Awaitable[T], *, writes: bool) -> T:
    # What has begun to be written is written: whoever asked for it and left finds it done.
    if writes:
        return await answer
    attendance = Attendance(request.receive)
    try:
        return await answer
    except asyncio.CancelledError:
        if attendance.ended():
            raise ClientGone from None
        raise
    finally:
        attendance.stop()


def _is_browser(request: Request) -> bool:
    if request.method not in ("GET", "HEAD") or "text/html" not in (join_lines(request.headers, "accept") or ""):
        return False
    return not any(name in request.query_params for name in ("query", "documentId", "id", "extensions"))


def _batch_refusal(most: int) -> str:
    return f"Send one to {most} requests in an array." if most else "Send one request, as an object: arrays are not taken here."


# ----------------------------------------------------------------------------------------------- responses


async def _once(operations: Operations, operation: Operation, context: Renewable, request_id: str) -> AsyncGenerator[bytes, None]:
    yield operations.encode(answer(await operations.run(operation, context), request_id), operation.kind)


def _headers(error: Exception) -> dict[str, str]:
    """What to do about an error, as headers say it."""
    challenge = {"www-authenticate": "Bearer"} if isinstance(error, Unauthenticated) else {}
    wait = {"retry-after": str(error.retry_after)} if isinstance(error, RequestError) and error.retry_after else {}
    rates = error.allowance.headers() if isinstance(error, RateLimited) else {}
    return challenge | wait | rates


def _single(framing: Framing, result: bytes) -> Response:
    content = framing.opening + framing.result(result) + framing.ending
    return Response(content, headers={**HEADERS, "content-type": framing.content_type})


def _json_response(content: bytes, status: int, media_type: str, headers: Mapping[str, str] | None = None) -> Response:
    return Response(content, status, {**(headers or {}), "content-type": f"{media_type}; charset=utf-8"})
