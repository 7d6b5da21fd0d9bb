"""Subscriptions as server-sent events (graphql-sse, one connection each), for networks that let no WebSocket through."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

import orjson
from graphql import GraphQLError
from starlette.responses import StreamingResponse

from storefront.core.errors import RequestError
from storefront.serving.errors import formatted
from storefront.serving.operations import NotExecutable, Renewable, wrapped
from storefront.serving.revocations import Revocations

# Seconds of silence after which a comment keeps proxies from closing the connection.
KEEP_ALIVE = 12.0
HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


class TooManyStreams(RequestError):
    """This process has no room for another one."""

    code = "SERVICE_UNAVAILABLE"


class Streams:
    """The open event streams of this process, at most so many."""

    def __init__(self, revocations: Revocations, most: int) -> None:
        self._revocations, self._most = revocations, most
        self._open: set[asyncio.Event] = set()
        self._is_leaving = False

    def response(self, results: AsyncGenerator[bytes, None], context: Renewable, request_id: str) -> StreamingResponse:
        """The results as events, until they end, the asker's proof expires or is revoked, or the server goes away.

        Raises TooManyStreams.
        """
        if len(self._open) >= self._most:
            raise TooManyStreams(f"This server holds at most {self._most} event streams. Try again later.")
        frames = self._held(results, context, request_id)
        return StreamingResponse(frames, media_type="text/event-stream", headers=HEADERS)

    def drain(self) -> None:
        """Complete them all, so that listeners go on elsewhere from their positions."""
        self._is_leaving = True
        for over in self._open:
            over.set()

    async def _held(
        self, results: AsyncGenerator[bytes, None], context: Renewable, request_id: str
    ) -> AsyncGenerator[bytes, None]:
        over, proof = asyncio.Event(), context.proof
        if self._is_leaving:
            over.set()
        self._open.add(over)
        self._revocations.watch(proof, over.set)
        try:
            async with aclosing(_frames(results, context.expires, request_id, over)) as frames:
                async for frame in frames:
                    yield frame
        finally:
            self._open.discard(over)
            self._revocations.forget(proof, over.set)


async def _frames(
    results: AsyncGenerator[bytes, None], expires: float | None, request_id: str, over: asyncio.Event
) -> AsyncGenerator[bytes, None]:
    # Lines end in LF alone: some clients cannot split CRLF.
    yield b":\n\n"
    leaving: asyncio.Task[Any] = asyncio.create_task(over.wait())
    try:
        async with aclosing(results), aclosing(_paced(results, leaving, expires)) as paced:
            async for result in paced:
                yield b"event: next\ndata: %b\n\n" % result if result else b":\n\n"
    except NotExecutable as refusal:
        yield _failure(refusal.errors, request_id)
    except Exception as error:
        yield _failure([wrapped(error)], request_id)
    finally:
        leaving.cancel()
    yield b"event: complete\ndata:\n\n"


async def _paced(
    results: AsyncGenerator[bytes, None], leaving: "asyncio.Task[Any]", expires: float | None
) -> AsyncGenerator[bytes, None]:
    """The results, and an empty one after each silence."""
    while not leaving.done() and (expires is None or time.time() < expires):
        coming: asyncio.Task[Any] = asyncio.create_task(_next(results))
        try:
            while not coming.done() and not leaving.done() and (expires is None or time.time() < expires):
                wait = KEEP_ALIVE if expires is None else min(KEEP_ALIVE, max(0.0, expires - time.time()))
                await asyncio.wait({coming, leaving}, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
                if not coming.done():
                    yield b""
        finally:
            if not coming.done():
                coming.cancel()
                with suppress(asyncio.CancelledError):
                    await coming
        if coming.cancelled() or (result := coming.result()) is None:
            return
        yield result


async def _next(results: AsyncGenerator[bytes, None]) -> bytes | None:
    return await anext(results, None)


def _failure(errors: list[GraphQLError], request_id: str) -> bytes:
    return b"event: next\ndata: %b\n\n" % orjson.dumps({"errors": formatted(errors, request_id)})
