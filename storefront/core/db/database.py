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
from psycopg.errors import DiskFull, LockNotAvailable, QueryCanceled
from psycopg.pq.abc import PGresult
from psycopg.types.string import TextLoader
from sqlalchemy import ARRAY, UUID
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.sql import ClauseElement
from sqlalchemy.sql.compiler import SQLCompiler

from storefront.core import request_context
from storefront.core.cache_dependencies import Reads, Recorder
from storefront.core.db.bulkhead import Bulkhead
from storefront.core.db.pipeline import ExchangeTimedOut, Sent, Wire, Wired
from storefront.core.db.pool import Pool, Pooled
from storefront.core.errors import TimedOut, Unavailable

log = logging.getLogger("storefront")

T = TypeVar("T")
Row = Any
Parameters = Mapping[str, object]

# What Postgres says when it is not to be had, by SQLSTATE: connections that break (08), no room, memory or connections (53), an
# operator's stop or start (57P), a disk that fails (58030), a server that has become a replica meanwhile (25006).
_UNAVAILABLE = re.compile("08|53|57P|58030|25006")
_MAY_BE_DONE = (
    "The database broke off, so that it is not known whether this was done. Send it again: with the same idempotencyKey it is "
    "done once, and what was done is returned."
)
_NOT_DONE = "The database broke off before anything was done. Send it again."
_IS_AWAY = "The database is not available at this moment. Try again soon."
_IS_LOCKED = "Others are writing to the same rows for a long time. Nothing was done: try again soon."

# What reading fails with while the database has no time, or is not there. Whoever reads again and again tries the next time.
FAILURES = (Error, TimedOut, Unavailable)
# SQLSTATE classes that the values of a statement are the cause of (data, integrity, program limits): sent again, it fails again.
INPUT_ERROR_CLASSES = ("22", "23", "54")


def is_transient(error: BaseException) -> bool:
    """Whether the database may take later what it does not take now. Retry policies ask here."""
    if isinstance(error, Error) and (error.sqlstate or "").startswith(INPUT_ERROR_CLASSES):
        return False
    return isinstance(error, FAILURES)


# Seconds between two tries of a reader that goes on until the database can be reached.
SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 1.0
# Seconds for which a disk counts as full after it was.
FULL_SECONDS = 30.0
# Milliseconds for statements of jobs that go over all of what there is.
LONG_STATEMENT_MS = 600_000
# Seconds within which Postgres answers a new connection, and acknowledges what was sent to it.
CONNECT_TIMEOUT_SECONDS = 10

DIALECT = PGDialect_psycopg()  # type: ignore[no-untyped-call]


class Statement:
    """SQL text with named parameters, and the constants that its author wrote into it.

    `varies`: how it is best run depends on the values so much that Postgres has to plan it anew each time. `reads`: of which
    scopes its rows are, where that is known.
    """

    __slots__ = ("_keys", "_names", "_row", "constants", "query", "reads", "sql", "varies")

    def __init__(
        self,
        sql: str,
        constants: Mapping[str, object],
        keys: Iterable[str] = (),
        *,
        varies: bool = False,
        reads: Reads | None = None,
    ) -> None:
        self.varies, self.reads = varies, reads
        self.sql = sql
        self.constants = constants
        self._keys = frozenset(keys)
        self._names: list[str] = []
        # As Postgres reads it: what is asked over and over is not to be rewritten each time.
        self.query = _PARAMETER.sub(self._numbered, sql).encode()
        self._row: Callable[[Sequence[Any]], Row] | None = None

    def _numbered(self, found: re.Match[str]) -> str:
        name = found[1]
        if name is None:
            return "%"
        if name not in self._names:
            self._names.append(name)
        return f"${self._names.index(name) + 1}"

    def values(self, parameters: Parameters | None) -> list[Any]:
        """The values of the parameters, in the order of their numbers."""
        given: dict[str, Any] = {**self.constants, **(parameters or {})}
        # Keys need no quoting, so lists of them need no looking for what does.
        return [f"{{{','.join(given[name])}}}" if name in self._keys else given[name] for name in self._names]

    def row_maker(self, result: PGresult) -> Callable[[Sequence[Any]], Row]:
        """What makes a row of its values. Its class follows from the statement, and is made once."""
        if self._row is None:
            names = [(result.fname(number) or b"").decode() for number in range(result.nfields)]
            self._row = partial(tuple.__new__, namedtuple("Row", names, rename=True))
        return self._row


_PARAMETER = re.compile(r"%(?:\((\w+)\)s|%)")


def compiled(clause: ClauseElement, *, varies: bool = False, reads: Reads | None = None) -> Statement:
    """Compile once, keep, run often: the compiler takes longer than most of our statements do."""
    text = cast(SQLCompiler, clause.compile(dialect=DIALECT))
    constants = {name: value for name, value in (text.params or {}).items() if value is not None}
    keys = (name for name, bind in text.binds.items() if isinstance(bind.type, ARRAY) and isinstance(bind.type.item_type, UUID))
    return Statement(str(text), constants, keys, varies=varies, reads=reads)


async def retry_until_available(work: Callable[[], Awaitable[T]]) -> T:
    """What work comes to once the database can be reached: for readers that go on for ever, such as subscriptions.

    What would fail again, too, is raised.
    """
    pause = SHORTEST_PAUSE_SECONDS
    while True:
        try:
            return await work()
        except FAILURES as error:
            if not is_transient(error):
                raise
            log.warning("reading failed (%s); the next try is in %.1f s", type(error).__name__, pause)
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


class MomentLoader(Loader):
    """timestamptz as RFC 3339 text in UTC, which is what sessions of ours are set to print."""

    def load(self, data: Buffer) -> str:
        return str(data, "ascii").removesuffix("+00").replace(" ", "T", 1) + "Z"


class DocumentLoader(Loader):
    """Documents as the values that they hold."""

    def load(self, data: Buffer) -> Any:
        return orjson.loads(data)


class Connection:
    """One connection: of a transaction, or borrowed from the pool for one statement."""

    def __init__(
        self,
        wire: Wire,
        observers: Sequence[Callable[[str], None]],
        *,
        in_transaction: bool = False,
        timeout: int = 0,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        # psycopg's, for what has no Statement, such as COPY. It knows nothing of what was sent and not yet flushed.
        self.raw = wire.raw
        self._wire = wire
        self._observers, self._timeout = observers, timeout
        self._in_transaction = in_transaction
        # From then on, a connection that is lost may have taken the word along that it is done.
        self.is_committing = False
        self._settings = [Sent(SET_LOCAL, [name, str(value)]) for name, value in (settings or {}).items()]
        self._queue: list[Sent] = []

    async def fetch(self, statement: Statement, parameters: Parameters | None = None) -> list[Row]:
        """Run a statement, after all that was sent, and return its rows; an empty list where it returns none."""
        sent = self.send(statement, parameters)
        await self.flush()
        return sent.rows

    def send(self, statement: Statement, parameters: Parameters | None = None) -> Sent:
        """Have a statement run with the next one that is waited for, in one trip with it. Its rows are there then."""
        for observer in self._observers:
            observer(statement.sql)
        return self._add(statement, statement.values(parameters))

    async def flush(self) -> None:
        """Wait for all that was sent. Raises what the first statement raised that failed; those after it were not run.

        What took the database too long raises TimedOut.
        """
        queue, self._queue = self._queue, []
        if self._in_transaction and self._wire.is_idle:
            queue = [Sent(BEGIN), *self._settings, *queue]
        if queue:
            try:
                await self._exchange(queue)
            except QueryCanceled as error:
                raise TimedOut(f"One step of this took the database {self._timeout:,} ms, which is all that it has.") from error
            except LockNotAvailable as error:
                raise Unavailable(_IS_LOCKED) from error

    async def _exchange(self, queue: Sequence[Sent]) -> None:
        doing = request_context.current()
        if doing is None:
            await self._wire.exchange(queue)
            return
        began, error = perf_counter(), None
        try:
            await self._wire.exchange(queue)
        except BaseException as raised:
            error = raised
            raise
        finally:
            doing.trip([sent.query.query for sent in queue], perf_counter() - began, error)

    async def commit(self) -> None:
        """End the transaction, in one trip with what was sent."""
        if self._queue or not self._wire.is_idle:
            self._add(COMMIT)
            self.is_committing = True
            await self.flush()

    async def roll_back(self) -> None:
        """End the transaction as if it had not been."""
        self._queue.clear()
        if not self._wire.is_idle:
            # A connection that is lost has taken the transaction along.
            with suppress(OperationalError):
                await self._wire.exchange([Sent(ROLL_BACK)])

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """What is done within it is undone where it fails, and the transaction can go on."""
        begun = self._add(SAVEPOINT)
        try:
            yield
            await self.flush()
        except Exception:
            self._queue = self._queue[: self._queue.index(begun) + 1] if begun in self._queue else []
            self._add(ROLL_BACK_TO)
            raise
        finally:
            self._add(RELEASE)

    def _add(self, statement: Statement, values: Sequence[Any] = ()) -> Sent:
        sent = Sent(statement, values)
        self._queue.append(sent)
        return sent


SET_LOCAL = Statement("SELECT set_config(%(name)s, %(value)s, true)", {})
BEGIN, COMMIT, ROLL_BACK = Statement("BEGIN", {}), Statement("COMMIT", {}), Statement("ROLLBACK", {})
SAVEPOINT, RELEASE = Statement("SAVEPOINT attempt", {}), Statement("RELEASE attempt", {})
ROLL_BACK_TO = Statement("ROLLBACK TO attempt", {})


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
        waiting: int = 0,
        pool_timeout: float = 30.0,
        prepares: bool | None = None,
    ) -> None:
        self.observers: list[Callable[[str], None]] = []
        self._full_at: float | None = None
        self._size, self._statement_timeout = size, statement_timeout
        self._recorder: Recorder | None = None
        session = {
            "TimeZone": "UTC",
            "DateStyle": "ISO",
            "statement_timeout": str(statement_timeout),
            "lock_timeout": str(lock_timeout),
        }
        self._pool = Pool(partial(_connected, url, session, prepares), size, waiting, pool_timeout)
        # No store's writers take more than a part of the connections, however long they wait for each other.
        self.writers = Bulkhead(max(1, size // 3), pool_timeout)

    async def __aenter__(self) -> "Database":
        await self._pool.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.close()

    @property
    def is_full(self) -> bool:
        """Whether Postgres has refused a statement lately because its disk was full."""
        return self._full_at is not None and monotonic() - self._full_at < FULL_SECONDS

    def pooled(self) -> Pooled:
        """How many connections there are, are free and are waited for."""
        return self._pool.counted()

    def recorded(self, recorder: Recorder) -> "Database":
        """The same database for somebody whose reads are noted."""
        view = copy(self)
        view._recorder = recorder
        return view

    def unrecorded(self) -> None:
        """Whoever notes what is read here cannot vouch for it: something that is kept elsewhere was used."""
        if self._recorder is not None:
            self._recorder.unrecorded()

    async def fetch(self, statement: Statement, parameters: Parameters | None = None) -> list[Row]:
        """Run one statement on its own.

        On a connection that turns out to be closed it is run again, on another one. It may have been done all the same before
        the connection broke, so it must be one that does no harm when it is done twice.
        """
        if self._recorder is None:
            return await self._fetch(statement, parameters)
        return await self._recorder.read(statement.reads, parameters or {}, partial(self._fetch, statement, parameters))

    async def _fetch(self, statement: Statement, parameters: Parameters | None) -> list[Row]:
        for left in reversed(range(self._size + 1)):
            raw = await self._pool.take()
            try:
                return await Connection(raw.wire, self.observers, timeout=self._statement_timeout).fetch(statement, parameters)
            except (OperationalError, InterfaceError) as error:
                if not (raw.closed and left) or isinstance(error, ExchangeTimedOut):
                    self._raise_unavailable(error, _IS_AWAY)
            finally:
                self._pool.give_back(raw)
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def transaction(
        self, *, statement_timeout: int | None = None, settings: Mapping[str, object] | None = None
    ) -> AsyncIterator[Connection]:
        """All that is run on the connection, or nothing: it begins with the first statement, and nothing is run a second time.

        psycopg.Rollback takes all of it back and is not raised any further. `statement_timeout` (milliseconds; 0: none) takes the
        place of the usual one; `settings` of Postgres hold for this transaction. Raises Unavailable where Postgres breaks off.
        """
        self.unrecorded()
        raw = await self._pool.take()
        usual = raw.wire.statement_seconds
        if statement_timeout is not None:
            settings = {**(settings or {}), "statement_timeout": statement_timeout}
            raw.wire.statement_seconds = statement_timeout / 1_000
        connection = Connection(
            raw.wire,
            self.observers,
            in_transaction=True,
            timeout=self._statement_timeout if statement_timeout is None else statement_timeout,
            settings=settings,
        )
        try:
            yield connection
            await connection.commit()
        except (OperationalError, InterfaceError) as error:
            await connection.roll_back()
            self._raise_unavailable(error, _MAY_BE_DONE if connection.is_committing else _NOT_DONE)
        except BaseException as error:
            await connection.roll_back()
            if not isinstance(error, Rollback):
                raise
        finally:
            raw.wire.statement_seconds = usual
            self._pool.give_back(raw)

    def _raise_unavailable(self, error: Error, message: str) -> NoReturn:
        """Raise Unavailable where a failure is one of the server, or of the line to it, and the failure itself otherwise."""
        if isinstance(error, DiskFull):
            self._full_at = monotonic()
        is_lost = error.sqlstate is None and isinstance(error, OperationalError | InterfaceError)
        if is_lost or _UNAVAILABLE.match(error.sqlstate or ""):
            raise Unavailable(message) from error
        raise error


async def _connected(url: str, session: Mapping[str, str], prepares: bool | None) -> Wired:
    # psycopg prepares nothing: when it forgets what it has prepared, it takes all with it. A peer that is gone without a word is
    # found out by keepalives while nothing is asked, and by the timeout of what was sent otherwise.
    raw = await Wired.connect(
        url,
        prepare_threshold=None,
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        keepalives_idle=30,
        keepalives_interval=5,
        keepalives_count=3,
        tcp_user_timeout=1_000 * CONNECT_TIMEOUT_SECONDS,
    )
    for name in ("uuid", "numeric"):
        raw.adapters.register_loader(name, TextLoader)
    raw.adapters.register_loader("timestamptz", MomentLoader)
    for name in ("json", "jsonb"):
        raw.adapters.register_loader(name, DocumentLoader)
    try:
        await raw.wire.configure(session, prepares=prepares)
    except BaseException:
        raw.wire.finish()
        raise
    raw.wire.statement_seconds = int(session["statement_timeout"]) / 1_000
    return raw
