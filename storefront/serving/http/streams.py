"""Streamed responses: the results of a subscription over HTTP, for networks that block WebSockets."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, cast

import orjson
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from storefront.core.errors import RequestError
from storefront.core.tasks import cancel_and_wait
from storefront.serving.documents.document_store import NotExecutableError
from storefront.serving.http.stream_formats import StreamFormat
from storefront.serving.protection.revocations import Revocations
from storefront.serving.run.prepared_operation import OperationContext
from storefront.serving.run.results import format_request_error

# Seconds without a result after which a heartbeat is sent, so that proxies do not close the connection.
HEARTBEAT_INTERVAL_SECONDS = 12.0
STREAM_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


class TooManyStreamsError(RequestError):
    """Raised if the process has reached its maximum of open streams."""

    code = "SERVICE_UNAVAILABLE"


class Streams:
    """The open streams of this process, up to a maximum. They are completed on graceful shutdown."""

    def __init__(self, revocations: Revocations, max_streams: int) -> None:
        self._revocations, self._max_streams = revocations, max_streams
        self._open: set[asyncio.Event] = set()
        self._is_draining = False

    def create_response(
        self, stream_format: StreamFormat, results: AsyncGenerator[bytes, None], context: OperationContext, request_id: str
    ) -> StreamingResponse:
        """A response with the results, until they end, the credentials expire or are revoked, or the server shuts down.

        Raises TooManyStreamsError.
        """
        if len(self._open) >= self._max_streams:
            raise TooManyStreamsError(f"This server holds at most {self._max_streams} event streams. Try again later.")
        frames = self._track_frames(stream_format, results, context, request_id)
        return _ClosingStreamingResponse(frames, headers={**STREAM_HEADERS, "content-type": stream_format.content_type})

    @staticmethod
    def create_head_response(stream_format: StreamFormat) -> StreamingResponse:
        """The response to HEAD: the headers of a stream. Nothing is executed."""
        return StreamingResponse(iterate_nothing(), headers={**STREAM_HEADERS, "content-type": stream_format.content_type})

    @property
    def count(self) -> int:
        """The number of open streams."""
        return len(self._open)

    def drain(self) -> None:
        """Graceful shutdown: complete all streams, so that clients resume on another server from their positions."""
        self._is_draining = True
        for closing in self._open:
            closing.set()

    async def _track_frames(
        self, stream_format: StreamFormat, results: AsyncGenerator[bytes, None], context: OperationContext, request_id: str
    ) -> AsyncGenerator[bytes, None]:
        closing, credentials = asyncio.Event(), context.credentials
        if self._is_draining:
            closing.set()
        self._open.add(closing)
        self._revocations.watch(credentials, closing.set)
        try:
            async with aclosing(_frame_results(stream_format, results, context.expires, request_id, closing)) as frames:
                async for frame in frames:
                    yield frame
        finally:
            self._open.discard(closing)
            self._revocations.unwatch(credentials, closing.set)


class _ClosingStreamingResponse(StreamingResponse):
    """A response that closes its generator. Starlette leaves it to the garbage collector if the client has stopped to read."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the frames until the client disconnects."""
        async with aclosing(cast("AsyncGenerator[bytes, None]", self.body_iterator)):
            await super().__call__(scope, receive, send)


async def iterate_nothing() -> AsyncGenerator[bytes, None]:
    """An empty body, for a response to HEAD without content-length."""
    no_chunks: tuple[bytes, ...] = ()
    for chunk in no_chunks:
        yield chunk


async def _frame_results(
    stream_format: StreamFormat,
    results: AsyncGenerator[bytes, None],
    expires_at: float | None,
    request_id: str,
    closing: asyncio.Event,
) -> AsyncGenerator[bytes, None]:
    yield stream_format.preamble
    closing_task: asyncio.Task[Any] = asyncio.create_task(closing.wait())
    try:
        async with aclosing(results), aclosing(_add_heartbeats(results, closing_task, expires_at)) as results_with_heartbeats:
            async for result in results_with_heartbeats:
                yield stream_format.encode_result(result) if result else stream_format.heartbeat
    except NotExecutableError as not_executable:
        yield stream_format.encode_result(orjson.dumps(format_request_error(not_executable, request_id)))
    except Exception as error:
        yield stream_format.encode_error(orjson.dumps(format_request_error(error, request_id)))
    finally:
        closing_task.cancel()
    yield stream_format.terminator


async def _add_heartbeats(
    results: AsyncGenerator[bytes, None], closing_task: "asyncio.Task[Any]", expires_at: float | None
) -> AsyncGenerator[bytes, None]:
    """The results, and empty bytes for each heartbeat. Ends when `closing_task` is done or the credentials expire."""
    while not closing_task.done() and (expires_at is None or time.time() < expires_at):
        next_task: asyncio.Task[Any] = asyncio.create_task(_read_next(results))
        try:
            while not next_task.done() and not closing_task.done() and (expires_at is None or time.time() < expires_at):
                timeout_seconds = (
                    HEARTBEAT_INTERVAL_SECONDS
                    if expires_at is None
                    else min(HEARTBEAT_INTERVAL_SECONDS, max(0.0, expires_at - time.time()))
                )
                await asyncio.wait({next_task, closing_task}, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
                if not next_task.done():
                    yield b""
        finally:
            if not next_task.done():
                await cancel_and_wait([next_task])
        if next_task.cancelled() or (result := next_task.result()) is None:
            return
        yield result


async def _read_next(results: AsyncGenerator[bytes, None]) -> bytes | None:
    return await anext(results, None)
