"""Upsert of products into a store: in batches, each a transaction of set-based statements that writes only what differs."""

from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Protocol

from psycopg import errors

from storefront.core.cooperative import iterate_cooperatively
from storefront.core.db.database import Connection, Database
from storefront.core.errors import TimedOut
from storefront.feed import log
from storefront.feed.log import LogEntry
from storefront.imports.diff import apply_plan, plan_writes
from storefront.imports.row_types import Checkpoint, EarlyStop, ProductRow, RowError, SourceItem

MAX_BATCH_PRODUCTS = 500
# Further limits of a batch: rows, and characters of text, which one statement has to index within its timeout.
MAX_BATCH_ROWS, MAX_BATCH_CHARACTERS = 2_000, 1_000_000
# Row errors that are stored. Further ones are only counted.
MAX_ROW_ERRORS = 1_000
# Default and maximum of `max_rejected_rows`: an import with more rejected rows stops.
DEFAULT_MAX_REJECTED_ROWS, MAX_REJECTED_ROWS_LIMIT = 1_000, 100_000

# Attempts of a batch that conflicts with concurrent writers of the same products.
MAX_WRITE_ATTEMPTS = 20

# Errors caused by values that Postgres cannot store: bisection finds the product at fault, which is rejected.
UNSTORABLE_ERRORS = (
    errors.ProgramLimitExceeded,
    errors.DataError,
    errors.CheckViolation,
    errors.UniqueViolation,
    TimedOut,
)


@dataclass(slots=True)
class ProductBatch:
    """Products and row errors up to a checkpoint."""

    products: dict[str, ProductRow] = field(default_factory=dict)
    row_errors: list[RowError] = field(default_factory=list)
    rejected: int = 0
    rows: int = 0
    character_count: int = 0
    checkpoint: Checkpoint | None = None
    # Set on the last batch, if the import ends before its source does.
    stop: EarlyStop | None = None
    started_at: float = field(default_factory=monotonic)

    def add_item(self, item: ProductRow | RowError) -> None:
        """Add a product or a row error."""
        self.rows += item.row_count
        if isinstance(item, ProductRow):
            self.products[item.handle] = item
            self.character_count += len(item.description or "") + len(item.seo_description or "")
            self.character_count += sum(map(len, item.tags)) + sum(map(len, item.images))
        else:
            self.add_row_error(item)

    def merge(self, other: "ProductBatch", checkpoint: Checkpoint) -> None:
        """Add the items of another batch, which ends at this checkpoint."""
        self.products |= other.products
        self.row_errors = (self.row_errors + other.row_errors)[:MAX_ROW_ERRORS]
        self.rejected, self.rows = self.rejected + other.rejected, self.rows + other.rows
        self.character_count, self.checkpoint = self.character_count + other.character_count, checkpoint

    def finish(self, pending: "ProductBatch", stop: EarlyStop) -> None:
        """Make this the last batch. Of the pending items only row errors are added: its products may be incomplete."""
        self.row_errors = (self.row_errors + pending.row_errors)[:MAX_ROW_ERRORS]
        self.rejected, self.rows = self.rejected + pending.rejected, self.rows + pending.rejected
        self.stop = stop

    def add_row_error(self, row_error: RowError) -> None:
        """Count the error, and store it while there is room."""
        self.rejected += row_error.row_count
        if len(self.row_errors) < MAX_ROW_ERRORS:
            self.row_errors.append(row_error)

    @property
    def is_full(self) -> bool:
        """Whether the batch has reached one of its limits."""
        return (
            len(self.products) >= MAX_BATCH_PRODUCTS or self.rows >= MAX_BATCH_ROWS or self.character_count > MAX_BATCH_CHARACTERS
        )

    def is_due(self, max_age_seconds: float) -> bool:
        """Whether the batch has something to write, and has been collected for so long."""
        return self.checkpoint is not None and monotonic() - self.started_at > max_age_seconds


@dataclass(slots=True)
class BatchCounts:
    """Counts of a batch: created, updated, unchanged and rejected, with its errors."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    rejected: int = 0
    row_errors: list[RowError] = field(default_factory=list)
    rows: int = 0
    position: int | None = None


@dataclass(slots=True)
class ImportSummary(BatchCounts):
    """Counts of an import. `rows`: of the source, without header. `position`: of the last log entry, None if nothing was written.

    `row_errors` has the first errors only, `rejected` counts all rejected rows. `stop`: why the import ended early.
    """

    stop: EarlyStop | None = None

    def add_batch(self, counts: BatchCounts) -> None:
        """Add the counts of a batch."""
        for name in ("created", "updated", "unchanged", "rejected", "rows"):
            setattr(self, name, getattr(self, name) + getattr(counts, name))
        self.row_errors = (self.row_errors + counts.row_errors)[:MAX_ROW_ERRORS]
        self.position = counts.position if counts.position is not None else self.position


class Checkpointer(Protocol):
    """Hooks that store more of a batch in the transaction that writes it, such as a checkpoint."""

    async def begin_batch(self, connection: Connection, batch: ProductBatch, /) -> dict[str, int]:
        """Called first. Returns the handles of its products that an earlier batch had already, with their lines there."""

    def finish_batch(self, connection: Connection, batch: ProductBatch, counts: BatchCounts, /) -> None:
        """Called last: its statements are committed with the batch, or not at all."""


async def import_products(
    database: Database,
    config_id: str,
    items: Iterable[SourceItem] | AsyncIterable[SourceItem],
    *,
    dry_run: bool = False,
    actor_id: str | None = None,
    client_mutation_id: str | None = None,
    checkpointer: Checkpointer | None = None,
    max_rejected_rows: int = DEFAULT_MAX_REJECTED_ROWS,
    previously_rejected_rows: int = 0,
    flush_after_seconds: float = float("inf"),
    on_progress: Callable[[ImportSummary], None] = lambda _: None,
) -> ImportSummary:
    """Upsert products of a store by handle, each batch in a transaction of its own; other products stay as they are.

    A product's variants become those of the source. If one of its rows was rejected none is deleted: the row may have been a
    variant. `on_progress` is called after each batch. A dry run rolls each batch back. With more than `max_rejected_rows`
    rejected rows the import stops; batches written until then stay. `previously_rejected_rows`: of an earlier part of the same
    import. `flush_after_seconds`: an incomplete batch is written after this time, for slow sources.
    """
    attribution = {"actor_id": actor_id, "client_mutation_id": client_mutation_id}
    writer = _BatchWriter(database, config_id, attribution, checkpointer, dry_run)
    summary, stop, rejection_limit = (
        ImportSummary(),
        _build_rejection_stop(max_rejected_rows),
        max_rejected_rows - previously_rejected_rows,
    )
    source: AsyncIterable[SourceItem] = items if isinstance(items, AsyncIterable) else iterate_cooperatively(items)
    async with aclosing(_form_batches(source, flush_after_seconds, lambda: rejection_limit - summary.rejected, stop)) as batches:
        async for batch in batches:
            summary.add_batch(await writer.write_batch(batch))
            # Postgres may have rejected further products.
            summary.stop = stop if summary.rejected > rejection_limit else batch.stop
            on_progress(summary)
            if summary.stop:
                break
    return summary


def _build_rejection_stop(max_rejected_rows: int) -> EarlyStop:
    problem = (
        f"The import stopped: more than {max_rejected_rows:,} rows were rejected. Correct them, or allow more rejected rows."
    )
    return EarlyStop(problem, "maxRejectedRows")


async def _form_batches(
    items: AsyncIterable[SourceItem],
    flush_after_seconds: float,
    count_remaining_rejections: Callable[[], int],
    rejection_stop: EarlyStop,
) -> AsyncGenerator[ProductBatch, None]:
    builder = _BatchBuilder(flush_after_seconds, count_remaining_rejections, rejection_stop)
    async for item in items:
        for batch in builder.add_item(item):
            yield batch
    if builder.batch.checkpoint is not None:
        yield builder.batch


@dataclass(slots=True)
class _BatchBuilder:
    """Collects items into batches. `count_remaining_rejections`: rows that may still be rejected after the written batches."""

    flush_after_seconds: float
    count_remaining_rejections: Callable[[], int]
    rejection_stop: EarlyStop
    batch: ProductBatch = field(default_factory=ProductBatch)
    # The items since the last checkpoint.
    pending: ProductBatch = field(default_factory=ProductBatch)

    def add_item(self, item: SourceItem) -> Iterator[ProductBatch]:
        """Add an item. Yields the batches that are to be written now."""
        if isinstance(item, Checkpoint):
            self.batch.merge(self.pending, item)
            self.pending = ProductBatch()
        elif isinstance(item, EarlyStop):
            yield self._finish(item)
        else:
            # A repeated handle starts a new batch: the later product updates the earlier one.
            if isinstance(item, ProductRow) and item.handle in self.batch.products:
                yield self._flush()
            self.pending.add_item(item)
            if isinstance(item, RowError) and self.batch.rejected + self.pending.rejected > self.count_remaining_rejections():
                yield self._finish(self.rejection_stop)
        if self.batch.is_full or self.batch.is_due(self.flush_after_seconds):
            yield self._flush()

    def _flush(self) -> ProductBatch:
        batch, self.batch = self.batch, ProductBatch()
        return batch

    def _finish(self, stop: EarlyStop) -> ProductBatch:
        self.batch.finish(self.pending, stop)
        return self._flush()


class _StalePlanError(Exception):
    """A concurrent writer has created one of the products."""


class _DryRunRollback(Exception):
    """Rolls the savepoint of a dry run back."""


@dataclass(frozen=True, slots=True)
class _BatchWriter:
    database: Database
    config_id: str
    attribution: dict[str, Any]
    checkpointer: Checkpointer | None
    dry_run: bool

    async def write_batch(self, batch: ProductBatch) -> BatchCounts:
        """Write a batch, without the products that Postgres cannot store. Retries conflicts with concurrent writers."""
        should_bisect = False
        for attempt in range(MAX_WRITE_ATTEMPTS):
            try:
                return await self._write_once(batch, should_bisect)
            except UNSTORABLE_ERRORS:
                if should_bisect:
                    raise
                should_bisect = True
            except (_StalePlanError, errors.DeadlockDetected, errors.SerializationFailure):
                # A conflict with a concurrent writer: plan again from the current rows.
                if attempt == MAX_WRITE_ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    async def _write_once(self, batch: ProductBatch, should_bisect: bool) -> BatchCounts:
        counts = BatchCounts(rejected=batch.rejected, row_errors=[*batch.row_errors], rows=batch.rows)
        if not (batch.products or self.checkpointer):
            return counts
        async with self.database.transaction() as connection:
            earlier_lines = await self.checkpointer.begin_batch(connection, batch) if self.checkpointer else {}
            products = [product for product in batch.products.values() if _is_first_occurrence(product, earlier_lines, counts)]
            entries = await self._write_or_roll_back(connection, products, counts, should_bisect)
            appended = log.enqueue_append(connection, self.config_id, entries) if entries and not self.dry_run else None
            if self.checkpointer:
                self.checkpointer.finish_batch(connection, batch, counts)
            await connection.commit()
        counts.position = log.get_last_position(appended) if appended else None
        return counts

    async def _write_or_roll_back(
        self, connection: Connection, products: Sequence[ProductRow], counts: BatchCounts, should_bisect: bool
    ) -> Sequence[LogEntry]:
        write = self._write_bisected if should_bisect else self._apply_plans
        if not self.dry_run:
            return await write(connection, products, counts)
        with suppress(_DryRunRollback):
            async with connection.savepoint():
                await write(connection, products, counts)
                raise _DryRunRollback
        return ()

    async def _write_bisected(
        self, connection: Connection, products: Sequence[ProductRow], counts: BatchCounts
    ) -> Sequence[LogEntry]:
        """Write the products by bisection, down to those that Postgres cannot store, which are rejected."""
        try:
            async with connection.savepoint():
                return await self._apply_plans(connection, products, counts)
        except UNSTORABLE_ERRORS as error:
            if len(products) == 1:
                _reject_product(counts, products[0], _describe_error(error))
                return ()
        middle = len(products) // 2
        first_entries = await self._write_bisected(connection, products[:middle], counts)
        return [*first_entries, *await self._write_bisected(connection, products[middle:], counts)]

    async def _apply_plans(
        self, connection: Connection, products: Sequence[ProductRow], counts: BatchCounts
    ) -> Sequence[LogEntry]:
        if not products:
            return ()
        entries = list[LogEntry]()
        created = updated = 0
        async for plan in plan_writes(connection, self.config_id, products, self.attribution):
            if not await apply_plan(connection, self.config_id, plan):
                raise _StalePlanError
            created, updated = created + len(plan.created), updated + len(plan.updated)
            entries += plan.entries
        counts.created, counts.updated = counts.created + created, counts.updated + updated
        counts.unchanged += len(products) - created - updated
        return entries


def _is_first_occurrence(product: ProductRow, earlier_lines: dict[str, int], counts: BatchCounts) -> bool:
    if (line := earlier_lines.get(product.handle)) is None:
        return True
    _reject_product(counts, product, f"the rows of this product started on line {line}: move this one up to them", "Handle")
    return False


def _reject_product(counts: BatchCounts, product: ProductRow, problem: str, column: str = "") -> None:
    counts.rejected += product.row_count
    counts.row_errors.append(RowError("", product.line, problem, product.handle, column, product.row_count))


def _describe_error(error: Exception) -> str:
    if isinstance(error, errors.ProgramLimitExceeded | TimedOut):
        return "has more text than can be searched: shorten the description or the tags"
    if isinstance(error, errors.UniqueViolation):
        return "would have two variants with the same options: give each its own, and correct the rejected rows first"
    return "has values that cannot be stored: look for unusual characters and amounts"
