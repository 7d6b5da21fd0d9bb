"""GET /media/{key}/{name}: pictures in the sizes that there are, each made when it is first asked for and then kept."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from storefront.core.db.database import Database, Row
from storefront.core.errors import Unavailable
from storefront.core.image_processing import TYPES, Pictures
from storefront.core.storage.base import Missing, Objects, StorageFailed, read
from storefront.media.upload_processing import FOR_EVER
from storefront.queries import images
from storefront.queries.images import FULL, MOUNT
from storefront.serving.http.headers import is_unchanged
from storefront.serving.http.streams import iterate_nothing

# Pictures are for pages of any origin; scripts of theirs may read them too, to draw on them.
OPEN = {"access-control-allow-origin": "*", "cross-origin-resource-policy": "cross-origin"}
# Where a bucket serves them: whoever asked may go there for an hour without asking again.
ELSEWHERE = {**OPEN, "cache-control": "public, max-age=3600"}


class Gallery:
    """The pictures of a store of objects. Of several that ask for a size that there is not yet, the first one has it made."""

    def __init__(self, database: Database, objects: Objects, pictures: Pictures, most_bytes: int) -> None:
        self._database, self._objects, self._pictures = database, objects, pictures
        # What is kept may be larger than what was sent.
        self._most_bytes = 8 * most_bytes
        self._being_made: dict[str, asyncio.Task[None]] = {}

    def routes(self) -> list[BaseRoute]:
        """What to mount at the root."""
        return [Route(f"{MOUNT}/{{key}}/{{name}}", self.serve)]

    async def serve(self, request: Request) -> Response:
        """The picture of an address; 404 for any other."""
        name = request.path_params["name"]
        row = await self._row(request.path_params["key"])
        size = images.named(name, row.width) if row else None
        if row is None or size is None:
            return PlainTextResponse("There is no such picture.", 404, OPEN)
        tag = f'"{row.token}-{name}"'
        if is_unchanged(request.headers, tag):
            return Response(status_code=304, headers={**OPEN, "etag": tag, "cache-control": FOR_EVER})
        try:
            return await self._found(request, row, name, *size, tag)
        except (StorageFailed, OSError, Unavailable):
            return PlainTextResponse("Pictures are out of reach at the moment.", 503, {**OPEN, "retry-after": "1"})
        except Missing:
            return PlainTextResponse("There is no such picture.", 404, OPEN)

    async def _row(self, key: str) -> Row | None:
        row = await images.by_address_key(self._database, key)
        return row if row is not None and row.swept_at is None else None

    async def _found(self, request: Request, row: Row, name: str, width: int, extension: str, tag: str) -> Response:
        key = f"{row.place}/{name}"
        elsewhere = self._objects.public_url(key)
        if elsewhere is not None:
            if await self._objects.head(key) is None:
                await self._made(row, key, width, extension)
            return RedirectResponse(elsewhere, 307, ELSEWHERE)
        try:
            return await self._streamed(request, key, extension, tag)
        except Missing:
            await self._made(row, key, width, extension)
            return await self._streamed(request, key, extension, tag)

    async def _streamed(self, request: Request, key: str, extension: str, tag: str) -> Response:
        async with AsyncExitStack() as stack:
            reading = await stack.enter_async_context(self._objects.open(key))
            headers = {**OPEN, "etag": tag, "cache-control": FOR_EVER, "content-length": str(reading.stored.size)}
            if request.method == "HEAD":
                return StreamingResponse(iterate_nothing(), headers=headers, media_type=TYPES[extension])
            # Closed by whoever has sent it, to the end or not.
            opened = stack.pop_all()

        async def body() -> AsyncIterator[bytes]:
            async with opened:
                async for chunk in reading.chunks:
                    yield chunk

        return StreamingResponse(body(), headers=headers, media_type=TYPES[extension])

    async def _made(self, row: Row, key: str, width: int, extension: str) -> None:
        task = self._being_made.get(key)
        if task is None:
            task = asyncio.create_task(self._make(row, key, width, extension))
            self._being_made[key] = task
            task.add_done_callback(lambda _: self._being_made.pop(key, None))
        # Whoever leaves does not take it from the others.
        await asyncio.shield(task)

    async def _make(self, row: Row, key: str, width: int, extension: str) -> None:
        content = await read(self._objects, f"{row.place}/{FULL}.{row.extension}", self._most_bytes)
        made = await self._pictures.resize(content, width, extension)
        await self._objects.put(key, made, TYPES[extension], cache_control=FOR_EVER)
