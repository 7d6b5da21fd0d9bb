"""Rate limits over HTTP and sockets, in each scope, with and without Redis."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr, ValidationError
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from storefront import doctor
from storefront.core.settings import Settings
from storefront.serving.protection.rate_limit import RateLimited, RateLimiter, RateLimitScope, get_caller_key
from tests.client import Client
from tests.conftest import serving
from tests.factories import count_statements, make_store, make_user
from tests.feed.redis import Redis, redis_server

TYPE, PAGE = "{ __typename }", "{ configs(first: 100) { nodes { id storeName slug description } } }"


@pytest.fixture(scope="module")
def redis() -> Iterator[Redis]:
    with redis_server() as server:
        yield server


def refused(answer: httpx.Response, door: str) -> None:
    """It was refused at this door, and says so to people, machines and libraries."""
    (error,) = answer.json()["errors"]
    assert (answer.status_code, error["extensions"]["code"]) == (429, "RATE_LIMITED")
    assert int(answer.headers["retry-after"]) == error["extensions"]["retryAfter"] >= 1
    assert answer.headers["ratelimit"].startswith(f'"{door}";r=0;t=')
    assert f"this {door} has" in error["message"]


async def test_address_is_limited(empty_url: str, tmp_path: Path) -> None:
    async with serving(empty_url, tmp_path, rate_limit_address="60/h burst 3") as client:
        answers = [await client.post(TYPE) for _ in range(3)]
        assert [answer.headers["ratelimit"][:16] for answer in answers] == [f'"address";r={n};t=' for n in (2, 1, 0)]
        assert {answer.headers["ratelimit-policy"] for answer in answers} == {'"address";q=60;w=3600'}
        with count_statements(client.database) as statements:
            for query in (TYPE, PAGE, "{", "mutation { __typename }"):
                refused(await client.post(query), "address")
        assert not statements


async def test_cost_counts_as_several_requests(empty_url: str, tmp_path: Path) -> None:
    async with serving(empty_url, tmp_path, rate_limit_address="60/h burst 10", rate_limit_cost=100) as client:
        # 402: one request, and four for what it costs.
        assert (await client.post(PAGE)).headers["ratelimit"].startswith('"address";r=5;')
        with count_statements(client.database) as statements:
            answer = await client.http.post("/graphql", json=[{"query": PAGE}] * 2)
        assert (answer.status_code, statements) == (429, [])
        # What was refused for its cost took nothing but the requests that it was.
        assert (await client.post(TYPE)).headers["ratelimit"].startswith('"address";r=2;')


async def test_viewer_is_limited_across_addresses(empty_url: str, tmp_path: Path) -> None:
    async with serving(empty_url, tmp_path, rate_limit_viewer="60/h burst 2", rate_limit_cost=0) as client:
        one, other = [client.signed_in(await make_user(client.database)) for _ in range(2)]
        assert [(await one.post(TYPE)).status_code for _ in range(3)] == [200, 200, 429]
        refused(await one.post(TYPE), "viewer")
        assert (await other.post(TYPE)).headers["ratelimit"].startswith('"viewer";r=1;')
        assert [(await client.post(TYPE)).status_code for _ in range(3)] == [200, 200, 200]


async def test_socket_operations_count_as_requests(empty_url: str, tmp_path: Path) -> None:
    async with serving(empty_url, tmp_path, rate_limit_address="60/h burst 3") as client:
        address = str(client.http.base_url).replace("http", "ws").rstrip("/") + "/graphql"
        async with connect(address, subprotocols=["graphql-transport-ws"]) as socket:  # type: ignore[list-item]
            await socket.send('{"type": "connection_init"}')
            await socket.recv()
            heard: list[Any] = []
            for n in range(3):
                await socket.send(json.dumps({"type": "subscribe", "id": str(n), "payload": {"query": TYPE}}))
                while not heard or heard[-1]["type"] == "next":
                    heard.append(json.loads(await asyncio.wait_for(socket.recv(), 5)))
                last = heard.pop()
        assert last["type"] == "error"
        assert last["payload"][0]["extensions"]["code"] == "RATE_LIMITED"
        async with connect(address, subprotocols=["graphql-transport-ws"]) as late:  # type: ignore[list-item]
            with pytest.raises(ConnectionClosed):
                await late.recv()
            assert (late.close_code, "Too many requests" in str(late.close_reason)) == (4430, True)


async def test_events_have_a_limit_of_their_own(empty_url: str, tmp_path: Path) -> None:
    async with serving(empty_url, tmp_path, rate_limit_events="60/h burst 1") as client:
        store = await make_store(client.database)
        for expected in (200, 429):
            answer = await client.http.post(f"/events/{store}", json={"events": [{"event": "page_view"}], "consent": True})
            assert answer.status_code == expected
        refused(answer, "events")
        assert (await client.post(TYPE)).status_code == 200


async def test_failed_sign_ins_are_limited(empty_url: str, tmp_path: Path) -> None:
    async with serving(empty_url, tmp_path, rate_limit_sign_in="60/h burst 2") as client:
        user = client.signed_in(await make_user(client.database))
        liar = Client(client.http, client.database, "no token")
        assert [(await liar.post(TYPE)).status_code for _ in range(4)] == [401, 401, 429, 429]
        refused(await user.post(TYPE), "sign-in")
        # Who does not say who they are is let in as before.
        assert (await client.post(TYPE)).status_code == 200


ANYWHERE = "0.0.0.0"  # noqa: S104
POLICY = '"address";q=6000;w=60'


async def policy(client: Client, **headers: str) -> str | None:
    """The rate that a request was counted by; None if it was not counted."""
    answer = await client.http.post("/graphql", json={"query": TYPE}, headers={"x-forwarded-for": "203.0.113.7", **headers})
    assert answer.status_code == 200
    return str(answer.headers["ratelimit-policy"]) if "ratelimit-policy" in answer.headers else None


@pytest.mark.parametrize(
    ("host", "given", "expected"),
    [
        (ANYWHERE, None, "6000/m burst 1000"),
        ("::", None, "6000/m burst 1000"),
        ("192.0.2.7", None, "6000/m burst 1000"),
        ("shop.example", None, "6000/m burst 1000"),
        ("127.0.0.1", None, None),
        ("127.0.0.2", None, None),
        ("::1", None, None),
        ("localhost", None, None),
        (ANYWHERE, "off", None),
        (ANYWHERE, "OFF", None),
        (ANYWHERE, "", None),
        (ANYWHERE, "60/h", "60/h"),
        ("localhost", "60/h", "60/h"),
    ],
)
def test_default_rate_depends_on_exposure(host: str, given: str | None, expected: str | None) -> None:
    options = Settings(host=host, rate_limit_address=given, rate_limit_events=given)
    assert options.address_rate() == expected
    assert (options.events_rate() is None) is (expected is None)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"trusted_proxies": "127.0.0.1"}, POLICY),
        ({"host": "127.0.0.1", "trusted_proxies": "127.0.0.1"}, None),
        # The peer is a private address, and may be a proxy: it is counted where the settings say that there is none.
        ({}, None),
        ({"trusted_proxies": ""}, POLICY),
        ({"rate_limit_address": "60/h burst 9"}, '"address";q=60;w=3600'),
    ],
)
async def test_default_rate_depends_on_proxies(
    empty_url: str, tmp_path: Path, options: dict[str, Any], expected: str | None
) -> None:
    async with serving(empty_url, tmp_path, **{"host": ANYWHERE, **options}) as client:
        assert await policy(client) == expected


async def test_default_rate_limits_each_client(empty_url: str, tmp_path: Path) -> None:
    # Costs 804 of the 1,000 that an address has at once; enough for a second one comes back in six seconds.
    nodes = "configs(first: 100) { nodes { id storeName slug description } }"
    document = f"{{ a: {nodes} b: {nodes} }}"
    options: dict[str, Any] = {"host": ANYWHERE, "trusted_proxies": "127.0.0.1", "rate_limit_cost": 1}
    async with serving(empty_url, tmp_path, **options) as client:
        found = []
        for address in ("2001:db8::1", "2001:db8::1", "2001:db8::ffff", "2001:db8:0:1::1"):
            answer = await client.http.post("/graphql", json={"query": document}, headers={"x-forwarded-for": address})
            found.append(answer.status_code)
    assert found == [200, 429, 429, 200]


@pytest.mark.parametrize("address", ["127.0.0.1", "10.1.2.3", "172.20.0.1", "192.168.1.1", "100.64.0.1", "::1", "fd00::1"])
async def test_private_addresses_are_not_counted_by_default(address: str) -> None:
    rates = RateLimiter({RateLimitScope.ADDRESS: "60/h burst 1"}, public_only_scopes={RateLimitScope.ADDRESS})
    assert [await rates.consume(RateLimitScope.ADDRESS, get_caller_key(address)) for _ in range(3)] == [None] * 3


async def test_default_rate_hints_at_proxies_once(log_lines: list[dict[str, Any]]) -> None:
    rates = RateLimiter({RateLimitScope.ADDRESS: "60/h burst 1"}, public_only_scopes={RateLimitScope.ADDRESS})
    for address in ("172.32.0.1", "2001:db8::1"):
        await rates.consume(RateLimitScope.ADDRESS, get_caller_key(address))
        with pytest.raises(RateLimited):
            await rates.consume(RateLimitScope.ADDRESS, get_caller_key(address))
    assert ["STOREFRONT_TRUSTED_PROXIES" in line["message"] for line in log_lines] == [True]


@pytest.mark.parametrize(
    ("options", "state", "is_well"),
    [
        ({}, "any number of requests from an address; no proxies are set", True),
        ({"host": ANYWHERE}, "6000/m burst 1000 for each address (the default); no proxies are set", False),
        ({"host": "::", "rate_limit_address": "9/m"}, "9/m for each address; no proxies are set", False),
        ({"host": ANYWHERE, "trusted_proxies": ""}, "6000/m burst 1000 for each address (the default); proxies: none", True),
        ({"host": "shop", "trusted_proxies": "10.0.0.1", "rate_limit_address": "off"}, "any number of requests from", True),
    ],
)
def test_doctor_reports_address_limits(options: dict[str, Any], state: str, is_well: bool) -> None:
    finding = doctor.check_clients(Settings(**options))
    assert finding.state.startswith(state)
    assert ("STOREFRONT_TRUSTED_PROXIES" in finding.remedy) is not is_well


def test_proxies_are_recognized_on_dual_stack_sockets() -> None:
    options = Settings(trusted_proxies="127.0.0.1, 10.0.0.0/8, fd00::/8")
    assert options.proxy_networks() == ["127.0.0.1", "10.0.0.0/8", "fd00::/8", "::ffff:127.0.0.1/128", "::ffff:10.0.0.0/104"]
    assert Settings(trusted_proxies="*").proxy_networks() == ["*"]


async def test_processes_share_limits_in_redis(redis: Redis) -> None:
    one, other = (RateLimiter({RateLimitScope.ADDRESS: "60/h burst 4"}, f"redis://{redis.address}") for _ in range(2))
    async with one.running(), other.running():
        for rates in (one, other, one, other):
            await rates.consume(RateLimitScope.ADDRESS, "192.0.2.1")
        for rates in (one, other):
            with pytest.raises(RateLimited):
                await rates.consume(RateLimitScope.ADDRESS, "192.0.2.1")
        await one.consume(RateLimitScope.ADDRESS, "192.0.2.2")


async def test_doctor_reports_where_limits_are_stored() -> None:
    with redis_server() as redis:
        options = Settings(secret=SecretStr("x" * 32), rate_limit_url=SecretStr(f"redis://{redis.address}"))
        assert (await doctor.check_rate_limits(options)) == doctor.Finding("rates", "counted together in Redis")
        redis.stop()
        finding = await doctor.check_rate_limits(options)
        assert "StoreUnavailableError" in finding.state and "STOREFRONT_RATE_LIMIT_URL" in finding.remedy
    alone = options.model_copy(update={"rate_limit_url": None, "workers": 2})
    assert (await doctor.check_rate_limits(alone)).state == "counted by each worker for itself"


async def test_limits_are_per_process_without_redis(empty_url: str, tmp_path: Path) -> None:
    with redis_server() as redis:
        url = SecretStr(f"redis://{redis.address}")
        async with serving(empty_url, tmp_path, rate_limit_address="60/h burst 2", rate_limit_url=url) as client:
            assert (await client.post(TYPE)).status_code == 200
            redis.stop()
            assert [(await client.post(TYPE)).status_code for _ in range(3)] == [200, 200, 429]


async def test_tracked_callers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storefront.serving.protection.rate_limit.MAX_TRACKED_CALLERS", 100)
    monkeypatch.setattr("storefront.serving.protection.rate_limit.MAX_LIMITED_CALLERS", 10)
    rates = RateLimiter({RateLimitScope.ADDRESS: "60/h burst 1"})
    for n in range(1_000):
        await rates.consume(RateLimitScope.ADDRESS, f"caller {n}")
        with pytest.raises(RateLimited):
            await rates.consume(RateLimitScope.ADDRESS, f"caller {n}")
    bucket = rates._limiters[RateLimitScope.ADDRESS]
    store: Any = bucket._memory_limiter.limiter._store
    assert (len(bucket._limited_callers), len(store._backend.get_client())) == (10, 100)


@pytest.mark.parametrize(
    ("host", "caller"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        (None, None),
        ("x", "x"),
    ],
)
def test_ipv6_caller_is_its_network(host: str | None, caller: str | None) -> None:
    assert get_caller_key(host) == caller


@pytest.mark.parametrize("rate", ["many", "10", "0/s", "10/fortnight", "1/s, 5/m"])
def test_invalid_rate_is_a_clear_error(rate: str) -> None:
    with pytest.raises(ValidationError, match="600/m burst 100"):
        Settings(rate_limit_address=rate)


def test_rate_limit_url_must_be_redis() -> None:
    with pytest.raises(ValidationError, match="must be a redis:// or rediss:// URL"):
        Settings(rate_limit_url=SecretStr("postgresql://x"))
