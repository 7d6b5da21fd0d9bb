"""Session cookies of Auth.js (NextAuth) front ends: JWTs that are encrypted with a secret which we share (JWE, dir)."""

import time
from collections.abc import Mapping, Sequence

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from joserfc import jwe, jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey

from storefront.core.auth.tokens import Claims, invalid, said
from storefront.core.errors import Unauthenticated

PROOF = "session cookie"
ISSUER = "authjs"
# Seconds, as in Auth.js itself.
LEEWAY = 15
MOST_CHUNKS = 20

# Bytes of the key for each way to encrypt.
_SIZES = {"A256CBC-HS512": 64, "A256GCM": 32}
_V5 = ("__Secure-authjs.session-token", "authjs.session-token")
_V4 = ("__Secure-next-auth.session-token", "next-auth.session-token")


class Sessions:
    """The secrets of the front ends, newest first. With `trust_email`, they vouch for the addresses in their sessions."""

    def __init__(self, secrets: Sequence[str], *, trust_email: bool = False) -> None:
        self._trust_email = trust_email
        self._keys = {name: [_v5(secret, name, size) for secret in secrets for size in _SIZES.values()] for name in _V5}
        self._keys |= {name: [_v4(secret) for secret in secrets] for name in _V4}

    def held(self, cookies: Mapping[str, str]) -> dict[str, str]:
        """The sessions among the cookies, by name; those that were too long for one cookie put together again."""
        found = {name: cookies.get(name) or _joined(cookies, name) for name in self._keys}
        return {name: session for name, session in found.items() if session}

    def claims(self, held: Mapping[str, str], *, now: int | None = None) -> Claims:
        """What the first session that holds says; raises Unauthenticated where none does."""
        refusals = []
        for name, session in held.items():
            try:
                return self._claims(name, session, int(time.time()) if now is None else now)
            except Unauthenticated as error:
                # A front end that moved from version 4 to 5 leaves an old cookie beside the new one.
                refusals.append(error)
        raise refusals[0]

    def _claims(self, name: str, session: str, now: int) -> Claims:
        opened = [token for key in self._keys[name] if (token := _decrypted(session, key))]
        if not opened:
            raise Unauthenticated("The session cookie is not valid: no STOREFRONT_AUTHJS_SECRET opens it. Sign in again.")
        try:
            jwt.JWTClaimsRegistry(now, LEEWAY, sub={"essential": True}, exp={"essential": True}).validate(opened[0].claims)
        except JoseError as error:
            raise invalid(PROOF, error) from None
        return said(PROOF, opened[0].claims, issuer=ISSUER, email_verified=self._trust_email, skew=LEEWAY)


def _joined(cookies: Mapping[str, str], name: str) -> str:
    chunks = [cookies.get(f"{name}.{number}", "") for number in range(MOST_CHUNKS)]
    return "".join(chunks[: chunks.index("")] if "" in chunks else chunks)


def _decrypted(session: str, key: OctKey) -> jwt.Token | None:
    registry = jwe.JWERegistry(algorithms=["dir", *_SIZES])
    try:
        return jwt.decode(session, key, registry=registry)
    except (JoseError, ValueError, TypeError, AttributeError, RecursionError):
        return None


def _v4(secret: str) -> OctKey:
    return _derived(secret, "", "NextAuth.js Generated Encryption Key", 32)


def _v5(secret: str, cookie: str, size: int) -> OctKey:
    return _derived(secret, cookie, f"Auth.js Generated Encryption Key ({cookie})", size)


def _derived(secret: str, salt: str, info: str, size: int) -> OctKey:
    return OctKey.import_key(HKDF(SHA256(), size, salt.encode(), info.encode()).derive(secret.encode()))
