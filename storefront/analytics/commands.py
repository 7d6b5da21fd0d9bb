"""Writes of analytics: the events of shoppers, many at a time, and how much each product is wanted."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import cache
from typing import Any

import orjson
from psycopg import errors
from sqlalchemy import ARRAY, bindparam, text
from sqlalchemy.dialects.postgresql import UUID

from storefront.analytics.event_validation import OLDEST, clean, request_of
from storefront.core.db.database import LONG_STATEMENT_MS, Database, Row, Statement, compiled
from storefront.core.ids import parse_id, uuid7
from storefront.core.net.client_info import Sender
from storefront.feed.log import Entry, send_to_each
from storefront.queries.rollups import ORIGIN, QUARTER, WITH_PIECES, Piece, piece_parameters, piece_types, pieces
from storefront.writes.authorization import missing
from storefront.writes.product_validation import MOST_INT
from storefront.writes.transaction import ATTEMPTS, Failure, Refused, invalid

MOST_EVENTS = 500


class Fate(Enum):
    """What became of an event."""

    RECORDED = "recorded"
    DUPLICATE = "duplicate"
    IGNORED = "ignored"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one event; the faults say why it was rejected."""

    fate: Fate
    faults: Sequence[Failure] = ()


_RECORDED, _DUPLICATE, _IGNORED = (Result(fate) for fate in (Fate.RECORDED, Fate.DUPLICATE, Fate.IGNORED))


# What a client sends again has an id that is known; a moment would not do, as a retry may come with another one. In the
# order of the ids, so that two batches with the same events never wait for each other.
_RECORD = """
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
    database: Database, config_id: str, events: Sequence[Any], sender: Sender, *, owned: Sequence[str] = (), consent: bool = True
) -> list[Result]:
    """Record what shoppers did, each event on its own: one that is wrong keeps no other one out. The results in their order.

    Refuses only what concerns them all: an unknown store, or too many of them. Nothing is stored of shoppers who object.
    """
    if len(events) > MOST_EVENTS:
        raise Refused(invalid(["events"], f"must have at most {MOST_EVENTS} entries, not {len(events):,}. Send them in parts."))
    now, objects = datetime.now(UTC), sender.objects or not consent
    request = request_of(sender)
    judged = [clean(event, ("events", str(n)), request, now) for n, event in enumerate(events)]
    rows = {row["id"]: row for row, _ in reversed(judged) if row is not None and not objects}
    seen = await _record(database, config_id, list(rows.values()), owned)
    return [_result(row, faults, rows, seen) for row, faults in judged]


def _result(row: dict[str, Any] | None, faults: Sequence[Failure], rows: dict[str, dict[str, Any]], seen: set[str]) -> Result:
    if row is None:
        return Result(Fate.REJECTED, faults)
    if not rows:
        return _IGNORED
    # Of several with the same id the first is the one that was meant.
    return _DUPLICATE if row["id"] in seen or rows[row["id"]] is not row else _RECORDED


async def _record(database: Database, config_id: str, rows: list[dict[str, Any]], owned: Sequence[str]) -> set[str]:
    """Store the rows; returns the ids that were there already."""
    store = parse_id(config_id)
    if store is None:
        raise Refused(missing("store", config_id[:60], ["configId"]))
    parameters = {"config_id": store, "owned": list(owned), "events": orjson.dumps(rows).decode()}
    found = await _recorded(database, parameters)
    if found is None or not found.known:
        raise Refused(missing("store", store, ["configId"]))
    return set(found.duplicates)


async def _recorded(database: Database, parameters: dict[str, Any]) -> Row | None:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            [found] = await database.fetch(_statement(), parameters)
        except errors.ForeignKeyViolation:
            # Deleted in between.
            return None
        except errors.DeadlockDetected:
            if attempt == ATTEMPTS:
                raise
        else:
            return found
    raise AssertionError("unreachable")


@cache
def _statement() -> Statement:
    return compiled(text(_RECORD).bindparams(bindparam("config_id", type_=UUID), bindparam("owned", type_=ARRAY(UUID))))


async def sweep_event_ids(database: Database) -> int:
    """Forget the ids of events that are too old to be sent again; returns how many."""
    return len(await database.fetch(_sweep()))


@cache
def _sweep() -> Statement:
    days = f"interval '{OLDEST.days + 1} days'"
    return compiled(text(f"DELETE FROM analytics_event_ids WHERE received_at < now() - {days} RETURNING 1 AS one"))


# ---------------------------------------------------------------------------------------------- popularity

DAYS = 30
CART_WEIGHT = 5

# Added up anew from the counts of each product: what grows old leaves the sum by itself. Only rows that differ are written.
# One refresh at a time: of several processes that try, the others find the lock taken and do nothing.
_REFRESH = f"""
{WITH_PIECES},
allowed AS MATERIALIZED (SELECT pg_try_advisory_xact_lock(7312027) AS go),
wanted AS (
  SELECT configs.id AS config_id, product_id, least(sum(clicks + {CART_WEIGHT} * add_to_carts), {MOST_INT})::integer AS score
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
    """Bring every product's popularity up to date; returns how many changed. The logs of their stores move."""
    # The whole of a long month may take longer than a request is allowed.
    async with database.transaction(statement_timeout=LONG_STATEMENT_MS) as connection:
        changed = await connection.fetch(_refresh(), piece_parameters(_lately()))
        # Lists are sorted by it: answers that are kept must not outlive it. By a key of its own each refresh is one change.
        entry = Entry(kind="popularity_refreshed", entity_id=str(uuid7()), changed_fields=["popularity"])
        send_to_each(connection, [row.config_id for row in changed], entry)
    return sum(row.changed for row in changed)


def _lately() -> list[Piece]:
    # To the quarter of an hour: without edges where single events would have to be counted.
    now, quarter = datetime.now(UTC), timedelta(seconds=QUARTER)
    begin = now - timedelta(days=DAYS)
    return pieces(begin - (begin - ORIGIN) % quarter, now - (now - ORIGIN) % quarter + quarter)


@cache
def _refresh() -> Statement:
    return compiled(text(_REFRESH).bindparams(*piece_types()))
