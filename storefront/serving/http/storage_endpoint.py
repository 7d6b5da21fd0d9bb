"""Signed addresses of a folder's objects: PUT takes exactly what was announced, GET gives it to be saved. Knows no product."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from time import monotonic

from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from storefront.core.storage.base import StorageFailed, StorageFull, WrongSize, exactly
from storefront.core.storage.disk import MOUNT, Disk, Permit
from storefront.serving.http.request_body import HTTPError, check_content_coding

log = logging.getLogger("storefront")

# Who holds a signed address may use it from any page: cookies are not looked at.
ANYWHERE = {"access-control-allow-origin": "*"}
PREFLIGHT = {
    **ANYWHERE,
    "access-control-allow-methods": "GET, PUT",
    "access-control-allow-headers": "content-type",
    "access-control-max-age": "86400",
}
# Whatever somebody has uploaded: no page of this origin, and nothing that runs.
INERT = {
    **ANYWHERE,
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "cross-origin",
    "cache-control": "private, no-store",
}
# Seconds for which an upload may say nothing, and that it may take in all.
SILENCE, LONGEST = 30.0, timedelta(hours=1).total_seconds()
# Uploads that a process takes at a time: each may last, and others are to be let in too.
MOST_AT_A_TIME = 100
# Bytes and seconds of a refused body that are waited for, so that the answer is heard.
MOST_PASSED_OVER, PATIENCE = 10_000_000, 5.0


def routes(disk: Disk) -> list[BaseRoute]:
    """What to mount at the root."""
    coming: set[Request] = set()

    async def taken(request: Request, permit: Permit) -> Response:
        if len(coming) >= MOST_AT_A_TIME:
            return _told(503, "Too many uploads are coming in. Try again in a while.", retry_after="5", connection="close")
        coming.add(request)
        try:
            return await _taken(request, disk, permit)
        finally:
            coming.discard(request)

    async def objects(request: Request) -> Response:
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=PREFLIGHT)
        method = "GET" if request.method == "HEAD" else request.method
        permit = disk.permit(method, request.path_params["key"], dict(request.query_params))
        if permit is None:
            await _passed_over(_body(request))
            return _told(403, "This address was not signed here, or its time is over. Ask for a new one.")
        return await (taken(request, permit) if method == "PUT" else _given(disk, permit))

    return [Route(f"{MOUNT}/{{key:path}}", objects, methods=["GET", "PUT", "OPTIONS"])]


async def _taken(request: Request, disk: Disk, permit: Permit) -> Response:
    body = _body(request)
    try:
        _check_headers(request, permit)
        if request.headers.get("content-length", str(permit.size)) != str(permit.size):
            raise WrongSize
        await disk.put(permit.key, exactly(body, permit.size), permit.content_type)
    except HTTPError as error:
        await _passed_over(body)
        return _told(error.status, str(error), **error.headers)
    except WrongSize:
        await _passed_over(body)
        return _told(413, f"The body must have exactly {permit.size:,} bytes, as they were signed.", connection="close")
    except TimeoutError:
        return _told(408, f"Nothing came for {SILENCE:g} s, or not all within an hour.", connection="close")
    except StorageFailed as error:
        log.warning("an upload could not be stored: %s", error)
        if isinstance(error, StorageFull):
            return _told(507, "There is no room left for this file. Tell the operator, and try again later.", connection="close")
        return _told(503, "The file could not be stored. Try again in a while.", retry_after="5", connection="close")
    except ClientDisconnect:
        # Nobody hears it.
        return Response(status_code=400)
    return Response(status_code=200, headers=ANYWHERE)


def _check_headers(request: Request, permit: Permit) -> None:
    check_content_coding(request)
    if request.headers.get("content-type", "") != permit.content_type:
        raise HTTPError(400, f"The header content-type must be {permit.content_type}, as it was signed.")


async def _given(disk: Disk, permit: Permit) -> Response:
    stored = await disk.head(permit.key)
    if stored is None:
        return _told(404, "There is nothing here.")
    # Always to be saved: shown in a browser it would be a page of ours.
    name = permit.filename or permit.key.rpartition("/")[2]
    return FileResponse(disk.file(permit.key), media_type=stored.content_type, filename=name, headers=INERT)


async def _body(request: Request) -> AsyncIterator[bytes]:
    chunks, ends = aiter(request.stream()), monotonic() + LONGEST
    while True:
        async with asyncio.timeout(min(SILENCE, ends - monotonic())):
            chunk = await anext(chunks, None)
        if chunk is None:
            return
        yield chunk


async def _passed_over(body: AsyncIterator[bytes]) -> None:
    # Clients that are still sending would see a broken connection rather than the answer. Not for ever, though.
    left = MOST_PASSED_OVER
    with suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(PATIENCE):
            while left > 0 and (chunk := await anext(body, None)) is not None:
                left -= len(chunk)


def _told(status: int, text: str, **headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return PlainTextResponse(text, status, {**ANYWHERE, **named})
