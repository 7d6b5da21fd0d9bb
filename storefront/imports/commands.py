"""Brings products into one store, in batches and set by set, and writes only what differs."""

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Protocol

from psycopg import errors

from storefront.core.database import Connection, Database
from storefront.core.errors import TimedOut
from storefront.core.turns import in_turns
from storefront.feed import log
from storefront.feed.log import Entry
from storefront.imports.planning import apply, planned
from storefront.imports.rows import Mark, ProductRow, Rejection

BATCH = 500
# A batch also ends at so many rows, and at this much text, in characters: one statement has to index it all in its time.
BATCH_ROWS, BATCH_TEXT = 2_000, 1_000_000
# Rejected rows whose reasons are kept. Of more than that only the number is.
MOST_TOLD = 1_000

# How often a batch is begun anew for the sake of others that write the same products.
MOST_ATTEMPTS = 20

Item = ProductRow | Rejection | Mark

# What Postgres takes from nobody: the product that is to blame is found, and left out.
UNFIT = (errors.ProgramLimitExceeded, errors.DataError, errors.CheckViolation, TimedOut)


@dataclass(slots=True)
class Batch:
    """Products and rejected rows up to a mark."""

    products: dict[str, ProductRow] = field(default_factory=dict)
    rejections: list[Rejection] = field(default_factory=list)
    rejected: int = 0
    rows: int = 0
    text: int = 0
    mark: Mark | None = None
    began: float = field(default_factory=monotonic)

    def add(self, item: ProductRow | Rejection) -> None:
        """One more."""
        self.rows += item.rows
        if isinstance(item, ProductRow):
            self.products[item.handle] = item
            self.text += len(item.description or "") + sum(map(len, item.tags))
        else:
            self.reject(item)

    def join(self, other: "Batch", mark: Mark) -> None:
        """All of another one, which ends here."""
        self.products |= other.products
        self.rejections = (self.rejections + other.rejections)[:MOST_TOLD]
        self.rejected, self.rows = self.rejected + other.rejected, self.rows + other.rows
        self.text, self.mark = self.text + other.text, mark

    def reject(self, rejection: Rejection) -> None:
        """A row that is left out."""
        self.rejected += rejection.rows
        if len(self.rejections) < MOST_TOLD:
            self.rejections.append(rejection)

    @property
    def is_full(self) -> bool:
        """Whether it is to be written."""
        return len(self.products) >= BATCH or self.rows >= BATCH_ROWS or self.text > BATCH_TEXT

    def is_due(self, seconds: float) -> bool:
        """Whether it has been gathered for so long."""
        return self.mark is not None and monotonic() - self.began > seconds


@dataclass(slots=True)
class Tally:
    """What became of a batch."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    rejected: int = 0
    rejections: list[Rejection] = field(default_factory=list)
    rows: int = 0
    position: int | None = None


@dataclass(slots=True)
class ImportSummary(Tally):
    """What became of a source. `rows` are its rows without a header; `position` is the last one logged, None if none was.

    Of the rejections the first are kept; `rejected` counts them all.
    """

    def add(self, tally: Tally) -> None:
        """One more batch."""
        for name in ("created", "updated", "unchanged", "rejected", "rows"):
            setattr(self, name, getattr(self, name) + getattr(tally, name))
        self.rejections = (self.rejections + tally.rejections)[:MOST_TOLD]
        self.position = tally.position if tally.position is not None else self.position


class Keeper(Protocol):
    """What else is kept of a batch, in the very transaction that writes it."""

    async def begin(self, connection: Connection, batch: Batch) -> dict[str, int]:
        """First of all. Returns those of its products that an earlier batch had already, each with its row there."""

    def end(self, connection: Connection, batch: Batch, tally: Tally) -> None:
        """Last of all: what it sends is committed with the batch, or not at all."""


async def import_products(
    database: Database,
    config_id: str,
    items: Iterable[Item] | AsyncIterable[Item],
    *,
    dry_run: bool = False,
    actor_id: str | None = None,
    client_mutation_id: str | None = None,
    keeper: Keeper | None = None,
    patience: float = float("inf"),
    progress: Callable[[ImportSummary], None] = lambda _: None,
) -> ImportSummary:
    """Create or update products of a store by handle, each batch in a transaction of its own; other products stay as they are.

    A product's variants become those of the source. Where a row of it was rejected none is removed: the row may have been one of
    them. `progress` is told after each batch. A dry run takes every batch back. `patience`: seconds after which what there is
    of a batch is written, for sources that take their time.
    """
    signature = {"actor_id": actor_id, "client_mutation_id": client_mutation_id}
    writing = _Writing(database, config_id, signature, keeper, dry_run)
    summary = ImportSummary()
    async for batch in _batches(items if isinstance(items, AsyncIterable) else in_turns(items), patience):
        summary.add(await writing.bring(batch))
        progress(summary)
    return summary


async def _batches(items: AsyncIterable[Item], patience: float) -> AsyncIterator[Batch]:
    batch, begun = Batch(), Batch()
    async for item in items:
        if isinstance(item, Mark):
            batch.join(begun, item)
            begun = Batch()
        else:
            # What is in it twice is written twice: the later one updates what the earlier one made.
            if isinstance(item, ProductRow) and item.handle in batch.products:
                yield batch
                batch = Batch()
            begun.add(item)
        if batch.is_full or batch.is_due(patience):
            yield batch
            batch = Batch()
    if batch.mark is not None:
        yield batch


class _OutOfDate(Exception):
    """Someone else made one of the products meanwhile."""


class _TakenBack(Exception):
    """It was only tried."""


@dataclass(frozen=True, slots=True)
class _Writing:
    database: Database
    config_id: str
    signature: dict[str, Any]
    keeper: Keeper | None
    dry_run: bool

    async def bring(self, batch: Batch) -> Tally:
        """Write a batch, whole but for the products that Postgres does not take."""
        carefully = False
        for attempt in range(MOST_ATTEMPTS):
            try:
                return await self._once(batch, carefully)
            except UNFIT:
                if carefully:
                    raise
                carefully = True
            except (_OutOfDate, errors.DeadlockDetected, errors.SerializationFailure):
                # Others were faster: plan again, from what is there now.
                if attempt == MOST_ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    async def _once(self, batch: Batch, carefully: bool) -> Tally:
        tally = Tally(rejected=batch.rejected, rejections=[*batch.rejections], rows=batch.rows)
        if not (batch.products or self.keeper):
            return tally
        async with self.database.transaction() as connection:
            before = await self.keeper.begin(connection, batch) if self.keeper else {}
            products = [product for product in batch.products.values() if _is_first(product, before, tally)]
            entries = await self._tried(connection, products, tally, carefully)
            appended = log.send(connection, self.config_id, entries) if entries and not self.dry_run else None
            if self.keeper:
                self.keeper.end(connection, batch, tally)
            await connection.commit()
        tally.position = log.position_of(appended) if appended else None
        return tally

    async def _tried(
        self, connection: Connection, products: Sequence[ProductRow], tally: Tally, carefully: bool
    ) -> Sequence[Entry]:
        write = self._carefully if carefully else self._written
        if not self.dry_run:
            return await write(connection, products, tally)
        with suppress(_TakenBack):
            async with connection.savepoint():
                await write(connection, products, tally)
                raise _TakenBack
        return ()

    async def _carefully(self, connection: Connection, products: Sequence[ProductRow], tally: Tally) -> Sequence[Entry]:
        """The products one half after the other, where they cannot be written together: down to the one that is to blame."""
        try:
            async with connection.savepoint():
                return await self._written(connection, products, tally)
        except UNFIT as error:
            if len(products) == 1:
                _reject(tally, products[0], _told(error))
                return ()
        middle = len(products) // 2
        first = await self._carefully(connection, products[:middle], tally)
        return [*first, *await self._carefully(connection, products[middle:], tally)]

    async def _written(self, connection: Connection, products: Sequence[ProductRow], tally: Tally) -> Sequence[Entry]:
        if not products:
            return ()
        plan = await planned(connection, self.config_id, products, self.signature)
        if not await apply(connection, self.config_id, plan):
            raise _OutOfDate
        tally.created += len(plan.created)
        tally.updated += len(plan.updated)
        tally.unchanged += len(products) - len(plan.created) - len(plan.updated)
        return plan.entries


def _is_first(product: ProductRow, before: dict[str, int], tally: Tally) -> bool:
    if (line := before.get(product.handle)) is None:
        return True
    _reject(tally, product, f"the rows of this product started on line {line}: move this one up to them", "Handle")
    return False


def _reject(tally: Tally, product: ProductRow, problem: str, column: str = "") -> None:
    tally.rejected += product.rows
    tally.rejections.append(Rejection("", product.line, problem, product.handle, column, product.rows))


def _told(error: Exception) -> str:
    if isinstance(error, errors.ProgramLimitExceeded | TimedOut):
        return "has more text than can be searched: shorten the description or the tags"
    return "has values that cannot be stored: look for unusual characters and amounts"
