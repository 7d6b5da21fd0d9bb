"""Batch resolvers that several object types share."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from operator import attrgetter
from typing import TypeVar

from storefront.core.db.database import Row
from storefront.core.errors import NotFound
from storefront.execution.batch_field import BatchResolver
from storefront.graph import loaders
from storefront.graph.context import Context, Info

K = TypeVar("K")
H = TypeVar("H", bound=Hashable)
T = TypeVar("T")
RowLoader = Callable[[Context, Sequence[K]], Awaitable[Sequence[Row | None]]]


def build_reference_batch(loader: RowLoader[K], get_key: Callable[[Row], K | None], noun: str) -> BatchResolver:
    """A batch resolver of the rows that others refer to by `get_key`. Raises NotFound if one was deleted or hidden meanwhile."""

    async def load_targets(rows: Sequence[Row], info: Info) -> Sequence[Row]:
        related_rows = await load_optional_targets(rows, info)
        if None in related_rows:
            raise NotFound(f"The {noun} that this belongs to was deleted, or is not visible to you.")
        return related_rows

    load_optional_targets = build_optional_reference_batch(loader, get_key)
    return load_targets


def build_optional_reference_batch(loader: RowLoader[K], get_key: Callable[[Row], K | None]) -> BatchResolver:
    """A batch resolver of the rows that others refer to by `get_key`; null without a key, or if one was deleted or is hidden."""

    async def load_targets(rows: Sequence[Row], info: Info) -> Sequence[Row | None]:
        keys = [get_key(row) for row in rows]
        related_rows = iter(await info.context.load_many(loader, [key for key in keys if key is not None]))
        return [None if key is None else next(related_rows) for key in keys]

    return load_targets


_load_stores = build_reference_batch(loaders.load_configs, attrgetter("config_id"), "store")


async def load_currencies(rows: Sequence[Row], info: Info) -> Sequence[str]:
    """The currencies of the stores of rows that have a `config_id`."""
    return [store.currency for store in await _load_stores(rows, info)]


async def load_for_owned_stores(
    info: Info, stores: Sequence[Row], load: Callable[[Sequence[str]], Awaitable[Sequence[T]]]
) -> list[T | None]:
    """A value for each store that the viewer owns, loaded in one batch by id; None for the stores of others."""
    owned_ids = [row.id for row in stores if row.id in info.context.owned_store_ids]
    values_by_id = dict(zip(owned_ids, await load(owned_ids), strict=True)) if owned_ids else {}
    return [values_by_id.get(row.id) for row in stores]


async def load_by_kind(
    keys: Sequence[K], kinds: Sequence[H], load: Callable[[Sequence[K], H], Awaitable[Sequence[T]]]
) -> list[T]:
    """Values loaded in one batch per kind of key, such as per audience, in the order of the keys."""
    pending_by_kind = {one: load([key for key, kind in zip(keys, kinds, strict=True) if kind is one], one) for one in set(kinds)}
    loaded = await asyncio.gather(*pending_by_kind.values())
    values_by_kind = {kind: iter(values) for kind, values in zip(pending_by_kind, loaded, strict=True)}
    return [next(values_by_kind[kind]) for kind in kinds]
