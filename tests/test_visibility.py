"""A shopper never sees an unpublished store, a product that is not active, or an unavailable variant. The owner does."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from storefront.core.ids import uuid7
from storefront.feed import log
from storefront.feed.log import LogEntry
from tests.client import Client
from tests.factories import make_product, make_review, make_store, make_user, make_variant

EVERYONE = ("shopper", "other", "owner")
INTEGRATIONS = {
    "shopify": {"domain": "x.myshopify.com", "accessToken": "shpat_never_told"},
    "stripe": {"publishableKey": "pk_1"},
    "analytics": {"googleAnalyticsId": "G-1"},
}


@dataclass(frozen=True)
class Shop:
    """A published store with two active products, an inactive and an archived one; an unpublished store with an active one."""

    clients: dict[str, Client]
    owner_id: str
    store: str
    unpublished: str
    slug: str
    ids: dict[str, str]

    async def ask(self, who: str, query: str, **variables: Any) -> Any:
        """The data of a query in which $s is the published store."""
        return await self.clients[who].ask(f"query($s: ID!) {query}" if not variables else query, s=self.store, **variables)

    def named(self, ids: Iterable[str]) -> set[str]:
        """Products by the names that this file has for them."""
        names = {id_: name for name, id_ in self.ids.items()}
        return {names[id_] for id_ in ids}


@pytest_asyncio.fixture(scope="module")
async def shop(shopper: Client) -> Shop:
    database, word = shopper.database, uuid7().hex
    owner, other = [await make_user(database) for _ in range(2)]
    store = await make_store(database, user_id=owner, integrations=INTEGRATIONS)
    slug = f"unpublished-{word}"
    unpublished = await make_store(database, user_id=owner, slug=slug, is_published=False)
    ids = {}
    goods: dict[str, dict[str, Any]] = {
        "lantern": {"title": "Copper lantern", "category": "Light", "tags": ["glow"], "popularity": 1},
        "candle": {"title": "Beeswax candle", "category": "Light", "tags": ["glow"], "price": "20.00"},
        "umbrella": {"title": "Velvet umbrella", "category": "Rain", "tags": ["storm"], "price": "99.00", "status": "inactive"},
        "obelisk": {"title": "Marble obelisk", "category": "Stone", "price": "1.00", "inventory": 0, "status": "archived"},
    }
    for name, values in goods.items():
        ids[name] = await make_product(database, store, handle=name, **values)
    ids["teapot"] = await make_product(database, unpublished, handle="teapot", title="Enamel teapot", category="Tea")
    await make_variant(database, ids["lantern"], sku="small", attributes={"Size": "S"}, price="12.00")
    await make_variant(database, ids["lantern"], sku="huge", attributes={"Size": "XXL"}, price="500.00", is_available=False)
    await make_variant(database, ids["umbrella"], sku="dots", attributes={"Pattern": "Dots"}, price="99.00")
    await make_variant(database, ids["teapot"], sku="pot", attributes={"Size": "L"})
    for product in ids.values():
        await make_review(database, product)
    clients = {"shopper": shopper, "other": shopper.signed_in(other), "owner": shopper.signed_in(owner)}
    return Shop(clients, owner, store, unpublished, slug, ids)


ACTIVE, ALL = {"lantern", "candle"}, {"lantern", "candle", "umbrella", "obelisk"}


@pytest.mark.parametrize("who", EVERYONE)
@pytest.mark.parametrize("name", ["lantern", "umbrella", "obelisk", "teapot"])
async def test_product_by_id_or_handle(shop: Shop, who: str, name: str) -> None:
    seen = who == "owner" or name in ACTIVE
    store = shop.unpublished if name == "teapot" else shop.store
    for by in ({"id": shop.ids[name]}, {"handle": {"configId": store, "handle": name}}):
        found = (await shop.clients[who].ask("query($by: ProductByInput!) { product(by: $by) { id } }", by=by))["product"]
        assert found == ({"id": shop.ids[name]} if seen else None)


@pytest.mark.parametrize("who", EVERYONE)
@pytest.mark.parametrize(("sku", "name"), [("small", "lantern"), ("huge", "lantern"), ("dots", "umbrella"), ("pot", "teapot")])
async def test_product_by_sku(shop: Shop, who: str, sku: str, name: str) -> None:
    by = {"sku": {"configId": shop.unpublished if sku == "pot" else shop.store, "sku": sku}}
    found = (await shop.clients[who].ask("query($by: ProductByInput!) { product(by: $by) { id } }", by=by))["product"]
    assert found == ({"id": shop.ids[name]} if who == "owner" or sku == "small" else None)


@pytest.mark.parametrize("who", EVERYONE)
async def test_lists_and_their_counts(shop: Shop, who: str) -> None:
    connection = "totalCount nodes { id } edges { node { id } }"
    data = await shop.clients[who].ask(
        f"""query($s: ID!, $ids: [ID!]) {{
          plain: products(configId: $s) {{ {connection} }}
          backwards: products(configId: $s, last: 10) {{ {connection} }}
          chosen: products(configId: $s, filter: {{ids: $ids}}) {{ {connection} }}
          found: products(configId: $s, search: "umbrella or obelisk or lantern or candle or teapot") {{ {connection} }}
          of_store: config(by: {{id: $s}}) {{ products {{ {connection} }} }}
          numbered: searchProducts(input: {{configId: $s}}) {{ products {{ id }} pagination {{ total hasNext }} }}
        }}""",
        s=shop.store,
        ids=[*shop.ids.values()],
    )
    expected = ALL if who == "owner" else ACTIVE
    for found in (data["plain"], data["backwards"], data["chosen"], data["found"], data["of_store"]["products"]):
        assert shop.named(node["id"] for node in found["nodes"]) == expected
        assert shop.named(edge["node"]["id"] for edge in found["edges"]) == expected
        assert found["totalCount"] == len(expected)
    assert shop.named(product["id"] for product in data["numbered"]["products"]) == expected
    assert data["numbered"]["pagination"] == {"total": len(expected), "hasNext": False}


@pytest.mark.parametrize("who", EVERYONE)
async def test_only_the_owner_filters_by_status(shop: Shop, who: str) -> None:
    for status, name in (("ACTIVE", None), ("INACTIVE", "umbrella"), ("ARCHIVED", "obelisk")):
        query = f"query($s: ID!) {{ products(configId: $s, filter: {{statuses: [{status}]}}) {{ nodes {{ id }} }} }}"
        if who == "owner":
            found = (await shop.clients[who].ask(query, s=shop.store))["products"]["nodes"]
            assert shop.named(node["id"] for node in found) == ({name} if name else ACTIVE)
        else:
            error = await shop.clients[who].refusal(query, s=shop.store)
            assert (error["extensions"]["code"], error["extensions"]["field"]) == ("FORBIDDEN", "filter.statuses")


@pytest.mark.parametrize("who", EVERYONE)
async def test_facets_and_categories(shop: Shop, who: str) -> None:
    data = await shop.ask(
        who,
        """{ config(by: {id: $s}) { categories { value: path count: productCount } } products(configId: $s) { facets {
             categories { value count } tags { value count } price { min max } availability { value: inStock count }
             attributes { name values { value count } } } } }""",
    )
    owner, facets = who == "owner", data["products"]["facets"]

    def counts(values: list[dict[str, Any]]) -> dict[Any, int]:
        return {value["value"]: value["count"] for value in values}

    categories = {"Light": 2, **({"Rain": 1, "Stone": 1} if owner else {})}
    assert counts(facets["categories"]) == counts(data["config"]["categories"]) == categories
    assert counts(facets["tags"]) == {"glow": 2, **({"storm": 1} if owner else {})}
    # Of available variants, for every viewer.
    assert facets["price"] == ({"min": "1.00", "max": "99.00"} if owner else {"min": "12.00", "max": "20.00"})
    assert counts(facets["availability"]) == ({True: 3, False: 1} if owner else {True: 2})
    attributes = {facet["name"]: counts(facet["values"]) for facet in facets["attributes"]}
    assert attributes == {"Size": {"S": 1}, **({"Pattern": {"Dots": 1}} if owner else {})}


@pytest.mark.parametrize("who", EVERYONE)
async def test_suggestions_reveal_no_hidden_word(shop: Shop, who: str) -> None:
    # A store of its own: other tests count those of the owner.
    shopper = shop.clients["shopper"]
    user = await make_user(shopper.database)
    store = await make_store(shopper.database, user_id=user)
    client = shopper.signed_in(user) if who == "owner" else shop.clients[who]
    # A correction needs two products.
    for title, status in (("Copper lantern", "active"), ("Velvet umbrella", "inactive")):
        await make_product(client.database, store, title=title, status=status)
        await make_product(client.database, store, title=f"Small {title.lower()}", status=status)
    data = await client.ask(
        """query($s: ID!) { config(by: {id: $s}) { shown: predictiveSearch(search: "lant") { suggestions { text } }
             hidden: predictiveSearch(search: "umb") { suggestions { text } }
             misspelt: predictiveSearch(search: "umbrela") { suggestions { text } } }
             known: products(configId: $s, search: "lantren") { correctedSearch totalCount }
             unknown: products(configId: $s, search: "umbrela") { correctedSearch totalCount nodes { id } }
             numbered: searchProducts(input: {configId: $s, q: "umbrela"}) { pagination { total } } }""",
        s=store,
    )
    owner = who == "owner"
    texts = {name: sorted(one["text"] for one in found["suggestions"]) for name, found in data["config"].items()}
    assert (texts["shown"], texts["hidden"], texts["misspelt"]) == (
        ["Copper lantern", "Small copper lantern"],
        *([["Small velvet umbrella", "Velvet umbrella"] if owner else []] * 2),
    )
    assert data["known"] == {"correctedSearch": "lantern", "totalCount": 2}
    assert data["unknown"]["correctedSearch"] == ("umbrella" if owner else None)
    assert data["unknown"]["totalCount"] == data["numbered"]["pagination"]["total"] == (2 if owner else 0)
    # By itself: an operation corrects a few searches only.
    both = await client.ask(
        'query($s: ID!) { products(configId: $s, search: "lantren or umbrela") { correctedSearch } }', s=store
    )
    assert ("umbrella" in both["products"]["correctedSearch"]) == owner


@pytest.mark.parametrize("who", EVERYONE)
async def test_variants(shop: Shop, who: str) -> None:
    data = await shop.clients[who].ask(
        """query($id: ID!) { product(by: {id: $id}) {
             priceRange { min max } plain: variants { nodes { sku } }
             all: variants(availableOnly: false) { totalCount nodes { sku product { id } } }
             huge: variant(by: {attributes: [{name: "Size", value: "XXL"}]}) { sku }
             reviews { nodes { product { id } } } } }""",
        id=shop.ids["lantern"],
    )
    found, owner = data["product"], who == "owner"
    assert [variant["sku"] for variant in found["plain"]["nodes"]] == ["small"]
    assert [variant["sku"] for variant in found["all"]["nodes"]] == (["small", "huge"] if owner else ["small"])
    assert (found["all"]["totalCount"], found["huge"]) == ((2, {"sku": "huge"}) if owner else (1, None))
    # The product's price is that of available variants, for every viewer.
    assert found["priceRange"] == {"min": "12.00", "max": "12.00"}
    back = [found["all"]["nodes"][0]["product"], found["reviews"]["nodes"][0]["product"]]
    assert back == [{"id": shop.ids["lantern"]}] * 2


@pytest.mark.parametrize("who", EVERYONE)
async def test_variant_by_attributes_reveals_no_hidden_variant(shop: Shop, who: str) -> None:
    query = """query($s: ID!, $v: String!) {
      products(configId: $s, filter: {attributes: [{name: "Size", values: [$v]}]}) { totalCount } }"""
    assert (await shop.clients[who].ask(query, s=shop.store, v="S"))["products"]["totalCount"] == 1
    assert (await shop.clients[who].ask(query, s=shop.store, v="XXL"))["products"]["totalCount"] == 0


async def test_owner_paginates_over_hidden_rows(shop: Shop) -> None:
    for name in ("umbrella", "teapot"):
        found = (
            await shop.clients["owner"].ask(
                """query($id: ID!) { product(by: {id: $id}) { config { id } variants { nodes { product { id } } }
                     reviews { totalCount nodes { product { id } } } } }""",
                id=shop.ids[name],
            )
        )["product"]
        assert found["config"]["id"] == (shop.unpublished if name == "teapot" else shop.store)
        assert found["variants"]["nodes"][0]["product"] == found["reviews"]["nodes"][0]["product"] == {"id": shop.ids[name]}


@pytest.mark.parametrize("who", EVERYONE)
async def test_reviews_of_store_are_those_of_visible_products(shop: Shop, who: str) -> None:
    query = """query($s: ID!) { config(by: {id: $s}) { reviews { totalCount nodes { product { id } } }
      backward: reviews(last: 100) { nodes { product { id } } } } }"""
    for store, all_, visible in ((shop.store, ALL, ACTIVE), (shop.unpublished, {"teapot"}, None)):
        found, expected = (await shop.clients[who].ask(query, s=store))["config"], all_ if who == "owner" else visible
        if expected is None:
            assert found is None
            continue
        assert found["reviews"]["totalCount"] == len(expected)
        for page in (found["reviews"], found["backward"]):
            assert shop.named(node["product"]["id"] for node in page["nodes"]) == expected


@pytest.mark.parametrize("who", EVERYONE)
async def test_related_products_are_available(shop: Shop, who: str) -> None:
    query = "query($id: ID!) { product(by: {id: $id}) { related(first: 100) { id } } }"
    found = (await shop.clients[who].ask(query, id=shop.ids["lantern"]))["product"]["related"]
    assert shop.named(product["id"] for product in found) == {"candle"}


@pytest.mark.parametrize("who", EVERYONE)
async def test_stores(shop: Shop, who: str) -> None:
    data = await shop.clients[who].ask(
        """query($s: ID!, $u: ID!, $slug: String!) {
             by_id: config(by: {id: $u}) { id isPublished products { totalCount } } by_slug: config(by: {slug: $slug}) { id }
             configs(first: 100) { nodes { id } edges { node { id } } }
             config(by: {id: $s}) { owner { id configs { totalCount nodes { id } } } } }""",
        s=shop.store,
        u=shop.unpublished,
        slug=shop.slug,
    )
    owner = who == "owner"
    assert data["by_id"] == ({"id": shop.unpublished, "isPublished": False, "products": {"totalCount": 1}} if owner else None)
    assert data["by_slug"] == ({"id": shop.unpublished} if owner else None)
    listed = [node["id"] for node in data["configs"]["nodes"]]
    assert shop.store in listed
    assert shop.unpublished not in listed
    assert listed == [edge["node"]["id"] for edge in data["configs"]["edges"]]
    own = data["config"]["owner"]["configs"]
    expected = [shop.unpublished, shop.store] if owner else [shop.store]
    assert own == {"totalCount": len(expected), "nodes": [{"id": id_} for id_ in expected]}


@pytest.mark.parametrize("who", EVERYONE)
@pytest.mark.parametrize(
    "field",
    [
        "products(configId: $u) { totalCount }",
        'products(configId: $u, search: "teapto") { totalCount correctedSearch }',
        "products(configId: $u) { facets { categories { value } } }",
        "searchProducts(input: {configId: $u}) { pagination { total } }",
        'productChanges(configId: $u, after: "0") { position }',
    ],
)
async def test_unpublished_store_is_null(shop: Shop, who: str, field: str) -> None:
    query = f"query($u: ID!) {{ {field} }}"
    if who == "owner":
        assert await shop.clients[who].ask(query, u=shop.unpublished)
        return
    error = await shop.clients[who].refusal(query, u=shop.unpublished)
    missing = await shop.clients[who].refusal(query, u=(nobodys := str(uuid7())))
    assert error["extensions"]["code"] == "NOT_FOUND"
    # Exactly the error for a store that does not exist.
    assert error["message"].replace(shop.unpublished, nobodys) == missing["message"]


@pytest.mark.parametrize("who", EVERYONE)
async def test_integrations(shop: Shop, who: str) -> None:
    query = """query($s: ID!) { config(by: {id: $s}) { integrations {
      shopify { domain isConnected } stripe { publishableKey } analytics { googleAnalyticsId } } } }"""
    answer = await shop.clients[who].post(query, s=shop.store)
    found = answer.json()["data"]["config"]["integrations"]
    assert found["shopify"] == ({"domain": "x.myshopify.com", "isConnected": True} if who == "owner" else None)
    assert (found["stripe"], found["analytics"]) == ({"publishableKey": "pk_1"}, {"googleAnalyticsId": "G-1"})
    assert "shpat_" not in answer.text
    error = await shop.clients[who].refusal(
        "query($s: ID!) { config(by: {id: $s}) { integrations { shopify { accessToken } } } }"
    )
    assert error["extensions"]["code"] == "GRAPHQL_VALIDATION_FAILED"


@pytest.mark.parametrize("who", EVERYONE)
async def test_email_is_visible_to_its_user_only(shop: Shop, who: str) -> None:
    data = await shop.clients[who].ask(
        """query($s: ID!, $id: ID!) { me { email } config(by: {id: $s}) { owner { email } }
             product(by: {id: $id}) { reviews { nodes { user { name email } } } } }""",
        s=shop.store,
        id=shop.ids["lantern"],
    )
    assert (data["me"] is None) == (who == "shopper")
    assert data["me"] is None or "@" in data["me"]["email"]
    assert data["config"]["owner"]["email"] == (data["me"]["email"] if who == "owner" else None)
    (review,) = data["product"]["reviews"]["nodes"]
    assert review["user"]["name"]
    assert review["user"]["email"] is None


@pytest.mark.parametrize("who", EVERYONE)
async def test_each_store_is_read_with_its_own_role(shop: Shop, shopper: Client, who: str) -> None:
    # Edges of several stores are loaded in one batch: being the owner of one store must not affect the others.
    theirs = await make_store(shopper.database)
    sold = await make_product(shopper.database, theirs, title="Tin kettle")
    await make_product(shopper.database, theirs, title="Tin umbrella", status="inactive", category="Rain")
    await make_variant(shopper.database, sold, sku="off", is_available=False)
    fields = """categories { path } integrations { shopify { domain } } products(sort: {key: CREATED_AT, order: ASC}) {
      totalCount facets { categories { value } } nodes { title variants(availableOnly: false) { totalCount nodes { sku } } } }"""
    query = f"query($a: ID!, $b: ID!) {{ a: config(by: {{id: $a}}) {{ {fields} }} b: config(by: {{id: $b}}) {{ {fields} }} }}"
    data = await shop.clients[who].ask(query, a=shop.store, b=theirs)
    assert data["a"]["products"]["totalCount"] == (4 if who == "owner" else 2)
    expected = {"title": "Tin kettle", "variants": {"totalCount": 0, "nodes": []}}
    assert data["b"]["products"] == {"totalCount": 1, "facets": {"categories": []}, "nodes": [expected]}
    assert data["b"]["categories"] == []


CHANGES = """query($s: ID!) { productChanges(configId: $s, after: "0") { position hasMore changes { __typename
  ... on ProductCreated { product { id } } ... on ProductUpdated { product { id } } ... on ProductDeleted { productId } } } }"""


@pytest.mark.parametrize("who", EVERYONE)
async def test_changes(shopper: Client, who: str) -> None:
    database, owner = shopper.database, await make_user(shopper.database)
    store = await make_store(database, user_id=owner)
    sold = await make_product(database, store)
    draft = await make_product(database, store, status="inactive")
    gone = str(uuid7())
    # Each entry as shoppers and as the owner see it. A product that was hidden since appears as deleted.
    seen = [
        ("product_created", sold, False, True, "ProductCreated", "ProductCreated"),
        ("product_created", draft, False, False, None, "ProductCreated"),
        ("product_updated", draft, False, True, "ProductDeleted", "ProductUpdated"),
        ("product_updated", draft, True, True, "ProductDeleted", "ProductUpdated"),
        ("product_updated", draft, True, False, "ProductDeleted", "ProductUpdated"),
        ("product_updated", sold, True, True, "ProductUpdated", "ProductUpdated"),
        ("product_deleted", gone, False, False, None, "ProductDeleted"),
        ("product_deleted", gone, True, False, "ProductDeleted", "ProductDeleted"),
    ]
    entries = [
        LogEntry(kind=kind, entity_id=id_, product_id=id_, was_visible=was, is_visible=is_) for kind, id_, was, is_, _, _ in seen
    ]
    async with database.transaction() as connection:
        await log.append_entries(connection, store, entries)
    client = {"shopper": shopper, "other": shopper.signed_in(await make_user(database)), "owner": shopper.signed_in(owner)}[who]
    page = (await client.ask(CHANGES, s=store))["productChanges"]
    found = [(c["__typename"], c["product"]["id"] if "product" in c else c["productId"]) for c in page["changes"]]
    kinds = [(entry[5 if who == "owner" else 4], entry[1]) for entry in seen]
    assert found == [(kind, id_) for kind, id_ in kinds if kind is not None]
    # Hidden entries are skipped, and do not block.
    assert (page["position"], page["hasMore"]) == (str(len(seen)), False)


async def test_hiding_takes_effect_immediately(shopper: Client) -> None:
    database = shopper.database
    store = await make_store(database)
    product_ids = [await make_product(database, store, title=f"Walnut drawer {n}") for n in range(3)]
    query = """query($s: ID!, $after: String) { products(configId: $s, search: "walnt", first: 1, after: $after) {
      correctedSearch nodes { id } pageInfo { endCursor } } }"""
    page = (await shopper.ask(query, s=store))["products"]
    assert page["correctedSearch"] == "walnut"

    async def run(statement: str) -> None:
        async with database.transaction() as connection:
            await connection.raw.execute(statement.encode(), [store])

    await run("UPDATE products SET status = 'archived' WHERE config_id = %s")
    for after in (None, page["pageInfo"]["endCursor"]):
        assert (await shopper.ask(query, s=store, after=after))["products"]["nodes"] == []
    assert (await shopper.ask(query, s=store))["products"]["correctedSearch"] is None
    await run("UPDATE products SET status = 'active' WHERE config_id = %s")
    assert (await shopper.ask(query, s=store))["products"]["nodes"][0]["id"] in product_ids
    await run("UPDATE configs SET is_published = false WHERE id = %s")
    for after in (None, page["pageInfo"]["endCursor"]):
        assert (await shopper.refusal(query, s=store, after=after))["extensions"]["code"] == "NOT_FOUND"
    assert (await shopper.ask("query($id: ID!) { product(by: {id: $id}) { id } }", id=product_ids[0]))["product"] is None
