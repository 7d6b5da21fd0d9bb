"""A small test shop: several stores, every kind of viewer, and rows with and without each optional value."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from psycopg import sql

from storefront.core.db.database import Database
from storefront.core.encryption import Vault, generate_key
from storefront.feed.hub import Hub
from storefront.feed.log import LogEntry, append_entries
from storefront.feed.pubsub import PubSub
from storefront.graph.context import Context, Feed, MediaConfig, Viewer
from storefront.queries.spelling import SpellingCorrector
from tests.factories import insert, make_job, make_product, make_review, make_store, make_user, make_variant

THEME = {"primaryColor": "#000", "secondaryColor": "#fff", "fontFamily": "serif"}
LAYOUT = {"headerStyle": "full", "gridColumns": 3, "showPrices": True, "showDescriptions": False}
INTEGRATIONS = {
    "shopify": {"domain": "lanterns.myshopify.com", "accessToken": "sealed"},
    "stripe": {"publishableKey": "pk_live_12345678"},
}

NOBODY = "018f0000-0000-7000-8000-ffffffffffff"

TITLES = ["Copper Lantern", "Brass Lamp", "Tin Candle", "Glass Shade", "Oil Lamp", "Paper Lantern", "Wall Light"]


@dataclass(frozen=True, slots=True)
class Shop:
    """An open database with rows, those who look at it, and what documents may be sent with."""

    database: Database
    vocabularies: SpellingCorrector
    vault: Vault
    feed: Feed
    viewers: Sequence[Viewer | None]
    values: Mapping[str, Sequence[Any]]
    is_damaged: bool = False

    def context(self, viewer: Viewer | None, kind: type[Context] = Context) -> Context:
        """A context for one operation, as the application makes them."""
        # There are limits, as without them resolvers fail before a viewer is required, but no files.
        nowhere: Any = None
        media_config = MediaConfig(nowhere, 1_000_000, nowhere, 1_000_000, "https://api.example")
        return kind(self.database, self.vocabularies, self.vault, self.feed, media_config, viewer)


async def open_shop(database: Database) -> Shop:
    """Fill an empty database. The same ids each time: faults and damages are the same rows' then."""
    ids = (f"018f0000-0000-7000-8000-{number:012x}" for number in count(1))
    owner, rival, reader = [await make_user(database, id=next(ids), subject=f"user {n}") for n in range(3)]
    looks = {"theme": THEME, "layout": LAYOUT, "integrations": INTEGRATIONS}
    store = await make_store(database, id=next(ids), user_id=owner, slug="lanterns", **looks)
    closed = await make_store(database, id=next(ids), user_id=owner, is_published=False, description="Not open yet")
    measured = {"analytics": {"googleAnalyticsId": "G-12345678"}}
    other = await make_store(database, id=next(ids), user_id=rival, integrations=measured)
    empty = await make_store(database, id=next(ids), user_id=rival, layout=LAYOUT)
    everyone = [owner, rival, reader, await make_user(database, id=next(ids), name=None, image=None)]
    products = [await _product(database, ids, store, number, everyone) for number in range(7)]
    products += [await _product(database, ids, of, 10 + number, everyone) for of in (closed, other) for number in range(2)]
    for of in (store, closed, other):
        await _past(database, ids, of, products)
    for number, of in enumerate((store, store, closed)):
        for kind in ("import", "export"):
            failure: dict[str, Any] = {
                "status": "failed",
                "error": {"message": "No.", "field": "integrations.shopify" if number else None},
            }
            await make_job(database, of, owner, kind, id=next(ids), total=20 if number else None, done=10, **failure)
        hook = {"url": "https://example.com", "read_as": "owner", "secret": "-", "position": number}
        await insert(database, "webhooks", id=next(ids), config_id=of, topics="{product.updated,config.updated}", **hook)
    hub = Hub(database, 60)
    feed = Feed(hub, PubSub("memory://", hub.notify))
    viewer = Viewer(owner, frozenset({store, closed}))
    viewers = [viewer, None, viewer, Viewer(rival, frozenset({other, empty})), viewer, Viewer(reader)]
    values = _values([store] * 9 + [closed, other, empty], products)
    return Shop(database, SpellingCorrector(), Vault([generate_key()]), feed, viewers, values)


TOKEN = "0" * 32


async def _product(database: Database, ids: Iterator[str], store: str, number: int, readers: Sequence[str]) -> str:
    status = "archived" if number == 5 else "inactive" if number == 6 else "active"
    named = {"title": TITLES[number % 7], "handle": f"lamp-{number}", "category": ["Light", "Glass", None][number % 3]}
    key = next(ids)
    picture = key.replace("-8000-", "-9000-")
    addresses = ["https://example.com/a.jpg", f"https://api.example/media/{picture}-{TOKEN}/full.jpg"]
    more = {"tags": ["copper", "warm"][: number % 3], "images": addresses[: number % 3]}
    prices = {"price": f"{10 + number}.50", "compare_at_price": "99.00" if number % 2 else None}
    bare = {"description": None if number % 2 else "Warm & bright — “lit”", "inventory": None if number == 3 else number % 3}
    row = {**named, **more, **prices, **bare, "status": status, "track_inventory": number != 4}
    product = await make_product(database, store, id=key, **row)
    seen = {"width": 900, "height": 600, "alt": "A lamp" if number % 2 else None, "placeholder": "data:image/webp;base64,"}
    kept = {"config_id": store, "product_id": product, "place": f"media/{picture}", "token": TOKEN, "extension": "jpg"}
    await insert(database, "images", id=picture, **kept, **seen)
    for size in ("S", "M", "L")[: number % 4]:
        some = {"sku": f"sku-{number}-{size}" if size != "M" else None, "inventory": None if size == "L" else number % 3}
        some |= {"price": f"{10 + number}.50", "compare_at_price": prices["compare_at_price"]}
        await make_variant(database, product, id=next(ids), attributes={"Size": size}, is_available=size != "M", **some)
    for user in readers[: number % 4]:
        opinion = {"rating": 1 + number % 5, "title": "Fine" if number % 2 else None}
        await make_review(database, product, id=next(ids), user_id=user, **opinion)
    return product


async def _past(database: Database, ids: Iterator[str], store: str, products: Sequence[str]) -> None:
    for number, product in enumerate(products):
        properties = {"productId": product if number % 3 else "gone"}
        source = {"utm_source": "mail" if number % 2 else None, "session_id": f"s{number % 4}" if number % 3 else None}
        event = {"id": next(ids), "event": "product_click", "properties": properties}
        await insert(database, "analytics_events", config_id=store, **event, **source)
    kinds = ("created", "updated", "deleted")
    entries = [_entry(kind, product) for product in products[:3] for kind in kinds[: 3 if product == products[2] else 2]]
    async with database.transaction() as connection:
        await append_entries(connection, store, [*entries, LogEntry(kind="config_updated", entity_id=store)])


def _entry(kind: str, product: str) -> LogEntry:
    return LogEntry(
        kind=f"product_{kind}",
        entity_id=product,
        product_id=product,
        version=1,
        was_visible=kind != "created",
        is_visible=kind != "deleted",
        changed_fields=["price"],
    )


def _values(stores: Sequence[str], products: Sequence[str]) -> dict[str, Sequence[Any]]:
    """What finds something, mostly."""
    now = datetime.now(UTC)
    days = [(now + timedelta(days=number)).isoformat() for number in (-300, -7, -1, 1)]
    return {
        "configId": stores,
        "ConfigByInput.id": stores,
        "ConfigByInput.slug": ["lanterns", "lanterns", "nothing"],
        "ProductByInput.id": [*products, NOBODY],
        "ids": products,
        "handle": ["lamp-0", "lamp-1", "lamp-2", "lamp-10", "nothing"],
        "sku": ["sku-1-S", "sku-3-L", "nothing"],
        "first": [1, 2, 3, 5, 20, 100],
        "last": [None],
        "rating": [1, 2, 3, 5],
        "limit": [1, 2, 20],
        "offset": [0, 0, 1, 5],
        "after": [None],
        "before": [None],
        "Query.productChanges.after": ["0", "0", "1", "2", "99"],
        "prefix": ["co", "la", "copper lan", "lantren", ""],
        "search": ["lantern", "copper", "lamp", "lantren", "nothing at all", "", "-lamp"],
        "q": ["lantern", "lamp", "nothing at all"],
        "from": days[:2],
        "to": days[2:],
        "timeZone": ["UTC", "Europe/Berlin", "Asia/Kathmandu"],
        "category": ["Light", "Glass", "nothing"],
        "categories": ["Light", "Glass", "nothing"],
        "tags": ["copper", "warm"],
        "minPrice": ["0", "11.50"],
        "maxPrice": ["12.50", "100"],
        "minRating": [0.0, 1.5, 3],
        "AttributeInput.name": ["Size", "Size", "size", "Colour"],
        "AttributeInput.value": ["S", "M", "L", "red"],
        "events": ["product_click", "purchase"],
        "sessionId": ["s0", "s1"],
        "Query.__type.name": [
            "Product",
            "ProductFeedEvent",
            "UserError",
            "ProductByInput",
            "AnalyticsInterval",
            "JSON",
            "nothing",
        ],
        "idempotencyKey": [f"key {number}" for number in range(10_000)],
        # What is left, by scalar.
        "ID": [*products, *stores],
        "String": ["copper", "", "Size"],
        "Int": [0, 1, 2, 5],
        "Float": [0.5, 2],
        "Boolean": [True, False],
        "Decimal": ["1.00", "12.50"],
        "DateTime": days,
        "Position": ["0", "1"],
        "CurrencyCode": ["EUR", "USD"],
        "FileSize": [0, 1, 10**10],
        "JSON": [None, 1, "text", [1, {"a": None}]],
    }


# What is refused, or by nobody found.
REFUSED: Mapping[str, Sequence[Any]] = {
    "first": [0, 101, -1],
    "last": [0, 5],
    "rating": [0, 6],
    "limit": [0],
    "offset": [-1],
    "after": ["no cursor"],
    "before": ["no cursor"],
    "Query.productChanges.after": ["99"],
    "timeZone": ["Mars"],
    "minPrice": ["1000"],
    "ID": ["no id", "\0", NOBODY],
    "String": ["x" * 201, "\0"],
}


NOT_NULL = {
    "products": ["title", "price", "images", "tags", "status", "track_inventory", "version", "created_at", "sort_title"],
    "product_variants": ["name", "price", "is_available", "version", "created_at"],
    "reviews": ["rating", "version", "created_at"],
    "configs": ["store_name", "currency", "version", "created_at", "updated_at"],
    "users": ["created_at"],
    "analytics_events": ["event"],
}

# A value that its column would never hold, for one row in so many of the table.
DAMAGES = [
    ("products", "title", "NULL", 5),
    ("products", "price", "NULL", 6),
    ("products", "images", "NULL", 7),
    ("products", "tags", """'["copper", null]'""", 4),
    # Not the tags: what reads their elements would fail for all that are read with them.
    ("products", "images", """'"a.jpg"'""", 9),
    ("products", "images", "'[1, true, {}]'", 8),
    ("products", "status", "'lost'", 6),
    ("products", "version", "NULL", 5),
    ("product_variants", "name", "NULL", 4),
    ("product_variants", "price", "NULL", 5),
    ("product_variants", "is_available", "NULL", 6),
    ("product_variants", "attributes", """'{"Size": null}'""", 5),
    ("product_variants", "attributes", """'{"Size": ["S"]}'""", 6),
    ("reviews", "version", "NULL", 4),
    ("configs", "theme", """'{"primaryColor": "#000"}'""", 3),
    ("configs", "layout", """'{"headerStyle": "odd", "gridColumns": 3000000000}'""", 3),
    ("configs", "store_name", "NULL", 4),
    ("users", "created_at", "NULL", 3),
]


async def damage(shop: Shop) -> None:
    """Put nulls and values of other kinds where the schema says that there are none."""
    async with shop.database.transaction() as connection:
        await connection.raw.execute(
            """DO $$ DECLARE found record; BEGIN
            FOR found IN SELECT conrelid::regclass AS of, conname FROM pg_constraint WHERE contype = 'c' AND conrelid <> 0 LOOP
                EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', found.of, found.conname);
            END LOOP; END $$"""
        )
        for table, names in NOT_NULL.items():
            for name in names:
                nullable = sql.SQL("ALTER TABLE {} ALTER {} DROP NOT NULL").format(sql.Identifier(table), sql.Identifier(name))
                await connection.raw.execute(nullable)
        for number, (table, name, value, one_in) in enumerate(DAMAGES):
            statement = f"UPDATE {table} SET {name} = {value} WHERE hashtext(id::text || {number}) % {one_in} = 0"
            await connection.raw.execute(statement.encode())
