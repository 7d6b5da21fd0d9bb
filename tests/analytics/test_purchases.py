"""Revenue of stores, and figures of products: equal to a count by hand, for owners only, in one statement for many products."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any

import pytest

from storefront.analytics.rollups import roll_up
from tests.client import Client
from tests.factories import count_statements, insert, make_product, make_store, make_user

FIGURES = "productClicks addToCarts purchases conversionRate revenue { currency amount purchases }"
PRODUCTS = f"""query($s: ID!, $r: DateRangeInput!, $i: AnalyticsInterval! = DAY, $z: String! = "UTC") {{
  products(configId: $s, first: 50, filter: {{ statuses: [ACTIVE] }}) {{ nodes {{ id analytics(range: $r, timeZone: $z) {{
    {FIGURES} series(interval: $i) {{ startsAt productClicks addToCarts purchases }}
    previous {{ {FIGURES} previous {{ purchases }} }} }} }} }} }}"""
STORE = """query($s: ID!, $r: DateRangeInput!) { analytics(configId: $s, range: $r) {
  purchases revenue { currency amount purchases } previous { revenue { currency amount purchases } } } }"""
# A Sunday, some time ago.
START = datetime(2026, 6, 7, tzinfo=UTC)
DAYS = 8
KINDS = {"product_click": "productClicks", "add_to_cart": "addToCarts", "purchase": "purchases"}

Event = dict[str, Any]


@pytest.fixture
async def shop(shopper: Client) -> tuple[Client, str]:
    """An owner and their store."""
    user = await make_user(shopper.database)
    return shopper.signed_in(user), await make_store(shopper.database, user_id=user)


async def add_event(owner: Client, store: str, at: datetime, kind: str, is_bot: bool = False, **properties: Any) -> Event:
    await insert(
        owner.database, "analytics_events", config_id=store, event=kind, timestamp=at, is_bot=is_bot, properties=properties
    )
    return {"at": at, "kind": kind, "is_bot": is_bot, **properties}


async def add_random_events(owner: Client, store: str, products: Sequence[str], rng: Random, count: int) -> list[Event]:
    events = []
    for _ in range(count):
        at = START + timedelta(seconds=rng.randint(-DAYS * 86_400, DAYS * 86_400))
        properties: dict[str, Any] = {"productId": rng.choice(products).upper()} if rng.random() < 0.9 else {}
        kind = rng.choice([*KINDS, "purchase", "page_view"])
        if kind == "purchase" and rng.random() < 0.8:
            properties["total"] = rng.choice(["19.90", "5", 7.25, "0.10", "1200"])
        if kind == "purchase" and rng.random() < 0.8:
            properties["currency"] = rng.choice(["EUR", "EUR", "JPY", "KWD"])
        if properties.get("currency") == "JPY":
            properties["total"] = "1200"
        events.append(await add_event(owner, store, at, kind, rng.random() < 0.1, **properties))
    return events


def count_events(events: Sequence[Event], start: datetime, end: datetime) -> dict[str, int]:
    counted = [event["kind"] for event in events if not event["is_bot"] and start <= event["at"] < end]
    return {name: counted.count(kind) for kind, name in KINDS.items()}


def sum_revenue(events: Sequence[Event], start: datetime, end: datetime) -> list[dict[str, Any]]:
    paid = [
        event
        for event in events
        if event["kind"] == "purchase"
        and not event["is_bot"]
        and start <= event["at"] < end
        and {"total", "currency"} <= event.keys()
    ]
    digits = {"EUR": "0.01", "JPY": "1", "KWD": "0.001"}
    revenue = []
    for currency in {event["currency"] for event in paid}:
        totals = [Decimal(str(event["total"])) for event in paid if event["currency"] == currency]
        amount = str(sum(totals, Decimal()).quantize(Decimal(digits[currency])))
        revenue.append({"currency": currency, "amount": amount, "purchases": len(totals)})
    return sorted(revenue, key=lambda one: (-one["purchases"], one["currency"]))


def count_figures(events: Sequence[Event], start: datetime, end: datetime) -> dict[str, Any]:
    counts = count_events(events, start, end)
    clicks, carts = counts["productClicks"], counts["addToCarts"]
    rate = 100 * carts / clicks if clicks else 0.0
    return {**counts, "conversionRate": pytest.approx(rate), "revenue": sum_revenue(events, start, end)}


def to_range(start: datetime, end: datetime) -> dict[str, str]:
    return {"from": start.isoformat(), "to": end.isoformat()}


@pytest.mark.parametrize(
    ("seed", "interval", "zone"), [(1, "DAY", "UTC"), (2, "HOUR", "Asia/Kolkata"), (3, "WEEK", "Europe/Berlin")]
)
async def test_figures_equal_a_count_by_hand(shop: tuple[Client, str], seed: int, interval: str, zone: str) -> None:
    (owner, store), rng = shop, Random(seed)
    products = [await make_product(owner.database, store) for _ in range(3)]
    elsewhere = await make_store(owner.database)
    events = await add_random_events(owner, store, products, rng, 250)
    # Events of other stores may name the product.
    await add_random_events(owner, elsewhere, products, rng, 20)
    await roll_up(owner.database, wait=True)
    # Whole days, and spans that end within a minute.
    for offset in (timedelta(), timedelta(hours=5, minutes=7, seconds=rng.randint(1, 59))):
        start, end = START + offset, START + timedelta(days=DAYS - 1, seconds=rng.randint(0, 80_000))
        before = start - (end - start)
        given: dict[str, Any] = {"s": store, "r": to_range(start, end)}
        report = (await owner.ask(STORE, **given))["analytics"]
        assert report["purchases"] == count_events(events, start, end)["purchases"]
        assert report["revenue"] == sum_revenue(events, start, end)
        assert report["previous"]["revenue"] == sum_revenue(events, before, start)
        nodes = (await owner.ask(PRODUCTS, i=interval, z=zone, **given))["products"]["nodes"]
        assert len(nodes) == 3
        for node in nodes:
            of_product = [event for event in events if event.get("productId", "").lower() == node["id"]]
            figures = node["analytics"]
            assert {name: figures[name] for name in figures if name not in ("series", "previous")} == count_figures(
                of_product, start, end
            )
            assert figures["previous"] == {**count_figures(of_product, before, start), "previous": None}
            starts = [datetime.fromisoformat(point["startsAt"]) for point in figures["series"]]
            for point, at, until in zip(figures["series"], starts, [*starts[1:], end], strict=True):
                expected = count_events(of_product, max(at, start), until)
                assert {name: point[name] for name in expected} == expected, point


async def test_figures_are_the_owners(shop: tuple[Client, str], shopper: Client) -> None:
    owner, store = shop
    await make_product(owner.database, store)
    given = {"s": store, "r": to_range(START, START + timedelta(days=1))}
    for client in (shopper, shopper.signed_in(await make_user(shopper.database))):
        # Of an audience that may not filter by status.
        [node] = (await client.ask(PRODUCTS.replace(", filter: { statuses: [ACTIVE] }", ""), **given))["products"]["nodes"]
        assert node["analytics"] is None
    [node] = (await owner.ask(PRODUCTS, **given))["products"]["nodes"]
    assert (node["analytics"]["purchases"], node["analytics"]["revenue"]) == (0, [])
    refused = await owner.refusal(PRODUCTS, **given | {"r": to_range(START, START - timedelta(days=1))})
    assert refused["extensions"]["code"] == "BAD_USER_INPUT"


async def test_statements_do_not_grow_with_products(shop: tuple[Client, str]) -> None:
    owner, store = shop
    given = {"s": store, "r": to_range(START, START + timedelta(days=1, seconds=7))}
    counts = set()
    for _ in range(2):
        for _ in range(4):
            await make_product(owner.database, store)
        with count_statements(owner.database) as statements:
            await owner.ask(PRODUCTS, **given)
        counts.add(sum("analytics_purchases" in sql for sql in statements))
    # Figures, series, and the figures of the previous period.
    assert counts == {3}
