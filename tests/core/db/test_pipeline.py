"""Statements that go out together: their rows, their failures, and what becomes of the connection."""

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest
import pytest_asyncio
from sqlalchemy import text

from storefront.core.db import pipeline
from storefront.core.db.database import Connection, Database, Statement, compile_statement
from storefront.core.errors import Unavailable

ONE, TWO = compile_statement(text("SELECT 1 AS one")), compile_statement(text("SELECT CAST(:number AS integer) AS two"))
FAILS = compile_statement(text("SELECT 1 / CAST(:number AS integer)"))
SLOW = compile_statement(text("SELECT pg_sleep(60)"))
NAMES = compile_statement(text("SELECT name FROM pg_prepared_statements"))
ECHO = compile_statement(text("SELECT CAST(:text AS text) AS text"))
MAKE = compile_statement(text("CREATE TABLE made (id integer)"))
MADE = compile_statement(text("SELECT to_regclass('made') AS name"))


@pytest_asyncio.fixture
async def database(empty_url: str) -> AsyncIterator[Database]:
    async with Database(empty_url, size=1) as opened:
        yield opened


async def fetched(connection: Connection, statement: Statement, **values: object) -> list[tuple[object, ...]]:
    return [tuple(row) for row in await connection.fetch(statement, values)]


async def together(database: Database, *steps: tuple[Statement, dict[str, object]]) -> None:
    """One transaction of these, which are not waited for one by one."""
    async with database.transaction() as connection:
        for statement, values in steps:
            connection.enqueue(statement, values)


async def test_each_statement_gets_its_own_rows(database: Database) -> None:
    async with database.transaction() as connection:
        sent = [connection.enqueue(TWO, {"number": number}) for number in range(20)]
        nothing = connection.enqueue(compile_statement(text("SET LOCAL search_path = public")))
        assert await fetched(connection, ONE) == [(1,)]
        assert [[(number,)] for number in range(20)] == [one.rows for one in sent] and nothing.rows == []
        assert sent[0].rows[0].two == 0


async def test_what_follows_a_failure_is_not_run(database: Database) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero):
        await together(database, (MAKE, {}), (FAILS, {"number": 0}), (SLOW, {}))
    assert [row.name for row in await database.fetch(MADE)] == [None]


async def test_a_value_that_cannot_be_sent_leaves_the_connection_as_it_was(database: Database) -> None:
    with pytest.raises(psycopg.DataError):
        await together(database, (MAKE, {}), (ECHO, {"text": "\0"}))
    assert [row.name for row in await database.fetch(MADE)] == [None]


async def test_what_was_not_waited_for_goes_out_with_the_commit(database: Database) -> None:
    async with database.transaction() as connection:
        connection.enqueue(MAKE)
    assert [row.name for row in await database.fetch(MADE)] == ["made"]


async def test_a_savepoint_takes_back_what_is_within_it_sent_or_not(database: Database) -> None:
    async def fail(connection: Connection, *, flushed: bool) -> None:
        async with connection.savepoint():
            connection.enqueue(MAKE)
            if flushed:
                await connection.flush()
            connection.enqueue(FAILS, {"number": 0})
            if not flushed:
                raise ZeroDivisionError

    async with database.transaction() as connection:
        for flushed, error in ((True, psycopg.errors.DivisionByZero), (False, ZeroDivisionError)) * 2:
            with pytest.raises(error):
                await fail(connection, flushed=flushed)
        assert await fetched(connection, MADE) == [(None,)]
        async with connection.savepoint():
            connection.enqueue(MAKE)
    assert [row.name for row in await database.fetch(MADE)] == ["made"]


async def test_psycopg_and_we_take_turns_on_one_connection(database: Database) -> None:
    async with database.transaction() as connection:
        for number in range(5):
            cursor = await connection.raw.execute("SELECT %s::int, txid_current()", [number])
            [(told, transaction)] = await cursor.fetchall()
            assert told == number
            [(ours,)] = await connection.fetch(compile_statement(text("SELECT txid_current() AS number")))
            assert ours == transaction
        async with connection.raw.cursor() as cursor, cursor.copy("COPY (SELECT 7) TO STDOUT") as copy:
            assert [row async for row in copy.rows()] == [("7",)]
        assert await fetched(connection, ONE) == [(1,)]


async def test_more_than_the_sockets_hold_goes_out_and_comes_back(database: Database) -> None:
    long = "x" * 2_000_000
    async with database.transaction() as connection:
        sent = [connection.enqueue(ECHO, {"text": long}) for _ in range(10)]
        await connection.flush()
    assert all(one.rows == [(long,)] for one in sent)


async def test_statements_that_are_used_again_stay_prepared_and_the_oldest_make_way(database: Database) -> None:
    for _ in range(3):
        await database.fetch(ONE)
    assert len(await database.fetch(NAMES)) == 2
    for number in range(pipeline.MAX_PREPARED_STATEMENTS + 20):
        await database.fetch(compile_statement(text(f"SELECT {number} AS number")))
        await database.fetch(ONE)
    await database.fetch(NAMES)
    assert len(await database.fetch(NAMES)) == pipeline.MAX_PREPARED_STATEMENTS
    assert [tuple(row) for row in await database.fetch(compile_statement(text("SELECT 0 AS number")))] == [(0,)]


async def test_a_statement_that_was_not_prepared_because_another_failed_is_prepared_later(database: Database) -> None:
    for _ in range(2):
        with pytest.raises(psycopg.errors.DivisionByZero):
            await together(database, (FAILS, {"number": 0}), (ONE, {}))
    assert [tuple(row) for row in await database.fetch(ONE)] == [(1,)]
    assert [tuple(row) for row in await database.fetch(FAILS, {"number": 1})] == [(1,)]


async def test_whoever_is_cancelled_ends_the_statement_and_the_connection_goes_on(database: Database) -> None:
    [(before,)] = await database.fetch(compile_statement(text("SELECT pg_backend_pid() AS pid")))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await database.fetch(SLOW)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await together(database, (MAKE, {}), (SLOW, {}))
    assert await database.fetch(compile_statement(text("SELECT pg_backend_pid() AS pid"))) == [(before,)]
    assert [row.name for row in await database.fetch(MADE)] == [None]


async def test_a_statement_that_cannot_be_stopped_costs_its_connection(
    database: Database, empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "CANCEL_TIMEOUT_SECONDS", 0.0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await database.fetch(SLOW)
    assert [tuple(row) for row in await database.fetch(ONE)] == [(1,)]


async def test_a_connection_that_is_ended_amid_a_transaction_ends_it(database: Database, empty_url: str) -> None:
    async def ended() -> None:
        async with database.transaction() as connection:
            [(pid,)] = await connection.fetch(compile_statement(text("SELECT pg_backend_pid() AS pid")))
            connection.enqueue(MAKE)
            asyncio.get_running_loop().call_later(0.2, end, pid)
            await connection.fetch(SLOW)

    def end(pid: int) -> None:
        with psycopg.connect(empty_url, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])

    with pytest.raises(Unavailable) as raised:
        await ended()
    assert isinstance(raised.value.__cause__, psycopg.errors.AdminShutdown)
    assert [row.name for row in await database.fetch(MADE)] == [None]
