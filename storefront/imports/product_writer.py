"""Brings products into one store, in batches and set by set, and writes only what differs."""

from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Protocol

from psycopg import errors

from storefront.core.cooperative import in_turns
from storefront.core.db.database import Connection, Database
from storefront.core.errors import TimedOut
from storefront.feed import log
from storefront.feed.log import Entry
from storefront.imports.diff import apply, plans
from storefront.imports.row_types import Item, Mark, ProductRow, Rejection, Stop

BATCH = 500
# A batch also ends at so many rows, and at this much text, in characters: one statement has to index it all in its time.
BATCH_ROWS, BATCH_TEXT = 2_000, 1_000_000
# Rejected rows whose reasons are kept. Of more than that only the number is.
MOST_TOLD = 1_000
# Rejected rows that an import may have by itself, and at most: with more of them it stops.
MAX_REJECTED_ROWS, HIGHEST_MAX_REJECTED_ROWS = 1_000, 100_000

# How often a batch is begun anew for the sake of others that write the same products.
MOST_ATTEMPTS = 20

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
    # Why no other batch comes after it, although the source goes on.
    stop: Stop | None = None
    began: float = field(default_factory=monotonic)

    def add(self, item: ProductRow | Rejection) -> None:
        """One more."""
        self.rows += item.rows
        if isinstance(item, ProductRow):
            self.products[item.handle] = item
            self.text += len(item.description or "") + len(item.seo_description or "")
            self.text += sum(map(len, item.tags)) + sum(map(len, item.images))
        else:
            self.reject(item)

    def join(self, other: "Batch", mark: Mark) -> None:
        """All of another one, which ends here."""
        self.products |= other.products
        self.rejections = (self.rejections + other.rejections)[:MOST_TOLD]
        self.rejected, self.rows = self.rejected + other.rejected, self.rows + other.rows
        self.text, self.mark = self.text + other.text, mark

    def end(self, begun: "Batch", stop: Stop) -> None:
        """The last of all. Of what comes after its mark only the rejected rows are told: its products are not whole."""
        self.rejections = (self.rejections + begun.rejections)[:MOST_TOLD]
        self.rejected, self.rows = self.rejected + begun.rejected, self.rows + begun.rejected
        self.stop = stop

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

    Of the rejections the first are kept; `rejected` counts them all. `stop`: why it ended before its source did.
    """

    stop: Stop | None = None

    def add(self, tally: Tally) -> None:
        """One more batch."""
        for name in ("created", "updated", "unchanged", "rejected", "rows"):
            setattr(self, name, getattr(self, name) + getattr(tally, name))
        self.rejections = (self.rejections + tally.rejections)[:MOST_TOLD]
        self.position = tally.position if tally.position is not None else self.position


class Keeper(Protocol):
    """What else is kept of a batch, in the very transaction that writes it."""

    async def begin(self, connection: Connection, batch: Batch, /) -> dict[str, int]:
        """First of all. Returns those of its products that an earlier batch had already, each with its row there."""

    def end(self, connection: Connection, batch: Batch, tally: Tally, /) -> None:
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
    max_rejected: int = MAX_REJECTED_ROWS,
    rejected_before: int = 0,
    patience: float = float("inf"),
    progress: Callable[[ImportSummary], None] = lambda _: None,
) -> ImportSummary:
    """Create or update products of a store by handle, each batch in a transaction of its own; other products stay as they are.

    A product's variants become those of the source. Where a row of it was rejected none is removed: the row may have been one of
    them. `progress` is told after each batch. A dry run takes every batch back. With more than `max_rejected` rejected rows it
    stops, and what was imported until then stays; `rejected_before` counts those of an earlier part of the same import.
    `patience`: seconds after which what there is of a batch is written, for sources that take their time.
    """
    signature = {"actor_id": actor_id, "client_mutation_id": client_mutation_id}
    writing = _Writing(database, config_id, signature, keeper, dry_run)
    summary, stop, allowed = ImportSummary(), _too_many(max_rejected), max_rejected - rejected_before
    source: AsyncIterable[Item] = items if isinstance(items, AsyncIterable) else in_turns(items)
    async with aclosing(_batches(source, patience, lambda: allowed - summary.rejected, stop)) as batches:
        async for batch in batches:
            summary.add(await writing.bring(batch))
            # Postgres may have refused some more.
            summary.stop = stop if summary.rejected > allowed else batch.stop
            progress(summary)
            if summary.stop:
                break
    return summary


def _too_many(max_rejected: int) -> Stop:
    problem = f"The import stopped: more than {max_rejected:,} rows were rejected. Correct them, or allow more rejected rows."
    return Stop(problem, "maxRejectedRows")


async def _batches(
    items: AsyncIterable[Item], patience: float, left: Callable[[], int], too_many: Stop
) -> AsyncGenerator[Batch, None]:
    gathering = _Gathering(patience, left, too_many)
    async for item in items:
        for batch in gathering.take(item):
            yield batch
    if gathering.batch.mark is not None:
        yield gathering.batch


@dataclass(slots=True)
class _Gathering:
    """Items on their way into batches. `left`: how many rows may be rejected beyond those of the batches that were written."""

    patience: float
    left: Callable[[], int]
    too_many: Stop
    batch: Batch = field(default_factory=Batch)
    # What has come since the last mark.
    begun: Batch = field(default_factory=Batch)

    def take(self, item: Item) -> Iterator[Batch]:
        """The batches that are to be written now."""
        if isinstance(item, Mark):
            self.batch.join(self.begun, item)
            self.begun = Batch()
        elif isinstance(item, Stop):
            yield self._last(item)
        else:
            # What is in it twice is written twice: the later one updates what the earlier one made.
            if isinstance(item, ProductRow) and item.handle in self.batch.products:
                yield self._next()
            self.begun.add(item)
            if isinstance(item, Rejection) and self.batch.rejected + self.begun.rejected > self.left():
                yield self._last(self.too_many)
        if self.batch.is_full or self.batch.is_due(self.patience):
            yield self._next()

    def _next(self) -> Batch:
        batch, self.batch = self.batch, Batch()
        return batch

    def _last(self, stop: Stop) -> Batch:
        self.batch.end(self.begun, stop)
        return self._next()


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
        entries = list[Entry]()
        created = updated = 0
        async for plan in plans(connection, self.config_id, products, self.signature):
            if not await apply(connection, self.config_id, plan):
                raise _OutOfDate
            created, updated = created + len(plan.created), updated + len(plan.updated)
            entries += plan.entries
        tally.created, tally.updated = tally.created + created, tally.updated + updated
        tally.unchanged += len(products) - created - updated
        return entries


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
