"""A connection pooler in transaction mode: statements and settings are correct on any backend."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from storefront import doctor
from storefront.core.db.database import Database, compile_statement
from tests.conftest import serving
from tests.factories import make_product, make_store, make_user
from tests.pgbouncer import needs_pgbouncer, pgbouncer

pytestmark = needs_pgbouncer

MOMENT = compile_statement(
    text("SELECT CAST('2026-03-01 12:00:00+02' AS timestamptz) AS at, current_setting('statement_timeout') AS limit")
)
UPDATE = """mutation($i: UpdateProductInput!) { updateProduct(input: $i) {
  product { id title price createdAt } userErrors { message } } }"""
READ = (
    "query($id: ID!) { product(by: {id: $id}) { id title variants { nodes { name } } reviews(first: 2) { nodes { rating } } } }"
)


@pytest.fixture
def pooled_url(empty_url: str) -> Iterator[str]:
    with pgbouncer(empty_url) as url:
        yield url


async def test_pooled_statement_is_never_confused_with_another(pooled_url: str) -> None:
    # Different types and numbers of values: a confused statement would be detected.
    statements = [
        compile_statement(text(f"SELECT {n} AS n, CAST(:value AS {kind}) AS value"))
        for n in range(12)
        for kind in ("text", "int")
    ]

    async def ask(database: Database, number: int) -> None:
        statement = statements[number % len(statements)]
        value: object = str(number) if number % 2 == 0 else number
        async with database.transaction() as connection:
            [row] = await connection.fetch(statement, {"value": value})
            [again] = await connection.fetch(statements[(number + 2) % len(statements)], {"value": value})
        [alone] = await database.fetch(statement, {"value": value})
        assert (row, again.value) == (alone, value) and row.n == number % len(statements) // 2

    async with Database(pooled_url, size=10) as first, Database(pooled_url, size=10) as second:
        await asyncio.gather(*(ask((first, second)[n % 3 == 0], n) for n in range(600)))


async def test_pooled_settings_apply_in_each_transaction(pooled_url: str) -> None:
    async with Database(pooled_url, size=5, statement_timeout=7_000) as database:
        rows = await asyncio.gather(*(database.fetch(MOMENT) for _ in range(40)))
        assert {tuple(row) for [row] in rows} == {("2026-03-01T10:00:00Z", "7s")}
        async with database.transaction(statement_timeout=9_000) as connection:
            assert [tuple(row) for row in await connection.fetch(MOMENT)] == [("2026-03-01T10:00:00Z", "9s")]
    async with Database(pooled_url, size=5, statement_timeout=0) as other:
        # Settings of one client do not leak to the next one.
        rows = await asyncio.gather(*(other.fetch(MOMENT) for _ in range(40)))
        assert {row.limit for [row] in rows} == {"0"}


@pytest.mark.parametrize("prepared_statements", ["auto", "on"])
async def test_server_behind_pooler_executes_all_writes(
    pooled_url: str, database: Database, tmp_path: Path, prepared_statements: str
) -> None:
    user = await make_user(database)
    store = await make_store(database, user_id=user)
    products = [await make_product(database, store) for _ in range(10)]
    settings: dict[str, Any] = {"pool_size": 20, "prepared_statements": prepared_statements}
    async with serving(pooled_url, tmp_path / "one", **settings) as one, serving(pooled_url, tmp_path / "two", **settings) as two:

        async def write(number: int) -> None:
            client = (one, two)[number % 2].signed_in(user)
            product = products[number % len(products)]
            changes = {"id": product, "title": f"Title {number}"}
            payload = (await client.ask(UPDATE, i=changes))["updateProduct"]
            assert payload["userErrors"] == [] and payload["product"]["title"] == f"Title {number}"
            assert (await client.ask(READ, id=product))["product"]["id"] == product

        await asyncio.gather(*(write(number) for number in range(150)))
    [(head,)] = await database.fetch(compile_statement(text("SELECT position FROM store_positions")))
    assert head == 150


async def test_doctor_reports_pooler_in_transaction_mode(empty_url: str, pooled_url: str) -> None:
    assert [finding.remedy for finding in doctor.check_database(empty_url)] == ["", ""]
    states = [finding.state for finding in doctor.check_database(pooled_url)]
    assert any("transaction mode" in state for state in states)
    with pgbouncer(empty_url, mode="session") as session:
        assert not any("transaction mode" in finding.state for finding in doctor.check_database(session))
