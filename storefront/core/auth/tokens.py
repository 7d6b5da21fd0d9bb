"""Our own bearer tokens, JWTs signed with the server's secret (HS256); and the claims of all verified credentials."""

import time
from dataclasses import dataclass, field
from typing import Any

from cachetools import LRUCache
from joserfc import jwt
from joserfc.errors import InvalidClaimError, JoseError, MissingClaimError
from joserfc.jwk import OctKey

from storefront.core.auth.email_addresses import normalize_email
from storefront.core.errors import Unauthenticated

ALGORITHMS = ["HS256"]
# Allowed clock skew.
DEFAULT_LEEWAY_SECONDS = 30
# Maximum size of a claim. An index entry of Postgres has at most 2,700 bytes.
MAX_CLAIM_BYTES = 2_000
# Maximum number of cached verified tokens. Tokens longer than MAX_CLAIM_BYTES are not cached.
MAX_CACHED_TOKENS = 2_000
# Seconds since 1970. Numbers in JSON may exceed every timestamp.
MAX_TIMESTAMP_SECONDS = 2**53
# The issuer of our own tokens. Others are URLs, or `authjs`.
OWN_ISSUER = "storefront"
# The claim that marks tokens whose `iat` is by the clock of the database, as is the time of sign-out.
CLOCK_CLAIM, DATABASE_CLOCK = "clock", "database"


@dataclass(frozen=True, slots=True)
class Claims:
    """The claims of verified credentials. `issuer` and `subject` together identify the user.

    Only a verified address may link to an existing user. `issued_at` and `expires_at` are in seconds since 1970. Subscriptions
    end at `expires_at`. `issued_at` is the earliest possible time of issue: `iat` minus the allowed skew, unless it is by our
    clock; 0 without `iat`.
    """

    subject: str
    email: str | None = None
    name: str | None = None
    picture: str | None = None
    email_verified: bool = False
    expires_at: float | None = field(default=None, compare=False)
    issued_at: float = field(default=0.0, compare=False)
    issuer: str = OWN_ISSUER

    @property
    def verified_email(self) -> str | None:
        """The normalized address; None unless it is verified and valid."""
        return normalize_email(self.email) if self.email and self.email_verified else None


def sign_token(claims: Claims, secret: str, *, seconds: int, database_time: float | None = None) -> str:
    """A token for a user, valid for so many seconds.

    With `database_time`, in seconds since 1970, it is accepted immediately after its user has signed out everywhere; otherwise
    `iat` is by the clock of this machine.
    """
    # Microseconds, the precision of Postgres.
    now = round(time.time() if database_time is None else database_time, 6)
    optional_claims = {"sub": claims.subject, "email": claims.email, "name": claims.name, "picture": claims.picture}
    optional_claims[CLOCK_CLAIM] = None if database_time is None else DATABASE_CLOCK
    payload = {name: value for name, value in optional_claims.items() if value is not None}
    return jwt.encode({"alg": ALGORITHMS[0]}, {**payload, "iat": now, "exp": int(now) + seconds}, OctKey.import_key(secret))


class TokenVerifier:
    """Verifies our own tokens. Verified tokens are cached until they expire."""

    def __init__(self, secret: str, *, leeway: int = DEFAULT_LEEWAY_SECONDS) -> None:
        self._key, self._leeway = OctKey.import_key(secret), leeway
        self._cache: LRUCache[str, Claims] = LRUCache(MAX_CACHED_TOKENS)

    def get_cached(self, token: str) -> Claims | None:
        """The claims of a token that was verified before and has not expired; None otherwise."""
        claims = self._cache.get(token)
        return None if claims is None or (claims.expires_at or 0) <= time.time() else claims

    def verify(self, token: str) -> Claims:
        """The claims of a valid token; raises Unauthenticated for an invalid or expired one."""
        cached = self.get_cached(token)
        if cached is not None:
            return cached
        try:
            payload = jwt.decode(token, self._key, algorithms=ALGORITHMS).claims
            jwt.JWTClaimsRegistry(leeway=self._leeway, sub={"essential": True}, exp={"essential": True}).validate(payload)
        except (JoseError, ValueError, TypeError, RecursionError) as error:
            raise build_invalid_credentials_error("bearer token", error) from None
        # Our secret signs verified addresses only, unless the token says otherwise.
        is_verified = payload.get("email_verified", True) is True
        skew = 0 if payload.get(CLOCK_CLAIM) == DATABASE_CLOCK else self._leeway
        claims = parse_claims("bearer token", payload, issuer=OWN_ISSUER, email_verified=is_verified, skew=skew)
        if len(token) <= MAX_CLAIM_BYTES:
            self._cache[token] = claims
        return claims


def parse_claims(credential_kind: str, payload: dict[str, Any], *, issuer: str, email_verified: bool, skew: int) -> Claims:
    """The claims of a verified payload. Its `iat` may be ahead of our clock by `skew` seconds. Raises Unauthenticated."""
    subject, email, name, picture = (_parse_text(payload.get(name)) for name in ("sub", "email", "name", "picture"))
    if subject is None:
        raise Unauthenticated(f"The {credential_kind} is not valid: its sub is not a valid string. Sign in again.")
    email = (email or "").strip() or None
    # A negative `iat` counts as 0, so that it never makes credentials appear newer.
    issued_at, expires_at = float(max(0, payload.get("iat", 0) - skew)), float(min(payload["exp"], MAX_TIMESTAMP_SECONDS))
    return Claims(subject, email, name, picture, email_verified and email is not None, expires_at, issued_at, issuer)


def build_invalid_credentials_error(credential_kind: str, error: Exception) -> Unauthenticated:
    """The error for invalid credentials, with the reason. It never quotes the credentials."""
    return Unauthenticated(f"The {credential_kind} is not valid: {_describe_error(error)}. Sign in again.")


def _describe_error(error: Exception) -> str:
    # The library's messages may quote the token; its error codes and names of claims do not.
    error_code = str(getattr(error, "error", "malformed")).replace("_", " ")
    return f"{error_code} {error.claim}" if isinstance(error, InvalidClaimError | MissingClaimError) else error_code


def _parse_text(value: object) -> str | None:
    # Postgres cannot store NUL and lone surrogates. Such claims, and those that are too long or no strings, are ignored.
    if not isinstance(value, str) or "\0" in value:
        return None
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        return None
    return value if 0 < size <= MAX_CLAIM_BYTES else None
