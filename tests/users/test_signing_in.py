"""Sign-in by bearer token: users from claims, and rejection of invalid tokens."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from typing import Any

import httpx
import pytest
from psycopg.rows import dict_row

from storefront.core.auth.tokens import DEFAULT_LEEWAY_SECONDS
from storefront.core.ids import uuid7
from tests.client import SECRET, Client, token_of
from tests.factories import make_store, make_user

ME = "{ me { id name image email } }"


def new() -> str:
    """A unique subject, or local part of an address."""
    return uuid7().hex


def part(value: object) -> str:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


def forged(payload: object, header: object = None, secret: str = SECRET) -> str:
    """A forged token, signed with HS256 regardless of its header."""
    signed = f"{part(header or {'alg': 'HS256'})}.{part(payload)}"
    return f"{signed}.{part(hmac.digest(secret.encode(), signed.encode(), hashlib.sha256))}"


def claims(**values: Any) -> dict[str, Any]:
    """Valid claims, without those that are None."""
    given = {"sub": new(), "email": f"{new()}@example.com", "exp": int(time.time()) + 600, **values}
    return {name: value for name, value in given.items() if value is not None}


async def send(client: Client, authorization: str | bytes) -> httpx.Response:
    value = authorization.encode() if isinstance(authorization, str) else authorization
    return await client.http.post("/graphql", json={"query": ME}, headers={b"authorization": value})


async def me(client: Client, token: str) -> Any:
    answer = (await send(client, f"Bearer {token}")).json()
    assert "errors" not in answer, answer
    return answer["data"]["me"]


async def rows(client: Client, **wanted: str) -> list[dict[str, Any]]:
    """The user rows with this value in this column."""
    ((column, value),) = wanted.items()
    async with client.database.transaction() as connection:
        cursor = connection.raw.cursor(row_factory=dict_row)
        joined = "users LEFT JOIN user_identities AS identity ON identity.user_id = users.id"
        found = f"SELECT users.id, users.email, subject FROM {joined} WHERE {column} = %s"
        await cursor.execute(found.encode(), [value])
        return await cursor.fetchall()


def assert_refused(answer: httpx.Response) -> str:
    """Assert a complete 401 response, and return its message."""
    assert answer.status_code == 401, answer.text
    assert answer.headers["www-authenticate"] == "Bearer"
    (error,) = answer.json()["errors"]
    assert error["extensions"] == {"code": "UNAUTHENTICATED", "requestId": answer.headers["x-request-id"]}
    assert "data" not in answer.json()
    return str(error["message"])


async def test_request_without_token_is_anonymous(shopper: Client) -> None:
    assert await shopper.ask(ME) == {"me": None}


async def test_first_token_creates_user_later_tokens_match(shopper: Client) -> None:
    subject, email = new(), f"{new()}@example.com"
    known = shopper.signed_in(subject, email=email, name="Zoë Ω", picture="https://example.com/z.png")
    first = (await known.ask(ME))["me"]
    assert first == {"id": first["id"], "name": "Zoë Ω", "image": "https://example.com/z.png", "email": email}
    assert (await known.ask(ME))["me"] == first
    # The sub is the user. A later token may tell their new address; name and picture are the user's own to change.
    assert await me(shopper, token_of(subject)) == first
    other = f"{new()}@example.com"
    assert await me(shopper, token_of(subject, email=other, name="Other")) == {**first, "email": other}
    assert len(await rows(shopper, subject=subject)) == 1


async def test_name_and_picture_claims_are_optional(shopper: Client) -> None:
    found = await me(shopper, token_of(new(), email=f"{new()}@example.com"))
    assert (found["name"], found["image"]) == (None, None)


async def test_known_address_without_sub_is_linked_once(shopper: Client) -> None:
    email, first, second = f"{new()}@example.com", new(), new()
    user = await make_user(shopper.database, email=email, subject=None, name="Kept")
    store = await make_store(shopper.database, user_id=user, is_published=False)
    found = await me(shopper, token_of(first, email=email, name="Ignored"))
    assert (found["id"], found["name"]) == (user, "Kept")
    owner = shopper.signed_in(first)
    assert (await owner.ask("query($id: ID!) { config(by: {id: $id}) { id } }", id=store))["config"] == {"id": store}
    message = assert_refused(await send(shopper, f"Bearer {token_of(second, email=email)}"))
    assert "another sub" in message
    assert [row["subject"] for row in await rows(shopper, **{"users.email": email})] == [first]


async def test_new_sub_without_address_is_rejected(shopper: Client) -> None:
    subject = new()
    for token in (token_of(subject), forged(claims(sub=subject, email="")), forged(claims(sub=subject, email=5))):
        assert "email" in assert_refused(await send(shopper, f"Bearer {token}"))
    assert await rows(shopper, subject=subject) == []


async def test_concurrent_requests_create_one_user(shopper: Client) -> None:
    for _ in range(5):
        subject, email = new(), f"{new()}@example.com"
        token = token_of(subject, email=email)
        found = await asyncio.gather(*(me(shopper, token) for _ in range(8)))
        assert len({one["id"] for one in found}) == len(await rows(shopper, **{"users.email": email})) == 1


async def test_concurrent_subs_do_not_share_address(shopper: Client) -> None:
    email = f"{new()}@example.com"
    answers = await asyncio.gather(*(send(shopper, f"Bearer {token_of(new(), email=email)}") for _ in range(6)))
    assert sorted(answer.status_code for answer in answers) == [200] + [401] * 5
    assert len(await rows(shopper, **{"users.email": email})) == 1


async def test_concurrent_addresses_of_one_sub_are_one_user(shopper: Client) -> None:
    for _ in range(5):
        subject = new()
        tokens = [token_of(subject, email=f"{new()}@example.com") for _ in range(6)]
        found = await asyncio.gather(*(me(shopper, token) for token in tokens))
        assert len({one["id"] for one in found}) == len(await rows(shopper, subject=subject)) == 1


async def test_clock_skew_is_tolerated(shopper: Client) -> None:
    now = int(time.time())
    for times in (
        {"exp": now - DEFAULT_LEEWAY_SECONDS // 2},
        {"nbf": now + DEFAULT_LEEWAY_SECONDS // 2},
        {"iat": now + DEFAULT_LEEWAY_SECONDS // 2},
    ):
        assert await me(shopper, forged(claims(**times)))


NOW = int(time.time())
UNFIT: dict[str, str] = {
    "expired": forged(claims(exp=NOW - 3_600)),
    "not yet valid": forged(claims(nbf=NOW + 3_600)),
    "made in the future": forged(claims(iat=NOW + 3_600)),
    "without exp": forged(claims(exp=None)),
    "exp is text": forged(claims(exp="tomorrow")),
    "exp is null": forged({**claims(), "exp": None}),
    "exp is a list": forged(claims(exp=[NOW + 600])),
    "exp is not a number": forged(claims(exp=float("nan"))),
    "exp is nothing finite": forged(claims(exp=float("-inf"))),
    "nbf is infinite": forged(claims(nbf=float("inf"))),
    "nbf is an object": forged(claims(nbf={})),
    "signed with another secret": forged(claims(), secret="another secret of thirty-two characters"),
    "signature of another token": forged(claims()).rpartition(".")[0] + "." + forged(claims()).rpartition(".")[2],
    "changed after signing": ".".join((forged(claims()).split(".")[0], part(claims()), forged(claims()).split(".")[2])),
    "no signature": forged(claims()).rpartition(".")[0] + ".",
    "alg none": f"{part({'alg': 'none'})}.{part(claims())}.",
    "alg None, signed": forged(claims(), {"alg": "None"}),
    "alg HS384": forged(claims(), {"alg": "HS384"}),
    "alg RS256": forged(claims(), {"alg": "RS256"}),
    "alg is a number": forged(claims(), {"alg": 5}),
    "alg is a list": forged(claims(), {"alg": ["HS256"]}),
    "alg is an object": forged(claims(), {"alg": {}}),
    "no alg": forged(claims(), {"typ": "JWT"}),
    "unknown crit": forged(claims(), {"alg": "HS256", "crit": ["x"], "x": 1}),
    "crit is a number": forged(claims(), {"alg": "HS256", "crit": 5}),
    "payload not encoded": forged(claims(), {"alg": "HS256", "b64": False, "crit": ["b64"]}),
    "header is a list": forged(claims(), ["HS256"]),
    "header is text": forged(claims(), "HS256"),
    "header is no JSON": forged(claims(), b"\xff{"),
    "header is deep": forged(claims(), b"[" * 9_000),
    "payload is a list": forged([1]),
    "payload is null": forged(None),
    "payload is text": forged("x"),
    "payload is no JSON": forged(b"\xff\xfe"),
    "payload is deep": forged(b'{"a":' * 2_000 + b"1" + b"}" * 2_000),
    "sub is a number": forged(claims(sub=5)),
    "sub is a list": forged(claims(sub=["x"])),
    "sub is empty": forged(claims(sub="")),
    "sub has NUL": forged(claims(sub="a\0b")),
    "sub has half a character": forged(claims(sub="a\ud800")),
    "without sub": forged(claims(sub=None)),
    "garbage": "garbage",
    "dots": "..",
    "more dots": "a.b.c.d.e",
    "encrypted": ".".join([part({"alg": "dir", "enc": "A128GCM"}), "", "AAAA", "AAAA", "AAAA"]),
    "no base64": "!!!.???.***",
    "two words": "a b",
    "ten kilobytes": "x" * 10_000,
    "ten kilobytes of parts": f"{'e' * 4_000}.{'e' * 4_000}.{'e' * 2_000}",
}


@pytest.mark.parametrize("name", UNFIT)
async def test_invalid_token_is_401_and_never_quoted(shopper: Client, name: str) -> None:
    token = UNFIT[name]
    answer = await send(shopper, f"Bearer {token}")
    message = assert_refused(answer)
    assert "Sign in again" in message
    assert not [piece for piece in token.split(".") if len(piece) > 6 and piece in answer.text]


@pytest.mark.parametrize("header", ["Bearer", "Basic xyz", "bearer", "Token x", "x" * 10_000, b"\xff\xfe"])
async def test_header_without_bearer_token_is_401(shopper: Client, header: str | bytes) -> None:
    assert "Bearer <token>" in assert_refused(await send(shopper, header))


async def test_blank_bearer_token_is_401(shopper: Client) -> None:
    # Clients tidy such a header up before they send it, so this one is written by hand.
    reader, writer = await asyncio.open_connection(shopper.http.base_url.host, shopper.http.base_url.port)
    writer.write(b"GET /graphql?query={me{id}} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer   \r\nconnection: close\r\n\r\n")
    answer = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    assert answer.startswith("HTTP/1.1 401")
    assert "UNAUTHENTICATED" in answer


async def test_undecodable_bytes_are_401(shopper: Client) -> None:
    assert_refused(await send(shopper, b"Bearer \xff\xfe.\xc3\xa9.\x80"))


async def test_bearer_scheme_is_case_insensitive(shopper: Client) -> None:
    token = forged(claims())
    for scheme in ("bearer", "BEARER", "Bearer  "):
        assert (await send(shopper, f"{scheme} {token}")).status_code == 200


@pytest.mark.parametrize("value", ["a\0b", "half \ud83d", 5, ["x"], {}, ""])
async def test_claims_that_cannot_be_stored_are_ignored(shopper: Client, value: object) -> None:
    assert (await me(shopper, forged(claims(name=value, picture=value))))["name"] is None


async def test_claims_of_any_length_never_fail(shopper: Client) -> None:
    # Not even where an index has no room for them.
    long = "".join(new() for _ in range(150))
    for given in ({"sub": long}, {"email": f"{long}@example.com"}, {"name": long}):
        answer = await send(shopper, f"Bearer {forged(claims(**given))}")
        assert answer.status_code in (200, 401)


async def test_token_is_verified_before_claims_are_read(shopper: Client) -> None:
    answer = await Client(shopper.http, shopper.database, "garbage").post("{ configs { totalCount } }")
    assert_refused(answer)
