"""Statements in, rows out. SQLAlchemy writes the SQL, psycopg runs it; there are no sessions and no row objects to build.

Rows are named tuples whose values already have the shape that JSON wants: keys, amounts and moments are text.
"""

import asyncio
import logging
import re
from collections import namedtuple
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from copy import copy
from functools import partial
from time import monotonic, perf_counter
from typing import Any, NoReturn, TypeVar, cast

import orjson
from psycopg import Error, InterfaceError, OperationalError, Rollback
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.errors import DiskFull, IdleInTransactionSessionTimeout, LockNotAvailable, QueryCanceled
from psycopg.pq.abc import PGresult
from psycopg.types.string import TextLoader
from sqlalchemy import ARRAY, UUID
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.sql import ClauseElement
from sqlalchemy.sql.compiler import SQLCompiler

from storefront.core import request_context
from storefront.core.cache_dependencies import CacheDependency, DependencyRecorder
from storefront.core.db.bulkhead import Bulkhead
from storefront.core.db.pipeline import Pipeline, PipelineConnection, PipelineTimeoutError, QueuedStatement
from storefront.core.db.pool import ConnectionPool, PoolStats
from storefront.core.errors import TimedOut, Unavailable

log = logging.getLogger("storefront")

T = TypeVar("T")
Row = Any
Parameters = Mapping[str, object]

# What Postgres says when it is not to be had, by SQLSTATE: connections that break (08), no room, memory or connections (53), an
# operator's stop or start (57P), a disk that fails (58030), a server that has become a replica meanwhile (25006), a transaction
# that nothing was heard of for too long (25P03).
_UNAVAILABLE_SQLSTATES = re.compile("08|53|57P|58030|25006|25P03")
_BREAKS = (OperationalError, InterfaceError, IdleInTransactionSessionTimeout)
_COMMIT_UNKNOWN_MESSAGE = (
    "The database broke off, so that it is not known whether this was done. Send it again: with the same idempotencyKey it is "
    "done once, and what was done is returned."
)
_NOT_COMMITTED_MESSAGE = "The database broke off before anything was done. Send it again."
_UNAVAILABLE_MESSAGE = "The database is not available at this moment. Try again soon."
_LOCKED_MESSAGE = "Others are writing to the same rows for a long time. Nothing was done: try again soon."

# What reading fails with while the database has no time, or is not there. Whoever reads again and again tries the next time.
DATABASE_ERRORS = (Error, TimedOut, Unavailable)
# SQLSTATE classes that the values of a statement are the cause of (data, integrity, program limits): sent again, it fails again.
INPUT_ERROR_CLASSES = ("22", "23", "54")


def is_transient(error: BaseException) -> bool:
    """Whether the database may take later what it does not take now. Retry policies ask here."""
    if isinstance(error, Error) and (error.sqlstate or "").startswith(INPUT_ERROR_CLASSES):
        return False
    return isinstance(error, DATABASE_ERRORS)


# Seconds between two tries of a reader that goes on until the database can be reached.
MIN_RETRY_SECONDS, MAX_RETRY_SECONDS = 0.1, 1.0
# Seconds for which a disk counts as full after it was.
DISK_FULL_SECONDS = 30.0
# Milliseconds for statements of jobs that go over all of what there is.
LONG_STATEMENT_MS = 600_000
# Seconds within which Postgres answers a new connection, and acknowledges what was sent to it.
CONNECT_TIMEOUT_SECONDS = 10
# Milliseconds after which Postgres ends a transaction that it hears nothing of. Its client may be gone without a word, and all
# that it has locked would be locked until the system gives the connection up: with the usual settings of Linux, for two hours.
IDLE_IN_TRANSACTION_MS = 10_000
# How Postgres finds out that a client is gone without a word: its connection is closed after 45 seconds.
KEEPALIVE_SETTINGS = {
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": str(1_000 * CONNECT_TIMEOUT_SECONDS),
}

DIALECT = PGDialect_psycopg()  # type: ignore[no-untyped-call]


class Statement:
    """SQL text with named parameters, and the constants that its author wrote into it.

    `varies`: how it is best run depends on the values so much that Postgres has to plan it anew each time. `reads`: of which
    scopes its rows are, where that is known.
    """

    __slots__ = (
        "_parameter_names",
        "_row_maker",
        "_uuid_arrays",
        "constants",
        "depends_on",
        "needs_custom_plan",
        "numbered_sql",
        "sql",
    )

    def __init__(
        self,
        sql: str,
        constants: Mapping[str, object],
        uuid_arrays: Iterable[str] = (),
        *,
        needs_custom_plan: bool = False,
        depends_on: CacheDependency | None = None,
    ) -> None:
        self.needs_custom_plan, self.depends_on = needs_custom_plan, depends_on
        self.sql = sql
        self.constants = constants
        self._uuid_arrays = frozenset(uuid_arrays)
        self._parameter_names: list[str] = []
        # As Postgres reads it: what is asked over and over is not to be rewritten each time.
        self.numbered_sql = _PARAMETER_PATTERN.sub(self._number_parameter, sql).encode()
        self._row_maker: Callable[[Sequence[Any]], Row] | None = None

    def _number_parameter(self, match: re.Match[str]) -> str:
        name = match[1]
        if name is None:
            return "%"
        if name not in self._parameter_names:
            self._parameter_names.append(name)
        return f"${self._parameter_names.index(name) + 1}"

    def bind_values(self, parameters: Parameters | None) -> list[Any]:
        """The values of the parameters, in the order of their numbers."""
        all_parameters: dict[str, Any] = {**self.constants, **(parameters or {})}
        # Keys need no quoting, so lists of them need no looking for what does.
        return [
            f"{{{','.join(all_parameters[name])}}}" if name in self._uuid_arrays else all_parameters[name]
            for name in self._parameter_names
        ]

    def get_row_maker(self, result: PGresult) -> Callable[[Sequence[Any]], Row]:
        """What makes a row of its values. Its class follows from the statement, and is made once."""
        if self._row_maker is None:
            names = [(result.fname(number) or b"").decode() for number in range(result.nfields)]
            self._row_maker = partial(tuple.__new__, namedtuple("Row", names, rename=True))
        return self._row_maker


_PARAMETER_PATTERN = re.compile(r"%(?:\((\w+)\)s|%)")


def compile_statement(
    clause: ClauseElement, *, needs_custom_plan: bool = False, depends_on: CacheDependency | None = None
) -> Statement:
    """Compile once, keep, run often: the compiler takes longer than most of our statements do."""
    compiler = cast(SQLCompiler, clause.compile(dialect=DIALECT))
    constants = {name: value for name, value in (compiler.params or {}).items() if value is not None}
    uuid_arrays = (
        name for name, bind in compiler.binds.items() if isinstance(bind.type, ARRAY) and isinstance(bind.type.item_type, UUID)
    )
    return Statement(str(compiler), constants, uuid_arrays, needs_custom_plan=needs_custom_plan, depends_on=depends_on)


async def retry_until_available(work: Callable[[], Awaitable[T]]) -> T:
    """What work comes to once the database can be reached: for readers that go on for ever, such as subscriptions.

    What would fail again, too, is raised.
    """
    pause_seconds = MIN_RETRY_SECONDS
    while True:
        try:
            return await work()
        except DATABASE_ERRORS as error:
            if not is_transient(error):
                raise
            log.warning("reading failed (%s); the next try is in %.1f s", type(error).__name__, pause_seconds)
        await asyncio.sleep(pause_seconds)
        pause_seconds = min(2 * pause_seconds, MAX_RETRY_SECONDS)


class TimestampLoader(Loader):
    """timestamptz as RFC 3339 text in UTC, which is what sessions of ours are set to print."""

    def load(self, data: Buffer) -> str:
        return str(data, "ascii").removesuffix("+00").replace(" ", "T", 1) + "Z"


class JsonLoader(Loader):
    """Documents as the values that they hold."""

    def load(self, data: Buffer) -> Any:
        return orjson.loads(data)


class Connection:
    """One connection: of a transaction, or borrowed from the pool for one statement."""

    def __init__(
        self,
        pipeline: Pipeline,
        observers: Sequence[Callable[[str], None]],
        *,
        in_transaction: bool = False,
        statement_timeout: int = 0,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        # psycopg's, for what has no Statement, such as COPY. It knows nothing of what was sent and not yet flushed.
        self.raw = pipeline.raw
        self._pipeline = pipeline
        self._observers, self._statement_timeout = observers, statement_timeout
        self._in_transaction = in_transaction
        # From then on, a connection that is lost may have taken the word along that it is done.
        self.is_committing = False
        self._settings = [QueuedStatement(SET_LOCAL, [name, str(value)]) for name, value in (settings or {}).items()]
        self._pending: list[QueuedStatement] = []

    async def fetch(self, statement: Statement, parameters: Parameters | None = None) -> list[Row]:
        """Run a statement, after all that was sent, and return its rows; an empty list where it returns none."""
        queued = self.enqueue(statement, parameters)
        await self.flush()
        return queued.rows

    def enqueue(self, statement: Statement, parameters: Parameters | None = None) -> QueuedStatement:
        """Have a statement run with the next one that is waited for, in one trip with it. Its rows are there then."""
        for observer in self._observers:
            observer(statement.sql)
        return self._enqueue(statement, statement.bind_values(parameters))

    async def flush(self) -> None:
        """Wait for all that was sent. Raises what the first statement raised that failed; those after it were not run.

        What took the database too long raises TimedOut.
        """
        batch, self._pending = self._pending, []
        if self._in_transaction and self._pipeline.is_idle:
            batch = [QueuedStatement(BEGIN), *self._settings, *batch]
        if batch:
            try:
                await self._execute_batch(batch)
            except QueryCanceled as error:
                raise TimedOut(
                    f"One step of this took the database {self._statement_timeout:,} ms, which is all that it has."
                ) from error
            except LockNotAvailable as error:
                raise Unavailable(_LOCKED_MESSAGE) from error

    async def _execute_batch(self, batch: Sequence[QueuedStatement]) -> None:
        context = request_context.get_current_context()
        if context is None:
            await self._pipeline.execute_batch(batch)
            return
        started_at, error = perf_counter(), None
        try:
            await self._pipeline.execute_batch(batch)
        except BaseException as raised:
            error = raised
            raise
        finally:
            context.record_round_trip([queued.statement.numbered_sql for queued in batch], perf_counter() - started_at, error)

    async def commit(self) -> None:
        """End the transaction, in one trip with what was sent."""
        if self._pending or not self._pipeline.is_idle:
            self._enqueue(COMMIT)
            self.is_committing = True
            await self.flush()

    async def roll_back(self) -> None:
        """End the transaction as if it had not been."""
        self._pending.clear()
        if not self._pipeline.is_idle:
            # A connection that is lost has taken the transaction along.
            with suppress(*_BREAKS):
                await self._pipeline.execute_batch([QueuedStatement(ROLL_BACK)])

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """What is done within it is undone where it fails, and the transaction can go on."""
        queued_savepoint = self._enqueue(SAVEPOINT)
        try:
            yield
            await self.flush()
        except Exception:
            self._pending = (
                self._pending[: self._pending.index(queued_savepoint) + 1] if queued_savepoint in self._pending else []
            )
            self._enqueue(ROLL_BACK_TO_SAVEPOINT)
            raise
        finally:
            self._enqueue(RELEASE_SAVEPOINT)

    def _enqueue(self, statement: Statement, values: Sequence[Any] = ()) -> QueuedStatement:
        queued = QueuedStatement(statement, values)
        self._pending.append(queued)
        return queued


SET_LOCAL = Statement("SELECT set_config(%(name)s, %(value)s, true)", {})
BEGIN, COMMIT, ROLL_BACK = Statement("BEGIN", {}), Statement("COMMIT", {}), Statement("ROLLBACK", {})
SAVEPOINT, RELEASE_SAVEPOINT = Statement("SAVEPOINT attempt", {}), Statement("RELEASE attempt", {})
ROLL_BACK_TO_SAVEPOINT = Statement("ROLLBACK TO attempt", {})


class Database:
    """A pool of connections to one Postgres. `observers` are told the SQL of every statement before it runs.

    `statement_timeout` and `lock_timeout` are in milliseconds (0: none): what takes longer raises TimedOut, what waits longer for
    a lock Unavailable. `waiting`: how many may wait for a connection (0: any number), `pool_timeout` for how many seconds; more
    raise Unavailable, and so does waiting in vain. `prepares`: whether statements are prepared (None: unless there is a pooler).
    """

    def __init__(
        self,
        url: str,
        *,
        size: int = 10,
        statement_timeout: int = 10_000,
        lock_timeout: int = 0,
        max_waiting: int = 0,
        pool_timeout: float = 30.0,
        use_prepared: bool | None = None,
    ) -> None:
        self.observers: list[Callable[[str], None]] = []
        self._disk_full_at: float | None = None
        self._size, self._statement_timeout = size, statement_timeout
        self._recorder: DependencyRecorder | None = None
        session = {
            "TimeZone": "UTC",
            "DateStyle": "ISO",
            "statement_timeout": str(statement_timeout),
            "lock_timeout": str(lock_timeout),
            "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_MS),
        }
        self._pool = ConnectionPool(partial(_connect, url, session, use_prepared), size, max_waiting, pool_timeout)
        # No store's writers take more than a part of the connections, however long they wait for each other.
        self.write_bulkhead = Bulkhead(max(1, size // 3), pool_timeout)

    async def __aenter__(self) -> "Database":
        await self._pool.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.close()

    @property
    def is_disk_full(self) -> bool:
        """Whether Postgres has refused a statement lately because its disk was full."""
        return self._disk_full_at is not None and monotonic() - self._disk_full_at < DISK_FULL_SECONDS

    def get_pool_stats(self) -> PoolStats:
        """How many connections there are, are free and are waited for."""
        return self._pool.get_stats()

    def with_recorder(self, recorder: DependencyRecorder) -> "Database":
        """The same database for somebody whose reads are noted."""
        view = copy(self)
        view._recorder = recorder
        return view

    def mark_uncacheable(self) -> None:
        """Whoever notes what is read here cannot vouch for it: something that is kept elsewhere was used."""
        if self._recorder is not None:
            self._recorder.mark_uncacheable()

    async def fetch(self, statement: Statement, parameters: Parameters | None = None) -> list[Row]:
        """Run one statement on its own.

        On a connection that turns out to be closed it is run again, on another one. It may have been done all the same before
        the connection broke, so it must be one that does no harm when it is done twice.
        """
        if self._recorder is None:
            return await self._fetch_with_retry(statement, parameters)
        return await self._recorder.run_recorded(
            statement.depends_on, parameters or {}, partial(self._fetch_with_retry, statement, parameters)
        )

    async def _fetch_with_retry(self, statement: Statement, parameters: Parameters | None) -> list[Row]:
        for attempts_left in reversed(range(self._size + 1)):
            pooled_connection = await self._pool.acquire()
            try:
                return await Connection(
                    pooled_connection.statements, self.observers, statement_timeout=self._statement_timeout
                ).fetch(statement, parameters)
            except (OperationalError, InterfaceError) as error:
                if not (pooled_connection.closed and attempts_left) or isinstance(error, PipelineTimeoutError):
                    self._raise_unavailable(error, _UNAVAILABLE_MESSAGE)
            finally:
                self._pool.release(pooled_connection)
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def transaction(
        self, *, statement_timeout: int | None = None, settings: Mapping[str, object] | None = None
    ) -> AsyncIterator[Connection]:
        """All that is run on the connection, or nothing: it begins with the first statement, and nothing is run a second time.

        psycopg.Rollback takes all of it back and is not raised any further. `statement_timeout` (milliseconds; 0: none) takes the
        place of the usual one; `settings` of Postgres hold for this transaction. Raises Unavailable where Postgres breaks off.
        """
        self.mark_uncacheable()
        pooled_connection = await self._pool.acquire()
        usual_timeout_seconds = pooled_connection.statements.statement_timeout_seconds
        if statement_timeout is not None:
            settings = {**(settings or {}), "statement_timeout": statement_timeout}
            pooled_connection.statements.statement_timeout_seconds = statement_timeout / 1_000
        connection = Connection(
            pooled_connection.statements,
            self.observers,
            in_transaction=True,
            statement_timeout=self._statement_timeout if statement_timeout is None else statement_timeout,
            settings=settings,
        )
        try:
            yield connection
            await connection.commit()
        except _BREAKS as error:
            await connection.roll_back()
            self._raise_unavailable(error, _COMMIT_UNKNOWN_MESSAGE if connection.is_committing else _NOT_COMMITTED_MESSAGE)
        except BaseException as error:
            await connection.roll_back()
            if not isinstance(error, Rollback):
                raise
        finally:
            pooled_connection.statements.statement_timeout_seconds = usual_timeout_seconds
            self._pool.release(pooled_connection)

    def _raise_unavailable(self, error: Error, message: str) -> NoReturn:
        """Raise Unavailable where a failure is one of the server, or of the line to it, and the failure itself otherwise."""
        if isinstance(error, DiskFull):
            self._disk_full_at = monotonic()
        is_lost = error.sqlstate is None and isinstance(error, OperationalError | InterfaceError)
        if is_lost or _UNAVAILABLE_SQLSTATES.match(error.sqlstate or ""):
            raise Unavailable(message) from error
        raise error


async def _connect(url: str, session: Mapping[str, str], use_prepared: bool | None) -> PipelineConnection:
    # psycopg prepares nothing: when it forgets what it has prepared, it takes all with it. A peer that is gone without a word is
    # found out by keepalives while nothing is asked, and by the timeout of what was sent otherwise.
    connection = await PipelineConnection.connect(
        url,
        prepare_threshold=None,
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        keepalives_idle=30,
        keepalives_interval=5,
        keepalives_count=3,
        tcp_user_timeout=1_000 * CONNECT_TIMEOUT_SECONDS,
    )
    for name in ("uuid", "numeric"):
        connection.adapters.register_loader(name, TextLoader)
    connection.adapters.register_loader("timestamptz", TimestampLoader)
    for name in ("json", "jsonb"):
        connection.adapters.register_loader(name, JsonLoader)
    connection.statements.statement_timeout_seconds = int(session["statement_timeout"]) / 1_000
    try:
        await connection.statements.configure(session, KEEPALIVE_SETTINGS, use_prepared=use_prepared)
    except BaseException:
        connection.statements.finish()
        raise
    return connection
