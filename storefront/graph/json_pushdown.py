"""Selections that Postgres can answer as JSON by itself: which they are, and how it is told."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import orjson

from storefront.core.db.database import Row
from storefront.core.errors import RequestError
from storefront.execution.lookahead import Chosen, Chosens, chosen, chosen_of
from storefront.graph import arguments as checks
from storefront.graph.context import Info
from storefront.models import configs, products, reviews, users, variants
from storefront.queries.json_sql import (
    Column,
    Constant,
    Document,
    Object,
    Part,
    Parts,
    Range,
    Related,
    Reviews,
    Summary,
    Target,
    Variants,
    document,
)
from storefront.queries.projection import MOST_STATEMENTS

# Statements for more fields are not worth the memory that they take.
MOST_FIELDS = 150

Selected = Sequence[Chosen]


class _Otherwise(Exception):
    """Something that has to be resolved row by row."""


def nodes_of(info: Info, *, is_owner: bool) -> Document | None:
    """The nodes of a connection of products as documents; None where what is selected of them takes more than the database."""
    return _known(chosen(info._raw_info, "nodes", unless="edges"), is_owner)


def product_of(info: Info, *, is_owner: bool) -> Document | None:
    """A product as a document; None where what is selected of it takes more than the database."""
    return _known(chosen_of(info._raw_info), is_owner)


def written(row: Row) -> orjson.Fragment:
    """What Postgres wrote of a row: complete as it is."""
    return orjson.Fragment(row.node)


def _known(selection: Chosens | None, is_owner: bool) -> Document | None:
    try:
        return None if selection is None or selection.size > MOST_FIELDS else _document(selection, is_owner)
    except TypeError:
        # Lists among the arguments: nothing to remember a document by.
        return None


@lru_cache(MOST_STATEMENTS)
def _document(selection: Chosens, is_owner: bool) -> Document | None:
    try:
        return document(_Reader(is_owner).parts(selection, "Product"))
    except (_Otherwise, RequestError):
        # Arguments that are refused are refused where they stand.
        return None


class _Reader:
    """Reads a selection for one audience."""

    def __init__(self, is_owner: bool) -> None:
        self._is_owner = is_owner
        self._edges: Mapping[tuple[str, str], Callable[[Chosen], Part]] = {
            ("Product", "variants"): self._variants,
            ("Product", "reviews"): self._reviews,
            ("Product", "price_range"): lambda one: Range(one.key, _figures(one, "PriceRange")),
            ("Product", "review_summary"): lambda one: Summary(one.key, _figures(one, "ReviewSummary")),
            ("Product", "variant_count"): lambda one: Column(one.key, "variants_total" if is_owner else "variants_available"),
            ("Product", "related"): self._related,
            ("Product", "config"): lambda one: Target(one.key, self.parts(one.below, "Config"), "config_id"),
            ("Review", "user"): lambda one: Target(one.key, self.parts(one.below, "User"), "user_id"),
            ("ProductVariant", "attributes"): self._attributes,
        }

    def parts(self, selection: Selected, noun: str) -> Parts:
        """What is written of each row of a noun."""
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
        return Variants(one.key, self.parts(one.below, "ProductVariant"), checks.first(arguments["first"]), only)

    def _reviews(self, one: Chosen) -> Part:
        arguments = dict(one.arguments)
        if arguments["after"] is not None:
            raise _Otherwise
        limit = checks.first(arguments["first"])
        return Object(one.key, tuple(self._of_reviews(below, limit) for below in one.below))

    def _of_reviews(self, one: Chosen, limit: int) -> Part:
        if one.name == "__typename":
            return Constant(one.key, "ReviewConnection")
        if one.name != "nodes":
            raise _Otherwise
        return Reviews(one.key, self.parts(one.below, "Review"), limit)

    def _related(self, one: Chosen) -> Part:
        return Related(one.key, self.parts(one.below, "Product"), checks.first(dict(one.arguments)["first"]))

    def _attributes(self, one: Chosen) -> Part:
        # They are kept as they are mostly asked for.
        if [(below.key, below.name) for below in one.below] != [("name", "name"), ("value", "value")]:
            raise _Otherwise
        return Column(one.key, "attribute_list")


def _figures(one: Chosen, noun: str) -> tuple[Column | Constant, ...]:
    return tuple(Constant(b.key, noun) if b.name == "__typename" else Column(b.key, b.name) for b in one.below)


_COLUMNS: Mapping[str, frozenset[str]] = {
    "Product": frozenset(products.c.keys()),
    "ProductVariant": frozenset(variants.c.keys()) | {"in_stock"},
    "Review": frozenset(reviews.c.keys()),
    "Config": frozenset(configs.c.keys()),
    "User": frozenset(users.c.keys()),
}
