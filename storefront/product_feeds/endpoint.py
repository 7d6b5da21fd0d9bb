"""GET /feeds/{configId}/…: streams the product feeds of published stores, as anonymous shoppers see their products."""

from asyncio import Semaphore
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from hashlib import blake2b

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from storefront.core.build_id import compute_build_id
from storefront.core.cooperative import TimeSlice
from storefront.core.db.database import DATABASE_ERRORS, Database, Row
from storefront.core.ids import parse_id
from storefront.product_feeds.formats import FeedFormat
from storefront.product_feeds.google import GoogleTsv, GoogleXml
from storefront.product_feeds.json_lines import ProductJsonLines
from storefront.queries import product_feeds
from storefront.serving.http.cors import ANY_ORIGIN_HEADERS
from storefront.serving.http.headers import is_not_modified
from storefront.serving.http.status_codes import build_error_headers
from storefront.serving.http.streams import iterate_nothing
from storefront.serving.protection.rate_limit import RateLimited, RateLimiter, RateLimitScope, get_caller_key, is_private

FEEDS_PATH = "/feeds"
FORMATS: Mapping[str, FeedFormat] = {
    "google.xml": GoogleXml(),
    "google.tsv": GoogleTsv(),
    "products.jsonl": ProductJsonLines(),
}
# Feeds that a process sends at a time, and to one address. A client may take its time to read one.
MAX_OPEN_FEEDS, MAX_OPEN_FEEDS_PER_CALLER = 50, 5
# Feeds of which a part is read and rendered at a time.
MAX_RENDERED_FEEDS = 2
# Characters that are sent together.
CHUNK_CHARACTERS = 65_536
# Seconds after which a client may try again.
RETRY_AFTER_SECONDS = "5"


class FeedInterruptedError(Exception):
    """The store was unpublished or deleted while its feed was sent. The response ends without its last chunk."""


class FeedEndpoint:
    """Serves product feeds. `choose_database`: the one that an anonymous request reads from."""

    def __init__(self, choose_database: Callable[[], Database], rate_limiter: RateLimiter, cache_control: str) -> None:
        self._choose_database, self._rate_limiter, self._cache_control = choose_database, rate_limiter, cache_control
        self._open_counts = Counter[str]()
        # Feeds that wait for their clients to read: they are no load.
        self.waiting_count = 0
        self._slots = Semaphore(MAX_RENDERED_FEEDS)

    def build_routes(self) -> list[BaseRoute]:
        """The routes, to mount at the root."""
        return [Route(f"{FEEDS_PATH}/{{config_id}}/{{name}}", self.serve)]

    async def serve(self, request: Request) -> Response:
        """Serve a feed: 200, 304, 404 if there is none, 429, or 503 if too many are sent or the database is not available."""
        caller = get_caller_key(request.client.host if request.client else None) or ""
        try:
            await self._rate_limiter.consume(RateLimitScope.ADDRESS, caller)
        except RateLimited as error:
            return _respond_with_text(429, str(error), build_error_headers(error))
        feed_format = FORMATS.get(request.path_params["name"])
        config_id = parse_id(request.path_params["config_id"])
        database = self._choose_database()
        try:
            store = await product_feeds.load_published_store(database, config_id) if config_id and feed_format else None
        except DATABASE_ERRORS:
            return _respond_with_text(503, "The feed is not available at the moment. Try again soon.", _RETRY_HEADERS)
        if store is None or feed_format is None:
            return _respond_with_text(404, f"There is no such feed. Feeds of published stores are {', '.join(FORMATS)}.")
        if feed_format.needs_product_urls and store.product_url_template is None:
            problem = "productUrlTemplate: this store has none, so that the feed could not link to its products."
            return _respond_with_text(404, f"{problem} Its owner sets it by updateConfig.")
        headers = {**ANY_ORIGIN_HEADERS, "etag": _build_etag(store, request.path_params["name"])}
        headers |= {"cache-control": self._cache_control, "cross-origin-resource-policy": "cross-origin"}
        if is_not_modified(request.headers, headers["etag"]):
            return Response(status_code=304, headers=headers)
        if request.method == "HEAD":
            return StreamingResponse(iterate_nothing(), headers={**headers, "content-type": feed_format.media_type})
        # All clients of a proxy that is not declared have its address.
        is_busy = caller and self._open_counts[caller] >= MAX_OPEN_FEEDS_PER_CALLER and not is_private(caller)
        if is_busy or self._open_counts.total() >= MAX_OPEN_FEEDS:
            return _respond_with_text(503, "Too many feeds are being sent. Try again in a while.", _RETRY_HEADERS)
        chunks = self._track_chunks(caller, _iterate_chunks(database, store, feed_format))
        return StreamingResponse(chunks, headers={**headers, "content-type": feed_format.media_type})

    async def _track_chunks(self, caller: str, chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """The chunks, each computed when the client has read those before."""
        self._open_counts[caller] += 1
        try:
            async with aclosing(chunks):
                while True:
                    async with self._slots:
                        chunk = await anext(chunks, None)
                    if chunk is None:
                        return
                    self.waiting_count += 1
                    try:
                        yield chunk
                    finally:
                        self.waiting_count -= 1
        finally:
            self._open_counts[caller] -= 1
            if not self._open_counts[caller]:
                del self._open_counts[caller]


async def _iterate_chunks(database: Database, store: Row, feed_format: FeedFormat) -> AsyncGenerator[bytes, None]:
    time_slice, parts, length = TimeSlice(), [feed_format.render_header(store)], 0
    async for page in product_feeds.iterate_pages(database, store.id):
        for product in page:
            for part in feed_format.render_product(store, product):
                parts.append(part)
                length += len(part)
                if length >= CHUNK_CHARACTERS:
                    yield "".join(parts).encode()
                    parts, length = [], 0
                await time_slice.yield_if_expired()
    # An unpublished store has no visible products: the feed would look complete.
    if await product_feeds.load_published_store(database, store.id) is None:
        raise FeedInterruptedError
    yield "".join([*parts, feed_format.render_footer()]).encode()


def _build_etag(store: Row, name: str) -> str:
    # Weak: a feed may have changes that are newer than its ETag. Another release may write another file.
    content = f"{store.id} {name} {store.position}".encode()
    return f'W/"{blake2b(content, digest_size=12, key=compute_build_id()).hexdigest()}"'


_RETRY_HEADERS = {"retry-after": RETRY_AFTER_SECONDS}


def _respond_with_text(status: int, text: str, headers: Mapping[str, str] = {}) -> Response:
    return PlainTextResponse(text, status, {**ANY_ORIGIN_HEADERS, "cache-control": "no-store", **headers})
