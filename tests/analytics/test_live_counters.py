"""Live counters over real sockets: access, throttling, sharing, and events of other processes."""

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
import pytest_asyncio
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from storefront.analytics.commands import track_events
from storefront.analytics.rollups import roll_up
from storefront.core.auth.tokens import Claims, sign_token
from storefront.core.db.database import Database
from storefront.core.net.client_info import ClientInfo
from storefront.core.net.tls import load_tls_context
from storefront.queries import analytics
from tests.client import SECRET, Client, token_of
from tests.conftest import fresh, serving
from tests.factories import count_statements, make_store, make_user
from tests.feed.processes import running

FEED = """subscription($c: ID!, $zone: String! = "UTC") { analyticsFeed(configId: $c, timeZone: $zone) {
  measuredAt dayStartedAt pageViews productClicks addToCarts purchases searches sessions activeSessions } }"""
GOOGLE = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"


@pytest_asyncio.fixture(scope="module")
async def shop(postgres: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    """A server with rollups at a short interval."""
    async with serving(fresh(postgres, template), tmp_path_factory.mktemp("live"), rollup_interval=0.1) as client:
        yield client


async def own(shop: Client) -> tuple[Client, str]:
    owner = await make_user(shop.database)
    return shop.signed_in(owner), await make_store(shop.database, user_id=owner)


@asynccontextmanager
async def streaming(
    http: httpx.AsyncClient, store: str, token: str | None, **variables: Any
) -> AsyncIterator[AsyncIterator[Any]]:
    """The ticks of the feed by server-sent events."""
    headers = {"accept": "text/event-stream"} | ({"authorization": f"Bearer {token}"} if token else {})
    body = {"query": FEED, "variables": {"c": store, **variables}}

    async def received(response: httpx.Response) -> AsyncIterator[Any]:
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))

    async with http.stream("POST", "/graphql", json=body, headers=headers) as response:
        yield received(response)


async def tick(ticks: AsyncIterator[Any]) -> Any:
    async with asyncio.timeout(10):
        return (await anext(ticks))["data"]["analyticsFeed"]


async def send(http: httpx.AsyncClient, store: str, *events: dict[str, Any], **headers: str) -> None:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = await http.post(f"/events/{store}", json={"events": list(events), "consent": True}, headers=named)
    assert answer.json()["recorded"] == len(events)


async def test_counters_are_sent_initially_and_on_change(shop: Client) -> None:
    owner, store = await own(shop)
    async with streaming(shop.http, store, owner.token) as ticks:
        first = await tick(ticks)
        assert {*first.values()} - {first["measuredAt"], first["dayStartedAt"]} == {0}
        await send(shop.http, store, {"event": "page_view", "sessionId": "a"}, {"event": "product_click", "sessionId": "a"})
        await send(shop.http, store, {"event": "purchase", "sessionId": "b"}, {"event": "search"}, {"event": "add_to_cart"})
        await send(shop.http, store, {"event": "page_view", "sessionId": "bot"}, user_agent=GOOGLE)
        while (last := await tick(ticks))["addToCarts"] == 0:
            pass
    wanted = {
        "pageViews": 1,
        "productClicks": 1,
        "addToCarts": 1,
        "purchases": 1,
        "searches": 1,
        "sessions": 2,
        "activeSessions": 2,
    }
    assert {name: last[name] for name in wanted} == wanted


async def test_sessions_are_active_for_five_minutes(database: Database) -> None:
    user, rng = await make_user(database), Random(8)
    store = await make_store(database, user_id=user)
    seen: dict[str, list[datetime]] = defaultdict(list)
    for _ in range(6):
        now = datetime.now(UTC)
        events = [(f"{rng.randrange(60)}", now - timedelta(minutes=rng.uniform(0, 12))) for _ in range(60)]
        sent = [{"event": "any", "sessionId": session, "timestamp": at.isoformat()} for session, at in events]
        await track_events(database, store, [*sent, {"event": "of no session"}], ClientInfo(), consent=True)
        await track_events(
            database, store, [{"event": "any", "sessionId": "bot"}], ClientInfo({"user-agent": GOOGLE}), consent=True
        )
        await roll_up(database)
        for session, at in events:
            seen[session].append(at)
        for _ in range(2):
            minute = datetime.now(UTC).replace(second=0, microsecond=0)
            active = await analytics.count_active_sessions(database, store, user)
            if datetime.now(UTC).replace(second=0, microsecond=0) == minute:
                break
        assert active == sum(max(moments) >= minute - timedelta(minutes=5) for moments in seen.values())
    assert await analytics.count_active_sessions(database, store, await make_user(database)) is None


async def test_ticks_are_throttled_and_deduplicated(shop: Client) -> None:
    owner, store = await own(shop)
    moments: list[float] = []
    has_all = asyncio.Event()

    async def listen() -> None:
        async with streaming(shop.http, store, owner.token) as ticks:
            while received := await tick(ticks):
                moments.append(time.monotonic())
                if received["pageViews"] == 35:
                    has_all.set()

    listener = asyncio.create_task(listen())
    for _ in range(35):
        await send(shop.http, store, {"event": "page_view"})
        await asyncio.sleep(0.1)
    await asyncio.wait_for(has_all.wait(), 30)
    received = len(moments)
    await asyncio.sleep(2)
    listener.cancel()
    await asyncio.gather(listener, return_exceptions=True)
    assert len(moments) == received
    # The first tick is sent at once, the others at full seconds.
    assert 3 <= received <= moments[-1] - moments[0] + 3


async def test_subscriptions_share_one_read(shop: Client) -> None:
    owner, store = await own(shop)

    async def listen() -> None:
        async with streaming(shop.http, store, owner.token) as ticks:
            async for _ in ticks:
                pass

    def reads(statements: list[str]) -> int:
        return sum("sum(last_seen_sessions)" in sql and "INSERT" not in sql for sql in statements)

    listeners = [asyncio.create_task(listen()) for _ in range(20)]
    await asyncio.sleep(1.5)
    with count_statements(shop.database) as seen:
        await asyncio.sleep(3)
    assert 2 <= reads(seen) <= 5
    for listener in listeners:
        listener.cancel()
    await asyncio.gather(*listeners, return_exceptions=True)
    await asyncio.sleep(0.5)
    with count_statements(shop.database) as seen:
        await asyncio.sleep(1.5)
    assert reads(seen) == 0


async def test_feed_requires_ownership(shop: Client) -> None:
    _, store = await own(shop)
    stranger = shop.signed_in(await make_user(shop.database))
    for viewer, code in ((stranger, "FORBIDDEN"), (shop, "UNAUTHENTICATED")):
        async with streaming(shop.http, store, viewer.token) as ticks:
            [error] = (await anext(ticks))["errors"]
            assert error["extensions"]["code"] == code
    async with streaming(shop.http, store, stranger.token, zone="Nowhere") as ticks:
        [error] = (await anext(ticks))["errors"]
        assert (error["extensions"]["code"], error["extensions"]["field"]) == ("BAD_USER_INPUT", "timeZone")


async def test_today_starts_in_time_zone(shop: Client) -> None:
    owner, store = await own(shop)
    for zone, hours in (("Pacific/Kiritimati", 14), ("Pacific/Pago_Pago", -11), ("Asia/Kathmandu", 5.75)):
        async with streaming(shop.http, store, owner.token, zone=zone) as ticks:
            since = datetime.fromisoformat((await tick(ticks))["dayStartedAt"])
        local = since + timedelta(hours=hours)
        assert (local.hour, local.minute, local.second, local.microsecond) == (0, 0, 0, 0)
        assert timedelta() <= datetime.now(UTC) - since < timedelta(days=1, minutes=1)


async def test_deleting_store_ends_feed(shop: Client) -> None:
    owner, store = await own(shop)
    async with streaming(shop.http, store, owner.token) as ticks:
        await tick(ticks)
        async with shop.database.transaction() as connection:
            await connection.raw.execute("DELETE FROM configs WHERE id = %s", [store])
        async with asyncio.timeout(5):
            assert [event async for event in ticks] == []


async def test_expired_token_ends_feed(shop: Client) -> None:
    user = await make_user(shop.database)
    store = await make_store(shop.database, user_id=user)
    token = sign_token(Claims(user), SECRET, seconds=2)
    start = time.monotonic()
    async with streaming(shop.http, store, token) as ticks, asyncio.timeout(10):
        assert len([event async for event in ticks]) == 1
    assert 0.5 < time.monotonic() - start < 5


async def test_expired_token_ends_websocket_feed(shop: Client) -> None:
    user = await make_user(shop.database)
    store = await make_store(shop.database, user_id=user)
    address = str(shop.http.base_url).replace("http", "ws").rstrip("/") + "/graphql"
    token = sign_token(Claims(user), SECRET, seconds=3)
    async with connect(address, subprotocols=["graphql-transport-ws"]) as socket:  # type: ignore[list-item]
        await socket.send(json.dumps({"type": "connection_init", "payload": {"authorization": f"Bearer {token}"}}))
        assert json.loads(await socket.recv())["type"] == "connection_ack"
        payload = {"query": FEED, "variables": {"c": store}}
        await socket.send(json.dumps({"id": "1", "type": "subscribe", "payload": payload}))
        assert json.loads(await socket.recv())["payload"]["data"]["analyticsFeed"]["pageViews"] == 0
        await send(shop.http, store, {"event": "page_view"})
        assert json.loads(await socket.recv())["payload"]["data"]["analyticsFeed"]["pageViews"] == 1
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(_until_closed(socket), 10)
        assert socket.close_code == 4403


async def _until_closed(socket: ClientConnection) -> None:
    while True:
        await socket.recv()


async def test_events_of_another_process_are_streamed(empty_url: str, database: Database, tmp_path: Path) -> None:
    user = await make_user(database)
    store = await make_store(database, user_id=user)
    with running(empty_url, tmp_path / "a") as first, running(empty_url, tmp_path / "b") as second:
        async with (
            httpx.AsyncClient(base_url=first.address, timeout=20, verify=load_tls_context()) as here,
            httpx.AsyncClient(base_url=second.address, timeout=20, verify=load_tls_context()) as there,
            streaming(here, store, token_of(user)) as ticks,
        ):
            assert (await tick(ticks))["pageViews"] == 0
            await send(there, store, {"event": "page_view", "sessionId": "s"})
            while (received := await tick(ticks))["pageViews"] == 0:
                pass
    assert (received["pageViews"], received["sessions"], received["activeSessions"]) == (1, 1, 1)
