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

from storefront.core.memory import compact
from storefront.serving.http.graphql_request import GraphQLRequest
from storefront.serving.http.headers import join_lines, names_any
from storefront.serving.run.operations import answer

Touched = Mapping[str, int]

# An ETag names its scopes: up to so many it stays short.
MOST_NAMED = 16
# ETags that are looked at of all that a request shows.
MOST_SHOWN = 20
# What an entry takes besides its bytes.
OVERHEAD = 1_000

_TAG = re.compile(r'"([0-9a-f]{24})\.([^"]*)"')


class Logs(Protocol):
    """Whether logs stand where they were."""

    def stands(self, touched: Touched) -> bool | None:
        """Whether all do; None where that has to be asked."""

    async def confirmed(self, touched: Touched) -> bool:
        """The same, asked."""


class Public(Protocol):
    """The context of an operation that is executed for nobody in particular."""

    @property
    def touched(self) -> Touched | None:
        """The scopes that were read; None where the answer depends on something else, too."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Up to how many bytes of answers are kept (0: none), and how caches on the way are to treat them: `Cache-Control`.

    `secret` is what ETags are made with. All servers of one release have the same, those of another one a different one.
    """

    most: int
    control: str
    secret: bytes


@dataclass(frozen=True, slots=True)
class Told:
    """An answer to everybody, its headers, and what its validity hangs on: None where that is not known."""

    body: bytes
    headers: Mapping[str, str]
    touched: Touched | None

    @property
    def size(self) -> int:
        """About how many bytes it takes to keep it."""
        return len(self.body) + OVERHEAD

    def response(self, media_type: str, status: str) -> Response:
        """The answer, with a word on where it comes from (RFC 9211)."""
        headers = {**self.headers, "cache-status": f"storefront; {status}"}
        return Response(self.body, headers={**headers, "content-type": f"{media_type}; charset=utf-8"})


# What an execution came to: with errors it is for each asker to be told by themselves.
Outcome = Told | ExecutionResult


Run = Callable[[Any], Awaitable[ExecutionResult]]
Encode = Callable[[Any], bytes]


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, by somebody who does not say who they are. `shown`: the ETags of the answers that they have already."""

    responses: "Responses"
    key: bytes
    media_type: str
    shown: str | None

    async def known(self) -> Response | None:
        """The answer where it is known: nothing is parsed, looked up or executed for it."""
        return await self.responses.known(self)

    async def made(self, run: Run, encode: Encode = orjson.dumps) -> Response | ExecutionResult:
        """Execute a public query, together with all who ask the same at the same time; a result is one with errors."""
        told = await self.responses.outcome(self.key, run, encode)
        return self.answer(told, "fwd=miss") if isinstance(told, Told) else told

    def answer(self, told: Told, status: str) -> Response:
        """The answer, or that there is one where just that was the condition."""
        return (
            Response(status_code=304, headers=told.headers) if names_any(self.shown) else told.response(self.media_type, status)
        )


class Responses:
    """The public answers of this process, for those of whom `is_anonymous` says that they do not tell who they are."""

    def __init__(
        self, logs: Logs, make_context: Callable[[], Public], is_anonymous: Callable[[Request], bool], policy: Policy
    ) -> None:
        self._logs, self._make_context, self._is_anonymous, self._policy = logs, make_context, is_anonymous, policy
        self._kept: OrderedDict[bytes, Told] = OrderedDict()
        self._bytes = 0
        # What came of questions: hits, misses, and those who had the answer already.
        self.asked = {"hit": 0, "miss": 0, "unchanged": 0}
        self._running: dict[bytes, asyncio.Task[Outcome]] = {}
        self._waiting: Counter[asyncio.Task[Outcome]] = Counter()

    @property
    def count(self) -> int:
        """How many are kept."""
        return len(self._kept)

    @property
    def size(self) -> int:
        """How many bytes they take."""
        return self._bytes

    def question(self, request: Request, asked: GraphQLRequest, media_type: str) -> Question | None:
        """The question of a request; None where its answer is for the asker alone, or nothing is gained by keeping it."""
        is_post = request.method == "POST"
        if (is_post and not self._policy.most) or not self._is_anonymous(request):
            return None
        key = _key(asked, media_type)
        return (
            None
            if key is None
            else Question(self, key, media_type, None if is_post else join_lines(request.headers, "if-none-match"))
        )

    async def known(self, question: Question) -> Response | None:
        """An answer that is kept and still holds, or that there is none but the one that was shown."""
        if question.shown is not None and (tag := await self._standing(question)) is not None:
            self.asked["unchanged"] += 1
            return Response(status_code=304, headers=self._headers(tag))
        kept = self._kept.get(question.key)
        if kept is None or not await self._stands(kept.touched):
            return None
        if question.key in self._kept:
            self._kept.move_to_end(question.key)
        self.asked["hit"] += 1
        return question.answer(kept, "hit")

    async def outcome(self, key: bytes, run: Run, encode: Encode = orjson.dumps) -> Outcome:
        """What an execution comes to that was begun after this was asked, or would not come to anything else.

        Raises what `run` and `encode` raise.
        """
        self.asked["miss"] += 1
        running = self._running.get(key)
        if running is not None:
            # It may have read before something was written that this one has to show.
            with self._waits_for(key, running):
                told = await _result(running)
            if told is not None and await self._stands(told.touched):
                return told
        # Whatever runs by now was begun later.
        running = self._running.get(key) or self._begin(key, run, encode)
        with self._waits_for(key, running):
            return await asyncio.shield(running)

    @contextmanager
    def _waits_for(self, key: bytes, running: asyncio.Task[Outcome]) -> Iterator[None]:
        """Once nobody does so any more, there is nobody to be told."""
        self._waiting[running] += 1
        try:
            yield
        finally:
            self._waiting[running] -= 1
            if not self._waiting[running]:
                del self._waiting[running]
                self._forget(key, running)
                running.cancel()

    def _forget(self, key: bytes, running: asyncio.Task[Outcome] | None) -> None:
        if self._running.get(key) is running:
            del self._running[key]

    def _begin(self, key: bytes, run: Run, encode: Encode) -> asyncio.Task[Outcome]:
        running = self._running[key] = asyncio.create_task(self._execute(key, run, encode))
        running.add_done_callback(_heeded)
        return running

    async def _execute(self, key: bytes, run: Run, encode: Encode) -> Outcome:
        try:
            context = self._make_context()
            result = await run(context)
            if result.errors:
                return result
            # Without errors nothing in it is of one request.
            told = self._told(key, compact(encode(answer(result, ""))), context.touched)
            self._keep(key, told)
            return told
        finally:
            self._forget(key, asyncio.current_task())

    def _told(self, key: bytes, body: bytes, touched: Touched | None) -> Told:
        known = None if touched is None else dict(touched)
        return Told(body, self._headers(self._tag(key, known)), known)

    def _keep(self, key: bytes, told: Told) -> None:
        if told.touched is None or told.size > self._policy.most:
            return
        self._drop(key)
        self._kept[key] = told
        self._bytes += told.size
        while self._bytes > self._policy.most:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: bytes) -> None:
        kept = self._kept.pop(key, None)
        self._bytes -= kept.size if kept else 0

    # -------------------------------------------------------------------------------------------- validity

    async def _stands(self, touched: Touched | None) -> bool:
        if touched is None:
            return False
        stands = self._logs.stands(touched)
        return await self._logs.confirmed(touched) if stands is None else stands

    async def _standing(self, question: Question) -> str | None:
        """The ETag among those shown that still holds."""
        for mac, scopes in _TAG.findall(question.shown or "")[:MOST_SHOWN]:
            # Only what was given out: a guess would tell how far a log has come that is nobody's business.
            if compare_digest(mac, self._mac(question.key, scopes)) and await self._stands(_touched(scopes)):
                return f'W/"{mac}.{scopes}"'
        return None

    def _tag(self, key: bytes, touched: Touched | None) -> str | None:
        if touched is None or len(touched) > MOST_NAMED:
            return None
        scopes = ",".join(f"{scope}:{position}" for scope, position in sorted(touched.items()))
        return f'W/"{self._mac(key, scopes)}.{scopes}"'

    def _mac(self, key: bytes, scopes: str) -> str:
        return blake2b(key + scopes.encode(), digest_size=12, key=self._policy.secret).hexdigest()

    def _headers(self, tag: str | None) -> dict[str, str]:
        # Without an ETag there is nothing to ask again with, and for how long the answer holds is not known.
        if tag is None:
            return {"cache-control": "no-store"}
        return {"cache-control": self._policy.control, "etag": tag}


def _key(asked: GraphQLRequest, media_type: str) -> bytes | None:
    """What tells a question from all others, whatever it came as."""
    document = asked.text_hash or asked.document_id
    if asked.document_id not in (None, document):
        # Not what it says it is: that is told by whoever looks documents up.
        return None
    try:
        parts = document, asked.operation_name, asked.variables, asked.tells_cost, media_type
        whole = orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        # Nested deeper than can be written down.
        return None
    return blake2b(whole, digest_size=16).digest()


def _touched(scopes: str) -> dict[str, int]:
    parts = (part.rpartition(":") for part in scopes.split(",") if part)
    return {scope: int(position) for scope, _, position in parts}


async def _result(running: asyncio.Task[Outcome]) -> Told | None:
    await asyncio.wait([running])
    outcome = None if running.cancelled() or running.exception() else running.result()
    return outcome if isinstance(outcome, Told) else None


def _heeded(task: asyncio.Task[Outcome]) -> None:
    # Those who waited have been told; what nobody waits for any more may fail in silence.
    if not task.cancelled():
        task.exception()
