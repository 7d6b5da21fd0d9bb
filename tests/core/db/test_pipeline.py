"""Pipeline mode: rows and failures of batched statements, and the state of the connection afterwards."""

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest
import pytest_asyncio
from sqlalchemy import text

from storefront.core.db import pipeline
from storefront.core.db.database import Connection, Database, Statement, compile_statement
from storefront.core.errors import LimitExceeded, Unavailable
from storefront.core.result_budget import ResultBudgets
from tests.loop_load import measured_load

ONE, TWO = compile_statement(text("SELECT 1 AS one")), compile_statement(text("SELECT CAST(:number AS integer) AS two"))
FAILS = compile_statement(text("SELECT 1 / CAST(:number AS integer)"))
TEXTS = compile_statement(
    # Not in FROM, where all rows exist before the first is sent.
    text("SELECT repeat('x', CAST(:characters AS integer)) AS text, generate_series(1, CAST(:rows AS integer))")
)
PID = compile_statement(text("SELECT pg_backend_pid() AS pid"))
SLOW = compile_statement(text("SELECT pg_sleep(60)"))
NAMES = compile_statement(text("SELECT name FROM pg_prepared_statements"))
ECHO = compile_statement(text("SELECT CAST(:text AS text) AS text"))
MAKE = compile_statement(text("CREATE TABLE made (id integer)"))
MADE = compile_statement(text("SELECT to_regclass('made') AS name"))


@pytest_asyncio.fixture
async def database(empty_url: str) -> AsyncIterator[Database]:
    async with Database(empty_url, size=1) as opened:
        yield opened


async def fetch_rows(connection: Connection, statement: Statement, **values: object) -> list[tuple[object, ...]]:
    return [tuple(row) for row in await connection.fetch(statement, values)]


async def run_in_transaction(database: Database, *steps: tuple[Statement, dict[str, object]]) -> None:
    """Run the statements in one transaction without awaiting each of them."""
    async with database.transaction() as connection:
        for statement, values in steps:
            connection.enqueue(statement, values)


async def test_each_statement_returns_its_own_rows(database: Database) -> None:
    async with database.transaction() as connection:
        sent = [connection.enqueue(TWO, {"number": number}) for number in range(20)]
        nothing = connection.enqueue(compile_statement(text("SET LOCAL search_path = public")))
        assert await fetch_rows(connection, ONE) == [(1,)]
        assert [[(number,)] for number in range(20)] == [queued.rows for queued in sent] and nothing.rows == []
        assert sent[0].rows[0].two == 0


async def test_statements_after_a_failure_are_skipped(database: Database) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero):
        await run_in_transaction(database, (MAKE, {}), (FAILS, {"number": 0}), (SLOW, {}))
    assert [row.name for row in await database.fetch(MADE)] == [None]


async def test_unserializable_value_keeps_the_connection_usable(database: Database) -> None:
    with pytest.raises(psycopg.DataError):
        await run_in_transaction(database, (MAKE, {}), (ECHO, {"text": "\0"}))
    assert [row.name for row in await database.fetch(MADE)] == [None]


async def test_queued_statements_are_sent_with_commit(database: Database) -> None:
    async with database.transaction() as connection:
        connection.enqueue(MAKE)
    assert [row.name for row in await database.fetch(MADE)] == ["made"]


async def test_savepoint_rolls_back_sent_and_queued_statements(database: Database) -> None:
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
        assert await fetch_rows(connection, MADE) == [(None,)]
        async with connection.savepoint():
            connection.enqueue(MAKE)
    assert [row.name for row in await database.fetch(MADE)] == ["made"]


async def test_psycopg_and_pipeline_share_a_connection(database: Database) -> None:
    async with database.transaction() as connection:
        for number in range(5):
            cursor = await connection.raw.execute("SELECT %s::int, txid_current()", [number])
            [(value, transaction)] = await cursor.fetchall()
            assert value == number
            [(ours,)] = await connection.fetch(compile_statement(text("SELECT txid_current() AS number")))
            assert ours == transaction
        async with connection.raw.cursor() as cursor, cursor.copy("COPY (SELECT 7) TO STDOUT") as copy:
            assert [row async for row in copy.rows()] == [("7",)]
        assert await fetch_rows(connection, ONE) == [(1,)]


async def test_batches_larger_than_socket_buffers_work(database: Database) -> None:
    long = "x" * 2_000_000
    async with database.transaction() as connection:
        sent = [connection.enqueue(ECHO, {"text": long}) for _ in range(10)]
        await connection.flush()
    assert all(queued.rows == [(long,)] for queued in sent)


async def test_prepared_statements_are_lru(database: Database) -> None:
    for _ in range(3):
        await database.fetch(ONE)
    assert len(await database.fetch(NAMES)) == 2
    for number in range(pipeline.MAX_PREPARED_STATEMENTS + 20):
        await database.fetch(compile_statement(text(f"SELECT {number} AS number")))
        await database.fetch(ONE)
    await database.fetch(NAMES)
    assert len(await database.fetch(NAMES)) == pipeline.MAX_PREPARED_STATEMENTS
    assert [tuple(row) for row in await database.fetch(compile_statement(text("SELECT 0 AS number")))] == [(0,)]


async def test_cancelled_statement_stays_prepared(database: Database) -> None:
    sleeping = compile_statement(text("SELECT pg_sleep(:seconds)"))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await database.fetch(sleeping, {"seconds": 60.0})
    # In a transaction that has begun nothing is executed again: it would fail if the statement were prepared twice.
    async with database.transaction() as connection:
        await connection.fetch(ONE)
        await connection.fetch(sleeping, {"seconds": 0.0})


async def test_failed_batch_closes_evicted_statements(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "MAX_PREPARED_STATEMENTS", 4)
    await database.fetch(ONE)
    for number in range(3):
        await database.fetch(compile_statement(text(f"SELECT {number} AS number")))
    # ONE makes room for a statement of a batch that fails, and is prepared again.
    with pytest.raises(psycopg.errors.DivisionByZero):
        await database.fetch(FAILS, {"number": 0})
    await run_in_transaction(database, (TWO, {"number": 2}), (ONE, {}))
    await database.fetch(NAMES)
    assert len(await database.fetch(NAMES)) == 4


async def test_batch_of_more_statements_than_are_prepared_works(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "MAX_PREPARED_STATEMENTS", 2)
    numbers = [compile_statement(text(f"SELECT {number} AS number")) for number in range(5)]
    for _ in range(2):
        async with database.transaction() as connection:
            queued = [connection.enqueue(statement) for statement in (*numbers, *numbers)]
            await connection.flush()
        assert [statement.rows for statement in queued] == [[(number,)] for number in (*range(5), *range(5))]


async def test_skipped_statement_is_prepared_later(database: Database) -> None:
    for _ in range(2):
        with pytest.raises(psycopg.errors.DivisionByZero):
            await run_in_transaction(database, (FAILS, {"number": 0}), (ONE, {}))
    assert [tuple(row) for row in await database.fetch(ONE)] == [(1,)]
    assert [tuple(row) for row in await database.fetch(FAILS, {"number": 1})] == [(1,)]


async def test_cancellation_cancels_statement_and_keeps_connection(database: Database) -> None:
    [(before,)] = await database.fetch(compile_statement(text("SELECT pg_backend_pid() AS pid")))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await database.fetch(SLOW)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await run_in_transaction(database, (MAKE, {}), (SLOW, {}))
    assert await database.fetch(compile_statement(text("SELECT pg_backend_pid() AS pid"))) == [(before,)]
    assert [row.name for row in await database.fetch(MADE)] == [None]


# ------------------------------------------------------------------------------------------------- budgets


async def test_rows_beyond_the_budget_cancel_their_statement(database: Database) -> None:
    [(pid,)] = await database.fetch(PID)
    budgets = ResultBudgets(300_000, 10**9, 10**9)
    with budgets.limit_operation() as budget:
        for _ in range(2):
            with pytest.raises(LimitExceeded, match="at most 300,000 bytes"):
                # So many rows that only a cancelled statement ends.
                await database.fetch(TEXTS, {"characters": 20_000, "rows": 10**9})
            assert budget.row_bytes < 300_000
        # Small ones are executed nevertheless, as those before a write.
        assert [tuple(row) for row in await database.fetch(ONE)] == [(1,)]
    assert budgets.row_bytes == 0
    assert await database.fetch(PID) == [(pid,)]
    assert len(await database.fetch(TEXTS, {"characters": 20_000, "rows": 20})) == 20


@pytest.mark.parametrize(("characters", "rows"), [(2_000_000, 1), (100_000, 20), (1_000, 2_000), (1, 150_000)])
async def test_rows_are_counted_whatever_their_size(database: Database, characters: int, rows: int) -> None:
    with ResultBudgets(4_000_000, 10**9, 10**9).limit_operation() as budget:
        found = await database.fetch(TEXTS, {"characters": characters, "rows": rows})
        assert [len(found), len(found[-1].text)] == [rows, characters]
        assert budget.row_bytes > 0.8 * characters * rows


async def test_statements_of_an_operation_share_a_budget(database: Database) -> None:
    with ResultBudgets(500_000, 10**9, 10**9).limit_operation():
        await database.fetch(TEXTS, {"characters": 100_000, "rows": 3})
        with pytest.raises(LimitExceeded):
            await database.fetch(TEXTS, {"characters": 100_000, "rows": 3})
    async with database.transaction() as connection:
        assert len(await connection.fetch(TEXTS, {"characters": 100_000, "rows": 8})) == 8


async def test_operations_share_the_budget_of_a_process(database: Database) -> None:
    budgets = ResultBudgets(1_600_000, 1_000_000, 200_000)
    with budgets.limit_operation():
        await database.fetch(TEXTS, {"characters": 100_000, "rows": 9})
        with budgets.limit_operation():
            # Less than a share.
            await database.fetch(TEXTS, {"characters": 90_000, "rows": 2})
            with pytest.raises(Unavailable, match="Too many large responses"):
                await database.fetch(TEXTS, {"characters": 100_000, "rows": 9})
    with budgets.limit_operation():
        await database.fetch(TEXTS, {"characters": 100_000, "rows": 9})


async def test_long_results_leave_turns_to_others(database: Database) -> None:
    async with measured_load() as load:
        assert len(await database.fetch(TEXTS, {"characters": 500_000, "rows": 400})) == 400
    assert load.longest_stall_seconds < load.seconds / 2


async def test_uncancellable_statement_closes_its_connection(
    database: Database, empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "CANCEL_TIMEOUT_SECONDS", 0.0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await database.fetch(SLOW)
    assert [tuple(row) for row in await database.fetch(ONE)] == [(1,)]


async def test_write_to_read_only_database_is_unavailable(database: Database, empty_url: str) -> None:
    name = psycopg.conninfo.conninfo_to_dict(empty_url)["dbname"]
    with psycopg.connect(empty_url, autocommit=True) as operator:
        operator.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'.encode())
    async with Database(empty_url, size=1) as read_only:
        with pytest.raises(Unavailable) as raised:
            await read_only.fetch(MAKE)
    assert isinstance(raised.value.__cause__, psycopg.errors.ReadOnlySqlTransaction)
    assert "read-only" in (read_only.write_problem or "")


async def test_failed_rollback_does_not_replace_the_cancellation(database: Database) -> None:
    async def forget_and_wait() -> None:
        async with database.transaction() as connection:
            await connection.raw.execute("DEALLOCATE ALL")
            await connection.fetch(SLOW)

    # ROLLBACK would be prepared here.
    with pytest.raises(psycopg.errors.DivisionByZero):
        await run_in_transaction(database, (FAILS, {"number": 0}))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await forget_and_wait()


async def test_terminated_connection_ends_its_transaction(database: Database, empty_url: str) -> None:
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
