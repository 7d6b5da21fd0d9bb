"""Plans the demo data: users, stores, products, and the number of rows that belong to each. Pure and deterministic."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import accumulate, pairwise, product
from math import ceil
from random import Random

from storefront.core.handles import generate_handle
from storefront.core.ids import uuid7_at
from storefront.demo import word_lists as words
from storefront.demo.word_lists import Category, LocalStore

OWNER_EMAIL = "demo@example.com"
# A product of the biggest store with this handle, variants in several sizes and reviews, for examples.
EXAMPLE_HANDLE = "my-product"
DAY_MICROSECONDS = 86_400_000_000  # moments are whole microseconds since 1970 until they are written

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class User:
    id: str
    created: int
    email: str
    name: str


@dataclass(frozen=True, slots=True)
class Store:
    """A store. `rank` 0 is the biggest; `size` is the number of products."""

    id: str
    created: int
    rank: int
    owner: User
    name: str
    slug: str
    size: int
    is_published: bool

    @property
    def local(self) -> LocalStore | None:
        """Its words, if it is in another language."""
        return words.LOCAL_STORES.get(self.rank)

    @property
    def currency(self) -> str:
        """The currency of its prices."""
        return self.local.currency if self.local else words.CURRENCIES[self.rank % len(words.CURRENCIES)]


@dataclass(frozen=True, slots=True)
class Product:
    """A product. `cents` is its usual price; `variants` (with options) and `reviews` are numbers of rows."""

    id: str
    created: int
    store: Store
    category: Category
    style: str
    material: str
    noun: str
    handle: str
    cents: int
    status: str
    variants: int
    reviews: int

    @property
    def title(self) -> str:
        return f"{self.style} {self.material} {self.noun}"

    @property
    def category_path(self) -> str:
        """The path of its category. The example is in one below."""
        return f"{self.category.name} > {self.noun}" if self.handle == EXAMPLE_HANDLE else self.category.name


@dataclass(frozen=True, slots=True)
class Plan:
    """The planned data, before any row is generated. Products are in the order of creation. `base_url` is that of pictures."""

    anchor: int
    base_url: str
    users: Sequence[User]
    stores: Sequence[Store]
    products: Sequence[Product]
    events: int


def build_plan(products: int, events: int, anchor: datetime, base_url: str) -> Plan:
    """Plan this many products and events before `anchor`, with pictures at `base_url`.

    Without products there are no events. Raises ValueError.
    """
    if products < 0 or events < 0:
        raise ValueError("The numbers of products and events cannot be negative.")
    now = (anchor - _EPOCH) // _MICROSECOND
    # Ten times the products go with about three times the stores and users.
    scale = (products / 20_000) ** 0.5
    users = list(_plan_users(max(30, round(200 * scale)), now))
    stores = list(_plan_stores(_split_products(products, max(3, round(50 * scale))), users, now))
    planned = list(_plan_products(stores, now))
    oldest = next((index for index, product in enumerate(planned) if product.store.rank == 0), None)
    if oldest is not None:
        planned[oldest] = _make_example(planned[oldest])
    return Plan(now, base_url, users, stores, planned, events if products else 0)


def _make_example(product: Product) -> Product:
    category = next(category for category in words.CATEGORIES if "Large" in category.sizes)
    return replace(
        product,
        category=category,
        style=words.STYLES[0],
        material=category.materials[0],
        noun=category.nouns[0],
        handle=EXAMPLE_HANDLE,
        status="active",
        variants=2 * len(category.sizes),
        reviews=8,
    )


def _plan_users(count: int, now: int) -> Iterator[User]:
    rng = Random("demo users")
    for number in range(count):
        created = now - rng.randrange(420 * DAY_MICROSECONDS, 700 * DAY_MICROSECONDS)
        first, last = rng.choice(words.FIRST_NAMES), rng.choice(words.LAST_NAMES)
        name = f"{first} {last}"
        email = f"{generate_handle(name, 'user').replace('-', '.')}.{number}@example.com"
        if number == 0:
            email, name = OWNER_EMAIL, "Demo Merchant"
        yield User(make_key(created, rng), created, email, name)


def _split_products(products: int, stores: int) -> list[int]:
    """The number of products per store: at least a quarter for the first one, decreasing shares for the rest."""
    weights = [rank**-0.8 for rank in range(1, stores + 1)]
    first = max(0.25, weights[0] / sum(weights))
    rest = (1 - first) / sum(weights[1:])
    edges = [ceil(products * share) for share in accumulate([first, *(rest * weight for weight in weights[1:-1])])]
    return [end - start for start, end in pairwise([0, *edges, products])]


def _plan_stores(sizes: Sequence[int], users: Sequence[User], now: int) -> Iterator[Store]:
    rng = Random("demo stores")
    names = [
        " ".join(name_words) for name_words in product(words.STORE_FIRST_WORDS, words.STORE_SECOND_WORDS, words.STORE_LAST_WORDS)
    ]
    # The demo owner has one store of each kind: the first is published, the third is not.
    for rank, (size, name) in enumerate(zip(sizes, [names[0], *rng.sample(names[1:], len(names) - 1)], strict=False)):
        created = now - rng.randrange(367 * DAY_MICROSECONDS, 400 * DAY_MICROSECONDS)
        owner, local = users[0 if rank == 2 else rank], words.LOCAL_STORES.get(rank)
        shown = local.name if local else name
        yield Store(make_key(created, rng), created, rank, owner, shown, generate_handle(shown, "store"), size, rank % 10 != 2)


def _plan_products(stores: Sequence[Store], now: int) -> Iterator[Product]:
    rng, used_handles = Random("demo products"), Counter[str]()
    categories, cumulative_weights = (
        words.CATEGORIES,
        list(accumulate(1 / rank**0.6 for rank in range(2, len(words.CATEGORIES) + 2))),
    )
    for created, store in _plan_arrivals(stores, now, rng):
        category = rng.choices(categories, cum_weights=cumulative_weights)[0]
        style = rng.choice(words.ACCENTED_STYLES if rng.random() < 0.05 else words.STYLES)
        if local := store.local:
            category, style = rng.choice(local.categories), rng.choice(local.styles)
        material, noun = rng.choice(category.materials), rng.choice(category.nouns)
        handle = generate_handle(f"{style} {material} {noun}", "product")
        used_handles[store.id + handle] += 1
        if (occurrences := used_handles[store.id + handle]) > 1:
            handle = f"{handle}-{occurrences}"
        units = min(9_000, max(3, int(category.usual_price * rng.lognormvariate(0, 0.45))))
        cents = 100 * units + rng.choice((0, 0, 50, 90, 95, 99))
        status = rng.choices(("active", "inactive", "archived"), (90, 7, 3))[0]
        variants = rng.choices((0, 3, 4, 5, 6), (150, 60, 110, 204, 476))[0]
        reviews = rng.choices(range(9), (12, 15, 17, 17, 15, 11, 7, 4, 2))[0]
        key = make_key(created, rng)
        yield Product(key, created, store, category, style, material, noun, handle, cents, status, variants, reviews)


def _plan_arrivals(stores: Sequence[Store], now: int, rng: Random) -> list[tuple[int, Store]]:
    """Creation times of products and their stores: one when the store opens, the others over the year before the anchor."""
    first_arrivals = [(store.created + rng.randrange(DAY_MICROSECONDS), store) for store in stores if store.size]
    remaining_stores = [store for store in stores for _ in range(store.size - 1)]
    moments = rng.sample(range(now - 365 * DAY_MICROSECONDS, now - DAY_MICROSECONDS // 24), len(remaining_stores))
    rng.shuffle(remaining_stores)
    return sorted(
        [*first_arrivals, *zip(moments, remaining_stores, strict=True)], key=lambda arrival: (arrival[0], arrival[1].rank)
    )


def make_key(moment: int, rng: Random) -> str:
    """A UUIDv7 with this time in microseconds."""
    return str(uuid7_at(moment * 4096 // 1000, rng.getrandbits(62)))


def format_moment(moment: int) -> str:
    return (_EPOCH + moment * _MICROSECOND).isoformat()
