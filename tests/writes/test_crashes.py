"""A crash at any statement of a write commits all of it or nothing, and the response exposes no internals."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import psycopg
import pytest
import pytest_asyncio

from storefront.core import request_context
from storefront.core.db.database import Database
from storefront.core.db.pipeline import Pipeline, QueuedStatement
from storefront.core.result_budget import ResultBudget
from storefront.queries.store_lookup import find_row_keys
from storefront.serving.errors import MASKED_ERROR_MESSAGE
from tests.client import Client
from tests.conftest import fresh, serving
from tests.factories import count_statements, make_product, make_store, make_user
from tests.snapshots import fetch_row_versions

ERRORS = "userErrors { code message }"
CREATE = f"mutation($input: CreateProductInput!) {{ createProduct(input: $input) {{ position product {{ id }} {ERRORS} }} }}"
BULK = f"""mutation($input: BulkUpdateProductsInput!) {{ bulkUpdateProducts(input: $input) {{
  position results {{ index }} {ERRORS} }} }}"""
ADJUST = f"mutation($input: AdjustInventoryInput!) {{ adjustInventory(input: $input) {{ position variants {{ id }} {ERRORS} }} }}"
UPDATE = f"mutation($input: UpdateProductInput!) {{ updateProduct(input: $input) {{ position product {{ id }} {ERRORS} }} }}"
CONFIG = f"mutation($input: UpdateConfigInput!) {{ updateConfig(input: $input) {{ position config {{ id }} {ERRORS} }} }}"

# Who wants to write the log. A poll that wants to read it waits, too, and may come first.
WAITING = """SELECT pid FROM pg_locks WHERE NOT granted AND relation = 'changes'::regclass AND mode = 'RowExclusiveLock'
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""

Work = tuple[str, dict[str, Any]]


@pytest_asyncio.fixture(scope="module")
async def shop(postgres: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    """A server with a database of its own, so that only its connections are terminated."""
    url = fresh(postgres, template)
    async with serving(url, tmp_path_factory.mktemp("crashes")) as client:
        user = await make_user(client.database)
        yield client.signed_in(user)


async def work(shop: Client, name: str) -> Work:
    """The write with a fresh input, usable once."""
    me = (await shop.ask("{ me { id } }"))["me"]["id"]
    store = await make_store(shop.database, user_id=me)
    products = [await make_product(shop.database, store) for _ in range(250 if name == "bulkUpdateProducts" else 2)]
    # As of any product that was read or written before: the stores of ids are looked up once.
    await find_row_keys(shop.database, products)
    forms = [{"price": "2", "attributes": [{"name": "Size", "value": size}]} for size in ("S", "M", "L")]
    token = {"shopify": {"domain": "a.myshopify.com", "accessToken": "shpat_0123456789"}}
    works: dict[str, Work] = {
        "createProduct": (CREATE, {"configId": store, "title": "New", "price": "1", "variants": forms}),
        "bulkUpdateProducts": (BULK, {"rows": [{"id": id_, "price": "20", "title": "All"} for id_ in products]}),
        "adjustInventory": (ADJUST, {"changes": [{"id": products[0], "delta": -1}]}),
        "updateProduct": (UPDATE, {"id": products[1], "title": "Other", "idempotencyKey": f"key of {store}"}),
        "updateConfig": (CONFIG, {"id": store, "storeName": "Other", "integrations": token}),
    }
    return works[name]


NAMES = "createProduct", "bulkUpdateProducts", "adjustInventory", "updateProduct", "updateConfig"


async def faults_of_logs(database: Database) -> list[Any]:
    """Stores whose log has a gap, or whose position is not that of its last change."""
    faulty = """SELECT config_id FROM changes FULL JOIN store_positions p USING (config_id) GROUP BY config_id, p.position
      HAVING count(changes.position) <> p.position OR max(changes.position) <> p.position OR min(changes.position) <> 1
      OR p.position IS NULL"""
    async with database.transaction() as connection:
        return await (await connection.raw.execute(faulty)).fetchall()


@contextmanager
def at_statement(database: Database, number: int, strike: Callable[[], None]) -> Iterator[list[str]]:
    """Run a fault just before the statement with this number; background jobs' statements do not count."""
    seen: list[str] = []

    def observe(sql: str) -> None:
        if request_context.get_current_context() is None:
            return
        seen.append(sql)
        if len(seen) == number + 1:
            strike()

    database.observers.append(observe)
    try:
        yield seen
    finally:
        database.observers.remove(observe)


def fault_of_ours() -> None:
    raise RuntimeError("secret words of ours")


def killer(url: str) -> Callable[[], None]:
    """Terminate all connections of the server, as a restart of Postgres does."""

    def kill() -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity WHERE datname = current_database() "
                "AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )

    return kill


async def url_of(database: Database, postgres: str) -> str:
    async with database.transaction() as connection:
        [(name,)] = await (await connection.raw.execute("SELECT current_database()")).fetchall()
    return psycopg.conninfo.make_conninfo(postgres, dbname=name)


async def statements(shop: Client, name: str) -> list[str]:
    """The statements of an undisturbed write; the first authenticates the viewer."""
    document, given = await work(shop, name)
    with count_statements(shop.database) as seen:
        answer = await shop.ask(document, input=given)
    assert answer[name]["userErrors"] == [] and answer[name]["position"]
    return seen


def assert_unavailable(response: httpx.Response) -> None:
    assert response.status_code == 503 and response.headers["retry-after"] == "1"
    [error] = response.json()["errors"]
    assert error["extensions"]["code"] == "SERVICE_UNAVAILABLE" and "Send it again" in error["message"]


def assert_masked(response: httpx.Response) -> None:
    body = response.json()
    [error] = body["errors"]
    assert error["message"] == MASKED_ERROR_MESSAGE and error["extensions"]["code"] == "INTERNAL_SERVER_ERROR"
    assert error["extensions"]["requestId"] and set(error["extensions"]) == {"code", "requestId"}
    assert not any((body.get("data") or {}).values())


@pytest.mark.parametrize("way", ["a fault of ours", "a lost connection"])
@pytest.mark.parametrize("name", NAMES)
async def test_crash_at_any_statement_rolls_back(shop: Client, postgres: str, name: str, way: str) -> None:
    strike = fault_of_ours if way == "a fault of ours" else killer(await url_of(shop.database, postgres))
    total = len(await statements(shop, name))
    document, given = await work(shop, name)
    assert total >= 3
    for number in range(1, total):
        before = await fetch_row_versions(shop.database)
        with at_statement(shop.database, number, strike) as seen:
            response = await shop.post(document, input=given)
        # What goes out together is lost together: that the connection is gone shows when the last of it has been sent.
        assert len(seen) == number + 1 or (way == "a lost connection" and len(seen) > number), f"{number} of {total}: {seen}"
        (assert_masked if way == "a fault of ours" else assert_unavailable)(response)
        assert await fetch_row_versions(shop.database) == before and await faults_of_logs(shop.database) == []
    # After all that it still can be done, once, and the next request works.
    answer = (await shop.ask(document, input=given))[name]
    assert answer["userErrors"] == [] and answer["position"]
    assert await faults_of_logs(shop.database) == []


@pytest.mark.parametrize("name", NAMES)
async def test_crash_within_a_batch_rolls_back(shop: Client, postgres: str, name: str) -> None:
    """The connection is lost during the log insert: the work came before it, and the commit follows in the same batch."""
    document, given = await work(shop, name)
    before = await fetch_row_versions(shop.database)
    url = await url_of(shop.database, postgres)
    async with await psycopg.AsyncConnection.connect(url) as other:
        await other.execute("LOCK TABLE changes")
        writing = asyncio.create_task(shop.post(document, input=given))
        while not (await (await other.execute(WAITING)).fetchone()):  # noqa: ASYNC110  it is asked of Postgres
            await asyncio.sleep(0.01)
        await other.execute(f"SELECT pg_terminate_backend(pid, 1000) FROM ({WAITING})")
    assert_unavailable(await writing)
    assert await fetch_row_versions(shop.database) == before and await faults_of_logs(shop.database) == []
    answer = (await shop.ask(document, input=given))[name]
    assert answer["userErrors"] == [] and answer["position"]


async def test_crash_during_authentication_is_masked(shop: Client) -> None:
    with at_statement(shop.database, 0, fault_of_ours):
        response = await shop.post("{ me { id } }")
    assert response.status_code == 500
    assert_masked(response)
    assert "secret words" not in response.text


async def test_crash_after_commit_loses_nothing(shop: Client) -> None:
    document, given = await work(shop, "createProduct")
    asked = document.replace("product { id }", "product { id variants { nodes { id } } }")
    with at_statement(shop.database, len(await statements(shop, "createProduct")), fault_of_ours):
        body = (await shop.post(asked, input={**given, "idempotencyKey": "after"})).json()
    assert [e["extensions"]["code"] for e in body["errors"]] == ["INTERNAL_SERVER_ERROR"]
    assert await faults_of_logs(shop.database) == []
    [made] = (await shop.ask(asked, input={**given, "idempotencyKey": "after"})).values()
    assert len(made["product"]["variants"]["nodes"]) == 3


@pytest.mark.parametrize("name", NAMES)
async def test_write_statement_count_is_bounded(shop: Client, name: str) -> None:
    """Observers do not receive BEGIN, COMMIT and savepoints, so these do not count."""
    seen = await statements(shop, name)
    assert len(seen) == COST[name][0], "\n".join(seen)


@pytest.mark.parametrize("name", NAMES)
async def test_write_round_trip_count_is_bounded(shop: Client, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Statements without a needed result are sent with the next one; BEGIN, COMMIT and savepoints always are."""
    trips: list[int] = []
    exchange = Pipeline.execute_batch

    async def counting(wire: Pipeline, batch: Sequence[QueuedStatement], budget: ResultBudget | None = None) -> None:
        # Jobs in the background are nobody's request.
        if request_context.get_current_context() is not None:
            trips.append(len(batch))
        await exchange(wire, batch, budget)

    document, given = await work(shop, name)
    monkeypatch.setattr(Pipeline, "execute_batch", counting)
    await shop.ask(document, input=given)
    assert len(trips) == COST[name][1], trips


# Statements and trips. The first of each authenticates the viewer; the stores of ids are known.
COST = {
    "createProduct": (6, 2),
    "bulkUpdateProducts": (7, 5),
    "adjustInventory": (8, 6),
    "updateProduct": (7, 6),
    "updateConfig": (4, 3),
}
