"""Message signatures by the Standard Webhooks specification: HMAC-SHA256 over message id, timestamp and body."""

import secrets
from base64 import b64decode, b64encode
from collections.abc import Sequence
from hashlib import sha256
from hmac import digest

SECRET_PREFIX = "whsec_"  # noqa: S105  the prefix of the standard, no secret


def generate_secret() -> str:
    """Generate a random secret of 256 bits."""
    return SECRET_PREFIX + b64encode(secrets.token_bytes(32)).decode()


def build_signature_headers(secrets_: Sequence[str], message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The id, timestamp and signature headers, with a signature for each secret. `timestamp` is in Unix seconds."""
    content = f"{message_id}.{timestamp}.".encode() + body
    keys = [b64decode(secret.removeprefix(SECRET_PREFIX)) for secret in secrets_]
    signatures = [f"v1,{b64encode(digest(key, content, sha256)).decode()}" for key in keys]
    return {"webhook-id": message_id, "webhook-timestamp": str(timestamp), "webhook-signature": " ".join(signatures)}
