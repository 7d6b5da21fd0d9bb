"""Session cookies of Auth.js (NextAuth) front ends: JWTs encrypted with a shared secret (JWE, alg `dir`)."""

import time
from collections.abc import Mapping, Sequence

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from joserfc import jwe, jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey

from storefront.core.auth.tokens import Claims, build_invalid_credentials_error, parse_claims
from storefront.core.errors import Unauthenticated

CREDENTIAL_KIND = "session cookie"
ISSUER = "authjs"
# The clock tolerance of Auth.js itself.
LEEWAY_SECONDS = 15
MAX_CHUNKS = 20

# Key size in bytes of each content encryption.
_KEY_BYTES_BY_ENCRYPTION = {"A256CBC-HS512": 64, "A256GCM": 32}
_V5_COOKIE_NAMES = ("__Secure-authjs.session-token", "authjs.session-token")
_V4_COOKIE_NAMES = ("__Secure-next-auth.session-token", "next-auth.session-token")


class AuthjsSessionVerifier:
    """Verifies sessions with the secrets of the front ends, newest first. `trust_email`: their addresses count as verified."""

    def __init__(self, secrets: Sequence[str], *, trust_email: bool = False) -> None:
        self._trust_email = trust_email
        self._keys = {
            name: [_derive_v5_key(secret, name, size) for secret in secrets for size in _KEY_BYTES_BY_ENCRYPTION.values()]
            for name in _V5_COOKIE_NAMES
        }
        self._keys |= {name: [_derive_v4_key(secret) for secret in secrets] for name in _V4_COOKIE_NAMES}

    def find_sessions(self, cookies: Mapping[str, str]) -> dict[str, str]:
        """The session cookies, by name. Sessions that Auth.js split over several cookies (chunks) are joined."""
        sessions = {name: cookies.get(name) or _join_chunks(cookies, name) for name in self._keys}
        return {name: session for name, session in sessions.items() if session}

    def verify(self, sessions: Mapping[str, str], *, now: int | None = None) -> Claims:
        """The claims of the first valid session; raises Unauthenticated where none is valid. `now`: seconds since 1970."""
        refusals = []
        for name, session in sessions.items():
            try:
                return self._verify_session(name, session, int(time.time()) if now is None else now)
            except Unauthenticated as error:
                # After an upgrade of Auth.js from version 4 to 5, browsers send the old cookie beside the new one.
                refusals.append(error)
        raise refusals[0]

    def _verify_session(self, name: str, session: str, now: int) -> Claims:
        tokens = [token for key in self._keys[name] if (token := _decrypt_session(session, key))]
        if not tokens:
            raise Unauthenticated("The session cookie is not valid: no STOREFRONT_AUTHJS_SECRET decrypts it. Sign in again.")
        try:
            jwt.JWTClaimsRegistry(now, LEEWAY_SECONDS, sub={"essential": True}, exp={"essential": True}).validate(
                tokens[0].claims
            )
        except JoseError as error:
            raise build_invalid_credentials_error(CREDENTIAL_KIND, error) from None
        return parse_claims(
            CREDENTIAL_KIND, tokens[0].claims, issuer=ISSUER, email_verified=self._trust_email, skew=LEEWAY_SECONDS
        )


def _join_chunks(cookies: Mapping[str, str], name: str) -> str:
    chunks = [cookies.get(f"{name}.{number}", "") for number in range(MAX_CHUNKS)]
    return "".join(chunks[: chunks.index("")] if "" in chunks else chunks)


def _decrypt_session(session: str, key: OctKey) -> jwt.Token | None:
    registry = jwe.JWERegistry(algorithms=["dir", *_KEY_BYTES_BY_ENCRYPTION])
    try:
        return jwt.decode(session, key, registry=registry)
    except (JoseError, ValueError, TypeError, AttributeError, RecursionError):
        return None


def _derive_v4_key(secret: str) -> OctKey:
    return _derive_key(secret, "", "NextAuth.js Generated Encryption Key", 32)


def _derive_v5_key(secret: str, cookie: str, size: int) -> OctKey:
    return _derive_key(secret, cookie, f"Auth.js Generated Encryption Key ({cookie})", size)


def _derive_key(secret: str, salt: str, info: str, size: int) -> OctKey:
    return OctKey.import_key(HKDF(SHA256(), size, salt.encode(), info.encode()).derive(secret.encode()))
