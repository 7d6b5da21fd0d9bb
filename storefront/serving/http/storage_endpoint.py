"""Serves the presigned URLs of disk storage: PUT accepts exactly the signed size and type, GET downloads. Knows no product."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from time import monotonic

from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from storefront.core.storage.base import SizeMismatchError, StorageError, StorageFullError, enforce_size
from storefront.core.storage.disk import ROUTE_PREFIX, DiskStorage, PresignedGrant
from storefront.serving.http.request_body import HTTPError, check_content_coding

log = logging.getLogger("storefront")

# A presigned URL may be used from any origin: it is the only credential, cookies are ignored.
CORS_HEADERS = {"access-control-allow-origin": "*"}
PREFLIGHT_HEADERS = {
    **CORS_HEADERS,
    "access-control-allow-methods": "GET, PUT",
    "access-control-allow-headers": "content-type",
    "access-control-max-age": "86400",
}
# Uploads are untrusted: they must not be rendered as pages of this origin, and no scripts may run.
DOWNLOAD_HEADERS = {
    **CORS_HEADERS,
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "cross-origin",
    "cache-control": "private, no-store",
}
# Timeouts of an upload: seconds without data, and in total.
IDLE_TIMEOUT_SECONDS, UPLOAD_TIMEOUT_SECONDS = 30.0, timedelta(hours=1).total_seconds()
# Concurrent uploads per process. They may take long, and must not take all capacity for requests.
MAX_CONCURRENT_UPLOADS = 100
# Bytes and seconds of a rejected body that are read and discarded, so that the client can read the response.
MAX_DISCARDED_BYTES, DISCARD_TIMEOUT_SECONDS = 10_000_000, 5.0


def create_storage_routes(disk: DiskStorage) -> list[BaseRoute]:
    """The routes of the storage, to be mounted at the root."""
    uploads: set[Request] = set()

    async def accept_upload(request: Request, grant: PresignedGrant) -> Response:
        if len(uploads) >= MAX_CONCURRENT_UPLOADS:
            return _create_text_response(
                503, "Too many uploads are running. Try again in a while.", retry_after="5", connection="close"
            )
        uploads.add(request)
        try:
            return await _store_upload(request, disk, grant)
        finally:
            uploads.discard(request)

    async def handle_object(request: Request) -> Response:
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=PREFLIGHT_HEADERS)
        method = "GET" if request.method == "HEAD" else request.method
        grant = disk.verify_grant(method, request.path_params["key"], dict(request.query_params))
        if grant is None:
            await _discard_body(_read_body(request))
            return _create_text_response(403, "This URL is not a valid presigned URL, or it has expired. Request a new one.")
        return await (accept_upload(request, grant) if method == "PUT" else _create_download(disk, grant))

    return [Route(f"{ROUTE_PREFIX}/{{key:path}}", handle_object, methods=["GET", "PUT", "OPTIONS"])]


async def _store_upload(request: Request, disk: DiskStorage, grant: PresignedGrant) -> Response:
    body = _read_body(request)
    try:
        _check_headers(request, grant)
        if request.headers.get("content-length", str(grant.size)) != str(grant.size):
            raise SizeMismatchError
        await disk.put(grant.key, enforce_size(body, grant.size), grant.content_type)
    except HTTPError as error:
        await _discard_body(body)
        return _create_text_response(error.status, str(error), **error.headers)
    except SizeMismatchError:
        await _discard_body(body)
        return _create_text_response(
            413, f"The body must have exactly {grant.size:,} bytes, as signed in the URL.", connection="close"
        )
    except TimeoutError:
        return _create_text_response(
            408, f"No data for {IDLE_TIMEOUT_SECONDS:g} s, or not complete within an hour.", connection="close"
        )
    except StorageError as error:
        log.warning("an upload could not be stored: %s", error)
        if isinstance(error, StorageFullError):
            return _create_text_response(507, "The storage is full. Tell the operator, and try again later.", connection="close")
        return _create_text_response(
            503, "The file could not be stored. Try again in a while.", retry_after="5", connection="close"
        )
    except ClientDisconnect:
        # The client has disconnected; the response is not sent.
        return Response(status_code=400)
    return Response(status_code=200, headers=CORS_HEADERS)


def _check_headers(request: Request, grant: PresignedGrant) -> None:
    check_content_coding(request)
    if request.headers.get("content-type", "") != grant.content_type:
        raise HTTPError(400, f"The header content-type must be {grant.content_type}, as signed in the URL.")


async def _create_download(disk: DiskStorage, grant: PresignedGrant) -> Response:
    stored = await disk.head(grant.key)
    if stored is None:
        return _create_text_response(404, "There is no such file.")
    # Always an attachment: rendered in a browser it would be a page of this origin.
    name = grant.filename or grant.key.rpartition("/")[2]
    return FileResponse(disk.get_file_path(grant.key), media_type=stored.content_type, filename=name, headers=DOWNLOAD_HEADERS)


async def _read_body(request: Request) -> AsyncIterator[bytes]:
    chunks, deadline = aiter(request.stream()), monotonic() + UPLOAD_TIMEOUT_SECONDS
    while True:
        async with asyncio.timeout(min(IDLE_TIMEOUT_SECONDS, deadline - monotonic())):
            chunk = await anext(chunks, None)
        if chunk is None:
            return
        yield chunk


async def _discard_body(body: AsyncIterator[bytes]) -> None:
    # A client that is still sending would see a reset connection instead of the response. Bounded in bytes and time.
    remaining = MAX_DISCARDED_BYTES
    with suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(DISCARD_TIMEOUT_SECONDS):
            while remaining > 0 and (chunk := await anext(body, None)) is not None:
                remaining -= len(chunk)


def _create_text_response(status: int, text: str, **headers: str) -> Response:
    headers_by_name = {name.replace("_", "-"): value for name, value in headers.items()}
    return PlainTextResponse(text, status, {**CORS_HEADERS, **headers_by_name})
