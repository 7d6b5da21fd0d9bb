"""GET /media/{key}/{name}: serves images in the available sizes. Each size is rendered on its first request, then stored."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from storefront.core.db.database import Database
from storefront.core.errors import Unavailable
from storefront.core.image_processing import MEDIA_TYPES, ImageProcessor
from storefront.core.storage.base import IMMUTABLE_CACHE_CONTROL, ObjectNotFoundError, ObjectStorage, StorageError, read_object
from storefront.core.tasks import share
from storefront.models.rows import ImageRow
from storefront.queries import images
from storefront.queries.images import FULL_SIZE_NAME, MEDIA_PATH
from storefront.serving.http.cors import ANY_ORIGIN_HEADERS
from storefront.serving.http.headers import is_not_modified
from storefront.serving.http.streams import iterate_nothing

# Pages of any origin may embed images (CORP), and their scripts may read them, such as to draw them on a canvas (CORS).
CORS_HEADERS = {**ANY_ORIGIN_HEADERS, "cross-origin-resource-policy": "cross-origin"}
# Redirects to the public URL of a bucket: clients cache them for an hour.
REDIRECT_HEADERS = {**CORS_HEADERS, "cache-control": "public, max-age=3600"}


class ImageEndpoint:
    """Serves the images in an object storage. Concurrent requests for a missing size share one rendering (single-flight)."""

    def __init__(
        self, database: Database, objects: ObjectStorage, image_processor: ImageProcessor, max_upload_bytes: int
    ) -> None:
        self._database, self._objects, self._image_processor = database, objects, image_processor
        # A re-encoded image may be larger than its upload.
        self._max_source_bytes = 8 * max_upload_bytes
        self._resize_tasks: dict[str, asyncio.Task[None]] = {}

    def build_routes(self) -> list[BaseRoute]:
        """The routes, to mount at the root."""
        return [Route(f"{MEDIA_PATH}/{{key}}/{{name}}", self.serve)]

    async def serve(self, request: Request) -> Response:
        """Serve an image: 200, 304, a redirect (307) to a public bucket, 404 if not found, 503 if storage is not available."""
        name = request.path_params["name"]
        row = await self._load_image(request.path_params["key"])
        size = images.parse_rendition_name(name, row.width) if row else None
        if row is None or size is None:
            return PlainTextResponse("There is no such image.", 404, CORS_HEADERS)
        etag = f'"{row.token}-{name}"'
        if is_not_modified(request.headers, etag):
            return Response(status_code=304, headers={**CORS_HEADERS, "etag": etag, "cache-control": IMMUTABLE_CACHE_CONTROL})
        try:
            return await self._respond_with_image(request, row, name, *size, etag)
        except (StorageError, OSError, Unavailable):
            return PlainTextResponse(
                "Images are not available at the moment. Try again soon.", 503, {**CORS_HEADERS, "retry-after": "1"}
            )
        except ObjectNotFoundError:
            return PlainTextResponse("There is no such image.", 404, CORS_HEADERS)

    async def _load_image(self, key: str) -> ImageRow | None:
        row = await images.load_image_by_address_key(self._database, key)
        return row if row is not None and row.swept_at is None else None

    async def _respond_with_image(
        self, request: Request, row: ImageRow, name: str, width: int, extension: str, etag: str
    ) -> Response:
        key = f"{row.place}/{name}"
        public_url = self._objects.public_url(key)
        if public_url is not None:
            if await self._objects.head(key) is None:
                await self._ensure_resized(row, key, width, extension)
            return RedirectResponse(public_url, 307, REDIRECT_HEADERS)
        try:
            return await self._stream_object(request, key, extension, etag)
        except ObjectNotFoundError:
            await self._ensure_resized(row, key, width, extension)
            return await self._stream_object(request, key, extension, etag)

    async def _stream_object(self, request: Request, key: str, extension: str, etag: str) -> Response:
        async with AsyncExitStack() as stack:
            reader = await stack.enter_async_context(self._objects.open(key))
            headers = {
                **CORS_HEADERS,
                "etag": etag,
                "cache-control": IMMUTABLE_CACHE_CONTROL,
                "content-length": str(reader.stored_object.size),
            }
            if request.method == "HEAD":
                return StreamingResponse(iterate_nothing(), headers=headers, media_type=MEDIA_TYPES[extension])
            # The response closes it.
            return _ObjectResponse(reader.chunks, stack.pop_all(), headers, MEDIA_TYPES[extension])

    async def _ensure_resized(self, row: ImageRow, key: str, width: int, extension: str) -> None:
        task = self._resize_tasks.get(key)
        if task is None:
            task = asyncio.create_task(self._resize_image(row, key, width, extension))
            self._resize_tasks[key] = task
            task.add_done_callback(lambda _: self._resize_tasks.pop(key, None))
        # A client that disconnects must not cancel the rendering that others wait for.
        await share(task)

    async def _resize_image(self, row: ImageRow, key: str, width: int, extension: str) -> None:
        # Another request may have stored it since this one found that it is missing.
        if await self._objects.head(key) is not None:
            return
        content = await read_object(self._objects, f"{row.place}/{FULL_SIZE_NAME}.{row.extension}", self._max_source_bytes)
        resized = await self._image_processor.resize_stored(content, width, extension)
        await self._objects.put(key, resized, MEDIA_TYPES[extension], cache_control=IMMUTABLE_CACHE_CONTROL)


class _ObjectResponse(StreamingResponse):
    """Sends an object that is open, and closes it: also for a client that disconnects before the first byte."""

    def __init__(self, chunks: AsyncIterator[bytes], opened: AsyncExitStack, headers: Mapping[str, str], media_type: str) -> None:
        super().__init__(chunks, headers=headers, media_type=media_type)
        self._opened = opened

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        async with self._opened:
            await super().__call__(scope, receive, send)
