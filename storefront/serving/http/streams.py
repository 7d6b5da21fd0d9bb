"""Responses that go on: a subscription's results as they come, for networks that let no WebSocket through."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

import orjson
from starlette.responses import StreamingResponse

from storefront.core.errors import RequestError
from storefront.serving.documents.document_store import NotExecutable
from storefront.serving.http.stream_formats import Framing
from storefront.serving.protection.revocations import Revocations
from storefront.serving.run.operations import Renewable, refused

# Seconds of silence after which a sign of life keeps proxies from closing the connection.
KEEP_ALIVE = 12.0
HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


class TooManyStreams(RequestError):
    """This process has no room for another one."""

    code = "SERVICE_UNAVAILABLE"


class Streams:
    """The open streams of this process, at most so many."""

    def __init__(self, revocations: Revocations, most: int) -> None:
        self._revocations, self._most = revocations, most
        self._open: set[asyncio.Event] = set()
        self._is_leaving = False

    def response(
        self, framing: Framing, results: AsyncGenerator[bytes, None], context: Renewable, request_id: str
    ) -> StreamingResponse:
        """The results in frames, until they end, the asker's proof expires or is revoked, or the server goes away.

        Raises TooManyStreams.
        """
        if len(self._open) >= self._most:
            raise TooManyStreams(f"This server holds at most {self._most} event streams. Try again later.")
        frames = self._held(framing, results, context, request_id)
        return StreamingResponse(frames, headers={**HEADERS, "content-type": framing.content_type})

    @staticmethod
    def head(framing: Framing) -> StreamingResponse:
        """The response to HEAD: what `response` begins with. Nothing runs."""
        return StreamingResponse(iterate_nothing(), headers={**HEADERS, "content-type": framing.content_type})

    @property
    def count(self) -> int:
        """How many are open."""
        return len(self._open)

    def drain(self) -> None:
        """Complete them all, so that listeners go on elsewhere from their positions."""
        self._is_leaving = True
        for over in self._open:
            over.set()

    async def _held(
        self, framing: Framing, results: AsyncGenerator[bytes, None], context: Renewable, request_id: str
    ) -> AsyncGenerator[bytes, None]:
        over, proof = asyncio.Event(), context.proof
        if self._is_leaving:
            over.set()
        self._open.add(over)
        self._revocations.watch(proof, over.set)
        try:
            async with aclosing(_frames(framing, results, context.expires, request_id, over)) as frames:
                async for frame in frames:
                    yield frame
        finally:
            self._open.discard(over)
            self._revocations.forget(proof, over.set)


async def iterate_nothing() -> AsyncGenerator[bytes, None]:
    """The body of a response to HEAD whose length is not known."""
    no_chunks: tuple[bytes, ...] = ()
    for chunk in no_chunks:
        yield chunk


async def _frames(
    framing: Framing, results: AsyncGenerator[bytes, None], expires: float | None, request_id: str, over: asyncio.Event
) -> AsyncGenerator[bytes, None]:
    yield framing.opening
    leaving: asyncio.Task[Any] = asyncio.create_task(over.wait())
    try:
        async with aclosing(results), aclosing(_paced(results, leaving, expires)) as paced:
            async for result in paced:
                yield framing.result(result) if result else framing.silence
    except NotExecutable as refusal:
        yield framing.result(orjson.dumps(refused(refusal, request_id)))
    except Exception as error:
        yield framing.failure(orjson.dumps(refused(error, request_id)))
    finally:
        leaving.cancel()
    yield framing.ending


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
