"""Faults of connections to Postgres, by network, server or pooler: statements fail in time, and transactions stay atomic."""

import asyncio
from collections.abc import Callable, Iterator

import psycopg
import pytest
import uvloop
from sqlalchemy import text

from storefront.core.db import database as databases
from storefront.core.db import pipeline
from storefront.core.db.database import Database, compile_statement
from storefront.core.errors import Unavailable
from tests.postgres_proxy import LAST_WORDS, PostgresProxy, postgres_proxy

ONE, TWO = compile_statement(text("SELECT 1 AS one")), compile_statement(text("SELECT CAST(:number AS integer) AS two"))
SLOW = compile_statement(text("SELECT pg_sleep(60)"))
MAKE = compile_statement(text("CREATE TABLE made (id integer)"))
NAMES = compile_statement(text("SELECT name FROM pg_prepared_statements ORDER BY 1"))
LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


@pytest.fixture
def proxy(empty_url: str) -> Iterator[PostgresProxy]:
    with postgres_proxy(empty_url) as running:
        yield running


async def end_while_waiting(proxy: PostgresProxy, last_words: bytes) -> str:
    """The error of a statement in a transaction whose connection is reset before the response."""
    async with Database(proxy.url(), size=1) as database:
        ended = ""
        try:
            async with database.transaction() as connection:
                await connection.fetch(ONE)
                asyncio.get_running_loop().call_later(0.2, proxy.reset, last_words)
                # Far below the statement timeout: the reset ends the statement.
                async with asyncio.timeout(8):
                    await connection.fetch(SLOW)
        except Unavailable as error:
            ended = str(error.__cause__)
        assert [tuple(row) for row in await database.fetch(ONE)] == [(1,)]
    return ended


@pytest.mark.parametrize("make_loop", LOOPS, ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("last_words", [LAST_WORDS, LAST_WORDS[:20], b""], ids=["whole", "half", "none"])
async def test_connection_reset_raises_last_server_error(
    proxy: PostgresProxy, make_loop: Callable[[], asyncio.AbstractEventLoop], last_words: bytes
) -> None:
    def run() -> str:
        with asyncio.Runner(loop_factory=make_loop) as runner:
            return runner.run(end_while_waiting(proxy, last_words))

    ended = await asyncio.to_thread(run)
    assert ended
    if last_words == LAST_WORDS:
        assert "administrator command" in ended


@pytest.mark.parametrize("make_loop", LOOPS, ids=["asyncio", "uvloop"])
async def test_frozen_connection_times_out(
    proxy: PostgresProxy, make_loop: Callable[[], asyncio.AbstractEventLoop], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "BATCH_GRACE_SECONDS", 0.2)

    async def wait() -> None:
        async with Database(proxy.url(), size=1, statement_timeout=200) as database:
            await database.fetch(ONE)
            proxy.freeze()
            async with asyncio.timeout(8):
                with pytest.raises(Unavailable) as raised:
                    await database.fetch(ONE)
            assert isinstance(raised.value.__cause__, pipeline.PipelineTimeoutError)
            proxy.heal()
            assert [tuple(row) for row in await database.fetch(ONE)] == [(1,)]

    def run() -> None:
        with asyncio.Runner(loop_factory=make_loop) as runner:
            runner.run(wait())

    await asyncio.to_thread(run)


@pytest.mark.parametrize("state", ["statement", "cancelled statement", "copy"])
async def test_terminated_pool_ends_work_on_silent_connections(proxy: PostgresProxy, state: str) -> None:
    async with Database(proxy.url(), size=2) as database:

        async def wait() -> None:
            async with database.transaction() as connection:
                await connection.fetch(ONE)
                proxy.freeze()
                if state == "copy":
                    async with connection.raw.cursor() as cursor, cursor.copy("COPY (SELECT 7) TO STDOUT") as copy:
                        await copy.read()
                await connection.fetch(ONE)

        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0.2)
        if state == "cancelled statement":
            waiting.cancel()
            await asyncio.sleep(0.1)
        database.terminate_after(0.1)
        with pytest.raises(asyncio.CancelledError if state == "cancelled statement" else Unavailable):
            await asyncio.wait_for(waiting, 2)
        with pytest.raises(Unavailable):
            await database.fetch(ONE)


async def test_transaction_respects_longer_timeout(proxy: PostgresProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "BATCH_GRACE_SECONDS", 0.0)
    naps = compile_statement(text("SELECT CAST(pg_sleep(0.4) AS text), current_setting('statement_timeout') AS set"))
    async with Database(proxy.url(), size=1, statement_timeout=200) as database:
        async with database.transaction(statement_timeout=60_000) as connection:
            assert [row.set for row in await connection.fetch(naps)] == ["1min"]
        [(usual,)] = await database.fetch(compile_statement(text("SELECT current_setting('statement_timeout') AS set")))
        assert usual == "200ms"


async def test_connection_cut_anywhere_keeps_writes_atomic(proxy: PostgresProxy) -> None:
    table_lookup = compile_statement(text("SELECT to_regclass('made') AS name"))
    drop = compile_statement(text("DROP TABLE IF EXISTS made"))

    async def write(database: Database) -> None:
        async with database.transaction() as connection:
            connection.enqueue(ONE)
            connection.enqueue(TWO, {"number": 2})
            await connection.flush()
            connection.enqueue(MAKE)

    outcomes = set()
    for number in range(1, 40):
        async with Database(proxy.url(), size=2, pool_timeout=5) as database:
            await database.fetch(drop)
            await database.fetch(ONE)
            proxy.carried, proxy.cut_after = 0, number
            try:
                async with asyncio.timeout(20):
                    await write(database)
                outcome = "done"
            except Unavailable as error:
                outcome = "not done" if "before anything was done" in str(error) else "unknown"
            proxy.heal()
            [(name,)] = await database.fetch(table_lookup)
            outcomes.add(outcome)
            assert outcome == "unknown" or name == ("made" if outcome == "done" else None), (number, outcome, name)
            counted = database.get_pool_stats()
            assert counted.connections == counted.free
        if outcome == "done":
            break
    assert outcomes == {"done", "not done", "unknown"}


async def test_statement_name_derives_from_text_and_types(empty_url: str) -> None:
    names = []
    for _ in range(2):
        async with Database(empty_url, size=1) as database:
            await database.fetch(ONE)
            await database.fetch(TWO, {"number": 1})
            await database.fetch(NAMES)
            names.append([row.name for row in await database.fetch(NAMES)])
    assert names[0] == names[1] and len(names[0]) == 3
    assert len({pipeline.derive_statement_name((b"SELECT $1", types)) for types in [(), (23,), (20,)]}) == 3


@pytest.mark.parametrize(
    "spoil", ["DEALLOCATE ALL", 'DEALLOCATE ALL; PREPARE "{0}" AS SELECT 99'], ids=["forgotten", "of another client"]
)
async def test_lost_prepared_statement_is_executed_unprepared(empty_url: str, spoil: str) -> None:
    async with Database(empty_url, size=1) as database:
        await database.fetch(ONE)
        await database.fetch(TWO, {"number": 1})
        name = pipeline.derive_statement_name((MAKE.numbered_sql, ())).decode()
        async with database.transaction() as connection:
            await connection.raw.execute(spoil.format(name).encode())
            if "PREPARE" not in spoil:
                await connection.raw.execute("SELECT 1")
        assert [tuple(row) for row in await database.fetch(TWO, {"number": 2})] == [(2,)]
        await database.fetch(MAKE)
        assert [row.name for row in await database.fetch(compile_statement(text("SELECT to_regclass('made') AS name")))] == [
            "made"
        ]


async def test_lost_prepared_statement_rolls_back_transaction(empty_url: str) -> None:
    async with Database(empty_url, size=1) as database:
        await database.fetch(TWO, {"number": 1})

        async def write() -> None:
            async with database.transaction() as connection:
                await connection.fetch(MAKE)
                await connection.raw.execute("DEALLOCATE ALL")
                await connection.fetch(TWO, {"number": 2})

        with pytest.raises(psycopg.errors.InvalidSqlStatementName):
            await write()
        assert [row.name for row in await database.fetch(compile_statement(text("SELECT to_regclass('made') AS name")))] == [None]
        await database.fetch(TWO, {"number": 2})


@pytest.mark.parametrize("ends", [True, False], ids=["commit", "statement"])
async def test_transaction_that_is_silent_too_long_is_ended(empty_url: str, monkeypatch: pytest.MonkeyPatch, ends: bool) -> None:
    monkeypatch.setattr(databases, "IDLE_IN_TRANSACTION_MS", 100)
    async with Database(empty_url, size=1) as database:

        async def fall_silent() -> None:
            async with database.transaction() as connection:
                await connection.fetch(MAKE)
                await asyncio.sleep(0.4)
                if not ends:
                    await connection.fetch(ONE)

        with pytest.raises(Unavailable):
            await fall_silent()
        assert [row.name for row in await database.fetch(compile_statement(text("SELECT to_regclass('made') AS name")))] == [None]
