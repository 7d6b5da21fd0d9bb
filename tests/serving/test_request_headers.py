"""List headers of requests in one or several lines, and responses to HEAD."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlencode

import httpx
import orjson
import pytest

from storefront.core.ids import uuid7
from storefront.serving.server.http_protocol import SINGLETON_HEADERS
from tests.client import Client, token_of
from tests.conftest import serving
from tests.factories import count_statements, make_store
from tests.serving.raw_http import HANDSHAKE, LAST, exchange

NAME = "{ __typename }"


def port_of(client: Client) -> int:
    port = client.http.base_url.port
    assert port is not None
    return port


# ---------------------------------------------------------------------------------------------- singletons


def build_head(start: bytes, name: str, values: Sequence[str]) -> bytes:
    """A head with one header in several lines."""
    lines = [f"{name}: {value}".encode() for value in values]
    defaults = [] if name == "content-type" else [b"content-type: application/json"]
    return b"\r\n".join([start, b"host: x", *defaults, *lines, b""])


@pytest.mark.parametrize("name", sorted(name.decode() for name in SINGLETON_HEADERS - {b"authorization"}))
async def test_singleton_header_in_two_lines_is_refused(shopper: Client, name: str) -> None:
    head = build_head(b"POST /graphql HTTP/1.1", name, ["a", "b"]) + b"content-length: 26\r\n\r\n"
    (answer,) = await exchange(port_of(shopper), head + b'{"query":"{ __typename }"}' + LAST)
    assert answer.status == 400 and name in answer.body.decode().lower()


@pytest.mark.parametrize("values", [["", "{}"], ["{}", ""], ["{}", "{}"], ["Bearer x", "{}"], ["{}", "Basic x"]])
async def test_two_authorization_lines_are_refused(shopper: Client, values: list[str]) -> None:
    lines = [value.format(f"Bearer {token_of('twice')}") for value in values]
    head = build_head(b"GET /graphql?query=%7Bme%7Bid%7D%7D HTTP/1.1", "authorization", lines) + b"\r\n"
    handshake = HANDSHAKE + b"".join(f"authorization: {line}\r\n".encode() for line in lines) + b"\r\n"
    for request in (head, handshake):
        (answer,) = await exchange(port_of(shopper), request)
        assert (answer.status, answer.body) == (400, b"Send one Authorization header, not 2.")


@pytest.mark.parametrize("lines", [b"content-length: 2\r\ncontent-length: 2\r\n", b"content-length: 2\r\ncontent-length: 3\r\n"])
async def test_two_content_lengths_are_refused(shopper: Client, lines: bytes) -> None:
    (answer,) = await exchange(port_of(shopper), b"POST /graphql HTTP/1.1\r\nhost: x\r\n" + lines + b"\r\n{}" + LAST)
    assert answer.status == 400


@pytest.mark.parametrize("name", ["x-forwarded-for", "accept-language", "cache-control", "if-none-match", "via", "x-custom"])
async def test_other_headers_may_have_several_lines(shopper: Client, name: str) -> None:
    head = build_head(b"GET /graphql?query=%7B__typename%7D HTTP/1.1", name, ["a", "b"]) + b"\r\n"
    answer, _ = await exchange(port_of(shopper), head + LAST)
    assert answer.status == 200


@pytest.mark.parametrize("name", ["query", "variables", "operationName", "extensions", "documentId", "id"])
async def test_repeated_url_parameter_is_refused(shopper: Client, name: str) -> None:
    answer = await shopper.http.get("/graphql", params=[("query", NAME), (name, "{}"), (name, "{}"), ("utm", "a"), ("utm", "b")])
    assert answer.status_code == 400 and f"the parameter {name} once" in answer.json()["errors"][0]["message"]


# --------------------------------------------------------------------------------------------------- lists


@pytest.mark.parametrize(
    ("lines", "status", "media_type"),
    [
        (["image/png", "application/json"], 200, "application/json"),
        (["application/json;q=0.5", "application/graphql-response+json"], 200, "application/graphql-response+json"),
        (["*/*;q=0", "application/graphql-response+json"], 200, "application/graphql-response+json"),
        (["application/json;q=0", "*/*"], 200, "application/graphql-response+json"),
        (["image/png", "text/event-stream"], 200, "text/event-stream"),
        (["image/png", "image/jpeg"], 406, "application/json"),
    ],
)
async def test_accept_lines_are_one_list(shopper: Client, lines: list[str], status: int, media_type: str) -> None:
    headers = [("accept", line) for line in lines]
    request = httpx.Request("GET", shopper.http.base_url.join("/graphql"), params={"query": NAME}, headers=headers)
    answer = await shopper.http.send(request)
    assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (status, media_type)


async def test_accept_detects_browser_in_any_line(shopper: Client) -> None:
    request = httpx.Request(
        "GET", shopper.http.base_url.join("/graphql"), headers=[("accept", "application/xml"), ("accept", "text/html")]
    )
    assert (await shopper.http.send(request)).headers["content-type"].startswith("text/html")


@pytest.mark.parametrize(
    "lines",
    [["*"], ['"other"', "{tag}"], ['"other", W/{tag}'], ["W/{tag}"], ['"a", "b,c"', '"d", {tag} , "e"']],
)
async def test_if_none_match_is_compared_weakly(shopper: Client, lines: list[str]) -> None:
    path = "/graphiql/boot.js"
    tag = (await shopper.http.get(path)).headers["etag"]
    headers = [("if-none-match", line.replace("{tag}", tag)) for line in lines]
    same = await shopper.http.send(httpx.Request("GET", shopper.http.base_url.join(path), headers=headers))
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    for other in (tag.strip('"'), tag.replace('"', '"x', 1), '"*"', ""):
        assert (await shopper.http.get(path, headers={"if-none-match": other})).status_code == 200


async def test_if_none_match_any_matches_responses(empty_url: str, tmp_path: Path) -> None:
    async with serving(empty_url, tmp_path, response_cache_bytes=1_000_000) as client:
        slug = "any"
        await make_store(client.database, slug=slug)
        query = {"query": f'{{ config(by: {{slug: "{slug}"}}) {{ id }} }}'}
        executed, kept = [await client.http.get("/graphql", params=query, headers={"if-none-match": "*"}) for _ in range(2)]
        tag = (await client.http.get("/graphql", params=query)).headers["etag"]
        assert [(one.status_code, one.content, one.headers["etag"]) for one in (executed, kept)] == [(304, b"", tag)] * 2
        lines = [("if-none-match", '"other"'), ("if-none-match", tag)]
        request = httpx.Request("GET", client.http.base_url.join("/graphql"), params=query, headers=lines)
        assert (await client.http.send(request)).status_code == 304
        failed = await client.http.get("/graphql", params={"query": "{ nothing }"}, headers={"if-none-match": "*"})
        assert failed.json()["errors"]


# ------------------------------------------------------------------------------------------------- codings


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "br", "identity, gzip", "x-unknown", "aws-chunked"])
async def test_content_coding_is_refused_on_every_route(shopper: Client, coding: str) -> None:
    store = await make_store(shopper.database)
    bodies = {"/graphql": {"query": NAME}, f"/events/{store}": {"events": [{"event": "page_view"}], "consent": True}}
    for path, given in bodies.items():
        body = orjson.dumps(given)
        sent = gzip.compress(body) if "gzip" in coding.lower() else body
        headers = {"content-encoding": coding, "content-type": "application/json"}
        answer = await shopper.http.post(path, content=sent, headers=headers)
        assert answer.status_code == 415 and "content-encoding" in answer.json()["errors"][0]["message"], path
        assert answer.headers["accept-encoding"] == "identity"
        same = await shopper.http.post(path, content=body, headers={**headers, "content-encoding": "identity"})
        assert same.status_code == 200


# --------------------------------------------------------------------------------------------- authorization


@pytest.mark.parametrize("value", [b"", b"   ", b" \t "])
async def test_empty_authorization_is_ignored(shopper: Client, value: bytes) -> None:
    body = b'{"query":"{ me { id } }"}'
    head = b"POST /graphql HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nauthorization: "
    request = head + value + b"\r\ncontent-length: %d\r\n\r\n" % len(body) + body + LAST
    answer, _ = await exchange(port_of(shopper), request)
    assert (answer.status, json.loads(answer.body)) == (200, {"data": {"me": None}})


@pytest.mark.parametrize("value", ["Bearer", "Basic x", "x"])
async def test_authorization_without_token_is_refused(shopper: Client, value: str) -> None:
    answer = await shopper.http.get("/graphql", params={"query": "{ me { id } }"}, headers={"authorization": value})
    assert answer.status_code == 401


# ---------------------------------------------------------------------------------------------------- HEAD


@pytest.mark.parametrize("accept", ["text/event-stream", "multipart/mixed;subscriptionSpec=1.0"])
async def test_head_of_a_stream_has_no_body(client: Client, accept: str) -> None:
    store = await make_store(client.database)
    for document in (f'subscription {{ productFeed(configId: "{store}") {{ __typename }} }}', "{ configs { totalCount } }"):
        target = b"/graphql?" + urlencode({"query": document}).encode()
        head = b"HEAD " + target + b" HTTP/1.1\r\nhost: x\r\naccept: " + accept.encode() + b"\r\n\r\n"
        with count_statements(client.database) as statements:
            answers = await exchange(port_of(client), head * 3 + LAST)
        assert [answer.status for answer in answers] == [200] * 4
        assert all(f"content-type: {accept.partition(';')[0]}".encode() in answer.head for answer in answers[:3])
        assert not any(b"content-length" in answer.head for answer in answers[:3])
        assert not statements


async def test_head_of_a_stream_needs_valid_credentials(shopper: Client) -> None:
    document = f'subscription {{ productFeed(configId: "{uuid7()}") {{ __typename }} }}'
    for token, status in (("x", 401), (token_of("head", email="head@example.com"), 200)):
        headers = {"accept": "text/event-stream", "authorization": f"Bearer {token}"}
        answer = await shopper.http.head("/graphql", params={"query": document}, headers=headers)
        assert answer.status_code == status
