"""Batch resolvers that several object types share."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import TypeVar

from storefront.core.db.database import Row
from storefront.core.errors import NotFound
from storefront.execution.batch_field import BatchResolver
from storefront.graph.context import Context, Info

RowLoader = Callable[[Context, Sequence[str]], Awaitable[Sequence[Row | None]]]
K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


def build_reference_batch(loader: RowLoader, key_column: str, noun: str) -> BatchResolver:
    """A batch resolver of the rows that `key_column` refers to. Raises NotFound if one was deleted or hidden meanwhile."""

    async def load_targets(rows: Sequence[Row], info: Info) -> Sequence[Row]:
        related_rows = await info.context.load_many(loader, [getattr(row, key_column) for row in rows])
        if None in related_rows:
            raise NotFound(f"The {noun} that this belongs to was deleted, or is not visible to you.")
        return related_rows

    return load_targets


def build_optional_reference_batch(loader: RowLoader, key_column: str) -> BatchResolver:
    """A batch resolver of the rows that `key_column` refers to; null if it is null, or the row was deleted or is hidden."""

    async def load_targets(rows: Sequence[Row], info: Info) -> Sequence[Row | None]:
        keys = [getattr(row, key_column) for row in rows]
        related_rows = iter(await info.context.load_many(loader, [key for key in keys if key is not None]))
        return [None if key is None else next(related_rows) for key in keys]

    return load_targets


async def load_for_owned_stores(
    info: Info, stores: Sequence[Row], load: Callable[[Sequence[str]], Awaitable[Sequence[T]]]
) -> list[T | None]:
    """A value for each store that the viewer owns, loaded in one batch by id; None for the stores of others."""
    owned_ids = [row.id for row in stores if row.id in info.context.owned_store_ids]
    values_by_id = dict(zip(owned_ids, await load(owned_ids), strict=True)) if owned_ids else {}
    return [values_by_id.get(row.id) for row in stores]


async def load_by_kind(
    rows: Sequence[Row], kinds: Sequence[K], load: Callable[[Sequence[str], K], Awaitable[Sequence[T]]]
) -> list[T]:
    """Values loaded in one batch per kind of row, such as per audience, in the order of the rows."""
    pending_by_kind = {kind: load([r.id for r, k in zip(rows, kinds, strict=True) if k is kind], kind) for kind in set(kinds)}
    loaded = await asyncio.gather(*pending_by_kind.values())
    values_by_kind = {kind: iter(values) for kind, values in zip(pending_by_kind, loaded, strict=True)}
    return [next(values_by_kind[kind]) for kind in kinds]
