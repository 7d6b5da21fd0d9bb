"""Delivery queue of webhooks in Postgres: leases, read positions in the log, due deliveries, and the results of attempts.

One process at a time holds the lease of a webhook (storefront/core/leases.py). All that changes the queue of a webhook locks its
row first, so that decisions by what is pending are safe. Each step is one transaction: a process may end between any two.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import ARRAY, BigInteger, BindParameter, Double, bindparam, text
from sqlalchemy.dialects.postgresql import UUID

from storefront.core.db.database import Connection, Database, Row, Statement, compile_statement
from storefront.core.db.json_parameters import to_json
from storefront.core.db.pipeline import QueuedStatement
from storefront.core.ids import new_id
from storefront.core.leases import Lease, LeaseColumns, fetch_held
from storefront.models.row_keys import RowKey

# Backpressure: pending deliveries of one webhook. Entries beyond stay in the log until there is room.
MAX_PENDING_DELIVERIES = 10_000
# Attempts of a delivery that are recorded: the last ones.
MAX_RECORDED_ATTEMPTS = 20
# A webhook counts as down, and rests, after so many failures in a row, on so many lanes (products, or the store).
MIN_FAILURES_BEFORE_REST, MIN_FAILING_LANES_BEFORE_REST = 3, 3

_LEASE = LeaseColumns("leased_by", "leased_until", ("config_id", "id"))

_HAS_WORK_SQL = """
  webhooks.position <> coalesce(store_positions.position, 0)
  OR EXISTS (
    SELECT FROM webhook_deliveries AS due
    WHERE due.config_id = webhooks.config_id AND due.webhook_id = webhooks.id AND due.next_attempt_at <= now()
  )
"""

# Fairness: an owner takes a further slot of a process only while it holds less than one per so many free slots. Alone on the
# server an owner gets a quarter of the slots, and there is always room for an owner that holds none.
FREE_SLOTS_PER_SLOT = 3

# `held`: how many webhooks of each owner are leased, by all processes and by this one. Owners that hold the fewest come first;
# within an owner, the webhooks that were released first.
_CLAIM_SQL = f"""
WITH held AS (
  SELECT configs.user_id, count(*) AS everywhere, count(*) FILTER (WHERE leased_by = :worker AND {{held}}) AS here
  FROM webhooks JOIN configs ON configs.id = webhooks.config_id WHERE leased_until > now() GROUP BY configs.user_id
),
waiting AS (
  SELECT webhooks.config_id, webhooks.id, configs.user_id, leased_until,
    row_number() OVER (PARTITION BY configs.user_id ORDER BY leased_until NULLS FIRST, webhooks.id) AS number
  FROM webhooks JOIN configs ON configs.id = webhooks.config_id
  LEFT JOIN store_positions ON store_positions.config_id = webhooks.config_id
  WHERE disabled_at IS NULL AND (leased_until IS NULL OR leased_until <= now()) AND {{waiting}} AND ({_HAS_WORK_SQL})
),
ranked AS (
  SELECT waiting.config_id, waiting.id, waiting.user_id, coalesce(here, 0) + number AS slot,
    row_number() OVER (ORDER BY coalesce(everywhere, 0) + number, leased_until NULLS FIRST, waiting.id) AS place
  FROM waiting LEFT JOIN held USING (user_id) WHERE number <= :free
),
claimed AS (
  SELECT webhooks.config_id, webhooks.id, ranked.user_id FROM webhooks JOIN ranked USING (config_id, id)
  WHERE slot <= greatest(1, (:free - place + 1) / {FREE_SLOTS_PER_SLOT}) AND (leased_until IS NULL OR leased_until <= now())
  ORDER BY place LIMIT :free FOR NO KEY UPDATE OF webhooks SKIP LOCKED
)
UPDATE webhooks SET {_LEASE.claim_sql}
FROM claimed WHERE webhooks.config_id = claimed.config_id AND webhooks.id = claimed.id
RETURNING webhooks.id, webhooks.config_id, claimed.user_id AS owner_id
"""
_HEALTHY_FILTERS = {"held": "resting_until IS NULL", "waiting": "resting_until IS NULL"}
_DOWN_FILTERS = {"held": "resting_until IS NOT NULL", "waiting": "resting_until <= now()"}

_EXTEND_LEASE_SQL = f"UPDATE webhooks SET {_LEASE.extend_sql} WHERE {_LEASE.is_held_sql} RETURNING id"
# The time of the release is what claims are ordered by.
_RELEASE_SQL = f"""
UPDATE webhooks SET {_LEASE.release_sql("now()")} FROM unnest(:config_ids, :ids) AS released (config_id, id)
WHERE webhooks.config_id = released.config_id AND webhooks.id = released.id AND leased_by = :worker
"""

_DUE_SQL = """
SELECT webhooks.id AS webhook_id, webhooks.config_id, webhooks.url, webhooks.topics, webhooks.query, webhooks.read_as,
       webhooks.secret, CASE WHEN webhooks.previous_until > now() THEN webhooks.previous_secret END AS previous_secret,
       webhooks.position AS read_to, coalesce(store_positions.position, 0) AS head, resting_until IS NOT NULL AS is_down,
       configs.user_id AS owner_id, configs.is_published AS is_open, due.*
FROM webhooks JOIN configs ON configs.id = :config_id
LEFT JOIN store_positions ON store_positions.config_id = :config_id
LEFT JOIN LATERAL (
  SELECT id, type, position, lane, product_id, changed_fields, client_mutation_id, reason, occurred_at, attempts
  FROM webhook_deliveries
  WHERE config_id = :config_id AND webhook_id = :id AND next_attempt_at <= now() AND lane <> ALL(:busy)
  ORDER BY next_attempt_at, position LIMIT :limit
) AS due ON resting_until IS NULL OR resting_until <= now()
WHERE webhooks.config_id = :config_id AND webhooks.id = :id AND leased_by = :worker AND disabled_at IS NULL
"""

# A statement of its own, so that later statements see all that the previous holder of the lock has committed.
_LOCK_SQL = "SELECT id FROM webhooks WHERE config_id = :config_id AND id = :id FOR NO KEY UPDATE"
_IS_LEASED_SQL = f"EXISTS (SELECT FROM webhooks WHERE {_LEASE.is_held_sql})"

_COUNT_PENDING_SQL = """
SELECT count(*) AS waiting FROM (
  SELECT FROM webhook_deliveries WHERE config_id = :config_id AND webhook_id = :id AND state = 'pending' LIMIT :limit
) AS pending
"""

_INSERT_DELIVERIES_SQL = f"""
INSERT INTO webhook_deliveries
  (config_id, id, webhook_id, type, position, lane, product_id, changed_fields, client_mutation_id, reason, occurred_at,
   next_attempt_at)
SELECT :config_id, id, :id, type, position, lane, product_id, changed_fields, client_mutation_id, reason, occurred_at,
  CASE WHEN place = 1 AND NOT EXISTS (
    SELECT FROM webhook_deliveries AS before
    WHERE before.config_id = :config_id AND before.webhook_id = :id AND before.lane = given.lane AND before.state = 'pending'
  ) THEN now() END
FROM (
  SELECT *, row_number() OVER (PARTITION BY lane ORDER BY position, id) AS place
  FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS row(
    id uuid, type text, position bigint, lane uuid, product_id uuid, changed_fields text[], client_mutation_id text,
    reason text, occurred_at timestamptz)
) AS given
WHERE EXISTS (SELECT FROM webhooks WHERE {_LEASE.is_held_sql} AND position = :read_from)
"""
_ADVANCE_POSITION_SQL = (
    f"UPDATE webhooks SET position = :read_to WHERE {_LEASE.is_held_sql} AND position = :read_from RETURNING id"
)

# The attempted delivery; once it is finished, also the next delivery of its lane, which becomes due.
_FINISH_ATTEMPT_SQL = f"""
WITH tried AS (
  UPDATE webhook_deliveries SET state = CAST(:state AS text), attempts = attempts + 1,
    tries = (CASE WHEN jsonb_array_length(tries) < {MAX_RECORDED_ATTEMPTS} THEN tries ELSE tries - 0 END)
      || CAST(:attempt AS jsonb),
    next_attempt_at = CASE WHEN CAST(:state AS text) = 'pending' THEN now() + make_interval(secs => :delay) END,
    finished_at = CASE WHEN CAST(:state AS text) <> 'pending' THEN now() END
  WHERE config_id = :config_id AND id = :delivery AND webhook_id = :id AND state = 'pending' AND {_IS_LEASED_SQL}
  RETURNING lane
)
UPDATE webhook_deliveries SET next_attempt_at = now() WHERE config_id = :config_id AND id = (
  SELECT next.id FROM webhook_deliveries AS next JOIN tried ON next.lane = tried.lane
  WHERE CAST(:state AS text) <> 'pending' AND next.config_id = :config_id AND next.webhook_id = :id
    AND next.state = 'pending' AND next.id <> :delivery
  ORDER BY next.position, next.id LIMIT 1
)
"""

_RESET_FAILURES_SQL = f"""
UPDATE webhooks SET failures = 0, failing_since = NULL, resting_until = NULL
WHERE {_LEASE.is_held_sql} AND (failures > 0 OR resting_until IS NOT NULL)
"""

_RECORD_FAILURE_SQL = f"""
UPDATE webhooks SET failures = failures + 1, failing_since = coalesce(failing_since, now()),
  resting_until = CASE WHEN failures + 1 >= {MIN_FAILURES_BEFORE_REST} AND (
    SELECT count(*) FROM webhook_deliveries
    WHERE config_id = :config_id AND webhook_id = :id AND next_attempt_at IS NOT NULL AND attempts > 0
  ) >= {MIN_FAILING_LANES_BEFORE_REST}
    THEN now() + make_interval(secs => LEAST(:max_rest, :rest * 2 ^ LEAST(failures + 1 - {MIN_FAILURES_BEFORE_REST}, 30)))
    ELSE resting_until END,
  disabled_at = CASE WHEN :is_gone OR failing_since < now() - make_interval(secs => :disable_after) THEN now() END,
  disabled_reason = CASE WHEN :is_gone THEN 'The address answered 410 Gone.'
    WHEN failing_since < now() - make_interval(secs => :disable_after)
    THEN 'Nothing has got through since ' || to_char(failing_since AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI')
      || ' UTC. Last: ' || CAST(:error AS text)
  END
WHERE {_LEASE.is_held_sql} AND disabled_at IS NULL RETURNING disabled_reason
"""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Retry policy of deliveries, and the circuit breaker of webhooks.

    Seconds before the first retry of a delivery, and its attempts at most; seconds of continuous failure after which a webhook is
    disabled, and seconds that a webhook which is down rests at most.
    """

    first_retry_seconds: float = 5.0
    max_attempts: int = 14
    disable_after_seconds: float = 259_200.0
    max_rest_seconds: float = 600.0


@dataclass(frozen=True, slots=True)
class DeliveryAttempt:
    """The result of one attempt. `state`: of the delivery after it; `delay_seconds`: until the next attempt."""

    status_code: int | None
    milliseconds: int
    error: str | None
    state: str
    delay_seconds: float = 0.0
    # Whether a failure is the endpoint's; else it is this server's, and does not count against the webhook.
    is_endpoint_failure: bool = True
    is_gone: bool = False


class DeliveryQueue:
    """The delivery queue as one process sees it: each instance is a worker with an id of its own."""

    def __init__(self, database: Database, retry_policy: RetryPolicy) -> None:
        self._database, self._retry_policy = database, retry_policy
        self._worker_id = new_id()

    async def claim_webhooks(self, free_slots: int, lease_seconds: float, *, is_down: bool = False) -> list[Row]:
        """Lease webhooks with work to do for so many seconds, into at most so many free slots, fairly between their owners.

        `is_down`: only webhooks that are down, else only healthy ones. Rows have `id`, `config_id` and `owner_id`.
        """
        parameters = {"worker": self._worker_id, "lease": lease_seconds, "free": free_slots}
        return await self._database.fetch(_claim_statement(is_down), parameters) if free_slots > 0 else []

    async def extend_lease(self, webhook: RowKey, lease_seconds: float) -> None:
        """Heartbeat: the lease lasts for so many seconds from now on. Raises LeaseLost."""
        await fetch_held(self._database, _extend_lease_statement(), Lease(webhook._asdict(), self._worker_id, lease_seconds))

    async def release_webhooks(self, webhooks: Sequence[RowKey]) -> None:
        """Release the leases of webhooks, so that other processes may claim them."""
        config_ids, ids = ([key.config_id for key in webhooks], [key.id for key in webhooks])
        await self._database.fetch(_release_statement(), {"config_ids": config_ids, "ids": ids, "worker": self._worker_id})

    async def load_due(self, webhook: RowKey, busy_lanes: Iterable[str], limit: int) -> list[Row]:
        """A row for each due delivery, with the columns of its webhook; one row without a delivery if none is due.

        No rows if the lease was lost, or the webhook is disabled. Deliveries on `busy_lanes` are left out.
        """
        parameters = {**webhook._asdict(), "worker": self._worker_id, "busy": list(busy_lanes), "limit": limit}
        return await self._database.fetch(_due_statement(), parameters)

    async def count_pending(self, webhook: RowKey) -> int:
        """How many deliveries are pending; counts up to MAX_PENDING_DELIVERIES."""
        parameters = {**webhook._asdict(), "limit": MAX_PENDING_DELIVERIES}
        [(count,)] = await self._database.fetch(_count_pending_statement(), parameters)
        return int(count)

    async def enqueue(self, hook: Row, read_to: int, rows: Sequence[dict[str, Any]]) -> bool:
        """Insert the deliveries of log entries, and advance the webhook's position to `read_to`, in one transaction.

        False, and nothing inserted, if the lease was lost or the position has changed since `hook` was read.
        """
        key = {"config_id": hook.config_id, "id": hook.webhook_id}
        parameters = {**key, "worker": self._worker_id, "read_from": hook.read_to, "read_to": read_to}
        async with self._database.transaction() as connection:
            connection.enqueue(lock_webhook_statement(), key)
            if rows:
                connection.enqueue(_insert_deliveries_statement(), {**parameters, "rows": to_json(rows)})
            advanced = connection.enqueue(_advance_position_statement(), parameters)
            await connection.commit()
        return bool(advanced.rows)

    async def finish_attempt(self, webhook: RowKey, delivery_id: str, attempt: DeliveryAttempt, started_at: str) -> str | None:
        """Record the result of an attempt. Returns the reason if the webhook is disabled by it."""
        record = {"at": started_at, "status": attempt.status_code, "milliseconds": attempt.milliseconds, "error": attempt.error}
        lease = {**webhook._asdict(), "worker": self._worker_id}
        parameters = {**lease, "delivery": delivery_id, "state": attempt.state, "delay": attempt.delay_seconds}
        async with self._database.transaction() as connection:
            connection.enqueue(lock_webhook_statement(), webhook._asdict())
            connection.enqueue(_finish_attempt_statement(), {**parameters, "attempt": to_json([record])})
            failure_update = self._record_outcome(connection, lease, attempt)
            await connection.commit()
        return next((row.disabled_reason for row in failure_update.rows), None) if failure_update else None

    def _record_outcome(self, connection: Connection, lease: dict[str, Any], attempt: DeliveryAttempt) -> QueuedStatement | None:
        if attempt.error is None:
            connection.enqueue(_reset_failures_statement(), lease)
        elif attempt.is_endpoint_failure:
            delays = {
                "rest": self._retry_policy.first_retry_seconds,
                "max_rest": self._retry_policy.max_rest_seconds,
                "disable_after": self._retry_policy.disable_after_seconds,
            }
            return connection.enqueue(
                _record_failure_statement(), {**lease, **delays, "is_gone": attempt.is_gone, "error": attempt.error}
            )
        return None


@cache
def lock_webhook_statement() -> Statement:
    """Lock the row of the webhook `id` of the store `config_id`."""
    return compile_statement(text(_LOCK_SQL))


@cache
def _claim_statement(is_down: bool) -> Statement:
    sql = _CLAIM_SQL.format(**(_DOWN_FILTERS if is_down else _HEALTHY_FILTERS))
    return compile_statement(text(sql).bindparams(*_double_parameters("lease"), bindparam("free", type_=BigInteger)))


@cache
def _extend_lease_statement() -> Statement:
    return compile_statement(text(_EXTEND_LEASE_SQL).bindparams(*_double_parameters("lease")))


@cache
def _release_statement() -> Statement:
    return compile_statement(text(_RELEASE_SQL).bindparams(*map(_uuid_array_parameter, ("config_ids", "ids"))))


@cache
def _due_statement() -> Statement:
    return compile_statement(text(_DUE_SQL).bindparams(_uuid_array_parameter("busy")))


@cache
def _count_pending_statement() -> Statement:
    return compile_statement(text(_COUNT_PENDING_SQL))


@cache
def _insert_deliveries_statement() -> Statement:
    return compile_statement(text(_INSERT_DELIVERIES_SQL))


@cache
def _advance_position_statement() -> Statement:
    return compile_statement(text(_ADVANCE_POSITION_SQL))


@cache
def _finish_attempt_statement() -> Statement:
    return compile_statement(text(_FINISH_ATTEMPT_SQL).bindparams(*_double_parameters("delay")))


@cache
def _reset_failures_statement() -> Statement:
    return compile_statement(text(_RESET_FAILURES_SQL))


@cache
def _record_failure_statement() -> Statement:
    return compile_statement(text(_RECORD_FAILURE_SQL).bindparams(*_double_parameters("max_rest", "rest", "disable_after")))


def _uuid_array_parameter(name: str) -> BindParameter[Any]:
    return bindparam(name, type_=ARRAY(UUID))


def _double_parameters(*names: str) -> list[BindParameter[float]]:
    return [bindparam(name, type_=Double) for name in names]
