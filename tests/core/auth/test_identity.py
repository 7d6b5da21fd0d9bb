"""Signing in over HTTP by each proof, linking by address, and settings that would not be safe."""

import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from pydantic import SecretStr, ValidationError
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from storefront.core.auth.identity import create_authenticator
from storefront.core.ids import uuid7
from storefront.core.settings import Settings
from tests.client import SECRET, Client, token_of
from tests.conftest import fresh, serving
from tests.core.auth.test_authjs import MADE_V5, V5, encrypted
from tests.core.auth.test_authjs import SECRET as SHARED
from tests.factories import make_user
from tests.issuer import AUDIENCE, Host, Issuer, hosting

ME = "{ me { id email } }"
FOREVER = 9_999_999_999


@pytest_asyncio.fixture(scope="session")
async def host() -> AsyncIterator[Host]:
    async with hosting() as one:
        yield one


@pytest.fixture(scope="session")
def issuer(host: Host) -> Issuer:
    return host.issuer()


@pytest.fixture(scope="session")
def broken(host: Host) -> Issuer:
    """An issuer that has never answered."""

    async def down(_: Request) -> Response:
        return PlainTextResponse("down", 500)

    made = host.issuer()
    made.answer = down
    return made


@pytest_asyncio.fixture(scope="session")
async def server(
    postgres: str, template: str, issuer: Issuer, broken: Issuer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Client]:
    options: dict[str, Any] = {
        "oidc_issuer": f"{issuer.url},{broken.url}",
        "oidc_audience": AUDIENCE,
        "authjs_secret": SecretStr(SHARED),
    }
    async with serving(fresh(postgres, template), tmp_path_factory.mktemp("identity"), **options) as client:
        yield client


def new() -> str:
    return f"{uuid7().hex}@example.com"


async def bearing(server: Client, token: str) -> httpx.Response:
    return await server.http.post("/graphql", json={"query": ME}, headers={"authorization": f"Bearer {token}"})


async def bringing(server: Client, claims: dict[str, object], **headers: str) -> httpx.Response:
    cookie = f"{V5}={encrypted({'exp': FOREVER, **claims})}"
    sent = {"cookie": cookie, "sec-fetch-site": "same-origin", **headers}
    return await server.http.post("/graphql", json={"query": ME}, headers=sent)


def me(answer: httpx.Response) -> Any:
    assert "errors" not in answer.json(), answer.text
    return answer.json()["data"]["me"]


def refusal(answer: httpx.Response, status: int, code: str) -> str:
    assert answer.status_code == status, answer.text
    (error,) = answer.json()["errors"]
    assert error["extensions"]["code"] == code
    return str(error["message"])


async def identities(server: Client, user: str) -> list[tuple[str, str]]:
    async with server.database.transaction() as connection:
        statement = "SELECT issuer, subject FROM user_identities WHERE user_id = %s ORDER BY created_at"
        rows = await (await connection.raw.execute(statement, [user])).fetchall()
    return [(issuer, subject) for issuer, subject in rows]


async def test_a_token_of_an_issuer_makes_a_user_who_is_found_again(server: Client, issuer: Issuer) -> None:
    email = new()
    token = issuer.token(sub=email, email=email, name="Ada")
    first = me(await bearing(server, token))
    assert first["email"] == email
    assert me(await bearing(server, token)) == first
    assert await identities(server, first["id"]) == [(issuer.url, email)]


async def test_a_session_makes_a_user_who_is_found_again(server: Client) -> None:
    email = new()
    first = me(await bringing(server, {"sub": email, "email": email}))
    assert me(await bringing(server, {"sub": email})) == first
    assert await identities(server, first["id"]) == [("authjs", email)]


async def test_a_long_session_comes_in_chunks(server: Client) -> None:
    thirds = [MADE_V5[:150], MADE_V5[150:300], MADE_V5[300:]]
    cookie = "; ".join(f"{V5}.{number}={third}" for number, third in reversed(list(enumerate(thirds))))
    headers = {"cookie": f"theme=dark; {cookie}", "sec-fetch-site": "same-origin"}
    answer = await server.http.post("/graphql", json={"query": ME}, headers=headers)
    assert me(answer)["email"] == "ada@example.com"


async def test_the_same_sub_by_three_proofs_is_three_users(server: Client, issuer: Issuer) -> None:
    sub = uuid7().hex
    found = [
        me(await bearing(server, token_of(sub, email=new()))),
        me(await bearing(server, issuer.token(sub=sub, email=new()))),
        me(await bringing(server, {"sub": sub, "email": new()})),
    ]
    assert len({one["id"] for one in found}) == 3


async def test_a_verified_address_leads_to_its_user(server: Client, issuer: Issuer) -> None:
    email = new()
    user = await make_user(server.database, email=email, subject=None)
    assert me(await bearing(server, issuer.token(sub=email, email=email, email_verified=True)))["id"] == user


async def test_an_address_that_nobody_verified_does_not(server: Client, issuer: Issuer) -> None:
    email = new()
    user = await make_user(server.database, email=email, subject=None)
    answers = [
        await bearing(server, issuer.token(sub="mallory", email=email)),
        await bearing(server, issuer.token(sub="mallory", email=email, email_verified=False)),
        await bringing(server, {"sub": "mallory", "email": email, "email_verified": True}),
    ]
    found = [me(answer) for answer in answers]
    assert [one["email"] for one in found] == [email] * 3
    assert found[0]["id"] == found[1]["id"] != found[2]["id"]
    assert user not in {one["id"] for one in found}
    assert await identities(server, user) == []


async def test_trusted_front_ends_may_link(empty_url: str, tmp_path: Any) -> None:
    options: dict[str, Any] = {"authjs_secret": SecretStr(SHARED), "authjs_trust_email": True}
    async with serving(empty_url, tmp_path, **options) as server:
        user = await make_user(server.database, email="ada@example.com", subject=None)
        assert me(await bringing(server, {"sub": "1", "email": "ada@example.com"}))["id"] == user


async def test_an_issuer_that_cannot_be_reached_is_503_and_not_our_fault(
    server: Client, broken: Issuer, issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    token = broken.token(email=new())
    with caplog.at_level(logging.DEBUG):
        answer = await bearing(server, token)
    message = refusal(answer, 503, "SERVICE_UNAVAILABLE")
    assert broken.url not in message
    assert broken.url in caplog.text
    assert token not in caplog.text
    # The others go on.
    assert me(await bearing(server, issuer.token(sub=new(), email=new())))


async def test_a_token_beside_a_session_decides(server: Client, issuer: Issuer) -> None:
    mine, theirs = new(), new()
    token = issuer.token(sub=mine, email=mine)
    answer = await bringing(server, {"sub": theirs, "email": theirs}, authorization=f"Bearer {token}")
    assert me(answer)["email"] == mine
    refused = await bringing(server, {"sub": theirs, "email": theirs}, authorization="Basic dXNlcjpwYXNz")
    assert "Bearer <token>" in refusal(refused, 401, "UNAUTHENTICATED")


UNSAFE: dict[str, dict[str, Any]] = {
    "oidc_issuer": {"oidc_issuer": "http://issuer.example", "oidc_audience": "x"},
    "oidc_audience": {"oidc_issuer": "https://issuer.example"},
    "oidc_jwks_url": {
        "oidc_issuer": "https://a.example,https://b.example",
        "oidc_audience": "x",
        "oidc_jwks_url": "https://a.example/keys",
    },
    "allowed_origins": {"allowed_origins": "https://shop.example,*"},
    "encryption_keys": {"encryption_keys": "a key that is none"},
    "clock_skew": {"clock_skew": 86_400},
}


@pytest.mark.parametrize("name", UNSAFE)
def test_settings_that_are_not_safe_are_refused(name: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings(**UNSAFE[name])
    (problem,) = caught.value.errors()
    assert problem["loc"] == (name,)
    assert "a key that is none" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["https://", "issuer.example", "https://i.example/?a=b", "https://i.example|x", "https://u:p@i.example", "ftp://i"]
)
def test_an_issuer_is_a_plain_url(url: str) -> None:
    with pytest.raises(ValidationError):
        Settings(oidc_issuer=url, oidc_audience="x")


def test_issuers_keep_the_order_of_their_keys() -> None:
    urls = "https://a.example/, https://b.example"
    settings = Settings(oidc_issuer=urls, oidc_audience="x", oidc_jwks_url="https://a.example/keys,http://keys.internal/b")
    assert settings.issuers() == {"https://a.example/": "https://a.example/keys", "https://b.example": "http://keys.internal/b"}


def test_nothing_secret_is_shown() -> None:
    secrets = {"secret": SECRET, "authjs_secret": SHARED, "encryption_keys": "a" * 43 + "="}
    given: dict[str, Any] = {name: SecretStr(value) for name, value in secrets.items()}
    settings = Settings(**given)
    shown = f"{settings!r} {create_authenticator(settings)!r} {settings.load_vault()!r} {settings.model_dump()}"
    assert not [value for value in secrets.values() if value in shown]
