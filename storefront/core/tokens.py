"""Bearer tokens: JWTs signed with the server's secret (HS256)."""

import time
from dataclasses import dataclass
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey

from storefront.core.errors import Unauthenticated

ALGORITHMS = ["HS256"]
# Seconds by which the clocks of two honest machines may differ.
LEEWAY = 30


@dataclass(frozen=True, slots=True)
class Claims:
    """What a verified token says of its user."""

    subject: str
    email: str | None = None
    name: str | None = None
    picture: str | None = None

    def profile(self) -> dict[str, str | None]:
        """As columns of a user."""
        return {"subject": self.subject, "email": self.email, "name": self.name, "image": self.picture}


def sign(claims: Claims, secret: str, *, seconds: int) -> str:
    """A token for a user, good for so many seconds."""
    now = int(time.time())
    named = {"sub": claims.subject, "email": claims.email, "name": claims.name, "picture": claims.picture}
    payload = {name: value for name, value in named.items() if value is not None}
    return jwt.encode({"alg": ALGORITHMS[0]}, {**payload, "iat": now, "exp": now + seconds}, OctKey.import_key(secret))


def verify(token: str, secret: str) -> Claims:
    """What the token says, once its signature and times hold; raises Unauthenticated otherwise."""
    try:
        payload = jwt.decode(token, OctKey.import_key(secret), algorithms=ALGORITHMS).claims
        jwt.JWTClaimsRegistry(leeway=LEEWAY, sub={"essential": True}, exp={"essential": True}).validate(payload)
    except (JoseError, ValueError, TypeError) as error:
        raise Unauthenticated(f"The bearer token is not valid: {_reason(error)}. Sign in again.") from None
    return _claims(payload)


def _reason(error: Exception) -> str:
    # The library's messages may quote the token; its error codes do not.
    return str(getattr(error, "error", "malformed")).replace("_", " ")


def _claims(payload: dict[str, Any]) -> Claims:
    subject, *others = (_text(payload.get(name)) for name in ("sub", "email", "name", "picture"))
    if subject is None:
        raise Unauthenticated("The bearer token is not valid: its sub is no text. Sign in again.")
    return Claims(subject, *others)


def _text(value: object) -> str | None:
    # NUL cannot be stored; a claim that has one, or that is no text, says nothing.
    return value if isinstance(value, str) and value and "\0" not in value else None
