"""One message: made, signed, sent, and what came of it."""

import logging
import random
from dataclasses import dataclass
from datetime import UTC, datetime
from time import time
from typing import Protocol

from storefront.core.db.database import Row, is_transient
from storefront.core.encryption import Undecryptable, Vault
from storefront.core.net.safe_http import Outgoing, Session
from storefront.webhooks.queue import Attempt, Patience
from storefront.webhooks.signing import signed

log = logging.getLogger("storefront")

USER_AGENT = "storefront-webhooks/1"
# Seconds between two attempts, at most.
LONGEST_DELAY = 21_600.0
GONE = 410


class NotMade(Exception):
    """There is no message to send now, for a reason that is ours."""


class Messages(Protocol):
    """Makes what is sent of a delivery and the webhook that it is for."""

    async def body(self, hook: Row, *, is_last: bool = False) -> bytes:
        """The body; raises NotMade where it may be made another time, which for the last attempt there is not."""


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent where."""

    url: str
    body: bytes
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Means:
    """What messages are made and sent with. Making one takes so many seconds at most."""

    messages: Messages
    outgoing: Outgoing
    vault: Vault
    patience: Patience
    making: float


async def message(messages: Messages, vault: Vault, row: Row, *, is_last: bool = False) -> Message:
    """The message of a delivery, signed; raises NotMade and Undecryptable."""
    body = await messages.body(row, is_last=is_last)
    # Two while a new one is brought in.
    secrets = [vault.decrypt(secret) for secret in (row.secret, row.previous_secret) if secret]
    headers = {"content-type": "application/json", "user-agent": USER_AGENT, **signed(secrets, row.id, int(time()), body)}
    return Message(row.url, body, headers)


async def render(means: Means, row: Row) -> Message | Attempt:
    """The message of a delivery, or the failed attempt where none can be made."""
    number = row.attempts + 1
    try:
        return await message(means.messages, means.vault, row, is_last=number >= means.patience.attempts)
    except (NotMade, Undecryptable) as error:
        problem = str(error)
    except Exception as error:
        problem = "the database did not answer"
        if not is_transient(error):
            # A fault of ours in what is about one product must not keep the others waiting.
            log.exception("the message %s could not be made", row.id)
            problem = "something went wrong on our side"
    return Attempt(None, 0, problem, _state_after_failure(means, row), delay(means.patience, number), counts=False)


async def send(means: Means, session: Session, row: Row, made: Message) -> Attempt:
    """Send the message of a delivery once."""
    answer = await session.post(made.url, made.body, made.headers)
    if answer.is_success:
        return Attempt(answer.status, answer.milliseconds, None, "delivered")
    waits = max(delay(means.patience, row.attempts + 1), float(answer.wait or 0))
    state = _state_after_failure(means, row)
    return Attempt(answer.status, answer.milliseconds, answer.error, state, waits, is_gone=answer.status == GONE)


def _state_after_failure(means: Means, row: Row) -> str:
    return "failed" if row.attempts + 1 >= means.patience.attempts else "pending"


def now() -> str:
    """The moment, as it is told."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def delay(patience: Patience, attempts: int) -> float:
    """Seconds to the next attempt after so many: three times as long each time, and never quite the same."""
    longest = min(patience.retry * 3.0 ** min(attempts - 1, 30), LONGEST_DELAY)
    return longest * random.uniform(0.75, 1.25)  # noqa: S311  nobody gains by knowing it
