"""Response cache for public queries, validated by the positions of the logs that a response depends on.

An execution records the scopes that it read, each with a position that the scope's log had reached before. While no log has
grown, another execution would return the same response: it is sent from the cache, or as 304 to a client that sends its ETag.
What a scope is does not matter here.
"""

import asyncio
import re
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from hmac import compare_digest
from typing import Any, Protocol

import orjson
from cachetools import Cache, LRUCache
from graphql import ExecutionResult
from starlette.requests import Request
from starlette.responses import Response

from storefront.core.memory import compact_bytes
from storefront.core.tasks import retrieve_exception, share
from storefront.serving.http.graphql_request import GraphQLRequest
from storefront.serving.http.headers import is_any_entity_tag, join_header_lines
from storefront.serving.run.results import format_result

CacheDependencies = Mapping[str, int]

# An ETag contains its scopes. A response with more of them gets no ETag, as it would be too long.
MAX_ETAG_SCOPES = 16
# The number of ETags in If-None-Match that are checked.
MAX_IF_NONE_MATCH_TAGS = 20
# What a cache entry takes besides its body.
ENTRY_OVERHEAD_BYTES = 1_000

_ETAG_PATTERN = re.compile(r'"([0-9a-f]{24})\.([^"]*)"')


class LogFreshness(Protocol):
    """Compares the positions of logs with those that a response was computed at."""

    def is_fresh(self, dependencies: CacheDependencies) -> bool | None:
        """Whether no log has grown, as far as this process knows; None if it has to query the database."""

    async def revalidate(self, dependencies: CacheDependencies) -> bool:
        """Whether no log has grown, according to the database."""


class PublicContext(Protocol):
    """The context of an operation that is executed for an anonymous viewer."""

    @property
    def dependencies(self) -> CacheDependencies | None:
        """The scopes that were read, with positions; None if the response depends on something else as well."""


# Entries that are examined for staleness whenever one is stored: more than one, so that they never pile up.
EXAMINED_PER_STORED_ENTRY = 3


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """The size of the cache in bytes (0: off), and the `Cache-Control` of its responses for browsers and CDNs.

    `secret` is the key of the ETags' MAC. It is the same on all servers of a release and differs between releases.
    """

    max_bytes: int
    cache_control: str
    secret: bytes


@dataclass(frozen=True, slots=True)
class CachedResponse:
    """A public response, its headers, and its dependencies: None if they are unknown, and it cannot be cached."""

    body: bytes
    headers: Mapping[str, str]
    dependencies: CacheDependencies | None

    @property
    def size(self) -> int:
        """About how many bytes the entry takes."""
        return len(self.body) + ENTRY_OVERHEAD_BYTES

    def to_response(self, media_type: str, cache_status: str) -> Response:
        """The HTTP response, with a Cache-Status header (RFC 9211)."""
        headers = {**self.headers, "cache-status": f"storefront; {cache_status}"}
        return Response(self.body, headers={**headers, "content-type": f"{media_type}; charset=utf-8"})


# The outcome of an execution. A result with errors is formatted for each request, as it contains the request id.
ComputedResult = CachedResponse | ExecutionResult

RunOperation = Callable[[Any], Awaitable[ExecutionResult]]
EncodeResponse = Callable[[Any], bytes]


@dataclass(frozen=True, slots=True)
class CacheLookup:
    """A query of an anonymous client: its cache key, and the ETags of the responses that the client has (`if_none_match`)."""

    cache: "ResponseCache"
    key: bytes
    media_type: str
    if_none_match: str | None

    async def get(self) -> Response | None:
        """The response from the cache, or 304; None on a miss. Parses and executes nothing."""
        return await self.cache.get(self)

    async def compute(self, run: RunOperation, encode: EncodeResponse = orjson.dumps) -> Response | ExecutionResult:
        """Execute a public query, once for all concurrent requests with the same key. Returns a result if it has errors."""
        computed = await self.cache.compute(self.key, run, encode)
        return self.create_response(computed, "fwd=miss") if isinstance(computed, CachedResponse) else computed

    def create_response(self, cached: CachedResponse, cache_status: str) -> Response:
        """The HTTP response; 304 for `If-None-Match: *`."""
        return (
            Response(status_code=304, headers=cached.headers)
            if is_any_entity_tag(self.if_none_match)
            else cached.to_response(self.media_type, cache_status)
        )


class ResponseCache:
    """The cached public responses of this process (an LRU cache), for requests without credentials (`is_anonymous`)."""

    def __init__(
        self,
        logs: LogFreshness,
        make_context: Callable[[], PublicContext],
        is_anonymous: Callable[[Request], bool],
        policy: CachePolicy,
    ) -> None:
        self._logs, self._make_context, self._is_anonymous, self._policy = logs, make_context, is_anonymous, policy
        self._entries: LRUCache[bytes, CachedResponse] = LRUCache(policy.max_bytes, getsizeof=lambda entry: entry.size)
        # The entries in the order in which they are examined for staleness.
        self._unexamined: deque[tuple[bytes, CacheDependencies]] = deque()
        # Lookups by outcome; "unchanged" are those answered with 304.
        self.lookup_counts = {"hit": 0, "miss": 0, "unchanged": 0}
        self._tasks: dict[bytes, asyncio.Task[ComputedResult]] = {}
        self._waiter_counts: Counter[asyncio.Task[ComputedResult]] = Counter()

    @property
    def count(self) -> int:
        """The number of cached responses."""
        return len(self._entries)

    @property
    def size(self) -> int:
        """The size of the cached responses in bytes."""
        return int(self._entries.currsize)

    def create_lookup(self, request: Request, graphql_request: GraphQLRequest, media_type: str) -> CacheLookup | None:
        """The cache lookup of a request; None if it has credentials, or cannot or need not be cached."""
        is_post = request.method == "POST"
        if (is_post and not self._policy.max_bytes) or not self._is_anonymous(request):
            return None
        key = _get_cache_key(graphql_request, media_type)
        return (
            None
            if key is None
            else CacheLookup(self, key, media_type, None if is_post else join_header_lines(request.headers, "if-none-match"))
        )

    async def get(self, lookup: CacheLookup) -> Response | None:
        """A fresh response from the cache, or 304 if an ETag of the request is fresh; None on a miss."""
        if lookup.if_none_match is not None and (etag := await self._find_fresh_etag(lookup)) is not None:
            self.lookup_counts["unchanged"] += 1
            return Response(status_code=304, headers=self._create_headers(etag))
        cached = self._entries.get(lookup.key)
        if cached is None or not await self._is_fresh(cached.dependencies):
            return None
        self.lookup_counts["hit"] += 1
        return lookup.create_response(cached, "hit")

    async def compute(self, key: bytes, run: RunOperation, encode: EncodeResponse = orjson.dumps) -> ComputedResult:
        """The outcome of an execution that started after this call, or of one whose dependencies are still fresh. Single-flight.

        Raises what `run` and `encode` raise.
        """
        self.lookup_counts["miss"] += 1
        task = self._tasks.get(key)
        if task is not None:
            # It may have read before a write that this caller must see, so its result is validated.
            with self._waiting_for(key, task):
                cached = await _await_cached(task)
            if cached is not None and await self._is_fresh(cached.dependencies):
                return cached
        # An execution that runs by now was started after this call.
        task = self._tasks.get(key) or self._start_task(key, run, encode)
        with self._waiting_for(key, task):
            return await share(task)

    @contextmanager
    def _waiting_for(self, key: bytes, task: asyncio.Task[ComputedResult]) -> Iterator[None]:
        """Count a waiter of a shared execution, which is cancelled when its last waiter leaves."""
        self._waiter_counts[task] += 1
        try:
            yield
        finally:
            self._waiter_counts[task] -= 1
            if not self._waiter_counts[task]:
                del self._waiter_counts[task]
                self._forget_task(key, task)
                task.cancel()

    def _forget_task(self, key: bytes, task: asyncio.Task[ComputedResult] | None) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]

    def _start_task(self, key: bytes, run: RunOperation, encode: EncodeResponse) -> asyncio.Task[ComputedResult]:
        task = self._tasks[key] = asyncio.create_task(self._execute(key, run, encode))
        task.add_done_callback(retrieve_exception)
        return task

    async def _execute(self, key: bytes, run: RunOperation, encode: EncodeResponse) -> ComputedResult:
        try:
            context = self._make_context()
            result = await run(context)
            if result.errors:
                return result
            # Only errors contain the request id.
            cached = self._create_entry(key, compact_bytes(encode(format_result(result, ""))), context.dependencies)
            self._store_entry(key, cached)
            return cached
        finally:
            self._forget_task(key, asyncio.current_task())

    def _create_entry(self, key: bytes, body: bytes, dependencies: CacheDependencies | None) -> CachedResponse:
        dependencies_copy = None if dependencies is None else dict(dependencies)
        return CachedResponse(body, self._create_headers(self._create_etag(key, dependencies_copy)), dependencies_copy)

    def _store_entry(self, key: bytes, entry: CachedResponse) -> None:
        if entry.dependencies is not None and entry.size <= self._policy.max_bytes:
            self._entries[key] = entry
            self._unexamined.append((key, entry.dependencies))
            self._evict_stale()

    def _evict_stale(self) -> None:
        """Examine the next few entries. Stale ones are never returned again, but would stay until the cache is full."""
        for _ in range(min(EXAMINED_PER_STORED_ENTRY, len(self._unexamined))):
            key, dependencies = self._unexamined.popleft()
            # Read past the LRU order: to be examined is not to be used.
            if key not in self._entries or Cache.__getitem__(self._entries, key).dependencies is not dependencies:
                continue
            if self._logs.is_fresh(dependencies) is False:
                del self._entries[key]
            else:
                self._unexamined.append((key, dependencies))

    # -------------------------------------------------------------------------------------------- validity

    async def _is_fresh(self, dependencies: CacheDependencies | None) -> bool:
        if dependencies is None:
            return False
        is_fresh = self._logs.is_fresh(dependencies)
        return await self._logs.revalidate(dependencies) if is_fresh is None else is_fresh

    async def _find_fresh_etag(self, lookup: CacheLookup) -> str | None:
        """The first ETag of the request that is genuine and fresh."""
        for mac, scopes in _ETAG_PATTERN.findall(lookup.if_none_match or "")[:MAX_IF_NONE_MATCH_TAGS]:
            # Checks the MAC first: guessed ETags would disclose the positions of logs.
            if compare_digest(mac, self._sign_scopes(lookup.key, scopes)) and await self._is_fresh(_parse_dependencies(scopes)):
                return f'W/"{mac}.{scopes}"'
        return None

    def _create_etag(self, key: bytes, dependencies: CacheDependencies | None) -> str | None:
        if dependencies is None or len(dependencies) > MAX_ETAG_SCOPES:
            return None
        scopes = ",".join(f"{scope}:{position}" for scope, position in sorted(dependencies.items()))
        return f'W/"{self._sign_scopes(key, scopes)}.{scopes}"'

    def _sign_scopes(self, key: bytes, scopes: str) -> str:
        return blake2b(key + scopes.encode(), digest_size=12, key=self._policy.secret).hexdigest()

    def _create_headers(self, etag: str | None) -> dict[str, str]:
        # Without an ETag a client cannot revalidate the response, and how long it stays fresh is unknown.
        if etag is None:
            return {"cache-control": "no-store"}
        return {"cache-control": self._policy.cache_control, "etag": etag}


def _get_cache_key(graphql_request: GraphQLRequest, media_type: str) -> bytes | None:
    """The cache key of a request, the same for GET and POST; None if it has none."""
    document_id = graphql_request.text_hash or graphql_request.document_id
    if graphql_request.document_id not in (None, document_id):
        # The id is not the hash of the query: the document store rejects or resolves it.
        return None
    try:
        key_fields = (
            document_id,
            graphql_request.operation_name,
            graphql_request.variables,
            graphql_request.reports_cost,
            media_type,
        )
        encoded = orjson.dumps(key_fields, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        # Variables that orjson cannot encode, such as ones nested too deeply.
        return None
    return blake2b(encoded, digest_size=16).digest()


def _parse_dependencies(scopes: str) -> dict[str, int]:
    pairs = (pair.rpartition(":") for pair in scopes.split(",") if pair)
    return {scope: int(position) for scope, _, position in pairs}


async def _await_cached(task: asyncio.Task[ComputedResult]) -> CachedResponse | None:
    await asyncio.wait([task])
    result = None if task.cancelled() or task.exception() else task.result()
    return result if isinstance(result, CachedResponse) else None
