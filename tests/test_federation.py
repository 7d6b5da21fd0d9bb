"""The schema as a subgraph of a federated graph: it composes with others, and a router can resolve its entities."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from graphql import build_schema, print_type
from typer.testing import CliRunner

from storefront.cli.main import app
from storefront.core.ids import uuid7
from storefront.graph.federation import LOOKUP_FIELDS
from storefront.schema import build_federation_schema, schema
from tests.client import Client
from tests.clients.npm import CLIENTS, installed, lines
from tests.conftest import fresh, serving
from tests.factories import count_statements, make_product, make_review, make_store, make_user, make_variant

# Another team's subgraph: it adds a field to products, and returns products of which it knows the ids.
SHIPPING = """
extend schema @link(url: "https://specs.apollo.dev/federation/v2.3", import: ["@key"])

type Query {
  fastestProducts: [Product!]!
}

type Product @key(fields: "id") {
  id: ID!
  deliveryDays: Int!
}
"""
ENTITIES = """query($representations: [_Any!]!) { _entities(representations: $representations) {
  __typename ... on User { id name email } ... on Config { id slug } ... on Product { id title config { slug } }
  ... on ProductVariant { id sku } ... on Review { id rating }
} }"""


def print_federation_sdl() -> str:
    result = CliRunner().invoke(app, ["schema", "--federation"])
    assert result.exit_code == 0
    return result.output


@pytest.fixture(scope="module")
def subgraph() -> str:
    return print_federation_sdl()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server(postgres: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    async with serving(fresh(postgres, template), tmp_path_factory.mktemp("federation"), federation=True) as client:
        yield client


def represent(type_: str, id_: str) -> dict[str, Any]:
    return {"__typename": type_, "id": id_}


# ------------------------------------------------------------------------------------------------------------ SDL


async def test_subgraph_composes_with_another(subgraph: str, tmp_path: Path) -> None:
    paths = [tmp_path / "storefront.graphql", tmp_path / "shipping.graphql"]
    for path, text in zip(paths, (subgraph, SHIPPING), strict=True):
        path.write_text(text)
    folder = CLIENTS / "schema"
    [composed] = await lines(installed(folder), str(folder / "compose.mjs"), *map(str, paths))
    assert composed["errors"] == []
    api = build_schema(composed["api"])
    product = api.type_map["Product"].fields  # type: ignore[attr-defined]
    assert {"title", "variants", "deliveryDays"} <= set(product)
    assert {"fastestProducts", "product"} <= set(api.type_map["Query"].fields)  # type: ignore[attr-defined]
    assert "FieldSelectionMap" not in api.type_map


async def test_composer_reports_conflicts(subgraph: str, tmp_path: Path) -> None:
    paths = [tmp_path / "storefront.graphql", tmp_path / "shipping.graphql"]
    for path, text in zip(paths, (subgraph, SHIPPING.replace("deliveryDays", "title")), strict=True):
        path.write_text(text)
    folder = CLIENTS / "schema"
    [composed] = await lines(installed(folder), str(folder / "compose.mjs"), *map(str, paths))
    assert any("Product.title" in message for message in composed["errors"])


def test_nodes_have_keys_and_lookups(subgraph: str) -> None:
    nodes = {type_.name for type_ in schema._schema.get_possible_types(schema._schema.type_map["Node"])}  # type: ignore[arg-type]
    keyed = {line.split()[1] for line in subgraph.splitlines() if line.startswith("type ") and '@key(fields: "id")' in line}
    assert keyed == nodes >= {"Product", "ProductVariant", "Config", "User", "Review"}
    assert subgraph.count(" @lookup\n") == len(LOOKUP_FIELDS)
    assert subgraph.count('by: ProductByInput! @is(field: "{ id }")') == 1


def test_federation_adds_only_its_root_fields() -> None:
    printed = schema.as_str()
    assert not [word for word in ("@key", "@link", "@lookup", "_Any", "_entities", "_service") if word in printed]
    base, served = schema._schema, build_federation_schema(has_service=True)._schema
    assert set(served.type_map) - set(base.type_map) == {"_Any", "_Entity", "_Service"}
    differing = [name for name, type_ in base.type_map.items() if print_type(type_) != print_type(served.type_map[name])]
    assert differing == ["Query"]
    added = set(served.query_type.fields) - set(base.query_type.fields)  # type: ignore[union-attr]
    assert added == {"_entities", "_service"}


# --------------------------------------------------------------------------------------------------------- server


async def test_server_returns_its_subgraph(server: Client, subgraph: str) -> None:
    service = (await server.ask("{ _service { sdl } }"))["_service"]
    assert service["sdl"].strip() == subgraph.strip()


async def test_entities_are_resolved_in_order(server: Client) -> None:
    owner = await make_user(server.database, name="Ada")
    store = await make_store(server.database, user_id=owner)
    product = await make_product(server.database, store, title="Copper mug")
    variant, review = await make_variant(server.database, product, sku="MUG-1"), await make_review(server.database, product)
    ids = {"Product": product, "Review": review, "ProductVariant": variant, "Config": store, "User": owner}
    representations = [represent(type_, id_) for type_, id_ in ids.items()]
    # No object, and an object of another type.
    representations += [represent("Product", str(uuid7())), represent("Product", variant), represent("Product", product)]
    entities = (await server.ask(ENTITIES, representations=representations))["_entities"]
    assert [entity and (entity["__typename"], entity["id"]) for entity in entities] == [
        *ids.items(),
        None,
        None,
        ("Product", product),
    ]
    assert entities[0]["title"] == "Copper mug"
    assert entities[4]["email"] is None


async def test_hidden_entities_are_null_for_all_but_their_owner(server: Client) -> None:
    owner = await make_user(server.database)
    store = await make_store(server.database, user_id=owner, is_published=False)
    representations = [represent("Config", store), represent("Product", await make_product(server.database, store))]
    assert (await server.ask(ENTITIES, representations=representations))["_entities"] == [None, None]
    entities = (await server.signed_in(owner).ask(ENTITIES, representations=representations))["_entities"]
    assert [entity["id"] for entity in entities] == [one["id"] for one in representations]


async def test_entities_are_read_in_batch(server: Client) -> None:
    store = await make_store(server.database)
    products = [represent("Product", await make_product(server.database, store)) for _ in range(20)]
    with count_statements(server.database) as few:
        await server.ask(ENTITIES, representations=products[:1])
    with count_statements(server.database) as many:
        await server.ask(ENTITIES, representations=products)
    assert len(many) == len(few)


@pytest.mark.parametrize(
    ("representations", "field"),
    [
        ([represent("Product", str(uuid7()))] * 101, "representations"),
        ([{"__typename": "Product"}], "representations.0"),
        ([{"id": str(uuid7())}], "representations.0"),
        (["Product"], "representations.0"),
        ([represent("Product", "7")], "representations.0.id"),
    ],
)
async def test_invalid_representations_are_refused(server: Client, representations: list[Any], field: str) -> None:
    error = await server.refusal(ENTITIES, representations=representations)
    assert (error["extensions"]["code"], error["extensions"]["field"]) == ("BAD_USER_INPUT", field)


async def test_other_fields_are_as_without_federation(server: Client) -> None:
    store = await make_store(server.database)
    product = await make_product(server.database, store, title="Copper mug")
    query = "query($id: ID!) { node(id: $id) { id } product(by: { id: $id }) { title config { id } } }"
    assert await server.ask(query, id=product) == {
        "node": {"id": product},
        "product": {"title": "Copper mug", "config": {"id": store}},
    }


async def test_hidden_schema_is_not_served(empty_url: str, tmp_path: Path) -> None:
    async with serving(empty_url, tmp_path, federation=True, introspection=False) as client:
        error = await client.refusal("{ _service { sdl } }")
        assert error["extensions"]["code"] == "GRAPHQL_VALIDATION_FAILED"
        assert (await client.ask(ENTITIES, representations=[]))["_entities"] == []


async def test_server_without_federation_serves_no_entities(shopper: Client) -> None:
    response = (await shopper.post("{ _service { sdl } }")).json()
    assert json.dumps(response).count("GRAPHQL_VALIDATION_FAILED") == 1
