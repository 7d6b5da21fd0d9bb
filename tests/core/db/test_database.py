"""Recovery from lost connections, after a restart of Postgres or pg_terminate_backend."""

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest
import pytest_asyncio
from psycopg import sql
from sqlalchemy import text

from storefront.core.db.database import Database, compile_statement
from storefront.core.errors import TimedOut, Unavailable
from tests.client import Client
from tests.factories import count_statements, make_product, make_store, make_user

SIZE = 4
ONE = compile_statement(text("SELECT 1 AS one"))
SLOW = compile_statement(text("SELECT pg_sleep(0.2)"))
END_ALL = (
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


@pytest_asyncio.fixture
async def database(empty_url: str) -> AsyncIterator[Database]:
    async with Database(empty_url, size=SIZE) as opened:
        # Open all connections of the pool, not only the first.
        await asyncio.gather(*(opened.fetch(SLOW) for _ in range(SIZE)))
        yield opened


def terminate_connections(url: str) -> int:
    """Terminate all connections to the database; returns their number."""
    with psycopg.connect(url, autocommit=True) as connection:
        return len(connection.execute(sql.SQL(END_ALL)).fetchall())


async def test_statement_gets_a_live_connection(database: Database, empty_url: str) -> None:
    assert terminate_connections(empty_url) == SIZE
    assert [await database.fetch(ONE) for _ in range(20)] == [[(1,)]] * 20


async def test_concurrent_statements_get_live_connections(database: Database, empty_url: str) -> None:
    terminate_connections(empty_url)
    assert await asyncio.gather(*(database.fetch(ONE) for _ in range(20))) == [[(1,)]] * 20


async def test_transaction_begins_on_a_live_connection(database: Database, empty_url: str) -> None:
    assert terminate_connections(empty_url) == SIZE

    async def one() -> list[tuple[int]]:
        async with database.transaction() as connection:
            return await connection.fetch(ONE)

    assert await asyncio.gather(*(one() for _ in range(20))) == [[(1,)]] * 20


async def test_started_transaction_is_not_retried(database: Database, empty_url: str) -> None:
    async def broken() -> None:
        async with database.transaction() as connection:
            await connection.fetch(ONE)
            terminate_connections(empty_url)
            await connection.fetch(ONE)

    with count_statements(database) as seen, pytest.raises(Unavailable, match="before anything was done"):
        await broken()
    assert len(seen) == 2
    assert await database.fetch(ONE) == [(1,)]


async def test_statement_that_loses_each_connection_is_repeated_twice(empty_url: str) -> None:
    async with Database(empty_url, size=12) as database:
        await asyncio.gather(*(database.fetch(SLOW) for _ in range(12)))
        assert database.get_pool_stats().free == 12
        with count_statements(database) as statements, pytest.raises(Unavailable):
            await database.fetch(compile_statement(text("SELECT pg_terminate_backend(pg_backend_pid())")))
        # The connections that were idle meanwhile may have ended as well: none is tried.
        assert len(statements) == 3 and database.get_pool_stats() == (0, 0, 0)


async def test_failed_statement_is_not_retried(empty_url: str) -> None:
    async with Database(empty_url, statement_timeout=50) as database:
        with count_statements(database) as seen, pytest.raises(TimedOut, match="50 ms"):
            await database.fetch(SLOW)
        assert len(seen) == 1


async def test_failed_transaction_is_rolled_back(database: Database) -> None:
    async def failing(failure: Exception) -> None:
        async with database.transaction() as connection:
            await connection.fetch(compile_statement(text("CREATE TABLE made ()")))
            raise failure

    with pytest.raises(ZeroDivisionError):
        await failing(ZeroDivisionError())
    await failing(psycopg.Rollback())
    assert await database.fetch(compile_statement(text("SELECT to_regclass('made') AS made"))) == [(None,)]


async def test_requests_survive_terminated_connections(client: Client, empty_url: str) -> None:
    user = client.signed_in(await make_user(client.database))
    store = await make_store(client.database, user_id=(await user.ask("{ me { id } }"))["me"]["id"])
    product = await make_product(client.database, store)
    write = "mutation($p: ID!) { adjustInventory(input: {changes: [{id: $p, delta: 1}]}) { variants { inventory } } }"
    read = "query($p: ID!) { product(by: {id: $p}) { inventory } }"
    for document, answers in ((read, [5] * 20), (write, list(range(6, 26)))):
        await asyncio.gather(*(client.ask(read, p=product) for _ in range(20)))
        assert terminate_connections(empty_url) > 0
        responses = [await user.ask(document, p=product) for _ in range(20)]
        stocks = [answer["adjustInventory"]["variants"] if document == write else [answer["product"]] for answer in responses]
        assert stocks == [[{"inventory": stock}] for stock in answers]
