"""HTTP message framing: a body never decides where the next request begins (request smuggling)."""

import asyncio
import json
from collections.abc import Callable

import pytest

from tests.client import Client
from tests.serving.raw_http import HANDSHAKE, LAST, exchange

# A body that would be a request, were it read as one.
SMUGGLED = b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-request-id: smuggled\r\n\r\n"
UPGRADE = b"connection: upgrade\r\nupgrade: h2c\r\n"
POST = b"POST /graphql HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nx-request-id: first\r\n"


def sized(body: bytes) -> bytes:
    return b"content-length: %d\r\n\r\n" % len(body) + body


def chunked(body: bytes) -> bytes:
    return b"transfer-encoding: chunked\r\n\r\n%x;a=b\r\n%b\r\n0\r\nx-request-id: trailer\r\n\r\n" % (len(body), body)


def port_of(client: Client) -> int:
    port = client.http.base_url.port
    assert port is not None
    return port


HEADS = {
    "h2c": POST + UPGRADE,
    "curl": POST + b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n",
    "websocket": POST + b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    "both": POST + b"connection: upgrade\r\nupgrade: websocket, h2c\r\n",
    "two lines": POST + b"connection: keep-alive\r\nconnection: UPGRADE\r\nupgrade: TLS/1.0\r\nupgrade: websocket\r\n",
    "get": b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-request-id: first\r\n" + UPGRADE,
    "get elsewhere": HANDSHAKE.replace(b"/graphql", b"/healthz") + b"x-request-id: first\r\n",
    "put": POST.replace(b"POST /graphql", b"PUT /nowhere") + UPGRADE,
    "beacon": POST.replace(b"/graphql", b"/events/01900000-0000-7000-8000-000000000001") + UPGRADE,
    "no upgrade": POST,
}


@pytest.mark.parametrize("framed", [sized, chunked])
@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
async def test_upgrade_body_is_never_a_request(shopper: Client, head: bytes, framed: Callable[[bytes], bytes]) -> None:
    request = head + framed(SMUGGLED)
    begins = len(request) - len(framed(SMUGGLED))
    splits = [(request[:at], request[at:] + LAST) for at in range(begins, len(request))]
    whole = [(request + LAST,), (request, LAST)]
    exchanges = await asyncio.gather(*(exchange(port_of(shopper), *parts) for parts in [*whole, *splits]))
    assert [[answer.request_id for answer in answers] for answers in exchanges] == [["first", "last"]] * len(exchanges)
    assert {answers[0].status for answers in exchanges} <= {200, 400, 404}


@pytest.mark.parametrize("framed", [sized, chunked])
async def test_upgrade_request_is_answered_with_its_body(shopper: Client, framed: Callable[[bytes], bytes]) -> None:
    request = POST + UPGRADE + framed(b'{"query":"{ __typename }"}')
    for parts in ([request * 2 + LAST], [request[:-9], request[-9:] + request[:90], request[90:] + LAST]):
        first, second, _ = await exchange(port_of(shopper), *parts)
        assert [json.loads(answer.body) for answer in (first, second)] == [{"data": {"__typename": "Query"}}] * 2


async def test_websocket_handshake_after_pending_request_is_ignored(shopper: Client) -> None:
    answers = await exchange(port_of(shopper), POST + sized(b'{"query":"{ __typename }"}') + HANDSHAKE + b"\r\n" + LAST)
    assert [answer.status for answer in answers] == [200, 400, 200]


@pytest.mark.parametrize(
    "upgrade",
    [b"websocket", b"WebSocket", b"websocket, h2c", b"h2c\r\nupgrade: websocket", b"websocket\r\ncontent-length: 0"],
)
async def test_websocket_handshake_on_its_route_upgrades(shopper: Client, upgrade: bytes) -> None:
    [answer] = await exchange(port_of(shopper), HANDSHAKE.replace(b"websocket\r\n", upgrade + b"\r\n", 1) + b"\r\n")
    assert answer.status == 101


@pytest.mark.parametrize(
    "fault",
    [
        HANDSHAKE + b"content-length: 4\r\n\r\n",
        HANDSHAKE + sized(b"abcd"),
        HANDSHAKE + chunked(b"abcd"),
        HANDSHAKE + b"transfer-encoding: chunked\r\n\r\n",
        HANDSHAKE + b"\r\n" + SMUGGLED,
        HANDSHAKE + b"sec-websocket-key: AQIDBAUGBwgJCgsMDQ4PEC==\r\n\r\n",
        HANDSHAKE.replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"dGhlIHNhbXBsZQ==") + b"\r\n",
        HANDSHAKE.replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"?") + b"\r\n",
        HANDSHAKE.replace(b"sec-websocket-key", b"x-key") + b"\r\n",
        HANDSHAKE.replace(b"version: 13", b"version: 8") + b"\r\n",
        HANDSHAKE.replace(b"sec-websocket-version", b"x-version") + b"\r\n",
        HANDSHAKE + b"x-long: " + b"x" * 9_000 + b"\r\n\r\n",
        HANDSHAKE + b"x-many: x\r\n" * 300 + b"\r\n",
    ],
    ids=lambda value: value.removeprefix(HANDSHAKE)[-40:].decode(),
)
async def test_websocket_handshake_malformed_is_refused_and_closed(shopper: Client, fault: bytes) -> None:
    [answer] = await exchange(port_of(shopper), fault)
    assert answer.status == 400 and b"\r\nconnection: close\r\n" in answer.head


@pytest.mark.parametrize(
    "request_",
    [
        POST + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
        POST + b"transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n" + SMUGGLED,
        POST + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
        POST + b"transfer-encoding: identity\r\n\r\n" + SMUGGLED,
        POST + b"transfer-encoding: xchunked\r\n\r\n" + SMUGGLED,
        POST + b"transfer-encoding:\r\n\r\n" + SMUGGLED,
        POST.replace(b"HTTP/1.1", b"HTTP/1.0") + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
        POST + b"content-length: 3\r\ncontent-length: 4\r\n\r\n" + SMUGGLED,
        POST + b"content-length: 3, 3\r\n\r\n" + SMUGGLED,
        POST + b"content-length: +3\r\n\r\n" + SMUGGLED,
        POST + b"content-length: 3 4\r\n\r\n" + SMUGGLED,
        POST + b"content-length : 3\r\n\r\n" + SMUGGLED,
        POST + b"content-length:\r\n\r\n" + SMUGGLED,
        POST + b"content-length: 99999999999999999999999\r\n\r\n" + SMUGGLED,
        POST + b"x-folded: a\r\n content-length: 3\r\n\r\n" + SMUGGLED,
        POST.replace(b"\r\n", b"\n") + b"\n" + SMUGGLED,
        POST + b"x-bare: a\ncontent-length: 3\r\n\r\n" + SMUGGLED,
        POST + b"x-bare: a\rcontent-length: 3\r\n\r\n" + SMUGGLED,
        POST + b"x-nul: a\0\r\n\r\n" + SMUGGLED,
        POST + b"no colon\r\n\r\n" + SMUGGLED,
        POST + b": no name\r\n\r\n" + SMUGGLED,
        POST + b"host: y\r\n\r\n" + SMUGGLED,
        POST.replace(b"host: x\r\n", b"") + b"\r\n" + SMUGGLED,
        POST.replace(b"host: x", b"host: x/y") + b"\r\n" + SMUGGLED,
        POST.replace(b"host: x", b"host: u@x") + b"\r\n" + SMUGGLED,
        POST.replace(b"POST", b"FETCH") + b"\r\n" + SMUGGLED,
        POST.replace(b"POST /graphql HTTP/1.1", b"PRI * HTTP/2.0") + b"\r\nSM\r\n\r\n" + SMUGGLED,
        b"GET /graphql\r\n" + SMUGGLED,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + SMUGGLED,
    ],
    ids=lambda value: value.removeprefix(POST).removesuffix(SMUGGLED)[:40].decode("latin-1"),
)
async def test_malformed_head_is_answered_400_and_closed(shopper: Client, request_: bytes) -> None:
    for parts in ([request_ + LAST], [request_[:-8], request_[-8:] + LAST]):
        [answer] = await exchange(port_of(shopper), *parts)
        assert answer.status == 400 and b"\r\nconnection: close\r\n" in answer.head


@pytest.mark.parametrize("target", [b"x:443", b"/graphql"])
async def test_connect_is_refused_and_closed(shopper: Client, target: bytes) -> None:
    [answer] = await exchange(port_of(shopper), b"CONNECT " + target + b" HTTP/1.1\r\nhost: x\r\n" + sized(SMUGGLED) + LAST)
    assert answer.status in (400, 405) and b"\r\nconnection: close\r\n" in answer.head


@pytest.mark.parametrize(
    "body",
    [
        b"3\r\nabc\nGET / HTTP/1.1\r\nhost: x\r\n\r\n",
        b"3 \r\nabc\r\n0\r\n\r\n",
        b"0x3\r\nabc\r\n0\r\n\r\n",
        b"-1\r\nabc\r\n0\r\n\r\n",
        b"fffffffffffffffff\r\nabc",
        b"3;a=b\nabc\r\n0\r\n\r\n",
        b"3\r\nabcd\r\n0\r\n\r\n",
        b"\r\n" + SMUGGLED,
    ],
    ids=lambda value: value[:20].decode(),
)
async def test_malformed_chunk_is_answered_400_and_closed(shopper: Client, body: bytes) -> None:
    [answer] = await exchange(port_of(shopper), POST + b"transfer-encoding: chunked\r\n\r\n", body + LAST)
    assert answer.status == 400 and b"\r\nconnection: close\r\n" in answer.head


@pytest.mark.parametrize("endless", [b"1;" + b"x" * 70_000, b"0\r\n" + b"x-trailer: x\r\n" * 5_000, b"0\r\nx: " + b"x" * 70_000])
async def test_chunk_extensions_and_trailers_are_bounded(shopper: Client, endless: bytes) -> None:
    head = POST + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n"
    [answer] = await exchange(port_of(shopper), head, endless[:40_000], endless[40_000:])
    assert answer.status == 400 and b"at most 65,536 bytes" in answer.body


def split_into_chunks(body: bytes, size: int) -> bytes:
    chunks = (body[start : start + size] for start in range(0, len(body), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def padded(length: int) -> bytes:
    """A request whose body has so many bytes, each of which is needed to parse it."""
    start, end = b'{"query":"{ __typename }","extensions":{"x":"', b'"}}'
    return start + b"0123456789" * ((length - len(start) - len(end)) // 10) + end


@pytest.mark.parametrize(
    ("size", "length", "status"),
    # A body of so many chunks of one byte, or of any number of chunks of 48, is read; chunks of one byte without end are not.
    [(1, 12_000, 200), (48, 1_400_000, 200), (65_536, 1_400_000, 200), (1, 40_000, 400), (7, 1_400_000, 400)],
)
async def test_coding_of_chunks_is_bounded_by_their_content(shopper: Client, size: int, length: int, status: int) -> None:
    body = padded(length)
    answers = await exchange(
        port_of(shopper), POST + b"transfer-encoding: chunked\r\n\r\n" + split_into_chunks(body, size) + LAST
    )
    assert [answer.status for answer in answers] == ([200, 200] if status == 200 else [400])
    if status == 200:
        assert json.loads(answers[0].body) == {"data": {"__typename": "Query"}}
    else:
        assert b"larger chunks" in answers[0].body and b"\r\nconnection: close\r\n" in answers[0].head


async def test_malformed_request_waits_for_earlier_responses(shopper: Client) -> None:
    slow = POST + sized(b'{"query":"{ __typename }"}')
    answers = await exchange(port_of(shopper), slow + slow + b"nonsense\r\n\r\n" + SMUGGLED)
    assert [answer.status for answer in answers] == [200, 200, 400]
    answers = await exchange(port_of(shopper), slow + POST + b"transfer-encoding: chunked\r\n\r\nnonsense\r\n" + SMUGGLED)
    assert [answer.status for answer in answers] == [200, 400]


@pytest.mark.parametrize("target", [b"http://[", b"http://a:99999/", b"http://a:b/", b"http:///", b"http://x?"])
async def test_target_that_is_no_url_waits_for_earlier_responses(shopper: Client, target: bytes) -> None:
    slow = POST + sized(b'{"query":"{ __typename }"}')
    invalid = b"GET %b HTTP/1.1\r\nhost: x\r\n\r\n" % target
    answers = await exchange(port_of(shopper), slow + slow + invalid + SMUGGLED)
    assert [answer.status for answer in answers] == [200, 200, 400]
    [answer] = await exchange(port_of(shopper), invalid + SMUGGLED)
    assert answer.status == 400


@pytest.mark.parametrize("first", [b"GET /healthz HTTP/1.0\r\nconnection: keep-alive\r\n\r\n", LAST])
async def test_bytes_after_closing_request_are_ignored(shopper: Client, first: bytes) -> None:
    for parts in ([first + SMUGGLED], [first + SMUGGLED[:20], SMUGGLED[20:]]):
        [answer] = await exchange(port_of(shopper), *parts)
        assert answer.status == 200 and b"\r\nconnection: close\r\n" in answer.head


async def test_trailers_are_not_headers(shopper: Client) -> None:
    body = b'{"query":"{ me { id } }"}'
    request = POST + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\nauthorization: Bearer x\r\n\r\n" % (len(body), body)
    for parts in ([request + LAST], [request[:-30], request[-30:] + LAST]):
        first, _ = await exchange(port_of(shopper), *parts)
        assert json.loads(first.body) == {"data": {"me": None}}


async def test_expectation_unmet_closes_the_connection(shopper: Client) -> None:
    wrong = POST.replace(b"application/json", b"text/plain") + b"expect: 100-continue\r\ncontent-length: 60\r\n\r\n"
    # Whether these are its body, nobody knows.
    [answer] = await exchange(port_of(shopper), wrong, SMUGGLED)
    assert answer.status == 415 and b"\r\nconnection: close\r\n" in answer.head
    answers = await exchange(port_of(shopper), POST + b"expect: 100-continue\r\n" + sized(b'{"query":"{ __typename }"}') + LAST)
    assert [answer.status for answer in answers] == [200, 200]


@pytest.mark.parametrize("host", [b"", b"x:80", b"[::1]:80", b"a_b.example", b"xn--bcher-kva.example:", b"10.0.0.1 \t"])
async def test_host_of_any_valid_form_is_accepted(shopper: Client, host: bytes) -> None:
    [answer] = await exchange(port_of(shopper), LAST.replace(b"host: x", b"host: " + host))
    assert answer.status == 200
    [older] = await exchange(port_of(shopper), b"GET /healthz HTTP/1.0\r\n\r\n")
    assert older.status == 200
