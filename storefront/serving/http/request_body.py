"""Reads request bodies with limits on size, time (slow bodies) and number of JSON values."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect, Request

from storefront.core.cooperative import MAX_INLINE_STEPS, run_in_thread_if_long
from storefront.core.errors import LimitExceeded, RequestError, Unavailable
from storefront.serving.http import lone_surrogates
from storefront.serving.http.headers import join_header_lines
from storefront.serving.run.cancellation import ClientDisconnectedError


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """Limits of a body: bytes, seconds until it is complete, and values in its JSON.

    A value of a megabyte fits, so that it is rejected by the limit of its own input and not as a body. The largest product fits
    for viewers who have signed in.
    """

    max_bytes: int = 1_500_000
    timeout_seconds: float = 10.0
    max_values: int = 20_000
    max_signed_in_bytes: int = 4_000_000
    max_signed_in_values: int = 120_000


DEFAULT_BODY_LIMITS = BodyLimits()
# Bytes of a body that do not count: connections have buffers of this size anyway.
_UNCOUNTED_BYTES = 65_536
_TOO_MANY_BODIES = "This server is receiving too many large requests. Try again soon."


@dataclass(slots=True, eq=False)
class _Body:
    """A body that is being received or parsed. `timeout`: while it is being received."""

    size: int = 0
    timeout: asyncio.Timeout | None = None
    is_evicted: bool = False

    @property
    def is_arriving(self) -> bool:
        """Whether the body is incomplete, and has time left."""
        return self.timeout is not None and not self.timeout.expired()

    def evict(self) -> None:
        """Give up receiving the body."""
        self.is_evicted = True
        if self.timeout is not None:
            self.timeout.reschedule(asyncio.get_running_loop().time())


class BodyBudget:
    """The bytes of all request bodies that a process has in memory until they are parsed.

    Beyond the maximum the body that has been arriving for longest is given up: a client that sends what it has takes
    milliseconds. Many that never end would fill the memory otherwise.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._used_bytes = max_bytes, 0
        # In the order in which they began.
        self._bodies: dict[_Body, None] = {}

    @contextmanager
    def track(self) -> Iterator[_Body]:
        """Track a body until it is parsed."""
        body = _Body()
        try:
            yield body
        finally:
            self._remove(body)

    def resize(self, body: _Body, size: int) -> None:
        """Count a body at its new size. Raises Unavailable if it was given up, or if no other one can be given up for it."""
        if body.is_evicted:
            # Another chunk arrived before its timeout.
            raise Unavailable(_TOO_MANY_BODIES)
        if size <= _UNCOUNTED_BYTES:
            return
        self._bodies[body] = None
        self._used_bytes += size - body.size
        body.size = size
        while self._used_bytes > self._max_bytes:
            oldest = next((other for other in self._bodies if other is not body and other.is_arriving), None)
            if oldest is None:
                raise Unavailable(_TOO_MANY_BODIES)
            self._remove(oldest)
            oldest.evict()

    def _remove(self, body: _Body) -> None:
        if body in self._bodies:
            del self._bodies[body]
            self._used_bytes -= body.size


# Whether the viewer of a request has signed in. Raises Unauthenticated for invalid credentials.
IsSignedIn = Callable[[], Awaitable[bool]]


class HTTPError(RequestError):
    """Raised for a request that HTTP itself rejects, with its status and response headers."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


async def read_body(
    request: Request, limits: BodyLimits, budget: BodyBudget, tracked: _Body, is_signed_in: IsSignedIn | None = None
) -> bytes:
    """Read the body. Raises HTTPError if it is too large, encoded or too slow, Unavailable, and ClientDisconnectedError.

    `is_signed_in` is called for a body that is too large otherwise.
    """
    check_content_coding(request)
    body, max_bytes = bytearray(), limits.max_bytes
    try:
        async with asyncio.timeout(limits.timeout_seconds) as tracked.timeout:
            async for chunk in request.stream():
                body += chunk
                budget.resize(tracked, len(body))
                if len(body) > max_bytes and max_bytes < limits.max_signed_in_bytes and is_signed_in and await is_signed_in():
                    max_bytes = limits.max_signed_in_bytes
                if len(body) > max_bytes:
                    raise HTTPError(413, f"The body must have at most {max_bytes:,} bytes.")
    except ClientDisconnect:
        raise ClientDisconnectedError from None
    except TimeoutError:
        if tracked.is_evicted:
            raise Unavailable(_TOO_MANY_BODIES) from None
        raise HTTPError(408, f"The body must come within {limits.timeout_seconds:g} s.", connection="close") from None
    finally:
        tracked.timeout = None
    return bytes(body)


def check_content_coding(request: Request) -> None:
    """Raise HTTPError 415 for a body with a content coding, such as gzip: none is supported."""
    codings = (join_header_lines(request.headers, "content-encoding") or "").lower().split(",")
    if unsupported := [coding.strip() for coding in codings if coding.strip() not in ("", "identity")]:
        message = f"Send the body as it is, without content-encoding: {unsupported[0][:40]} is not read here."
        raise HTTPError(415, message, accept_encoding="identity")


async def parse_body(text: bytes, limits: BodyLimits, is_signed_in: IsSignedIn) -> tuple[Any, bool]:
    """Like `parse_lenient_json`, with more values for viewers who have signed in. Many values are parsed in a thread."""
    marks = _count_structure(text)
    steps = marks // _VALUES_PER_STEP
    if marks >= limits.max_values:
        value_count = await run_in_thread_if_long(steps, count_values, text, limits.max_signed_in_values)
        if value_count > limits.max_values and (value_count > limits.max_signed_in_values or not await is_signed_in()):
            raise _create_value_limit_error("The body", limits.max_values)
    load = lone_surrogates.loads_cooperatively if steps > MAX_INLINE_STEPS else lone_surrogates.loads
    try:
        return await run_in_thread_if_long(steps, load, text)
    except ValueError:
        raise HTTPError(400, "The body is not JSON.") from None


def parse_lenient_json(text: bytes | str, label: str, max_values: int = DEFAULT_BODY_LIMITS.max_values) -> tuple[Any, bool]:
    """Parse JSON. Returns the value, and whether it may have lone surrogates or numbers that are too large.

    Raises HTTPError if it is not JSON, and LimitExceeded if it has too many values. `label` names it in messages.
    """
    check_value_count(text, label, max_values)
    try:
        return lone_surrogates.loads(text)
    except ValueError:
        raise HTTPError(400, f"{label} is not JSON.") from None


# How many values are counted or parsed in a step of work.
_VALUES_PER_STEP = 400
# Bytes that are counted at a time: other threads run in between.
_CHUNK_BYTES = 131_072
# What values begin with, or follow: all values of JSON but the first one.
_STRUCTURE = b",[{"
_NO_STRUCTURE = bytes(set(range(256)) - set(_STRUCTURE) - {ord('"')})


def check_value_count(text: bytes | str, label: str, max_values: int) -> None:
    """Count the values, lists and objects included, before parsing. Raises LimitExceeded."""
    encoded = text if isinstance(text, bytes) else text.encode(errors="replace")
    # What is in strings is left out only if there is much in total.
    if _count_structure(encoded) >= max_values and count_values(encoded, max_values) > max_values:
        raise _create_value_limit_error(label, max_values)


def _count_structure(text: bytes) -> int:
    return sum(text.count(character) for character in _STRUCTURE)


def count_values(text: bytes, maximum: int) -> int:
    """The number of values in JSON, or a number above the maximum if there are more."""
    count, start, is_in_string = 1, 0, False
    while start < len(text) and count <= maximum:
        chunk = text[start : start + _CHUNK_BYTES]
        if (len(chunk) - len(chunk.rstrip(b"\\"))) % 2:
            # The last escape is cut.
            chunk = text[start : start + _CHUNK_BYTES + 1]
        start += len(chunk)
        unescaped = chunk.replace(rb"\\", b"").replace(rb"\"", b"")
        # Without pairs of quotes next to each other, what is in strings stays in strings.
        parts = unescaped.translate(None, _NO_STRUCTURE).replace(b'""', b"").split(b'"')
        count += sum(map(len, parts[is_in_string::2]))
        is_in_string ^= len(parts) % 2 == 0
    return count


def _create_value_limit_error(label: str, max_values: int) -> LimitExceeded:
    return LimitExceeded("values", max_values, None, f"{label} is too full", "values")
