"""Verification of bearer tokens of OpenID Connect issuers, and their claims."""

import time
from collections.abc import AsyncIterator
from itertools import product
from typing import Any

import pytest
import pytest_asyncio
from joserfc.jwk import OctKey, RSAKey
from pydantic import SecretStr

from storefront.core.auth.identity import Authenticator, create_authenticator
from storefront.core.auth.tokens import Claims
from storefront.core.errors import Unauthenticated
from storefront.core.settings import Settings
from tests.client import SECRET, token_of
from tests.issuer import AUDIENCE, KINDS, Host, Issuer, hosting, key, signed


@pytest_asyncio.fixture(scope="session")
async def host() -> AsyncIterator[Host]:
    async with hosting() as running_host:
        yield running_host


@pytest.fixture
def issuer(host: Host) -> Issuer:
    return host.issuer()


def trust_issuers(*issuers: Issuer, **options: Any) -> Authenticator:
    """An authenticator that trusts these issuers."""
    urls = ",".join(issuer.url for issuer in issuers)
    values = {"secret": SecretStr(SECRET), "oidc_issuer": urls, "oidc_audience": f"other, {AUDIENCE}", **options}
    return create_authenticator(Settings(**values))


async def verify_token(who: Authenticator, token: str) -> Claims:
    claims = await who.authenticate({"authorization": f"Bearer {token}"}, {})
    assert claims
    return claims


async def get_rejection(who: Authenticator, token: str) -> str:
    with pytest.raises(Unauthenticated) as caught:
        await who.authenticate({"authorization": f"Bearer {token}"}, {})
    assert not [part for part in token.split(".") if len(part) > 6 and part in str(caught.value)]
    return str(caught.value)


@pytest.mark.parametrize("algorithm", KINDS)
async def test_every_algorithm_is_verified(issuer: Issuer, algorithm: str) -> None:
    issuer.keys = [key(KINDS[algorithm])]
    token = signed(issuer.claims(name="Ada", email="ada@example.com"), issuer.keys[0], algorithm)
    claims = await verify_token(trust_issuers(issuer), token)
    assert claims == Claims("ada", "ada@example.com", "Ada", issuer=issuer.url)
    changed = token[:-12] + ("A" if token[-12] != "A" else "B") + token[-11:]
    assert "bad signature" in await get_rejection(trust_issuers(issuer), changed)


async def test_same_sub_of_two_issuers_is_two_users(host: Host, issuer: Issuer) -> None:
    other = host.issuer()
    other.keys = [key(kid="other")]
    who = trust_issuers(issuer, other)
    mine, theirs = await verify_token(who, issuer.token()), await verify_token(who, other.token())
    assert [(claims.issuer, claims.subject) for claims in (mine, theirs)] == [(issuer.url, "ada"), (other.url, "ada")]
    # An issuer cannot sign tokens of another.
    assert "no such key" in await get_rejection(who, signed(issuer.claims(), other.keys[0]))


async def test_own_tokens_have_own_issuer(issuer: Issuer) -> None:
    claims = await verify_token(trust_issuers(issuer), token_of("ada", email="ada@example.com"))
    assert claims == Claims("ada", "ada@example.com", email_verified=True)
    assert issuer.asked == []


@pytest.mark.parametrize(
    ("said", "verified"),
    [({"email_verified": True}, True), ({"email_verified": "true"}, False), ({"email_verified": False}, False), ({}, False)],
)
async def test_email_verified_claim_is_respected(issuer: Issuer, said: dict[str, Any], verified: bool) -> None:
    claims = await verify_token(trust_issuers(issuer), issuer.token(email="ada@example.com", **said))
    assert claims.email_verified is verified
    assert not (await verify_token(trust_issuers(issuer), issuer.token(**said))).email_verified
    distrusting = trust_issuers(issuer, oidc_trust_email=False)
    assert not (await verify_token(distrusting, issuer.token(email="ada@example.com", **said))).email_verified


async def test_issued_at_allows_for_clock_skew(issuer: Issuer) -> None:
    now = int(time.time())
    who = trust_issuers(issuer, clock_skew=20)
    # The clock claim counts in our own tokens only.
    assert (await verify_token(who, issuer.token(iat=now, clock="database"))).issued_at == now - 20
    assert (await verify_token(who, issuer.token(iat=None))).issued_at == 0


NOW = int(time.time())
UNFIT: dict[str, tuple[dict[str, Any], str]] = {
    "another issuer": ({"iss": "https://elsewhere.example"}, "its issuer is not configured here"),
    "no issuer": ({"iss": None}, "its issuer is not configured here"),
    "issuers": ({"iss": ["x"]}, "its issuer is not configured here"),
    "another audience": ({"aud": "the bank"}, "invalid claim aud"),
    "other audiences": ({"aud": ["the bank", "the post"]}, "invalid claim aud"),
    "empty audience": ({"aud": []}, "invalid claim aud"),
    "odd audience": ({"aud": {AUDIENCE: 1}}, "invalid claim aud"),
    "no audience": ({"aud": None}, "missing claim aud"),
    "expired": ({"exp": NOW - 3_600}, "expired"),
    "no exp": ({"exp": None}, "missing claim exp"),
    "exp is text": ({"exp": "never"}, "invalid claim exp"),
    "not yet": ({"nbf": NOW + 3_600}, "invalid claim nbf"),
    "from the future": ({"iat": NOW + 3_600}, "invalid claim iat"),
    "no sub": ({"sub": None}, "missing claim sub"),
    "sub is a number": ({"sub": 5}, "invalid claim sub"),
    "sub has NUL": ({"sub": "a\0b"}, "its sub is not a valid string"),
    "sub is endless": ({"sub": "x" * 5_000}, "its sub is not a valid string"),
}


@pytest.mark.parametrize("name", UNFIT)
async def test_invalid_claim_is_named(issuer: Issuer, name: str) -> None:
    values, reason = UNFIT[name]
    assert reason in await get_rejection(trust_issuers(issuer), issuer.token(**values))


async def test_one_of_several_audiences_suffices(issuer: Issuer) -> None:
    for audience in (AUDIENCE, "other", ["the bank", AUDIENCE]):
        assert await verify_token(trust_issuers(issuer), issuer.token(aud=audience))


async def test_clock_skew_follows_the_setting(issuer: Issuer) -> None:
    now = int(time.time())
    for times in ({"exp": now - 15}, {"nbf": now + 20}, {"iat": now + 20}):
        assert await verify_token(trust_issuers(issuer), issuer.token(**times))
        assert await get_rejection(trust_issuers(issuer, clock_skew=0), issuer.token(**times))


async def test_other_token_types_are_rejected(issuer: Issuer) -> None:
    for kind in ("JWT", "at+jwt", "application/at+jwt", None):
        assert await verify_token(trust_issuers(issuer), signed(issuer.claims(), issuer.keys[0], typ=kind))
    message = await get_rejection(trust_issuers(issuer), signed(issuer.claims(), issuer.keys[0], typ="logout+jwt"))
    assert "neither an ID token nor an access token" in message


async def test_extra_headers_and_certificates_are_ignored(issuer: Issuer) -> None:
    token = signed(issuer.claims(), issuer.keys[0], x5c=["A" * 3_000], x5t="x", nonce="y")
    assert await verify_token(trust_issuers(issuer), token)


async def test_embedded_key_is_not_trusted(issuer: Issuer) -> None:
    mine = key(kid="mine")
    token = signed(issuer.claims(), mine, jwk=mine.as_dict(private=False), jku="https://evil.example/keys", kid="first")
    assert "bad signature" in await get_rejection(trust_issuers(issuer), token)
    assert "no such key" in await get_rejection(trust_issuers(issuer), signed(issuer.claims(), mine))


async def test_public_key_as_hmac_secret_is_rejected(issuer: Issuer) -> None:
    rsa = key("RSA")
    assert isinstance(rsa, RSAKey)
    issuer.keys = [rsa]
    public = rsa.as_dict(private=False)
    secrets = [rsa.as_pem(private=False), rsa.as_der(private=False), str(public["n"]).encode()]
    for secret, algorithm in product(secrets, ("HS256", "HS384", "HS512")):
        # The library refuses a public key as a secret, so the forged token is signed here.
        token = signed(issuer.claims(), OctKey(secret, secret, {"kid": "first"}), algorithm)
        assert "not valid" in await get_rejection(trust_issuers(issuer), token)


async def test_symmetric_key_in_jwks_is_ignored(issuer: Issuer) -> None:
    shared = OctKey.import_key("a secret that the issuer published by mistake", {"kid": "shared"})
    issuer.keys = [key(), shared.as_dict(private=True)]
    for algorithm in ("HS256", "HS384"):
        token = signed(issuer.claims(), shared, algorithm)
        assert "not valid" in await get_rejection(trust_issuers(issuer), token)


@pytest.mark.parametrize(
    ("kind", "marked", "algorithm"),
    [
        ("RSA", "RS256", "PS256"),
        ("RSA", "PS256", "RS256"),
        ("RSA", None, "RS384"),
        ("RSA", None, "RS512"),
        ("P-521", None, "ES512"),
    ],
)
async def test_key_verifies_only_its_own_algorithm(issuer: Issuer, kind: str, marked: str | None, algorithm: str) -> None:
    issuer.keys = [key(kind, alg=marked), key(kid="other")]
    assert "not valid" in await get_rejection(trust_issuers(issuer), signed(issuer.claims(), issuer.keys[0], algorithm))


async def test_unsigned_token_is_rejected(issuer: Issuer) -> None:
    head, body, _ = issuer.token().split(".")
    unsigned = signed(issuer.claims(), issuer.keys[0], "none")
    for token in (f"{head}.{body}.", unsigned, f"{unsigned}x", f"{head}..", f"..{body}", f"{head}.{body}", "[" * 9_000):
        assert "not valid" in await get_rejection(trust_issuers(issuer), token)


async def test_invalid_token_causes_no_key_fetch(issuer: Issuer) -> None:
    who = trust_issuers(issuer)
    for token in (
        signed(issuer.claims(), issuer.keys[0], "none"),
        signed(issuer.claims(), key("P-521", "big"), "ES512"),
        signed(issuer.claims(), issuer.keys[0], typ="logout+jwt"),
        signed(issuer.claims(), issuer.keys[0], kid=["first"]),
    ):
        assert "not valid" in await get_rejection(who, token)
    assert issuer.asked == []


@pytest.mark.parametrize(
    "header", [{"crit": ["exp"], "exp": 1}, {"crit": ["b64"], "b64": False}, {"kid": 5}, {"typ": 5}, {"crit": 5}]
)
async def test_unknown_critical_headers_are_rejected(issuer: Issuer, header: dict[str, Any]) -> None:
    assert "not valid" in await get_rejection(trust_issuers(issuer), signed(issuer.claims(), issuer.keys[0], **header))
