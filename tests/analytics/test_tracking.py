"""Recording of events: validation, deduplication, opt-out, and the beacon endpoint."""

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from storefront.core.db.database import Database
from storefront.core.ids import uuid7
from storefront.core.net.client_info import truncate_address
from tests.client import Client
from tests.conftest import serving
from tests.factories import count_statements, insert, make_product, make_store, make_user

TRACK = """mutation($input: TrackEventsInput!) { trackEvents(input: $input) {
  recorded clientMutationId userErrors { code message path } results { index status userErrors { code message path } } } }"""
BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0"
GOOGLE = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"


async def track(client: Client, store: str, *events: Mapping[str, Any], **more: Any) -> Any:
    """Send events by trackEvents."""
    return (await client.ask(TRACK, input={"configId": store, "events": list(events), "consent": True, **more}))["trackEvents"]


async def send_beacon(client: Client, store: str, body: Any, **headers: str) -> httpx.Response:
    """Send a body, or a list of events with consent, as navigator.sendBeacon does."""
    if isinstance(body, list):
        body = {"events": body, "consent": True}
    content = body if isinstance(body, bytes | str) else json.dumps(body)
    named = {"content-type": "text/plain;charset=UTF-8"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.http.post(f"/events/{store}", content=content, headers=named)


async def load_events(database: Database, store: str) -> list[Any]:
    """The stored events, ordered by name."""
    async with database.transaction() as connection:
        cursor = await connection.raw.execute(
            "SELECT to_jsonb(e) FROM analytics_events AS e WHERE config_id = %s ORDER BY event, id", [store]
        )
        return [row[0] for row in await cursor.fetchall()]


def list_statuses(answer: Any) -> list[str]:
    return [result["status"] for result in answer["results"]]


def list_errors(answer: Any) -> list[tuple[list[str], str]]:
    return [(fault["path"], fault["message"]) for result in answer["results"] for fault in result["userErrors"]]


def ago(**span: float) -> str:
    return (datetime.now(UTC) - timedelta(**span)).isoformat()


# ------------------------------------------------------------------------------------------ what is stored


async def test_event_is_stored_as_sent(shopper: Client) -> None:
    store = await make_store(shopper.database)
    id_, at, product = str(uuid4()), ago(minutes=5), await make_product(shopper.database, store)
    sent = {
        "clientEventId": id_,
        "event": "add_to_cart",
        "properties": {"productId": product.upper(), "quantity": 2, "colour": {"name": "blå"}},
        "sessionId": "s-1",
        "userId": "u-1",
        "userAgent": BROWSER,
        "ipAddress": "203.0.113.77",
        "referrer": "https://search.example/?q=mug",
        "utmSource": "news",
        "utmMedium": "email",
        "utmCampaign": "fall",
        "timestamp": at,
    }
    answer = await track(shopper, store, sent, clientMutationId="mine")
    assert (answer["recorded"], list_statuses(answer), answer["clientMutationId"]) == (1, ["RECORDED"], "mine")
    [row] = await load_events(shopper.database, store)
    assert datetime.fromisoformat(row.pop("timestamp")) == datetime.fromisoformat(at)
    assert row == {
        "id": id_,
        "config_id": store,
        "event": "add_to_cart",
        "properties": {"productId": product, "quantity": 2, "colour": {"name": "blå"}},
        "session_id": "s-1",
        "user_id": "u-1",
        "user_agent": BROWSER,
        "ip_address": "203.0.113.0",
        "referrer": "https://search.example/?q=mug",
        "utm_source": "news",
        "utm_medium": "email",
        "utm_campaign": "fall",
        "is_bot": False,
    }


async def test_event_defaults_come_from_request(shopper: Client) -> None:
    store = await make_store(shopper.database)
    page = "https://shop.example/mugs?utm_source=news&utm_medium=email&utm_campaign=fall"
    headers = {"user_agent": BROWSER, "referer": page, "origin": "https://shop.example"}
    answer = await send_beacon(
        shopper, store, [{"event": "a"}, {"event": "b", "utmSource": "mine", "userAgent": GOOGLE}], **headers
    )
    assert answer.status_code == 200 and answer.json()["recorded"] == 2
    first, second = await load_events(shopper.database, store)
    assert (first["user_agent"], first["ip_address"], first["is_bot"]) == (BROWSER, "127.0.0.0", False)
    # The sending page belongs to the shop itself: it is not a referrer.
    assert first["referrer"] is None
    assert [first[name] for name in ("utm_source", "utm_medium", "utm_campaign")] == ["news", "email", "fall"]
    assert [second[name] for name in ("utm_source", "utm_medium", "utm_campaign")] == ["mine", None, None]
    assert (second["user_agent"], second["is_bot"]) == (GOOGLE, True)
    assert abs(datetime.fromisoformat(first["timestamp"]) - datetime.now(UTC)) < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("headers", "referrer", "kept"),
    [
        ({}, None, None),
        ({"referer": "https://blog.example/post"}, None, "https://blog.example/post"),
        ({"referer": "https://blog.example/post"}, "https://news.example/", "https://news.example/"),
        (
            {"origin": "https://shop.example", "referer": "https://shop.example/"},
            "https://news.example/",
            "https://news.example/",
        ),
        ({"origin": "https://shop.example"}, "https://shop.example/last-page", None),
        ({"origin": "null", "referer": "https://[::bad"}, None, "https://[::bad"),
    ],
)
async def test_external_referrers_are_stored(
    shopper: Client, headers: dict[str, str], referrer: str | None, kept: str | None
) -> None:
    store = await make_store(shopper.database)
    event = {"event": "page_view"} | ({"referrer": referrer} if referrer else {})
    await send_beacon(shopper, store, [event], **headers)
    [row] = await load_events(shopper.database, store)
    assert row["referrer"] == kept


async def test_campaign_is_parsed_from_page_url(shopper: Client) -> None:
    store = await make_store(shopper.database)
    await track(shopper, store, {"event": "page_view", "properties": {"url": "https://shop.example/?a=1&utm_source=ad#x"}})
    [row] = await load_events(shopper.database, store)
    assert (row["utm_source"], row["utm_medium"]) == ("ad", None)


@pytest.mark.parametrize(
    ("agent", "bot"),
    [
        (BROWSER, False),
        (GOOGLE, True),
        ("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/120.0.0.0 Safari/537.36", True),
        ("facebookexternalhit/1.1", True),
        # The server of a shop that forwards events.
        ("python-httpx/0.28.1", False),
        ("curl/8.5.0", False),
    ],
)
async def test_bots_are_flagged(shopper: Client, agent: str, bot: bool) -> None:
    owner = await make_user(shopper.database)
    store = await make_store(shopper.database, user_id=owner)
    await send_beacon(shopper, store, [{"event": "page_view"}], user_agent=agent)
    received = await shopper.signed_in(owner).ask(
        "query($c: ID!) { events(configId: $c) { nodes { isBot userAgent } } }", c=store
    )
    assert received["events"]["nodes"] == [{"isBot": bot, "userAgent": agent}]


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.77", "203.0.113.0"),
        ("2001:db8:1234:5678:9abc::1", "2001:db8:1234::"),
        ("::ffff:203.0.113.77", "203.0.113.0"),
        ("fe80::1%eth0", "fe80::"),
        ("unix:/run/x", None),
        ("", None),
    ],
)
def test_addresses_are_truncated(address: str, network: str | None) -> None:
    assert truncate_address(address) == network


@pytest.mark.parametrize(
    ("trusted", "network"), [(None, "127.0.0.0"), ("127.0.0.1", "198.51.100.0"), ("10.0.0.0/8", "127.0.0.0")]
)
async def test_forwarded_address_requires_trusted_proxy(
    empty_url: str, tmp_path: Path, trusted: str | None, network: str
) -> None:
    async with serving(empty_url, tmp_path, trusted_proxies=trusted) as client:
        store = await make_store(client.database)
        await send_beacon(client, store, [{"event": "a"}], x_forwarded_for="198.51.100.23")
        [row] = await load_events(client.database, store)
        assert row["ip_address"] == network


# ------------------------------------------------------------------------------------------ who objects


@pytest.mark.parametrize("headers", [{"dnt": "1"}, {"sec_gpc": "1"}])
async def test_opt_out_headers_are_respected(shopper: Client, headers: dict[str, str]) -> None:
    store = await make_store(shopper.database)
    answer = (await send_beacon(shopper, store, [{"event": "page_view"}, {"event": ""}], **headers)).json()
    assert (answer["recorded"], list_statuses(answer)) == (0, ["IGNORED", "REJECTED"])
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    variables = {"input": {"configId": store, "events": [{"event": "page_view"}], "consent": True}}
    received = (await shopper.http.post("/graphql", json={"query": TRACK, "variables": variables}, headers=named)).json()
    assert list_statuses(received["data"]["trackEvents"]) == ["IGNORED"]
    assert await load_events(shopper.database, store) == []


async def test_nothing_is_stored_without_consent(shopper: Client) -> None:
    store = await make_store(shopper.database)
    assert list_statuses(await track(shopper, store, {"event": "page_view"}, consent=False)) == ["IGNORED"]
    answer = await send_beacon(shopper, store, {"events": [{"event": "page_view"}], "consent": False})
    assert list_statuses(answer.json()) == ["IGNORED"]
    assert await load_events(shopper.database, store) == []
    assert list_statuses(await track(shopper, store, {"event": "page_view"}, consent=True)) == ["RECORDED"]
    without = {"configId": store, "events": [{"event": "page_view"}]}
    assert "'consent'" in (await shopper.refusal(TRACK, input=without))["message"]


# ------------------------------------------------------------------------------------------------- once


async def test_repeated_event_is_a_duplicate(shopper: Client) -> None:
    store, other = [await make_store(shopper.database) for _ in range(2)]
    batch = [{"event": "page_view", "clientEventId": str(uuid4())} for _ in range(20)] + [
        {"event": "search", "clientEventId": "my own name for it", "timestamp": ago(minutes=1)}
    ]
    assert set(list_statuses(await track(shopper, store, *batch))) == {"RECORDED"}
    first = await load_events(shopper.database, store)
    again = [{**event, "timestamp": ago(days=3), "event": "purchase"} for event in batch]
    answer = await track(shopper, store, *again, *batch)
    assert (answer["recorded"], set(list_statuses(answer))) == (0, {"DUPLICATE"})
    assert await load_events(shopper.database, store) == first
    # Deduplication is per store: the same ids in another store are new.
    assert set(list_statuses(await track(shopper, other, *batch))) == {"RECORDED"}


async def test_duplicate_within_batch_keeps_first(shopper: Client) -> None:
    store = await make_store(shopper.database)
    answer = await track(shopper, store, *({"event": name, "clientEventId": "x"} for name in ("first", "second")), {"event": "a"})
    assert list_statuses(answer) == ["RECORDED", "DUPLICATE", "RECORDED"]
    assert [row["event"] for row in await load_events(shopper.database, store)] == ["a", "first"]


async def test_events_without_id_are_not_deduplicated(shopper: Client) -> None:
    store = await make_store(shopper.database)
    for _ in range(2):
        assert (await track(shopper, store, *[{"event": "a"}] * 3))["recorded"] == 3
    assert len(await load_events(shopper.database, store)) == 6


async def test_concurrent_identical_batches_count_once(shopper: Client) -> None:
    store = await make_store(shopper.database)
    batch = [{"event": "a", "clientEventId": str(uuid4())} for _ in range(50)]
    answers = await asyncio.gather(*(track(shopper, store, *(batch if n % 2 else batch[::-1])) for n in range(8)))
    assert sum(answer["recorded"] for answer in answers) == 50
    assert len(await load_events(shopper.database, store)) == 50


# ---------------------------------------------------------------------------------------------- faults


BAD: list[tuple[dict[str, Any], list[str], str]] = [
    ({"event": ""}, ["event"], "must be the name of an event"),
    ({"event": "x" * 65}, ["event"], "0 to 64 characters"),
    ({"event": "a\u0007"}, ["event"], "control characters"),
    ({"event": "a", "timestamp": "1970-01-01T00:00:00Z"}, ["timestamp"], "is 1970-01-01, more than 7 days ago"),
    ({"event": "a", "timestamp": ago(days=8)}, ["timestamp"], "more than 7 days ago"),
    ({"event": "a", "timestamp": ago(days=-2)}, ["timestamp"], "is in the future"),
    ({"event": "a", "timestamp": "yesterday"}, ["timestamp"], "must be RFC 3339 text"),
    ({"event": "a", "timestamp": "2026-11-22T10:00:00"}, ["timestamp"], "with a time zone"),
    ({"event": "a", "properties": {"x": "y" * 90_000}}, ["properties"], "must have at most 8,192 bytes as JSON, not 90,0"),
    ({"event": "a", "properties": [1]}, ["properties"], "must be an object"),
    ({"event": "a", "properties": {"x": "\0"}}, ["properties"], "must not contain the character NUL"),
    ({"event": "a", "sessionId": "s" * 201}, ["sessionId"], "0 to 200 characters"),
    ({"event": "a", "ipAddress": "nowhere"}, ["ipAddress"], "must be an IP address"),
    ({"event": "add_to_cart", "properties": {"productId": "mug"}}, ["properties", "productId"], "'mug' is not an id"),
    ({"event": "product_click", "properties": {"productId": 5}}, ["properties", "productId"], "must be an id, as text"),
    ({"event": "add_to_cart", "properties": {"quantity": 0}}, ["properties", "quantity"], "a whole number from 1 on"),
    ({"event": "purchase", "properties": {"total": "much"}}, ["properties", "total"], "must be an amount"),
    ({"event": "purchase", "properties": {"currency": "XXX"}}, ["properties", "currency"], "ISO 4217"),
    ({"event": "search", "properties": {"query": ["mug"]}}, ["properties", "query"], "must be text"),
]


@pytest.mark.parametrize(("event", "where", "message"), BAD, ids=lambda value: str(value)[:40])
async def test_invalid_event_is_rejected_alone(shopper: Client, event: dict[str, Any], where: list[str], message: str) -> None:
    store = await make_store(shopper.database)
    for send in ("graphql", "beacon"):
        batch = [{"event": "before"}, event, {"event": "later"}]
        if send == "graphql":
            answer = await track(shopper, store, *batch)
            [(path, said)] = list_errors(answer)
        else:
            answer = (await send_beacon(shopper, store, batch)).json()
            [fault] = answer["results"][1]["errors"]
            path, said = fault["path"], fault["message"]
        assert list_statuses(answer) == ["RECORDED", "REJECTED", "RECORDED"]
        assert path == ["events", "1", *where]
        assert said.startswith(".".join(path)) and message in said
    assert [row["event"] for row in await load_events(shopper.database, store)] == ["before"] * 2 + ["later"] * 2


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (5, "must be an object"),
        ([], "must be an object"),
        ({"event": 7}, "must be text"),
        ({"event": "a", "when": "now"}, "is not a field of an event"),
        ({"event": "a", "timestamp": 0}, "must be RFC 3339 text"),
        ({"event": "half \ud83d"}, "valid Unicode"),
        ({"event": "a", "properties": {"x": "half \ud83d"}}, "cannot be stored"),
        ({"event": "a", "sessionId": {}}, "must be text"),
    ],
    ids=lambda value: ascii(value)[:40],
)
async def test_beacon_rejects_malformed_events(shopper: Client, event: Any, message: str) -> None:
    store = await make_store(shopper.database)
    answer = (await send_beacon(shopper, store, [event, {"event": "fine"}])).json()
    assert list_statuses(answer) == ["REJECTED", "RECORDED"]
    assert message in answer["results"][0]["errors"][0]["message"]
    assert [row["event"] for row in await load_events(shopper.database, store)] == ["fine"]


HALVES: list[tuple[dict[str, Any], list[str], str]] = [
    ({"event": "half \ud83d"}, ["event"], "valid Unicode"),
    ({"event": "a", "sessionId": "\udc00"}, ["sessionId"], "valid Unicode"),
    ({"event": "a", "clientEventId": "\ud83d\ud83d"}, ["clientEventId"], "valid Unicode"),
    ({"event": "a", "properties": {"x": ["half \ud83d"]}}, ["properties"], "cannot be stored"),
    ({"event": "a", "properties": {"\ud83d": 1}}, ["properties"], "cannot be stored"),
]


@pytest.mark.parametrize(("event", "where", "message"), HALVES, ids=lambda value: ascii(value)[:40])
async def test_lone_surrogate_rejects_its_event(shopper: Client, event: dict[str, Any], where: list[str], message: str) -> None:
    store = await make_store(shopper.database)
    # Next to a valid surrogate pair.
    batch = [{"event": "before"}, event, {"event": "later", "sessionId": "\U0001f4de"}]
    body = json.dumps({"query": TRACK, "variables": {"input": {"configId": store, "events": batch, "consent": True}}})
    answer = await shopper.http.post("/graphql", content=body, headers={"content-type": "application/json"})
    received = answer.json()["data"]["trackEvents"]
    [(path, said)] = list_errors(received)
    assert (list_statuses(received), path) == (["RECORDED", "REJECTED", "RECORDED"], ["events", "1", *where])
    assert message in said
    assert [row["session_id"] for row in await load_events(shopper.database, store)] == [None, "\U0001f4de"]


@pytest.mark.parametrize("name", ["\ud83d", "events\ud83d"])
async def test_lone_surrogate_in_field_name_is_rejected(shopper: Client, name: str) -> None:
    store = await make_store(shopper.database)
    answer = (await send_beacon(shopper, store, [{"event": "a", name: 1}, {"event": "fine"}])).json()
    assert list_statuses(answer) == ["REJECTED", "RECORDED"]
    assert "is not a field of an event" in answer["results"][0]["errors"][0]["message"]
    refused = await send_beacon(shopper, store, {"events": [], name: 1})
    assert (refused.status_code, "is not a known field" in refused.json()["errors"][0]["message"]) == (400, True)


@pytest.mark.parametrize(
    ("ahead", "now"), [(timedelta(seconds=5), True), (timedelta(hours=23), True), (timedelta(seconds=-60), False)]
)
async def test_future_timestamps_are_clamped(shopper: Client, ahead: timedelta, now: bool) -> None:
    store = await make_store(shopper.database)
    claimed = datetime.now(UTC) + ahead
    await track(shopper, store, {"event": "a", "timestamp": claimed.isoformat()})
    [row] = await load_events(shopper.database, store)
    at = datetime.fromisoformat(row["timestamp"])
    assert at <= datetime.now(UTC)
    assert (at == claimed) is not now


@pytest.mark.parametrize(
    ("body", "status", "code", "message"),
    [
        (b"{not json", 400, "BAD_REQUEST", "The body is not valid JSON"),
        (b"", 400, "BAD_REQUEST", "The body is not valid JSON"),
        (b"\xff\xfe", 400, "BAD_REQUEST", "The body is not valid JSON"),
        (b"[" * 10_000, 400, "BAD_REQUEST", "The body is not valid JSON"),
        (b"5", 400, "BAD_REQUEST", "The body must be JSON such as"),
        (b"[NaN]", 400, "BAD_REQUEST", "The body is not valid JSON"),
        (b'{"events": [{"event": "a"}]}', 400, "BAD_USER_INPUT", "consent: is missing"),
        (b'[{"event": "a"}]', 400, "BAD_REQUEST", "The body must be JSON such as"),
        (b'{"event": "a", "consent": true}', 400, "BAD_USER_INPUT", "event: is not a known field"),
        (b'{"consent": true}', 400, "BAD_USER_INPUT", "events: must be a list"),
        (b'{"events": 5, "consent": true}', 400, "BAD_USER_INPUT", "events: must be a list"),
        (b'{"events": [], "consent": "yes"}', 400, "BAD_USER_INPUT", "consent: must be true or false"),
        (b'{"events": [], "more": 1}', 400, "BAD_USER_INPUT", "more: is not a known field"),
        # Half a character makes a slow parser necessary, which reads bodies of usual sizes only.
        (b'{"x": "\\ud800", "b": [' + b"1," * 30_000 + b"1]}", 400, "LIMIT_EXCEEDED", "The body is too full"),
        (b" " * 1_500_001, 413, "BAD_REQUEST", "at most 1,500,000 bytes"),
        (
            json.dumps({"events": [{"event": "a"}] * 501, "consent": False}).encode(),
            400,
            "BAD_REQUEST",
            "events: must have at most 500 entries, not 501",
        ),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_malformed_beacon_returns_clear_error(shopper: Client, body: bytes, status: int, code: str, message: str) -> None:
    store = await make_store(shopper.database)
    answer = await send_beacon(shopper, store, body, x_request_id="mine")
    [error] = answer.json()["errors"]
    assert (answer.status_code, error["extensions"]["code"]) == (status, code)
    assert message in error["message"]
    assert error["extensions"]["requestId"] == answer.headers["x-request-id"] == "mine"
    assert await load_events(shopper.database, store) == []


async def test_beacon_accepts_no_events(shopper: Client) -> None:
    answer = await send_beacon(shopper, await make_store(shopper.database), [])
    assert (answer.status_code, answer.json()) == (200, {"recorded": 0, "results": []})


async def test_too_many_events_are_rejected(shopper: Client) -> None:
    store = await make_store(shopper.database)
    document = "mutation($input: TrackEventsInput!) { trackEvents(input: $input) { recorded } }"
    error = await shopper.refusal(document, input={"configId": store, "events": [{"event": "a"}] * 501, "consent": True})
    assert error["message"] == "input.events: must have at most 500 items, not 501."
    assert (await track(shopper, store, *[{"event": "a"}] * 500))["recorded"] == 500


@pytest.mark.parametrize("store", [str(uuid7()), "nonsense", "' OR 1=1 --"], ids=["absent", "nonsense", "sql"])
async def test_unknown_store_rejects_events(shopper: Client, store: str) -> None:
    [error] = (await track(shopper, store, {"event": "a"}))["userErrors"]
    assert (error["code"], error["path"]) == ("NOT_FOUND", ["configId"])
    answer = await send_beacon(shopper, store.replace("/", ""), [{"event": "a"}])
    assert (answer.status_code, answer.json()["errors"][0]["extensions"]["code"]) == (404, "NOT_FOUND")


async def test_unpublished_store_accepts_owner_events_only(shopper: Client) -> None:
    owner = await make_user(shopper.database)
    store = await make_store(shopper.database, user_id=owner, is_published=False)
    stranger = shopper.signed_in(await make_user(shopper.database))
    for viewer in (shopper, stranger):
        assert [error["code"] for error in (await track(viewer, store, {"event": "a"}))["userErrors"]] == ["NOT_FOUND"]
    assert (await send_beacon(shopper, store, [{"event": "a"}])).status_code == 404
    assert list_statuses(await track(shopper.signed_in(owner), store, {"event": "a"})) == ["RECORDED"]


# ---------------------------------------------------------------------------------------------- the beacon


async def test_beacon_allows_any_origin(shopper: Client) -> None:
    store = await make_store(shopper.database)
    answer = await send_beacon(shopper, store, [{"event": "a"}], origin="https://shop.example", cookie="session=1")
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "*")
    asked = {"origin": "https://shop.example", "access-control-request-method": "POST"}
    preflight = await shopper.http.options(f"/events/{store}", headers=asked)
    assert (preflight.status_code, preflight.headers["access-control-allow-methods"]) == (204, "POST")
    assert preflight.headers["access-control-allow-origin"] == "*"
    assert "content-type" in preflight.headers["access-control-allow-headers"]


@pytest.mark.parametrize("kind", ["text/plain", "application/json", "application/x-www-form-urlencoded"])
async def test_beacon_ignores_content_type(shopper: Client, kind: str) -> None:
    store = await make_store(shopper.database)
    assert (await send_beacon(shopper, store, [{"event": "a"}], content_type=kind)).json()["recorded"] == 1


# ------------------------------------------------------------------------------------------------ cost


async def test_batch_is_one_statement_without_log(shopper: Client) -> None:
    store = await make_store(shopper.database)
    await insert(shopper.database, "products", config_id=store, title="a", handle="a", price="1", max_price="1")
    for number in (1, 500):
        with count_statements(shopper.database) as seen:
            await track(shopper, store, *[{"event": "page_view", "clientEventId": str(uuid4())} for _ in range(number)])
        assert len(seen) == 1
        assert "store_positions" not in seen[0] and "changes" not in seen[0]
    received = await shopper.ask("query($c: ID!) { config(by: {id: $c}) { position } }", c=store)
    assert received["config"]["position"] == "0"


async def test_events_do_not_wait_for_log_lock(shopper: Client) -> None:
    store = await make_store(shopper.database)
    async with shopper.database.transaction() as connection:
        await connection.raw.execute("INSERT INTO store_positions (config_id, position) VALUES (%s, 1)", [store])
        await connection.raw.execute("SELECT FROM configs WHERE id = %s FOR NO KEY UPDATE", [store])
        async with asyncio.timeout(5):
            assert (await track(shopper, store, {"event": "a"}))["recorded"] == 1
