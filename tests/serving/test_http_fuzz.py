"""Fuzzing: generated HTTP/1.1 streams get at most one response per request, no 5xx, and no hang."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from storefront.serving.server import http_protocol, websocket_protocol
from tests.client import Client
from tests.conftest import serving
from tests.serving.raw_http import HANDSHAKE, LAST, exchange

SEED = 20_261_129
METHODS = [b"GET", b"POST", b"POST", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"CONNECT", b"TRACE", b"PATCH", b"get", b"M-SEARCH"]
TARGETS = [
    b"/graphql", b"/graphql", b"/graphql", b"/graphql?query=%7B__typename%7D", b"/healthz", b"/readyz", b"/nowhere", b"*",
    b"x:1", b"http://x/graphql", b"http://x", b"/events/01900000-0000-7000-8000-000000000001", b"/graphql/", b"/%67raphql",
    b"/\xff", b"//", b"/graphql?query=%7B__typename%7D&variables=%7B%22a%22%3A1e999%7D", b"/a b", b"/graphql#x", b"/%00",
]  # fmt: skip
VERSIONS = [b"HTTP/1.1"] * 12 + [b"HTTP/1.0", b"HTTP/2.0", b"HTTP/0.9", b"HTTP/1.2", b"http/1.1", b""]
HEADERS = [
    b"connection: upgrade", b"connection: Upgrade, HTTP2-Settings", b"connection: keep-alive", b"connection: close",
    b"connection: x", b"upgrade: h2c", b"upgrade: websocket", b"upgrade: websocket, h2c", b"upgrade: TLS/1.0",
    b"http2-settings: AAMAAABk", b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==", b"sec-websocket-key: x",
    b"sec-websocket-version: 13", b"sec-websocket-version: 8", b"sec-websocket-protocol: graphql-transport-ws",
    b"expect: 100-continue", b"expect: x", b"content-type: application/json", b"content-type: application/json",
    b"content-encoding: gzip", b"accept: text/event-stream", b"accept: */*", b"accept: text/html",
    b"accept: multipart/mixed;subscriptionSpec=1.0", b"authorization: ", b"authorization: Bearer x", b"cookie: a=b",
    b"if-none-match: *", b"origin: https://evil.example", b"host: y", b"te: trailers", b"x: \xff\xfe",
    b"x: " + b"x" * 3_000, b"range: bytes=0-1", b" folded", b"no colon", b"x : y", b": y", b"x:\0", b"x: a\rb", b"x: a\nb",
    b"transfer-encoding: gzip", b"content-length: 1",
]  # fmt: skip
FRAMINGS = [b"transfer-encoding: chunked", b"content-length: %d", b"Content-Length:%d", b"transfer-encoding: Chunked", b""]
# A body that would be a request, were it read as one.
SMUGGLED = b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-request-id: smuggled\r\n\r\n"
BODIES = [
    b"", b"{", b'{"query":"{ __typename }"}', b'{"query":"{ __typename }","variables":{"a":1e999}}', SMUGGLED, b"[]",
    b"\0\xff", b"[" * 2_000, b'[{"query":"{ __typename }"},{"query":"{ x }"}]', SMUGGLED.replace(b"GET", b"POST"),
    b"\r\n\r\n", b'{"query":"subscription { productFeed(configId: \\"x\\") { __typename } }"}', b"\x81\x85\0\0\0\0hello",
    b"0\r\n\r\n",
]  # fmt: skip
EXTENSIONS = [b"", b"", b";a", b";a=b", b';a="b\\"c"', b" ", b";\n", b"\t"]


def chunks(chance: random.Random, body: bytes) -> bytes:
    """The body in chunked coding, now and then wrong."""
    coded = b""
    while body:
        size = chance.randint(1, len(body))
        coded += b"%x%b\r\n%b\r\n" % (size, chance.choice(EXTENSIONS), body[:size])
        body = body[size:]
    return coded + chance.choice([b"0\r\n\r\n"] * 8 + [b"0\r\nx: y\r\n\r\n", b"0\r\n", b"-1\r\n\r\n", b"0\n\n"])


def request(chance: random.Random) -> bytes:
    """A request, or what looks like one."""
    if chance.random() < 0.1:
        return HANDSHAKE + chance.choice(
            [b"\r\n", b"content-length: 4\r\n\r\nabcd", b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"]
        )
    lines = [b"host: x"] if chance.random() < 0.95 else []
    lines += chance.sample(HEADERS[: -10 if chance.random() < 0.8 else None], chance.randint(0, 5))
    framing = chance.choice(FRAMINGS)
    # Without a length these would be requests indeed.
    body = chance.choice([body for body in BODIES if framing or SMUGGLED[4:] not in body])
    if framing:
        lines.append(framing % len(body) if b"%" in framing else framing)
    if b"hunked" in framing:
        body = chunks(chance, body)
    chance.shuffle(lines)
    first = b" ".join((chance.choice(METHODS), chance.choice(TARGETS), chance.choice(VERSIONS)))
    end = b"\r\n" if chance.random() < 0.98 else b"\n"
    return end.join((first, *lines, b"", b"")) + body


def damaged(chance: random.Random, data: bytes) -> bytes:
    """The bytes with one of them lost, doubled, or another."""
    at = chance.randrange(len(data))
    return data[:at] + chance.choice([b"", data[at : at + 1] * 2, bytes([chance.randrange(256)]), b"\r\n"]) + data[at + 1 :]


def parts(chance: random.Random, data: bytes) -> Iterator[bytes]:
    """The bytes in up to four writes."""
    cuts = sorted(chance.sample(range(len(data)), min(len(data), chance.choice([0, 0, 1, 1, 2, 3]))))
    for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        yield data[begin:end]


def stream(seed: int) -> tuple[int, bool, list[bytes]]:
    """How many requests there are at most, whether all are as they were made, and the bytes in which they are sent."""
    chance = random.Random(seed)
    requests = [request(chance) for _ in range(chance.choice([1, 1, 2, 3, 5]))]
    is_whole = chance.random() < 0.7
    if not is_whole:
        requests = [damaged(chance, one) for one in requests]
    # A length that was damaged may make a request of a body.
    most = sum(1 if is_whole else 1 + one.count(b"HTTP/1.1") for one in requests)
    return most + 1, is_whole, list(parts(chance, b"".join(requests) + LAST))


async def check(port: int, seed: int) -> None:
    """Send a stream; fails on what must not be answered, and where the connection stays open."""
    most, is_whole, sent = stream(seed)
    answers = await exchange(port, *sent)
    received = f"seed {seed}: {sent!r} was answered {answers!r}"
    assert len(answers) <= most, received
    assert all(answer.status < 500 for answer in answers), received
    assert not is_whole or all(answer.request_id != "smuggled" for answer in answers), received


async def run(port: int, seeds: range, at_once: int) -> None:
    """Check the streams of the seeds, so many at a time."""
    numbers = iter(seeds)

    async def worker() -> None:
        for seed in numbers:
            await check(port, seed)

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(worker())


def port_of(client: Client) -> int:
    port = client.http.base_url.port
    assert port is not None
    return port


@pytest_asyncio.fixture
async def impatient(empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Client]:
    """A shopper of a server that waits for nothing longer than a second."""
    monkeypatch.setattr(http_protocol, "HEADER_TIMEOUT_SECONDS", 0.5)
    options = {**websocket_protocol.UVICORN_OPTIONS, "timeout_keep_alive": 1}
    async with serving(empty_url, tmp_path, options, body_timeout=1.0, init_timeout=1.0) as client:
        yield client


async def test_generated_streams_are_answered_at_most_once(impatient: Client) -> None:
    await run(port_of(impatient), range(SEED, SEED + 400), 50)


@pytest.mark.soak
async def test_many_generated_streams_are_answered_at_most_once(impatient: Client) -> None:
    await run(port_of(impatient), range(12_000), 50)
