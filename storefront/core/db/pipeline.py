"""Batches of statements over libpq's pipeline mode: one write and one read for all statements that are independent.

psycopg connects, adapts types and maps errors. A cursor for each statement would cost the server several times as much.
"""

import asyncio
import logging
import os
import select
import socket
from array import array
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from hashlib import blake2b
from time import monotonic
from typing import Any, Protocol, TypeVar

from psycopg import AsyncConnection, OperationalError
from psycopg.abc import Buffer, PQGen
from psycopg.abc import Transformer as Types
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import CancellationTimeout, DuplicatePreparedStatement, InvalidSqlStatementName, error_from_result
from psycopg.pq import ConnStatus, ExecStatus, TransactionStatus
from psycopg.pq.abc import PGresult

from storefront.core.errors import RequestError
from storefront.core.result_budget import ResultBudget

try:
    from fcntl import ioctl
    from termios import FIONREAD
except ImportError:  # pragma: no cover - Windows
    ioctl = None  # type: ignore[assignment]

log = logging.getLogger("storefront")

# Maximum number of prepared statements of a connection.
MAX_PREPARED_STATEMENTS = 100
# Timeout of cancelling a statement.
CANCEL_TIMEOUT_SECONDS = 5.0
# Seconds beyond the statement timeouts of a batch after which its connection is considered lost.
BATCH_GRACE_SECONDS = 5.0

# Bytes that are read, and bytes of rows that are converted, before the event loop runs other tasks.
MAX_BYTES_PER_TURN = 524_288

# What libpq has room for whenever it reads.
MIN_READ_BYTES = 8_192

# Results with more values are not counted exactly: Postgres is slower to send them than they are read.
MAX_EXACT_VALUES = 20_000

# Plain integers: looking up enum members takes longer than the calls of libpq.
CONNECTION_OK, TRANSACTION_IDLE = int(ConnStatus.OK), int(TransactionStatus.IDLE)
RESULT_COMMAND_OK, RESULT_FATAL_ERROR = int(ExecStatus.COMMAND_OK), int(ExecStatus.FATAL_ERROR)
RESULT_PIPELINE_SYNC = int(ExecStatus.PIPELINE_SYNC)
AUTO_FORMAT = PyFormat.AUTO

T = TypeVar("T")

# Errors of prepared statements where a pooler gives the backend to another client in between.
PREPARED_STATEMENT_ERRORS = (InvalidSqlStatementName, DuplicatePreparedStatement)

# A statement with the types of its values, for which it is prepared.
StatementKey = tuple[bytes, tuple[int, ...]]


class PipelineStatement(Protocol):
    """A statement with numbered parameters. With `needs_custom_plan` it is not prepared, but planned for each execution."""

    @property
    def numbered_sql(self) -> bytes: ...

    @property
    def needs_custom_plan(self) -> bool: ...

    def get_row_maker(self, result: PGresult, /) -> Callable[[Sequence[Any]], Any]:
        """A function that builds a row from its values."""


class PipelineTimeoutError(OperationalError):
    """Postgres did not respond within all statement timeouts: the connection is considered lost, and closed."""


class PlainSQL:
    """SQL without parameters, whose rows are tuples."""

    needs_custom_plan = True

    def __init__(self, sql: str) -> None:
        self.numbered_sql = sql.encode()

    def get_row_maker(self, _: PGresult, /) -> Callable[[Sequence[Any]], Any]:
        """Rows as tuples."""
        return tuple


class QueuedStatement:
    """A statement of the next batch. Afterwards `rows` are its rows; empty where it returns none."""

    __slots__ = ("_result", "_result_bytes", "_rows", "statement", "values")

    def __init__(self, statement: PipelineStatement, values: Sequence[Any] = ()) -> None:
        self.statement, self.values = statement, values
        self._rows: list[Any] = []
        self._result: tuple[PGresult, Types] | None = None
        self._result_bytes = 0

    def set_result(self, result: PGresult, types: Types, batch_bytes: int) -> None:
        """Store the result of the statement. `batch_bytes`: about how many bytes its batch has returned."""
        self._result, self._result_bytes = (result, types), batch_bytes

    @property
    def rows(self) -> list[Any]:
        """The rows, converted lazily."""
        if self._result is not None:
            (result, types), self._result = self._result, None
            types.set_pgresult(result)
            self._rows = types.load_rows(0, result.ntuples, self.statement.get_row_maker(result))
        return self._rows

    async def load_rows(self) -> list[Any]:
        """The rows. Long ones are converted a few at a time, so that the event loop runs other tasks in between."""
        if self._result is None or self._result_bytes <= MAX_BYTES_PER_TURN:
            return self.rows
        (result, types), self._result = self._result, None
        types.set_pgresult(result)
        row_count, make_row = result.ntuples, self.statement.get_row_maker(result)
        rows_per_turn = max(1, row_count * MAX_BYTES_PER_TURN // self._result_bytes)
        for start in range(0, row_count, rows_per_turn):
            self._rows += types.load_rows(start, min(start + rows_per_turn, row_count), make_row)
            await asyncio.sleep(0)
        return self._rows


class Pipeline:
    """Runs batches of statements on a connection of psycopg. Both can be used alternately, also in one transaction.

    `statement_timeout_seconds`: the statement timeout of Postgres (0: none). A batch that exceeds the timeouts of its statements
    raises PipelineTimeoutError: no failure of the network or the server blocks a caller forever.
    """

    def __init__(self, raw: AsyncConnection[Any]) -> None:
        self.raw, self.opened_at = raw, monotonic()
        self.statement_timeout_seconds = 0.0
        # When the batch was sent during which the connection was lost: it broke, or Postgres did not respond.
        self.lost_since: float | None = None
        self._pgconn, self._socket = raw.pgconn, raw.pgconn.socket
        self._types = Transformer(raw)
        self._prepared_statements = _PreparedStatements()
        self._use_prepared = True
        # Behind a pooler: the statement that configures each transaction, and whether the open one is configured.
        self._session_setup: PlainSQL | None = None
        self._is_session_configured = False
        self._socket_poll = _SocketPoll(self._socket)
        self._available = array("i", [0])
        self._deadline: float | None = None
        self._sent_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._cancel_timeout: asyncio.Timeout | None = None
        # The event loop that watches the socket, and the results of the batch in progress.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._results: list[PGresult] = []
        self._is_batch_done = True
        self._batch_error: OperationalError | RequestError | None = None
        # What the batch has returned so far, in bytes, and the budget that it counts against.
        self._batch_bytes = self._last_bytes = 0
        self._budget: ResultBudget | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def is_idle(self) -> bool:
        """Whether no transaction is open."""
        return self._pgconn.transaction_status == TRANSACTION_IDLE

    def is_alive(self) -> bool:
        """Whether the connection is open, as far as known without a round trip."""
        try:
            # Twice: the last error message of the server comes before the end of the stream.
            self._pgconn.consume_input()
            self._pgconn.consume_input()
        except OperationalError:
            self.stop_listening()
        return self._pgconn.status == CONNECTION_OK

    async def configure(
        self, settings: Mapping[str, str], connection_settings: Mapping[str, str], *, use_prepared: bool | None
    ) -> None:
        """Apply settings to the session, or to each of its transactions behind a pooler.

        A pooler is detected by the backend's process id, which differs from that of the connection. `connection_settings` apply
        to the connection itself and are left out behind a pooler. `use_prepared`: whether statements are prepared by name; None:
        unless there is a pooler, which may run each transaction on another backend.
        """
        set_config_calls = _render_set_config({**settings, **connection_settings}, is_local=False)
        settings_statement = QueuedStatement(
            PlainSQL(f"SELECT CASE WHEN pg_backend_pid() = {self._pgconn.backend_pid} THEN concat({set_config_calls}) END")
        )
        await self.execute_batch([settings_statement])
        if settings_statement.rows[0][0] is None:
            self._session_setup = PlainSQL(f"SELECT {_render_set_config(settings, is_local=True)}")
        self._use_prepared = self._session_setup is None if use_prepared is None else use_prepared

    async def execute_batch(self, batch: Sequence[QueuedStatement], budget: ResultBudget | None = None) -> None:
        """Execute the statements in order and assign their rows. Outside of a transaction, they form one implicit transaction.

        Raises the first error; the statements after it are skipped. Rows beyond the `budget` cancel the batch.
        """
        async with self.raw.lock:
            was_idle, self._budget = self.is_idle, budget
            try:
                await self._execute_batch(batch)
            except PREPARED_STATEMENT_ERRORS as error:
                log.warning(
                    "prepared statements were lost (%s), perhaps to a pooler: this connection prepares no more statements", error
                )
                self._use_prepared = False
                if not was_idle:
                    raise
                # The batch had no effect: execute it again.
                if not self.is_idle:
                    await self._execute_batch([QueuedStatement(PlainSQL("ROLLBACK"))])
                await self._execute_batch(batch)

    async def _execute_batch(self, batch: Sequence[QueuedStatement]) -> None:
        if self._pgconn.status != CONNECTION_OK:
            raise OperationalError("the connection is closed")
        if self._session_setup is not None and (self.is_idle or not self._is_session_configured):
            batch = [QueuedStatement(self._session_setup), *batch]
        # Serialize all values before anything is sent.
        messages = [(queued, *self._dump_values(queued.values)) for queued in batch]
        targets: list[ResultTarget] = []
        self._results, self._is_batch_done, self._sent_at, self._batch_bytes = [], False, monotonic(), 0
        try:
            self._pgconn.enter_pipeline_mode()
            self._send_batch(messages, targets)
            self._set_deadline(len(batch))
            await self._wait_for_results()
            self._pgconn.exit_pipeline_mode()
        except (asyncio.CancelledError, RequestError):
            await self._cancel_batch(targets)
            raise
        except BaseException:
            # Protocol state is unknown: close, then raise the server's last error, which says more than "connection lost".
            self.lost_since = self._sent_at
            self.finish()
            self._assign_results(targets)
            raise
        self._is_session_configured = not self.is_idle
        if self._budget is not None:
            self._count_last_bytes(self._budget)
        self._assign_results(targets)

    def stop_listening(self) -> None:
        """Stop watching the socket: psycopg uses it, or it is closed."""
        if self._loop is not None:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._loop = None

    # ------------------------------------------------------------------------------------------------- sending

    def _dump_values(self, values: Sequence[Any]) -> tuple[Sequence[Buffer | None], tuple[int, ...], Sequence[int] | None]:
        """The serialized values, their types and formats."""
        dumped = self._types.dump_sequence(values, [AUTO_FORMAT] * len(values))
        return dumped, self._types.types or (), self._types.formats

    def _send_batch(self, messages: Sequence[Any], targets: "list[ResultTarget]") -> None:
        """Send the statements; appends to `targets` what each of the results belongs to."""
        pgconn, prepared = self._pgconn, self._prepared_statements
        keys = [self._get_key(queued.statement, types) for queued, _, types, _ in messages]
        # Before the statements: after one that fails, Postgres skips the rest of the batch.
        for evicted_name in prepared.make_room(keys):
            pgconn.send_close_prepared(evicted_name)
            targets.append(None)
        new_names = dict[StatementKey, bytes]()
        for (queued, values, types, formats), key in zip(messages, keys, strict=True):
            sql = queued.statement.numbered_sql
            if key is None:
                pgconn.send_query_params(sql, values, types, formats)
            else:
                name = prepared.get_name(key) or new_names.get(key)
                if name is None:
                    name = new_names[key] = derive_statement_name(key)
                    pgconn.send_prepare(name, sql, types)
                    targets.append((key, name))
                pgconn.send_query_prepared(name, values, formats)
            targets.append(queued)
        pgconn.pipeline_sync()

    def _get_key(self, statement: PipelineStatement, types: tuple[int, ...]) -> StatementKey | None:
        """The key of a statement that is prepared; None for one that is not."""
        return None if statement.needs_custom_plan or not self._use_prepared else (statement.numbered_sql, types)

    async def _cancel_batch(self, targets: "Sequence[ResultTarget]") -> None:
        """Cancel the running statement, so that the connection can be reused; close the connection where that fails."""
        if self._budget is not None:
            self._budget.return_rows(self._batch_bytes)
            self._budget = None
        try:
            async with asyncio.timeout(CANCEL_TIMEOUT_SECONDS) as self._cancel_timeout:
                # Nothing is read meanwhile: a statement with too many rows goes no further than the buffers of the socket.
                await self.raw.cancel_safe(timeout=CANCEL_TIMEOUT_SECONDS)
                if isinstance(self._batch_error, RequestError):
                    self._batch_error, self._is_batch_done = None, False
                await self._wait_for_results()
            self._pgconn.exit_pipeline_mode()
            self._is_session_configured = not self.is_idle
            self._record_prepared_statements(targets)
        except BaseException as error:
            log.warning("a statement could not be cancelled (%s): its connection is closed", type(error).__name__)
            if isinstance(error, TimeoutError | CancellationTimeout):
                self.lost_since = self._sent_at
            self.finish()
            if not isinstance(error, Exception):
                raise
        finally:
            self._cancel_timeout = None
            self._results = []

    def finish(self) -> None:
        """Close the connection."""
        self.stop_listening()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._pgconn.finish()

    def abort(self) -> None:
        """Shut down the socket: all that waits for Postgres on this connection fails at once, as if Postgres had closed it."""
        if self._pgconn.status == CONNECTION_OK:
            with suppress(OSError), socket.socket(fileno=os.dup(self._socket)) as duplicate:
                duplicate.shutdown(socket.SHUT_RDWR)
            if self._cancel_timeout is not None:
                self._cancel_timeout.reschedule(asyncio.get_running_loop().time())

    # ------------------------------------------------------------------------------------------------ receiving

    async def _wait_for_results(self) -> None:
        """Wait for all results of the batch."""
        if self._loop is None:
            # Stays registered: adding and removing the reader for each batch takes longer than reading its results.
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._socket, self._on_readable)
        if self._pgconn.flush():
            self._loop.add_writer(self._socket, self._on_writable)
        if self._socket_poll.is_readable():
            # The loop may have stopped watching the socket after an error.
            self._on_readable()
        while not self._is_batch_done:
            self._waiter = self._loop.create_future()
            await self._waiter
        if self._batch_error is not None:
            raise self._batch_error

    def _on_readable(self) -> None:
        max_bytes = self._batch_bytes + MAX_BYTES_PER_TURN
        try:
            available = 0 if self._is_batch_done else self._get_available_bytes()
            # Read until nothing is left: where a last message and a reset arrive together, uvloop calls only once.
            while True:
                self._pgconn.consume_input()
                self._read_results()
                if self._is_batch_done:
                    self._last_bytes = available
                    break
                remaining = self._get_available_bytes()
                # libpq does not tell how much it reads: at least MIN_READ_BYTES, or all. What arrives at the same moment is not
                # counted, so that this is less than there is, down to a quarter where Postgres has all rows at hand.
                self._count_bytes(max(available - remaining, min(available, MIN_READ_BYTES)))
                if not remaining and not self._socket_poll.is_readable():
                    break
                available = remaining or self._get_available_bytes()
                if self._batch_bytes > max_bytes and self._loop is not None:
                    self._loop.call_soon(self._continue_reading)
                    break
        except (OperationalError, RequestError) as error:
            self._fail_batch(error)
        self._wake_waiter()

    def _continue_reading(self) -> None:
        # The batch may have been read or cancelled meanwhile.
        if self._loop is not None and not self._is_batch_done:
            self._on_readable()

    def _get_available_bytes(self) -> int:
        """The bytes that have arrived and are not read; 0 where the system does not tell."""
        if ioctl is None:
            return 0
        ioctl(self._socket, FIONREAD, self._available)
        return self._available[0]

    def _count_bytes(self, count: int) -> None:
        """Count bytes that were read. Raises what the budget raises."""
        self._batch_bytes += count
        if self._budget is not None and count:
            self._budget.charge_rows(count, self._batch_bytes)

    def _count_last_bytes(self, budget: ResultBudget) -> None:
        """Count what a complete batch has returned beyond what was counted while it arrived. Raises what the budget raises."""
        count, self._last_bytes = self._last_bytes, 0
        self._batch_bytes += count
        if self._batch_bytes > budget.min_exact_bytes:
            missing = _measure_results(self._results) - self._batch_bytes
            if missing > 0:
                count, self._batch_bytes = count + missing, self._batch_bytes + missing
        try:
            budget.charge_rows(count, self._batch_bytes)
        except RequestError:
            self._results = []
            budget.return_rows(self._batch_bytes)
            raise

    def _on_writable(self) -> None:
        try:
            if not self._pgconn.flush() and self._loop is not None:
                self._loop.remove_writer(self._socket)
        except OperationalError as error:
            self._fail_batch(error)
            self._wake_waiter()

    def _read_results(self) -> None:
        """Read the available results."""
        pgconn = self._pgconn
        while not self._is_batch_done and not pgconn.is_busy():
            result = pgconn.get_result()
            if result is None:
                # The end of the results of one statement. A lost connection returns None forever.
                if pgconn.status != CONNECTION_OK:
                    raise OperationalError("the connection is lost")
            elif result.status == RESULT_PIPELINE_SYNC:
                self._is_batch_done = True
            else:
                self._results.append(result)

    def _fail_batch(self, error: OperationalError | RequestError) -> None:
        # Immediately: another connection may get the same file descriptor.
        self.stop_listening()
        self._batch_error, self._is_batch_done = error, True

    def _set_deadline(self, statement_count: int) -> None:
        self._deadline = None
        if self.statement_timeout_seconds:
            self._deadline = self._sent_at + self.statement_timeout_seconds * statement_count + BATCH_GRACE_SECONDS
            if self._timer is None:
                self._check_deadline()

    def _check_deadline(self) -> None:
        # One timer for many batches: starting and cancelling one for each batch is too expensive.
        self._timer = None
        if self._is_batch_done or self._deadline is None:
            return
        seconds_left = self._deadline - monotonic()
        if seconds_left > 0:
            self._timer = asyncio.get_running_loop().call_later(seconds_left, self._check_deadline)
        else:
            self._fail_batch(PipelineTimeoutError("Postgres does not answer: the connection is closed"))
            self._wake_waiter()

    def _wake_waiter(self) -> None:
        if self._is_batch_done and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _assign_results(self, targets: "Sequence[ResultTarget]") -> None:
        """Assign the results to the statements, and record prepared ones. Raises the first error."""
        types = self._types
        for result, target in zip(self._results, targets, strict=False):
            if result.status == RESULT_FATAL_ERROR:
                raise error_from_result(result, types.encoding)
            if isinstance(target, tuple):
                self._prepared_statements.add(*target)
            elif target is not None and result.nfields:
                target.set_result(result, types, self._batch_bytes)

    def _record_prepared_statements(self, targets: "Sequence[ResultTarget]") -> None:
        """Record the statements that a cancelled batch has prepared: preparing them again would be an error."""
        for result, target in zip(self._results, targets, strict=False):
            if isinstance(target, tuple) and result.status == RESULT_COMMAND_OK:
                self._prepared_statements.add(*target)


def _measure_results(results: Sequence[PGresult]) -> int:
    """The bytes of all values; 0 if there are more than MAX_EXACT_VALUES."""
    if sum(result.ntuples * result.nfields for result in results) > MAX_EXACT_VALUES:
        return 0
    return sum(
        len(result.get_value(row, column) or b"")
        for result in results
        for row in range(result.ntuples)
        for column in range(result.nfields)
    )


# The target of a result: an executed statement, or a statement prepared under a name; None for one that was closed.
ResultTarget = QueuedStatement | tuple[StatementKey, bytes] | None


def derive_statement_name(key: StatementKey) -> bytes:
    """The name of a prepared statement, a hash of text and types: the same on every backend.

    Behind a pooler, which shares backends between clients, names from a counter would collide with those of other clients.
    """
    sql, types = key
    return b"storefront_" + blake2b(repr(types).encode() + sql, digest_size=16).hexdigest().encode()


def _render_set_config(settings: Mapping[str, str], *, is_local: bool) -> str:
    """SQL that applies the settings to the session, or with `is_local` to the transaction."""
    return ", ".join(f"set_config('{name}', '{value}', {str(is_local).lower()})" for name, value in settings.items())


class _SocketPoll:
    """Polls whether a socket is readable: data, end of stream, or an error."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        # Windows has no poll.
        self._poll = select.poll() if hasattr(select, "poll") else None
        if self._poll is not None:
            self._poll.register(descriptor, select.POLLIN)

    def is_readable(self) -> bool:
        """Whether the socket is readable now; does not block."""
        if self._poll is not None:
            return bool(self._poll.poll(0))
        return bool(select.select([self._descriptor], [], [], 0)[0])


class _PreparedStatements:
    """An LRU of the prepared statements of a connection and their names."""

    def __init__(self) -> None:
        self._names: OrderedDict[StatementKey, bytes] = OrderedDict()

    def get_name(self, key: StatementKey) -> bytes | None:
        """The name of a prepared statement; None where it is not prepared."""
        name = self._names.get(key)
        if name is not None:
            self._names.move_to_end(key)
        return name

    def add(self, key: StatementKey, name: bytes) -> None:
        """Record a prepared statement."""
        self._names[key] = name

    def make_room(self, keys: Sequence[StatementKey | None]) -> list[bytes]:
        """Remove the least recently used statements, so that there is room for these; returns their names."""
        new_keys = {key for key in keys if key is not None and key not in self._names}
        if len(self._names) + len(new_keys) <= MAX_PREPARED_STATEMENTS or not new_keys:
            return []
        unused_keys = [key for key in self._names if key not in keys]
        evicted_keys = unused_keys[: len(self._names) + len(new_keys) - MAX_PREPARED_STATEMENTS]
        return [self._names.pop(key) for key in evicted_keys]


class PipelineConnection(AsyncConnection[Any]):
    """A connection of psycopg with a pipeline, which stops watching the socket whenever psycopg uses it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.statements = Pipeline(self)

    async def wait(self, gen: PQGen[T], *arguments: Any, **options: Any) -> T:
        """Run a generator of psycopg, which uses the socket itself."""
        self.statements.stop_listening()
        return await super().wait(gen, *arguments, **options)

    async def close(self) -> None:
        """Close the connection."""
        self.statements.stop_listening()
        await super().close()
