"""Answers that are the same to everybody, kept for as long as the logs stand that they depend on.

An execution tells which scopes it read, each with a position that its log had reached before. While no log has moved, the
answer is what another execution would give: it is sent again, or, to whoever shows its ETag, not even that. Nothing is known
here of what a scope is.
"""

import asyncio
import re
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from hmac import compare_digest
from typing import Any, Protocol

import orjson
from graphql import ExecutionResult
from starlette.requests import Request
from starlette.responses import Response

from storefront.core.memory import compact_bytes
from storefront.serving.http.graphql_request import GraphQLRequest
from storefront.serving.http.headers import is_any_entity_tag, join_header_lines
from storefront.serving.run.operations import format_result

CacheDependencies = Mapping[str, int]

# An ETag names its scopes: up to so many it stays short.
MAX_ETAG_SCOPES = 16
# ETags that are looked at of all that a request shows.
MAX_IF_NONE_MATCH_TAGS = 20
# What an entry takes besides its bytes.
ENTRY_OVERHEAD_BYTES = 1_000

_ETAG_PATTERN = re.compile(r'"([0-9a-f]{24})\.([^"]*)"')


class LogFreshness(Protocol):
    """Whether logs stand where they were."""

    def is_fresh(self, dependencies: CacheDependencies) -> bool | None:
        """Whether all do; None where that has to be asked."""

    async def revalidate(self, dependencies: CacheDependencies) -> bool:
        """The same, asked."""


class PublicContext(Protocol):
    """The context of an operation that is executed for nobody in particular."""

    @property
    def dependencies(self) -> CacheDependencies | None:
        """The scopes that were read; None where the answer depends on something else, too."""


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """Up to how many bytes of answers are kept (0: none), and how caches on the way are to treat them: `Cache-Control`.

    `secret` is what ETags are made with. All servers of one release have the same, those of another one a different one.
    """

    max_bytes: int
    cache_control: str
    secret: bytes


@dataclass(frozen=True, slots=True)
class CachedResponse:
    """An answer to everybody, its headers, and what its validity hangs on: None where that is not known."""

    body: bytes
    headers: Mapping[str, str]
    dependencies: CacheDependencies | None

    @property
    def size(self) -> int:
        """About how many bytes it takes to keep it."""
        return len(self.body) + ENTRY_OVERHEAD_BYTES

    def to_response(self, media_type: str, cache_status: str) -> Response:
        """The answer, with a word on where it comes from (RFC 9211)."""
        headers = {**self.headers, "cache-status": f"storefront; {cache_status}"}
        return Response(self.body, headers={**headers, "content-type": f"{media_type}; charset=utf-8"})


# What an execution came to: with errors it is for each asker to be told by themselves.
ComputedResult = CachedResponse | ExecutionResult


RunOperation = Callable[[Any], Awaitable[ExecutionResult]]
EncodeResponse = Callable[[Any], bytes]


@dataclass(frozen=True, slots=True)
class CacheLookup:
    """What is asked, by somebody who does not say who they are. `shown`: the ETags of the answers that they have already."""

    cache: "ResponseCache"
    key: bytes
    media_type: str
    if_none_match: str | None

    async def get(self) -> Response | None:
        """The answer where it is known: nothing is parsed, looked up or executed for it."""
        return await self.cache.get(self)

    async def compute(self, run: RunOperation, encode: EncodeResponse = orjson.dumps) -> Response | ExecutionResult:
        """Execute a public query, together with all who ask the same at the same time; a result is one with errors."""
        computed = await self.cache.compute(self.key, run, encode)
        return self.create_response(computed, "fwd=miss") if isinstance(computed, CachedResponse) else computed

    def create_response(self, cached: CachedResponse, cache_status: str) -> Response:
        """The answer, or that there is one where just that was the condition."""
        return (
            Response(status_code=304, headers=cached.headers)
            if is_any_entity_tag(self.if_none_match)
            else cached.to_response(self.media_type, cache_status)
        )


class ResponseCache:
    """The public answers of this process, for those of whom `is_anonymous` says that they do not tell who they are."""

    def __init__(
        self,
        logs: LogFreshness,
        make_context: Callable[[], PublicContext],
        is_anonymous: Callable[[Request], bool],
        policy: CachePolicy,
    ) -> None:
        self._logs, self._make_context, self._is_anonymous, self._policy = logs, make_context, is_anonymous, policy
        self._entries: OrderedDict[bytes, CachedResponse] = OrderedDict()
        self._bytes = 0
        # What came of questions: hits, misses, and those who had the answer already.
        self.lookup_counts = {"hit": 0, "miss": 0, "unchanged": 0}
        self._tasks: dict[bytes, asyncio.Task[ComputedResult]] = {}
        self._waiter_counts: Counter[asyncio.Task[ComputedResult]] = Counter()

    @property
    def count(self) -> int:
        """How many are kept."""
        return len(self._entries)

    @property
    def size(self) -> int:
        """How many bytes they take."""
        return self._bytes

    def create_lookup(self, request: Request, graphql_request: GraphQLRequest, media_type: str) -> CacheLookup | None:
        """The question of a request; None where its answer is for the asker alone, or nothing is gained by keeping it."""
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
        """An answer that is kept and still holds, or that there is none but the one that was shown."""
        if lookup.if_none_match is not None and (etag := await self._find_fresh_etag(lookup)) is not None:
            self.lookup_counts["unchanged"] += 1
            return Response(status_code=304, headers=self._create_headers(etag))
        cached = self._entries.get(lookup.key)
        if cached is None or not await self._is_fresh(cached.dependencies):
            return None
        if lookup.key in self._entries:
            self._entries.move_to_end(lookup.key)
        self.lookup_counts["hit"] += 1
        return lookup.create_response(cached, "hit")

    async def compute(self, key: bytes, run: RunOperation, encode: EncodeResponse = orjson.dumps) -> ComputedResult:
        """What an execution comes to that was begun after this was asked, or would not come to anything else.

        Raises what `run` and `encode` raise.
        """
        self.lookup_counts["miss"] += 1
        task = self._tasks.get(key)
        if task is not None:
            # It may have read before something was written that this one has to show.
            with self._waiting_for(key, task):
                cached = await _await_cached(task)
            if cached is not None and await self._is_fresh(cached.dependencies):
                return cached
        # Whatever runs by now was begun later.
        task = self._tasks.get(key) or self._start_task(key, run, encode)
        with self._waiting_for(key, task):
            return await asyncio.shield(task)

    @contextmanager
    def _waiting_for(self, key: bytes, task: asyncio.Task[ComputedResult]) -> Iterator[None]:
        """Once nobody does so any more, there is nobody to be told."""
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
        task.add_done_callback(_retrieve_exception)
        return task

    async def _execute(self, key: bytes, run: RunOperation, encode: EncodeResponse) -> ComputedResult:
        try:
            context = self._make_context()
            result = await run(context)
            if result.errors:
                return result
            # Without errors nothing in it is of one request.
            cached = self._create_entry(key, compact_bytes(encode(format_result(result, ""))), context.dependencies)
            self._store_entry(key, cached)
            return cached
        finally:
            self._forget_task(key, asyncio.current_task())

    def _create_entry(self, key: bytes, body: bytes, dependencies: CacheDependencies | None) -> CachedResponse:
        dependencies_copy = None if dependencies is None else dict(dependencies)
        return CachedResponse(body, self._create_headers(self._create_etag(key, dependencies_copy)), dependencies_copy)

    def _store_entry(self, key: bytes, entry: CachedResponse) -> None:
        if entry.dependencies is None or entry.size > self._policy.max_bytes:
            return
        self._drop_entry(key)
        self._entries[key] = entry
        self._bytes += entry.size
        while self._bytes > self._policy.max_bytes:
            self._drop_entry(next(iter(self._entries)))

    def _drop_entry(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        self._bytes -= entry.size if entry else 0

    # -------------------------------------------------------------------------------------------- validity

    async def _is_fresh(self, dependencies: CacheDependencies | None) -> bool:
        if dependencies is None:
            return False
        is_fresh = self._logs.is_fresh(dependencies)
        return await self._logs.revalidate(dependencies) if is_fresh is None else is_fresh

    async def _find_fresh_etag(self, lookup: CacheLookup) -> str | None:
        """The ETag among those shown that still holds."""
        for mac, scopes in _ETAG_PATTERN.findall(lookup.if_none_match or "")[:MAX_IF_NONE_MATCH_TAGS]:
            # Only what was given out: a guess would tell how far a log has come that is nobody's business.
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
        # Without an ETag there is nothing to ask again with, and for how long the answer holds is not known.
        if etag is None:
            return {"cache-control": "no-store"}
        return {"cache-control": self._policy.cache_control, "etag": etag}


def _get_cache_key(graphql_request: GraphQLRequest, media_type: str) -> bytes | None:
    """What tells a question from all others, whatever it came as."""
    document_id = graphql_request.text_hash or graphql_request.document_id
    if graphql_request.document_id not in (None, document_id):
        # Not what it says it is: that is told by whoever looks documents up.
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
        # Nested deeper than can be written down.
        return None
    return blake2b(encoded, digest_size=16).digest()


def _parse_dependencies(scopes: str) -> dict[str, int]:
    pairs = (pair.rpartition(":") for pair in scopes.split(",") if pair)
    return {scope: int(position) for scope, _, position in pairs}


async def _await_cached(task: asyncio.Task[ComputedResult]) -> CachedResponse | None:
    await asyncio.wait([task])
    result = None if task.cancelled() or task.exception() else task.result()
    return result if isinstance(result, CachedResponse) else None


def _retrieve_exception(task: asyncio.Task[ComputedResult]) -> None:
    # Those who waited have been told; what nobody waits for any more may fail in silence.
    if not task.cancelled():
        task.exception()
