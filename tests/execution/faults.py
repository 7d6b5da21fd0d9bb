"""Fault injection into loaders and resolvers. Faults depend on the seed, the field and the row, not on the order of calls.

So both executors meet the same faults in a document.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cache, wraps
from inspect import isawaitable, iscoroutinefunction
from typing import Any
from zlib import crc32

import pytest
from graphql import GraphQLObjectType, GraphQLSchema

from storefront.core.errors import NotFound
from storefront.execution.batch_field import BatchResolver, get_batch_resolver
from storefront.execution.strawberry_adapter import DEFINITION_EXTENSION_KEY, StrawberryField
from storefront.graph import json_pushdown, loaders
from storefront.graph.context import Context
from storefront.queries.keyset import Page
from storefront.queries.listing import ScopedPage

# One in so many: of loaders and of resolvers, and of the rows that one with a fault has it for.
PLACES, ROWS = 2, 3


@dataclass(slots=True)
class Watch:
    """One execution: the seed of its faults, if it has any, whether Postgres may write JSON itself, and what was seen of it."""

    seed: int | None = None
    reads_rows: bool = False
    roots: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    objects: int = 0
    is_other_error: bool = False
    errors: int = 0
    size: int = 0


WATCH: ContextVar[Watch] = ContextVar("watch")


def chance(*parts: object) -> int:
    """A number that is the same for the same parts."""
    return crc32(repr(parts).encode())


class Planted(Exception):
    """A fault of a test."""


# ------------------------------------------------------------------------------------------------ loaders


class FaultyContext(Context):
    """A context whose loaders have the faults of the current seed."""

    __slots__ = ()

    def load_many(self, load: Any, keys: Any, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        seed = WATCH.get().seed
        return super().load_many(load if seed is None else _faulty(load, seed), keys, *args, **kwargs)


# These are loaded where a page could not bring them along, or what is selected needs them: graphql-core looks at no selection.
LOADED_IF_SELECTED = {
    loaders.count_config_products,
    loaders.load_facet_snapshots,
    loaders.load_option_matches,
    loaders.load_product_reviews,
    loaders.load_product_variants,
}


@cache
def _faulty(edge: Any, seed: int) -> Any:
    if edge in LOADED_IF_SELECTED or chance(seed, edge.__name__) % PLACES:
        return edge

    @wraps(edge)
    async def load(context: Context, keys: Sequence[Any], *args: Any, **kwargs: Any) -> Sequence[Any]:
        if chance(seed, edge.__name__, "all") % 8 == 0:
            raise Planted(f"{edge.__name__} fails")
        loaded = await edge(context, keys, *args, **kwargs)
        return [_spoilt(value, seed, edge.__name__, str(key)) for value, key in zip(loaded, keys, strict=True)]

    return load


def _spoilt(value: Any, seed: int, name: str, key: str) -> Any:
    number = chance(seed, name, key)
    if number % ROWS:
        return value
    kind = number // ROWS % 5
    if kind == 0:
        return None
    if kind == 1:
        return NotFound(f"{name}: gone.")
    if kind == 2:
        return Planted(f"{name} fails for {key}")
    return _with_odd_rows(value, number)


def _with_odd_rows(value: Any, number: int) -> Any:
    if isinstance(value, Page):
        return _with(value, rows=_with_odd_rows([*value.rows], number))
    if isinstance(value, list):
        return [_with_odd_rows(one, chance(number, at)) if at % 2 else one for at, one in enumerate(value)]
    if isinstance(value, ScopedPage):
        return _with(value, page=_with_odd_rows(value.page, number))
    return _odd_row(value, number) if hasattr(value, "_replace") else value


def _with(value: Any, **changes: Any) -> Any:
    return value._replace(**changes) if hasattr(value, "_replace") else replace(value, **changes)


# Columns that decide about nothing but themselves. A row may have more or less of them, as its reader needs.
_NAMES = "title description price tags images status version created_at name rating body attributes rating_counts count value"
_COLUMNS = [*_NAMES.split(), "variants_available", "in_stock", "theme", "layout", "store_name", "clicks", "sku", "category"]
_ODD = [None, None, "text", 2**40, float("nan"), Planted("in a column"), ["a", None], {"a": 1}, True, object]


def _odd_row(row: Any, number: int) -> Any:
    odd = {name: _ODD[chance(number, name) % len(_ODD)] for name in _COLUMNS if chance(name, number) % 6 == 0}
    return row._replace(**{name: value for name, value in odd.items() if name in row._fields})


# ---------------------------------------------------------------------------------------------- resolvers


@contextmanager
def watched(schema: GraphQLSchema) -> Iterator[None]:
    """Plant faults in the resolvers too, and note which root fields are resolved."""

    def nodes_of(*args: Any, **kwargs: Any) -> Any:
        # Faults are in rows: what Postgres writes as JSON has none.
        return None if WATCH.get().reads_rows else json_pushdown.build_nodes_document(*args, **kwargs)

    def product_of(*args: Any, **kwargs: Any) -> Any:
        return None if WATCH.get().reads_rows else json_pushdown.build_product_document(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("storefront.graph.types.catalogue.build_nodes_document", nodes_of)
        patch.setattr("storefront.products.api.build_product_document", product_of)
        for type_, name, resolver in _resolvers(schema):
            is_root = type_ in (schema.query_type, schema.mutation_type)
            patch.setattr(resolver, "wrapped_func", _watched(resolver.wrapped_func, f"{type_.name}.{name}", is_root))
        yield


def _resolvers(schema: GraphQLSchema) -> Iterator[tuple[GraphQLObjectType, str, Any]]:
    for type_ in schema.type_map.values():
        if isinstance(type_, GraphQLObjectType) and type_ is not schema.subscription_type:
            for name, definition in type_.fields.items():
                ours = definition.extensions.get(DEFINITION_EXTENSION_KEY)
                if isinstance(ours, StrawberryField) and ours.base_resolver:
                    yield type_, name, ours.base_resolver


def _watched(function: Any, place: str, is_root: bool) -> Any:
    if not iscoroutinefunction(function):

        @wraps(function)
        def now(*args: Any, **kwargs: Any) -> Any:
            fault = _fault(place, is_root, args)
            return fault() if fault else function(*args, **kwargs)

        return now

    @wraps(function)
    async def later(*args: Any, **kwargs: Any) -> Any:
        fault = _fault(place, is_root, args)
        return await _late(fault, place) if fault else await function(*args, **kwargs)

    if batch := get_batch_resolver(function):
        later.batch = _watched_batch(batch, place)  # type: ignore[attr-defined]
    return later


def _watched_batch(batch: BatchResolver, place: str) -> BatchResolver:
    @wraps(batch)
    async def many(parents: Sequence[Any], *args: Any, **kwargs: Any) -> Sequence[Any]:
        faults = [_fault(place, False, (parent,)) for parent in parents]
        values = await batch(parents, *args, **kwargs)
        return [await _late(fault, place) if fault else value for value, fault in zip(values, faults, strict=True)]

    return many


async def _late(fault: Callable[[], Any], place: str) -> Any:
    for _ in range(chance(place) % 4):
        await asyncio.sleep(0)
    value = fault()
    return await value if isawaitable(value) else value


def _fault(place: str, is_root: bool, args: tuple[Any, ...]) -> Callable[[], Any] | None:
    watch = WATCH.get()
    if is_root:
        watch.roots.append(place)
    if watch.seed is None or chance(watch.seed, place) % (PLACES * 5):
        return None
    # Fields of an object without an id have the fault for all such objects.
    number = chance(watch.seed, place, str(getattr(args[0], "id", "")) if args else "")
    if number % ROWS and not is_root:
        return None
    return _KINDS[number // ROWS % len(_KINDS)]


class Passing:
    """An iterator, which can be read once, and which prints the same each time."""

    def __init__(self) -> None:
        self._left = [None, "text"]

    def __iter__(self) -> "Passing":
        return self

    def __next__(self) -> Any:
        if not self._left:
            raise StopIteration
        return self._left.pop()

    def __repr__(self) -> str:
        return "passing"


def _raised() -> Any:
    raise Planted("a resolver fails")


def _refused() -> Any:
    raise NotFound("not here.")


async def _awaited() -> Any:
    await asyncio.sleep(0)
    return None


_KINDS: list[Callable[[], Any]] = [
    _raised,
    _refused,
    lambda: None,
    lambda: Planted("an exception as a value"),
    lambda: "text",
    lambda: 7,
    lambda: [None],
    list,
    Passing,
    lambda: {"a": 1},
    _awaited,
]
