"""Statements go to Postgres together, and their results come back in the same order.

psycopg connects, knows the types and names the errors. The talk itself is libpq's pipeline mode: one write and one read for all
statements that need not wait for each other, where a cursor for each of them costs the server several times as much.
"""

import asyncio
import logging
import select
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from time import monotonic
from typing import Any, Protocol, TypeVar

from psycopg import AsyncConnection, OperationalError
from psycopg.abc import Buffer, PQGen
from psycopg.abc import Transformer as Types
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import DuplicatePreparedStatement, InvalidSqlStatementName, error_from_result
from psycopg.pq import ConnStatus, ExecStatus, TransactionStatus
from psycopg.pq.abc import PGresult

log = logging.getLogger("storefront")

# Statements that a connection keeps prepared.
MOST_PREPARED = 100
# Seconds within which a statement ends that was told to.
PATIENCE = 5.0
# Seconds beyond the timeouts of its statements that an exchange may take before its connection is taken for lost.
EXCHANGE_GRACE_SECONDS = 5.0

# As plain numbers: an enumeration takes longer to look its members up than libpq to answer.
OPEN, IDLE = int(ConnStatus.OK), int(TransactionStatus.IDLE)
FAILED, SYNC = int(ExecStatus.FATAL_ERROR), int(ExecStatus.PIPELINE_SYNC)
AUTO = PyFormat.AUTO

T = TypeVar("T")

# What Postgres says of prepared statements where a pooler hands the connection's backend to another client in between.
LOST_PREPARED = (InvalidSqlStatementName, DuplicatePreparedStatement)

# A statement with the types of its values: Postgres prepares it for these.
Kind = tuple[bytes, tuple[int, ...]]


class Query(Protocol):
    """What can be sent: SQL with numbered parameters. What `varies` is not prepared, but planned anew each time."""

    @property
    def query(self) -> bytes: ...

    @property
    def varies(self) -> bool: ...

    def row_maker(self, result: PGresult, /) -> Callable[[Sequence[Any]], Any]:
        """What makes a row of its values."""


class ExchangeTimedOut(OperationalError):
    """Postgres did not answer in time, statement timeouts and all: the connection is taken for lost and is closed."""


class Text:
    """SQL whose rows are of no interest."""

    varies = True

    def __init__(self, sql: str) -> None:
        self.query = sql.encode()

    def row_maker(self, _: PGresult, /) -> Callable[[Sequence[Any]], Any]:
        """Rows as tuples."""
        return tuple


class Sent:
    """A statement that goes out with the next exchange. Then its `rows` are there; none, where it returns none."""

    __slots__ = ("_answer", "_rows", "query", "values")

    def __init__(self, query: Query, values: Sequence[Any] = ()) -> None:
        self.query, self.values = query, values
        self._rows: list[Any] = []
        self._answer: tuple[PGresult, Types] | None = None

    def answer(self, result: PGresult, types: Types) -> None:
        """What the statement returned."""
        self._answer = result, types

    @property
    def rows(self) -> list[Any]:
        """The rows, made when somebody wants them."""
        if self._answer is not None:
            (result, types), self._answer = self._answer, None
            types.set_pgresult(result)
            self._rows = types.load_rows(0, result.ntuples, self.query.row_maker(result))
        return self._rows


class Wire:
    """A connection of psycopg's, and a way to run statements on it. Both may be used in turns, also in one transaction.

    `statement_seconds`: within how many seconds Postgres ends each statement by itself (0: it does not). An exchange that takes
    longer than its statements may is ended with ExchangeTimedOut: no failure of the network or the server leaves a waiter behind.
    """

    def __init__(self, raw: AsyncConnection[Any]) -> None:
        self.raw, self.born = raw, monotonic()
        self.statement_seconds = 0.0
        self._pgconn, self._socket = raw.pgconn, raw.pgconn.socket
        self._types = Transformer(raw)
        self._prepared = _Prepared()
        self._prepares = True
        # Behind a pooler: what sets a transaction up, and whether the one that is open has been. Direct sessions are set up once.
        self._set_up: Text | None = None
        self._is_set_up = False
        self._input = _Input(self._socket)
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        # Who listens to the socket, and what was heard in the exchange that is under way.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._results: list[PGresult] = []
        self._is_over = True
        self._failure: OperationalError | None = None
        self._news: asyncio.Future[None] | None = None

    @property
    def is_idle(self) -> bool:
        """Whether no transaction is open."""
        return self._pgconn.transaction_status == IDLE

    def is_alive(self) -> bool:
        """Whether Postgres has not closed the connection, as far as it has told. Asks nothing of it."""
        try:
            # Twice, because before the end come its last words.
            self._pgconn.consume_input()
            self._pgconn.consume_input()
        except OperationalError:
            self.leave()
        return self._pgconn.status == OPEN

    async def configure(self, settings: Mapping[str, str], *, prepares: bool | None) -> None:
        """Give the session its settings, or each of its transactions where a pooler stands in between.

        A pooler is told by the backend's number, which is not the one that the connection began with. `prepares`: whether
        statements are prepared by name; None: unless there is a pooler, which may hand each transaction to another backend.
        """
        sets = ", ".join(f"set_config('{name}', '{value}', %s)" for name, value in settings.items())
        asked = Sent(
            Text(f"SELECT CASE WHEN pg_backend_pid() = {self._pgconn.backend_pid} THEN concat({sets.replace('%s', 'false')}) END")
        )
        await self.exchange([asked])
        if asked.rows[0][0] is None:
            self._set_up = Text(f"SELECT {sets.replace('%s', 'true')}")
        self._prepares = self._set_up is None if prepares is None else prepares

    @property
    def is_pooled(self) -> bool:
        """Whether a connection pooler stands between this process and Postgres."""
        return self._set_up is not None

    async def exchange(self, batch: Sequence[Sent]) -> None:
        """Run the statements in their order and give each its rows. Outside of a transaction they are one together.

        Raises the first error: what comes after a statement that fails is not run.
        """
        async with self.raw.lock:
            was_idle = self.is_idle
            try:
                await self._exchange(batch)
            except LOST_PREPARED as error:
                log.warning(
                    "prepared statements are lost (%s): a pooler in between? This connection prepares none any more", error
                )
                self._prepares = False
                if not was_idle:
                    raise
                # Nothing of the batch was done.
                if not self.is_idle:
                    await self._exchange([Sent(Text("ROLLBACK"))])
                await self._exchange(batch)

    async def _exchange(self, batch: Sequence[Sent]) -> None:
        if self._pgconn.status != OPEN:
            raise OperationalError("the connection is closed")
        if self._set_up is not None and (self.is_idle or not self._is_set_up):
            batch = [Sent(self._set_up), *batch]
        # All values are written out before anything leaves.
        messages = [(sent, *self._dumped(sent.values)) for sent in batch]
        places: list[Place] = []
        self._results, self._is_over = [], False
        try:
            self._pgconn.enter_pipeline_mode()
            self._send(messages, places)
            self._set_deadline(len(batch))
            await self._heard()
            self._pgconn.exit_pipeline_mode()
        except asyncio.CancelledError:
            await self._stop()
            raise
        except BaseException:
            # Nobody knows what would be heard next. The last words tell more than that there is nobody left.
            self.finish()
            self._take(places)
            raise
        self._is_set_up = not self.is_idle
        self._take(places)

    def leave(self) -> None:
        """Stop listening: the socket is somebody else's for a while, or closed."""
        if self._loop is not None:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._loop = None

    # ------------------------------------------------------------------------------------------------- speaking

    def _dumped(self, values: Sequence[Any]) -> tuple[Sequence[Buffer | None], tuple[int, ...], Sequence[int] | None]:
        """The values as Postgres reads them, their types and formats."""
        dumped = self._types.dump_sequence(values, [AUTO] * len(values))
        return dumped, self._types.types or (), self._types.formats

    def _send(self, messages: Sequence[Any], places: "list[Place]") -> None:
        """Send the statements; `places` gets what each of the results will be about."""
        pgconn, new = self._pgconn, dict[Kind, bytes]()
        for sent, values, types, formats in messages:
            query: Query = sent.query
            if query.varies or not self._prepares:
                pgconn.send_query_params(query.query, values, types, formats)
            else:
                kind = (query.query, types)
                name = self._prepared.name(kind) or new.get(kind)
                if name is None:
                    name = new[kind] = statement_name(kind)
                    pgconn.send_prepare(name, query.query, types)
                    places.append((kind, name))
                pgconn.send_query_prepared(name, values, formats)
            places.append(sent)
        for name in self._prepared.given_up(len(new)):
            pgconn.send_close_prepared(name)
        pgconn.pipeline_sync()

    async def _stop(self) -> None:
        """Have Postgres give up what it is at, so that the connection can be used again. Where it does not, it is closed."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self.raw.cancel_safe(timeout=PATIENCE)
                await self._heard()
            self._pgconn.exit_pipeline_mode()
        except BaseException as error:
            log.warning("a statement could not be stopped (%s): its connection is closed", type(error).__name__)
            self.finish()
            if not isinstance(error, Exception):
                raise

    def finish(self) -> None:
        """Close the connection."""
        self.leave()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._pgconn.finish()

    # ------------------------------------------------------------------------------------------------ listening

    async def _heard(self) -> None:
        """Wait for all results of the exchange."""
        if self._loop is None:
            # For good: to begin and to end for each exchange takes longer than to read its results.
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._socket, self._on_readable)
        if self._pgconn.flush():
            self._loop.add_writer(self._socket, self._on_writable)
        if self._input.is_there():
            # The loop may watch the socket no longer, if it was once told of an error there.
            self._on_readable()
        while not self._is_over:
            self._news = self._loop.create_future()
            await self._news
        if self._failure is not None:
            raise self._failure

    def _on_readable(self) -> None:
        try:
            # Until nothing is left: where last words and a reset come together, uvloop calls once and never again.
            while True:
                self._pgconn.consume_input()
                self._read()
                if self._is_over or not self._input.is_there():
                    break
        except OperationalError as error:
            self._fail(error)
        self._tell()

    def _on_writable(self) -> None:
        try:
            if not self._pgconn.flush() and self._loop is not None:
                self._loop.remove_writer(self._socket)
        except OperationalError as error:
            self._fail(error)
            self._tell()

    def _read(self) -> None:
        """Take what results there are."""
        pgconn = self._pgconn
        while not self._is_over and not pgconn.is_busy():
            result = pgconn.get_result()
            if result is None:
                # The end of what belongs to one message. On a connection that is lost there is no end of such ends.
                if pgconn.status != OPEN:
                    raise OperationalError("the connection is lost")
            elif result.status == SYNC:
                self._is_over = True
            else:
                self._results.append(result)

    def _fail(self, error: OperationalError) -> None:
        # At once: another connection may get the number of this one's socket.
        self.leave()
        self._failure, self._is_over = error, True

    def _set_deadline(self, statements: int) -> None:
        self._deadline = None
        if self.statement_seconds:
            self._deadline = monotonic() + self.statement_seconds * statements + EXCHANGE_GRACE_SECONDS
            if self._timer is None:
                self._watch()

    def _watch(self) -> None:
        # One timer that goes on from exchange to exchange: to start and cancel one for each would cost more than it is worth.
        self._timer = None
        if self._is_over or self._deadline is None:
            return
        left = self._deadline - monotonic()
        if left > 0:
            self._timer = asyncio.get_running_loop().call_later(left, self._watch)
        else:
            self._fail(ExchangeTimedOut("Postgres does not answer: the connection is closed"))
            self._tell()

    def _tell(self) -> None:
        if self._is_over and self._news is not None and not self._news.done():
            self._news.set_result(None)

    def _take(self, places: "Sequence[Place]") -> None:
        """Give the statements their rows, and remember what was prepared. Raises the first error."""
        types = self._types
        for number, result in enumerate(self._results):
            if result.status == FAILED:
                raise error_from_result(result, types.encoding)
            # Statements that are given up come last, and are about no place.
            place = places[number] if number < len(places) else None
            if isinstance(place, tuple):
                self._prepared.keep(*place)
            elif place is not None and result.nfields:
                place.answer(result, types)


# What a result is about: a statement that was run, or one that was prepared under a name.
Place = Sent | tuple[Kind, bytes]


def statement_name(kind: Kind) -> bytes:
    """The name under which a statement is prepared: it follows from the text and its types, so it is the same on every backend.

    Behind a pooler that hands backends from one client to the next, one that counts would name other clients' statements.
    """
    query, types = kind
    return b"storefront_" + blake2b(repr(types).encode() + query, digest_size=16).hexdigest().encode()


class _Input:
    """Whether there is something to read on a socket: data, its end, or an error."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        # Windows has no poll.
        self._poll = select.poll() if hasattr(select, "poll") else None
        if self._poll is not None:
            self._poll.register(descriptor, select.POLLIN)

    def is_there(self) -> bool:
        """Look, without waiting."""
        if self._poll is not None:
            return bool(self._poll.poll(0))
        return bool(select.select([self._descriptor], [], [], 0)[0])


class _Prepared:
    """The statements that a connection keeps prepared, the most recent ones, by their names."""

    def __init__(self) -> None:
        self._names: OrderedDict[Kind, bytes] = OrderedDict()

    def name(self, kind: Kind) -> bytes | None:
        """The name of a statement that is prepared."""
        name = self._names.get(kind)
        if name is not None:
            self._names.move_to_end(kind)
        return name

    def keep(self, kind: Kind, name: bytes) -> None:
        """It is prepared by now."""
        self._names[kind] = name

    def given_up(self, new: int) -> list[bytes]:
        """The names that so many new ones take the place of."""
        return [self._names.popitem(last=False)[1] for _ in range(len(self._names) + new - MOST_PREPARED)] if new else []


class Wired(AsyncConnection[Any]):
    """A connection of psycopg's with its wire, which leaves the socket to it whenever it is used itself."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.wire = Wire(self)

    async def wait(self, gen: PQGen[T], *arguments: Any, **named: Any) -> T:
        """Talk as psycopg does."""
        self.wire.leave()
        return await super().wait(gen, *arguments, **named)

    async def close(self) -> None:
        """Close the connection."""
        self.wire.leave()
        await super().close()
