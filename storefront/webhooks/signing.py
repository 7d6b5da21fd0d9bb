"""Signatures as Standard Webhooks has them: HMAC-SHA256 over the message's id, the time, and the body."""

import secrets
from base64 import b64decode, b64encode
from collections.abc import Sequence
from hashlib import sha256
from hmac import digest

SECRET_PREFIX = "whsec_"  # noqa: S105  the prefix of the standard, no secret


def generate_secret() -> str:
    """A secret at random: 256 bits."""
    return SECRET_PREFIX + b64encode(secrets.token_bytes(32)).decode()


def build_signature_headers(secrets_: Sequence[str], message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers that say whose message it is, with a signature for each secret. `timestamp` is in seconds since 1970."""
    content = f"{message_id}.{timestamp}.".encode() + body
    keys = [b64decode(secret.removeprefix(SECRET_PREFIX)) for secret in secrets_]
    signatures = [f"v1,{b64encode(digest(key, content, sha256)).decode()}" for key in keys]
    return {"webhook-id": message_id, "webhook-timestamp": str(timestamp), "webhook-signature": " ".join(signatures)}
