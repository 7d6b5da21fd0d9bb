"""Commands of the webhook mutations. Webhooks are not part of the catalogue, so the log has no entries for them."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import Double, bindparam, text

from storefront.core.casing import to_snake_case
from storefront.core.db.database import Database, Row, Statement, compile_statement
from storefront.core.db.sweeps import Sweep, run_sweep, sweep_rows
from storefront.core.encryption import Vault
from storefront.models import webhook_deliveries, webhooks
from storefront.models.rows import DeliveryRow, WebhookRow
from storefront.queries.projection import list_returned_columns
from storefront.queries.webhooks import MAX_WEBHOOKS_PER_STORE
from storefront.webhooks.signing import generate_secret
from storefront.writes import validation
from storefront.writes.authorization import lock_own_delivery, lock_own_store, lock_own_webhook
from storefront.writes.field_errors import (
    InvalidInputReason,
    MutationRejected,
    make_invalid_input_error,
    make_invalid_state_error,
    make_limit_reached_error,
    make_not_found_error,
)
from storefront.writes.optimistic_lock import get_set_values, reject_stale_version
from storefront.writes.sql import convert_to_columns, delete_row, insert_row, update_row
from storefront.writes.transaction import PendingRow, UnitOfWork
from storefront.writes.validation import accept_any, list_rule, non_null_rule, optional_rule

Values = Mapping[str, Any]
# Problems found before the transaction: (field, problem).
FieldProblems = Sequence[tuple[str, str]]

MAX_QUERY_LENGTH = 10_000
# Hours for which messages are also signed with the previous secret; seconds between two tests.
SECRET_GRACE_HOURS, TEST_INTERVAL_SECONDS = 24, 2

DISABLED_BY_OWNER_REASON = "Its owner disabled it."

_COMMON_RULES: validation.Rules = {
    "url": non_null_rule(accept_any),
    "topics": non_null_rule(list_rule(accept_any, 20)),
    "query": optional_rule(validation.text_rule(MAX_QUERY_LENGTH)),
    "readAs": non_null_rule(accept_any),
}
CREATE_RULES: validation.Rules = {"configId": validation.validate_id, **_COMMON_RULES}
UPDATE_RULES: validation.Rules = {
    **validation.UPDATE_LOCK_RULES,
    "isEnabled": non_null_rule(accept_any),
    **_COMMON_RULES,
}
WEBHOOK_RULES: validation.Rules = {"id": validation.validate_id, "expectedVersion": accept_any}
REPLAY_RULES: validation.Rules = {"id": validation.validate_id, "after": accept_any}


async def create_webhook(unit: UnitOfWork, values: Values, *, vault: Vault, problems: FieldProblems) -> Sequence[PendingRow]:
    """Create a webhook for a store of the actor. It receives changes after the current position of the log."""
    clean = _validate_input(CREATE_RULES, values, problems)
    store = (await lock_own_store(unit, clean.pop("configId"), ["configId"])).id
    [(count, position)] = await unit.fetch(_store_state_statement(), {"config_id": store})
    if count >= MAX_WEBHOOKS_PER_STORE:
        raise MutationRejected(
            make_limit_reached_error(
                ["configId"],
                f"has {MAX_WEBHOOKS_PER_STORE} webhooks, the maximum for a store. Delete one.",
                MAX_WEBHOOKS_PER_STORE,
            )
        )
    secret = vault.encrypt(generate_secret())
    row = {"config_id": store, "position": position, "secret": secret, "query": None, **convert_to_columns(clean)}
    return [insert_row(unit, webhooks, row)]


async def update_webhook(unit: UnitOfWork, values: Values, *, problems: FieldProblems) -> Sequence[PendingRow]:
    """Update the given fields of a webhook. If it is enabled again, delivery resumes from its position."""
    clean = _validate_input(UPDATE_RULES, values, problems)
    old = await lock_own_webhook(unit, clean["id"], ["id"])
    await reject_stale_version(unit, old, clean, field_versions=old.field_versions)
    clean = get_set_values(clean)
    changed_fields = [name for name, value in clean.items() if value != _get_field(old, name)]
    is_enabled = clean.pop("isEnabled", None)
    changes = convert_to_columns(clean) | _build_field_versions(old, changed_fields)
    if (is_enabled and old.disabled_at is not None) or changes.get("url", old.url) != old.url:
        # Reset the failure state of the endpoint, and retry pending deliveries at once.
        changes |= {"failures": 0, "failing_since": None, "resting_until": None}
        unit.enqueue(_retry_now_statement(), _get_key(old))
    if is_enabled is not None and is_enabled is (old.disabled_at is not None):
        disabled_columns = {"disabled_at": _format_now(), "disabled_reason": DISABLED_BY_OWNER_REASON}
        changes |= dict.fromkeys(disabled_columns) if is_enabled else disabled_columns
    return [update_row(unit, webhooks, old, changes)]


async def rotate_webhook_secret(unit: UnitOfWork, values: Values, *, vault: Vault) -> Sequence[PendingRow]:
    """Rotate the secret. For a day messages are also signed with the previous secret."""
    clean = validation.require_valid_fields(WEBHOOK_RULES, values)
    old = await lock_own_webhook(unit, clean["id"], ["id"])
    await reject_stale_version(unit, old, clean, field_versions=old.field_versions)
    until = datetime.now(UTC) + timedelta(hours=SECRET_GRACE_HOURS)
    changes = {"secret": vault.encrypt(generate_secret()), "previous_secret": old.secret, "previous_until": until.isoformat()}
    return [update_row(unit, webhooks, old, changes | _build_field_versions(old, ["secret"]))]


def _get_field(webhook: WebhookRow, name: str) -> Any:
    return webhook.disabled_at is None if name == "isEnabled" else getattr(webhook, to_snake_case(name))


def _build_field_versions(old: WebhookRow, changed_fields: Sequence[str]) -> dict[str, Any]:
    """The column that says which version changed which field, after an update that changes these fields."""
    return {"field_versions": {**old.field_versions, **dict.fromkeys(changed_fields, old.version + 1)}}


async def delete_webhook(unit: UnitOfWork, values: Values) -> Sequence[WebhookRow]:
    """Delete a webhook with all of its deliveries."""
    clean = validation.require_valid_fields(WEBHOOK_RULES, values)
    old = await lock_own_webhook(unit, clean["id"], ["id"])
    await reject_stale_version(unit, old, clean, field_versions=old.field_versions)
    delete_row(unit, webhooks, old)
    return [old]


async def replay_webhook(unit: UnitOfWork, values: Values) -> Sequence[PendingRow]:
    """Replay events after a position of the log."""
    clean = validation.require_valid_fields(REPLAY_RULES, values)
    old, after = await lock_own_webhook(unit, clean["id"], ["id"]), clean["after"]
    [(last_position, oldest_position)] = await unit.fetch(_log_range_statement(), {"config_id": old.config_id})
    if after > last_position:
        raise MutationRejected(
            make_invalid_input_error(
                ["after"], f"is after the end of the log, whose last position is {last_position}.", InvalidInputReason.TOO_LARGE
            )
        )
    if after < oldest_position:
        raise MutationRejected(
            make_invalid_input_error(
                ["after"],
                f"was deleted from the log, which begins after {oldest_position}. Refetch the store instead.",
                InvalidInputReason.TOO_SMALL,
            )
        )
    # The dispatcher creates these deliveries again from the log.
    unit.enqueue(_delete_pending_statement(), {**_get_key(old), "after": after})
    unit.enqueue(_schedule_lane_heads_statement(), _get_key(old))
    # Never forward: entries after the old position have not been delivered yet.
    return [update_row(unit, webhooks, old, {"position": min(after, old.position)})]


async def resend_webhook_delivery(unit: UnitOfWork, values: Values) -> Sequence[Row]:
    """Resend a message, or send a pending one, without waiting for its next attempt."""
    clean = validation.require_valid_fields({"id": validation.validate_id}, values)
    old, hook = await lock_own_delivery(unit, clean["id"], ["id"])
    if hook.disabled_at is not None:
        raise MutationRejected(make_invalid_state_error(["id"], "belongs to a disabled webhook. Enable it first."))
    return await unit.fetch(_resend_statement(), {**_get_key(old), "webhook_id": hook.id, "lane": old.lane})


async def claim_test(unit: UnitOfWork, values: Values) -> Sequence[Row]:
    """Claim a test of a webhook, at most one per interval. Returns the webhook to test."""
    clean = validation.require_valid_fields(
        {"id": validation.validate_id, "productId": optional_rule(validation.validate_id)}, values
    )
    hook = await lock_own_webhook(unit, clean["id"], ["id"])
    product = clean.get("productId")
    if product is not None and not await unit.fetch(_select_product_statement(), {"id": product, "config_id": hook.config_id}):
        raise MutationRejected(make_not_found_error("product", product, ["productId"]))
    claimed_rows = await unit.fetch(_claim_test_statement(), {**_get_key(hook), "seconds": TEST_INTERVAL_SECONDS})
    if not claimed_rows:
        raise MutationRejected(
            make_invalid_state_error(["id"], f"was tested a moment ago. Try again in {TEST_INTERVAL_SECONDS} seconds.")
        )
    return claimed_rows


async def record_test(database: Database, row: Mapping[str, Any]) -> Row:
    """Record the result of a test as a finished delivery."""
    [delivery] = await database.fetch(_record_test_statement(), row)
    return delivery


async def sweep_deliveries(database: Database, *, days: int) -> int:
    """Delete deliveries that finished more than so many days ago; returns how many."""
    return await run_sweep(database, _sweep_deliveries(), {"days": days})


def _validate_input(input_rules: validation.Rules, values: Values, problems: FieldProblems) -> dict[str, Any]:
    clean, field_errors = validation.validate_fields(input_rules, values)
    field_errors += [make_invalid_input_error([name], problem, InvalidInputReason.NOT_ALLOWED) for name, problem in problems]
    if clean.get("topics") == []:
        field_errors.append(make_invalid_input_error(["topics"], "must have at least one topic.", InvalidInputReason.REQUIRED))
    if field_errors:
        raise MutationRejected(*field_errors)
    return clean


def _get_key(row: WebhookRow | DeliveryRow) -> Mapping[str, str]:
    return {"config_id": row.config_id, "id": row.id}


def _format_now() -> str:
    return datetime.now(UTC).isoformat()


_STORE_STATE_SQL = """
SELECT (SELECT count(*) FROM webhooks WHERE config_id = :config_id) AS number,
       coalesce((SELECT position FROM store_positions WHERE config_id = :config_id), 0) AS position
"""

# The log is retained after a position: `kept`, which is its head if it is empty.
_LOG_RANGE_SQL = """
WITH head AS (SELECT coalesce((SELECT position FROM store_positions WHERE config_id = :config_id), 0) AS position)
SELECT head.position AS head,
       coalesce((SELECT min(position) - 1 FROM changes WHERE config_id = :config_id), head.position) AS kept
FROM head
"""

# The first pending delivery of each lane becomes due, where the one before it was deleted.
_SCHEDULE_LANE_HEADS_SQL = """
UPDATE webhook_deliveries SET next_attempt_at = now() WHERE config_id = :config_id AND id IN (
  SELECT DISTINCT ON (lane) id FROM webhook_deliveries AS waiting
  WHERE config_id = :config_id AND webhook_id = :id AND state = 'pending' AND NOT EXISTS (
    SELECT FROM webhook_deliveries AS first
    WHERE first.config_id = :config_id AND first.webhook_id = :id AND first.lane = waiting.lane AND first.state = 'pending'
      AND first.next_attempt_at IS NOT NULL
  )
  ORDER BY lane, position, id
)
"""

_RESEND_SQL = """
UPDATE webhook_deliveries SET state = 'pending', attempts = 0, finished_at = NULL, next_attempt_at = CASE
  WHEN next_attempt_at IS NOT NULL OR NOT EXISTS (
    SELECT FROM webhook_deliveries AS other
    WHERE other.config_id = :config_id AND other.webhook_id = :webhook_id AND other.lane = :lane AND other.state = 'pending'
  ) THEN now()
END WHERE config_id = :config_id AND id = :id RETURNING {columns}
"""

_CLAIM_TEST_SQL = """
UPDATE webhooks SET tested_at = now()
WHERE config_id = :config_id AND id = :id AND coalesce(tested_at < now() - make_interval(secs => :seconds), true) RETURNING *
"""

_RECORD_TEST_SQL = """
INSERT INTO webhook_deliveries
  (config_id, id, webhook_id, type, position, lane, product_id, state, attempts, tries, finished_at)
VALUES (:config_id, :id, :webhook_id, 'webhook.test', :position, :id, :product_id, :state, 1, CAST(:tries AS jsonb), now())
RETURNING {columns}
"""


@cache
def _select_product_statement() -> Statement:
    return compile_statement(text("SELECT id FROM products WHERE id = :id AND config_id = :config_id"))


@cache
def _store_state_statement() -> Statement:
    return compile_statement(text(_STORE_STATE_SQL))


@cache
def _log_range_statement() -> Statement:
    return compile_statement(text(_LOG_RANGE_SQL))


@cache
def _retry_now_statement() -> Statement:
    sql = "UPDATE webhook_deliveries SET next_attempt_at = now() WHERE config_id = :config_id AND webhook_id = :id"
    return compile_statement(text(f"{sql} AND next_attempt_at > now()"))


@cache
def _delete_pending_statement() -> Statement:
    sql = "DELETE FROM webhook_deliveries WHERE config_id = :config_id AND webhook_id = :id"
    return compile_statement(text(f"{sql} AND state = 'pending' AND position > :after"))


@cache
def _schedule_lane_heads_statement() -> Statement:
    return compile_statement(text(_SCHEDULE_LANE_HEADS_SQL))


@cache
def _resend_statement() -> Statement:
    return compile_statement(
        text(_RESEND_SQL.format(columns=", ".join(column.name for column in list_returned_columns(webhook_deliveries))))
    )


@cache
def _claim_test_statement() -> Statement:
    return compile_statement(text(_CLAIM_TEST_SQL).bindparams(bindparam("seconds", type_=Double)))


@cache
def _record_test_statement() -> Statement:
    return compile_statement(
        text(_RECORD_TEST_SQL.format(columns=", ".join(column.name for column in list_returned_columns(webhook_deliveries))))
    )


@cache
def _sweep_deliveries() -> Sweep:
    return sweep_rows("webhook_deliveries", "finished_at < now() - make_interval(days => :days)", order_by="finished_at")
