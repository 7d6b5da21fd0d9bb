"""Statement counts (N+1): the number of statements depends on the document, never on the number of rows."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from graphql import (
    FieldNode,
    GraphQLObjectType,
    TypeInfo,
    TypeInfoVisitor,
    Visitor,
    get_named_type,
    is_abstract_type,
    is_composite_type,
    parse,
    visit,
)

from storefront.core.db.database import Database
from storefront.core.ids import uuid7
from storefront.feed.log import LogEntry, append_entries
from storefront.schema import schema
from tests.client import Client
from tests.conftest import fresh, serving
from tests.factories import (
    count_statements,
    insert,
    insert_rows,
    make_image,
    make_job,
    make_product,
    make_review,
    make_store,
    make_user,
    make_variant,
)

DOCUMENTS = {path.stem: path.read_text() for path in sorted((Path(__file__).parent / "documents").glob("*.graphql"))}
FEW, MANY = 1, 20


async def insert_stock(database: Database, store: str, handle: str) -> None:
    """Insert a product with everything that a document may select."""
    product = await make_product(database, store, handle=handle, title="Copper Lantern", category="Light", tags=["copper"])
    for size in ("S", "M"):
        await make_variant(database, product, attributes={"Size": size})
        await make_image(database, product)
    for _ in range(2):
        reviewer = await make_user(database)
        await make_review(database, product, user_id=reviewer)
        await make_product(database, await make_store(database, user_id=reviewer))
    entries = [
        LogEntry(kind=f"product_{kind}", entity_id=product, product_id=product, is_visible=True)
        for kind in ("created", "updated")
    ]
    await insert(database, "analytics_events", config_id=store, event="product_click", properties={"productId": product})
    async with database.transaction() as connection:
        await append_entries(connection, store, [*entries, LogEntry(kind="config_updated", entity_id=store)])


async def insert_webhook(database: Database, store: str, count: int) -> str:
    """Insert a webhook with this many deliveries."""
    hook = await insert(database, "webhooks", config_id=store, url="https://example.com", read_as="owner", secret="-", position=0)
    about = {"config_id": store, "webhook_id": hook, "type": "product.updated", "lane": store}
    await insert_rows(
        database, "webhook_deliveries", [{"id": str(uuid7()), **about, "position": position} for position in range(count)]
    )
    return hook


async def create_market(client: Client, count: int) -> tuple[Client, dict[str, Any]]:
    """Insert `count` stores of one owner, the first with `count` + 1 products; returns the owner and all documents' variables."""
    user = await make_user(client.database)
    document = {"primaryColor": "#000", "secondaryColor": "#fff", "fontFamily": "serif"}
    stores = [await make_store(client.database, user_id=user, slug=f"market-{n}", theme=document) for n in range(count)]
    for number, store in enumerate([*stores, *stores[:1] * count]):
        await insert_stock(client.database, store, f"lantern-{number}")
    hooks = [await insert_webhook(client.database, stores[0], count) for _ in range(count)]
    jobs = {}
    for kind in ("import", "export") * count:
        jobs[kind] = await make_job(client.database, stores[0], user, kind, issues=count)
    for store in stores:
        await insert_webhook(client.database, store, count)
        await make_job(client.database, store, user)
    names = {**jobs, "slug": "market-0", "config": stores[0], "handle": "lantern-0", "webhook": hooks[0]}
    today = datetime.now(UTC)
    range_ = {"from": (today - timedelta(days=7)).isoformat(), "to": (today + timedelta(days=1)).isoformat()}
    return client.signed_in(user), {**names, "range": range_, "words": "copper lan", "offset": 0, "position": "0"}


@pytest_asyncio.fixture(scope="module")
async def markets(
    postgres: str, template: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[dict[int, tuple[Client, dict[str, Any]]]]:
    """A server with few rows and a server with many."""
    folder = tmp_path_factory.mktemp("markets")
    async with serving(fresh(postgres, template), folder) as small, serving(fresh(postgres, template), folder) as large:
        yield {FEW: await create_market(small, FEW), MANY: await create_market(large, MANY)}


def longest(data: Any) -> int:
    """The length of the longest list in a response."""
    if isinstance(data, dict):
        return max((longest(value) for value in data.values()), default=0)
    return max([len(data), *map(longest, data)]) if isinstance(data, list) else 0


@pytest.mark.parametrize("name", DOCUMENTS)
async def test_statement_count_is_independent_of_rows(markets: dict[int, tuple[Client, dict[str, Any]]], name: str) -> None:
    async def count_once(count: int) -> int:
        client, variables = markets[count]
        used_variables = {key: value for key, value in variables.items() if f"${key}:" in DOCUMENTS[name]}
        with count_statements(client.database) as statements:
            data = await client.ask(DOCUMENTS[name], **used_variables)
        assert longest(data) >= count
        return len(statements)

    # Branches of a document that reach the same edge share one batch if they reach it in the same moment, which a busy machine
    # prevents or causes: several runs are compared. Statements per row would be in each of them.
    costs: dict[int, set[int]] = {FEW: set(), MANY: set()}
    for _ in range(20):
        for count in markets:
            costs[count].add(await count_once(count))
        if costs[FEW] & costs[MANY]:
            break
    assert costs[FEW] & costs[MANY], costs


@pytest.mark.parametrize(
    ("query", "cost"),
    [
        ("products(configId: $c) { nodes { id } }", 1),
        ("products(configId: $c) { totalCount }", 1),
        (
            """products(configId: $c) {
              pageInfo { hasNextPage } edges { cursor node { title priceRange { min } variants { totalCount } } } }""",
            1,
        ),
        ("products(configId: $c) { facets { __typename } }", 1),
        ("products(configId: $c) { facets { tags { value } attributes { name } } }", 3),
        ("products(configId: $c) { nodes { reviews(rating: 5) { totalCount } reviewSummary { count } } }", 1),
        ("products(configId: $c) { nodes { reviews { totalCount pageInfo { hasNextPage } } reviewSummary { count } } }", 2),
        ("config(by: {id: $c}) { reviews { nodes { id } } }", 2),
        ("config(by: {id: $c}) { reviews { totalCount } }", 2),
        ("config(by: {id: $c}) { reviews { totalCount nodes { id product { title } user { name } } } }", 5),
        ("config(by: {id: $c}) { id theme { primaryColor } }", 1),
        ("config(by: {id: $c}) { id products { nodes { id config { id owner { id } } } } }", 3),
        ("config(by: {id: $c}) { owner { configs { nodes { id } } } }", 3),
        ("config(by: {id: $c}) { owner { configs { totalCount } } }", 4),
        ("configs { nodes { id } }", 1),
        ("configs { totalCount nodes { id } }", 2),
        ('searchProducts(input: {configId: $c, q: "copper"}) { products { id } pagination { total } }', 3),
        ('productChanges(configId: $c, after: "0") { position }', 3),
    ],
)
async def test_only_selected_fields_cost_statements(
    markets: dict[int, tuple[Client, dict[str, Any]]], query: str, cost: int
) -> None:
    owner, variables = markets[MANY]
    client = Client(owner.http, owner.database)
    text = f"query($c: ID!) {{ {query} }}" if "$c" in query else f"{{ {query} }}"
    with count_statements(client.database) as statements:
        await client.ask(text, **({"c": variables["config"]} if "$c" in query else {}))
    assert len(statements) == cost


class _Edges(Visitor):
    """Collects the fields of a document that lead from one type to another."""

    def __init__(self, types: TypeInfo) -> None:
        super().__init__()
        self.types = types
        self.found: set[str] = set()

    def enter_field(self, node: FieldNode, *_: object) -> None:
        parent, kind = self.types.get_parent_type(), get_named_type(self.types.get_type())
        if parent and is_composite_type(kind):
            self.found.add(f"{parent.name}.{node.name.value}")


def edges_of(document: str) -> set[str]:
    types = TypeInfo(schema._schema)
    edges = _Edges(types)
    visit(parse(document), TypeInfoVisitor(types, edges))
    return edges.found


def readable(type_: GraphQLObjectType, seen: set[str]) -> Iterator[str]:
    """All edges that are reachable from a type."""
    seen.add(type_.name)
    for name, field in type_.fields.items():
        target = get_named_type(field.type)
        if is_composite_type(target):
            yield f"{type_.name}.{name}"
            for reached in schema._schema.get_possible_types(target) if is_abstract_type(target) else [target]:
                if isinstance(reached, GraphQLObjectType) and reached.name not in seen:
                    yield from readable(reached, seen)


def test_documents_cover_every_edge_of_the_schema() -> None:
    assert schema._schema.query_type
    taken = set[str]().union(*map(edges_of, DOCUMENTS.values()))
    assert {*readable(schema._schema.query_type, set())} - taken == set()
