"""Each table of a store is restricted to one store in each statement about it: by its own parameter, in the plan of Postgres."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from psycopg.rows import tuple_row

from storefront.background import BACKGROUND_TASK_NAME
from storefront.core.db.pipeline import Pipeline, QueuedStatement
from storefront.core.result_budget import ResultBudget
from storefront.core.storage.disk import DiskStorage
from storefront.media.upload_processing import upload_key
from storefront.models.columns import SQLModel
from tests.client import Client
from tests.conftest import fresh, serving
from tests.test_statement_counts import DOCUMENTS, create_market
from tests.test_tenants import CALLS, MUTATIONS, PICTURE, answer, id_paths, make_world

STORE_TABLES = {table.name for table in SQLModel.metadata.tables.values() if "config_id" in table.c}
# What is of all stores by its nature, by a part of the statement, and why.
GLOBAL = {
    "former_slugs": "slugs are unique among all stores, and lead to one",
    "user_id = $1::UUID": "what a user has written is in the stores of others",
    "'Product' AS type": "an id that comes alone is looked up once: this finds its store",
}


def find_scans(node: dict[str, Any], conditions: str = "") -> Iterator[tuple[dict[str, Any], str]]:
    """The nodes of a plan that read a table, each with its conditions and those of the joins above it."""
    conditions += " ".join(str(value) for name, value in node.items() if name.endswith((" Cond", "Filter")))
    if "Relation Name" in node and node["Node Type"] != "ModifyTable":
        yield node, conditions
    for child in node.get("Plans", ()):
        yield from find_scans(child, conditions)


def is_of_stores(alias: str, conditions: str) -> bool:
    """Whether a table is restricted to one store, to several of one request, or to that of a key or of another row."""
    store = r"(\$\d+|ANY \(\$\d+|\w+\.config_id|(configs|parent)(_\d+)?\.id)"
    column = rf"\b{alias}\.config_id"
    return re.search(rf"{column} = {store}|{store} = {column}", conditions) is not None


@pytest_asyncio.fixture(scope="module")
async def plans(postgres: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, Any]]:
    """The generic plans of all statements of all mutations, of all queries with ids, and of the documents, by their SQL."""
    recorded: set[bytes] = set()
    execute_batch = Pipeline.execute_batch

    url = fresh(postgres, template)

    async def record(pipeline: Pipeline, batch: Sequence[QueuedStatement], budget: ResultBudget | None = None) -> None:
        # Not those of other servers of this process, whose background work goes on, nor sweeps, which are of all stores.
        task = asyncio.current_task()
        if pipeline.raw.info.dbname in url and not (task and task.get_name() == BACKGROUND_TASK_NAME):
            recorded.update(queued.statement.numbered_sql for queued in batch)
        await execute_batch(pipeline, batch, budget)

    folder = tmp_path_factory.mktemp("statements")
    options: dict[str, Any] = {"webhook_http": True, "webhook_networks": "127.0.0.1/32", "job_workers": 0}
    options |= {"max_aliases": 1_000, "max_tokens": 10_000, "max_fields": 2_000, "max_cost": 10_000_000}
    async with serving(url, folder, **options) as shop:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Pipeline, "execute_batch", record)
            await run_everything(shop, folder)
        plans = {}
        async with shop.database.transaction() as connection:
            cursor = connection.raw.cursor(row_factory=tuple_row)
            for sql in sorted(recorded):
                if re.match(rb"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\b", sql):
                    await cursor.execute(b"EXPLAIN (GENERIC_PLAN, VERBOSE, FORMAT JSON) " + sql)
                    [(plan,)] = await cursor.fetchall()
                    plans[sql.decode()] = plan[0]["Plan"]
        yield plans


async def run_everything(shop: Client, folder: Path) -> None:
    world = await make_world(shop.database)
    for call in CALLS:
        if call[0] == "query":
            for client in (shop, shop.signed_in(world.owner), shop.signed_in(world.stranger)):
                await answer(client, call, world.open)
    for name, field_ in MUTATIONS.items():
        own = await make_world(shop.database)
        await DiskStorage(folder / "objects", "", "").put(upload_key(own.open.ids["imageupload"]), PICTURE, "image/png")
        paths = [path for n, a in field_.args.items() for path in id_paths(a.type, n)] or [()]
        await answer(shop.signed_in(own.owner), ("mutation", name, field_, paths[0]), own.open)
    owner, variables = await create_market(shop, 3)
    for document in DOCUMENTS.values():
        await owner.post(document, **{key: value for key, value in variables.items() if f"${key}:" in document})


def test_scans_of_store_tables_are_of_a_store(plans: dict[str, Any]) -> None:
    assert len(plans) > 200
    unrestricted = {
        (scan["Relation Name"], sql)
        for sql, plan in plans.items()
        for scan, conditions in find_scans(plan)
        if scan["Relation Name"] in STORE_TABLES and not is_of_stores(scan["Alias"], conditions)
    }
    reasons = {statement: [part for part in GLOBAL if part in statement[1]] for statement in unrestricted}
    assert [statement for statement, parts in reasons.items() if not parts] == []
    # Each exception is needed.
    assert {part for parts in reasons.values() for part in parts} == {*GLOBAL}
