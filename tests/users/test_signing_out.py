"""Signing out everywhere: revokes older credentials and ends open streams and sockets in every process."""

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from storefront.core.ids import uuid7
from tests.client import SECRET, Client, token_of
from tests.conftest import serving
from tests.core.auth.test_authjs import V5
from tests.core.auth.test_authjs import encrypt_session as encrypted
from tests.factories import count_statements, make_store, make_user
from tests.feed.processes import run_to_end
from tests.feed.test_limits import FEED, address_of, close_code, event_lines, hear, opened, subscribe
from tests.issuer import AUDIENCE, Issuer, hosting
from tests.users.test_signing_in import claims, forged

ME = "{ me { id } }"
SIGN_OUT = """mutation { signOutEverywhere(input: {clientMutationId: "m"}) {
  user { id } clientMutationId userErrors { code } } }"""
CREATE_STORE = """mutation($s: String!) { createConfig(input: {storeName: "New", slug: $s}) {
  config { id } userErrors { message } } }"""


@pytest.fixture
async def user(shopper: Client) -> str:
    return await make_user(shopper.database)


@pytest.fixture
async def others(empty_url: str, tmp_path: Path) -> AsyncIterator[tuple[Client, Client]]:
    """Two servers over one database without shared pub/sub, which poll ten times a second."""
    options: dict[str, Any] = {"poll_interval": 0.1, "broadcast_url": SecretStr("memory://")}
    async with serving(empty_url, tmp_path, **options) as one, serving(empty_url, tmp_path, **options) as other:
        yield one, other


async def test_sign_out_revokes_older_credentials_only(shopper: Client, user: str) -> None:
    phone, laptop, friend = shopper.signed_in(user), shopper.signed_in(user), shopper.signed_in(await make_user(shopper.database))
    assert (await phone.ask(SIGN_OUT))["signOutEverywhere"] == {
        "user": {"id": user}, "clientMutationId": "m", "userErrors": [],
    }  # fmt: skip
    for one in (phone, laptop):
        answer = await one.post(ME)
        assert answer.status_code == 401
        [error] = answer.json()["errors"]
        assert error["extensions"]["code"] == "UNAUTHENTICATED" and "signed out everywhere" in error["message"]
    assert (await shopper.signed_in(user).ask(ME))["me"] == {"id": user}
    assert (await friend.ask(ME))["me"] is not None


async def test_anonymous_sign_out_is_rejected(shopper: Client) -> None:
    assert (await shopper.refusal(SIGN_OUT))["extensions"]["code"] == "UNAUTHENTICATED"


@pytest.mark.parametrize("issued", [None, 0, -(10**400), -1e300, 1e9])
async def test_tokens_with_old_or_missing_iat_are_rejected(issued: float | None, shopper: Client, user: str) -> None:
    token = forged(claims(sub=user, iat=issued))
    assert (await bearing(shopper, token)).json()["data"]["me"]["id"] == user
    await shopper.signed_in(user).ask(SIGN_OUT)
    assert (await bearing(shopper, token)).status_code == 401


async def test_sign_out_ends_subscriptions_on_every_server(others: tuple[Client, Client]) -> None:
    here, there = others
    user, friend = [await make_user(here.database) for _ in range(2)]
    store = await make_store(here.database)
    async with AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(opened(address_of(server), token_of(user))) for server in (here, there, there)]
        friends = await stack.enter_async_context(opened(address_of(there), token_of(friend)))
        nobodys = await stack.enter_async_context(opened(address_of(there)))
        for socket in (*sockets, friends, nobodys):
            await subscribe(socket, "1", FEED, c=store)
        stream = asyncio.create_task(event_lines(there.http, store, token_of(user)))
        await asyncio.sleep(0.3)
        start = time.monotonic()
        await here.signed_in(user).ask(SIGN_OUT)
        assert [await close_code(socket) for socket in sockets] == [4403] * 3
        assert [line for line in await stream if line][-2:] == ["event: complete", "data:"]
        assert time.monotonic() - start < 5
        await asyncio.sleep(0.3)
        for socket in (friends, nobodys):
            await subscribe(socket, "2", ME)
            assert (await hear(socket))["id"] == "2"
        # One who signs in again stays.
        again = await stack.enter_async_context(opened(address_of(there), token_of(user)))
        await asyncio.sleep(0.3)
        await subscribe(again, "1", ME)
        assert (await hear(again))["payload"] == {"data": {"me": {"id": user}}}


async def test_operator_sign_out_and_deletion_revoke_credentials(
    others: tuple[Client, Client], empty_url: str, tmp_path: Path
) -> None:
    server, _ = others
    user, gone = await make_user(server.database, email="ada@example.com"), await make_user(server.database)
    async with opened(address_of(server), token_of(user)) as one, opened(address_of(server), token_of(gone)) as other:
        assert await sign_out(tmp_path, empty_url, "nobody@example.com") == 1
        assert await sign_out(tmp_path, empty_url, "ada@example.com") == 0
        assert await close_code(one) == 4403
        async with server.database.transaction() as connection:
            await connection.raw.execute("DELETE FROM users WHERE id = %s", [gone])
        assert await close_code(other) == 4403


async def bearing(server: Client, token: str) -> httpx.Response:
    return await server.http.post("/graphql", json={"query": ME}, headers={"authorization": f"Bearer {token}"})


async def run(folder: Path, url: str, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run a command with this database."""
    return await asyncio.to_thread(run_to_end, folder, *words, STOREFRONT_DATABASE_URL=url, STOREFRONT_SECRET=SECRET)


async def sign_out(folder: Path, url: str, email: str) -> int:
    """The exit code of the operator's command."""
    return (await run(folder, url, "sign-out", "--email", email)).returncode


async def test_open_socket_rejects_operations_after_sign_out(empty_url: str, tmp_path: Path) -> None:
    async with serving(empty_url, tmp_path, poll_interval=60) as server:
        user = await make_user(server.database)
        async with opened(address_of(server), token_of(user)) as socket:
            await server.signed_in(user).ask(SIGN_OUT)
            await subscribe(socket, "1", ME)
            message = await hear(socket)
            assert (message["type"], message["payload"][0]["extensions"]["code"]) == ("error", "UNAUTHENTICATED")


async def test_open_socket_sees_newly_owned_store(shopper: Client, user: str) -> None:
    async with opened(address_of(shopper), token_of(user)) as socket:
        made = (await shopper.signed_in(user).ask(CREATE_STORE, s=f"new-{uuid7().hex}"))["createConfig"]["config"]["id"]
        await subscribe(socket, "1", "query($c: ID!) { config(by: {id: $c}) { isPublished } }", c=made)
        assert (await hear(socket))["payload"] == {"data": {"config": {"isPublished": False}}}


async def test_revocation_check_takes_one_statement(empty_url: str, tmp_path: Path) -> None:
    async with serving(empty_url, tmp_path, poll_interval=0.2) as server, AsyncExitStack() as stack:
        for _ in range(20):
            token = token_of(await make_user(server.database))
            await stack.enter_async_context(opened(address_of(server), token))
        with count_statements(server.database) as statements:
            await asyncio.sleep(1.1)
        assert 3 <= len(statements) <= 6
        await stack.aclose()
        await asyncio.sleep(0.3)
        with count_statements(server.database) as statements:
            await asyncio.sleep(0.5)
        assert statements == [], "nobody is left to look after"


async def test_issuer_tokens_and_sessions_use_their_iat(empty_url: str, tmp_path: Path) -> None:
    async with hosting() as host:
        issuer = host.issuer()
        options: dict[str, Any] = {"oidc_issuer": issuer.url, "oidc_audience": AUDIENCE, "authjs_secret": SecretStr(SECRET)}
        async with serving(empty_url, tmp_path, **options) as server:
            await make_user(server.database, issuer=issuer.url, subject="ada", email="ada@example.com")
            await make_user(server.database, issuer="authjs", subject="bob", email="bob@example.com")
            for email, send in (("ada@example.com", by_token), ("bob@example.com", by_cookie)):
                # Their clocks may be ahead of ours: by 30 seconds that of an issuer, by 15 that of a front end.
                now = int(time.time())
                dated = (None, now - 500, now - 5, now + 14)
                assert [await send(server, issuer, iat) for iat in dated] == [200] * 4
                assert await sign_out(tmp_path, empty_url, email) == 0
                assert [await send(server, issuer, iat) for iat in dated] == [401] * 4
                # As if it had been long enough ago.
                await backdate_sign_out(server, email, 60)
                assert [await send(server, issuer, iat) for iat in dated] == [401, 401, 200, 200]


async def backdate_sign_out(server: Client, email: str, seconds: int) -> None:
    async with server.database.transaction() as connection:
        earlier = "UPDATE users SET signed_out_at = signed_out_at - make_interval(secs => %s) WHERE email = %s"
        await connection.raw.execute(earlier, [seconds, email])


@pytest.mark.parametrize("ahead", [-5, 0, 0.5, 5, 25, 29])
async def test_sign_out_refuses_tokens_dated_ahead(ahead: float, shopper: Client, user: str) -> None:
    token = forged(claims(sub=user, iat=time.time() + ahead))
    assert (await bearing(shopper, token)).json()["data"]["me"]["id"] == user
    async with opened(address_of(shopper), token) as socket:
        await shopper.signed_in(user).ask(SIGN_OUT)
        assert (await bearing(shopper, token)).status_code == 401
        assert await close_code(socket) == 4403


@pytest.mark.parametrize("iat", ["tomorrow", "1", None, True, [], {}, float("nan"), float("inf"), 2**70])
async def test_sign_in_refuses_impossible_iat(iat: object, shopper: Client, user: str) -> None:
    answer = await bearing(shopper, forged({**claims(sub=user), "iat": iat}))
    assert answer.status_code == 401 and "invalid claim iat" in answer.text


async def test_token_that_outlived_exp_is_signed_out(shopper: Client, user: str) -> None:
    now = time.time()
    token = forged(claims(sub=user, iat=now + 25, exp=now - 20))
    assert (await bearing(shopper, token)).status_code == 200
    await shopper.signed_in(user).ask(SIGN_OUT)
    assert (await bearing(shopper, token)).status_code == 401


async def test_token_command_works_right_after_sign_out(empty_url: str, tmp_path: Path) -> None:
    async with serving(empty_url, tmp_path) as server:
        user = await make_user(server.database, email="ada@example.com")
        assert await sign_out(tmp_path, empty_url, "ada@example.com") == 0
        printed = await run(tmp_path, empty_url, "token", "--email", " ADA@Example.com")
        token = printed.stdout.strip()
        assert (await bearing(server, token)).json()["data"]["me"]["id"] == user
        assert await sign_out(tmp_path, empty_url, "ada@example.com") == 0
        assert (await bearing(server, token)).status_code == 401


async def by_token(server: Client, issuer: Issuer, iat: int | None) -> int:
    return (await bearing(server, issuer.token(sub="ada", iat=iat))).status_code


async def by_cookie(server: Client, _: Issuer, iat: int | None) -> int:
    values = {"sub": "bob", "exp": 9_999_999_999} | ({} if iat is None else {"iat": iat})
    sent = {"cookie": f"{V5}={encrypted(values, secret=SECRET)}", "sec-fetch-site": "same-origin"}
    return (await server.http.post("/graphql", json={"query": ME}, headers=sent)).status_code
