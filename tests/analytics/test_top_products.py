"""Top products of a span: both query plans equal a count of every grain."""

from datetime import UTC, datetime, timedelta
from functools import cache
from random import Random
from typing import Any

import pytest

from storefront.core.db.database import Database
from storefront.core.ids import uuid7
from storefront.queries import analytics
from storefront.queries.analytics import Span, load_top_products
from tests.analytics.test_reads import Event, add_events
from tests.factories import make_store

START = datetime(2026, 3, 1, tzinfo=UTC)


def clicked(rng: Random, products: list[str], skew: float, number: int, days: int) -> list[Event]:
    return [
        Event(
            START + timedelta(days=days * rng.random()),
            rng.choice(["product_click", "product_click", "add_to_cart"]),
            product=products[int(len(products) * rng.random() ** skew)],
        )
        for _ in range(number)
    ]


@pytest.mark.parametrize(
    ("number", "skew", "events", "days"),
    [(3, 1.0, 60, 12), (40, 3.0, 2_000, 20), (400, 1.0, 4_000, 5), (400, 4.0, 4_000, 30)],
    ids=["few", "wanted-much", "all-alike", "many"],
)
async def test_top_products_match_count_of_every_grain(
    number: int, skew: float, events: int, days: int, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = Random(number + days)
    stores = [await make_store(database), await make_store(database)]
    products = [str(uuid7()) for _ in range(number)]
    for store in stores:
        await add_events(database, store, clicked(rng, products, skew, events, days))
    spans = [
        Span(START + timedelta(seconds=first), START + timedelta(seconds=last))
        for first, last in (sorted(rng.uniform(-86_400, 86_400 * (days + 1)) for _ in range(2)) for _ in range(25))
    ]

    async def found(limit: int) -> list[Any]:
        return [await load_top_products(database, stores, span, limit) for span in spans]

    quick = [await found(limit) for limit in (1, 10, 100)]
    # The fine grains are scanned from end to end, even for few products.
    few = f" {analytics._MAX_PRODUCTS_BY_ID}\n"
    assert analytics._TOP_PRODUCTS_BY_DAY_SQL.count(few) == 2
    monkeypatch.setattr(analytics, "_TOP_PRODUCTS_BY_DAY_SQL", analytics._TOP_PRODUCTS_BY_DAY_SQL.replace(few, " 0\n"))
    monkeypatch.setattr(analytics, "_select_top_products_by_day", cache(analytics._select_top_products_by_day.__wrapped__))
    assert quick == [await found(limit) for limit in (1, 10, 100)]
    # Without whole days every grain is scanned.
    monkeypatch.setattr(analytics, "DAY_SECONDS", 10**9)
    assert quick == [await found(limit) for limit in (1, 10, 100)]
    assert any(rows for answers in quick for answer in answers for rows in answer)
