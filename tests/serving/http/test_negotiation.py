"""Content negotiation by the Accept header."""

import httpx
import pytest

from storefront.serving.http.negotiation import negotiate_media_types
from tests.client import Client

JSON, NEW = "application/json", "application/graphql-response+json"
EVENTS, PARTS = "text/event-stream", "multipart/mixed"
FEED = 'subscription { productFeed(configId: "x") { __typename } }'


@pytest.mark.parametrize(
    ("header", "json", "stream"),
    [
        (None, JSON, None),
        ("", JSON, None),
        ("*/*", JSON, None),
        ("application/*", JSON, None),
        (JSON, JSON, None),
        (NEW, NEW, None),
        ("Application/GraphQL-Response+JSON; Charset=UTF-8", NEW, None),
        (f"{NEW}; charset=utf-8, {JSON}; charset=utf-8", NEW, None),
        (f"{JSON}, {NEW}", JSON, None),
        (f"{JSON};q=0.9, {NEW}", NEW, None),
        (f"{NEW};q=0.1, {JSON};q=0.2", JSON, None),
        (f"{NEW};q=0, */*", JSON, None),
        (f"{JSON};q=0, */*;q=0.1", NEW, None),
        (f"*/*, {NEW}", NEW, None),
        (f"{JSON};q=0.5, application/*", NEW, None),
        (f"{JSON};q=2, {NEW};q=0.1", NEW, None),
        (f"{JSON};q=nan, {NEW};q=0.1", NEW, None),
        ("text/html,application/xhtml+xml,*/*;q=0.8", JSON, None),
        ("text/html", None, None),
        (f"{JSON};q=0", None, None),
        (f"{JSON};charset=utf-16", None, None),
        ("nonsense,;,/,=;q", None, None),
        (EVENTS, None, EVENTS),
        (f"{NEW}, application/graphql+json, {JSON}, {EVENTS}, {PARTS}", NEW, EVENTS),
        (PARTS, None, None),
        (f"{PARTS};boundary=graphql;subscriptionSpec=1.0,{NEW},{JSON};q=0.9", NEW, PARTS),
        (f'{PARTS};boundary="graphql";subscriptionSpec="1.0"', None, PARTS),
        (f"{PARTS};deferSpec=20220824", None, None),
        (f"{EVENTS};q=0.5, {PARTS};subscriptionSpec=1.0", None, PARTS),
        ("text/*", None, None),
        ("a/b," * 49 + JSON, JSON, None),
        ("a/b," * 50 + JSON, None, None),
    ],
)
def test_accept_header_is_negotiated_per_rfc_9110(header: str | None, json: str | None, stream: str | None) -> None:
    takes = negotiate_media_types(header)
    assert (takes.json, takes.stream and takes.stream.media_type) == (json, stream)


async def get(client: Client, query: str, accept: str) -> httpx.Response:
    return await client.http.get("/graphql", params={"query": query}, headers={"accept": accept})


@pytest.mark.parametrize(
    ("query", "accept"),
    [
        ("{ __typename }", "text/html;q=0.1, image/png"),
        ("{ __typename }", f"{JSON};charset=latin-1"),
        (FEED, "*/*"),
        (FEED, f"{JSON}, {PARTS}"),
    ],
)
async def test_unacceptable_request_is_406_and_not_executed(shopper: Client, query: str, accept: str) -> None:
    answer = await get(shopper, query, accept)
    assert answer.status_code == 406
    assert answer.headers["content-type"] == f"{JSON}; charset=utf-8"
    assert answer.json()["errors"][0]["extensions"]["code"] == "BAD_REQUEST"


@pytest.mark.parametrize(("query", "received"), [("{ __typename }", '{"data":{"__typename":"Query"}}'), ("{", '{"errors":[')])
async def test_query_accepting_only_events_gets_one_event(shopper: Client, query: str, received: str) -> None:
    answer = await get(shopper, query, EVENTS)
    assert (answer.status_code, answer.headers["content-type"]) == (200, f"{EVENTS}; charset=utf-8")
    _, event, end = answer.text.split("\n\n", 2)
    assert event.startswith(f"event: next\ndata: {received}")
    assert end == "event: complete\ndata:\n\n"


async def test_responses_vary_by_accept(shopper: Client) -> None:
    assert (await get(shopper, "{ __typename }", JSON)).headers["vary"] == "accept, authorization"
