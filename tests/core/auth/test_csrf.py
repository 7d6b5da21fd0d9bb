"""Protection against CSRF for requests with session cookies. Headers stand in for the browser."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from pydantic import SecretStr
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Origin, Subprotocol

from storefront.core.auth.csrf import LOOPBACK_ORIGINS, AllowedOrigins, check_request_origin, normalize_origin
from storefront.core.errors import Forbidden
from tests.client import Client, token_of
from tests.conftest import fresh, serving
from tests.core.auth.test_authjs import MADE_V5, SECRET, V5, encrypt_session

PROTOCOLS = [Subprotocol("graphql-transport-ws")]
SHOP = "https://shop.example"
ME = {"query": "{ me { email } }"}


@pytest_asyncio.fixture(scope="session")
async def server(postgres: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    options: dict[str, Any] = {"authjs_secret": SecretStr(SECRET), "allowed_origins": f"{SHOP}, http://localhost:3000"}
    async with serving(fresh(postgres, template), tmp_path_factory.mktemp("csrf"), **options) as client:
        yield client


async def send_request(server: Client, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await server.http.post("/graphql", json=ME, headers={"cookie": f"{V5}={MADE_V5}", **named})


def get_own_origin(server: Client) -> str:
    return str(server.http.base_url).rstrip("/")


def assert_forbidden(answer: httpx.Response) -> str:
    assert answer.status_code == 403, answer.text
    (error,) = answer.json()["errors"]
    assert error["extensions"]["code"] == "FORBIDDEN"
    return str(error["message"])


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": SHOP, "sec_fetch_site": "cross-site"},
        {"origin": "http://localhost:3000", "sec_fetch_site": "same-site"},
        {"origin": SHOP},
        # A front end that proxies /graphql: the browser sees one origin, whatever the Host header is here.
        {"origin": "https://front.example", "sec_fetch_site": "same-origin"},
        {"sec_fetch_site": "same-origin"},
        {"sec_fetch_site": "none"},
        # A server of the front end, not a browser.
        {"x_requested_with": "next"},
        {"apollo_require_preflight": "true"},
    ],
)
async def test_trusted_pages_may_send_cookies(server: Client, headers: dict[str, str]) -> None:
    assert (await send_request(server, **headers)).json() == {"data": {"me": {"email": "ada@example.com"}}}


async def test_allowed_origins_may_read_responses(server: Client) -> None:
    answer = await send_request(server, origin=SHOP, sec_fetch_site="cross-site")
    assert answer.headers["access-control-allow-origin"] == SHOP
    assert answer.headers["access-control-allow-credentials"] == "true"
    stranger = await send_request(server, origin="https://elsewhere.example", sec_fetch_site="cross-site")
    assert "access-control-allow-origin" not in stranger.headers


@pytest.mark.parametrize("name", ["content-type", "authorization", "apollo-require-preflight", "x-requested-with"])
async def test_preflight_allows_headers_to_allowed_origins_only(server: Client, name: str) -> None:
    preflight = {"access-control-request-method": "POST", "access-control-request-headers": name}
    for origin, status in ((SHOP, 200), ("https://evil.example", 400)):
        answer = await server.http.options("/graphql", headers={**preflight, "origin": origin})
        assert (answer.status_code, "access-control-allow-origin" in answer.headers) == (status, status == 200)


async def test_open_to_origins_allows_requests_without_cookies(empty_url: str, tmp_path: Path) -> None:
    preflight = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    options: dict[str, Any] = {"authjs_secret": SecretStr(SECRET), "open_to_origins": True, "allowed_origins": SHOP}
    async with serving(empty_url, tmp_path, **options) as open_:
        for origin, allowed_origin, credentials in (
            (SHOP, SHOP, "true"),
            ("https://else.example", "*", None),
            ("null", "*", None),
        ):
            for answer in (
                await open_.http.post("/graphql", json={"query": "{ __typename }"}, headers={"origin": origin}),
                await open_.http.options("/graphql", headers={**preflight, "origin": origin}),
            ):
                assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, allowed_origin)
                assert answer.headers.get("access-control-allow-credentials") == credentials
        answer = await send_request(open_, origin="https://else.example", sec_fetch_site="cross-site")
        assert answer.json()["errors"][0]["extensions"]["code"] == "FORBIDDEN"
        # Shared caches must separate these responses (Vary).
        for headers in ({}, {"origin": SHOP}, {"origin": "https://else.example"}):
            answer = await open_.http.post("/graphql", json={"query": "{ __typename }"}, headers=headers)
            assert answer.headers["vary"].split(", ").count("Origin") == 1, answer.headers


async def test_same_origin_is_allowed(server: Client) -> None:
    assert (await send_request(server, origin=get_own_origin(server))).status_code == 200
    assert (await send_request(server, origin=get_own_origin(server), sec_fetch_site="same-origin")).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example", "sec_fetch_site": "cross-site"},
        {"origin": "https://evil.example"},
        {"origin": "https://shop.example.evil.example"},
        {"origin": "https://sub.shop.example", "sec_fetch_site": "same-site"},
        {"origin": "http://shop.example"},
        {"origin": "https://shop.example:8443"},
        {"origin": "null", "sec_fetch_site": "cross-site"},
        {"origin": "null"},
        {"origin": ""},
        {"origin": "https://"},
        {"origin": "https://[::1"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "whatever"},
        {"referer": SHOP},
        {"x_requested_with": ""},
        {"x_requested_with": "next", "origin": "https://evil.example"},
        {"x_requested_with": "next", "sec_fetch_site": "cross-site"},
        {},
    ],
)
async def test_other_origins_are_forbidden(server: Client, headers: dict[str, str]) -> None:
    assert "STOREFRONT_ALLOWED_ORIGINS" in assert_forbidden(await send_request(server, **headers))


async def test_sec_fetch_site_decides_for_other_schemes(server: Client) -> None:
    assert_forbidden(await send_request(server, origin=get_own_origin(server), sec_fetch_site="cross-site"))


async def test_error_names_origin_and_fix(server: Client) -> None:
    message = assert_forbidden(await send_request(server, origin="https://evil.example"))
    assert "'https://evil.example'" in message
    assert "Authorization: Bearer" in message
    assert "no Origin header" in assert_forbidden(await send_request(server))
    assert len(assert_forbidden(await send_request(server, origin="https://" + "x" * 5_000))) < 500


async def test_forbidden_request_has_no_effect(server: Client) -> None:
    session = encrypt_session({"sub": "forbidden", "email": "forbidden@example.com", "exp": 9_999_999_999})
    headers = {"cookie": f"{V5}={session}", "origin": "https://evil.example"}
    assert_forbidden(await server.http.post("/graphql", json=ME, headers=headers))
    assert_forbidden(await server.http.get("/graphql", params=ME, headers=headers))
    async with server.database.transaction() as connection:
        cursor = await connection.raw.execute("SELECT FROM users WHERE email = 'forbidden@example.com'")
        assert await cursor.fetchall() == []


@pytest.mark.parametrize(
    ("origin", "payload", "code"),
    [
        (SHOP, {}, None),
        ("https://evil.example", {}, 4403),
        ("https://evil.example", {"origin": SHOP, "Origin": SHOP, "sec-fetch-site": "same-origin"}, 4403),
        ("https://evil.example", {"x-requested-with": "x", "host": "evil.example", "cookie": ""}, 4403),
    ],
)
async def test_websocket_handshake_is_checked_by_origin(
    server: Client, origin: str, payload: dict[str, str], code: int | None
) -> None:
    address = get_own_origin(server).replace("http", "ws") + "/graphql"
    cookie = {"cookie": f"{V5}={MADE_V5}"}
    async with connect(address, origin=Origin(origin), additional_headers=cookie, subprotocols=PROTOCOLS) as socket:
        await socket.send(json.dumps({"type": "connection_init", "payload": payload}))
        if code is None:
            assert json.loads(await socket.recv())["type"] == "connection_ack"
        else:
            with pytest.raises(ConnectionClosed) as closed:
                await socket.recv()
            assert closed.value.rcvd is not None and closed.value.rcvd.code == code


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
async def test_form_content_types_are_rejected(server: Client, content_type: str) -> None:
    headers = {"cookie": f"{V5}={MADE_V5}", "origin": "https://evil.example", "content-type": content_type}
    assert (await server.http.post("/graphql", content='{"query": "{ me { id } }"}', headers=headers)).status_code == 415


async def test_bearer_token_takes_precedence_and_needs_no_origin(server: Client) -> None:
    token = token_of("csrf-bearer", email="bearer@example.com")
    for headers in ({}, {"origin": "https://evil.example", "sec_fetch_site": "cross-site"}):
        answer = await send_request(server, authorization=f"Bearer {token}", **headers)
        assert answer.json() == {"data": {"me": {"email": "bearer@example.com"}}}
    assert (await send_request(server, authorization="Bearer wrong", origin=SHOP)).status_code == 401


async def test_anonymous_requests_need_no_origin(server: Client) -> None:
    headers = {"cookie": "theme=dark; authjs.csrf-token=x", "origin": "https://evil.example"}
    answer = await server.http.post("/graphql", json=ME, headers=headers)
    assert answer.json() == {"data": {"me": None}}


async def test_invalid_session_is_401(server: Client) -> None:
    headers = {"cookie": f"{V5}={MADE_V5[:-4]}AAAA", "origin": SHOP}
    assert (await server.http.post("/graphql", json=ME, headers=headers)).status_code == 401


async def test_cookies_are_ignored_without_secret(shopper: Client) -> None:
    assert (await send_request(shopper, origin="https://evil.example")).json() == {"data": {"me": None}}


def test_default_ports_are_stripped() -> None:
    check_request_origin({"origin": "https://api.example", "host": "api.example:443"}, ())
    check_request_origin({"origin": "http://api.example", "host": "API.example:80"}, ())
    with pytest.raises(Forbidden):
        check_request_origin({"origin": "http://api.example", "host": "api.example:443"}, ())


@pytest.mark.parametrize(
    ("written", "normal"),
    [("https://Shop.Example/", SHOP), (" https://shop.example:443", SHOP), ("http://localhost:3000", "http://localhost:3000")],
)
def test_origins_are_normalized(written: str, normal: str) -> None:
    assert normalize_origin(written) == normal


@pytest.mark.parametrize(
    "text",
    [
        *("*", "null", "shop.example", "https://", "https://shop.example/path", "https://u@shop.example", "ftp://x"),
        *("https://shop.example:*", "http://localhost:*0", "http://localhost:80:90"),
    ],
)
def test_invalid_origin_raises(text: str) -> None:
    with pytest.raises(ValueError, match="is not an origin"):
        AllowedOrigins([text])


@pytest.mark.parametrize(
    ("origin", "is_allowed"),
    [
        ("http://localhost:5173", True),
        ("http://localhost", True),
        ("https://localhost:3000", False),
        ("http://127.0.0.1:5173", False),
        ("http://localhost.evil.example:5173", False),
        ("http://localhost:5173@evil.example", False),
        ("http://localhost:5173/", False),
        ("http://localhost:x", False),
        ("null", False),
    ],
)
def test_any_port_of_localhost_is_allowed_by_star(origin: str, is_allowed: bool) -> None:
    assert (origin in AllowedOrigins(["http://Localhost:*/", SHOP])) is is_allowed
    check = {"origin": origin, "sec-fetch-site": "same-site"}
    if is_allowed:
        check_request_origin(check, AllowedOrigins(["http://localhost:*"]))
    else:
        with pytest.raises(Forbidden):
            check_request_origin(check, AllowedOrigins(["http://localhost:*"]))


@pytest.mark.parametrize("origin", ["http://localhost:5173", "https://127.0.0.1:8443", "http://[::1]:3000"])
def test_loopback_origins_are_all_hosts_of_this_machine(origin: str) -> None:
    assert origin in AllowedOrigins(LOOPBACK_ORIGINS)
