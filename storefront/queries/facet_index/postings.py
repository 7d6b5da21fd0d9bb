"""The products of a store as bitmaps: for each value of a facet a posting list, the bitmap of the products that have it.

Products are numbered in the order in which they are added. A product that changes gets another number, and the former one is
removed from the live products alone, not from posting lists. So counts are those of the live products of any moment that is kept,
and adding products does not disturb what is being counted.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import chain
from typing import Generic, TypeVar

import orjson
from pyroaring import BitMap

from storefront.core.currencies import MAX_FRACTION_DIGITS
from storefront.core.db.database import Row
from storefront.models.variant import fold_case

V = TypeVar("V", int, float)

# Bytes of a UUID.
ID_BYTES = 16
# Prices are compared as whole numbers of the smallest unit of any currency.
_AMOUNT_SCALE = 10**MAX_FRACTION_DIGITS
# Bytes as measured with CPython 3.11 (`python -m benchmarks facets`): of a posting list with its key but without its numbers, of
# a product, and of an available variant.
_POSTING_BYTES, _PRODUCT_BYTES, _VARIANT_BYTES = 300, 268, 24


class UnindexableStoreError(Exception):
    """A store whose attributes this process does not fold as Postgres does: its facets are counted in SQL."""


@dataclass(slots=True)
class TextPostings:
    """Posting lists by text."""

    products: dict[str, BitMap] = field(default_factory=dict)

    def add(self, text: str, number: int) -> None:
        """Add a product to the posting list of a text."""
        posting = self.products.get(text)
        if posting is None:
            posting = self.products[text] = BitMap()
        posting.add(number)

    def select(self, texts: Iterable[str]) -> BitMap:
        """The products with one of these texts."""
        return unite([posting for text in texts if (posting := self.products.get(text)) is not None])


class NumberPostings(Generic[V]):
    """Posting lists by number, such as a price. Neighbouring numbers form blocks, whose posting lists are the unions of theirs.

    `get_block` returns the block of a number; it must be monotonic.
    """

    def __init__(self, get_block: Callable[[V], int]) -> None:
        self.products: dict[V, BitMap] = {}
        self.blocks: dict[int, BitMap] = {}
        self._get_block: Callable[[V], int] = get_block
        self._sorted_values: list[V] = []
        self._sorted_blocks: list[int] = []

    def add(self, value: V, number: int) -> None:
        """Add a product to the posting list of a value."""
        posting = self.products.get(value)
        if posting is None:
            posting = self.products[value] = BitMap()
        posting.add(number)
        block = self._get_block(value)
        posting = self.blocks.get(block)
        if posting is None:
            posting = self.blocks[block] = BitMap()
        posting.add(number)

    @property
    def sorted_values(self) -> list[V]:
        """The values in ascending order."""
        # Posting lists are never removed.
        if len(self._sorted_values) != len(self.products):
            self._sorted_values = sorted(self.products)
        return self._sorted_values

    @property
    def sorted_blocks(self) -> list[int]:
        """The blocks in ascending order."""
        if len(self._sorted_blocks) != len(self.blocks):
            self._sorted_blocks = sorted(self.blocks)
        return self._sorted_blocks

    def list_values(self, block: int) -> Sequence[V]:
        """The values of a block in ascending order."""
        values = self.sorted_values
        start = bisect_left(values, block, key=self._get_block)
        return values[start : bisect_right(values, block, start, key=self._get_block)]

    def list_between(self, lowest: V | None, highest: V | None) -> list[BitMap]:
        """Posting lists whose union has the products between two limits, each of which may be missing. Both are included."""
        values: list[V] = self.sorted_values
        start: int = 0 if lowest is None else bisect_left(values, lowest)
        end: int = len(values) if highest is None else bisect_right(values, highest)
        if start >= end:
            return []
        first, last = self._get_block(values[start]), self._get_block(values[end - 1])
        # Of the outer blocks a part of the values.
        start_of_inner: int = bisect_right(values, first, start, end, key=self._get_block)
        end_of_inner: int = bisect_left(values, last, start_of_inner, end, key=self._get_block)
        inner: list[int] = self.sorted_blocks[bisect_right(self.sorted_blocks, first) : bisect_left(self.sorted_blocks, last)]
        outer: list[V] = values[start:start_of_inner] + values[end_of_inner:end]
        return [*(self.products[value] for value in outer), *(self.blocks[block] for block in inner)]


def _get_price_block(amount: int) -> int:
    # The first six binary digits and how many follow: a block spans two to three per cent of its prices.
    rest = max(0, amount.bit_length() - 6)
    return rest << 6 | amount >> rest


def _get_rating_block(rating: float) -> int:
    return int(rating * 16)


@dataclass(frozen=True, slots=True)
class Combination:
    """Attributes that variants have, as they are spelt. No two variants of a product have the same ones without case.

    `pairs`: folded name, folded value, name and value of each. `products`: those with such an available variant.
    """

    pairs: tuple[tuple[str, str, str, str], ...]
    products: BitMap = field(default_factory=BitMap)


@dataclass(slots=True)
class AttributeValue:
    """A value of an attribute without case: the products whose available variants have it, and the combinations that have it.

    `spellings`: the numbers of the combinations by spelling.
    """

    products: BitMap = field(default_factory=BitMap)
    combinations: BitMap = field(default_factory=BitMap)
    spellings: dict[str, BitMap] = field(default_factory=dict)


@dataclass(slots=True)
class Attribute:
    """An attribute: its values by their text without case, and the numbers of its combinations by the spelling of its name."""

    values: dict[str, AttributeValue] = field(default_factory=dict)
    spellings: dict[str, BitMap] = field(default_factory=dict)


class StorePostings:
    """The posting lists of one store. `add_product` takes rows of `statements.py`."""

    def __init__(self) -> None:
        self.product_count = 0
        self.number_by_id: dict[bytes, int] = {}
        # The id of each product, and the products that are older than one with a lower number.
        self.ids: list[bytes] = []
        self._late = BitMap()
        self._latest_id = b""
        self.categories, self.vendors, self.product_types = TextPostings(), TextPostings(), TextPostings()
        self.tags, self.statuses = TextPostings(), TextPostings()
        self.in_stock: dict[bool, BitMap] = {False: BitMap(), True: BitMap()}
        self.sellable = BitMap()
        self.ratings = NumberPostings(_get_rating_block)
        # The ends of the price range of each product that has an available variant, and the prices of available variants.
        self.lowest_prices, self.highest_prices = NumberPostings(_get_price_block), NumberPostings(_get_price_block)
        self.variant_prices = NumberPostings(_get_price_block)
        self.combinations: list[Combination] = []
        self.attributes: dict[str, Attribute] = {}
        # For each product the ids of its available variants in ascending order, one after the other, and their combinations.
        self.variant_ids: list[bytes] = []
        self.variant_combinations: list[tuple[int, ...]] = []
        # Products whose first variant is older than that of a product with a lower number.
        self.unordered = BitMap()
        self._latest_first_id = b""
        self._variant_count = 0
        self._combination_by_attributes: dict[str, int] = {}
        self._known_combinations: dict[tuple[int, ...], tuple[int, ...]] = {}
        self._amount_by_text: dict[str, int] = {}
        self._text_by_amount: dict[int, str] = {}

    def add_product(self, row: Row) -> int:
        """Add a product; returns its number. It is not live yet. Raises UnindexableStoreError."""
        number = self.product_count
        variants = orjson.loads(row.variants) if row.variants else []
        combinations = tuple([self._find_combination(attributes, folded) for _, _, attributes, folded in variants])
        self.product_count += 1
        self.ids.append(row.id)
        if row.id < self._latest_id:
            self._late.add(number)
        else:
            self._latest_id = row.id
        for postings, texts in (
            (self.categories, row.category_paths),
            (self.tags, row.tags),
            (self.vendors, [row.vendor]),
            (self.product_types, [row.product_type]),
            (self.statuses, [row.status]),
        ):
            for text in texts:
                if text is not None:
                    postings.add(text, number)
        self.in_stock[row.in_stock].add(number)
        self.ratings.add(row.rating, number)
        if row.variants_available > 0:
            self.sellable.add(number)
            self.lowest_prices.add(self._parse_price(row.price), number)
            self.highest_prices.add(self._parse_price(row.max_price), number)
        self._add_variants(number, variants, combinations)
        return number

    def find_oldest_id(self, products: BitMap) -> bytes:
        """The lowest id of these products, of which there is one at least."""
        numbers = chain(products & self._late, (products - self._late)[:1])
        return min(self.ids[number] for number in numbers)

    def _add_variants(self, number: int, variants: Sequence[tuple[str, str, str, str]], combinations: tuple[int, ...]) -> None:
        ids = [bytes.fromhex(id_.replace("-", "")) for id_, _, _, _ in variants]
        if ids and ids[0] < self._latest_first_id:
            self.unordered.add(number)
        elif ids:
            self._latest_first_id = ids[0]
        self._variant_count += len(ids)
        self.variant_ids.append(b"".join(ids))
        # Many products have variants with the same attributes.
        self.variant_combinations.append(self._known_combinations.setdefault(combinations, combinations))
        for combination_number, (_, price, _, _) in zip(combinations, variants, strict=True):
            self.variant_prices.add(self._parse_price(price), number)
            combination = self.combinations[combination_number]
            combination.products.add(number)
            for folded_name, folded_value, _, _ in combination.pairs:
                self.attributes[folded_name].values[folded_value].products.add(number)

    def _find_combination(self, attributes: str, folded_attributes: str) -> int:
        """The number of a combination, from the JSON of attributes with and without case."""
        number = self._combination_by_attributes.get(attributes)
        if number is not None:
            return number
        texts: Mapping[str, str] = orjson.loads(attributes)
        pairs = tuple([(fold_case(name), fold_case(value), name, value) for name, value in texts.items()])
        if {name: value for name, value, _, _ in pairs} != orjson.loads(folded_attributes) or len(
            {pair[0] for pair in pairs}
        ) < len(pairs):
            raise UnindexableStoreError(attributes)
        number = self._combination_by_attributes[attributes] = len(self.combinations)
        self.combinations.append(Combination(pairs))
        for folded_name, folded_value, name, value in pairs:
            attribute = self.attributes.setdefault(folded_name, Attribute())
            attribute_value = attribute.values.setdefault(folded_value, AttributeValue())
            attribute_value.combinations.add(number)
            attribute_value.spellings.setdefault(value, BitMap()).add(number)
            attribute.spellings.setdefault(name, BitMap()).add(number)
        return number

    def _parse_price(self, text: str) -> int:
        amount = self._amount_by_text.get(text)
        if amount is None:
            amount = self._amount_by_text[text] = int(Decimal(text) * _AMOUNT_SCALE)
            self._text_by_amount[amount] = text
        return amount

    def format_price(self, amount: int) -> str:
        """The price as it is stored, from a number of `lowest_prices` and its siblings."""
        return self._text_by_amount[amount]

    def estimate_bytes(self) -> Iterator[int]:
        """The bytes of each part: their sum is about what the postings take of the memory. Lazy, for it takes milliseconds."""
        yield self.product_count * _PRODUCT_BYTES + self._variant_count * _VARIANT_BYTES
        yield sum(map(len, self._combination_by_attributes)) + len(self.combinations) * 500
        for postings in (self.categories, self.vendors, self.product_types, self.tags, self.statuses):
            yield from map(_estimate_posting_bytes, postings.products.values())
        for numbers in (self.ratings, self.lowest_prices, self.highest_prices, self.variant_prices):
            yield from map(_estimate_posting_bytes, chain(numbers.products.values(), numbers.blocks.values()))
        for combination in self.combinations:
            yield _estimate_posting_bytes(combination.products)
        for attribute in self.attributes.values():
            for value in attribute.values.values():
                # With those of the combinations, and of the spelling.
                yield 3 * _POSTING_BYTES + _estimate_posting_bytes(value.products)


def scale_price(amount: Decimal, *, rounds_up: bool) -> int:
    """An amount as a number of `lowest_prices` and its siblings; one with more decimals than they have is rounded."""
    scaled = amount * _AMOUNT_SCALE
    return int(scaled.to_integral_value("ROUND_CEILING" if rounds_up else "ROUND_FLOOR"))


def unite(bitmaps: Sequence[BitMap]) -> BitMap:
    """The union of bitmaps."""
    return BitMap.union(*bitmaps) if bitmaps else BitMap()


# Of two bytes for each product, or a bit for each number, whichever is less.
def _estimate_posting_bytes(posting: BitMap) -> int:
    return _POSTING_BYTES + min(2 * len(posting), 8_192)
