"""Generates the rows of planned demo data. Pure and deterministic; knows the tables' columns, but needs no database.

Every table has a random sequence of its own, so that more words for reviews do not move a single price.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from hashlib import sha256
from itertools import accumulate
from math import pi, sin
from random import Random
from typing import Any, NamedTuple
from uuid import UUID, uuid5

import orjson

from storefront.core.currencies import get_fraction_digits
from storefront.demo import pictures
from storefront.demo import word_lists as words
from storefront.demo.plan import DAY_MICROSECONDS, Plan, Product, Store, User, format_moment, make_key
from storefront.models.options import Option
from storefront.models.search_document import SEARCHED_COLUMNS, build_search_vector, list_codes
from storefront.models.variant import build_variant_name
from storefront.models.variant_summary import SUMMARY_COLUMNS, summarize_variants
from storefront.queries.images import build_image_address

TableRow = tuple[str | int | bool | None, ...]

_USER_COLUMNS = "id, email, name, image, created_at, updated_at"
_CONFIG_COLUMNS = (
    "id, user_id, store_name, slug, description, currency, theme, layout, integrations, is_published, created_at, updated_at"
)
_OWN_PRODUCT_COLUMNS = (
    "id, config_id, title, handle, description, images, category, tags, track_inventory, seo_title, seo_description, status, "
    "vendor, product_type, published_at, created_at, updated_at"
)
_PRODUCT_COLUMNS = f"{_OWN_PRODUCT_COLUMNS}, {', '.join(SUMMARY_COLUMNS)}, options, search_vector"
# In the order of `_generate_variant`.
_VARIANT_COLUMNS = (
    "id, config_id, product_id, name, price, compare_at_price, attributes, inventory, inventory_policy, sku, barcode, weight, "
    "cost, is_available, position, created_at, updated_at"
)
_REVIEW_COLUMNS = "id, config_id, product_id, user_id, rating, title, body, created_at, updated_at"
_IMAGE_COLUMNS = "id, config_id, product_id, place, token, extension, width, height, alt, placeholder, created_at"
_CHANGE_COLUMNS = "config_id, position, kind, entity_id, product_id, version, was_visible, is_visible, actor_id, occurred_at"
_POSITION_COLUMNS = "config_id, position"
_EVENT_COLUMNS = (
    "id, config_id, event, properties, session_id, user_id, user_agent, ip_address, referrer, "
    "utm_source, utm_medium, utm_campaign, timestamp"
)
_EVENT_DAYS = 90
_EVENT_KINDS = ("page_view", "product_click", "add_to_cart", "purchase")


@dataclass(frozen=True, slots=True)
class TableLoad:
    """The rows of one table, an iterator to be read once, and their number."""

    table: str
    columns: str
    total: int
    rows: Iterator[TableRow]


def build_table_loads(plan: Plan) -> Iterator[TableLoad]:
    """The loads of all tables, in the order that foreign keys need."""
    products, stores = len(plan.products), len(plan.stores)
    yield TableLoad("users", _USER_COLUMNS, len(plan.users), generate_user_rows(plan))
    yield TableLoad("verified_emails", "address, user_id", len(plan.users), ((user.email, user.id) for user in plan.users))
    yield TableLoad("configs", _CONFIG_COLUMNS, stores, generate_config_rows(plan))
    yield TableLoad("products", _PRODUCT_COLUMNS, products, generate_product_rows(plan))
    yield TableLoad(
        "product_variants",
        _VARIANT_COLUMNS,
        sum(max(1, product.variants) for product in plan.products),
        generate_variant_rows(plan),
    )
    yield TableLoad("reviews", _REVIEW_COLUMNS, sum(product.reviews for product in plan.products), generate_review_rows(plan))
    images = list(generate_image_rows(plan))
    yield TableLoad("images", _IMAGE_COLUMNS, len(images), iter(images))
    yield TableLoad("changes", _CHANGE_COLUMNS, products, generate_change_rows(plan))
    yield TableLoad("store_positions", _POSITION_COLUMNS, stores, generate_position_rows(plan))
    yield TableLoad("analytics_events", _EVENT_COLUMNS, plan.events, generate_event_rows(plan))


def generate_user_rows(plan: Plan) -> Iterator[TableRow]:
    for user in plan.users:
        image, created = _build_picture_address(plan, _make_picture_key(user.id)), format_moment(user.created)
        yield user.id, user.email, user.name, image, created, created


def generate_config_rows(plan: Plan) -> Iterator[TableRow]:
    rng = Random("demo configs")
    for store in plan.stores:
        primary, secondary = rng.choice(words.PALETTES)
        theme = {"primaryColor": primary, "secondaryColor": secondary, "fontFamily": rng.choice(words.FONTS)}
        layout = {
            "headerStyle": rng.choice(words.HEADER_STYLES),
            "gridColumns": rng.choice((2, 3, 4)),
            "showPrices": rng.random() < 0.95,
            "showDescriptions": rng.random() < 0.6,
        }
        integrations = {
            "stripe": {"publishableKey": f"pk_test_{rng.getrandbits(96):024x}"},
            "analytics": {"googleAnalyticsId": f"G-{rng.getrandbits(40):010X}"},
        }
        description = rng.choice(words.STORE_DESCRIPTIONS) if rng.random() < 0.9 else None
        names = store.owner.id, store.name, store.slug, description, store.currency
        looks = _dump_json(theme), _dump_json(layout), _dump_json(integrations)
        created = format_moment(store.created)
        yield store.id, *names, *looks, store.is_published, created, created


def generate_product_rows(plan: Plan) -> Iterator[TableRow]:
    rng = Random("demo product rows")
    for product, variants in _generate_variants(plan):
        description = _generate_description(product, rng) if rng.random() < 0.96 else None
        category = product.category_path if rng.random() < 0.97 else None
        images = [_build_picture_address(plan, key) for key in _make_picture_keys(product)]
        tags = rng.sample(words.TAGS, rng.choices(range(5), (5, 30, 35, 20, 10))[0])
        facts = product.title, product.handle, description, _dump_json(images), category, _dump_json(tags), rng.random() < 0.9
        seo = f"{product.title} | {product.store.name}", description and description[:150]
        created = format_moment(product.created)
        published = created if product.status == "active" else None
        summary = summarize_variants(variants)
        options = _generate_options(product, variants)
        origin = f"{product.style} {words.VENDOR_SUFFIXES[len(product.style) % len(words.VENDOR_SUFFIXES)]}", product.noun
        own_values = product.id, product.store.id, *facts, *seo, product.status, *origin, published, created, created
        texts = product.title, options, *origin, category, tags, description
        searched = dict(zip(SEARCHED_COLUMNS, texts, strict=True))
        vector = build_search_vector(searched, list_codes(variants))
        yield *own_values, *(summary[name] for name in SUMMARY_COLUMNS), _dump_json(options), vector


def generate_image_rows(plan: Plan) -> Iterator[TableRow]:
    # Portraits belong to no product, and were never removed from one: they stay.
    portraits, size = pictures.list_portraits(), (pictures.WIDTH_PIXELS, pictures.WIDTH_PIXELS)
    for number, user in enumerate(plan.users):
        key, picture = _make_picture_key(user.id), portraits[number % len(portraits)]
        files = picture.place, key.token, pictures.EXTENSION, *size
        yield key.id, plan.stores[0].id, None, *files, user.name, picture.placeholder, format_moment(user.created)
    for number, product in enumerate(plan.products):
        choices = pictures.list_product_pictures(product.category.name)
        for position, key in enumerate(_make_picture_keys(product)):
            picture = choices[(number + position) % len(choices)]
            files = picture.place, key.token, pictures.EXTENSION, *size
            text = product.title, picture.placeholder, format_moment(product.created)
            yield key.id, product.store.id, product.id, *files, *text


class _PictureKey(NamedTuple):
    id: str
    token: str


def _make_picture_keys(product: Product) -> list[_PictureKey]:
    """One or two."""
    return [_make_picture_key(product.id, position) for position in range(1 + int(product.id[-1], 16) % 2)]


def _make_picture_key(owner_id: str, position: int = 0) -> _PictureKey:
    """The id and the token in the URL of a picture. The id has the time of its owner's."""
    digest = sha256(f"{owner_id}/{position}".encode()).hexdigest()
    return _PictureKey(f"{owner_id[:24]}{digest[32:44]}", digest[:32])


def _build_picture_address(plan: Plan, key: _PictureKey) -> str:
    return build_image_address(plan.base_url, key.id, key.token, pictures.EXTENSION)


def _generate_description(product: Product, rng: Random) -> str:
    if local := product.store.local:
        return " ".join(rng.sample(local.sentences, 2))
    sentences = [
        rng.choice(words.DESCRIPTION_OPENERS),
        *rng.sample(words.DESCRIPTION_DETAILS, rng.randint(1, 4)),
        rng.choice(words.CARE_SENTENCES),
    ]
    return " ".join(sentences).format(style=product.style, material=product.material.lower(), noun=product.noun.lower())


def generate_variant_rows(plan: Plan) -> Iterator[TableRow]:
    for _, variants in _generate_variants(plan):
        for variant in variants:
            yield tuple(variant.values())


def _generate_variants(plan: Plan) -> Iterator[tuple[Product, list[dict[str, Any]]]]:
    """The products with the rows of their variants, by column."""
    rng = Random("demo variants")
    for product in plan.products:
        # A product without options has one variant, which has no attributes.
        forms = _pick_attributes(product, rng) or [{}]
        yield product, [_generate_variant(product, number, attributes, rng) for number, attributes in enumerate(forms)]


def _generate_options(product: Product, variants: Sequence[Mapping[str, Any]]) -> list[Option]:
    """The options in the order of colours and sizes, with a swatch for each colour."""
    used = [orjson.loads(variant["attributes"]) for variant in variants]
    values_by_name = {"color": words.COLOURS, "size": product.category.sizes}
    return [
        {
            "id": _make_part_key(product, name),
            "name": name,
            "values": [
                {"id": _make_part_key(product, name, value), "value": value, "swatch": _SWATCHES.get(value)}
                for value in values
                if any(attributes.get(name) == value for attributes in used)
            ],
        }
        for name, values in values_by_name.items()
        if any(name in attributes for attributes in used)
    ]


_SWATCHES = {value: {"color": color, "image": None} for value, color in words.SWATCHES.items()}


def _make_part_key(product: Product, *names: str) -> str:
    return str(uuid5(UUID(product.id), "/".join(names)))


def _pick_attributes(product: Product, rng: Random) -> list[dict[str, str]]:
    sizes = product.category.sizes
    forms = sorted(rng.sample(range(len(words.COLOURS) * len(sizes)), product.variants))
    return [{"color": words.COLOURS[form // len(sizes)], "size": sizes[form % len(sizes)]} for form in forms]


def _generate_variant(product: Product, number: int, attributes: Mapping[str, str], rng: Random) -> dict[str, Any]:
    cents = product.cents + (product.cents * rng.randrange(-10, 21) // 100 if attributes else 0)
    created, currency = product.created + number + 1, product.store.currency
    return {
        "id": make_key(created, rng),
        "config_id": product.store.id,
        "product_id": product.id,
        "name": build_variant_name(attributes),
        "price": _format_price(cents, currency),
        "compare_at_price": _pick_compare_at_price(cents, currency, rng) if rng.random() < 0.2 else None,
        "attributes": _dump_json(attributes),
        "inventory": None if rng.random() < 0.03 else _pick_inventory(rng, 120),
        "inventory_policy": "continue" if rng.random() < 0.05 else "deny",
        "sku": f"{product.id[-8:].upper()}-{number + 1}",
        "barcode": f"{rng.randrange(10**12, 10**13)}" if rng.random() < 0.8 else None,
        "weight": _dump_json({"value": f"{rng.randrange(1, 80) * 50}.000", "unit": "gram"}) if rng.random() < 0.8 else None,
        "cost": _format_price(cents * rng.randint(30, 70) // 100, currency) if rng.random() < 0.6 else None,
        "is_available": rng.random() < 0.93,
        "position": number,
        "created_at": format_moment(created),
        "updated_at": format_moment(created),
    }


def generate_review_rows(plan: Plan) -> Iterator[TableRow]:
    rng = Random("demo reviews")
    store_ids = {product.id: product.store.id for product in plan.products}
    for created, product_id, user_id in _generate_review_authors(plan, rng):
        stars = rng.choices((1, 2, 3, 4, 5), (4, 6, 13, 31, 46))[0]
        title = rng.choice(words.REVIEW_TITLES[stars]) if rng.random() < 0.9 else None
        sentences = [rng.choice(words.REVIEW_OPENERS[stars]), *rng.sample(words.REVIEW_SENTENCES, rng.randint(0, 3))]
        body = " ".join(sentences) if rng.random() < 0.92 else None
        written_at = format_moment(created)
        yield make_key(created, rng), store_ids[product_id], product_id, user_id, stars, title, body, written_at, written_at


def _generate_review_authors(plan: Plan, rng: Random) -> list[tuple[int, str, str]]:
    """Reviews as author, product and time, oldest first. The demo owner has written none."""
    return sorted(
        (rng.randrange(product.created, plan.anchor), product.id, user.id)
        for product in plan.products
        for user in rng.sample(plan.users[1:], product.reviews)
    )


def generate_change_rows(plan: Plan) -> Iterator[TableRow]:
    positions = Counter[str]()
    for product in plan.products:
        store = product.store
        positions[store.id] += 1
        change_fields = "product_created", product.id, product.id, 1, False, product.status == "active"
        yield store.id, positions[store.id], *change_fields, store.owner.id, format_moment(product.created)


def generate_position_rows(plan: Plan) -> Iterator[TableRow]:
    for store in plan.stores:
        yield store.id, store.size


@dataclass(slots=True)
class _Visit:
    """A visitor's session in a store, with the values that all of its events share."""

    store: Store
    session: TableRow
    origin: TableRow
    product: Product | None = None


def generate_event_rows(plan: Plan) -> Iterator[TableRow]:
    """Events in chronological order, generated lazily: only open sessions are in memory."""
    rng = Random("demo events")
    products_by_rank = _shuffle_products_by_rank(plan.products, rng)
    stores = [store for store in plan.stores if store.is_published and store.size]
    cumulative_sizes = list(accumulate(store.size for store in stores))
    visits: dict[int, _Visit] = {}
    concurrent_visits = 1 + plan.events // 60_000
    for moment, kind in zip(_generate_event_moments(plan, rng), _generate_event_kinds(rng), strict=False):
        slot = rng.randrange(concurrent_visits)
        visit = visits.get(slot)
        if visit is None or rng.random() < 0.12:
            visit = visits[slot] = _start_visit(rng.choices(stores, cum_weights=cumulative_sizes)[0], plan.users, rng)
        if visit.product is None or kind in ("page_view", "product_click"):
            visit.product = _pick_product(products_by_rank[visit.store.rank], moment, rng)
        path = "/checkout/thanks" if kind == "purchase" else f"/products/{visit.product.handle}"
        order = _format_order(visit.product) if kind == "purchase" else ""
        properties = f'{{"productId": "{visit.product.id}", "path": "{path}"{order}}}'
        yield make_key(moment, rng), visit.store.id, kind, properties, *visit.session, *visit.origin, format_moment(moment)


def _format_order(product: Product) -> str:
    """Further properties of a purchase, as JSON."""
    currency = product.store.currency
    return f', "quantity": 1, "total": "{_format_price(product.cents, currency)}", "currency": "{currency}"'


def _generate_event_moments(plan: Plan, rng: Random) -> Iterator[int]:
    start, step = plan.anchor - _EVENT_DAYS * DAY_MICROSECONDS, _EVENT_DAYS / max(1, plan.events)
    for number in range(plan.events):
        day = (number + rng.random()) * step
        # A monotonic distortion of time that makes noon (UTC) busier than midnight.
        yield start + int(DAY_MICROSECONDS * (day + 0.4 * sin(2 * pi * day) / (2 * pi)))


def _generate_event_kinds(rng: Random) -> Iterator[str]:
    while True:
        yield from rng.choices(_EVENT_KINDS, (62, 25, 10, 3), k=1_000)


def _start_visit(store: Store, users: Sequence[User], rng: Random) -> _Visit:
    visitor = rng.choice(users).id if rng.random() < 0.1 else None
    address = f"10.{rng.randrange(256)}.{rng.randrange(256)}.0"
    session = f"sess_{rng.getrandbits(64):016x}", visitor, rng.choice(words.USER_AGENTS), address
    return _Visit(store, session, rng.choice(words.ORIGINS))


def _shuffle_products_by_rank(products: Sequence[Product], rng: Random) -> dict[int, list[Product]]:
    """The products of each store, by its rank, most popular first."""
    products_by_rank = defaultdict[int, list[Product]](list)
    for product in products:
        products_by_rank[product.store.rank].append(product)
    for store_products in products_by_rank.values():
        rng.shuffle(store_products)
    return products_by_rank


def _pick_product(store_products: Sequence[Product], moment: int, rng: Random) -> Product:
    """A product that existed at this time; the first product of a store always did."""
    index = int(len(store_products) * rng.random() ** 2.5)
    while store_products[index].created > moment:
        index -= 1  # wraps around to the last one
    return store_products[index]


def _pick_inventory(rng: Random, maximum: int) -> int:
    return 0 if rng.random() < 0.04 else rng.randint(1, maximum)


def _pick_compare_at_price(cents: int, currency: str, rng: Random) -> str:
    return _format_price(cents + cents * rng.randint(10, 60) // 100, currency)


def _format_price(cents: int, currency: str) -> str:
    """The amount in the smallest units of its currency: 1990 are 19.90 euros, or 1990 yen."""
    return str(Decimal(cents).scaleb(-get_fraction_digits(currency)))


def _dump_json(value: object) -> str:
    return orjson.dumps(value).decode()
