"""Statements in, rows out. SQLAlchemy writes the SQL, psycopg runs it; there are no sessions and no row objects to build.

Rows are named tuples whose values already have the shape that JSON wants: keys, amounts and moments are text.
"""

import re
from collections import namedtuple
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from copy import copy
from functools import partial
from typing import Any, cast

import orjson
from psycopg import AsyncConnection, AsyncCursor, AsyncRawCursor, InterfaceError, OperationalError
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.rows import no_result
from psycopg.types.json import set_json_loads
from psycopg.types.string import TextLoader
from psycopg_pool import AsyncConnectionPool
from sqlalchemy import ARRAY, UUID
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.sql import ClauseElement
from sqlalchemy.sql.compiler import SQLCompiler

from storefront.core.scopes import Reads, Recorder

Row = Any
Parameters = Mapping[str, object]

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

    def rows(self, cursor: AsyncCursor[Any]) -> Callable[[Sequence[Any]], Row]:
        """How psycopg makes a row. Its class follows from the statement, and is made once."""
        result = cursor.pgresult
        if self._row is None and result is not None and result.nfields:
            names = [(result.fname(number) or b"").decode() for number in range(result.nfields)]
            self._row = partial(tuple.__new__, namedtuple("Row", names, rename=True))
        return self._row or no_result


_PARAMETER = re.compile(r"%(?:\((\w+)\)s|%)")


def compiled(clause: ClauseElement, *, varies: bool = False, reads: Reads | None = None) -> Statement:
    """Compile once, keep, run often: the compiler takes longer than most of our statements do."""
    text = cast(SQLCompiler, clause.compile(dialect=DIALECT))
    constants = {name: value for name, value in (text.params or {}).items() if value is not None}
    keys = (name for name, bind in text.binds.items() if isinstance(bind.type, ARRAY) and isinstance(bind.type.item_type, UUID))
    return Statement(str(text), constants, keys, varies=varies, reads=reads)


class MomentLoader(Loader):
    """timestamptz as RFC 3339 text in UTC, which is what sessions of ours are set to print."""

    def load(self, data: Buffer) -> str:
        return str(data, "ascii").removesuffix("+00").replace(" ", "T", 1) + "Z"


class Connection:
    """One connection: of a transaction, or borrowed from the pool for one statement."""

    def __init__(self, raw: AsyncConnection[Any], observers: Sequence[Callable[[str], None]]) -> None:
        self.raw = raw
        self._observers = observers

    async def fetch(self, statement: Statement, parameters: Parameters | None = None) -> list[Row]:
        """Run a statement and return its rows; an empty list where it returns none."""
        for observer in self._observers:
            observer(statement.sql)
        cursor = AsyncRawCursor(self.raw, row_factory=statement.rows)
        await cursor.execute(statement.query, statement.values(parameters), prepare=False if statement.varies else None)
        return await cursor.fetchall() if cursor.pgresult is not None and cursor.pgresult.nfields else []


class Database:
    """A pool of connections to one Postgres. `observers` are told the SQL of every statement before it runs."""

    def __init__(self, url: str, *, size: int = 10, statement_timeout: int = 10_000) -> None:
        self.observers: list[Callable[[str], None]] = []
        self._size = size
        self._recorder: Recorder | None = None
        self._pool = AsyncConnectionPool(
            url,
            min_size=1,
            max_size=size,
            open=False,
            kwargs={"autocommit": True, "options": f"-c TimeZone=UTC -c DateStyle=ISO -c statement_timeout={statement_timeout}"},
            configure=_configure,
        )

    async def __aenter__(self) -> "Database":
        await self._pool.open(wait=True, timeout=30)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.close()

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
            async with self._pool.connection() as raw:
                try:
                    return await Connection(raw, self.observers).fetch(statement, parameters)
                except (OperationalError, InterfaceError):
                    if not (raw.closed and left):
                        raise
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """All that is run on the connection, or nothing. Once it has begun nothing is run a second time."""
        self.unrecorded()
        raw, ending = await self._begun()
        async with ending:
            yield Connection(raw, self.observers)

    async def _begun(self) -> tuple[AsyncConnection[Any], AsyncExitStack]:
        # After a restart of Postgres all connections of the pool may be closed ones, and only using them shows it.
        for left in reversed(range(self._size + 1)):
            async with AsyncExitStack() as stack:
                raw = await stack.enter_async_context(self._pool.connection())
                try:
                    await stack.enter_async_context(raw.transaction())
                except (OperationalError, InterfaceError):
                    if not (raw.closed and left):
                        raise
                else:
                    return raw, stack.pop_all()
        raise AssertionError("unreachable")


async def _configure(raw: AsyncConnection[Any]) -> None:
    for name in ("uuid", "numeric"):
        raw.adapters.register_loader(name, TextLoader)
    raw.adapters.register_loader("timestamptz", MomentLoader)
    set_json_loads(orjson.loads, raw)
