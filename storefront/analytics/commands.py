"""Commands of analytics: records batches of events, and refreshes the popularity of products."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import cache
from typing import Any

from psycopg import errors
from sqlalchemy import ARRAY, bindparam, text
from sqlalchemy.dialects.postgresql import UUID

from storefront.analytics.event_validation import MAX_EVENT_AGE, read_request_origin, validate_event
from storefront.core.cooperative import run_in_thread_if_long
from storefront.core.db.database import LONG_STATEMENT_MS, Database, Row, Statement, compile_statement
from storefront.core.db.json_parameters import to_json
from storefront.core.db.sweeps import Sweep, run_sweep, sweep_rows
from storefront.core.ids import parse_id, uuid7
from storefront.core.net.client_info import ClientInfo
from storefront.feed.log import LogEntry, enqueue_append_to_each
from storefront.models.writable_fields import MAX_INT32
from storefront.queries.rollups import (
    GRAIN_ORIGIN,
    QUARTER_HOUR_SECONDS,
    WITH_PIECES_SQL,
    SpanPiece,
    bind_piece_types,
    build_piece_parameters,
    split_span,
)
from storefront.writes.field_errors import (
    FieldError,
    InvalidInputReason,
    MutationRejected,
    make_invalid_input_error,
    make_not_found_error,
)
from storefront.writes.transaction import MAX_TRANSACTION_ATTEMPTS

MAX_EVENTS_PER_REQUEST = 500


class EventStatus(Enum):
    """The result of an event."""

    RECORDED = "recorded"
    DUPLICATE = "duplicate"
    IGNORED = "ignored"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class EventResult:
    """The result of one event, with its errors if it was rejected."""

    status: EventStatus
    field_errors: Sequence[FieldError] = ()


_RECORDED, _DUPLICATE, _IGNORED = (
    EventResult(status) for status in (EventStatus.RECORDED, EventStatus.DUPLICATE, EventStatus.IGNORED)
)


# Deduplication by id; a timestamp would not do, because a retry may have another one. Ordered by id, so that concurrent batches
# with the same events do not deadlock.
_RECORD_EVENTS_SQL = """
WITH store AS MATERIALIZED (SELECT id FROM configs WHERE id = :config_id AND (is_published OR id = ANY(:owned))),
given AS MATERIALIZED (
  SELECT store.id AS config_id, event.* FROM store, json_to_recordset(CAST(:events AS json)) AS event(
    id uuid, keyed boolean, event text, properties jsonb, session_id text, user_id text, user_agent text, ip_address text,
    referrer text, utm_source text, utm_medium text, utm_campaign text, is_bot boolean, "timestamp" timestamptz)
),
fresh AS (
  INSERT INTO analytics_event_ids (config_id, id) SELECT config_id, id FROM given WHERE keyed ORDER BY id
  ON CONFLICT DO NOTHING RETURNING id
),
written AS (
  INSERT INTO analytics_events (config_id, id, event, properties, session_id, user_id, user_agent, ip_address, referrer,
    utm_source, utm_medium, utm_campaign, is_bot, "timestamp")
  SELECT config_id, id, event, properties, session_id, user_id, user_agent, ip_address, referrer,
    utm_source, utm_medium, utm_campaign, is_bot, "timestamp"
  FROM given WHERE NOT keyed OR id IN (SELECT id FROM fresh)
  ON CONFLICT DO NOTHING
)
SELECT EXISTS (SELECT FROM store) AS known,
       ARRAY(SELECT id::text FROM given WHERE keyed AND id NOT IN (SELECT id FROM fresh)) AS duplicates
"""


async def track_events(
    database: Database,
    config_id: str,
    events: Sequence[Any],
    client_info: ClientInfo,
    *,
    consent: bool,
    owned_store_ids: Sequence[str] = (),
) -> list[EventResult]:
    """Record events; an invalid event does not reject the others. Returns the results in the order of the events.

    Raises MutationRejected for the whole batch: an unknown store, or too many events. Stores nothing if the shopper opted out.
    """
    if len(events) > MAX_EVENTS_PER_REQUEST:
        raise MutationRejected(
            make_invalid_input_error(
                ["events"],
                f"must have at most {MAX_EVENTS_PER_REQUEST} entries, not {len(events):,}. Send them in parts.",
                InvalidInputReason.TOO_LONG,
            )
        )
    has_opted_out = client_info.has_opted_out or not consent
    validated = await run_in_thread_if_long(len(events), _validate_events, events, client_info)
    rows = {row["id"]: row for row, _ in reversed(validated) if row is not None and not has_opted_out}
    duplicate_ids = await _store_events(database, config_id, list(rows.values()), owned_store_ids)
    return [_build_result(row, field_errors, rows, duplicate_ids) for row, field_errors in validated]


def _validate_events(events: Sequence[Any], client_info: ClientInfo) -> list[tuple[dict[str, Any] | None, list[FieldError]]]:
    now, origin = datetime.now(UTC), read_request_origin(client_info)
    return [validate_event(event, ("events", str(n)), origin, now) for n, event in enumerate(events)]


def _build_result(
    row: dict[str, Any] | None, field_errors: Sequence[FieldError], rows: dict[str, dict[str, Any]], duplicate_ids: set[str]
) -> EventResult:
    if row is None:
        return EventResult(EventStatus.REJECTED, field_errors)
    if not rows:
        return _IGNORED
    # Of several events with the same id the first is recorded.
    return _DUPLICATE if row["id"] in duplicate_ids or rows[row["id"]] is not row else _RECORDED


async def _store_events(
    database: Database, config_id: str, rows: list[dict[str, Any]], owned_store_ids: Sequence[str]
) -> set[str]:
    """Insert the rows; returns the ids that were stored before."""
    store_id = parse_id(config_id)
    if store_id is None:
        raise MutationRejected(make_not_found_error("store", config_id[:60], ["configId"]))
    parameters = {"config_id": store_id, "owned": list(owned_store_ids), "events": to_json(rows)}
    outcome = await _insert_events(database, parameters)
    if outcome is None or not outcome.known:
        raise MutationRejected(make_not_found_error("store", store_id, ["configId"]))
    return set(outcome.duplicates)


async def _insert_events(database: Database, parameters: dict[str, Any]) -> Row | None:
    for attempt in range(1, MAX_TRANSACTION_ATTEMPTS + 1):
        try:
            [outcome] = await database.fetch(_record_events_statement(), parameters)
        except errors.ForeignKeyViolation:
            # The store was deleted concurrently.
            return None
        except errors.DeadlockDetected:
            if attempt == MAX_TRANSACTION_ATTEMPTS:
                raise
        else:
            return outcome
    raise AssertionError("unreachable")


@cache
def _record_events_statement() -> Statement:
    return compile_statement(
        text(_RECORD_EVENTS_SQL).bindparams(bindparam("config_id", type_=UUID), bindparam("owned", type_=ARRAY(UUID)))
    )


async def sweep_event_ids(database: Database) -> int:
    """Delete deduplication ids of events that are too old to be sent again; returns how many."""
    return await run_sweep(database, _sweep_event_ids())


@cache
def _sweep_event_ids() -> Sweep:
    return sweep_rows("analytics_event_ids", f"received_at < now() - interval '{MAX_EVENT_AGE.days + 1} days'")


# ---------------------------------------------------------------------------------------------- popularity

POPULARITY_DAYS = 30
CART_WEIGHT = 5

# A sliding window, recomputed from the rollups of each product. Only rows that differ are written. An advisory lock admits one
# refresh at a time: other processes do nothing.
_REFRESH_POPULARITY_SQL = f"""
{WITH_PIECES_SQL},
allowed AS MATERIALIZED (SELECT pg_try_advisory_xact_lock(7312027) AS go),
wanted AS (
  SELECT configs.id AS config_id, product_id, least(sum(clicks + {CART_WEIGHT} * add_to_carts), {MAX_INT32})::integer AS score
  FROM configs CROSS JOIN piece CROSS JOIN LATERAL (
    SELECT product_id, clicks, add_to_carts FROM analytics_products
    WHERE config_id = configs.id AND grain = piece.grain AND at >= piece.start AND at < piece.stop OFFSET 0
  ) AS part
  GROUP BY 1, 2
),
scored AS (
  SELECT products.id, coalesce(wanted.score, 0) AS score
  FROM products LEFT JOIN wanted ON wanted.config_id = products.config_id AND wanted.product_id = products.id
),
changed AS (
  UPDATE products SET popularity = scored.score
  FROM scored, allowed
  WHERE allowed.go AND products.id = scored.id AND products.popularity <> scored.score
  RETURNING products.config_id
)
SELECT config_id, count(*) AS changed FROM changed GROUP BY 1
"""


async def refresh_popularity(database: Database) -> int:
    """Refresh the popularity of all products; returns how many changed. Appends to the logs of their stores."""
    # This may take longer than the statement timeout of requests.
    async with database.transaction(statement_timeout=LONG_STATEMENT_MS) as connection:
        changed = await connection.fetch(_refresh_popularity_statement(), build_piece_parameters(_popularity_pieces()))
        # Lists are sorted by popularity: the entry invalidates cached responses. A new entity id makes each refresh one change.
        entry = LogEntry(kind="popularity_refreshed", entity_id=str(uuid7()), changed_fields=["popularity"])
        enqueue_append_to_each(connection, [row.config_id for row in changed], entry)
    return sum(row.changed for row in changed)


def _popularity_pieces() -> list[SpanPiece]:
    # Aligned to quarters of an hour, so that there are no edges of single events.
    now, quarter = datetime.now(UTC), timedelta(seconds=QUARTER_HOUR_SECONDS)
    begin = now - timedelta(days=POPULARITY_DAYS)
    return split_span(begin - (begin - GRAIN_ORIGIN) % quarter, now - (now - GRAIN_ORIGIN) % quarter + quarter)


@cache
def _refresh_popularity_statement() -> Statement:
    return compile_statement(text(_REFRESH_POPULARITY_SQL).bindparams(*bind_piece_types()))
