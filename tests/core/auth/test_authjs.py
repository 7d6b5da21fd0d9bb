"""Session cookies of Auth.js, issued by the real libraries, and invalid ones."""

import pytest
from joserfc import jwe, jwt
from joserfc.jwk import OctKey

from storefront.core.auth.authjs import AuthjsSessionVerifier, _derive_v5_key
from storefront.core.auth.tokens import Claims
from storefront.core.errors import Unauthenticated

SECRET = "a secret shared with the front end"
OTHER = "the secret that was used before this"
V4, V5, SECURE = "next-auth.session-token", "authjs.session-token", "__Secure-authjs.session-token"

# Created in node by next-auth 4.24.15 (V4) and @auth/core 0.41.3 (the others), valid for 100 years, or expired for an hour:
#   import { encode } from "next-auth/jwt"                          import { encode } from "@auth/core/jwt"
#   await encode({ token, secret, maxAge })                         await encode({ token, secret, salt: "<cookie name>", maxAge })
#   const token = { sub: "cm3x9k2ab0000", email: "ada@example.com", name: "Ada Lovelace", picture: "https://example.com/ada.png" }
#   const secret = "a secret shared with the front end", maxAge = 100 * 365 * 86400                  // or -3600
MADE_V4 = (
    "eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIn0..LumsoR5qxu743TK_.ViOcVLfa1xyAN-RkypuiyKUhfb3qQAVlfEhrpSTk06yZkLeb3xFw"
    "uv7WY3t3th8ARMjq_DseO8J3GetOCtrzT1BzFVnkg-"
    "6Tz__umNswvPvkLpbdNF_iUyqSdOaAGZrpe7x0TdvJkRSNrEBstlA19DAfbTgt1lb108ytw3xtJcJnTn-"
    "t-W-1lq6faeWr-3ZcDa44CnzolRMcRIMwFChNYbyABoJmqBLw3I12LnOR6wDPQb-roH7BpMQl_CZGgw.5YdrOoF7JN-L05hRsFd-CA"
)
MADE_V5 = (
    "eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2Q0JDLUhTNTEyIiwia2lkIjoic1U0MXB2LWFBVkhwRl83cmlsNEFlMFNXSm9xNWtiTmpYby13NzFpan"
    "VrQkdhdUNOdzdKZThsQ0NJN0VhSkN2RVdGOUt0dW5zbmNtbm5UTEtBeVUwLWcifQ..1966kh85o3_VOGiMlD_CNA.ZTtmtMAVjnPoN_oUkmEwx"
    "VAKjIT6qhcGGpoVj0MynCn-IFPJuWgzY6o-"
    "uj1hXDcufwg7DQUmOJv2Av_cLanP1VxcjOuZQZsAZN3DLHOpsNi56CWUOsLEcQCLptEM2_9R5M0jHuL9kzlv5nMOVTChmFvpwScjoFRU8Gyl9e"
    "clWMlUVj5Z632rZ-RlyzFKKryJtwcHmapg0kdVK9C-zB8tuAuI68aCW8W0cKr9PNIX_b4oLyfODn30KEK0zHSSiuh6.TmUxRbkD0ZOwqCJeg4-"
    "yO8BzHrxD91HjLkQb4mooXWk"
)
MADE_SECURE = (
    "eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2Q0JDLUhTNTEyIiwia2lkIjoieXpJazBZRGZOTXBlVzhXWGEyVHpUX1Jab250OG55XzNuRkJqTHFQaT"
    "R3SGNoZFpZS0g2ZkhYSzh3Y3BGbkZLd0tUU2lURVpXUTFDdVI0c1R6NzAyYmcifQ..c5XmFhyovCfZNSHpyZPeSQ.KGwGcqt-"
    "movlzBPaaR6r5teMms1diQF8EBzSAuuzWN_yDVQzzzwb_ft7edBc_V0HvVD2mB965crTym55thRqlK4-Ko7s-ECvJ1KXk1E8NIusVOECkDo-"
    "ZBNbbTlVqMjd6YubgQJhwJO7l7wBC278YDpiFaIm_H5MaASKX6-esGGt01RT-ioU8T2Z5DHAGCRTVdDFVFDSinjND9RVUblP7DYUUTuhXLkwqh"
    "xqlslDH2hZVvPIUK2Z8gn_8hzlYo-J.bcFCw9URwSjMzG4Ts0ay8RLSpIP-L0Z5evrjS5giRI0"
)
EXPIRED_V4 = (
    "eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIn0..t2VZOPdqw-XG8_CK.bXHgiI6VieLnn_9in_mu_oG9tIXx_au-"
    "J82UleYQb3GcEaKgxMERLeHr9_7YtlcMcsjFUkj3Ofeeslv94DkkfXafn7TJHIQMZIivpq2gSA3oXvvG4HC-6XdXbFVIEa-"
    "4xJ85s8XKAWyOxm2EhHJ1wIS_BqOSRYYucQnbxT5nAFQptqLBTQyLMWdWPwxtNZbbXuQyH05L_7EwotANfYVo-f-"
    "kaFtdC6G_q4STC0WrQJHB_rrp61wUyuO-7d1wzw.4DcGtTAMTUm2LEWctrIAsQ"
)
EXPIRED_V5 = (
    "eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2Q0JDLUhTNTEyIiwia2lkIjoic1U0MXB2LWFBVkhwRl83cmlsNEFlMFNXSm9xNWtiTmpYby13NzFpan"
    "VrQkdhdUNOdzdKZThsQ0NJN0VhSkN2RVdGOUt0dW5zbmNtbm5UTEtBeVUwLWcifQ..G8YM8hgRZGnZok7ig--WeQ.3EiyRyCOPMEJWCrWnbsWy"
    "zSaebrTYqdpcTwS1mxB4yKX0_UM3SKUWsyi40tHQtROhHb3CoMksd4IdhtZEVVuq3xy9pCv4DTd4Pd1Tes0OXI0Zi4xDFsA8AKp8JIJnBhwJGz"
    "NJJiYDMAYFug3-jyWrETomejAgYGslgbXW-oVPWurve93VNQ72dF1FvojgB5arxlp6_-"
    "Mk8TbAfWuu_InGuqcaDw0AjxTqAq2D90OZwAQtb4lRsksyqC4dD-1zC8_.28TXhEHyH4ZqV0VSwz41TL5218qcTG4XPf1oepCa6ow"
)

MADE = {V4: MADE_V4, V5: MADE_V5, SECURE: MADE_SECURE}


def encrypt_session(claims: dict[str, object], *, cookie: str = V5, enc: str = "A256CBC-HS512", secret: str = SECRET) -> str:
    """A session encrypted here, for cases that the real libraries do not produce."""
    key = _derive_v5_key(secret, cookie, 64 if enc == "A256CBC-HS512" else 32)
    return jwt.encode({"alg": "dir", "enc": enc}, claims, key, registry=jwe.JWERegistry(algorithms=["dir", enc]))


def get_rejection(cookies: dict[str, str], *secrets: str, now: int | None = None) -> str:
    sessions = AuthjsSessionVerifier(secrets or [SECRET])
    with pytest.raises(Unauthenticated) as caught:
        sessions.verify(sessions.find_sessions(cookies), now=now)
    return str(caught.value)


@pytest.mark.parametrize("cookie", MADE)
def test_session_of_authjs_is_decrypted(cookie: str) -> None:
    claims = AuthjsSessionVerifier([SECRET]).verify({cookie: MADE[cookie]})
    picture = "https://example.com/ada.png"
    assert claims == Claims("cm3x9k2ab0000", "ada@example.com", "Ada Lovelace", picture, issuer="authjs")
    assert not claims.email_verified and claims.verified_email is None


def test_v4_secure_cookie_has_the_same_key() -> None:
    sessions = AuthjsSessionVerifier([SECRET])
    held = sessions.find_sessions({f"__Secure-{V4}": MADE_V4})
    assert sessions.verify(held).subject == "cm3x9k2ab0000"


def test_addresses_are_verified_only_with_trust_email() -> None:
    assert AuthjsSessionVerifier([SECRET], trust_email=True).verify({V5: MADE_V5}).email_verified
    session = encrypt_session({"sub": "1", "exp": 9_999_999_999})
    assert not AuthjsSessionVerifier([SECRET], trust_email=True).verify({V5: session}).email_verified


@pytest.mark.parametrize("cookie", MADE)
def test_chunked_session_is_joined(cookie: str) -> None:
    whole = MADE[cookie]
    # Twelve chunks: they are ordered by number, not by text. Other cookies do not matter.
    size = len(whole) // 11
    chunks = {f"{cookie}.{number}": whole[number * size : (number + 1) * size] for number in range(12)}
    sessions = AuthjsSessionVerifier([SECRET])
    assert sessions.find_sessions({**dict(reversed(chunks.items())), "other": "x"}) == {cookie: whole}


def test_missing_chunk_is_rejected() -> None:
    assert "decrypts it" in get_rejection({f"{V5}.0": MADE_V5[:200], f"{V5}.2": MADE_V5[200:]})


@pytest.mark.parametrize("cookie", MADE)
def test_wrong_secret_is_rejected(cookie: str) -> None:
    message = get_rejection({cookie: MADE[cookie]}, OTHER)
    assert "STOREFRONT_AUTHJS_SECRET" in message
    assert OTHER not in message
    assert MADE[cookie] not in message


@pytest.mark.parametrize("cookie", MADE)
def test_older_secrets_still_decrypt(cookie: str) -> None:
    assert AuthjsSessionVerifier([OTHER, SECRET]).verify({cookie: MADE[cookie]}).subject == "cm3x9k2ab0000"


def test_session_is_bound_to_its_cookie() -> None:
    assert "decrypts it" in get_rejection({V5: MADE_SECURE})
    assert "decrypts it" in get_rejection({V5: MADE_V4})
    assert "decrypts it" in get_rejection({V4: MADE_V5})


@pytest.mark.parametrize(("cookie", "session"), [(V4, EXPIRED_V4), (V5, EXPIRED_V5)])
def test_expired_session_is_rejected(cookie: str, session: str) -> None:
    assert "expired" in get_rejection({cookie: session})


def test_leeway_is_fifteen_seconds() -> None:
    session = encrypt_session({"sub": "1", "exp": 1_000_000})
    assert AuthjsSessionVerifier([SECRET]).verify({V5: session}, now=1_000_014).subject == "1"
    assert "expired" in get_rejection({V5: session}, now=1_000_015)


def test_v5_supports_gcm() -> None:
    session = encrypt_session({"sub": "1", "exp": 9_999_999_999}, enc="A256GCM")
    assert AuthjsSessionVerifier([SECRET]).verify({V5: session}).subject == "1"


def test_old_cookie_beside_new_one_is_ignored() -> None:
    sessions = AuthjsSessionVerifier([SECRET])
    assert sessions.verify(sessions.find_sessions({V5: EXPIRED_V5, V4: MADE_V4})).subject == "cm3x9k2ab0000"


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": 9_999_999_999},
        {"sub": "1"},
        {"sub": 1, "exp": 9_999_999_999},
        {"sub": "", "exp": 9_999_999_999},
        {"sub": "a\0b", "exp": 9_999_999_999},
    ],
)
def test_sub_and_exp_are_required(claims: dict[str, object]) -> None:
    assert "not valid" in get_rejection({V5: encrypt_session(claims)})


def test_other_key_management_is_rejected() -> None:
    key = OctKey.import_key(_derive_v5_key(SECRET, V5, 32).raw_value)
    wrapped = jwt.encode(
        {"alg": "A256KW", "enc": "A256GCM"}, {"sub": "1"}, key, registry=jwe.JWERegistry(algorithms=["A256KW", "A256GCM"])
    )
    assert "decrypts it" in get_rejection({V5: wrapped})


@pytest.mark.parametrize(
    "session", ["x", "....", "a.b.c.d.e", "é" * 9, "x" * 100_000, MADE_V5[:-4] + "AAAA", MADE_V5 + ".x", MADE_V5[5:]]
)
def test_malformed_session_is_rejected(session: str) -> None:
    assert "decrypts it" in get_rejection({V5: session})


def test_no_cookies_mean_anonymous() -> None:
    assert AuthjsSessionVerifier([SECRET]).find_sessions({"authjs.csrf-token": "x", "theme": "dark", V4: ""}) == {}
