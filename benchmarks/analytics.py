"""Event ingestion, in batches and one by one; and analytics reports, from rollups and from raw events."""

import asyncio
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any
from uuid import uuid4

import httpx
import psycopg

from benchmarks.load import Request, drive_each
from benchmarks.report import Cell, Table, err
from benchmarks.stage import FOLDER, Sizes, Stage, body_of, cpu_seconds, free_port, process, serve_command
from storefront.analytics.rollups import roll_up
from storefront.core.auth.tokens import Claims, sign_token
from storefront.core.db import migrations
from storefront.core.db.database import Database
from storefront.core.db.embedded_postgres import embedded_postgres

PRODUCTS, DAYS = 5_000, 30
ONE_EACH = "one INSERT per event into our table, one connection"
SECRET = "the secret of a benchmark, of no use elsewhere"  # noqa: S105
STORE_ID = "01900000-0000-7000-8000-00000000000a"
STORE = f"""
WITH owner AS (INSERT INTO users (id, email) VALUES ('{STORE_ID}', 'benchmark@example.com') ON CONFLICT DO NOTHING RETURNING id),
  identity AS (INSERT INTO user_identities (issuer, subject, user_id) SELECT 'storefront', 'benchmark', id FROM owner)
INSERT INTO configs (id, user_id, store_name, slug, is_published) SELECT id, id, 'Benchmark', 'benchmark', true FROM owner
"""
BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0"
TRACK = "mutation($i: TrackEventsInput!) { trackEvents(input: $i) { recorded userErrors { message } } }"

# One store, five thousand products of which few are wanted much, sessions of eight events, three days more than are asked about.
EVENTS = """
INSERT INTO analytics_events (id, config_id, event, properties, session_id, user_agent, ip_address, utm_source, timestamp)
SELECT gen_random_uuid(), %(store)s,
       (ARRAY['page_view', 'product_click', 'page_view', 'page_view', 'product_click', 'page_view', 'add_to_cart', 'purchase'])
         [1 + floor(8 * power(random(), 1.6))::int],
       jsonb_build_object('path', '/products/x', 'productId', lpad(to_hex(floor(5000 * power(random(), 2.5))::bigint), 8, '0')
         || '-0000-7000-8000-000000000000'),
       'session ' || n / 8, 'Mozilla/5.0', '10.0.0.0', (ARRAY['news', 'ad', 'partner', NULL, NULL])[1 + floor(5 * random())::int],
       %(start)s + (n - n %% 8 + 8 * random()) * %(span)s::interval / %(events)s::float
FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n
"""
PART = 1_000_000

ORIGINAL = [
    *(
        "SELECT count(*) FROM analytics_events WHERE config_id = %(store)s AND event = '" + kind + "'"
        ' AND "timestamp" >= %(start)s AND "timestamp" < %(end)s'
        for kind in ("page_view", "product_click", "add_to_cart")
    ),
    "SELECT properties ->> 'productId', count(*) FROM analytics_events WHERE config_id = %(store)s AND event = 'product_click'"
    ' AND "timestamp" >= %(start)s AND "timestamp" < %(end)s GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 10',
]
SESSIONS = """SELECT count(*) FROM (SELECT min("timestamp") AS began FROM analytics_events WHERE config_id = %(store)s
  GROUP BY session_id) AS session WHERE began >= %(start)s AND began < %(end)s"""
REPORT = """query($c: ID!, $range: DateRangeInput!) { analytics(configId: $c, range: $range) {
  pageViews productClicks addToCarts purchases searches sessions conversionRate sessionConversionRate
  funnel { event sessions rate } topProducts(first: 10) { productId clicks addToCarts } series { startsAt pageViews sessions }
  sources { source sessions events } } }"""


def measure(sizes: Sequence[int], rounds: int) -> Iterator[Table]:
    """Both, a table each."""
    yield _ingestion(rounds)
    yield _reports(sizes, rounds)


# ----------------------------------------------------------------------------------------------- ingestion


def _ingestion(rounds: int) -> Table:
    found: dict[str, list[list[float]]] = {}
    with _shop("in") as here:
        here.run("TRUNCATE analytics_events, analytics_event_ids, analytics_queue; DROP TABLE IF EXISTS plain_events")
        here.run("CREATE TABLE plain_events (LIKE analytics_events INCLUDING DEFAULTS, PRIMARY KEY (id))")
        store = STORE_ID
        ways: dict[str, Callable[[], list[float]]] = {
            ONE_EACH: lambda: _one_by_one(here, store, 2_000),
            "the same into a table of the same columns with a primary key and nothing else": lambda: _one_by_one(
                here, store, 2_000, "plain_events"
            ),
            "trackEvents, 1 per request": lambda: _sent(here, _graphql(store, 400, 1), 400),
            "trackEvents, 100 per request": lambda: _sent(here, _graphql(store, 300, 100), 30_000),
            "beacon, 100 per request": lambda: _sent(here, _beacons(store, 300, 100), 30_000),
            "beacon, 500 per request": lambda: _sent(here, _beacons(store, 60, 500), 30_000),
        }
        for _ in range(rounds):
            for name, way in ways.items():
                found.setdefault(name, []).append(way())
        _check_duplicates(here, store)
    middle = {name: [median(values) for values in zip(*turns, strict=True)] for name, turns in found.items()}
    slowest = middle[ONE_EACH]
    rows: list[list[Cell]] = [[name, *values, f"{values[0] / slowest[0]:.1f}"] for name, values in middle.items()]
    columns = "way in", "events per second", "CPU µs per event, server", "CPU µs per event, Postgres", "× one INSERT each"
    note = (
        "One worker, four connections, counting going on beside it. Batches sent again stored nothing: that was checked. "
        "One INSERT each: over a Unix socket, without HTTP, committed one by one."
    )
    return Table("ingestion", "Events coming in", columns, rows, note)


def _event(rng: random.Random, session: str) -> dict[str, Any]:
    product = f"{int(PRODUCTS * rng.random() ** 2.5):08x}-0000-7000-8000-000000000000"
    return {
        "clientEventId": str(uuid4()),
        "event": rng.choice(("page_view", "page_view", "product_click", "add_to_cart")),
        "properties": {"productId": product, "path": "/products/x"},
        "sessionId": session,
        "utmSource": rng.choice(("news", "ad", "partner")),
        "timestamp": datetime.now(UTC).isoformat(),
    }


def _batches(requests: int, size: int) -> Iterator[list[dict[str, Any]]]:
    rng = random.Random()  # noqa: S311
    for request in range(requests):
        visit = f"{rng.getrandbits(40):x}-{request}"
        yield [_event(rng, f"{visit}-{n // 8}") for n in range(size)]


def _graphql(store: str, requests: int, size: int) -> list[Request]:
    headers = (("content-type", "application/json"), ("user-agent", BROWSER))
    bodies = (body_of(TRACK, i={"configId": store, "events": events, "consent": True}) for events in _batches(requests, size))
    return [Request("POST", "/graphql", body, headers) for body in bodies]


def _beacons(store: str, requests: int, size: int) -> list[Request]:
    headers = (("content-type", "text/plain"), ("user-agent", BROWSER))
    bodies = (json.dumps({"events": events, "consent": True}).encode() for events in _batches(requests, size))
    return [Request("POST", f"/events/{store}", body, headers) for body in bodies]


def _sent(here: Stage, requests: Sequence[Request], events: int) -> list[float]:
    before, server, postgres = _stored(here), cpu_seconds(here.pid), cpu_seconds(here.postmaster)
    driven = drive_each(here.port, requests, connections=4)
    used = [1e6 * (cpu_seconds(pid) - old) / events for pid, old in ((here.pid, server), (here.postmaster, postgres))]
    if _stored(here) - before != events:
        raise RuntimeError(f"{events} events were sent, {_stored(here) - before} stored.")
    return [events / driven.seconds, *used]


def _one_by_one(here: Stage, store: str, events: int, table: str = "analytics_events") -> list[float]:
    statement = f"""INSERT INTO {table} (id, config_id, event, properties, session_id, user_agent, ip_address, utm_source,
      timestamp) VALUES (%(clientEventId)s, %(store)s, %(event)s, %(document)s, %(sessionId)s, %(agent)s, '10.0.0.0',
      %(utmSource)s, %(timestamp)s)"""
    rows = next(_batches(1, events))
    with psycopg.connect(here.url, autocommit=True) as connection:
        used, postgres, began = time.process_time(), cpu_seconds(here.postmaster), time.perf_counter()
        for row in rows:
            given = {"store": store, "agent": BROWSER, "document": json.dumps(row["properties"])}
            connection.execute(statement.encode(), row | given)
        seconds = time.perf_counter() - began
        spent = time.process_time() - used, cpu_seconds(here.postmaster) - postgres
    return [events / seconds, *(1e6 * cpu / events for cpu in spent)]


def _check_duplicates(here: Stage, store: str) -> None:
    [request] = _beacons(store, 1, 100)
    _sent(here, [request], 100)
    before = _stored(here)
    drive_each(here.port, [request] * 20, connections=4)
    if _stored(here) != before:
        raise RuntimeError("A batch that was sent again was stored again.")


def _stored(here: Stage) -> int:
    with psycopg.connect(here.url) as connection:
        [(count,)] = connection.execute("SELECT count(*) FROM analytics_events").fetchall()
    return int(count)


# ------------------------------------------------------------------------------------------------- reports


def _reports(sizes: Sequence[int], rounds: int) -> Table:
    end = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    odd = timedelta(hours=7, minutes=23, seconds=11), timedelta(hours=13, minutes=44, seconds=52.5)
    spans = {"30 days, midnight to midnight": end} | {f"30 days up to {end - some:%H:%M:%S}": end - some for some in odd}
    found: dict[tuple[int, str], list[list[float]]] = {}
    with ExitStack() as stack:
        stages = {size: stack.enter_context(_full(size, end)) for size in sizes}
        for _ in range(rounds):
            for size, here in stages.items():
                for name, until in spans.items():
                    found.setdefault((size, name), []).append(_report(here, until))
    rows: list[list[Cell]] = []
    for (size, name), turns in found.items():
        ms, cpu, statements, original = (median(values) for values in zip(*turns, strict=True))
        least = median(turn[0] for turn in found[sizes[0], name])
        rows.append(
            [f"{size:,} events, {name}", int(statements), ms, f"{ms / least:.2f}", cpu, original, f"{original / cpu:.0f}"]
        )
    columns = (
        "report",
        "statements",
        "ms",
        f"× {sizes[0]:,}",
        "CPU ms in Postgres",
        "CPU ms of four queries over raw rows",
        "× less",
    )
    note = f"One store, {PRODUCTS:,} products; the whole report. Before that it is compared with a count of the raw rows."
    return Table("reports", "The owner's report", columns, rows, note)


@contextmanager
def _shop(name: str, **settings: str) -> Iterator[Stage]:
    """A stage of its own with one store, kept for later runs, and the server in front of it."""
    data = FOLDER / f"analytics-{name}-{Sizes().name.rpartition('-')[2]}"
    with embedded_postgres(data.resolve()) as url:
        here = Stage(url, data, Sizes(0))
        migrations.migrate(url)
        here.run(STORE)
        here.port = free_port()
        given = {"STOREFRONT_DATABASE_URL": url, "STOREFRONT_SECRET": SECRET, "STOREFRONT_POPULARITY_INTERVAL": "0"}
        with process(serve_command(here.port), here.port, **given, **settings) as server:
            here.pid = server.pid
            yield here


@contextmanager
def _full(size: int, end: datetime) -> Iterator[Stage]:
    """A shop with so many events in the thirty days before a midnight, and some before these."""
    with _shop(f"{size}-{end:%Y%m%d}", STOREFRONT_ROLLUP_INTERVAL="0") as here:
        mark = here.data / "full"
        if not mark.exists():
            with err.status(f"{size:,} events"):
                _fill(here, size, end)
            mark.touch()
        yield here


def _fill(here: Stage, size: int, end: datetime) -> None:
    all_, span = size * 11 // 10, timedelta(days=DAYS * 1.1)
    with psycopg.connect(here.url, autocommit=True) as connection:
        connection.execute("SELECT storefront_event_partitions(%s, %s)", [end - span, end])
        for first in range(0, all_, PART):
            last = min(first + PART, all_) - 1
            given = {"store": STORE_ID, "start": end - span, "span": span, "events": all_, "first": first, "last": last}
            connection.execute(EVENTS, given)

    async def count() -> None:
        async with Database(here.url, size=1, statement_timeout=0) as database:
            await roll_up(database, wait=True)

    asyncio.run(count())
    here.run("VACUUM (ANALYZE)")


def _report(here: Stage, until: datetime) -> list[float]:
    start = until - timedelta(days=DAYS)
    given = {"store": STORE_ID, "start": start, "end": until}
    range_ = {"from": start.isoformat(), "to": until.isoformat()}
    token = sign_token(Claims("benchmark"), SECRET, seconds=3600)
    headers = {"content-type": "application/json", "authorization": f"Bearer {token}"}
    request = Request("POST", "/graphql", body_of(REPORT, c=STORE_ID, range=range_), tuple(headers.items()))
    _compare(here, httpx.post(f"http://127.0.0.1:{here.port}/graphql", content=request.body, headers=headers, timeout=60), given)
    drive_each(here.port, [request] * 10, connections=1)
    before = cpu_seconds(here.postmaster)
    waits = drive_each(here.port, [request] * 20, connections=1).waits
    spent = 1000 * (cpu_seconds(here.postmaster) - before) / 20
    with here.logged() as log:
        drive_each(here.port, [request], connections=1)
        # The first finds out who asks.
        statements = len(log.statements()) - 1
    return [1000 * median(waits), spent, statements, _original(here, given)]


def _compare(here: Stage, answer: httpx.Response, given: dict[str, Any]) -> None:
    """Raise RuntimeError where the report is not what the raw rows say."""
    received = answer.json()["data"]["analytics"]
    with psycopg.connect(here.url, autocommit=True) as connection:
        *counts, top = [connection.execute(statement.encode(), given).fetchall() for statement in ORIGINAL]
        sessions = connection.execute(SESSIONS.encode(), given).fetchall()
    found = [received[name] for name in ("pageViews", "productClicks", "addToCarts", "sessions")]
    if found != [row[0][0] for row in (*counts, sessions)]:
        raise RuntimeError(f"The report says {found}, the raw rows {counts}, {sessions}.")
    if [product["clicks"] for product in received["topProducts"]] != [count for _, count in top]:
        raise RuntimeError(f"The report says {received['topProducts']}, the raw rows {top}.")
    if sum(point["sessions"] for point in received["series"]) != received["sessions"]:
        raise RuntimeError("The series does not add up.")


def _original(here: Stage, given: dict[str, Any]) -> float:
    with psycopg.connect(here.url, autocommit=True) as connection:
        before = cpu_seconds(here.postmaster)
        for statement in ORIGINAL:
            connection.execute(statement.encode(), given).fetchall()
    # What parallel workers and the connection itself used is known when they are gone.
    time.sleep(0.1)
    return 1000 * (cpu_seconds(here.postmaster) - before)
