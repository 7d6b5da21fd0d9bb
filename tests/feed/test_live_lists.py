"""Live lists: the list of a client that applies each event equals a fresh query, for all filters, searches and sort orders."""

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storefront.products.list_diff import Enter, Leave, Move, compute_steps
from storefront.products.list_events import ProductListSnapshot
from tests.client import Client
from tests.conftest import serving
from tests.factories import count_statements, make_product, make_store, make_user
from tests.feed.test_feed import CREATE, DELETE, PUBLISH, UNPUBLISH, UPDATE, Listener, create, listening
from tests.feed.test_filtered_feed import FilteredWalk

Row = dict[str, Any]

PRODUCT = "product { id title price version }"
LIST = f"""subscription($c: ID!, $filter: ProductFilterInput, $search: String, $sort: ProductSortInput, $first: Int! = 20) {{
  productList(configId: $c, filter: $filter, search: $search, sort: $sort, first: $first) {{
    __typename position totalCount
    ... on ProductListSnapshot {{ products {{ id title price version }} }}
    ... on ProductListEnter {{ index {PRODUCT} clientMutationId }}
    ... on ProductListLeave {{ index productId reason clientMutationId }}
    ... on ProductListMove {{ fromIndex toIndex {PRODUCT} changedFields clientMutationId }}
    ... on ProductListUpdate {{ index {PRODUCT} changedFields clientMutationId }}
    ... on ProductListHeartbeat {{ sentAt }}
  }} }}"""


class LiveList:
    """A client's list: it applies each event, and nothing else."""

    def __init__(self, listener: Listener, variables: Row) -> None:
        self.listener, self.variables = listener, variables
        self.products: list[Row] = []
        self.total = 0
        self.position = -1
        self.events: list[Row] = []

    async def next(self) -> Row:
        message = await self.listener.message()
        assert message["type"] == "next" and "errors" not in message["payload"], message
        event: Row = message["payload"]["data"]["productList"]
        self.apply(event)
        return event

    def apply(self, event: Row) -> None:
        rows = self.products
        match event["__typename"].removeprefix("ProductList"):
            case "Snapshot":
                self.products = event["products"]
            case "Enter":
                assert 0 <= event["index"] <= len(rows)
                rows.insert(event["index"], event["product"])
            case "Leave":
                assert rows[event["index"]]["id"] == event["productId"]
                del rows[event["index"]]
            case "Move":
                assert rows[event["fromIndex"]]["id"] == event["product"]["id"]
                del rows[event["fromIndex"]]
                assert 0 <= event["toIndex"] <= len(rows)
                rows.insert(event["toIndex"], event["product"])
            case "Update":
                assert rows[event["index"]]["id"] == event["product"]["id"]
                rows[event["index"]] = event["product"]
        assert len(self.products) <= self.variables.get("first", 20)
        assert int(event["position"]) >= self.position
        self.total, self.position = event["totalCount"], int(event["position"])
        self.events.append(event)

    async def settle(self, expected: Row) -> None:
        """Apply events until the list is as expected. Fails if it does not become so."""
        while (self.products, self.total) != (expected["nodes"], expected["totalCount"]):
            try:
                await self.next()
            except TimeoutError:
                assert (self.products, self.total) == (expected["nodes"], expected["totalCount"]), self.variables


@asynccontextmanager
async def following(client: Client, store: str, **variables: Any) -> AsyncIterator[LiveList]:
    """A live list that has had its snapshot."""
    async with listening(client, store, LIST, **variables) as listener:
        live_list = LiveList(listener, variables)
        assert (await live_list.next())["__typename"] == "ProductListSnapshot"
        yield live_list


async def fetch_lists(client: Client, store: str, lists: Sequence[Row]) -> list[Row]:
    """Fresh queries of lists, in one request."""
    types = {"filter": "ProductFilterInput", "search": "String", "sort": "ProductSortInput", "first": "Int"}
    declared, fields, values = "$c: ID!", "", dict[str, Any]()
    for n, variables in enumerate(lists):
        # Only those that are given: a search counts, even if it is null.
        declared += "".join(f" ${name}{n}: {types[name]}" for name in variables)
        arguments = " ".join(f"{name}: ${name}{n}" for name in variables)
        fields += f" l{n}: products(configId: $c {arguments}) {{ totalCount nodes {{ id title price version }} }}"
        values |= {f"{name}{n}": value for name, value in variables.items()}
    return [*(await client.ask(f"query({declared}) {{ {fields} }}", c=store, **values)).values()]


async def fetch_list(client: Client, store: str, variables: Row) -> Row:
    return (await fetch_lists(client, store, [variables]))[0]


@pytest.fixture
async def owner(shopper: Client) -> Client:
    return shopper.signed_in(await make_user(shopper.database))


@pytest.fixture
async def store(owner: Client) -> str:
    return await make_store(owner.database, user_id=(await owner.ask("{ me { id } }"))["me"]["id"])


SORTS: tuple[Row, ...] = (
    *({"key": key} for key in ("CREATED_AT", "UPDATED_AT", "PRICE", "NAME", "POPULARITY", "RATING")),
    {"key": "PRICE", "order": "DESC"},
    {"key": "CREATED_AT", "order": "ASC"},
)
FILTERS: tuple[Row, ...] = (
    {},
    {"maxPrice": "9.99"},
    {"minPrice": "8", "maxPrice": "19"},
    {"attributes": [{"name": "size", "values": ["s", "Tiny"]}]},
    {"inStock": True},
    {"tags": ["red", "crimson"]},
    {"categories": ["Mugs"]},
    {"minRating": 3},
    {"tags": ["red"], "maxPrice": "10", "inStock": True},
)
OWNER_FILTERS: tuple[Row, ...] = ({}, {"statuses": ["INACTIVE", "ARCHIVED"]}, {"inStock": False})


def list_variables(random: Random) -> tuple[list[Row], list[Row]]:
    """The variables of lists for a shopper and for the owner: every filter and sort order, and windows of several sizes."""
    filtered = [
        {"filter": filter_, "sort": SORTS[number % len(SORTS)], "first": random.choice((2, 4, 50))}
        for number, filter_ in enumerate((*FILTERS, *OWNER_FILTERS))
    ]
    searches: list[Row] = [{"search": "new"}, {"search": "a", "sort": {"key": "PRICE"}, "first": 2}]
    return [*filtered[: len(FILTERS)], *({"sort": sort, "first": 3} for sort in SORTS), *searches], filtered[len(FILTERS) :]


async def check_walk(shopper: Client, seed: int, writes: int) -> Counter[str]:
    """Compare the lists with fresh queries after each of some random writes; returns the numbers of events by type."""
    database, user = shopper.database, await make_user(shopper.database)
    store = await make_store(database, user_id=user)
    reviewers = [shopper.signed_in(await make_user(database)) for _ in range(3)]
    owner = shopper.signed_in(user)
    walk = FilteredWalk(owner, reviewers, store, Random(seed))

    async def delete_product() -> bool:
        return await walk.mutate(DELETE.replace("$input", "$i"), id=walk.pick_products(1)[0])

    kinds: tuple[Callable[[], Awaitable[bool]], ...] = (
        *(walk.create_product, walk.update_product, walk.bulk_update_products, walk.update_product_prices),
        *(walk.create_variant, walk.update_variant, walk.update_variant, walk.delete_variant, walk.adjust_inventory),
        *(walk.import_file, walk.update_details, walk.update_details, walk.rename_options, walk.set_variants),
        *(walk.review, walk.update_review, walk.moderate_review, walk.delete_review, delete_product, walk.create_product),
    )
    for _ in range(6):
        await make_product(database, store)
    seen = Counter[str]()
    async with AsyncExitStack() as stack:
        lists = [
            (client, [await stack.enter_async_context(following(client, store, **variables)) for variables in given])
            for client, given in zip((shopper, owner), list_variables(walk.random), strict=True)
        ]
        for _ in range(writes):
            walk.products = await walk.load_products()
            await walk.random.choice(kinds)()
            for client, live_lists in lists:
                expected = await fetch_lists(client, store, [live_list.variables for live_list in live_lists])
                for live_list, fresh in zip(live_lists, expected, strict=True):
                    await live_list.settle(fresh)
        for _, live_lists in lists:
            for live_list in live_lists:
                seen.update(event["__typename"].removeprefix("ProductList") for event in live_list.events)
    return seen


async def test_lists_equal_fresh_queries_after_each_change(shopper: Client) -> None:
    seen = await check_walk(shopper, 1, 15)
    assert seen.keys() >= {"Snapshot", "Enter", "Leave", "Update", "Heartbeat"}


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(20))
async def test_lists_equal_fresh_queries_after_many_changes(shopper: Client, seed: int) -> None:
    seen = await check_walk(shopper, seed, 250)
    assert seen.keys() >= {"Snapshot", "Enter", "Leave", "Move", "Update", "Heartbeat"}


@given(st.lists(st.integers(0, 12), unique=True), st.lists(st.integers(0, 12), unique=True), st.sets(st.integers(0, 12)))
def test_steps_lead_from_one_list_to_another(old: list[int], new: list[int], changed: set[int]) -> None:
    rows, wanted = [f"{n}" for n in old], [f"{n}" for n in new]
    steps = compute_steps(rows, wanted, {f"{n}" for n in changed})
    current = [*rows]
    for step in steps:
        match step:
            case Leave(id_, index) | Move(id_, index, _):
                assert current.pop(index) == id_
        match step:
            case Enter(id_, index) | Move(id_, _, index):
                assert index <= len(current)
                current.insert(index, id_)
        assert len(current) <= max(len(rows), len(wanted))
    assert current == wanted
    kept = [id_ for id_ in rows if id_ in wanted]
    moved = [step.id for step in steps if isinstance(step, Move)]
    if [id_ for id_ in kept if int(id_) not in changed] == [id_ for id_ in wanted if id_ in kept and int(id_) not in changed]:
        # Those that stayed as they are stay where they are.
        assert {*map(int, moved)} <= changed


async def test_events_name_what_happened(shopper: Client, owner: Client, store: str) -> None:
    ids = [await create(owner, store, title=title, price=price) for title, price in (("A", "1"), ("B", "2"), ("C", "3"))]
    async with following(shopper, store, sort={"key": "PRICE"}, first=2, filter={"maxPrice": "10"}) as live_list:
        assert ([row["title"] for row in live_list.products], live_list.total, live_list.position) == (["A", "B"], 3, 3)
        await owner.ask(UPDATE, input={"id": ids[0], "title": "Aa", "clientMutationId": "m1"})
        updated = await live_list.next()
        assert updated["__typename"] == "ProductListUpdate" and (updated["index"], updated["clientMutationId"]) == (0, "m1")
        assert updated["changedFields"] == ["title"] and updated["product"]["title"] == "Aa"
        await owner.ask(UPDATE, input={"id": ids[0], "price": "2.5"})
        moved = await live_list.next()
        assert (moved["__typename"], moved["fromIndex"], moved["toIndex"]) == ("ProductListMove", 0, 1)
        await owner.ask(UPDATE, input={"id": ids[0], "price": "4"})
        left, entered = await live_list.next(), await live_list.next()
        assert (left["__typename"], left["reason"], left["position"]) == ("ProductListLeave", None, "5")
        assert (entered["__typename"], entered["product"]["title"], entered["position"]) == ("ProductListEnter", "C", "6")
        await owner.ask(UPDATE, input={"id": ids[1], "price": "40"})
        assert (await live_list.next())["reason"] == "FILTERED" and (await live_list.next())["index"] == 1
        await owner.ask(DELETE, input={"id": ids[2]})
        left = await live_list.next()
        assert (left["reason"], left["totalCount"]) == ("REMOVED", 1)
        # Nothing of what is outside: a change that alters neither its rows nor its total.
        await owner.ask(UPDATE, input={"id": ids[1], "title": "Bb"})
        assert await live_list.listener.silence(0.2)


async def test_total_follows_products_beyond_the_window(shopper: Client, owner: Client, store: str) -> None:
    await create(owner, store, price="1")
    async with following(shopper, store, sort={"key": "PRICE"}, first=1) as live_list:
        await create(owner, store, price="2")
        heartbeat = await live_list.next()
        assert (heartbeat["__typename"], heartbeat["totalCount"], heartbeat["position"]) == ("ProductListHeartbeat", 2, "2")


async def test_many_changes_at_once_are_a_snapshot(shopper: Client, owner: Client, store: str) -> None:
    bulk = "mutation($i: BulkCreateProductsInput!) { bulkCreateProducts(input: $i) { userErrors { message } } }"
    async with following(shopper, store, first=5) as live_list:
        rows = [{"title": f"P{n}", "price": "1"} for n in range(50)]
        assert (await owner.ask(bulk, i={"configId": store, "rows": rows}))["bulkCreateProducts"]["userErrors"] == []
        expected = await fetch_list(shopper, store, {"first": 5})
        await live_list.settle(expected)
        assert len(live_list.events) <= 7


async def test_shoppers_see_an_unpublished_store_as_empty(shopper: Client, owner: Client, store: str) -> None:
    await create(owner, store)
    async with following(shopper, store) as live_list, following(owner, store) as own:
        await owner.ask(UNPUBLISH, input={"id": store})
        assert (await live_list.next())["__typename"] == "ProductListSnapshot"
        assert (live_list.products, live_list.total) == ([], 0)
        await owner.ask(CREATE, input={"configId": store, "title": "Hidden", "price": "1"})
        assert (await own.next())["product"]["title"] == "Hidden"
        assert await live_list.listener.silence(0.2)
        await owner.ask(PUBLISH, input={"id": store})
        await live_list.settle(await fetch_list(shopper, store, {}))
        assert live_list.total == 2


async def test_equal_lists_are_evaluated_once(shopper: Client, owner: Client, store: str) -> None:
    product = await create(owner, store)
    other = await create(owner, store, title="Other")
    # The newest two, and one beyond them.
    await create(owner, store), await create(owner, store)
    cheap = {"first": 2, "filter": {"maxPrice": "10"}}
    async with AsyncExitStack() as stack:
        lists = [await stack.enter_async_context(following(shopper, store, **cheap)) for _ in range(5)]
        with count_statements(shopper.database) as statements:

            def count_readings() -> int:
                return len([sql for sql in statements if "sort_value" in sql and "count(*) AS total" in sql])

            # Neither the order nor the filter depends on the title.
            await owner.ask(UPDATE, input={"id": product, "title": "Cup"})
            # A price may bring a product out of it: it is looked up whether it did.
            await owner.ask(UPDATE, input={"id": product, "price": "6"})
            await lists[0].listener.silence(0.2)
            assert count_readings() == 0
            await owner.ask(DELETE, input={"id": other})
            events = [await live_list.next() for live_list in lists]
            assert count_readings() == 1
        assert all(event == events[0] for event in events) and events[0]["totalCount"] == 3


REFUSED: tuple[tuple[Row, str], ...] = (
    ({"first": 0}, "first"),
    ({"first": 101}, "first"),
    ({"sort": {"key": "RELEVANCE"}}, "sort.key"),
    ({"filter": {"statuses": ["INACTIVE"]}}, "filter.statuses"),
    ({"filter": {"minPrice": "5", "maxPrice": "1"}}, "filter.minPrice"),
)


def has_snapshots() -> bool:
    gc.collect()
    return any(isinstance(one, ProductListSnapshot) for one in gc.get_objects())


async def test_lists_hold_no_products_while_nothing_changes(shopper: Client, owner: Client, store: str) -> None:
    await create(owner, store)
    async with following(shopper, store) as live_list:
        assert len(live_list.products) == 1
        async with asyncio.timeout(10):
            # Subscribers that come at the same time share a snapshot for a second.
            while has_snapshots():  # noqa: ASYNC110
                await asyncio.sleep(0.2)


@pytest.mark.parametrize(("variables", "path"), REFUSED)
async def test_lists_that_cannot_be_are_refused(shopper: Client, store: str, variables: Row, path: str) -> None:
    async with listening(shopper, store, LIST, **variables) as listener:
        message = await listener.message()
    assert message["type"] == "error" and path in str(message["payload"]), message


async def test_the_number_of_different_lists_is_bounded(empty_url: str, tmp_path: Path) -> None:
    async with serving(empty_url, tmp_path, max_live_lists=1) as shopper:
        store = await make_store(shopper.database)
        async with following(shopper, store), following(shopper, store), listening(shopper, store, LIST, first=1) as refused:
            message = await refused.message()
            assert message["type"] == "error" and "live lists" in message["payload"][0]["message"]
        # The last listener's end is known to the server a little later.
        async with asyncio.timeout(5):
            while True:
                async with listening(shopper, store, LIST, first=1) as listener:
                    if (await listener.message())["type"] == "next":
                        break
