"""Turns a plan of demo stores into rows, one by one. Pure and deterministic; knows the tables' columns, but no database.

Every table has a random sequence of its own, so that more words for reviews do not move a single price.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import pi, sin
from random import Random

import orjson

from storefront.demo import word_lists as words
from storefront.demo.plan import DAY, Plan, Product, Store, User, key_at, text_of

Row = tuple[str | int | bool | None, ...]

_USERS = "id, email, name, image, created_at, updated_at"
_CONFIGS = (
    "id, user_id, store_name, slug, description, currency, theme, layout, integrations, is_published, created_at, updated_at"
)
_PRODUCTS = (
    "id, config_id, title, handle, description, price, compare_at_price, images, category, tags, inventory, track_inventory, "
    "seo_title, seo_description, status, created_at, updated_at"
)
_VARIANTS = "id, product_id, name, price, compare_at_price, attributes, inventory, sku, is_available, created_at"
_REVIEWS = "id, product_id, user_id, rating, title, body, created_at"
_CHANGES = "config_id, position, kind, entity_id, product_id, version, was_visible, is_visible, actor_id, occurred_at"
_POSITIONS = "config_id, position"
_EVENTS = (
    "id, config_id, event, properties, session_id, user_id, user_agent, ip_address, referrer, "
    "utm_source, utm_medium, utm_campaign, timestamp"
)
_EVENT_DAYS = 90
_EVENT_KINDS = ("page_view", "product_click", "add_to_cart", "purchase")


@dataclass(frozen=True, slots=True)
class Load:
    """One table's rows, to be read once, and how many there will be."""

    table: str
    columns: str
    total: int
    rows: Iterator[Row]


def loads(plan: Plan) -> Iterator[Load]:
    """The tables in an order that foreign keys allow."""
    products, stores = len(plan.products), len(plan.stores)
    yield Load("users", _USERS, len(plan.users), user_rows(plan))
    yield Load("verified_emails", "address, user_id", len(plan.users), ((user.email, user.id) for user in plan.users))
    yield Load("configs", _CONFIGS, stores, config_rows(plan))
    yield Load("products", _PRODUCTS, products, product_rows(plan))
    yield Load("product_variants", _VARIANTS, sum(product.variants for product in plan.products), variant_rows(plan))
    yield Load("reviews", _REVIEWS, sum(product.reviews for product in plan.products), review_rows(plan))
    yield Load("changes", _CHANGES, products, change_rows(plan))
    yield Load("store_positions", _POSITIONS, stores, position_rows(plan))
    yield Load("analytics_events", _EVENTS, plan.events, event_rows(plan))


def user_rows(plan: Plan) -> Iterator[Row]:
    for number, user in enumerate(plan.users, 1):
        image, created = f"https://images.example.com/people/{number}.jpg", text_of(user.created)
        yield user.id, user.email, user.name, image, created, created


def config_rows(plan: Plan) -> Iterator[Row]:
    rng = Random("demo configs")
    for store in plan.stores:
        primary, secondary = rng.choice(words.PALETTES)
        theme = {"primaryColor": primary, "secondaryColor": secondary, "fontFamily": rng.choice(words.FONTS)}
        layout = {
            "headerStyle": rng.choice(words.HEADERS),
            "gridColumns": rng.choice((2, 3, 4)),
            "showPrices": rng.random() < 0.95,
            "showDescriptions": rng.random() < 0.6,
        }
        integrations = {
            "stripe": {"publishableKey": f"pk_test_{rng.getrandbits(96):024x}"},
            "analytics": {"googleAnalyticsId": f"G-{rng.getrandbits(40):010X}"},
        }
        description = rng.choice(words.STORE_LINES) if rng.random() < 0.9 else None
        currency = words.CURRENCIES[store.rank % len(words.CURRENCIES)]
        names = store.owner.id, store.name, store.slug, description, currency
        looks = _json(theme), _json(layout), _json(integrations)
        created = text_of(store.created)
        yield store.id, *names, *looks, store.is_published, created, created


def product_rows(plan: Plan) -> Iterator[Row]:
    rng = Random("demo product rows")
    for product in plan.products:
        description = _description(product, rng) if rng.random() < 0.96 else None
        category = product.category.name if rng.random() < 0.97 else None
        images = [f"https://images.example.com/products/{product.id}/{n}.jpg" for n in range(1, rng.randint(1, 4) + 1)]
        tags = rng.sample(words.TAGS, rng.choices(range(5), (5, 30, 35, 20, 10))[0])
        tracked = rng.random() < 0.9
        inventory = _inventory(rng, 400) if tracked else None
        compare_at = _higher(product.cents, rng) if rng.random() < 0.3 else None
        facts = product.title, product.handle, description, _money(product.cents), compare_at
        seo = f"{product.title} | {product.store.name}", description and description[:150]
        lists = _json(images), category, _json(tags), inventory, tracked
        created = text_of(product.created)
        yield product.id, product.store.id, *facts, *lists, *seo, product.status, created, created


def _description(product: Product, rng: Random) -> str:
    about = [rng.choice(words.OPENERS), *rng.sample(words.DETAILS, rng.randint(1, 4)), rng.choice(words.CARE)]
    return " ".join(about).format(style=product.style, material=product.material.lower(), noun=product.noun.lower())


def variant_rows(plan: Plan) -> Iterator[Row]:
    rng = Random("demo variants")
    for product in plan.products:
        sizes = product.category.sizes
        forms = sorted(rng.sample(range(len(words.COLOURS) * len(sizes)), product.variants))
        for number, form in enumerate(forms, 1):
            color, size = words.COLOURS[form // len(sizes)], sizes[form % len(sizes)]
            cents = product.cents + product.cents * rng.randrange(-10, 21) // 100
            compare_at = _higher(cents, rng) if rng.random() < 0.2 else None
            attributes, sku = _json({"color": color, "size": size}), f"{product.id[-8:].upper()}-{number}"
            inventory = None if rng.random() < 0.03 else _inventory(rng, 120)
            created = product.created + number
            facts = _money(cents), compare_at, attributes, inventory, sku, rng.random() < 0.93
            yield key_at(created, rng), product.id, f"{color} / {size}", *facts, text_of(created)


def review_rows(plan: Plan) -> Iterator[Row]:
    rng = Random("demo reviews")
    for created, product_id, user_id in _opinions(plan, rng):
        stars = rng.choices((1, 2, 3, 4, 5), (4, 6, 13, 31, 46))[0]
        title = rng.choice(words.REVIEW_TITLES[stars]) if rng.random() < 0.9 else None
        sentences = [rng.choice(words.REVIEW_OPENERS[stars]), *rng.sample(words.REVIEW_MORE, rng.randint(0, 3))]
        body = " ".join(sentences) if rng.random() < 0.92 else None
        yield key_at(created, rng), product_id, user_id, stars, title, body, text_of(created)


def _opinions(plan: Plan, rng: Random) -> list[tuple[int, str, str]]:
    """Who says something of which product and when, oldest first. The demo's owner has yet to say anything."""
    return sorted(
        (rng.randrange(product.created, plan.anchor), product.id, user.id)
        for product in plan.products
        for user in rng.sample(plan.users[1:], product.reviews)
    )


def change_rows(plan: Plan) -> Iterator[Row]:
    positions = Counter[str]()
    for product in plan.products:
        store = product.store
        positions[store.id] += 1
        what = "product_created", product.id, product.id, 1, False, product.status == "active"
        yield store.id, positions[store.id], *what, store.owner.id, text_of(product.created)


def position_rows(plan: Plan) -> Iterator[Row]:
    for store in plan.stores:
        yield store.id, store.size


@dataclass(slots=True)
class _Visit:
    """Somebody in a store. What stays the same from event to event is written once."""

    store: Store
    session: Row
    origin: Row
    product: Product | None = None


def event_rows(plan: Plan) -> Iterator[Row]:
    """Events in the order in which they happened, made while they are read: only the visits under way are kept."""
    rng = Random("demo events")
    shelves = _shelves(plan.products, rng)
    stores = [store for store in plan.stores if store.is_published and store.size]
    crowd = list(accumulate(store.size for store in stores))
    visits: dict[int, _Visit] = {}
    at_once = 1 + plan.events // 60_000
    for moment, kind in zip(_event_moments(plan, rng), _event_kinds(rng), strict=False):
        place = rng.randrange(at_once)
        visit = visits.get(place)
        if visit is None or rng.random() < 0.12:
            visit = visits[place] = _visit(rng.choices(stores, cum_weights=crowd)[0], plan.users, rng)
        if visit.product is None or kind in ("page_view", "product_click"):
            visit.product = _seen(shelves[visit.store.rank], moment, rng)
        path = "/checkout/thanks" if kind == "purchase" else f"/products/{visit.product.handle}"
        properties = f'{{"productId": "{visit.product.id}", "path": "{path}"}}'
        yield key_at(moment, rng), visit.store.id, kind, properties, *visit.session, *visit.origin, text_of(moment)


def _event_moments(plan: Plan, rng: Random) -> Iterator[int]:
    start, step = plan.anchor - _EVENT_DAYS * DAY, _EVENT_DAYS / max(1, plan.events)
    for number in range(plan.events):
        day = (number + rng.random()) * step
        # Bends time so that noon (UTC) is busier than midnight, while later stays later.
        yield start + int(DAY * (day + 0.4 * sin(2 * pi * day) / (2 * pi)))


def _event_kinds(rng: Random) -> Iterator[str]:
    while True:
        yield from rng.choices(_EVENT_KINDS, (62, 25, 10, 3), k=1_000)


def _visit(store: Store, users: Sequence[User], rng: Random) -> _Visit:
    visitor = rng.choice(users).id if rng.random() < 0.1 else None
    address = f"10.{rng.randrange(256)}.{rng.randrange(256)}.0"
    session = f"sess_{rng.getrandbits(64):016x}", visitor, rng.choice(words.USER_AGENTS), address
    return _Visit(store, session, rng.choice(words.ORIGINS))


def _shelves(products: Sequence[Product], rng: Random) -> dict[int, list[Product]]:
    """The products of each store, by rank of the store, those that shoppers like best first."""
    shelves = defaultdict[int, list[Product]](list)
    for product in products:
        shelves[product.store.rank].append(product)
    for shelf in shelves.values():
        rng.shuffle(shelf)
    return shelves


def _seen(shelf: Sequence[Product], moment: int, rng: Random) -> Product:
    """A product that was there at the moment; the one with which the store opened always was."""
    place = int(len(shelf) * rng.random() ** 2.5)
    while shelf[place].created > moment:
        place -= 1  # from the first on to the last
    return shelf[place]


def _inventory(rng: Random, most: int) -> int:
    return 0 if rng.random() < 0.04 else rng.randint(1, most)


def _higher(cents: int, rng: Random) -> str:
    """What it cost before."""
    return _money(cents + cents * rng.randint(10, 60) // 100)


def _money(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02}"


def _json(value: object) -> str:
    return orjson.dumps(value).decode()
