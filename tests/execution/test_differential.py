"""Differential tests: the breadth-first executor and graphql-core's executor return the same for random documents.

If several errors make the same position null, GraphQL leaves open which of them is reported, and graphql-core reports the first:
which one that is depends on how long loads take. Only there may responses differ: the data is the same, the same positions are
null, and the reported errors are among those that graphql-core finds without error propagation.
"""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import Any

import orjson
import pytest
import pytest_asyncio
from graphql import ExecutionResult, execute, execute_sync, parse
from graphql.execution import Executor
from psycopg import IntegrityError

from storefront.core.db.database import Database
from storefront.execution.executor import BreadthFirstExecutor
from storefront.execution.plan import DocumentPlans
from storefront.graph.context import Context, Viewer
from storefront.products.changes import load_change_page
from storefront.schema import fix_introspection, schema
from storefront.serving.run.results import format_result
from tests.conftest import fresh
from tests.execution.documents import Drawn, documents
from tests.execution.faults import WATCH, FaultyContext, Watch, watched
from tests.execution.shop import DAMAGES, REFUSED, Shop, damage, open_shop

SCHEMA = schema._schema

# The tables of which Postgres writes rows as JSON.
WRITTEN = "products", "product_variants", "reviews"

# What graphql-core cancels before it has begun is never awaited.
LEFT = r"(Executor\.|GraphQLCoreConverter\.|_awaited)"
pytestmark = pytest.mark.filterwarnings(
    f"ignore:coroutine '{LEFT}.*' was never awaited:RuntimeWarning",
    f"ignore:Exception ignored in. <coroutine object {LEFT}:pytest.PytestUnraisableExceptionWarning",
)


class Thorough(Executor[Any]):
    """graphql-core's executor with all errors told: null stays where an error happened, even where none may be."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.error_propagation = False


class Listener(logging.Handler):
    """Notes why something was left to graphql-core."""

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message.startswith("completed by the reference executor"):
            WATCH.get().reasons.append(message)


@pytest.fixture(scope="module", autouse=True)
def observed() -> Iterator[None]:
    """All executions of this module are watched, and what they log of faults is not kept."""
    received, failures = logging.getLogger("storefront.execution"), logging.getLogger("storefront")
    listener, level = Listener(), failures.level
    received.addHandler(listener)
    received.setLevel(logging.DEBUG)
    received.propagate = False
    failures.setLevel(logging.CRITICAL)
    complete = Executor.complete_object_value

    def counted(self: Executor[Any], *arguments: Any) -> Any:
        WATCH.get().objects += 1
        return complete(self, *arguments)

    with pytest.MonkeyPatch.context() as patch, watched(SCHEMA):
        patch.setattr(Executor, "complete_object_value", counted)
        yield
    received.removeHandler(listener)
    received.setLevel(logging.NOTSET)
    received.propagate = True
    failures.setLevel(level)


@pytest_asyncio.fixture(autouse=True)
async def swept() -> AsyncIterator[None]:
    """What is left of cancelled tasks is found in the test that left it."""
    # What other tests have left stays, and need not be traversed again.
    gc.collect()
    gc.freeze()
    yield
    # What one collection frees may hold more.
    for _ in range(5):
        await asyncio.sleep(0.01)
        gc.collect()


@pytest_asyncio.fixture(scope="module")
async def shop(postgres: str, template: str) -> AsyncIterator[Shop]:
    async with Database(fresh(postgres, template)) as database:
        yield await open_shop(database)


@pytest_asyncio.fixture(scope="module")
async def damaged(postgres: str, template: str) -> AsyncIterator[Shop]:
    """A shop in whose tables there is what should not be there."""
    async with Database(fresh(postgres, template)) as database:
        opened = await open_shop(database)
        await damage(opened)
        yield replace(opened, is_damaged=True)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client gets, and what it does not get to see of the errors: text and kind of those that are masked."""

    text: bytes
    data: Any = None
    errors: tuple[bytes, ...] = ()
    nulled: frozenset[tuple[str | int, ...]] = frozenset()


async def executed(
    drawn: Drawn, context: Context, watch: Watch, root: Any = None, executor: type[Executor[Any]] = Executor, **options: Any
) -> Answer:
    """One execution."""
    WATCH.set(watch)
    result = execute(
        SCHEMA,
        drawn.parsed,
        root_value=root,
        context_value=context,
        variable_values=drawn.variables,
        operation_name=drawn.operation_name,
        executor_class=executor,
        **options,
    )
    if isinstance(result, ExecutionResult):
        return answer_of(result)
    async with asyncio.timeout(20):
        return answer_of(await result)


def answer_of(result: ExecutionResult) -> Answer:
    """The result as it is served, and in parts."""
    served = format_result(result, "request")
    try:
        # Some of it may have been written by Postgres, with spaces.
        text = orjson.dumps(orjson.loads(orjson.dumps(served)))
    except TypeError as error:
        return Answer(str(error).encode())
    errors = result.errors or []
    hidden = [(one.message, type(one.original_error).__name__) for one in errors]
    whole = tuple(orjson.dumps(one) for one in zip(served.get("errors", ()), hidden, strict=True))
    data = orjson.loads(text).get("data")
    return Answer(text, data, whole, frozenset(null_for(one.path or [], data) for one in errors))


def null_for(path: Sequence[str | int], data: Any) -> tuple[str | int, ...]:
    """Where data is null for an error at a path."""
    for depth, key in enumerate(path):
        if data is None:
            return tuple(path[:depth])
        data = data[key]
    return tuple(path)


async def compared(
    shop: Shop, drawn: Drawn, viewer: Viewer | None, plans: DocumentPlans, seed: int | None = None, root: Any = None
) -> Watch:
    """Execute by both and compare; returns what was seen of the breadth-first one."""
    reads_rows = seed is not None or shop.is_damaged
    theirs, ours = Watch(seed, reads_rows), Watch(seed, reads_rows)

    def context() -> Context:
        return shop.context(viewer, Context if seed is None else FaultyContext)

    about = f"{drawn.query}\n{drawn.variables}\n{viewer}, {seed=}"
    try:
        expected = await executed(drawn, context(), theirs, root)
        got = await executed(drawn, context(), ours, root, BreadthFirstExecutor, plans=plans)
    except BaseException as error:
        raise AssertionError(f"no answer\n{about}") from error
    assert ours.roots == theirs.roots, f"root fields were resolved another number of times\n{about}"
    if got != expected:
        ours.is_other_error = True
        every = set((await executed(drawn, context(), Watch(seed, reads_rows), root, Thorough)).errors)
        for found in (expected, got):
            fits = found.data == expected.data and found.nulled == expected.nulled and set(found.errors) <= every
            assert fits, f"{about}\ngot      {got}\nexpected {expected}\nof {every}"
    ours.errors, ours.size = len(got.errors), len(got.text)
    return ours


async def all_compared(shop: Shop, start: int, count: int, *, with_faults: bool = False) -> list[Watch]:
    """So many documents, each by one of the viewers, and once more by the same plans with variables turned round."""
    found = []
    for number, drawn in enumerate(islice(documents(SCHEMA, shop.values, REFUSED, start), count), start):
        viewer, seed = shop.viewers[number % len(shop.viewers)], number if with_faults else None
        plans = DocumentPlans(drawn.parsed)
        found.append(await compared(shop, drawn, viewer, plans, seed))
        for kind in (int, bool):
            turned = {name: another(value, kind) for name, value in drawn.variables.items()}
            if turned != drawn.variables:
                await compared(shop, replace(drawn, variables=turned), viewer, plans, seed)
    return found


def another(value: Any, kind: type) -> Any:
    """Another number or another condition; anything else as it is."""
    if isinstance(value, bool):
        return not value if kind is bool else value
    return value % 3 + 1 if kind is int and isinstance(value, int) else value


HOW_MANY = pytest.mark.parametrize(("start", "count"), [(0, 500), pytest.param(100_000, 8_000, marks=pytest.mark.soak)])


@HOW_MANY
async def test_random_documents_match_graphql_core(shop: Shop, start: int, count: int) -> None:
    found = await all_compared(shop, start, count)
    # Only errors are left to graphql-core, and nothing else is done by it.
    assert [watch for watch in found if watch.reasons and not watch.errors] == []
    assert [watch for watch in found if watch.objects and not watch.reasons] == []
    assert sum(bool(watch.reasons) for watch in found) < count * 0.03
    assert sum(watch.is_other_error for watch in found) < count * 0.01
    assert sum(not watch.errors for watch in found) > count / 2


@HOW_MANY
async def test_odd_database_values_match_graphql_core(damaged: Shop, start: int, count: int) -> None:
    found = await all_compared(damaged, start + count, count // 2)
    assert sum(bool(watch.reasons) for watch in found) > count * 0.01
    assert sum(watch.is_other_error for watch in found) < count * 0.02


@HOW_MANY
async def test_faults_match_graphql_core(shop: Shop, start: int, count: int) -> None:
    found = await all_compared(shop, start + 2 * count, count, with_faults=True)
    assert sum(bool(watch.reasons) for watch in found) > count * 0.1
    assert sum(watch.is_other_error for watch in found) < count * 0.03


LISTED = "products(configId: $store)"

# What can be wrong far below a root field, which looks at what is selected there.
WRONG_BELOW = [
    ("$n: Int", f"{LISTED} {{ nodes {{ id related(first: $n) {{ handle }} }} }}"),
    ("$n: Boolean = true", f"{LISTED} {{ nodes {{ variants(availableOnly: $n) {{ nodes {{ id }} }} }} totalCount }}"),
    ("$n: Boolean = true", f"{LISTED} {{ nodes {{ id @skip(if: $n) }} }}"),
    ("$n: Boolean = true", f"{LISTED} {{ nodes {{ config {{ owner {{ name @include(if: $n) }} }} }} }}"),
    ("$n: Int", f"{LISTED} {{ nodes {{ related {{ config {{ owner {{ configs(first: $n) {{ totalCount }} }} }} }} }} }}"),
    ("$n: Int", "config(by: {id: $store}) { id products { nodes { related(first: $n) { handle } } } }"),
    (
        "$n: Boolean = true",
        "searchProducts(input: {configId: $store}) { products { variants(availableOnly: $n) { nodes { id } } } }",
    ),
    ("$n: Boolean = true", "config(by: {id: $store}) { theme { primaryColor @skip(if: $n) } slug }"),
    (
        '$n: DateRangeInput = {from: "2026-01-01T00:00:00Z", to: "2026-02-01T00:00:00Z"}',
        "config(by: {id: $store}) { slug analytics(range: $n) { pageViews } }",
    ),
]


@pytest.mark.parametrize("number", range(len(WRONG_BELOW)))
async def test_lookahead_leaves_errors_to_their_field(shop: Shop, number: int) -> None:
    variable, selection = WRONG_BELOW[number]
    query = f"query Asked($store: ID!, {variable}) {{ {selection} me {{ id }} }}"
    drawn = Drawn(query, {"store": shop.values["configId"][0], "n": None}, None, parse(query))
    watch = await compared(shop, drawn, shop.viewers[0], DocumentPlans(drawn.parsed))
    assert watch.errors == 1
    assert not watch.is_other_error


@pytest.mark.parametrize(("table", "name", "value"), [each[:3] for each in DAMAGES if each[0] in WRITTEN])
async def test_json_from_postgres_is_complete(shop: Shop, table: str, name: str, value: str) -> None:
    with pytest.raises(IntegrityError):
        async with shop.database.transaction() as connection:
            await connection.raw.execute(f"UPDATE {table} SET {name} = {value}".encode())


async def test_is_one_of_is_null_for_wrapped_types(shop: Shop) -> None:
    # Another test may have built a schema of its own.
    fix_introspection()
    one, many = '__type(name: "ProductByInput")', '__type(name: "ProductFilterInput")'
    WATCH.set(Watch())
    asked = parse(f"{{ by: {one} {{ isOneOf }} filter: {many} {{ isOneOf inputFields {{ type {{ isOneOf }} }} }} }}")
    result = execute_sync(SCHEMA, asked)
    assert result.errors is None
    assert result.data is not None
    assert (result.data["by"]["isOneOf"], result.data["filter"]["isOneOf"]) == (True, False)
    assert {field["type"]["isOneOf"] for field in result.data["filter"]["inputFields"]} == {None}


async def test_subscription_events_match_graphql_core(shop: Shop) -> None:
    listening = documents(SCHEMA, shop.values, REFUSED, 0, "subscription")
    drawn = islice((one for one in listening if "productFeed" in one.query), 300)
    owner = shop.viewers[0]
    page = await load_change_page(shop.context(owner), shop.values["configId"][0], 0, 100)
    kinds = {type(event): event for event in page.changes}
    assert len(kinds) >= 3
    for number, (one, event) in enumerate(zip(drawn, cycle(kinds.values()), strict=False)):
        viewer = shop.viewers[number % len(shop.viewers)]
        await compared(shop, one, viewer, DocumentPlans(one.parsed), number if number % 2 else None, event)


async def test_mutation_payloads_match_graphql_core(postgres: str, template: str) -> None:
    async with Database(fresh(postgres, template)) as database:
        opened = await open_shop(database)
        # Without a viewer the arguments of mutations are not read.
        viewers = [viewer for viewer in opened.viewers if viewer]
        for number, drawn in enumerate(islice(documents(SCHEMA, opened.values, REFUSED, 0, "mutation"), 200)):
            viewer = viewers[number % len(viewers)]
            # Done once; from then on told again.
            await executed(drawn, opened.context(viewer), Watch())
            await compared(opened, drawn, viewer, DocumentPlans(drawn.parsed), number if number % 2 else None)
