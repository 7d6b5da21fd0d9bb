"""Cacheability: only fields that are declared personal differ between two viewers.

The document selects every field along every acyclic path, so that new fields are covered, too.
"""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from graphql import (
    GraphQLField,
    GraphQLObjectType,
    get_named_type,
    is_abstract_type,
    is_leaf_type,
    is_required_argument,
    parse,
)

from storefront.schema import schema
from storefront.serving.cache.cacheability import PERSONAL_EXTENSION_KEY, find_cacheability
from tests.client import Client
from tests.conftest import fresh, serving
from tests.factories import make_product, make_review, make_store, make_user, make_variant

GRAPH = schema._schema
assert GRAPH.query_type is not None
QUERY = GRAPH.query_type

# Arguments of fields that require some.
ARGUMENTS = {
    "Query.product": "(by: {id: $product})",
    "Query.config": "(by: {id: $store})",
    "Query.variant": "(by: {id: $variant})",
    "Query.products": "(configId: $store)",
    "Query.searchProducts": "(input: {configId: $store})",
    "Config.predictiveSearch": '(search: "mu")',
    "Config.variants": '(sku: "S")',
    "Config.category": '(by: {path: "Cups"})',
    "Config.product": '(by: {handle: "mug"})',
    "Query.productChanges": '(configId: $store, after: "0")',
    "Product.variant": '(by: {attributes: [{name: "Size", value: "S"}]})',
    "Config.analytics": '(range: {from: "2026-01-01T00:00:00Z", to: "2026-01-02T00:00:00Z"})',
    "Product.analytics": '(range: {from: "2026-01-01T00:00:00Z", to: "2026-01-02T00:00:00Z"})',
}
# Visible to the owner only, and rejected for all others alike.
OWNERS = {"analytics", "events", "webhook", "job"}
# Declared personal as a whole, and too wide to select everything of.
NODES = {"node", "nodes"}
ROOTS = sorted(QUERY.fields.keys() - OWNERS - NODES)

Coordinates = tuple[str, ...]


def selection(type_: Any, above: tuple[str, ...]) -> str:
    """A selection of every field of a type, recursively."""
    if is_abstract_type(type_):
        parts = (f"... on {member.name} {selection(member, above)}" for member in GRAPH.get_possible_types(type_))
        return "{ __typename " + " ".join(parts) + " }"
    assert isinstance(type_, GraphQLObjectType)
    return (
        "{ "
        + " ".join(["__typename", *filter(None, (select_field(type_.name, n, f, above) for n, f in type_.fields.items()))])
        + " }"
    )


def select_field(parent: str, name: str, field: GraphQLField, above: tuple[str, ...]) -> str | None:
    """A field with its arguments and selections, under a unique alias; None where it leads back to a type above."""
    target, coordinate = get_named_type(field.type), f"{parent}.{name}"
    needs = any(is_required_argument(argument) for argument in field.args.values())
    assert not needs or coordinate in ARGUMENTS, f"say in ARGUMENTS how {coordinate} is asked"
    line = f"{parent}_{name}: {name}{ARGUMENTS.get(coordinate, '')}"
    if is_leaf_type(target):
        return line
    if coordinate in ("ProductCreated.product", "ConfigUpdated.config"):
        # As in other types of events and at the root: with all of these `productChanges` selects too much.
        return f"{line} {{ id }}"
    if coordinate == "Category.products":
        # Likewise: `Config.products` selects all of a product.
        return f"{line} {{ totalCount nodes {{ id }} }}"
    if coordinate == "Config.product":
        return f"{line} {{ id }}"
    if coordinate in ("Product.breadcrumbs", "Config.categories"):
        # And `Config.category` all of a category.
        return f"{line} {{ path }}"
    # A connection has its nodes twice (edges and nodes); once suffices.
    if target.name in above or name == "edges":
        return None
    return f"{line} {selection(target, (*above, target.name))}"


def document(root: str) -> str:
    line = select_field("Query", root, QUERY.fields[root], ("Query",))
    variables = " ".join(f"${name}: ID!" for name in ("product", "store", "variant") if f"${name}" in str(line))
    return f"query {f'({variables})' if variables else ''} {{ {line} }}"


def find_differences(one: Any, other: Any, path: Coordinates = ()) -> Iterator[Coordinates]:
    """The paths of the fields in which two responses differ."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for name, value in one.items():
            yield from find_differences(value, other[name], path if name == "__typename" else (*path, name.replace("_", ".", 1)))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for left, right in zip(one, other, strict=True):
            yield from find_differences(left, right, path)
    elif one != other:
        yield path


def is_declared(coordinate: str) -> bool:
    parent, _, name = coordinate.partition(".")
    type_ = GRAPH.type_map[parent]
    assert isinstance(type_, GraphQLObjectType)
    return bool(type_.fields[name].extensions.get(PERSONAL_EXTENSION_KEY))


# A document that selects everything exceeds the limits for clients.
ROOM: dict[str, Any] = {
    "max_document": 1_000_000,
    "max_tokens": 50_000,
    "max_fields": 10_000,
    "max_aliases": 10_000,
    "max_cost": 10_000_000_000,
}


@pytest_asyncio.fixture(scope="module")
async def shopper(postgres: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    async with serving(fresh(postgres, template), tmp_path_factory.mktemp("server"), **ROOM) as large:
        yield large


@pytest.fixture
async def shoppers(shopper: Client) -> tuple[dict[str, str], list[Client]]:
    """A store with a product; two users who have reviewed it and own an unpublished store each; an anonymous client."""
    database, people = shopper.database, []
    store = await make_store(database, integrations={"shopify": {"domain": "x.myshopify.com"}})
    product = await make_product(database, store, title="Mug", category="Cups", tags=["blue"])
    await make_product(database, store, title="Mugs", category="Cups")
    variant = await make_variant(database, product, attributes={"Size": "S"})
    await make_variant(database, product, is_available=False)
    for _ in range(2):
        user = await make_user(database)
        await make_review(database, product, user_id=user)
        await make_product(database, await make_store(database, user_id=user, is_published=False))
        people.append(shopper.signed_in(user))
    return {"product": product, "store": store, "variant": variant}, [*people, shopper]


@pytest.mark.parametrize("root", ROOTS)
async def test_viewer_dependent_fields_are_declared(root: str, shoppers: tuple[dict[str, str], list[Client]]) -> None:
    ids, clients = shoppers
    text = document(root)
    variables = {name: value for name, value in ids.items() if f"${name}" in text}
    first, *others = [(await client.post(text, **variables)).json()["data"] for client in clients]
    assert root == "me" or first[f"Query_{root}"] is not None
    found = {path for other in others for path in find_differences(first, other)}
    assert not {path for path in found if not any(is_declared(coordinate) for coordinate in path)}
    if root == "product":
        # Differences are detected at all.
        assert {path[-1] for path in found} >= {"User.email", "ConfigConnection.totalCount"}


@pytest.mark.parametrize(
    ("text", "personal"),
    [
        ("{ configs { nodes { id } } }", False),
        ("{ configs { nodes { owner { name } } } }", False),
        ("{ configs { nodes { owner { email } } } }", True),
        ("{ configs { nodes { owner { email: name } } } }", False),
        ("{ me { id } }", True),
        (
            "{ configs { nodes { ...A } } } fragment A on Config { ...B } fragment B on Config { owner { email } }",
            True,
        ),
        ("{ configs { nodes { ... on Config { owner { ... { x: email } } } } } }", True),
        ("subscription { productFeed(configId: 1) { ... on ProductCreated { product { title } } } }", False),
        ("subscription { productFeed(configId: 1) { ... on ProductCreated { product { config { owner { email } } } } } }", True),
    ],
)
def test_document_with_personal_field_is_personal(text: str, personal: bool) -> None:
    assert find_cacheability(GRAPH, parse(text)).is_personal is personal
