"""Analytics reports: figures that equal a brute-force count, access control, and constant numbers of statements."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import orjson
import pytest

from storefront.analytics.rollups import roll_up
from storefront.core.db.database import Database
from storefront.core.ids import parse_id, uuid7
from storefront.queries.analytics import Span, list_interval_starts
from storefront.queries.rollups import GRAIN_ORIGIN
from tests.client import Client
from tests.factories import count_statements, make_product, make_store, make_user

PARTS = """
fragment Figures on AnalyticsReport {
  pageViews productClicks addToCarts purchases searches sessions conversionRate sessionConversionRate
  funnel { event sessions rate }
}
fragment Parts on AnalyticsReport {
  ...Figures
  topProducts(first: 5) { productId clicks addToCarts product { id } }
  series(interval: $interval) { startsAt pageViews productClicks addToCarts purchases sessions }
  sources { source medium campaign sessions events }
}
"""
OF_ALL = (
    PARTS
    + """
query OfAll($range: DateRangeInput!, $interval: AnalyticsInterval!, $zone: String!) {
  me { configs(first: 10) { nodes {
    id analytics(range: $range, timeZone: $zone) { ...Parts previous { ...Parts previous { sessions } } }
  } } }
}
"""
)
OF_ONE = (
    PARTS
    + """
query OfOne($c: ID!, $range: DateRangeInput!, $interval: AnalyticsInterval! = DAY, $zone: String! = "UTC") {
  analytics(configId: $c, range: $range, timeZone: $zone) { ...Parts previous { ...Figures } }
}
"""
)
EVENTS = """
query Events($c: ID!, $filter: AnalyticsEventFilterInput, $first: Int! = 20, $after: String) {
  events(configId: $c, filter: $filter, first: $first, after: $after) {
    totalCount nodes { id } edges { cursor node { id timestamp } } pageInfo { hasNextPage endCursor }
  }
}
"""
KINDS = {"page_view": "pageViews", "product_click": "productClicks", "add_to_cart": "addToCarts", "purchase": "purchases"}
COUNTED = KINDS | {"search": "searches"}
ORIGINS: list[tuple[dict[str, str], tuple[str, str | None, str | None]]] = [
    ({}, ("direct", None, None)),
    ({"referrer": "https://www.Google.com/search?q=chairs"}, ("www.google.com", None, None)),
    ({"referrer": "https://www.google.com"}, ("www.google.com", None, None)),
    ({"referrer": "http://user:secret@shop.example:8080/a?b=http://other.example/"}, ("shop.example", None, None)),
    ({"referrer": "android-app://com.google.android.gm"}, ("com.google.android.gm", None, None)),
    ({"referrer": "http://[2001:db8::1]:80/"}, ("[2001:db8::1]", None, None)),
    ({"referrer": "about:blank"}, ("direct", None, None)),
    ({"referrer": "not an address", "utm_source": ""}, ("direct", None, None)),
    (
        {"referrer": "https://a.example/", "utm_source": "news", "utm_medium": "email", "utm_campaign": "fall"},
        ("news", "email", "fall"),
    ),
    ({"utm_source": "news", "utm_medium": "", "utm_campaign": "fall"}, ("news", None, "fall")),
]


@dataclass(frozen=True)
class Event:
    """An event as the test generates it."""

    at: datetime
    kind: str = "page_view"
    session: str | None = None
    product: str | None = None
    origin: int = 0
    is_bot: bool = False
    id: str = field(default_factory=lambda: str(uuid7()))


@dataclass(frozen=True)
class Visit:
    """A session as the test computes it: its first event, and its kinds of events."""

    first: Event
    kinds: frozenset[str]


async def add_events(database: Database, store: str, events: Iterable[Event]) -> None:
    """Store events, and roll them up."""
    kinds = "id, config_id, timestamp, event, session_id, is_bot, properties"
    names = ("referrer", "utm_source", "utm_medium", "utm_campaign")
    async with database.transaction() as connection, connection.raw.cursor() as cursor:
        statement = f"COPY analytics_events ({kinds}, {', '.join(names)}) FROM STDIN"
        async with cursor.copy(statement.encode()) as copy:
            for event in events:
                properties = {} if event.product is None else {"productId": event.product}
                origin = (ORIGINS[event.origin][0].get(name) for name in names)
                what = event.at, event.kind, event.session, event.is_bot, orjson.dumps(properties).decode()
                await copy.write_row((event.id, store, *what, *origin))
    await roll_up(database, wait=True)


def draw_events(rng: Random, span: Span, products: list[str], number: int) -> list[Event]:
    """Random events in and around a span, some of them exactly at its ends."""
    around = span.end - span.start
    moments = [span.start - around, span.start, span.end - timedelta(microseconds=1), span.end]
    moments += [span.start - around + 2.5 * around * rng.random() for _ in range(number)]
    return [
        Event(
            at,
            rng.choice([*COUNTED, "newsletter"]),
            rng.choice([None, *(f"session {n}" for n in range(number // 5))]),
            rng.choice([None, "not an id", *products, products[0].upper()]),
            rng.randrange(len(ORIGINS)),
            rng.random() < 0.05,
        )
        for at in moments
    ]


# ------------------------------------------------------------------------------------------------- by hand


def label(at: datetime, interval: str, zone: str) -> object:
    """The label of the interval in local time."""
    local = at.astimezone(ZoneInfo(zone))
    labels: dict[str, Callable[[], object]] = {
        "HOUR": lambda: (local.date(), local.hour, local.utcoffset()),
        "DAY": local.date,
        "WEEK": lambda: local.isocalendar()[:2],
        "MONTH": lambda: (local.year, local.month),
    }
    return labels[interval]()


def group_visits(events: Iterable[Event]) -> list[Visit]:
    """The sessions of a store, over all of its events."""
    found: dict[str, list[Event]] = defaultdict(list)
    for event in sorted(events, key=lambda event: (event.at, event.id)):
        if event.session is not None:
            found[event.session].append(event)
    return [Visit(those[0], frozenset(event.kind for event in those)) for those in found.values()]


def counts(events: list[Event], begun: list[Visit]) -> dict[str, Any]:
    kinds = Counter(event.kind for event in events)
    return {**{name: kinds[kind] for kind, name in KINDS.items()}, "sessions": len(begun)}


def figures(events: list[Event], begun: list[Visit]) -> dict[str, Any]:
    found = counts(events, begun)
    steps: list[tuple[str | None, list[Visit]]] = [(None, begun)]
    for kind in ("product_click", "add_to_cart", "purchase"):
        steps.append((kind, [visit for visit in steps[-1][1] if kind in visit.kinds]))
    funnel = [
        {"event": kind, "sessions": len(those), "rate": pytest.approx(100 * len(those) / len(before) if before else 0)}
        for (kind, those), (_, before) in zip(steps, [steps[0], *steps], strict=False)
    ]
    return found | {
        "searches": sum(event.kind == "search" for event in events),
        "conversionRate": pytest.approx(found["addToCarts"] / found["productClicks"] * 100 if found["productClicks"] else 0),
        "sessionConversionRate": funnel[2]["rate"],
        "funnel": funnel,
    }


def top_products(events: list[Event], live: list[str]) -> list[dict[str, Any]]:
    about = [(e.kind, e.product.lower()) for e in events if e.product and parse_id(e.product)]
    clicks, carts = (Counter(product for kind, product in about if kind == wanted) for wanted in ("product_click", "add_to_cart"))
    best = sorted((-clicks[id_], -carts[id_], id_) for id_ in {*clicks, *carts})[:5]
    shown = ((id_, {"id": id_} if id_ in live else None, -clicked, -carted) for clicked, carted, id_ in best)
    return [{"productId": i, "product": product, "clicks": c, "addToCarts": carted} for i, product, c, carted in shown]


def sources(events: list[Event], begun: list[Visit]) -> list[dict[str, Any]]:
    came, first = (Counter(ORIGINS[event.origin][1] for event in those) for those in (events, [visit.first for visit in begun]))
    names = ("source", "medium", "campaign")
    rows = [dict(zip(names, of, strict=True)) | {"sessions": first[of], "events": came[of]} for of in {*came, *first}]
    return sorted(rows, key=lambda r: (-r["sessions"], -r["events"], r["source"], r["medium"] or "", r["campaign"] or ""))


def assert_series(
    points: list[dict[str, Any]], events: list[Event], begun: list[Visit], span: Span, interval: str, zone: str
) -> None:
    """Check that each event is in the interval of its local time, and that intervals cover the span."""
    by_label: dict[object, tuple[list[Event], list[Visit]]] = defaultdict(lambda: ([], []))
    for event in events:
        by_label[label(event.at, interval, zone)][0].append(event)
    for visit in begun:
        by_label[label(visit.first.at, interval, zone)][1].append(visit)
    wanted: dict[object, None] = {}
    moment = span.start
    while moment < span.end:
        wanted[label(moment, interval, zone)] = None
        moment += timedelta(minutes=15)
    wanted[label(span.end - timedelta.resolution, interval, zone)] = None
    labels = [label(datetime.fromisoformat(point["startsAt"]), interval, zone) for point in points]
    assert labels == [*wanted]
    assert [{**point, "startsAt": None} for point in points] == [{**counts(*by_label[one]), "startsAt": None} for one in labels]


def assert_report(received: dict[str, Any], events: list[Event], live: list[str], span: Span, interval: str, zone: str) -> None:
    people = [event for event in events if not event.is_bot]
    within = [event for event in people if span.start <= event.at < span.end]
    begun = [visit for visit in group_visits(people) if span.start <= visit.first.at < span.end]
    assert {name: received[name] for name in figures(within, begun)} == figures(within, begun)
    assert received["topProducts"] == top_products(within, live)
    assert received["sources"] == sources(within, begun)
    assert_series(received["series"], within, begun, span, interval, zone)


# ------------------------------------------------------------------------------------------------- reports


def between(start: str, end: str, zone: str = "UTC") -> Span:
    return Span(*(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC) for text in (start, end)))


def around(at: datetime, minutes: int) -> Span:
    return Span(at - timedelta(minutes=minutes), at + timedelta(minutes=minutes))


def sent(span: Span) -> dict[str, str]:
    return {"from": span.start.isoformat(), "to": span.end.isoformat()}


@pytest.mark.parametrize(
    ("interval", "zone", "start", "end"),
    [
        ("DAY", "UTC", "2026-02-01", "2026-02-15"),
        ("HOUR", "UTC", "2026-02-01T00:30", "2026-02-02T07:45"),
        ("DAY", "America/New_York", "2026-03-06T12:00", "2026-03-11T06:00"),
        ("HOUR", "America/New_York", "2026-03-07T12:00", "2026-03-09"),
        ("DAY", "America/New_York", "2026-10-30", "2026-11-03"),
        ("HOUR", "America/New_York", "2026-10-31T12:00", "2026-11-02"),
        ("WEEK", "Europe/Berlin", "2026-03-11T09:00", "2026-04-20"),
        ("MONTH", "Asia/Kolkata", "2025-11-15", "2026-03-01"),
        ("HOUR", "Asia/Kolkata", "2026-01-01", "2026-01-02T03:30"),
        # Daylight saving: midnight occurs twice, or not at all; shifts of half an hour.
        ("DAY", "America/Havana", "2026-10-30", "2026-11-03"),
        ("DAY", "Africa/Cairo", "2026-04-22", "2026-04-26"),
        ("HOUR", "Australia/Lord_Howe", "2026-04-04T12:00", "2026-04-05T12:00"),
        ("HOUR", "Australia/Lord_Howe", "2026-10-03T12:00", "2026-10-04T12:00"),
        # Offsets of quarters of an hour, weeks and months that begin within a week, unaligned edges.
        ("DAY", "Asia/Kathmandu", "2026-01-30", "2026-03-02"),
        ("HOUR", "Australia/Eucla", "2026-02-01T00:10:30.5", "2026-02-02T23:59:59.999999"),
        ("WEEK", "Pacific/Chatham", "2026-03-20T07:07:07", "2026-05-01"),
        ("MONTH", "America/St_Johns", "2025-11-15T23:01", "2026-04-01T00:00:01"),
        ("DAY", "UTC", "2026-02-01T12:00:00.000001", "2026-02-01T12:00:00.000003"),
        # Until 1972 Monrovia had an offset of 44 minutes and 30 seconds.
        ("DAY", "Africa/Monrovia", "1971-12-20", "1972-01-20"),
    ],
)
async def test_reports_match_brute_force_counts(shopper: Client, interval: str, zone: str, start: str, end: str) -> None:
    owner = await make_user(shopper.database)
    span, rng = between(start, end, zone), Random(f"{interval}{zone}{start}")
    events, live = {}, {}
    for number, published in ((300, True), (40, False), (0, True)):
        store = await make_store(shopper.database, user_id=owner, is_published=published)
        live[store] = [await make_product(shopper.database, store) for _ in range(4)]
        events[store] = draw_events(rng, span, [*live[store], str(uuid7())], number) if number else []
        await add_events(shopper.database, store, events[store])
    answer = await shopper.signed_in(owner).ask(OF_ALL, range=sent(span), interval=interval, zone=zone)
    received = {node["id"]: node["analytics"] for node in answer["me"]["configs"]["nodes"]}
    assert set(received) == set(events)
    for store, report in received.items():
        assert_report(report, events[store], live[store], span, interval, zone)
        assert_report(report["previous"], events[store], live[store], span.get_previous(), interval, zone)
        assert report["previous"]["previous"] is None


async def test_any_range_matches_brute_force_counts(shopper: Client) -> None:
    owner, rng = await make_user(shopper.database), Random(9)
    store = await make_store(shopper.database, user_id=owner)
    live = [await make_product(shopper.database, store) for _ in range(4)]
    # Dense around an hour, a midnight and the start of the longest grain, so that events are near any end of a range.
    centres = [datetime(2026, 2, 3, 7, tzinfo=UTC), datetime(2026, 2, 4, tzinfo=UTC), GRAIN_ORIGIN + timedelta(days=16 * 573)]
    events = [event for at in centres for m in (1, 40) for event in draw_events(rng, around(at, minutes=m), live, 80)]
    await add_events(shopper.database, store, events)
    moments = [event.at + rng.choice([0, 1, -1]) * timedelta.resolution for event in events]
    moments += [at - timedelta(seconds=at.second, microseconds=at.microsecond) for at in moments]
    client = shopper.signed_in(owner)
    for _ in range(40):
        start, end = sorted(rng.sample(moments, 2))
        if start < end:
            interval, span = rng.choice(["HOUR", "DAY"]), Span(start, end)
            received = await client.ask(OF_ONE, c=store, range=sent(span), interval=interval)
            assert_report(received["analytics"], events, live, span, interval, "UTC")


@pytest.mark.parametrize(
    ("start", "end", "interval", "points"),
    [
        ("2026-03-08", "2026-03-09", "HOUR", 23),
        ("2026-11-01", "2026-11-02", "HOUR", 25),
        ("2026-03-08", "2026-03-09", "DAY", 1),
        ("2026-11-01", "2026-11-02", "DAY", 1),
        ("2026-11-01", "2026-12-01", "WEEK", 6),
        ("2026-01-31", "2026-03-02", "MONTH", 3),
    ],
)
def test_intervals_follow_local_time(start: str, end: str, interval: str, points: int) -> None:
    assert len(list_interval_starts(between(start, end, "America/New_York"), interval.lower(), "America/New_York")) == points


def test_weeks_start_on_monday() -> None:
    weeks = list_interval_starts(between("2026-11-01", "2026-12-01", "Europe/Berlin"), "week", "Europe/Berlin")
    assert {at.astimezone(ZoneInfo("Europe/Berlin")).strftime("%a %H:%M") for at in weeks} == {"Mon 00:00"}
    apia = ZoneInfo("Pacific/Apia")
    days = list_interval_starts(between("2011-12-29", "2012-01-01", "Pacific/Apia"), "day", "Pacific/Apia")
    assert [at.astimezone(apia).day for at in days] == [29, 31]


async def test_store_without_events_has_zero_counts(shopper: Client) -> None:
    owner = await make_user(shopper.database)
    store = await make_store(shopper.database, user_id=owner)
    received = (await shopper.signed_in(owner).ask(OF_ONE, c=store, range=sent(between("2026-02-01", "2026-02-04"))))["analytics"]
    nothing = figures([], [])
    assert {name: received[name] for name in nothing} == received["previous"] == nothing
    assert received["topProducts"] == received["sources"] == []
    assert [point["startsAt"] for point in received["series"]] == [f"2026-02-0{day}T00:00:00Z" for day in (1, 2, 3)]


async def test_session_rate_is_at_most_100(shopper: Client) -> None:
    owner = await make_user(shopper.database)
    store = await make_store(shopper.database, user_id=owner)
    at = datetime(2026, 2, 1, tzinfo=UTC)
    clicks = [Event(at, "product_click", "one")]
    carts = [Event(at, "add_to_cart", session) for session in ("one", "two", "three", "one", None)]
    await add_events(shopper.database, store, clicks + carts)
    received = (await shopper.signed_in(owner).ask(OF_ONE, c=store, range=sent(between("2026-02-01", "2026-02-02"))))["analytics"]
    assert (received["conversionRate"], received["sessionConversionRate"]) == (500.0, 100.0)


async def test_top_product_of_another_store_is_null(shopper: Client) -> None:
    owner = await make_user(shopper.database)
    store, other = await make_store(shopper.database, user_id=owner), await make_store(shopper.database)
    foreign, own = await make_product(shopper.database, other), await make_product(shopper.database, store, status="archived")
    at = datetime(2026, 2, 1, tzinfo=UTC)
    clicked = [foreign, foreign, foreign, own, own.upper(), '"; DROP TABLE']
    await add_events(shopper.database, store, [Event(at, "product_click", product=product) for product in clicked])
    received = (await shopper.signed_in(owner).ask(OF_ONE, c=store, range=sent(between("2026-02-01", "2026-02-02"))))["analytics"]
    products = {top["productId"]: top["product"] for top in received["topProducts"]}
    # An invalid id belongs to no product.
    assert products == {foreign: None, own: {"id": own}}


async def test_statement_count_is_independent_of_stores(shopper: Client) -> None:
    owner, span, rng = await make_user(shopper.database), between("2026-02-01", "2026-02-08"), Random(1)
    costs: list[Counter[int]] = []
    for more in (1, 9):
        for _ in range(more):
            store = await make_store(shopper.database, user_id=owner)
            products = [await make_product(shopper.database, store)]
            await add_events(shopper.database, store, draw_events(rng, span, products, 30))
        with count_statements(shopper.database) as statements:
            await shopper.signed_in(owner).ask(OF_ALL, range=sent(span), interval="DAY", zone="UTC")
        costs.append(Counter(statement.count("analytics_events") for statement in statements))
    assert [cost[1] for cost in costs] == [8, 8]
    # The products of a report and of the previous one are loaded in one or two statements, depending on timing.
    assert all(cost.total() <= 8 + 5 for cost in costs)


@pytest.mark.parametrize(
    ("part", "statements"),
    [
        ("pageViews sessions conversionRate sessionConversionRate", 1),
        ("series { startsAt }", 1),
        ("topProducts { clicks }", 1),
        ("sources { events }", 1),
        ("__typename previous { __typename }", 0),
        ("sessions previous { sessions }", 2),
    ],
)
async def test_report_parts_are_loaded_on_demand(shopper: Client, part: str, statements: int) -> None:
    owner = await make_user(shopper.database)
    store = await make_store(shopper.database, user_id=owner)
    query = f"query($c: ID!, $range: DateRangeInput!) {{ analytics(configId: $c, range: $range) {{ {part} }} }}"
    with count_statements(shopper.database) as seen:
        await shopper.signed_in(owner).ask(query, c=store, range=sent(between("2026-02-01", "2026-02-08")))
    assert len([sql for sql in seen if "analytics_events" in sql]) == statements


# ----------------------------------------------------------------------------------------------- who, what

ROOTS = [OF_ONE, EVENTS]


@pytest.mark.parametrize("query", ROOTS, ids=["analytics", "events"])
async def test_analytics_require_ownership(shopper: Client, query: str) -> None:
    stranger = shopper.signed_in(await make_user(shopper.database))
    published, hidden = await make_store(shopper.database), await make_store(shopper.database, is_published=False)
    variables = {"range": sent(between("2026-02-01", "2026-02-08"))} if query is OF_ONE else {}
    cases = [
        (shopper, published, "UNAUTHENTICATED"),
        (shopper, hidden, "UNAUTHENTICATED"),
        (stranger, published, "FORBIDDEN"),
        (stranger, hidden, "NOT_FOUND"),
        (stranger, str(uuid7()), "NOT_FOUND"),
        (stranger, "nonsense", "BAD_USER_INPUT"),
    ]
    for viewer, store, code in cases:
        assert (await viewer.refusal(query, c=store, **variables))["extensions"]["code"] == code


async def test_page_of_stores_shows_own_analytics_only(shopper: Client) -> None:
    owner = await make_user(shopper.database)
    own, other = await make_store(shopper.database, user_id=owner), await make_store(shopper.database)
    query = """query($own: ID!, $other: ID!, $range: DateRangeInput!) {
      own: config(by: {id: $own}) { analytics(range: $range) { sessions } events { totalCount } }
      other: config(by: {id: $other}) { analytics(range: $range) { sessions } events { totalCount } }
    }"""
    variables = {"own": own, "other": other, "range": sent(between("2026-02-01", "2026-02-08"))}
    received = await shopper.signed_in(owner).ask(query, **variables)
    hidden = {"analytics": None, "events": None}
    assert received == {"own": {"analytics": {"sessions": 0}, "events": {"totalCount": 0}}, "other": hidden}
    assert await shopper.ask(query, **variables) == {"own": hidden, "other": hidden}


async def test_events_of_many_stores_are_read_at_once(shopper: Client) -> None:
    owner = await make_user(shopper.database)
    at = datetime(2026, 2, 1, tzinfo=UTC)
    query = """{ me { configs { nodes { id events(first: 2, filter: {events: ["purchase"]}) { totalCount nodes { id } } } } } }"""
    numbers, expected = [], {}
    for number in (1, 2, 3):
        store = await make_store(shopper.database, user_id=owner)
        events = [Event(at + timedelta(hours=hour), "purchase") for hour in range(number)]
        await add_events(shopper.database, store, [*events, Event(at)])
        newest = [{"id": event.id} for event in sorted(events, key=lambda event: event.at, reverse=True)]
        expected[store] = {"totalCount": number, "nodes": newest[:2]}
        with count_statements(shopper.database) as statements:
            found = (await shopper.signed_in(owner).ask(query))["me"]["configs"]["nodes"]
        assert {config["id"]: config["events"] for config in found} == expected
        numbers.append(len([sql for sql in statements if "analytics_events" in sql]))
    assert numbers == [2, 2, 2]


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"range": sent(between("2026-02-01", "2026-02-01"))}, "range.to", "must be later than from"),
    ({"range": sent(between("2026-02-02", "2026-02-01"))}, "range.to", "must be later than from"),
    ({"range": sent(between("1969-12-31", "1970-01-02"))}, "range", "between the years 1970 and 2100"),
    ({"range": sent(between("9999-12-31", "9999-12-31T23:00"))}, "range", "between the years 1970 and 2100"),
    ({"range": sent(between("2024-01-01", "2026-01-02"))}, "range", "at most 731 days"),
    (
        {"range": sent(between("2025-01-01", "2026-02-06")), "interval": "HOUR"},
        "interval",
        "must not be HOUR when the range is longer than 400 days",
    ),
    ({"zone": "Berlin"}, "timeZone", "'Berlin' is not the IANA name"),
    ({"zone": "../../etc/passwd"}, "timeZone", "is not the IANA name"),
    ({"zone": ""}, "timeZone", "is not the IANA name"),
]


@pytest.mark.parametrize(("variables", "named", "message"), BAD)
async def test_invalid_arguments_are_rejected_by_name(
    shopper: Client, variables: dict[str, Any], named: str, message: str
) -> None:
    owner = await make_user(shopper.database)
    store = await make_store(shopper.database, user_id=owner)
    given = {"range": sent(between("2026-02-01", "2026-02-08")), **variables}
    error = await shopper.signed_in(owner).refusal(OF_ONE, c=store, **given)
    assert (error["extensions"]["code"], error["extensions"]["field"]) == ("BAD_USER_INPUT", named)
    assert message in error["message"]


async def test_longest_reports_are_served(shopper: Client) -> None:
    owner = await make_user(shopper.database)
    store = await make_store(shopper.database, user_id=owner)
    query = """query($c: ID!, $r: DateRangeInput!, $i: AnalyticsInterval!) {
      analytics(configId: $c, range: $r) { series(interval: $i) { startsAt } } }"""
    for interval, start, points in (("DAY", "2024-01-01", 731), ("HOUR", "2024-11-27", 9_600)):
        variables = {"r": sent(between(start, "2026-01-01")), "i": interval}
        received = await shopper.signed_in(owner).ask(query, c=store, **variables)
        assert len(received["analytics"]["series"]) == points


# -------------------------------------------------------------------------------------------------- events


async def walk(client: Client, **variables: Any) -> list[str]:
    """The ids of all pages in order; checks that totalCount is constant."""
    found: list[str] = []
    totals, after = set(), None
    while True:
        page = (await client.ask(EVENTS, after=after, **variables))["events"]
        assert [node["id"] for node in page["nodes"]] == [edge["node"]["id"] for edge in page["edges"]]
        found += [node["id"] for node in page["nodes"]]
        totals.add(page["totalCount"])
        if not page["pageInfo"]["hasNextPage"]:
            assert totals == {len(found)}
            return found
        after = page["pageInfo"]["endCursor"]


async def test_event_pages_cover_each_event_once(shopper: Client) -> None:
    owner, rng = await make_user(shopper.database), Random(2)
    store, other = [await make_store(shopper.database, user_id=owner) for _ in range(2)]
    moments = [datetime(2026, 2, 1, microsecond=rng.randrange(3), tzinfo=UTC) for _ in range(60)]
    events = [Event(at, rng.choice([*KINDS]), rng.choice(["a", "b", None])) for at in moments]
    await add_events(shopper.database, store, events)
    await add_events(shopper.database, other, [Event(moments[0])])
    newest = sorted(events, key=lambda event: (event.at, event.id), reverse=True)
    client = shopper.signed_in(owner)
    middle = datetime(2026, 2, 1, microsecond=1, tzinfo=UTC)
    only = {"range": {"from": middle.isoformat(), "to": (middle + timedelta(microseconds=1)).isoformat()}}
    cases: list[tuple[dict[str, Any] | None, Callable[[Event], bool]]] = [
        (None, lambda _: True),
        ({}, lambda _: True),
        ({"events": ["page_view", "purchase"]}, lambda event: event.kind in ("page_view", "purchase")),
        ({"events": []}, lambda _: True),
        ({"sessionId": "a"}, lambda event: event.session == "a"),
        (only, lambda event: event.at == middle),
        ({"events": ["purchase"], "sessionId": "b", **only}, lambda e: (e.kind, e.session, e.at) == ("purchase", "b", middle)),
    ]
    for chosen, fits in cases:
        wanted = [event.id for event in newest if fits(event)]
        assert await walk(client, c=store, filter=chosen, first=7) == wanted
    assert len(await walk(client, c=store, first=100)) == 60


async def test_event_returns_all_fields(shopper: Client) -> None:
    owner = await make_user(shopper.database)
    store = await make_store(shopper.database, user_id=owner)
    event = Event(datetime(2026, 2, 1, 12, tzinfo=UTC), "add_to_cart", "s", "p", origin=8)
    await add_events(shopper.database, store, [event])
    query = """query($c: ID!) { events(configId: $c) { nodes {
      id event properties sessionId userId userAgent ipAddress referrer utmSource utmMedium utmCampaign timestamp
    } } }"""
    (received,) = (await shopper.signed_in(owner).ask(query, c=store))["events"]["nodes"]
    assert received == {
        "id": event.id,
        "event": "add_to_cart",
        "properties": {"productId": "p"},
        "sessionId": "s",
        "userId": None,
        "userAgent": None,
        "ipAddress": None,
        "referrer": "https://a.example/",
        "utmSource": "news",
        "utmMedium": "email",
        "utmCampaign": "fall",
        "timestamp": "2026-02-01T12:00:00Z",
    }


async def test_event_cursor_is_bound_to_its_list(shopper: Client) -> None:
    owner = await make_user(shopper.database)
    store, other = [await make_store(shopper.database, user_id=owner) for _ in range(2)]
    at = datetime(2026, 2, 1, tzinfo=UTC)
    await add_events(shopper.database, store, [Event(at), Event(at)])
    client = shopper.signed_in(owner)
    cursor = (await client.ask(EVENTS, c=store, first=1))["events"]["pageInfo"]["endCursor"]
    for variables in ({"c": other}, {"c": store, "filter": {"events": ["page_view"]}}):
        error = await client.refusal(EVENTS, after=cursor, **variables)
        assert (error["extensions"]["code"], error["extensions"]["field"]) == ("BAD_USER_INPUT", "after")
    backwards = {"from": "2026-02-02T00:00:00Z", "to": "2026-02-01T00:00:00Z"}
    error = await client.refusal(EVENTS, c=store, filter={"range": backwards})
    assert error["extensions"]["field"] == "filter.range.to"
