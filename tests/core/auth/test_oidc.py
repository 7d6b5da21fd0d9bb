"""Which bearer tokens of OpenID Connect issuers are believed, and what they make of their user."""

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
    async with hosting() as one:
        yield one


@pytest.fixture
def issuer(host: Host) -> Issuer:
    return host.issuer()


def trusting(*issuers: Issuer, **options: Any) -> Authenticator:
    """A server that believes these issuers."""
    urls = ",".join(issuer.url for issuer in issuers)
    given = {"secret": SecretStr(SECRET), "oidc_issuer": urls, "oidc_audience": f"other, {AUDIENCE}", **options}
    return create_authenticator(Settings(**given))


async def believed(who: Authenticator, token: str) -> Claims:
    claims = await who.authenticate({"authorization": f"Bearer {token}"}, {})
    assert claims
    return claims


async def refusal(who: Authenticator, token: str) -> str:
    with pytest.raises(Unauthenticated) as caught:
        await who.authenticate({"authorization": f"Bearer {token}"}, {})
    assert not [part for part in token.split(".") if len(part) > 6 and part in str(caught.value)]
    return str(caught.value)


@pytest.mark.parametrize("algorithm", KINDS)
async def test_every_algorithm_is_understood(issuer: Issuer, algorithm: str) -> None:
    issuer.keys = [key(KINDS[algorithm])]
    token = signed(issuer.claims(name="Ada", email="ada@example.com"), issuer.keys[0], algorithm)
    claims = await believed(trusting(issuer), token)
    assert claims == Claims("ada", "ada@example.com", "Ada", issuer=issuer.url)
    changed = token[:-12] + ("A" if token[-12] != "A" else "B") + token[-11:]
    assert "bad signature" in await refusal(trusting(issuer), changed)


async def test_two_issuers_never_mean_the_same_user(host: Host, issuer: Issuer) -> None:
    other = host.issuer()
    other.keys = [key(kid="other")]
    who = trusting(issuer, other)
    mine, theirs = await believed(who, issuer.token()), await believed(who, other.token())
    assert [(one.issuer, one.subject) for one in (mine, theirs)] == [(issuer.url, "ada"), (other.url, "ada")]
    # Nor does one sign for the other.
    assert "no such key" in await refusal(who, signed(issuer.claims(), other.keys[0]))


async def test_tokens_of_our_own_keep_their_bare_sub(issuer: Issuer) -> None:
    claims = await believed(trusting(issuer), token_of("ada", email="ada@example.com"))
    assert claims == Claims("ada", "ada@example.com", email_verified=True)
    assert issuer.asked == []


@pytest.mark.parametrize(
    ("said", "verified"),
    [({"email_verified": True}, True), ({"email_verified": "true"}, False), ({"email_verified": False}, False), ({}, False)],
)
async def test_an_address_is_verified_when_the_issuer_says_so(issuer: Issuer, said: dict[str, Any], verified: bool) -> None:
    claims = await believed(trusting(issuer), issuer.token(email="ada@example.com", **said))
    assert claims.email_verified is verified
    assert not (await believed(trusting(issuer), issuer.token(**said))).email_verified
    distrusting = trusting(issuer, oidc_trust_email=False)
    assert not (await believed(distrusting, issuer.token(email="ada@example.com", **said))).email_verified


async def test_issued_allows_for_a_fast_clock(issuer: Issuer) -> None:
    now = int(time.time())
    who = trusting(issuer, clock_skew=20)
    # Whoever signs for the issuer cannot say that its clock is ours.
    assert (await believed(who, issuer.token(iat=now, clock="database"))).issued_at == now - 20
    assert (await believed(who, issuer.token(iat=None))).issued_at == 0


NOW = int(time.time())
UNFIT: dict[str, tuple[dict[str, Any], str]] = {
    "another issuer": ({"iss": "https://elsewhere.example"}, "does not know its issuer"),
    "no issuer": ({"iss": None}, "does not know its issuer"),
    "issuers": ({"iss": ["x"]}, "does not know its issuer"),
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
    "sub has NUL": ({"sub": "a\0b"}, "sub is no text"),
    "sub is endless": ({"sub": "x" * 5_000}, "sub is no text"),
}


@pytest.mark.parametrize("name", UNFIT)
async def test_a_claim_that_does_not_hold_is_named(issuer: Issuer, name: str) -> None:
    values, reason = UNFIT[name]
    assert reason in await refusal(trusting(issuer), issuer.token(**values))


async def test_one_of_several_audiences_will_do(issuer: Issuer) -> None:
    for audience in (AUDIENCE, "other", ["the bank", AUDIENCE]):
        assert await believed(trusting(issuer), issuer.token(aud=audience))


async def test_clocks_may_differ_as_much_as_the_setting_says(issuer: Issuer) -> None:
    now = int(time.time())
    for times in ({"exp": now - 15}, {"nbf": now + 20}, {"iat": now + 20}):
        assert await believed(trusting(issuer), issuer.token(**times))
        assert await refusal(trusting(issuer, clock_skew=0), issuer.token(**times))


async def test_what_else_an_issuer_signs_is_no_token(issuer: Issuer) -> None:
    for kind in ("JWT", "at+jwt", "application/at+jwt", None):
        assert await believed(trusting(issuer), signed(issuer.claims(), issuer.keys[0], typ=kind))
    message = await refusal(trusting(issuer), signed(issuer.claims(), issuer.keys[0], typ="logout+jwt"))
    assert "neither an ID token nor an access token" in message


async def test_further_headers_and_chains_of_certificates_do_not_matter(issuer: Issuer) -> None:
    token = signed(issuer.claims(), issuer.keys[0], x5c=["A" * 3_000], x5t="x", nonce="y")
    assert await believed(trusting(issuer), token)


async def test_a_key_in_the_token_itself_proves_nothing(issuer: Issuer) -> None:
    mine = key(kid="mine")
    token = signed(issuer.claims(), mine, jwk=mine.as_dict(private=False), jku="https://evil.example/keys", kid="first")
    assert "bad signature" in await refusal(trusting(issuer), token)
    assert "no such key" in await refusal(trusting(issuer), signed(issuer.claims(), mine))


async def test_a_public_key_is_no_secret(issuer: Issuer) -> None:
    rsa = key("RSA")
    assert isinstance(rsa, RSAKey)
    issuer.keys = [rsa]
    public = rsa.as_dict(private=False)
    secrets = [rsa.as_pem(private=False), rsa.as_der(private=False), str(public["n"]).encode()]
    for secret, algorithm in product(secrets, ("HS256", "HS384", "HS512")):
        # The library does not take a public key for a secret. One who forges does.
        token = signed(issuer.claims(), OctKey(secret, secret, {"kid": "first"}), algorithm)
        assert "not valid" in await refusal(trusting(issuer), token)


async def test_a_secret_among_the_keys_is_not_used(issuer: Issuer) -> None:
    shared = OctKey.import_key("a secret that the issuer published by mistake", {"kid": "shared"})
    issuer.keys = [key(), shared.as_dict(private=True)]
    for algorithm in ("HS256", "HS384"):
        token = signed(issuer.claims(), shared, algorithm)
        assert "not valid" in await refusal(trusting(issuer), token)


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
async def test_a_key_signs_only_by_its_own_algorithm(issuer: Issuer, kind: str, marked: str | None, algorithm: str) -> None:
    issuer.keys = [key(kind, alg=marked), key(kid="other")]
    assert "not valid" in await refusal(trusting(issuer), signed(issuer.claims(), issuer.keys[0], algorithm))


async def test_no_signature_is_no_proof(issuer: Issuer) -> None:
    head, body, _ = issuer.token().split(".")
    unsigned = signed(issuer.claims(), issuer.keys[0], "none")
    for token in (f"{head}.{body}.", unsigned, f"{unsigned}x", f"{head}..", f"..{body}", f"{head}.{body}", "[" * 9_000):
        assert "not valid" in await refusal(trusting(issuer), token)


async def test_a_token_that_cannot_be_good_is_not_worth_asking_for_keys(issuer: Issuer) -> None:
    who = trusting(issuer)
    for token in (
        signed(issuer.claims(), issuer.keys[0], "none"),
        signed(issuer.claims(), key("P-521", "big"), "ES512"),
        signed(issuer.claims(), issuer.keys[0], typ="logout+jwt"),
        signed(issuer.claims(), issuer.keys[0], kid=["first"]),
    ):
        assert "not valid" in await refusal(who, token)
    assert issuer.asked == []


@pytest.mark.parametrize(
    "header", [{"crit": ["exp"], "exp": 1}, {"crit": ["b64"], "b64": False}, {"kid": 5}, {"typ": 5}, {"crit": 5}]
)
async def test_headers_that_must_be_understood_are_not_passed_over(issuer: Issuer, header: dict[str, Any]) -> None:
    assert "not valid" in await refusal(trusting(issuer), signed(issuer.claims(), issuer.keys[0], **header))
