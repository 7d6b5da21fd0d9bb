"""Selections that Postgres can answer as JSON by itself: which they are, and how it is told."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import count
from typing import Any

from storefront.core.errors import RequestError
from storefront.execution.selected import Chosen, Chosens, chosen
from storefront.graph import checks
from storefront.graph.context import Info
from storefront.models import products, reviews, variants
from storefront.queries.documents import (
    MOST_PARTS,
    Column,
    Constant,
    Document,
    Object,
    Part,
    Parts,
    Range,
    Reviews,
    Variants,
    template,
)

Selected = Sequence[Chosen]


class _Otherwise(Exception):
    """Something that has to be resolved row by row."""


def nodes_of(info: Info, *, is_owner: bool) -> Document | None:
    """The nodes of a connection of products as documents; None where what is selected of them takes more than the database."""
    try:
        selection = chosen(info._raw_info, "nodes", unless="edges")
        return None if selection is None else _document(selection, is_owner)
    except TypeError:
        # Lists among the arguments: nothing to remember a document by.
        return None


@lru_cache(500)
def _document(selection: Chosens, is_owner: bool) -> Document | None:
    parameters: dict[str, Any] = {}
    try:
        parts = _Reader(is_owner, parameters).parts(selection, "Product")
    except (_Otherwise, RequestError):
        # Arguments that are refused are refused where they stand.
        return None
    return Document(template(parts), tuple(parameters.items()))


class _Reader:
    """Reads a selection for one audience; `parameters` take the arguments' values."""

    def __init__(self, is_owner: bool, parameters: dict[str, Any]) -> None:
        self._is_owner = is_owner
        self._parameters = parameters
        self._numbers = count(1)
        self._edges: Mapping[tuple[str, str], Callable[[Chosen], Part]] = {
            ("Product", "variants"): self._variants,
            ("Product", "reviews"): self._reviews,
            ("Product", "price_range"): self._range,
            ("ProductVariant", "attributes"): self._attributes,
        }

    def parts(self, selection: Selected, noun: str) -> Parts:
        """What is written of each row of a noun."""
        if len(selection) > MOST_PARTS:
            raise _Otherwise
        return tuple(self._part(one, noun) for one in selection)

    def _part(self, one: Chosen, noun: str) -> Part:
        if one.name == "__typename":
            return Constant(one.key, noun)
        if edge := self._edges.get((noun, one.name)):
            return edge(one)
        if not one.is_attribute or one.name not in _COLUMNS[noun]:
            raise _Otherwise
        return Column(one.key, one.name)

    def _variants(self, one: Chosen) -> Part:
        arguments = dict(one.arguments)
        only = arguments["available_only"] or not self._is_owner
        return Variants(one.key, self.parts(one.below, "ProductVariant"), self._limit(arguments["first"]), only)

    def _reviews(self, one: Chosen) -> Part:
        arguments = dict(one.arguments)
        if arguments["after"] is not None:
            raise _Otherwise
        limit = self._limit(arguments["first"])
        return Object(one.key, tuple(self._of_reviews(below, limit) for below in one.below))

    def _of_reviews(self, one: Chosen, limit: str) -> Part:
        if one.name == "__typename":
            return Constant(one.key, "ReviewConnection")
        if one.name != "nodes":
            raise _Otherwise
        return Reviews(one.key, self.parts(one.below, "Review"), limit)

    def _range(self, one: Chosen) -> Part:
        parts = (Constant(b.key, "PriceRange") if b.name == "__typename" else Column(b.key, b.name) for b in one.below)
        return Range(one.key, tuple(parts))

    def _attributes(self, one: Chosen) -> Part:
        # They are kept as they are mostly asked for.
        if [(below.key, below.name) for below in one.below] != [("name", "name"), ("value", "value")]:
            raise _Otherwise
        return Column(one.key, "attribute_list")

    def _limit(self, first: int) -> str:
        name = f"limit_{next(self._numbers)}"
        self._parameters[name] = checks.first(first)
        return name


_COLUMNS: Mapping[str, frozenset[str]] = {
    "Product": frozenset(products.c.keys()),
    "ProductVariant": frozenset(variants.c.keys()) | {"in_stock"},
    "Review": frozenset(reviews.c.keys()),
}
