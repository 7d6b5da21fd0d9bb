"""A single message: rendered, signed and sent, with the result of the attempt and the delay of its retry."""

import logging
import random
from dataclasses import dataclass
from datetime import UTC, datetime
from time import time
from typing import Protocol

from storefront.core.db.database import Row, is_transient
from storefront.core.encryption import DecryptionError, Vault
from storefront.core.net.safe_http import HttpSession, SafeHttpClient
from storefront.webhooks.queue import DeliveryAttempt, RetryPolicy
from storefront.webhooks.signing import build_signature_headers

log = logging.getLogger("storefront")

USER_AGENT = "storefront-webhooks/1"
# Seconds between two attempts at most.
MAX_RETRY_SECONDS = 21_600.0
HTTP_GONE = 410


class RenderError(Exception):
    """The message cannot be rendered now, through no fault of the endpoint."""


class BodyRenderer(Protocol):
    """Renders the body of a delivery."""

    async def render_body(self, hook: Row, *, is_last: bool = False) -> bytes:
        """Render the body. Raises RenderError if a retry may succeed; never for the last attempt (`is_last`)."""


@dataclass(frozen=True, slots=True)
class WebhookMessage:
    """An HTTP request: URL, body and headers."""

    url: str
    body: bytes
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class DeliveryDependencies:
    """The dependencies of delivery. Rendering a message takes `render_timeout_seconds` at most."""

    renderer: BodyRenderer
    http_client: SafeHttpClient
    vault: Vault
    retry_policy: RetryPolicy
    render_timeout_seconds: float


async def build_message(renderer: BodyRenderer, vault: Vault, row: Row, *, is_last: bool = False) -> WebhookMessage:
    """Render and sign the message of a delivery. Raises RenderError and DecryptionError."""
    body = await renderer.render_body(row, is_last=is_last)
    # Two secrets during a rotation.
    secrets = [vault.decrypt(secret) for secret in (row.secret, row.previous_secret) if secret]
    headers = {
        "content-type": "application/json",
        "user-agent": USER_AGENT,
        **build_signature_headers(secrets, row.id, int(time()), body),
    }
    return WebhookMessage(row.url, body, headers)


async def render_message(dependencies: DeliveryDependencies, row: Row) -> WebhookMessage | DeliveryAttempt:
    """Render the message of a delivery; a failed attempt if that is not possible."""
    attempt_number = row.attempts + 1
    try:
        return await build_message(
            dependencies.renderer, dependencies.vault, row, is_last=attempt_number >= dependencies.retry_policy.max_attempts
        )
    except (RenderError, DecryptionError) as error:
        problem = str(error)
    except Exception as error:
        problem = "the database was not available"
        if not is_transient(error):
            # An internal error in one delivery must not delay the others.
            log.exception("the message %s could not be rendered", row.id)
            problem = "an internal error occurred"
    return DeliveryAttempt(
        None,
        0,
        problem,
        _state_after_failure(dependencies, row),
        compute_retry_delay(dependencies.retry_policy, attempt_number),
        is_endpoint_failure=False,
    )


async def send_message(
    dependencies: DeliveryDependencies, session: HttpSession, row: Row, message: WebhookMessage
) -> DeliveryAttempt:
    """Send the message of a delivery: one attempt."""
    response = await session.post(message.url, message.body, message.headers)
    if response.is_success:
        return DeliveryAttempt(response.status, response.milliseconds, None, "delivered")
    delay_seconds = max(
        compute_retry_delay(dependencies.retry_policy, row.attempts + 1), float(response.retry_after_seconds or 0)
    )
    state = _state_after_failure(dependencies, row)
    return DeliveryAttempt(
        response.status, response.milliseconds, response.error, state, delay_seconds, is_gone=response.status == HTTP_GONE
    )


def _state_after_failure(dependencies: DeliveryDependencies, row: Row) -> str:
    return "failed" if row.attempts + 1 >= dependencies.retry_policy.max_attempts else "pending"


def utc_now_iso() -> str:
    """The current time in ISO 8601, with milliseconds and Z."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def compute_retry_delay(retry_policy: RetryPolicy, attempts: int) -> float:
    """Seconds until the next attempt: exponential backoff by a factor of 3, with jitter."""
    base_delay = min(retry_policy.first_retry_seconds * 3.0 ** min(attempts - 1, 30), MAX_RETRY_SECONDS)
    return base_delay * random.uniform(0.75, 1.25)  # noqa: S311  jitter, not a secret
