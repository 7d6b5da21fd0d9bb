"""Executes statements: SQLAlchemy compiles the SQL, psycopg executes it, without an ORM session.

Rows are named tuples whose values are ready for JSON: UUIDs, decimals and timestamps are strings.
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
from psycopg import Error, InterfaceError, InternalError, OperationalError, Rollback
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.conninfo import conninfo_to_dict
from psycopg.errors import DiskFull, LockNotAvailable, QueryCanceled, ReadOnlySqlTransaction
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
from storefront.core.db.pool import CONNECT_TIMEOUT_SECONDS, UNAVAILABLE_MESSAGE, ConnectionPool, PoolStats
from storefront.core.errors import LockTimeout, TimedOut, Unavailable
from storefront.core.result_budget import ResultBudget, get_current_budget

log = logging.getLogger("storefront")

T = TypeVar("T")
# Any row. What is a row of one table is typed by its model, where models are known (`models/rows.py`).
Row = Any
Parameters = Mapping[str, object]

# SQLSTATEs of an unavailable Postgres: connection failures (08), insufficient disk, memory or connections (53), shutdown or
# startup (57P), I/O errors (58030), a server that has become a replica meanwhile (25006), a transaction that idled or lasted for
# too long (25P03, 25P04), and a statement that was cancelled from outside (57014).
_UNAVAILABLE_SQLSTATES = re.compile("08|53|57P|57014|58030|25006|25P03|25P04")
# psycopg's classes of these: 25006 and those of 25P are InternalErrors.
_UNAVAILABLE_ERRORS = (OperationalError, InterfaceError, InternalError)
_COMMIT_UNKNOWN_MESSAGE = (
    "The database broke off, so that it is not known whether this was done. Send it again: with the same idempotencyKey it is "
    "done once, and what was done is returned."
)
_NOT_COMMITTED_MESSAGE = "The database broke off before anything was done. Send it again."
_LOCKED_MESSAGE = "Others are writing to the same rows for a long time. Nothing was done: try again soon."

# Errors of reads while the database is overloaded or unreachable. Pollers retry at the next interval.
DATABASE_ERRORS = (Error, TimedOut, Unavailable)
# SQLSTATE classes caused by the values of a statement (data, integrity, program limits): a retry fails again.
INPUT_ERROR_CLASSES = ("22", "23", "54")


def is_transient(error: BaseException) -> bool:
    """Whether an error is transient, so that a retry may succeed. For retry policies."""
    if isinstance(error, Error) and (error.sqlstate or "").startswith(INPUT_ERROR_CLASSES):
        return False
    return isinstance(error, DATABASE_ERRORS)


# Exponential backoff of readers that retry until the database is reachable.
MIN_RETRY_SECONDS, MAX_RETRY_SECONDS = 0.1, 1.0
# Why Postgres rejects writes, and the seconds for which this is reported after an error.
_WRITE_PROBLEMS = {
    DiskFull: "Postgres has no disk space left: writes are rejected",
    ReadOnlySqlTransaction: "Postgres is read-only, such as a replica: writes are rejected",
}
WRITE_PROBLEM_SECONDS = 30.0
# Statement timeout of jobs that scan whole tables, in milliseconds.
LONG_STATEMENT_MS = 600_000
# The least timeout of connecting to one host. libpq has none below.
MIN_CONNECT_TIMEOUT_SECONDS = 2
# Timeout of TCP acknowledgements.
TCP_USER_TIMEOUT_MS = 10_000
# Attempts of a statement outside of a transaction whose connection turns out to be closed. After the first one the pool closes
# those that may have ended with it, so that the second one has a new connection; the third is for a server that restarts.
MAX_FETCH_ATTEMPTS = 3
# The idle-in-transaction timeout. The client of such a transaction may be gone without a FIN or RST, and its locks would be held
# until the kernel closes the connection: two hours by Linux's defaults.
IDLE_IN_TRANSACTION_MS = 10_000
# The lock timeout of a writer in a slot that others may need (bulkhead). Writers of the same rows wait for each other for some
# milliseconds. It is run again if it meets this timeout, so a longer wait costs only that.
IMPATIENT_LOCK_TIMEOUT_MS = 200
# Server-side TCP keepalives: Postgres closes a half-open connection after 45 seconds.
KEEPALIVE_SETTINGS = {
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": str(TCP_USER_TIMEOUT_MS),
}

DIALECT = PGDialect_psycopg()  # type: ignore[no-untyped-call]


class Statement:
    """SQL text with named parameters, and the values of its literals.

    `needs_custom_plan`: the best plan depends on the values, so that Postgres plans each execution. `depends_on`: the scopes of
    its rows, where they are known.
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
        # With numbered parameters, as Postgres expects; converted once per statement.
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
        # UUIDs need no escaping in array literals.
        return [
            f"{{{','.join(all_parameters[name])}}}" if name in self._uuid_arrays else all_parameters[name]
            for name in self._parameter_names
        ]

    def get_row_maker(self, result: PGresult) -> Callable[[Sequence[Any]], Row]:
        """A function that builds a named tuple from the values of a row. Its class is created once per statement."""
        if self._row_maker is None:
            names = [(result.fname(number) or b"").decode() for number in range(result.nfields)]
            self._row_maker = partial(tuple.__new__, namedtuple("Row", names, rename=True))
        return self._row_maker


_PARAMETER_PATTERN = re.compile(r"%(?:\((\w+)\)s|%)")


def compile_statement(
    clause: ClauseElement, *, needs_custom_plan: bool = False, depends_on: CacheDependency | None = None
) -> Statement:
    """Compile an expression of SQLAlchemy. Do it once per statement: compiling takes longer than most executions."""
    compiler = cast(SQLCompiler, clause.compile(dialect=DIALECT))
    constants = {name: value for name, value in (compiler.params or {}).items() if value is not None}
    uuid_arrays = (
        name for name, bind in compiler.binds.items() if isinstance(bind.type, ARRAY) and isinstance(bind.type.item_type, UUID)
    )
    return Statement(str(compiler), constants, uuid_arrays, needs_custom_plan=needs_custom_plan, depends_on=depends_on)


async def retry_until_available(work: Callable[[], Awaitable[T]], max_seconds: float | None = None) -> T:
    """The result of `work`, retried until the database is reachable: for long-lived readers, such as subscriptions.

    Errors that are not transient are raised, and after `max_seconds` all others.
    """
    pause_seconds, began = MIN_RETRY_SECONDS, monotonic()
    while True:
        try:
            return await work()
        except DATABASE_ERRORS as error:
            if not is_transient(error) or (max_seconds is not None and monotonic() - began > max_seconds):
                raise
            log.warning("reading failed (%s); the next try is in %.1f s", type(error).__name__, pause_seconds)
        await asyncio.sleep(pause_seconds)
        pause_seconds = min(2 * pause_seconds, MAX_RETRY_SECONDS)


class TimestampLoader(Loader):
    """Loads timestamptz as an RFC 3339 string in UTC. Sessions have TimeZone UTC and DateStyle ISO."""

    def load(self, data: Buffer) -> str:
        return str(data, "ascii").removesuffix("+00").replace(" ", "T", 1) + "Z"


class JsonLoader(Loader):
    """Loads json and jsonb with orjson."""

    def load(self, data: Buffer) -> Any:
        return orjson.loads(data)


class Connection:
    """A connection from the pool, for one transaction or one statement."""

    def __init__(
        self,
        pipeline: Pipeline,
        observers: Sequence[Callable[[str], None]],
        *,
        in_transaction: bool = False,
        statement_timeout: int = 0,
        settings: Mapping[str, object] | None = None,
        budget: ResultBudget | None = None,
    ) -> None:
        # The connection of psycopg, for what has no Statement, such as COPY. It bypasses the queue: flush first.
        self.raw = pipeline.raw
        self._pipeline = pipeline
        self._observers, self._statement_timeout = observers, statement_timeout
        self._in_transaction, self._budget = in_transaction, budget
        # Once COMMIT is sent, a lost connection leaves the outcome of the transaction unknown.
        self.is_committing = False
        self._settings = [QueuedStatement(SET_LOCAL, [name, str(value)]) for name, value in (settings or {}).items()]
        self._pending: list[QueuedStatement] = []

    async def fetch(self, statement: Statement, parameters: Parameters | None = None) -> list[Row]:
        """Execute a statement, after the queued ones, and return its rows; an empty list where it returns none."""
        queued = self.enqueue(statement, parameters)
        await self.flush()
        return await queued.load_rows()

    def enqueue(self, statement: Statement, parameters: Parameters | None = None) -> QueuedStatement:
        """Queue a statement for the next round trip, after which its rows are available."""
        for observer in self._observers:
            observer(statement.sql)
        return self._enqueue(statement, statement.bind_values(parameters))

    async def flush(self) -> None:
        """Execute all queued statements in one round trip. Raises the first error; the statements after it are skipped.

        Raises TimedOut after the statement timeout, and LockTimeout after the lock timeout.
        """
        batch, self._pending = self._pending, []
        if self._in_transaction and self._pipeline.is_idle:
            batch = [QueuedStatement(BEGIN), *self._settings, *batch]
        if batch:
            started_at = perf_counter()
            try:
                await self._execute_batch(batch)
            except QueryCanceled as error:
                # Postgres has one SQLSTATE for both, and translates the message.
                if not self._statement_timeout or perf_counter() - started_at < 0.9 * self._statement_timeout / 1_000:
                    raise
                raise TimedOut(
                    f"One step of this took the database {self._statement_timeout:,} ms, which is all that it has."
                ) from error
            except LockNotAvailable as error:
                raise LockTimeout(_LOCKED_MESSAGE) from error

    async def _execute_batch(self, batch: Sequence[QueuedStatement]) -> None:
        context = request_context.get_current_context()
        if context is None:
            await self._pipeline.execute_batch(batch, self._budget)
            return
        started_at, error = perf_counter(), None
        try:
            await self._pipeline.execute_batch(batch, self._budget)
        except BaseException as raised:
            error = raised
            raise
        finally:
            context.record_round_trip([queued.statement.numbered_sql for queued in batch], perf_counter() - started_at, error)

    async def commit(self) -> None:
        """Commit the transaction, in one round trip with the queued statements."""
        if self._pending or not self._pipeline.is_idle:
            self._enqueue(COMMIT)
            self.is_committing = True
            await self.flush()

    def abort(self) -> None:
        """Close the connection at once: what waits for it fails."""
        self._pipeline.abort()

    async def roll_back(self) -> None:
        """Roll back the transaction."""
        self._pending.clear()
        if not self._pipeline.is_idle:
            # A lost connection has rolled back already.
            with suppress(*_UNAVAILABLE_ERRORS):
                await self._pipeline.execute_batch([QueuedStatement(ROLL_BACK)])

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """A savepoint: an exception rolls back what was executed inside the context, and the transaction can continue."""
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
BEGIN, COMMIT = Statement("BEGIN", {}), Statement("COMMIT", {})
# Not prepared: a lost prepared statement may be what the transaction is rolled back for.
ROLL_BACK = Statement("ROLLBACK", {}, needs_custom_plan=True)
SAVEPOINT, RELEASE_SAVEPOINT = Statement("SAVEPOINT attempt", {}), Statement("RELEASE attempt", {})
ROLL_BACK_TO_SAVEPOINT = Statement("ROLLBACK TO attempt", {})


class Database:
    """A connection pool of one Postgres. `observers` are called with the SQL of every statement before it is executed.

    `statement_timeout` and `lock_timeout` are in milliseconds (0: none); they raise TimedOut and LockTimeout. `max_waiting`
    and `max_waiting_writes`: maximum waiters for a connection, and for other writes (0: no limit); `pool_timeout`: seconds for
    which each waits. All raise Unavailable.
    `use_prepared`: whether statements are prepared (None: unless there is a pooler).
    """

    def __init__(
        self,
        url: str,
        *,
        size: int = 10,
        statement_timeout: int = 10_000,
        lock_timeout: int = 0,
        max_waiting: int = 0,
        max_waiting_writes: int = 0,
        pool_timeout: float = 30.0,
        use_prepared: bool | None = None,
    ) -> None:
        self.observers: list[Callable[[str], None]] = []
        self._write_problem: tuple[float, str] | None = None
        self._statement_timeout, self._lock_timeout = statement_timeout, lock_timeout
        self._recorder: DependencyRecorder | None = None
        self._fallback: Database | None = None
        session = {
            "TimeZone": "UTC",
            "DateStyle": "ISO",
            "statement_timeout": str(statement_timeout),
            "lock_timeout": str(lock_timeout),
            "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_MS),
        }
        self._connect = partial(_connect, url, session, use_prepared)
        self._pool = ConnectionPool(self._connect, size, max_waiting, pool_timeout)
        # Writers of one store take at most a third of the connections, and all writers leave a third to reads, however long they
        # wait for each other (bulkhead).
        third = max(1, size // 3)
        self.write_bulkhead = Bulkhead(third, size - third, pool_timeout, max_waiting_writes)

    async def __aenter__(self) -> "Database":
        await self._pool.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.close()

    @property
    def is_open(self) -> bool:
        """Whether statements can be executed: the database was opened, and neither closed nor terminated since."""
        return self._pool.is_open

    def reopen(self) -> None:
        """Open the database, which connects on demand."""
        self._pool.reopen()

    def terminate(self) -> None:
        """Close all connections at once, also those in use: their statements, and those to come, raise Unavailable."""
        self._pool.terminate()

    @asynccontextmanager
    async def connect(self, timeout_seconds: float) -> AsyncIterator[Connection]:
        """A connection outside of the pool. Raises an error of psycopg, or TimeoutError."""
        async with asyncio.timeout(timeout_seconds):
            raw = await self._connect()
        try:
            yield Connection(raw.statements, self.observers)
        finally:
            raw.statements.finish()

    def terminate_after(self, seconds: float) -> None:
        """Close all connections after so many seconds, also those in use: a silent Postgres must not delay a shutdown."""
        asyncio.get_running_loop().call_later(seconds, self._pool.terminate)

    @property
    def write_problem(self) -> str | None:
        """Why Postgres has recently rejected a statement that writes: its disk is full, or it is read-only."""
        if self._write_problem is None or monotonic() - self._write_problem[0] > WRITE_PROBLEM_SECONDS:
            return None
        return self._write_problem[1]

    def get_pool_stats(self) -> PoolStats:
        """The numbers of connections, free ones, and waiters."""
        return self._pool.get_stats()

    def with_recorder(self, recorder: DependencyRecorder) -> "Database":
        """A view of the database that records the cache dependencies of its reads."""
        view = copy(self)
        view._recorder = recorder
        return view

    def with_fallback(self, fallback: "Database") -> "Database":
        """A view of the database whose reads go to another one while this one is terminated, and are not cached then."""
        view = copy(self)
        view._fallback = fallback
        return view

    def mark_uncacheable(self) -> None:
        """Mark the response as uncacheable: it depends on data outside of recorded statements."""
        if self._recorder is not None:
            self._recorder.mark_uncacheable()

    async def fetch(self, statement: Statement, parameters: Parameters | None = None) -> list[Row]:
        """Execute one statement outside of a transaction.

        It is retried on another connection where the connection turns out to be closed, within the timeout of the pool. The
        statement may have been executed before the connection broke, so it must be idempotent.
        """
        if self._recorder is None:
            return await self._fetch_with_fallback(statement, parameters)
        return await self._recorder.run_recorded(
            statement.depends_on, parameters or {}, partial(self._fetch_with_fallback, statement, parameters)
        )

    async def _fetch_with_fallback(self, statement: Statement, parameters: Parameters | None) -> list[Row]:
        try:
            return await self._fetch_with_retry(statement, parameters)
        except Unavailable:
            # An open database is overloaded: its load would overload the other one as well.
            if self._fallback is None or self.is_open:
                raise
            # The rows are not those of the log positions that were recorded.
            self.mark_uncacheable()
            return await self._fallback.fetch(statement, parameters)

    async def _fetch_with_retry(self, statement: Statement, parameters: Parameters | None) -> list[Row]:
        deadline = monotonic() + self._pool.timeout
        for attempts_left in reversed(range(MAX_FETCH_ATTEMPTS)):
            pooled_connection = await self._pool.acquire(max(0.0, deadline - monotonic()))
            try:
                return await Connection(
                    pooled_connection.statements,
                    self.observers,
                    statement_timeout=self._statement_timeout,
                    budget=get_current_budget(),
                ).fetch(statement, parameters)
            except _UNAVAILABLE_ERRORS as error:
                is_over = not attempts_left or monotonic() > deadline
                if is_over or not pooled_connection.closed or isinstance(error, PipelineTimeoutError):
                    self._raise_unavailable(error, UNAVAILABLE_MESSAGE)
            finally:
                self._pool.release(pooled_connection)
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def transaction(
        self, *, statement_timeout: int | None = None, settings: Mapping[str, object] | None = None, is_patient: bool = True
    ) -> AsyncIterator[Connection]:
        """A transaction. BEGIN is sent with the first statement; nothing is retried.

        psycopg.Rollback rolls back and is suppressed. `statement_timeout` (milliseconds; 0: none) overrides the default;
        `settings` of Postgres apply to this transaction. `is_patient`: whether it waits for locks until the lock timeout, or only
        for IMPATIENT_LOCK_TIMEOUT_MS. Raises Unavailable where the connection is lost.
        """
        self.mark_uncacheable()
        pooled_connection = await self._pool.acquire()
        usual_timeout_seconds = pooled_connection.statements.statement_timeout_seconds
        if not is_patient and not 0 < self._lock_timeout <= IMPATIENT_LOCK_TIMEOUT_MS:
            settings = {**(settings or {}), "lock_timeout": IMPATIENT_LOCK_TIMEOUT_MS}
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
        except _UNAVAILABLE_ERRORS as error:
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
        """Raise Unavailable for failures of the server or the connection; otherwise the error itself."""
        for error_class, problem in _WRITE_PROBLEMS.items():
            if isinstance(error, error_class):
                self._write_problem = monotonic(), problem
        is_lost = error.sqlstate is None and isinstance(error, OperationalError | InterfaceError)
        if is_lost or _UNAVAILABLE_SQLSTATES.match(error.sqlstate or ""):
            raise Unavailable(message) from error
        raise error


def get_host_timeout_seconds(url: str) -> int:
    """The timeout of connecting to each host of a URL: a host that does not answer leaves time for the others."""
    host_count = str(conninfo_to_dict(url).get("host", "")).count(",") + 1
    return max(MIN_CONNECT_TIMEOUT_SECONDS, int(CONNECT_TIMEOUT_SECONDS / host_count))


async def _connect(url: str, session: Mapping[str, str], use_prepared: bool | None) -> PipelineConnection:
    # psycopg itself prepares nothing: its cache would deallocate all prepared statements, also ours. A dead peer is detected by
    # keepalives while the connection is idle, and by the TCP user timeout otherwise.
    connection = await PipelineConnection.connect(
        url,
        prepare_threshold=None,
        connect_timeout=get_host_timeout_seconds(url),
        keepalives_idle=30,
        keepalives_interval=5,
        keepalives_count=3,
        tcp_user_timeout=TCP_USER_TIMEOUT_MS,
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
