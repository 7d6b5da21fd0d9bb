"""Writes of webhooks. They are no part of what a store shows: its log knows nothing of them."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import Double, Integer, bindparam, text

from storefront.core.db.database import Database, Row, Statement, compiled
from storefront.core.encryption import Vault
from storefront.models import webhook_deliveries, webhooks
from storefront.webhooks.signing import new_secret
from storefront.writes import validation
from storefront.writes.authorization import missing, own_delivery, own_store, own_webhook
from storefront.writes.optimistic_lock import refuse_stale
from storefront.writes.sql import change_row, columns, delete_row, insert_row, returned
from storefront.writes.transaction import Refused, Unit, Written, invalid
from storefront.writes.validation import as_is, given, listed, optional

Values = Mapping[str, Any]
# What was found wrong with an input before the transaction: the field, and the problem.
Faults = Sequence[tuple[str, str]]

MOST_OF_STORE = 20
LONGEST_QUERY = 10_000
# Hours for which messages are signed with the secret before, too, and seconds between two tests.
GRACE, BETWEEN_TESTS = 24, 2

BY_OWNER = "Its owner disabled it."

_ABOUT: validation.Rules = {
    "url": given(as_is),
    "topics": given(listed(as_is, 20)),
    "query": optional(validation.text(LONGEST_QUERY)),
    "readAs": given(as_is),
}
CREATE: validation.Rules = {"configId": validation.key, **_ABOUT}
UPDATE: validation.Rules = {"id": validation.key, "expectedVersion": as_is, "isEnabled": given(as_is), **_ABOUT}
ONE: validation.Rules = {"id": validation.key, "expectedVersion": as_is}
REPLAY: validation.Rules = {"id": validation.key, "after": as_is}


async def create_webhook(unit: Unit, values: Values, *, vault: Vault, faults: Faults) -> Sequence[Written]:
    """A webhook of a store of the actor's. It is told of what happens from now on."""
    clean = _required(CREATE, values, faults)
    store = (await own_store(unit, clean.pop("configId"), ["configId"])).id
    [(number, position)] = await unit.fetch(_known(), {"config_id": store})
    if number >= MOST_OF_STORE:
        raise Refused(invalid(["configId"], f"has {MOST_OF_STORE} webhooks, which is all that a store may have. Delete one."))
    secret = vault.encrypt(new_secret())
    row = {"config_id": store, "position": position, "secret": secret, "query": None, **columns(clean)}
    return [insert_row(unit, webhooks, row)]


async def update_webhook(unit: Unit, values: Values, *, faults: Faults) -> Sequence[Written]:
    """Those fields of a webhook that are given. Enabled again, it goes on where it was."""
    clean = _required(UPDATE, values, faults)
    old = await own_webhook(unit, clean.pop("id"), ["id"])
    await refuse_stale(unit, old, clean.pop("expectedVersion", None), None)
    enabled = clean.pop("isEnabled", None)
    changed = columns(clean)
    if (enabled and old.disabled_at is not None) or changed.get("url", old.url) != old.url:
        # What was known of the address is forgotten, and what waits is tried now.
        changed |= {"failures": 0, "failing_since": None, "resting_until": None}
        unit.send(_retry(), {"id": old.id})
    if enabled is not None and enabled is (old.disabled_at is not None):
        disabled = {"disabled_at": _now(), "disabled_reason": BY_OWNER}
        changed |= dict.fromkeys(disabled) if enabled else disabled
    return [change_row(unit, webhooks, old, changed)]


async def rotate_webhook_secret(unit: Unit, values: Values, *, vault: Vault) -> Sequence[Written]:
    """Another secret. Messages are signed with the one before as well for a day."""
    clean = validation.require(ONE, values)
    old = await own_webhook(unit, clean["id"], ["id"])
    await refuse_stale(unit, old, clean.get("expectedVersion"), None)
    until = datetime.now(UTC) + timedelta(hours=GRACE)
    changed = {"secret": vault.encrypt(new_secret()), "previous_secret": old.secret, "previous_until": until.isoformat()}
    return [change_row(unit, webhooks, old, changed)]


async def delete_webhook(unit: Unit, values: Values) -> Sequence[Row]:
    """A webhook with all that it was told, and was to be told."""
    clean = validation.require(ONE, values)
    old = await own_webhook(unit, clean["id"], ["id"])
    await refuse_stale(unit, old, clean.get("expectedVersion"), None)
    delete_row(unit, webhooks, old)
    return [old]


async def replay_webhook(unit: Unit, values: Values) -> Sequence[Written]:
    """Tell all that stands in the log behind a position once more."""
    clean = validation.require(REPLAY, values)
    old, after = await own_webhook(unit, clean["id"], ["id"]), clean["after"]
    [(head, kept)] = await unit.fetch(_reach(), {"config_id": old.config_id})
    if after > head:
        raise Refused(invalid(["after"], f"lies ahead of the log, which has come to {head}."))
    if after < kept:
        raise Refused(invalid(["after"], f"is no longer kept: the log begins behind {kept}. Refetch what was before."))
    # They are made again, by the log.
    unit.send(_forget(), {"id": old.id, "after": after})
    unit.send(_lead(), {"id": old.id})
    # What was not read yet is still to be told.
    return [change_row(unit, webhooks, old, {"position": min(after, old.position)})]


async def resend_webhook_delivery(unit: Unit, values: Values) -> Sequence[Row]:
    """Send a message once more, or at last, without waiting for the time of its next attempt."""
    clean = validation.require({"id": validation.key}, values)
    old, hook = await own_delivery(unit, clean["id"], ["id"])
    if hook.disabled_at is not None:
        raise Refused(invalid(["id"], "is of a webhook that is disabled. Enable that first."))
    return await unit.fetch(_resend(), {"id": old.id, "webhook_id": hook.id, "lane": old.lane})


async def claim_test(unit: Unit, values: Values) -> Sequence[Row]:
    """The webhook, to be tested by whoever gets it."""
    clean = validation.require({"id": validation.key, "productId": optional(validation.key)}, values)
    hook = await own_webhook(unit, clean["id"], ["id"])
    product = clean.get("productId")
    if product is not None and not await unit.fetch(_product(), {"id": product, "config_id": hook.config_id}):
        raise Refused(missing("product", product, ["productId"]))
    tested = await unit.fetch(_test(), {"id": hook.id, "seconds": BETWEEN_TESTS})
    if not tested:
        raise Refused(invalid(["id"], f"was tested a moment ago. Try again in {BETWEEN_TESTS} seconds."))
    return tested


async def record_test(database: Database, row: Mapping[str, Any]) -> Row:
    """Note what a test came to."""
    [made] = await database.fetch(_record_test(), row)
    return made


async def sweep_deliveries(database: Database, *, days: int) -> int:
    """Forget what was told, or given up, more than so many days ago; returns how much."""
    return len(await database.fetch(_sweep(), {"days": days}))


def _required(kinds: validation.Rules, values: Values, faults: Faults) -> dict[str, Any]:
    clean, failures = validation.checked(kinds, values)
    failures += [invalid([name], problem) for name, problem in faults]
    if clean.get("topics") == []:
        failures.append(invalid(["topics"], "must name one at least."))
    if failures:
        raise Refused(*failures)
    return clean


def _now() -> str:
    return datetime.now(UTC).isoformat()


_KNOWN = """
SELECT (SELECT count(*) FROM webhooks WHERE config_id = :config_id) AS number,
       coalesce((SELECT position FROM store_positions WHERE config_id = :config_id), 0) AS position
"""

# The log is kept from behind a position on: behind its head where nothing is.
_REACH = """
WITH head AS (SELECT coalesce((SELECT position FROM store_positions WHERE config_id = :config_id), 0) AS position)
SELECT head.position AS head,
       coalesce((SELECT min(position) - 1 FROM changes WHERE config_id = :config_id), head.position) AS kept
FROM head
"""

# Where the first of a lane was taken away, the one behind it is the first.
_LEAD = """
UPDATE webhook_deliveries SET next_attempt_at = now() WHERE id IN (
  SELECT DISTINCT ON (lane) id FROM webhook_deliveries AS waiting
  WHERE webhook_id = :id AND state = 'pending' AND NOT EXISTS (
    SELECT FROM webhook_deliveries AS first
    WHERE first.webhook_id = :id AND first.lane = waiting.lane AND first.state = 'pending' AND first.next_attempt_at IS NOT NULL
  )
  ORDER BY lane, position, id
)
"""

_RESEND = """
UPDATE webhook_deliveries SET state = 'pending', attempts = 0, finished_at = NULL, next_attempt_at = CASE
  WHEN next_attempt_at IS NOT NULL OR NOT EXISTS (
    SELECT FROM webhook_deliveries AS other
    WHERE other.webhook_id = :webhook_id AND other.lane = :lane AND other.state = 'pending'
  ) THEN now()
END WHERE id = :id RETURNING {columns}
"""

_TEST = """
UPDATE webhooks SET tested_at = now()
WHERE id = :id AND coalesce(tested_at < now() - make_interval(secs => :seconds), true) RETURNING *
"""

_RECORD_TEST = """
INSERT INTO webhook_deliveries (id, webhook_id, type, position, lane, product_id, state, attempts, tries, finished_at)
VALUES (:id, :webhook_id, 'webhook.test', :position, :id, :product_id, :state, 1, CAST(:tries AS jsonb), now())
RETURNING {columns}
"""


@cache
def _product() -> Statement:
    return compiled(text("SELECT id FROM products WHERE id = :id AND config_id = :config_id"))


@cache
def _known() -> Statement:
    return compiled(text(_KNOWN))


@cache
def _reach() -> Statement:
    return compiled(text(_REACH))


@cache
def _retry() -> Statement:
    sooner = "UPDATE webhook_deliveries SET next_attempt_at = now() WHERE webhook_id = :id AND next_attempt_at > now()"
    return compiled(text(sooner))


@cache
def _forget() -> Statement:
    return compiled(text("DELETE FROM webhook_deliveries WHERE webhook_id = :id AND state = 'pending' AND position > :after"))


@cache
def _lead() -> Statement:
    return compiled(text(_LEAD))


@cache
def _resend() -> Statement:
    return compiled(text(_RESEND.format(columns=", ".join(column.name for column in returned(webhook_deliveries)))))


@cache
def _test() -> Statement:
    return compiled(text(_TEST).bindparams(bindparam("seconds", type_=Double)))


@cache
def _record_test() -> Statement:
    return compiled(text(_RECORD_TEST.format(columns=", ".join(column.name for column in returned(webhook_deliveries)))))


@cache
def _sweep() -> Statement:
    old = "DELETE FROM webhook_deliveries WHERE finished_at < now() - make_interval(days => :days) RETURNING 1 AS one"
    return compiled(text(old).bindparams(bindparam("days", type_=Integer)))
