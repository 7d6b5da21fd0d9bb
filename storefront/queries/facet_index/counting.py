"""Counts facets by posting lists, with the same rows as `queries/facets.py`."""

from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from heapq import nsmallest
from itertools import accumulate, chain, pairwise
from math import ceil
from typing import Any, cast
from uuid import UUID

import orjson
from pyroaring import BitMap

from storefront.core.cooperative import TimeSlice
from storefront.models.variant import fold_case
from storefront.queries.facet_index.postings import (
    ID_BYTES,
    AttributeValue,
    NumberPostings,
    StorePostings,
    TextPostings,
    scale_price,
    unite,
)
from storefront.queries.facets import FILTERS_BY_FACET, MAX_FACET_VALUES, MIN_RATINGS
from storefront.queries.listing import Selection, StoreScope
from storefront.queries.visibility import Audience

# Posting lists that are counted or united without looking at the time: half a millisecond.
_POSTINGS_PER_STEP = 100


@dataclass(frozen=True, slots=True)
class ValueCount:
    """The number of products with a value."""

    value: Any
    count: int


@dataclass(frozen=True, slots=True)
class AttributeValueCount:
    """The number of products with a value of an attribute, and the id of the oldest of them."""

    name: str
    value: str
    count: int
    product_id: str


@dataclass(frozen=True, slots=True)
class PriceEnds:
    """The lowest and the highest price; None without any."""

    min: str | None
    max: str | None


@dataclass(frozen=True, slots=True)
class PriceRangeCount:
    """The number of products in a price range; None: no limit."""

    min: str | None
    max: str | None
    count: int


@dataclass(frozen=True, slots=True)
class RatingCounts:
    """The number of products with at least each of MIN_RATINGS."""

    counts: list[int]


@dataclass(frozen=True, slots=True)
class SearchHits:
    """The products of a store that a search finds, at a log position: their ids, one after the other."""

    position: int
    ids: bytes


@dataclass(frozen=True, slots=True)
class FacetSnapshot:
    """The postings of a store with those products that were live at a log position."""

    postings: StorePostings
    position: int
    live: BitMap
    is_published: bool


class FacetCounter:
    """Counts the facets of one list at the position of a snapshot.

    `load_hits` returns what the search of the list finds, for lists with a search.
    """

    # Other selections are counted in SQL.
    COUNTED_FILTERS = frozenset(chain.from_iterable(FILTERS_BY_FACET.values())) | {"ids", "statuses"}

    def __init__(
        self,
        snapshot: FacetSnapshot,
        scope: StoreScope,
        selection: Selection,
        load_hits: Callable[[], Awaitable[SearchHits]] | None = None,
    ) -> None:
        self._snapshot, self._postings = snapshot, snapshot.postings
        self._scope, self._audience, self._filters = scope, selection.audience, dict(selection.filters)
        self._load_hits = load_hits
        self._products_by_filter: dict[str, BitMap] = {}
        self._price_ends: PriceEnds | None = None
        self._time_slice = TimeSlice()

    @classmethod
    def is_countable(cls, selection: Selection) -> bool:
        """Whether posting lists have what a selection depends on."""
        return all(name in cls.COUNTED_FILTERS for name, _ in selection.filters)

    async def count(self, facet: str, fractions: Sequence[float] = ()) -> Sequence[Any] | None:
        """The rows of a facet, as `load_facet_values` returns them. None: the search was run at another position."""
        products = await self._select_counted(facet)
        if products is None:
            return None
        postings = self._postings
        match facet:
            case "categories" | "vendors" | "product_types" | "tags":
                return await self._count_texts(getattr(postings, facet), products)
            case "availability":
                counts = [ValueCount(value, products.intersection_cardinality(of)) for value, of in postings.in_stock.items()]
                return sorted((row for row in counts if row.count), key=lambda row: -row.count)
            case "price":
                return [await self._find_price_ends(products)]
            case "price_buckets":
                return await self._count_price_ranges(products, fractions)
            case "ratings":
                return [RatingCounts([len(products & await self._unite_between(postings.ratings, n, None)) for n in MIN_RATINGS])]
            case _:
                return await self._count_attributes(products)

    # -------------------------------------------------------------------------------------------- products

    async def _select_counted(self, facet: str) -> BitMap | None:
        """The products that a facet counts: those of the list, without the facet's own filters."""
        if self._load_hits is not None and "search" not in self._products_by_filter:
            hits = await self._load_hits()
            if hits.position != self._snapshot.position:
                return None
            self._products_by_filter["search"] = self._select_ids(
                hits.ids[start : start + ID_BYTES] for start in range(0, len(hits.ids), ID_BYTES)
            )
        ignored = FILTERS_BY_FACET[facet]
        conditions = [await self._select_by_filter(name) for name in self._filters if name not in ignored]
        return BitMap.intersection(*conditions, *self._list_conditions())

    def _list_conditions(self) -> Iterator[BitMap]:
        yield self._snapshot.live
        if self._audience is Audience.SHOPPER:
            yield self._postings.statuses.select(["active"]) if self._snapshot.is_published else BitMap()
        if self._scope.category is not None:
            yield self._postings.categories.select([self._scope.category])
        if "search" in self._products_by_filter:
            yield self._products_by_filter["search"]

    async def _select_by_filter(self, name: str) -> BitMap:
        # A variant has a price between both limits: they are one condition.
        key = "price" if name in ("min_price", "max_price") else name
        products = self._products_by_filter.get(key)
        if products is None:
            products = self._products_by_filter[key] = await self._match_filter(key)
        return products

    async def _match_filter(self, name: str) -> BitMap:
        postings, value = self._postings, cast(Any, self._filters.get(name))
        match name:
            case "categories" | "vendors" | "product_types" | "tags" | "statuses":
                matching: TextPostings = getattr(postings, name)
                return matching.select(value)
            case "in_stock":
                return postings.in_stock[value]
            case "min_rating":
                return await self._unite_between(postings.ratings, value, None)
            case "price":
                lowest, highest = self._filters.get("min_price"), self._filters.get("max_price")
                return await self._select_between(*(None if limit is None else Decimal(limit) for limit in (lowest, highest)))
            case "ids":
                return self._select_ids(bytes.fromhex(id_.replace("-", "")) for id_ in value)
            case _:
                return await self._unite_combinations(BitMap.intersection(*self._match_attributes().values()))

    def _select_ids(self, ids: Iterable[bytes]) -> BitMap:
        return BitMap([number for number in map(self._postings.number_by_id.get, ids) if number is not None])

    async def _select_between(self, lowest: Decimal | None, highest: Decimal | None) -> BitMap:
        """The products of which an available variant has a price between two limits."""
        return await self._unite_between(
            self._postings.variant_prices,
            None if lowest is None else scale_price(lowest, rounds_up=True),
            None if highest is None else scale_price(highest, rounds_up=False),
        )

    async def _unite_between(self, postings: NumberPostings[Any], lowest: Any, highest: Any) -> BitMap:
        return await self._unite(postings.list_between(lowest, highest))

    async def _unite(self, bitmaps: Sequence[BitMap]) -> BitMap:
        if len(bitmaps) <= _POSTINGS_PER_STEP:
            return unite(bitmaps)
        united = BitMap()
        for step in _split(bitmaps):
            united |= unite(step)
            await self._time_slice.yield_if_expired()
        return united

    # ---------------------------------------------------------------------------------------------- texts

    async def _count_texts(self, postings: TextPostings, products: BitMap) -> list[ValueCount]:
        counts: list[tuple[int, str]] = []
        for step in _split([*postings.products.items()]):
            counts += [(-count, text) for text, posting in step if (count := products.intersection_cardinality(posting))]
            await self._time_slice.yield_if_expired()
        return [ValueCount(text, -count) for count, text in nsmallest(MAX_FACET_VALUES, counts)]

    # --------------------------------------------------------------------------------------------- prices

    async def _find_price_ends(self, products: BitMap) -> PriceEnds:
        # Two facets ignore the same filters.
        if self._price_ends is None:
            postings = self._postings
            lowest = await self._find_extreme(postings.lowest_prices, products, iter)
            highest = await self._find_extreme(postings.highest_prices, products, reversed)
            ends = (None if end is None else postings.format_price(end) for end in (lowest, highest))
            self._price_ends = PriceEnds(*ends)
        return self._price_ends

    async def _find_extreme(
        self, postings: NumberPostings[int], products: BitMap, iterate: Callable[[Sequence[int]], Iterable[int]]
    ) -> int | None:
        """The first value that one of the products has, from below (`iter`) or from above (`reversed`)."""
        for step in _split([*iterate(postings.sorted_blocks)]):
            for block in step:
                if postings.blocks[block].intersect(products):
                    values = iterate(postings.list_values(block))
                    return next(value for value in values if postings.products[value].intersect(products))
            await self._time_slice.yield_if_expired()
        return None

    async def _count_price_ranges(self, products: BitMap, fractions: Sequence[float]) -> list[PriceRangeCount]:
        ends = await self._find_price_ends(products)
        limits = [] if ends.min is None or ends.max is None else await self._list_price_limits(products, fractions, ends)
        if not limits:
            return []
        rows = []
        for low, high in pairwise([None, *limits, None]):
            count = products.intersection_cardinality(await self._select_between(low, high))
            rows.append(PriceRangeCount(None if low is None else str(low), None if high is None else str(high), count))
        return rows

    async def _list_price_limits(self, products: BitMap, fractions: Sequence[float], ends: PriceEnds) -> list[Decimal]:
        """Quantiles of the lowest prices, rounded to one significant digit of themselves or of a fifth of the range."""
        lowest, highest = Decimal(str(ends.min)), Decimal(str(ends.max))
        magnitude_of_range = _get_magnitudes((highest - lowest) / 5)
        limits = set()
        for amount in await self._find_quantiles(self._postings.lowest_prices, products, fractions):
            quantile = Decimal(self._postings.format_price(amount))
            magnitudes = [*_get_magnitudes(quantile), *magnitude_of_range]
            if magnitudes:
                digit = Decimal((0, (1,), min(magnitudes)))
                # With the decimal places of a price.
                limits.add(quantile.quantize(digit, ROUND_HALF_UP) + 0 * quantile)
        return sorted(limit for limit in limits if lowest < limit <= highest)

    async def _find_quantiles(self, postings: NumberPostings[int], products: BitMap, fractions: Sequence[float]) -> list[int]:
        """For each fraction the lowest value that so many of the products do not exceed, as `percentile_disc` in SQL."""
        blocks, counts = postings.sorted_blocks, []
        for step in _split(blocks):
            counts += [products.intersection_cardinality(postings.blocks[block]) for block in step]
            await self._time_slice.yield_if_expired()
        totals = [*accumulate(counts)]
        quantiles = []
        for fraction in fractions:
            rank = max(1, ceil(fraction * totals[-1]))
            place = bisect_left(totals, rank)
            values = postings.list_values(blocks[place])
            below = totals[place] - counts[place]
            counts_of_values = [products.intersection_cardinality(postings.products[value]) for value in values]
            quantiles.append(values[bisect_left([*accumulate(counts_of_values, initial=below)], rank) - 1])
            await self._time_slice.yield_if_expired()
        return quantiles

    # ----------------------------------------------------------------------------------------- attributes

    def _match_attributes(self) -> Mapping[str, BitMap]:
        """The combinations that have one of the requested values, by the requested attribute without case."""
        requested: Mapping[str, Sequence[str]] = orjson.loads(self._filters.get("attributes", "{}"))
        matching: dict[str, BitMap] = {}
        for name, values in requested.items():
            attribute = self._postings.attributes.get(fold_case(name))
            known = attribute.values if attribute else {}
            found = [value.combinations for text in values if (value := known.get(fold_case(text))) is not None]
            matching[fold_case(name)] = unite(found)
        return matching

    async def _unite_combinations(self, numbers: BitMap) -> BitMap:
        """The products that have an available variant with one of these combinations."""
        combinations = self._postings.combinations
        return await self._unite([combinations[number].products for number in numbers])

    async def _count_attributes(self, products: BitMap) -> list[AttributeValueCount]:
        """Each value under the filters of the other attributes, which have to fit the same variant."""
        matching = self._match_attributes()
        counts: list[tuple[int, str, str, BitMap]] = []
        matching_by_name: dict[str, BitMap | None] = {}
        for name, attribute in [*self._postings.attributes.items()]:
            others = [combinations for other, combinations in matching.items() if other != name]
            allowed = matching_by_name[name] = BitMap.intersection(*others) if others else None
            for text, value in [*attribute.values.items()]:
                if counted := products & await self._select_with_value(value, allowed):
                    counts.append((-len(counted), name, text, counted))
                await self._time_slice.yield_if_expired()
        listed = nsmallest(MAX_FACET_VALUES, counts)
        spelt_names = {
            name: await self._find_spelling(self._postings.attributes[name].spellings, products, matching_by_name[name])
            for name in dict.fromkeys(name for _, name, _, _ in listed)
        }
        return [
            AttributeValueCount(
                spelt_names[name],
                await self._find_spelling(
                    self._postings.attributes[name].values[text].spellings, products, matching_by_name[name]
                ),
                -count,
                str(UUID(bytes=self._postings.find_oldest_id(counted))),
            )
            for count, name, text, counted in listed
        ]

    async def _select_with_value(self, value: AttributeValue, allowed: BitMap | None) -> BitMap:
        """The products with a value that a variant has which has one of the allowed combinations."""
        return value.products if allowed is None else await self._unite_combinations(value.combinations & allowed)

    async def _find_spelling(self, spellings: Mapping[str, BitMap], products: BitMap, allowed: BitMap | None) -> str:
        """How the oldest of the counted variants spells a text."""
        if len(spellings) == 1:
            return next(iter(spellings))
        oldest = b""
        found = ""
        for spelling, combinations in [*spellings.items()]:
            numbers = combinations if allowed is None else combinations & allowed
            first_id = await self._find_oldest_variant(products & await self._unite_combinations(numbers), numbers)
            if first_id and (not oldest or first_id < oldest):
                oldest, found = first_id, spelling
        return found

    async def _find_oldest_variant(self, products: BitMap, combinations: BitMap) -> bytes:
        """The lowest id of the variants of these products that have one of these combinations; empty without any."""
        postings, oldest = self._postings, b""
        for n, number in enumerate(chain(products & postings.unordered, products - postings.unordered)):
            ids = postings.variant_ids[number]
            # From a product in order on, all further ones have later variants only.
            if oldest and number not in postings.unordered and ids[:ID_BYTES] > oldest:
                break
            for place, combination in enumerate(postings.variant_combinations[number]):
                id_ = ids[place * ID_BYTES : (place + 1) * ID_BYTES]
                if combination in combinations and (not oldest or id_ < oldest):
                    oldest = id_
            if n % _POSTINGS_PER_STEP == 0:
                await self._time_slice.yield_if_expired()
        return oldest


def _split(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """The items in steps of _POSTINGS_PER_STEP."""
    return (items[start : start + _POSTINGS_PER_STEP] for start in range(0, len(items), _POSTINGS_PER_STEP))


def _get_magnitudes(number: Decimal) -> list[int]:
    """The power of ten of a number's first digit; none for zero."""
    return [number.adjusted()] if number else []
