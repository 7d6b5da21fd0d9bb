"""Verifies the signature of a webhook message, with Python alone."""

# [guide]
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from typing import Any

TOLERANCE = 300  # seconds


def verified(body: bytes, headers: Mapping[str, str], secret: str) -> Any:
    """The message, once it is known to be the shop's; raises ValueError otherwise. `body` is as it came."""
    id_, timestamp, signatures = (headers.get(f"webhook-{name}", "") for name in ("id", "timestamp", "signature"))
    if not timestamp.isdigit() or abs(time.time() - int(timestamp)) > TOLERANCE:
        raise ValueError("too old, or from the future")
    key = base64.b64decode(secret.removeprefix("whsec_"))
    expected = hmac.digest(key, f"{id_}.{timestamp}.".encode() + body, hashlib.sha256)
    wanted = "v1," + base64.b64encode(expected).decode()
    if not any(hmac.compare_digest(wanted, given) for given in signatures.split(" ")):
        raise ValueError("not signed by the shop")
    return json.loads(body)


# [/guide]
