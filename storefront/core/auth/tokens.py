"""Bearer tokens of our own: JWTs signed with the server's secret (HS256). And what any verified proof says of its user."""

import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from joserfc import jwt
from joserfc.errors import InvalidClaimError, JoseError, MissingClaimError
from joserfc.jwk import OctKey

from storefront.core.auth.email_addresses import normalize_email
from storefront.core.errors import Unauthenticated

ALGORITHMS = ["HS256"]
# Seconds by which the clocks of two honest machines may differ.
DEFAULT_LEEWAY_SECONDS = 30
# Bytes of a claim. An index entry of Postgres takes 2,700.
MAX_CLAIM_BYTES = 2_000
# Tokens that were verified and are remembered, those of no more bytes than a claim.
MAX_CACHED_TOKENS = 2_000
# Seconds since 1970. Numbers of JSON may be larger than any moment.
MAX_TIMESTAMP_SECONDS = 2**53
# The issuer of our own tokens. Others are URLs, or `authjs`.
OWN_ISSUER = "storefront"
# The claim, and its value, of tokens whose `iat` is by the clock of the database, as is the time of signing out.
CLOCK_CLAIM, DATABASE_CLOCK = "clock", "database"


@dataclass(frozen=True, slots=True)
class Claims:
    """What verified credentials say of their user, whom `issuer` and `subject` name together.

    Only an address that is `email_verified` may lead to a user known by it. `issued` and `expires` are in seconds since 1970.
    What goes on for longer than `expires` needs new credentials. `issued` is the earliest moment at which they can have been
    issued: by a clock other than ours that is the allowed skew before their `iat`, and 0 where they do not say.
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
        """The address in the form by which it is compared; None unless it is verified, and an address that can be compared."""
        return normalize_email(self.email) if self.email and self.email_verified else None


def sign_token(claims: Claims, secret: str, *, seconds: int, database_time: float | None = None) -> str:
    """A token for a user, good for so many seconds.

    With the `database_time`, in seconds since 1970, it counts at once after its user has signed out everywhere; otherwise it is
    dated by the clock of this machine.
    """
    # To the microsecond, as Postgres has it.
    now = round(time.time() if database_time is None else database_time, 6)
    optional_claims = {"sub": claims.subject, "email": claims.email, "name": claims.name, "picture": claims.picture}
    optional_claims[CLOCK_CLAIM] = None if database_time is None else DATABASE_CLOCK
    payload = {name: value for name, value in optional_claims.items() if value is not None}
    return jwt.encode({"alg": ALGORITHMS[0]}, {**payload, "iat": now, "exp": int(now) + seconds}, OctKey.import_key(secret))


class TokenVerifier:
    """Tells tokens that were signed with our secret. Each is looked into once: what a signature has proven stays proven."""

    def __init__(self, secret: str, *, leeway: int = DEFAULT_LEEWAY_SECONDS) -> None:
        self._key, self._leeway = OctKey.import_key(secret), leeway
        # By the tokens themselves, the most recent ones.
        self._cache: OrderedDict[str, Claims] = OrderedDict()

    def get_cached(self, token: str) -> Claims | None:
        """What a token says that was verified before and has not ended since."""
        claims = self._cache.get(token)
        if claims is None or (claims.expires_at or 0) <= time.time():
            return None
        self._cache.move_to_end(token)
        return claims

    def verify(self, token: str) -> Claims:
        """What the token says, once its signature and times hold; raises Unauthenticated otherwise."""
        cached = self.get_cached(token)
        if cached is not None:
            return cached
        try:
            payload = jwt.decode(token, self._key, algorithms=ALGORITHMS).claims
            jwt.JWTClaimsRegistry(leeway=self._leeway, sub={"essential": True}, exp={"essential": True}).validate(payload)
        except (JoseError, ValueError, TypeError, RecursionError) as error:
            raise build_invalid_credentials_error("bearer token", error) from None
        # Whoever holds the secret vouches for the address, unless they say otherwise.
        is_verified = payload.get("email_verified", True) is True
        skew = 0 if payload.get(CLOCK_CLAIM) == DATABASE_CLOCK else self._leeway
        claims = parse_claims("bearer token", payload, issuer=OWN_ISSUER, email_verified=is_verified, skew=skew)
        self._cache_claims(token, claims)
        return claims

    def _cache_claims(self, token: str, claims: Claims) -> None:
        if len(token) <= MAX_CLAIM_BYTES:
            self._cache[token] = claims
        if len(self._cache) > MAX_CACHED_TOKENS:
            self._cache.popitem(last=False)


def parse_claims(credential_kind: str, payload: dict[str, Any], *, issuer: str, email_verified: bool, skew: int) -> Claims:
    """The claims of a payload that was verified. The clock that dated it may be ahead of ours by `skew` seconds."""
    subject, email, name, picture = (_parse_text(payload.get(name)) for name in ("sub", "email", "name", "picture"))
    if subject is None:
        raise Unauthenticated(f"The {credential_kind} is not valid: its sub is no text. Sign in again.")
    email = (email or "").strip() or None
    # An early or odd time of issue is as early as can be: it never makes credentials younger.
    issued_at, expires_at = float(max(0, payload.get("iat", 0) - skew)), float(min(payload["exp"], MAX_TIMESTAMP_SECONDS))
    return Claims(subject, email, name, picture, email_verified and email is not None, expires_at, issued_at, issuer)


def build_invalid_credentials_error(credential_kind: str, error: Exception) -> Unauthenticated:
    """The refusal of a proof, with the reason but nothing that was in it."""
    return Unauthenticated(f"The {credential_kind} is not valid: {_describe_error(error)}. Sign in again.")


def _describe_error(error: Exception) -> str:
    # The library's messages may quote the token; its error codes and the names of claims that it checks do not.
    error_code = str(getattr(error, "error", "malformed")).replace("_", " ")
    return f"{error_code} {error.claim}" if isinstance(error, InvalidClaimError | MissingClaimError) else error_code


def _parse_text(value: object) -> str | None:
    # NUL and half a surrogate pair cannot be stored; a claim that has one, is no text or is too long, says nothing.
    if not isinstance(value, str) or "\0" in value:
        return None
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        return None
    return value if 0 < size <= MAX_CLAIM_BYTES else None
