"""Subscriptions as server-sent events (graphql-sse, one connection each), for networks that let no WebSocket through."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

import orjson
from graphql import GraphQLError
from starlette.responses import StreamingResponse

from storefront.serving.errors import formatted
from storefront.serving.operations import NotExecutable, wrapped

# Seconds of silence after which a comment keeps proxies from closing the connection.
KEEP_ALIVE = 12.0
HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


def event_stream(
    results: AsyncGenerator[str, None], expires: float | None, request_id: str, going_away: asyncio.Event
) -> StreamingResponse:
    """The results as events, until they end, the asker's proof expires, or the server goes away."""
    frames = _frames(results, expires, request_id, going_away)
    return StreamingResponse(frames, media_type="text/event-stream", headers=HEADERS)


async def _frames(
    results: AsyncGenerator[str, None], expires: float | None, request_id: str, going_away: asyncio.Event
) -> AsyncGenerator[str, None]:
    # Lines end in LF alone: some clients cannot split CRLF.
    yield ":\n\n"
    leaving: asyncio.Task[Any] = asyncio.create_task(going_away.wait())
    try:
        async with aclosing(results), aclosing(_paced(results, leaving, expires)) as paced:
            async for result in paced:
                yield f"event: next\ndata: {result}\n\n" if result else ":\n\n"
    except NotExecutable as refusal:
        yield _failure(refusal.errors, request_id)
    except Exception as error:
        yield _failure([wrapped(error)], request_id)
    finally:
        leaving.cancel()
    yield "event: complete\ndata:\n\n"


async def _paced(
    results: AsyncGenerator[str, None], leaving: "asyncio.Task[Any]", expires: float | None
) -> AsyncGenerator[str, None]:
    """The results, and an empty text after each silence."""
    while not leaving.done() and (expires is None or time.time() < expires):
        coming: asyncio.Task[Any] = asyncio.create_task(_next(results))
        try:
            while not coming.done() and not leaving.done() and (expires is None or time.time() < expires):
                wait = KEEP_ALIVE if expires is None else min(KEEP_ALIVE, max(0.0, expires - time.time()))
                await asyncio.wait({coming, leaving}, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
                if not coming.done():
                    yield ""
        finally:
            if not coming.done():
                coming.cancel()
                with suppress(asyncio.CancelledError):
                    await coming
        if coming.cancelled() or (result := coming.result()) is None:
            return
        yield result


async def _next(results: AsyncGenerator[str, None]) -> str | None:
    return await anext(results, None)


def _failure(errors: list[GraphQLError], request_id: str) -> str:
    body = orjson.dumps({"errors": formatted(errors, request_id)}).decode()
    return f"event: next\ndata: {body}\n\n"
