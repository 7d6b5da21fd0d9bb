"""Store mutations over GraphQL: stored rows, payloads, log entries, and the secrecy of access tokens."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from pydantic import SecretStr

from storefront.core.db.database import Database
from storefront.core.encryption import Vault, generate_key
from storefront.core.ids import uuid7
from storefront.feed import log
from storefront.queries.configs import find_store_id_by_slug
from tests.client import Client
from tests.conftest import fresh, serving
from tests.factories import make_product, make_review, make_store, make_user, make_variant

ERRORS = "userErrors { code message path ... on StaleVersionError { currentVersion changedFields } }"
CONFIG = """{ id storeName slug description isPublished currency version position owner { id }
  theme { primaryColor secondaryColor fontFamily customCSS } layout { headerStyle gridColumns showPrices showDescriptions }
  integrations { shopify { domain isConnected } stripe { publishableKey } analytics { googleAnalyticsId } } }"""
RECEIVED = f"config {CONFIG} position clientMutationId replayed {ERRORS}"
CREATE = f"mutation($i: CreateConfigInput!) {{ createConfig(input: $i) {{ {RECEIVED} }} }}"
UPDATE = f"mutation($i: UpdateConfigInput!) {{ updateConfig(input: $i) {{ {RECEIVED} }} }}"
PUBLISH = f"mutation($i: PublishConfigInput!) {{ publishConfig(input: $i) {{ {RECEIVED} }} }}"
UNPUBLISH = f"mutation($i: UnpublishConfigInput!) {{ unpublishConfig(input: $i) {{ {RECEIVED} }} }}"
DELETE = f"mutation($i: DeleteConfigInput!) {{ deleteConfig(input: $i) {{ deletedId replayed {ERRORS} }} }}"
FIND = "query($i: ID!) { config(by: {id: $i}) { id integrations { shopify { domain } stripe { publishableKey } } } }"

KEY = generate_key()
TOKEN = "shpat_0123456789abcdef_the_secret"
SHOP = {"domain": "my-shop.myshopify.com", "accessToken": TOKEN}
STRIPE = {"publishableKey": "pk_test_12345678"}
THEME = {"primaryColor": "#123456", "secondaryColor": "teal", "fontFamily": "Inter", "customCSS": "a { color: red }"}
LAYOUT = {"headerStyle": "CENTERED", "gridColumns": 4, "showPrices": True, "showDescriptions": False}


@pytest_asyncio.fixture(scope="module")
async def shop(postgres: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    """A separate server with a known encryption key, whose tables the tests may read."""
    folder = tmp_path_factory.mktemp("stores")
    async with serving(fresh(postgres, template), folder, encryption_keys=SecretStr(KEY)) as client:
        yield client


@pytest.fixture
async def owner(shop: Client) -> Client:
    return shop.signed_in(await make_user(shop.database))


async def mutate(client: Client, document: str, **input_: Any) -> dict[str, Any]:
    [payload] = (await client.ask(document, i=input_)).values()
    return dict(payload)


async def create_store(owner: Client, **given: Any) -> dict[str, Any]:
    """Create a store, and return it from the payload."""
    answer = await mutate(owner, CREATE, **{"storeName": "Shop", "slug": f"shop-{uuid7().hex}", **given})
    assert answer["userErrors"] == []
    return dict(answer["config"])


def get_errors(payload: dict[str, Any]) -> list[tuple[str, str]]:
    return [(error["code"], ".".join(error["path"])) for error in payload["userErrors"]]


async def integrations(database: Database, store: str) -> Any:
    async with database.transaction() as connection:
        [(found,)] = await (await connection.raw.execute("SELECT integrations FROM configs WHERE id = %s", [store])).fetchall()
    return found


# ------------------------------------------------------------------------------------------------ the verbs


async def test_store_is_created_with_given_fields(owner: Client) -> None:
    given = {
        "storeName": " My Shop ",
        "slug": "my-shop",
        "description": "Tea",
        "currency": "EUR",
        "theme": THEME,
        "layout": LAYOUT,
    }
    answer = await mutate(owner, CREATE, **given, integrations={"shopify": SHOP, "stripe": STRIPE}, clientMutationId="s")
    config = answer["config"]
    assert get_errors(answer) == [] and (answer["position"], answer["clientMutationId"]) == ("1", "s")
    assert (config["storeName"], config["slug"], config["currency"], config["isPublished"]) == (
        "My Shop",
        "my-shop",
        "EUR",
        False,
    )
    assert (config["theme"], config["layout"], config["version"], config["position"]) == (THEME, LAYOUT, 1, "1")
    assert config["integrations"] == {
        "shopify": {"domain": SHOP["domain"], "isConnected": True}, "stripe": STRIPE, "analytics": None,
    }  # fmt: skip
    assert config["owner"]["id"] == (await owner.ask("{ me { id } }"))["me"]["id"]
    [entry] = await log.read_entries(owner.database, config["id"], 0, 10)
    assert (entry.kind, entry.entity_id, entry.actor_id) == ("store_created", config["id"], config["owner"]["id"])
    assert (entry.client_mutation_id, entry.was_visible, entry.is_visible) == ("s", False, False)
    assert get_errors(await mutate(owner, CREATE, storeName="Other", slug="my-shop")) == [("ALREADY_EXISTS", "slug")]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"storeName": " "}, ["storeName"]),
        ({"slug": "—"}, ["slug"]),
        ({"currency": "XXX"}, ["currency"]),
        ({"theme": {**THEME, "primaryColor": "nothing", "customCSS": "@import 'x';"}}, ["theme.primaryColor", "theme.customCSS"]),
        ({"layout": {**LAYOUT, "gridColumns": 5}}, ["layout.gridColumns"]),
        ({"integrations": {"shopify": {"domain": "localhost"}}}, ["integrations.shopify.domain"]),
        ({"integrations": {"shopify": {**SHOP, "accessToken": ""}}}, ["integrations.shopify.accessToken"]),
        ({"integrations": {"stripe": {"publishableKey": "sk_live_12345678"}}}, ["integrations.stripe.publishableKey"]),
        ({"integrations": {"stripe": {"publishableKey": " rk_test_12345678"}}}, ["integrations.stripe.publishableKey"]),
        ({"integrations": {"analytics": {"googleAnalyticsId": "1"}}}, ["integrations.analytics.googleAnalyticsId"]),
    ],
)
async def test_invalid_store_is_rejected(owner: Client, given: dict[str, Any], expected: list[str]) -> None:
    answer = await mutate(owner, CREATE, **{"storeName": "Shop", "slug": f"shop-{uuid7().hex}", **given})
    assert get_errors(answer) == [("INVALID_INPUT", path) for path in expected] and answer["config"] is None
    store = await create_store(owner)
    assert get_errors(await mutate(owner, UPDATE, id=store["id"], **given)) == [("INVALID_INPUT", path) for path in expected]
    assert [entry.kind for entry in await log.read_entries(owner.database, store["id"], 0, 10)] == ["store_created"]


async def test_former_slugs_lead_to_store_until_taken(owner: Client, shop: Client) -> None:
    find = "query($s: String!) { config(by: {slug: $s}) { id slug } }"
    first, second, third = (f"{name}-{uuid7().hex}" for name in ("Мой магазин", "second", "third"))
    store = await create_store(owner, slug=first, isPublished=True)
    present = first.lower().replace(" ", "-")
    assert store["slug"] == present
    for slug in (second, third):
        assert (await mutate(owner, UPDATE, id=store["id"], slug=slug))["config"]["slug"] == slug
    for slug in (first, present, second, third):
        assert (await shop.ask(find, s=slug))["config"] == {"id": store["id"], "slug": third}
    assert await find_store_id_by_slug(shop.database, second) == store["id"]
    other = await create_store(shop.signed_in(await make_user(shop.database)), slug=second, isPublished=True)
    assert (await shop.ask(find, s=second))["config"]["id"] == other["id"]
    assert (await mutate(owner, UPDATE, id=store["id"], slug=present))["config"]["slug"] == present
    assert (await shop.ask(find, s=third))["config"] == {"id": store["id"], "slug": present}
    await mutate(owner, UNPUBLISH, id=store["id"])
    assert (await shop.ask(find, s=third))["config"] is None and (await owner.ask(find, s=third))["config"]["slug"] == present
    await mutate(owner, DELETE, id=store["id"])
    assert [(await owner.ask(find, s=slug))["config"] for slug in (third, present)] == [None, None]
    assert await find_store_id_by_slug(shop.database, third) is None


async def test_update_changes_and_logs_given_fields(owner: Client) -> None:
    store = await create_store(owner, description="Tea", theme=THEME)
    answer = await mutate(owner, UPDATE, id=store["id"], storeName="New", description=None, currency="USD", clientMutationId="u")
    config = answer["config"]
    assert (config["storeName"], config["description"], config["theme"], config["version"]) == ("New", None, THEME, 2)
    assert answer["position"] == "2"
    entry = (await log.read_entries(owner.database, store["id"], 1, 10))[0]
    assert (entry.kind, sorted(entry.changed_fields), entry.version) == ("store_updated", ["description", "storeName"], 2)
    assert entry.client_mutation_id == "u"
    again = await mutate(owner, UPDATE, id=store["id"], storeName="New", theme=THEME)
    assert (again["position"], again["config"]["version"]) == (None, 2)
    assert get_errors(await mutate(owner, UPDATE, id=store["id"], storeName=None)) == [("INVALID_INPUT", "storeName")]


async def test_stale_version_is_rejected_with_changed_fields(owner: Client) -> None:
    store = await create_store(owner)
    await mutate(owner, UPDATE, id=store["id"], storeName="New", layout=LAYOUT)
    for document in (UPDATE, PUBLISH, UNPUBLISH, DELETE):
        [error] = (await mutate(owner, document, id=store["id"], expectedVersion=1))["userErrors"]
        assert (error["code"], error["currentVersion"], error["changedFields"]) == ("STALE_VERSION", 2, ["layout", "storeName"])


async def test_store_is_published_and_unpublished(owner: Client, shop: Client) -> None:
    store = (await create_store(owner))["id"]
    assert (await shop.ask(FIND, i=store))["config"] is None
    opened = await mutate(owner, PUBLISH, id=store)
    assert (opened["config"]["isPublished"], opened["position"]) == (True, "2")
    assert (await shop.ask(FIND, i=store))["config"]["id"] == store
    assert (await mutate(owner, PUBLISH, id=store))["position"] is None
    closed = await mutate(owner, UNPUBLISH, id=store)
    assert (closed["config"]["isPublished"], closed["position"]) == (False, "3")
    assert (await shop.ask(FIND, i=store))["config"] is None
    entries = await log.read_entries(owner.database, store, 1, 10)
    assert [(e.kind, e.was_visible, e.is_visible) for e in entries] == [
        ("store_published", False, True), ("store_unpublished", True, False),
    ]  # fmt: skip


async def test_deleting_store_deletes_its_rows(owner: Client) -> None:
    store = (await create_store(owner))["id"]
    product = await make_product(owner.database, store)
    await make_variant(owner.database, product)
    await make_review(owner.database, product)
    other = await make_product(owner.database, await make_store(owner.database))
    answer = await mutate(owner, DELETE, id=store, idempotencyKey="gone")
    assert answer["deletedId"] == store
    assert await log.read_entries(owner.database, store, 0, 10) == []
    async with owner.database.transaction() as connection:
        left = await (
            await connection.raw.execute("SELECT id::text FROM products WHERE id = ANY(%s::uuid[])", [[product, other]])
        ).fetchall()
    assert left == [(other,)]
    assert (await mutate(owner, DELETE, id=store, idempotencyKey="gone"))["replayed"] is True
    assert get_errors(await mutate(owner, UPDATE, id=store)) == [("NOT_FOUND", "id")]


# ------------------------------------------------------------------------------------------- integrations


async def test_omitted_integrations_stay_and_null_removes(owner: Client) -> None:
    store = (await create_store(owner, integrations={"shopify": SHOP, "stripe": STRIPE}))["id"]
    analytics = {"googleAnalyticsId": "G-12345678"}
    both = (await mutate(owner, UPDATE, id=store, integrations={"analytics": analytics}))["config"]["integrations"]
    assert both == {"shopify": {"domain": SHOP["domain"], "isConnected": True}, "stripe": STRIPE, "analytics": analytics}
    less = (await mutate(owner, UPDATE, id=store, integrations={"stripe": None}))["config"]["integrations"]
    assert less["stripe"] is None and less["shopify"]["isConnected"] is True
    none = (await mutate(owner, UPDATE, id=store, integrations=None))["config"]["integrations"]
    assert none is None and await integrations(owner.database, store) is None


async def test_access_token_stays_or_is_removed_or_replaced(owner: Client) -> None:
    store, domain = (await create_store(owner, integrations={"shopify": SHOP}))["id"], {"domain": SHOP["domain"]}
    first = (await integrations(owner.database, store))["shopify"]["accessToken"]
    kept = await mutate(owner, UPDATE, id=store, integrations={"shopify": domain})
    assert kept["position"] is None and (await integrations(owner.database, store))["shopify"]["accessToken"] == first
    await mutate(owner, UPDATE, id=store, integrations={"shopify": {**domain, "accessToken": "shpat_another"}})
    second = (await integrations(owner.database, store))["shopify"]["accessToken"]
    assert Vault([KEY]).decrypt(second) == "shpat_another"
    removed = await mutate(owner, UPDATE, id=store, integrations={"shopify": {**domain, "accessToken": None}})
    assert removed["config"]["integrations"]["shopify"] == {**domain, "isConnected": False}
    assert await integrations(owner.database, store) == {"shopify": domain}


async def test_access_token_is_dropped_with_new_domain(owner: Client) -> None:
    store = (await create_store(owner, integrations={"shopify": SHOP}))["id"]
    moved = await mutate(owner, UPDATE, id=store, integrations={"shopify": {"domain": "evil.myshopify.com"}})
    assert moved["config"]["integrations"]["shopify"] == {"domain": "evil.myshopify.com", "isConnected": False}
    back = await mutate(owner, UPDATE, id=store, integrations={"shopify": {"domain": SHOP["domain"]}})
    assert back["config"]["integrations"]["shopify"]["isConnected"] is False


async def test_shoppers_see_public_integration_fields(owner: Client, shop: Client) -> None:
    store = await create_store(owner, integrations={"shopify": SHOP, "stripe": STRIPE}, isPublished=True)
    assert (await shop.ask(FIND, i=store["id"]))["config"]["integrations"] == {"shopify": None, "stripe": STRIPE}


# --------------------------------------------------------------------------------------------- the secret

# What may be wrong beside a token, or with it: the engine then speaks of the whole variable.
MALFORMED: list[Any] = [
    {"shopify": {"domain": 5, "accessToken": TOKEN}},
    {"shopify": {"accessToken": TOKEN}},
    {"shopify": {**SHOP, "unknown": 1}},
    {"shopify": SHOP, "stripe": 7},
    {"shopify": {**SHOP, "accessToken": [TOKEN]}},
    {"shopify": {**SHOP, "accessToken": {"is": TOKEN}}},
    {"shopify": TOKEN},
    {"shopify": [TOKEN]},
    TOKEN,
    [TOKEN],
    {"shopify": {**SHOP, "accessToken": TOKEN + "\x00"}},
    {"shopify": {**SHOP, "accessToken": TOKEN * 20}},
    {"shopify": {"domain": "no domain", "accessToken": TOKEN}},
]


@pytest.mark.parametrize("given", MALFORMED)
async def test_malformed_input_does_not_leak_token(owner: Client, caplog: pytest.LogCaptureFixture, given: Any) -> None:
    caplog.set_level(logging.DEBUG)
    store = (await create_store(owner))["id"]
    for document, more in ((CREATE, {"storeName": "Shop", "slug": f"shop-{uuid7().hex}"}), (UPDATE, {"id": store})):
        answer = await owner.post(document, i={**more, "integrations": given})
        body = answer.json()
        assert "errors" in body or next(iter(body["data"].values()))["userErrors"]
        assert TOKEN not in answer.text
    assert TOKEN not in caplog.text


async def test_token_is_in_no_response_log_or_table(owner: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    given = {"storeName": "Shop", "slug": "secret-shop", "integrations": {"shopify": SHOP}}
    first = await owner.post(CREATE, i={**given, "idempotencyKey": "c"})
    store = first.json()["data"]["createConfig"]["config"]["id"]
    answers = [
        first,
        await owner.post(CREATE, i={**given, "idempotencyKey": "c"}),
        await owner.post(CREATE, i={**given, "storeName": "Else", "idempotencyKey": "c"}),
        await owner.post(CREATE, i=given),
        await owner.post(UPDATE, i={"id": store, "integrations": {"shopify": SHOP}, "idempotencyKey": "u"}),
        await owner.post(UPDATE, i={"id": store, "expectedVersion": 99, "integrations": {"shopify": SHOP}}),
        await owner.post(UPDATE, i={"id": str(uuid7()), "integrations": {"shopify": SHOP}, "idempotencyKey": "n"}),
    ]
    owner.database.observers.append(_fail_at_log)
    answers.append(await owner.post(UPDATE, i={"id": store, "storeName": "X", "integrations": {"shopify": SHOP}}))
    owner.database.observers.remove(_fail_at_log)
    assert "INTERNAL_SERVER_ERROR" in answers[-1].text and "failed at" in caplog.text
    assert not [answer.text for answer in answers if TOKEN in answer.text]
    assert TOKEN not in caplog.text and KEY not in caplog.text
    dump = await every_row(owner.database)
    assert SHOP["domain"] in dump and TOKEN not in dump
    assert Vault([KEY]).decrypt((await integrations(owner.database, store))["shopify"]["accessToken"]) == TOKEN


def _fail_at_log(sql: str) -> None:
    if "INSERT INTO changes" in sql:
        raise RuntimeError


async def every_row(database: Database) -> str:
    """All tables as text."""
    async with database.transaction() as connection:
        tables = await (await connection.raw.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).fetchall()
        dumps = [await (await connection.raw.execute(f"SELECT t::text FROM {name} t".encode())).fetchall() for (name,) in tables]
    return str(dumps)


async def test_idempotency_results_hold_token_encrypted_only(owner: Client) -> None:
    await mutate(owner, CREATE, storeName="Shop", slug="kept-shop", integrations={"shopify": SHOP}, idempotencyKey="kept")
    async with owner.database.transaction() as connection:
        found = await connection.raw.execute("SELECT result FROM idempotency_keys WHERE key = 'kept'")
        [(result,)] = await found.fetchall()
    assert Vault([KEY]).decrypt(result["rows"][0]["integrations"]["shopify"]["accessToken"]) == TOKEN


async def test_long_stylesheets_do_not_block_other_requests(client: Client) -> None:
    owner = client.signed_in(await make_user(client.database))
    sheets = ["- " * 9_000 + f"/* {n} */" for n in range(10)]
    aliases = " ".join(f"m{n}: updateConfig(input: {{id: $id, theme: $t{n}}}) {{ userErrors {{ message }} }}" for n in range(10))
    document = f"mutation($id: ID!, {', '.join(f'$t{n}: ThemeInput' for n in range(10))}) {{ {aliases} }}"
    theme = {"primaryColor": "teal", "secondaryColor": "teal", "fontFamily": "Inter"}
    given = {f"t{n}": {**theme, "customCSS": sheet} for n, sheet in enumerate(sheets)}
    writing = asyncio.create_task(owner.post(document, id=str(uuid7()), **given))
    answered = 0
    while not writing.done():
        assert (await client.http.get("/healthz")).status_code == 200
        answered += 1
    answers = (await writing).json()["data"]
    assert len(answers) == 10 and all(answer["userErrors"] for answer in answers.values())
    # Checked on the event loop, hardly one would have come in between.
    assert answered > 10
