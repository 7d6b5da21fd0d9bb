"""Statements in, rows out. SQLAlchemy writes the SQL, psycopg runs it; there are no sessions and no row objects to build.

Rows are named tuples whose values already have the shape that JSON wants: keys, amounts and moments are text.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson
from psycopg import AsyncConnection, AsyncCursor, InterfaceError, OperationalError
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.rows import namedtuple_row
from psycopg.types.json import set_json_loads
from psycopg.types.string import TextLoader
from psycopg_pool import AsyncConnectionPool
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.sql import ClauseElement

Row = Any
Parameters = Mapping[str, object]

DIALECT = PGDialect_psycopg()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True, eq=False)
class Statement:
    """SQL text with named parameters, and the constants that its author wrote into it."""

    sql: str
    constants: Mapping[str, object]


def compiled(clause: ClauseElement) -> Statement:
    """Compile once, keep, run often: the compiler takes longer than most of our statements do."""
    text = clause.compile(dialect=DIALECT)
    constants = {name: value for name, value in (text.params or {}).items() if value is not None}
    return Statement(str(text), constants)


class MomentLoader(Loader):
    """timestamptz as RFC 3339 text in UTC, which is what sessions of ours are set to print."""

    def load(self, data: Buffer) -> str:
        date, _, time = bytes(data).decode().removesuffix("+00").partition(" ")
        return f"{date}T{time}Z"


class Connection:
    """One connection: of a transaction, or borrowed from the pool for one statement."""

    def __init__(self, raw: AsyncConnection[Any], observers: Sequence[Callable[[str], None]]) -> None:
        self.raw = raw
        self._observers = observers

    async def fetch(self, statement: Statement, parameters: Parameters | None = None) -> list[Row]:
        """Run a statement and return its rows; an empty list where it returns none."""
        for observer in self._observers:
            observer(statement.sql)
        cursor: AsyncCursor[Row] = self.raw.cursor(row_factory=namedtuple_row)
        await cursor.execute(statement.sql.encode(), {**statement.constants, **(parameters or {})})
        return await cursor.fetchall() if cursor.description else []


class Database:
    """A pool of connections to one Postgres. `observers` are told the SQL of every statement before it runs."""

    def __init__(self, url: str, *, size: int = 10, statement_timeout: int = 10_000) -> None:
        self.observers: list[Callable[[str], None]] = []
        self._size = size
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

    async def fetch(self, statement: Statement, parameters: Parameters | None = None) -> list[Row]:
        """Run one statement on its own.

        On a connection that turns out to be closed it is run again, on another one. It may have been done all the same before
        the connection broke, so it must be one that does no harm when it is done twice.
        """
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
