"""Facets: counts equal those of a plain Python model, for filters, searches and audiences."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from random import Random
from typing import Any

import pytest
import pytest_asyncio

from tests.client import Client
from tests.factories import count_statements, make_product, make_store, make_variant

FACETS = """
query Facets($c: ID!, $filter: ProductFilterInput, $search: String) {
  products(configId: $c, filter: $filter, search: $search, first: 1) {
    totalCount
    facets {
      categories { value count isSelected } tags { value count isSelected } availability { value: inStock count isSelected }
      attributes { name values { value count isSelected } } price { min max }
      priceBuckets { min max count isSelected currency } ratings { minRating count isSelected }
    }
  }
}
"""
OPTIONS = {"Size": ("S", "M", "L"), "Colour": ("red", "blue"), "Cut": ("slim",)}


@dataclass(frozen=True)
class Known:
    """A product of the model. `variants` and `prices` are the attributes and prices of the available variants."""

    title: str
    category: str | None
    tags: tuple[str, ...]
    prices: tuple[Decimal, ...]
    in_stock: bool
    rating: float
    variants: tuple[dict[str, str], ...]

    def fits(self, filter_: dict[str, Any]) -> bool:
        checks: dict[str, Callable[[Any], bool]] = {
            "categories": lambda wanted: self.category in wanted,
            "tags": lambda wanted: bool({*self.tags} & {*wanted}),
            "inStock": lambda wanted: self.in_stock is wanted,
            "minRating": lambda wanted: self.rating >= wanted,
            "attributes": lambda wanted: any(has(variant, wanted) for variant in self.variants),
        }
        lowest, highest = [Decimal(filter_.get(name, end)) for name, end in (("minPrice", 0), ("maxPrice", "Infinity"))]
        # A single variant has a price between both.
        has_price = filter_.keys().isdisjoint(("minPrice", "maxPrice")) or any(lowest <= p <= highest for p in self.prices)
        return has_price and all(checks[name](wanted) for name, wanted in filter_.items() if name in checks)


def has(variant: dict[str, str], wanted: Iterable[dict[str, Any]], but: str | None = None) -> bool:
    """Whether the variant has, for each name, one of the values."""
    return all(variant.get(one["name"]) in one["values"] for one in wanted if one["name"] != but)


@dataclass(frozen=True)
class Shelf:
    """A store with its products."""

    client: Client
    store: str
    known: tuple[Known, ...]

    async def facets(self, **arguments: Any) -> Any:
        return (await self.client.ask(FACETS, c=self.store, **arguments))["products"]

    def left(self, filter_: dict[str, Any], *ignored: str, search: str = "") -> list[Known]:
        rest = {name: value for name, value in filter_.items() if name not in ignored}
        return [known for known in self.known if known.fits(rest) and search in known.title]


async def make_known(client: Client, store: str, random: Random) -> Known:
    title = random.choice(("Shirt", "Jacket"))
    category = random.choice((None, "Tops", "Bottoms", "Ends"))
    tags = tuple(random.sample(("new", "sale", "wool", "eco"), random.randrange(4)))
    inventory, tracked, price = random.choice((0, 3)), random.random() < 0.8, pick_price(random)
    stars = [random.randrange(1, 6) for _ in range(random.randrange(4))]
    own: dict[str, Any] = {"title": title, "category": category, "tags": [*tags], "track_inventory": tracked}
    own["rating_counts"] = f"{{{','.join(str(stars.count(number)) for number in range(1, 6))}}}"
    product = await make_product(client.database, store, **own, price=price, inventory=inventory)
    options = [pick_attributes(random) for _ in range(random.randrange(4))]
    distinct = [attributes for n, attributes in enumerate(options) if attributes not in options[:n]]
    # Without options a product has one variant without attributes.
    available = [] if distinct else [(dict[str, str](), price, inventory > 0)]
    for attributes in distinct:
        stock, price, is_available = random.choice((0, 2, None)), pick_price(random), random.random() < 0.8
        values: dict[str, Any] = {"attributes": attributes, "is_available": is_available, "inventory": stock, "price": price}
        await make_variant(client.database, product, **values)
        available += [(attributes, price, stock != 0)] if is_available else []
    in_stock = any(has_stock for *_, has_stock in available) or (not tracked and bool(available))
    rating = sum(stars) / max(1, len(stars))
    return Known(title, category, tags, tuple(p for _, p, _ in available), in_stock, rating, tuple(a for a, *_ in available))


def pick_attributes(random: Random) -> dict[str, str]:
    return {name: random.choice(OPTIONS[name]) for name in random.sample([*OPTIONS], random.randrange(1, 4))}


def pick_price(random: Random) -> Decimal:
    return Decimal(random.choice(("0.00", "5.50", "10.00", "99.90", "100.00")))


@pytest_asyncio.fixture(scope="module")
async def shelf(shopper: Client) -> Shelf:
    store, random = await make_store(shopper.database), Random(11)
    known = tuple([await make_known(shopper, store, random) for _ in range(150)])
    await make_product(shopper.database, store, status="inactive", category="Hidden", tags=["hidden"], price="500.00")
    return Shelf(shopper, store, known)


def values(counts: Counter[Any], selected: Iterable[Any] = ()) -> list[dict[str, Any]]:
    """The expected facet values: by frequency, then by name; selected values without products last."""
    chosen = {value: counts[value] for value in selected}
    ordered = sorted({**counts, **chosen}.items(), key=lambda item: (-item[1], item[0]))
    return [{"value": value, "count": count, "isSelected": value in selected} for value, count in ordered]


def attribute_counts(products: list[Known], wanted: Iterable[dict[str, Any]]) -> Counter[tuple[str, str]]:
    return Counter(
        pair
        for known in products
        for pair in {
            (name, value) for variant in known.variants for name, value in variant.items() if has(variant, wanted, but=name)
        }
    )


SMALL, SMALL_OR_MEDIUM = {"name": "Size", "values": ["S"]}, {"name": "Size", "values": ["S", "M"]}
RED = {"name": "Colour", "values": ["red"]}


@pytest.mark.parametrize("search", [None, "Shirt"])
@pytest.mark.parametrize(
    "filter_",
    [
        {},
        {"categories": ["Tops"]},
        {"categories": ["Tops", "Ends"], "tags": ["sale"]},
        {"tags": ["new", "eco"]},
        {"minPrice": "5.50", "maxPrice": "99.90"},
        {"inStock": True},
        {"inStock": False, "categories": ["Bottoms"]},
        {"attributes": [SMALL]},
        {"attributes": [SMALL_OR_MEDIUM, RED]},
        {"attributes": [SMALL_OR_MEDIUM, RED], "inStock": True, "maxPrice": "10.00"},
        {"categories": ["Nothing"]},
        {"minRating": 3, "tags": ["sale"]},
        {"minPrice": "10.00", "minRating": 2.5},
    ],
    ids=str,
)
async def test_facets_count_products_per_further_value(shelf: Shelf, filter_: dict[str, Any], search: str | None) -> None:
    found = await shelf.facets(filter=filter_, search=search)
    facets, word = found["facets"], search or ""
    assert found["totalCount"] == len(shelf.left(filter_, search=word))

    categories = Counter(known.category for known in shelf.left(filter_, "categories", search=word) if known.category)
    assert facets["categories"] == values(categories, filter_.get("categories", ()))

    tags = Counter(tag for known in shelf.left(filter_, "tags", search=word) for tag in known.tags)
    assert facets["tags"] == values(tags, filter_.get("tags", ()))

    stock = Counter(known.in_stock for known in shelf.left(filter_, "inStock", search=word))
    chosen = [filter_["inStock"]] if "inStock" in filter_ else []
    assert facets["availability"] == values(stock, chosen)

    prices = [price for known in shelf.left(filter_, "minPrice", "maxPrice", search=word) for price in known.prices]
    assert facets["price"] == ({"min": str(min(prices)), "max": str(max(prices))} if prices else None)

    rated = shelf.left(filter_, "minRating", search=word)
    assert facets["ratings"] == [
        {
            "minRating": stars,
            "count": sum(known.rating >= stars for known in rated),
            "isSelected": filter_.get("minRating") == stars,
        }
        for stars in (4, 3, 2, 1)
    ]

    wanted = filter_.get("attributes", ())
    pairs = attribute_counts(shelf.left(filter_, "attributes", search=word), wanted)
    received = {
        (facet["name"], value["value"]): (value["count"], value["isSelected"])
        for facet in facets["attributes"]
        for value in facet["values"]
    }
    assert received == {
        pair: (count, any(pair[0] == one["name"] and pair[1] in one["values"] for one in wanted)) for pair, count in pairs.items()
    }


@pytest.mark.parametrize("search", [None, "Shirt"])
@pytest.mark.parametrize(
    "filter_", [{}, {"tags": ["sale"], "minPrice": "5.00", "maxPrice": "10.00"}, {"attributes": [RED]}], ids=str
)
async def test_price_buckets_cover_all_prices_and_count_as_filters_do(
    shelf: Shelf, filter_: dict[str, Any], search: str | None
) -> None:
    facets = (await shelf.facets(filter=filter_, search=search))["facets"]
    buckets = facets["priceBuckets"]
    limits = [bucket["max"] for bucket in buckets[:-1]]
    assert 2 <= len(buckets) <= 5 and [Decimal(limit) for limit in limits] == sorted({Decimal(limit) for limit in limits})
    assert [(bucket["min"], bucket["max"]) for bucket in buckets] == [*zip([None, *limits], [*limits, None], strict=True)]
    # Each limit divides the prices, and is round.
    assert Decimal(facets["price"]["min"]) < Decimal(limits[0]) <= Decimal(limits[-1]) <= Decimal(facets["price"]["max"])
    assert all(len(Decimal(limit).normalize().as_tuple().digits) == 1 for limit in limits)
    for bucket in buckets:
        chosen = {"minPrice": bucket["min"], "maxPrice": bucket["max"]}
        found = await shelf.facets(filter=filter_ | chosen, search=search)
        assert found["totalCount"] == bucket["count"] and bucket["currency"] == "USD"
        # They stay as they are when one is chosen.
        again = found["facets"]["priceBuckets"]
        assert again == [{**one, "isSelected": one["min"] == bucket["min"] and one["max"] == bucket["max"]} for one in buckets]


@pytest.mark.parametrize(
    ("prices", "first", "limits"),
    [
        (["10.00"] * 5, 5, None),
        (["0.00", "0.00"], 5, None),
        (["0.00", "7.49"], 5, ["7.00"]),
        (["92.00", "98.00", "104.00", "107.00"], 4, ["98.00", "104.00"]),
        (["4.00", "12.00", "18.00", "1900.00"], 4, ["10.00", "20.00"]),
        ([f"{number}.00" for number in range(1, 101)], 10, [f"{number}0.00" for number in range(1, 10)]),
        ([f"{number}.00" for number in range(1, 101)], 2, ["50.00"]),
    ],
)
async def test_limits_of_price_buckets_are_round(
    shopper: Client, prices: list[str], first: int, limits: list[str] | None
) -> None:
    store = await make_store(shopper.database)
    for price in prices:
        await make_product(shopper.database, store, price=price)
    query = "query($c: ID!, $n: Int!) { products(configId: $c) { facets { priceBuckets(first: $n) { max count } } } }"
    buckets = (await shopper.ask(query, c=store, n=first))["products"]["facets"]["priceBuckets"]
    assert [bucket["max"] for bucket in buckets] == ([] if limits is None else [*limits, None])
    assert not buckets or sum(bucket["count"] for bucket in buckets) >= len(prices)


async def test_number_of_price_buckets_is_checked(shelf: Shelf) -> None:
    query = "query($c: ID!, $n: Int!) { products(configId: $c) { facets { priceBuckets(first: $n) { count } } } }"
    for number in (1, 11):
        answer = (await shelf.client.post(query, c=shelf.store, n=number)).json()
        assert "must be between 2 and 10" in answer["errors"][0]["message"]


async def test_attribute_values_are_grouped_most_frequent_first(shelf: Shelf) -> None:
    facets = (await shelf.facets())["facets"]["attributes"]
    assert sorted(facet["name"] for facet in facets) == sorted(OPTIONS)
    for facet in facets:
        counts = [value["count"] for value in facet["values"]]
        assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize("facet", ["categories", "tags", "Size"])
async def test_filter_by_value_matches_facet_count(shelf: Shelf, facet: str) -> None:
    already = {"inStock": True, "attributes": [RED]}
    facets = (await shelf.facets(filter=already))["facets"]
    offered = {
        "categories": facets["categories"],
        "tags": facets["tags"],
        "Size": next(one["values"] for one in facets["attributes"] if one["name"] == "Size"),
    }[facet]
    for value in offered:
        more = (
            {"attributes": [RED, {"name": "Size", "values": [value["value"]]}]} if facet == "Size" else {facet: [value["value"]]}
        )
        assert (await shelf.facets(filter={**already, **more}))["totalCount"] == value["count"]


async def test_categories_belong_to_their_store(shopper: Client) -> None:
    for categories in ((), ("A",), ("A", "B", "B", None)):
        store = await make_store(shopper.database)
        for category in categories:
            await make_product(shopper.database, store, category=category)
    found = (await shopper.ask("{ configs(first: 3) { nodes { categories { path productCount } } } }"))["configs"]["nodes"]
    assert [[(one["path"], one["productCount"]) for one in store["categories"]] for store in found] == [
        [("B", 2), ("A", 1)],
        [("A", 1)],
        [],
    ]


@pytest.mark.parametrize("count", [0, 1, 10])
async def test_facets_of_small_stores(shopper: Client, count: int) -> None:
    store = await make_store(shopper.database)
    for _ in range(count):
        await make_product(shopper.database, store, tags=["t"])
    found = (await shopper.ask(FACETS, c=store))["products"]
    assert found["facets"]["tags"] == values(Counter({"t": count} if count else {}))
    assert found["facets"]["price"] == ({"min": "10.00", "max": "10.00"} if count else None)
    assert found["facets"]["categories"] == found["facets"]["attributes"] == []


async def test_each_selected_facet_takes_one_statement(shelf: Shelf) -> None:
    async def cost(selected: str) -> int:
        query = f"query($c: ID!) {{ products(configId: $c) {{ nodes {{ id }} {selected} }} }}"
        with count_statements(shelf.client.database) as statements:
            await shelf.client.ask(query, c=shelf.store)
        return len(statements)

    bare = await cost("")
    assert bare == 1
    assert await cost("totalCount") == bare
    assert await cost("facets { tags { value count } }") == bare + 1
    assert await cost("facets { tags { value } price { min } categories { count } }") == bare + 3
    assert await cost("facets { ratings { count } priceBuckets { count } }") == bare + 2
    assert await cost("totalCount @skip(if: true) facets @include(if: false) { tags { value } }") == bare
