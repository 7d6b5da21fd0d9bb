"""Authentication over HTTP with each method, linking by verified address, and unsafe settings."""

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
from tests.core.auth.test_authjs import MADE_V5, V5, encrypt_session
from tests.core.auth.test_authjs import SECRET as SHARED
from tests.factories import make_user
from tests.issuer import AUDIENCE, Host, Issuer, hosting

ME = "{ me { id email } }"
FOREVER = 9_999_999_999


@pytest_asyncio.fixture(scope="session")
async def host() -> AsyncIterator[Host]:
    async with hosting() as identity:
        yield identity


@pytest.fixture(scope="session")
def issuer(host: Host) -> Issuer:
    return host.issuer()


@pytest.fixture(scope="session")
def broken(host: Host) -> Issuer:
    """An issuer that always fails."""

    async def down(_: Request) -> Response:
        return PlainTextResponse("down", 500)

    failing_issuer = host.issuer()
    failing_issuer.answer = down
    return failing_issuer


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


def new_subject() -> str:
    return f"{uuid7().hex}@example.com"


async def send_bearer(server: Client, token: str) -> httpx.Response:
    return await server.http.post("/graphql", json={"query": ME}, headers={"authorization": f"Bearer {token}"})


async def send_session(server: Client, claims: dict[str, object], **headers: str) -> httpx.Response:
    cookie = f"{V5}={encrypt_session({'exp': FOREVER, **claims})}"
    sent = {"cookie": cookie, "sec-fetch-site": "same-origin", **headers}
    return await server.http.post("/graphql", json={"query": ME}, headers=sent)


def read_viewer_id(answer: httpx.Response) -> Any:
    assert "errors" not in answer.json(), answer.text
    return answer.json()["data"]["me"]


def get_rejection(answer: httpx.Response, status: int, code: str) -> str:
    assert answer.status_code == status, answer.text
    (error,) = answer.json()["errors"]
    assert error["extensions"]["code"] == code
    return str(error["message"])


async def load_identities(server: Client, user: str) -> list[tuple[str, str]]:
    async with server.database.transaction() as connection:
        statement = "SELECT issuer, subject FROM user_identities WHERE user_id = %s ORDER BY created_at"
        rows = await (await connection.raw.execute(statement, [user])).fetchall()
    return [(issuer, subject) for issuer, subject in rows]


async def test_issuer_token_creates_user_once(server: Client, issuer: Issuer) -> None:
    email = new_subject()
    token = issuer.token(sub=email, email=email, name="Ada")
    first = read_viewer_id(await send_bearer(server, token))
    assert first["email"] == email
    assert read_viewer_id(await send_bearer(server, token)) == first
    assert await load_identities(server, first["id"]) == [(issuer.url, email)]


async def test_session_creates_user_once(server: Client) -> None:
    email = new_subject()
    first = read_viewer_id(await send_session(server, {"sub": email, "email": email}))
    assert read_viewer_id(await send_session(server, {"sub": email})) == first
    assert await load_identities(server, first["id"]) == [("authjs", email)]


async def test_chunked_session_is_accepted(server: Client) -> None:
    thirds = [MADE_V5[:150], MADE_V5[150:300], MADE_V5[300:]]
    cookie = "; ".join(f"{V5}.{number}={third}" for number, third in reversed(list(enumerate(thirds))))
    headers = {"cookie": f"theme=dark; {cookie}", "sec-fetch-site": "same-origin"}
    answer = await server.http.post("/graphql", json={"query": ME}, headers=headers)
    assert read_viewer_id(answer)["email"] == "ada@example.com"


async def test_same_sub_of_three_issuers_is_three_users(server: Client, issuer: Issuer) -> None:
    sub = uuid7().hex
    found = [
        read_viewer_id(await send_bearer(server, token_of(sub, email=new_subject()))),
        read_viewer_id(await send_bearer(server, issuer.token(sub=sub, email=new_subject()))),
        read_viewer_id(await send_session(server, {"sub": sub, "email": new_subject()})),
    ]
    assert len({identity["id"] for identity in found}) == 3


async def test_verified_address_links_to_its_user(server: Client, issuer: Issuer) -> None:
    email = new_subject()
    user = await make_user(server.database, email=email, subject=None)
    assert read_viewer_id(await send_bearer(server, issuer.token(sub=email, email=email, email_verified=True)))["id"] == user


async def test_unverified_address_does_not_link(server: Client, issuer: Issuer) -> None:
    email = new_subject()
    user = await make_user(server.database, email=email, subject=None)
    answers = [
        await send_bearer(server, issuer.token(sub="mallory", email=email)),
        await send_bearer(server, issuer.token(sub="mallory", email=email, email_verified=False)),
        await send_session(server, {"sub": "mallory", "email": email, "email_verified": True}),
    ]
    found = [read_viewer_id(answer) for answer in answers]
    assert [identity["email"] for identity in found] == [email] * 3
    assert found[0]["id"] == found[1]["id"] != found[2]["id"]
    assert user not in {identity["id"] for identity in found}
    assert await load_identities(server, user) == []


async def test_trusted_front_end_links(empty_url: str, tmp_path: Any) -> None:
    options: dict[str, Any] = {"authjs_secret": SecretStr(SHARED), "authjs_trust_email": True}
    async with serving(empty_url, tmp_path, **options) as server:
        user = await make_user(server.database, email="ada@example.com", subject=None)
        assert read_viewer_id(await send_session(server, {"sub": "1", "email": "ada@example.com"}))["id"] == user


async def test_unreachable_issuer_is_503(
    server: Client, broken: Issuer, issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    token = broken.token(email=new_subject())
    with caplog.at_level(logging.DEBUG):
        answer = await send_bearer(server, token)
    message = get_rejection(answer, 503, "SERVICE_UNAVAILABLE")
    assert broken.url not in message
    assert broken.url in caplog.text
    assert token not in caplog.text
    # Other methods still work.
    assert read_viewer_id(await send_bearer(server, issuer.token(sub=new_subject(), email=new_subject())))


async def test_bearer_token_takes_precedence_over_session(server: Client, issuer: Issuer) -> None:
    mine, theirs = new_subject(), new_subject()
    token = issuer.token(sub=mine, email=mine)
    answer = await send_session(server, {"sub": theirs, "email": theirs}, authorization=f"Bearer {token}")
    assert read_viewer_id(answer)["email"] == mine
    refused = await send_session(server, {"sub": theirs, "email": theirs}, authorization="Basic dXNlcjpwYXNz")
    assert "Bearer <token>" in get_rejection(refused, 401, "UNAUTHENTICATED")


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
def test_unsafe_settings_are_rejected(name: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings(**UNSAFE[name])
    (problem,) = caught.value.errors()
    assert problem["loc"] == (name,)
    assert "a key that is none" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["https://", "issuer.example", "https://i.example/?a=b", "https://i.example|x", "https://u:p@i.example", "ftp://i"]
)
def test_issuer_must_be_a_plain_url(url: str) -> None:
    with pytest.raises(ValidationError):
        Settings(oidc_issuer=url, oidc_audience="x")


def test_issuers_are_paired_with_jwks_urls() -> None:
    urls = "https://a.example/, https://b.example"
    settings = Settings(oidc_issuer=urls, oidc_audience="x", oidc_jwks_url="https://a.example/keys,http://keys.internal/b")
    assert settings.issuers() == {"https://a.example/": "https://a.example/keys", "https://b.example": "http://keys.internal/b"}


def test_settings_repr_hides_secrets() -> None:
    secrets = {"secret": SECRET, "authjs_secret": SHARED, "encryption_keys": "a" * 43 + "="}
    given: dict[str, Any] = {name: SecretStr(value) for name, value in secrets.items()}
    settings = Settings(**given)
    shown = f"{settings!r} {create_authenticator(settings)!r} {settings.load_vault()!r} {settings.model_dump()}"
    assert not [value for value in secrets.values() if value in shown]
