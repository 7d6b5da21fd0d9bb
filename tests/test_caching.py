"""Invalidation of the response cache: no cached response is stale after any mutation or job.

The documents select every public field. Four servers share a database: one with a cache, which executes the writes; two with a
cache and without wake-ups, which revalidate for each request (strict) or by polling (relaxed); and one without a cache, whose
responses are the expected ones.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import pytest_asyncio
from graphql import GraphQLField, GraphQLObjectType, get_named_type, is_abstract_type, is_leaf_type, is_required_argument

from storefront.analytics.commands import refresh_popularity, track_events
from storefront.analytics.rollups import roll_up
from storefront.configs.secret_rotation import rotate_stored_secrets
from storefront.core.encryption import Vault, generate_key
from storefront.core.net.client_info import ClientInfo
from storefront.core.storage.disk import DiskStorage
from storefront.imports.product_writer import import_products
from storefront.imports.shopify.csv_file import read_csv_products
from storefront.media.upload_processing import upload_key
from storefront.schema import schema
from storefront.serving.cache.cacheability import PERSONAL_EXTENSION_KEY, VOLATILE_EXTENSION_KEY
from tests.client import Client
from tests.conftest import fresh, serving
from tests.factories import (
    insert,
    make_image,
    make_job,
    make_product,
    make_review,
    make_store,
    make_upload,
    make_user,
    make_variant,
)
from tests.pictures import picture

PICTURE = picture("PNG")

# Seconds after which a server without wake-ups has polled.
POLL = 0.4

GRAPH = schema._schema
ROOTS = {
    "product": "(by: {id: $product})",
    "config": "(by: {slug: $slug})",
    "variant": "(by: {id: $variant})",
    "products": "(configId: $store)",
    "searchProducts": "(input: {configId: $store, sortBy: POPULARITY})",
    "productChanges": '(configId: $store, after: "0")',
}
ARGUMENTS = {
    "Product.variant": '(by: {attributes: [{name: "Size", value: "S"}]})',
    "Config.products": '(search: "mugg")',
    "Config.category": '(by: {path: "Cups"})',
    "Config.product": '(by: {handle: "mug"})',
    "Config.predictiveSearch": '(search: "mugg")',
    "Config.variants": '(sku: "none")',
    "Config.analytics": '(range: {from: "2026-01-01T00:00:00Z", to: "2026-01-02T00:00:00Z"})',
    "Product.analytics": '(range: {from: "2026-01-01T00:00:00Z", to: "2026-01-02T00:00:00Z"})',
}


def selection(type_: Any, above: tuple[str, ...], edges: set[str]) -> str:
    """A selection of every public field of a type, recursively: of each edge where it is first met."""
    if is_abstract_type(type_):
        members = GRAPH.get_possible_types(type_)
        return "{ __typename " + " ".join(f"... on {one.name} {selection(one, above, edges)}" for one in members) + " }"
    assert isinstance(type_, GraphQLObjectType)
    lines = (line(type_.name, n, f, above, edges) for n, f in type_.fields.items())
    return "{ __typename " + " ".join(filter(None, lines)) + " }"


def line(parent: str, name: str, field: GraphQLField, above: tuple[str, ...], edges: set[str]) -> str | None:
    target, coordinate = get_named_type(field.type), f"{parent}.{name}"
    if field.extensions.get(PERSONAL_EXTENSION_KEY) or target.name in above or name == "edges":
        return None
    if parent == "Config" and len(above) > 2 and not is_leaf_type(target) and name != "owner":
        # The store of a product is reduced; `config` itself selects all of it.
        return None
    needs = any(is_required_argument(argument) for argument in field.args.values())
    assert not needs or coordinate in ARGUMENTS, f"say in ARGUMENTS how {coordinate} is asked"
    whole = f"{parent}_{name}: {name}{ARGUMENTS.get(coordinate, '')}"
    if is_leaf_type(target):
        return whole
    if coordinate in edges:
        return None
    edges.add(coordinate)
    return f"{whole} {selection(target, (*above, target.name), edges)}"


def document(root: str) -> str:
    assert GRAPH.query_type is not None
    target = get_named_type(GRAPH.query_type.fields[root].type)
    below = "" if is_leaf_type(target) else selection(target, ("Query", target.name), set())
    declared = " ".join(f"${name}: {kind}" for name, kind in KINDS.items() if f"${name}" in ROOTS[root])
    return f"query ({declared}) {{ {root}{ROOTS[root]} {below} }}"


KINDS = {"product": "ID!", "variant": "ID!", "slug": "String!", "store": "ID!"}
DOCUMENTS = {root: document(root) for root in ROOTS}
# Visible to owners only.
OWNERS = {"analytics", "events", "job", "webhook"}
PUBLIC = GRAPH.query_type.fields.keys() - OWNERS if GRAPH.query_type else set()


def test_every_public_root_field_is_covered() -> None:
    assert GRAPH.query_type is not None
    marked = {
        n
        for n, f in GRAPH.query_type.fields.items()
        if f.extensions.get(PERSONAL_EXTENSION_KEY) or f.extensions.get(VOLATILE_EXTENSION_KEY)
    }
    assert PUBLIC - marked == set(ROOTS)
    assert marked == {"me", "configs", "node", "nodes"}


@dataclass(frozen=True)
class Shop:
    """A store with one row of each type, its owner and a reviewer. `ids` are the variables of all documents."""

    writer: Client
    strict: Client
    polling: Client
    reference: Client
    owner: Client
    reviewer: Client
    ids: Mapping[str, str]

    async def answers(self, client: Client, **headers: str) -> dict[str, httpx.Response]:
        return {root: await self.query(client, root, **headers) for root in DOCUMENTS}

    async def query(self, client: Client, root: str, **headers: str) -> httpx.Response:
        variables = orjson.dumps({n: v for n, v in self.ids.items() if n in KINDS and f"${n}" in DOCUMENTS[root]}).decode()
        return await client.http.get("/graphql", params={"query": DOCUMENTS[root], "variables": variables}, headers=headers)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder that all servers share."""
    return tmp_path_factory.mktemp("cached")


@pytest_asyncio.fixture(scope="module")
async def servers(postgres: str, template: str, folder: Path) -> AsyncIterator[list[Client]]:
    url = fresh(postgres, template)
    # The documents select every field, each under an alias.
    sizes = {"max_aliases": 5_000, "max_fields": 5_000, "max_tokens": 20_000, "max_cost": 10_000_000}
    plain: dict[str, Any] = {**sizes, "job_workers": 0, "webhook_http": True, "webhook_networks": "127.0.0.1"}
    keeping = {**plain, "response_cache_bytes": 10_000_000, "poll_interval": 60}
    async with AsyncExitStack() as stack:
        # Otherwise each server may correct searches with a vocabulary of another age.
        stack.enter_context(pytest.MonkeyPatch.context()).setattr("storefront.queries.spelling.MAX_WORDS_AGE_SECONDS", 0.0)
        others: list[dict[str, Any]] = [{**keeping, "cache": "strict"}, {**keeping, "poll_interval": POLL}, plain]
        yield [await stack.enter_async_context(serving(url, folder, **given)) for given in (keeping, *others)]


@pytest_asyncio.fixture
async def shop(servers: list[Client], folder: Path) -> Shop:
    writer, strict, polling, reference = servers
    database = writer.database
    owner, reviewer = await make_user(database), await make_user(database)
    shopify = {"shopify": {"domain": "x.myshopify.com", "accessToken": "sealed"}}
    store = await make_store(database, user_id=owner, store_name="Shop", integrations=shopify)
    product = await make_product(database, store, title="Mug", category="Cups", tags=["blue"], handle="mug")
    other = await make_product(database, store, title="Mugs", category="Cups", popularity=3)
    small, _ = [await make_variant(database, product, name=size, attributes={"Size": size}) for size in "SL"]
    review = await make_review(database, product, user_id=reviewer, rating=5)
    [(slug,)] = await rows(writer, "SELECT slug FROM configs WHERE id = %s", store)
    jobs = {
        status: await make_job(database, store, owner, kind, status=status)
        for status, kind in (("queued", "import"), ("failed", "export"))
    }
    image, upload = await make_image(database, product), await make_upload(database, store, size=len(PICTURE))
    await DiskStorage(folder / "objects", "", "").put(upload_key(upload), PICTURE, "image/png")
    hook = await insert(database, "webhooks", config_id=store, url=CLOSED_URL, read_as="owner", secret="none", position=0)
    about = {
        "config_id": store,
        "webhook_id": hook,
        "type": "product.updated",
        "position": 0,
        "lane": product,
        "state": "delivered",
    }
    jobs |= {"image": image, "upload": upload, "hook": hook, "delivery": await insert(database, "webhook_deliveries", **about)}
    ids = {**jobs, "store": store, "product": product, "other": other, "variant": small, "review": review, "slug": slug}
    return Shop(writer, strict, polling, reference, writer.signed_in(owner), writer.signed_in(reviewer), ids)


async def rows(client: Client, sql: str, *values: object) -> list[Any]:
    async with client.database.transaction() as connection:
        return list(await (await connection.raw.execute(sql.encode(), values)).fetchall())


def body(response: httpx.Response) -> Any:
    """The response without what is specific to this request."""
    whole = response.json()
    for error in whole.get("errors", ()):
        del error["extensions"]["requestId"]
    return whole


async def check(shop: Shop, write: Callable[[], Awaitable[object]], *keeping: Client) -> set[str]:
    """Query the caching servers, write, query again; returns the root fields whose responses changed."""
    before = [await shop.answers(one) for one in keeping]
    for client, first in zip(keeping, before, strict=True):
        again = await shop.answers(client)
        assert {root: response.headers["cache-status"] for root, response in again.items()} == dict.fromkeys(
            ROOTS, "storefront; hit"
        )
        assert {root: body(response) for root, response in again.items()} == {root: body(one) for root, one in first.items()}
    await write()
    right = {root: body(response) for root, response in (await shop.answers(shop.reference)).items()}
    for client, first in zip(keeping, before, strict=True):
        for root in ROOTS:
            shown = await shop.query(client, root, **{"if-none-match": first[root].headers["etag"]})
            assert (body(first[root]) if shown.status_code == 304 else body(shown)) == right[root], root
            assert body(await shop.query(client, root)) == right[root], root
    return {root for root in ROOTS if right[root] != body(before[0][root])}


# Nothing listens at this address.
CLOSED_URL = "http://127.0.0.1:1025/"

# By mutation: the viewer, the input, and the root fields whose responses it changes at least.
Write = tuple[str, dict[str, Any], set[str]]
EVERYWHERE = set(ROOTS)
OF_PRODUCT = {"product", "products", "searchProducts", "config"}
MUTATIONS: dict[str, Write] = {
    "signOutEverywhere": ("reviewer", {}, set()),
    "updateProfile": ("reviewer", {"name": "Somebody else"}, {"product", "products", "config"}),
    "createConfig": ("owner", {"storeName": "New", "slug": "new-{store}"}, set()),
    "updateConfig": ("owner", {"id": "{store}", "storeName": "Renamed"}, OF_PRODUCT),
    "updateCategory": (
        "owner",
        {"configId": "{store}", "path": "Cups", "description": "For tea"},
        OF_PRODUCT - {"searchProducts"},
    ),
    "updateSearchSettings": ("owner", {"configId": "{store}", "synonyms": [["mug", "beaker"]]}, set()),
    "publishConfig": ("owner", {"id": "{store}"}, set()),
    "unpublishConfig": ("owner", {"id": "{store}"}, EVERYWHERE),
    "deleteConfig": ("owner", {"id": "{store}"}, EVERYWHERE),
    "createProduct": ("owner", {"configId": "{store}", "title": "Mug three", "price": "3.00"}, EVERYWHERE),
    "updateProduct": ("owner", {"id": "{product}", "title": "Muggle"}, OF_PRODUCT),
    "deleteProduct": ("owner", {"id": "{product}"}, EVERYWHERE),
    "bulkUpdateProducts": ("owner", {"rows": [{"id": "{product}", "price": "2.00"}]}, OF_PRODUCT | {"productChanges"}),
    "bulkCreateProducts": ("owner", {"configId": "{store}", "rows": [{"title": "Mug three", "price": "3.00"}]}, EVERYWHERE),
    "bulkUpsertProducts": (
        "owner",
        {"configId": "{store}", "rows": [{"handle": "mug", "title": "Muggle"}, {"handle": "new", "title": "New", "price": "1"}]},
        EVERYWHERE,
    ),
    "bulkUpdateVariants": ("owner", {"rows": [{"id": "{variant}", "price": "2.00"}]}, OF_PRODUCT),
    "bulkDeleteProducts": ("owner", {"rows": [{"id": "{product}"}]}, EVERYWHERE),
    "updateProductPrices": ("owner", {"prices": [{"id": "{product}", "price": "2.50"}]}, OF_PRODUCT),
    "adjustInventory": ("owner", {"changes": [{"id": "{variant}", "delta": -1}]}, OF_PRODUCT),
    "createVariant": ("owner", {"productId": "{product}", "name": "M", "price": "1.00"}, OF_PRODUCT),
    "setProductVariants": ("owner", {"productId": "{product}", "variants": [{"name": "M", "price": "1.00"}]}, OF_PRODUCT),
    "updateVariant": ("owner", {"id": "{variant}", "isAvailable": False}, OF_PRODUCT),
    "deleteVariant": ("owner", {"id": "{variant}"}, OF_PRODUCT),
    "createImageUpload": ("owner", {"configId": "{store}", "contentType": "image/png", "size": 1}, set()),
    "confirmImageUpload": ("owner", {"uploadId": "{upload}", "productId": "{product}"}, OF_PRODUCT),
    "updateImage": ("owner", {"id": "{image}", "alt": "A mug"}, OF_PRODUCT),
    "removeImage": ("owner", {"id": "{image}"}, OF_PRODUCT),
    "createReview": ("owner", {"productId": "{product}", "rating": 1}, OF_PRODUCT),
    "updateReview": ("reviewer", {"id": "{review}", "rating": 2}, OF_PRODUCT),
    "deleteReview": ("reviewer", {"id": "{review}"}, OF_PRODUCT),
    "moderateReviews": ("owner", {"ids": ["{review}"], "status": "HIDDEN"}, OF_PRODUCT),
    "replyToReview": ("owner", {"id": "{review}", "reply": "Thank you"}, {"product", "config"}),
    "trackEvents": ("owner", {"configId": "{store}", "events": [{"event": "page_view"}], "consent": True}, set()),
    # Their work is done later by jobs, in batches, each with its entries in the changelog.
    "createImportUpload": ("owner", {"configId": "{store}", "fileName": "shop.csv", "size": 10}, set()),
    "importProducts": ("owner", {"configId": "{store}", "source": "SHOPIFY_STORE"}, set()),
    "exportProducts": ("owner", {"configId": "{store}"}, set()),
    "cancelJob": ("owner", {"id": "{queued}"}, set()),
    "retryJob": ("owner", {"id": "{failed}"}, set()),
    # These notify receivers and change nothing.
    "testIntegration": ("owner", {"configId": "{store}", "integration": "STRIPE"}, set()),
    "createWebhook": ("owner", {"configId": "{store}", "url": CLOSED_URL, "topics": ["PRODUCT_UPDATED"]}, set()),
    "updateWebhook": ("owner", {"id": "{hook}", "isEnabled": False}, set()),
    "rotateWebhookSecret": ("owner", {"id": "{hook}"}, set()),
    "deleteWebhook": ("owner", {"id": "{hook}"}, set()),
    "replayWebhook": ("owner", {"id": "{hook}", "after": "0"}, set()),
    "resendWebhookDelivery": ("owner", {"id": "{delivery}"}, set()),
    "testWebhook": ("owner", {"id": "{hook}"}, set()),
}


def test_every_mutation_is_covered() -> None:
    assert GRAPH.mutation_type is not None
    assert GRAPH.mutation_type.fields.keys() == MUTATIONS.keys()


def fill_ids(value: Any, ids: Mapping[str, str]) -> Any:
    return orjson.loads(_replace_names(orjson.dumps(value).decode(), ids))


def _replace_names(text: str, ids: Mapping[str, str]) -> str:
    for name, id_ in ids.items():
        text = text.replace(f"{{{name}}}", id_)
    return text


@pytest.mark.parametrize("name", MUTATIONS)
async def test_mutation_invalidates_cached_responses(name: str, shop: Shop) -> None:
    who, given, changed = MUTATIONS[name]
    assert GRAPH.mutation_type is not None
    field = GRAPH.mutation_type.fields[name]
    payload = get_named_type(field.type)
    assert isinstance(payload, GraphQLObjectType)
    payload_fields = "userErrors { message }" if "userErrors" in payload.fields else "__typename"
    mutation = f"mutation ($input: {field.args['input'].type}) {{ {name}(input: $input) {{ {payload_fields} }} }}"

    async def write() -> None:
        done = await getattr(shop, who).ask(mutation, input=fill_ids(given, shop.ids))
        assert not done[name].get("userErrors"), done

    assert await check(shop, write, shop.writer, shop.strict) >= changed


CSV = "Handle,Title,Variant Price\nmug,Mug of the file,7.00\nnew,Mug that is new,8.00\n"


async def test_import_invalidates_cached_responses(shop: Shop) -> None:
    async def write() -> None:
        summary = await import_products(shop.writer.database, shop.ids["store"], read_csv_products(BytesIO(CSV.encode()), "file"))
        assert (summary.created, summary.updated) == (1, 1)
        await asyncio.sleep(POLL)

    assert await check(shop, write, shop.polling, shop.strict) >= {"product", "products", "config", "searchProducts"}


async def test_popularity_refresh_invalidates_cached_responses(shop: Shop) -> None:
    database = shop.writer.database
    await refresh_popularity(database)
    clicks = [{"event": "product_click", "properties": {"productId": shop.ids["product"]}}] * 5
    await track_events(database, shop.ids["store"], clicks, ClientInfo(), consent=True)
    await roll_up(database, wait=True)

    async def write() -> None:
        assert await refresh_popularity(database) >= 1
        await asyncio.sleep(POLL)

    assert await check(shop, write, shop.polling, shop.strict) >= {"product", "products", "config", "searchProducts"}


async def test_secret_rotation_changes_no_response(shop: Shop) -> None:
    old, new = generate_key(), generate_key()
    token = {"shopify": {"domain": "x.myshopify.com", "accessToken": Vault([old]).encrypt("s")}}
    await rows(
        shop.writer,
        "UPDATE configs SET integrations = %s WHERE id = %s RETURNING 1",
        orjson.dumps(token).decode(),
        shop.ids["store"],
    )

    async def write() -> None:
        assert (await rotate_stored_secrets(shop.writer.database, Vault([new, old]), lambda *_: None)).rotated >= 1

    assert not await check(shop, write, shop.polling, shop.strict)
