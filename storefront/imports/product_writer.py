"""Upsert of products into a store: in batches, each a transaction of set-based statements that writes only what differs."""

from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Protocol

from psycopg import errors

from storefront.core.cooperative import iterate_cooperatively
from storefront.core.db.database import Connection, Database
from storefront.core.errors import TimedOut
from storefront.core.tasks import read_ahead
from storefront.feed import log
from storefront.feed.log import LogEntry
from storefront.imports.changes import ProductChange
from storefront.imports.descriptions import sanitize_descriptions
from storefront.imports.diff import WritePlan, apply_plan, plan_writes
from storefront.imports.row_types import Checkpoint, EarlyStop, ProductRow, RowError, SourceItem
from storefront.writes.amounts import load_currency

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
            self.products[item.key] = item
            self.character_count += _count_characters(item)
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
    # What was created, updated and deleted, where a caller wants to know. A summary has none: they may be many.
    changes: list[ProductChange] = field(default_factory=list)

    def add_plan(self, plan: WritePlan) -> None:
        """Add the counts of a plan that was applied."""
        self.created += len(plan.created)
        self.updated += len(plan.updated)
        self.unchanged += plan.unchanged_count
        self.changes += plan.changes
        for error in plan.row_errors:
            self.add_row_error(error)

    def add_row_error(self, error: RowError) -> None:
        """Count a rejected row, or several."""
        self.rejected += error.row_count
        self.row_errors.append(error)


@dataclass(slots=True)
class ImportSummary(BatchCounts):
    """Counts of an import. `rows`: of the source, without header. `position`: of the last log entry, None if nothing was written.

    `row_errors` has the first errors only, `rejected` counts all rejected rows. `stop`: why the import ended early.
    """

    stop: EarlyStop | None = None
    # The columns that are not taken, with the number of their cells that are not empty.
    ignored_columns: Mapping[str, int] = field(default_factory=dict)
    # How a file was read: see `describe_reading`.
    file: Mapping[str, Any] = field(default_factory=dict)

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
    delete_missing_variants: bool = False,
    actor_id: str | None = None,
    client_mutation_id: str | None = None,
    checkpointer: Checkpointer | None = None,
    max_rejected_rows: int = DEFAULT_MAX_REJECTED_ROWS,
    previously_rejected_rows: int = 0,
    flush_after_seconds: float = float("inf"),
    on_progress: Callable[[ImportSummary], None] = lambda _: None,
    on_changes: Callable[[Sequence[ProductChange]], None] | None = None,
) -> ImportSummary:
    """Upsert products of a store by handle, each batch in a transaction of its own; other products stay as they are.

    What the source has no column or no row for stays as it is. `delete_missing_variants`: variants that the source does not have
    are deleted, of products whose options it has and of which no row was rejected. `on_progress` and `on_changes` are called
    after each batch. A dry run rolls each batch back. With more than `max_rejected_rows` rejected rows the import stops; batches
    written until then stay. `previously_rejected_rows`: of an earlier part of the same import. `flush_after_seconds`: an
    incomplete batch is written after this time, for slow sources.
    """
    attribution = {"actor_id": actor_id, "client_mutation_id": client_mutation_id}
    describes_changes = dry_run or on_changes is not None
    writer = _BatchWriter(database, config_id, attribution, checkpointer, dry_run, delete_missing_variants, describes_changes)
    summary, stop, rejection_limit = (
        ImportSummary(),
        _build_rejection_stop(max_rejected_rows),
        max_rejected_rows - previously_rejected_rows,
    )
    source: AsyncIterable[SourceItem] = items if isinstance(items, AsyncIterable) else iterate_cooperatively(items)

    def count_remaining_rejections() -> int:
        return rejection_limit - summary.rejected

    # While Postgres writes a batch, the next one is read.
    async with (
        aclosing(read_ahead(sanitize_descriptions(source), 1, _get_share_of_batch)) as prepared,
        aclosing(_form_batches(prepared, flush_after_seconds, count_remaining_rejections, stop)) as batches,
    ):
        async for batch in batches:
            counts = await writer.write_batch(batch)
            summary.add_batch(counts)
            if batch.checkpoint:
                summary.ignored_columns = batch.checkpoint.resume_point.get("ignoredColumns", {})
                summary.file = batch.checkpoint.resume_point.get("file", {})
            if on_changes:
                on_changes(counts.changes)
            # Postgres may have rejected further products.
            summary.stop = stop if summary.rejected > rejection_limit else batch.stop
            on_progress(summary)
            if summary.stop:
                break
    return summary


def _get_share_of_batch(item: SourceItem) -> float:
    """How much of the largest batch an item is."""
    if not isinstance(item, ProductRow):
        return 1 / MAX_BATCH_ROWS
    return max(1 / MAX_BATCH_PRODUCTS, item.row_count / MAX_BATCH_ROWS, _count_characters(item) / MAX_BATCH_CHARACTERS)


def _count_characters(product: ProductRow) -> int:
    texts = (product.description, product.description_html, product.seo_description)
    return sum(len(text) for text in texts if text) + sum(map(len, product.tags)) + sum(map(len, product.images))


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
            if isinstance(item, ProductRow) and item.key in self.batch.products:
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
    """A concurrent writer has created one of the products, or has changed the currency of the store."""


class _DryRunRollback(Exception):
    """Rolls the savepoint of a dry run back."""


@dataclass(frozen=True, slots=True)
class _BatchWriter:
    database: Database
    config_id: str
    attribution: dict[str, Any]
    checkpointer: Checkpointer | None
    dry_run: bool
    delete_missing_variants: bool
    describes_changes: bool

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
            currency = await load_currency(connection, self.config_id)
            entries = await self._write_or_roll_back(connection, currency, products, counts, should_bisect)
            # The products are locked now, which comes first. A dry run writes nothing that could differ.
            if entries and await load_currency(connection, self.config_id, locks=True) != currency:
                raise _StalePlanError
            appended = log.enqueue_append(connection, self.config_id, entries) if entries and not self.dry_run else None
            if self.checkpointer:
                self.checkpointer.finish_batch(connection, batch, counts)
            await connection.commit()
        counts.position = log.get_last_position(appended) if appended else None
        return counts

    async def _write_or_roll_back(
        self, connection: Connection, currency: str, products: Sequence[ProductRow], counts: BatchCounts, should_bisect: bool
    ) -> Sequence[LogEntry]:
        write = self._write_bisected if should_bisect else self._apply_plans
        if not self.dry_run:
            return await write(connection, currency, products, counts)
        with suppress(_DryRunRollback):
            async with connection.savepoint():
                await write(connection, currency, products, counts)
                raise _DryRunRollback
        return ()

    async def _write_bisected(
        self, connection: Connection, currency: str, products: Sequence[ProductRow], counts: BatchCounts
    ) -> Sequence[LogEntry]:
        """Write the products by bisection, down to those that Postgres cannot store, which are rejected."""
        try:
            async with connection.savepoint():
                return await self._apply_plans(connection, currency, products, counts)
        except UNSTORABLE_ERRORS as error:
            if len(products) == 1:
                counts.add_row_error(products[0].reject(_describe_error(error)))
                return ()
        middle = len(products) // 2
        first_entries = await self._write_bisected(connection, currency, products[:middle], counts)
        return [*first_entries, *await self._write_bisected(connection, currency, products[middle:], counts)]

    async def _apply_plans(
        self, connection: Connection, currency: str, products: Sequence[ProductRow], counts: BatchCounts
    ) -> Sequence[LogEntry]:
        if not products:
            return ()
        plans = list[WritePlan]()
        async for plan in plan_writes(
            connection,
            self.config_id,
            products,
            self.attribution,
            currency=currency,
            delete_missing_variants=self.delete_missing_variants,
            describes_changes=self.describes_changes,
        ):
            if not await apply_plan(connection, self.config_id, plan):
                raise _StalePlanError
            plans.append(plan)
        for plan in plans:
            counts.add_plan(plan)
        return [entry for plan in plans for entry in plan.entries]


def _is_first_occurrence(product: ProductRow, earlier_lines: dict[str, int], counts: BatchCounts) -> bool:
    if (line := earlier_lines.get(product.key)) is None:
        return True
    if product.handle:
        error = product.reject(f"the rows of this product started on line {line}: move this one up to them", "handle")
    else:
        error = product.reject(f"“{product.variants[0].sku}” is already on line {line}: change or remove one", "variant sku")
    counts.add_row_error(error)
    return False


def _describe_error(error: Exception) -> str:
    if isinstance(error, errors.ProgramLimitExceeded | TimedOut):
        return "has more text than can be searched: shorten the description or the tags"
    if isinstance(error, errors.UniqueViolation):
        return "would have two variants with the same options: give each its own, and correct the rejected rows first"
    return "has values that cannot be stored: look for unusual characters and amounts"
