"""Tenant isolation: every mutation, and every query with an id, is called with ids of another user's hidden rows.

The calls are generated from the schema, so that new fields are covered, too. A field that cannot be called fails the test.
"""

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio
from graphql import (
    GraphQLEnumType,
    GraphQLField,
    GraphQLInputObjectType,
    GraphQLList,
    GraphQLObjectType,
    get_named_type,
    get_nullable_type,
    is_abstract_type,
    is_required_argument,
    is_required_input_field,
)

from storefront.core.db.database import Database
from storefront.core.ids import uuid7
from storefront.core.storage.disk import DiskStorage
from storefront.media.upload_processing import upload_key
from storefront.schema import schema
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
from tests.snapshots import fetch_row_versions

GRAPH = schema._schema
MUTATIONS: Mapping[str, GraphQLField] = GRAPH.mutation_type.fields if GRAPH.mutation_type else {}
QUERIES: Mapping[str, GraphQLField] = GRAPH.query_type.fields if GRAPH.query_type else {}

# Mutations without ids: they affect the viewer and what the viewer creates.
OF_ONESELF = {"updateProfile", "createConfig", "signOutEverywhere"}
# Mutations that every signed-in user may execute on visible rows.
FOR_ALL = {"createReview"}
# Mutations of anonymous shoppers.
PUBLIC = {"trackEvents"}

# Values of required fields by name, where those by type are invalid; functions are called with the scenario.
BY_NAME: dict[str, Any] = {
    "slug": lambda _: f"slug-{uuid7().hex}",
    "price": "10.00",
    "rating": 4,
    "primaryColor": "#123456",
    "secondaryColor": "teal",
    "domain": "my-shop.myshopify.com",
    "publishableKey": "pk_test_12345678",
    "googleAnalyticsId": "G-12345678",
    "gridColumns": 3,
    "contentType": "image/png",
    "from": "2026-01-01T00:00:00Z",
    "to": "2026-01-02T00:00:00Z",
    "path": "Cups",
    "handle": lambda scenario: scenario.handle,
    "sku": lambda scenario: scenario.sku,
    "source": "SHOPIFY_STORE",
    "after": "0",
    "url": "http://127.0.0.1:1025/nobody",
}
# Lists that need more than one item.
LISTS_BY_NAME: dict[str, Any] = {"synonyms": [["cup", "mug"]]}
# Fields that may be left out only beside others.
NEEDED_FIELDS = {
    *(("CreateProductInput", "price"), ("CreateProductRowInput", "price"), ("ProductVariantRowInput", "price")),
    ("UpsertProductRowInput", "handle"),
}
# Ids of parts of the row that another id names: they are looked up in that row alone (tests/products/test_options.py).
PARTS = {"ProductOptionInput", "ProductOptionValueInput"}
# Jobs by the operations they allow.
JOBS = {
    "canceljob": ("import", "queued"),
    "retryjob": ("export", "failed"),
    "job": ("import", "succeeded"),
    "upload": ("import", "uploading"),
}
# The types of ids. The first one wins where a name contains several.
NOUNS = ("config", *JOBS, "delivery", "webhook", "variant", "review", "product", "image")
BY_TYPE: dict[str, Any] = {
    "String": "text",
    "Int": 1,
    "Float": 1.0,
    "Boolean": True,
    "Decimal": "1.00",
    "DateTime": "2026-01-01T00:00:00Z",
    "Position": "0",
    "CurrencyCode": "EUR",
    "JSON": {},
    "FileSize": 1,
}

PICTURE = picture("PNG")

Way = tuple[str, ...]


@dataclass(frozen=True)
class Scenario:
    """The id of a row of each type."""

    ids: Mapping[str, str]
    handle: str = "none"
    sku: str = "none"


@dataclass(frozen=True)
class World:
    """Two users. The rows of one are hidden from the other in three ways, and visible in a fourth scenario."""

    database: Database
    owner: str
    stranger: str
    hidden: Mapping[str, Scenario] = field(default_factory=dict)
    open: Scenario = field(default_factory=lambda: Scenario({}))


# ----------------------------------------------------------------------------------------- generated calls


def noun_of(type_: str, name: str) -> str:
    """The type that an id refers to, by its field name, else by the type that contains the field."""
    if name == "uploadId" and "Image" in type_:
        return "imageupload"
    if type_ == "Node":
        return "product"
    if "Inventory" in type_:
        # Or a product: see tests/variants/test_inventory.py.
        return "variant"
    found = [noun for noun in NOUNS if noun in name.lower()] or [noun for noun in NOUNS if noun in type_.lower()]
    assert found, f"{type_}.{name}: which noun is this an id of?"
    return found[0]


def value(type_: Any, name: str, holder: str, path: Way, scenario: Scenario) -> Any:
    """A valid value of an input type, with required fields and those on the path."""
    inner = get_nullable_type(type_)
    if isinstance(inner, GraphQLList):
        return LISTS_BY_NAME.get(name) or [value(inner.of_type, name, holder, path, scenario)]
    if isinstance(inner, GraphQLInputObjectType):
        return record(inner, path, scenario)
    if isinstance(inner, GraphQLEnumType):
        return BY_NAME.get(name) or next(iter(inner.values))
    if inner.name == "ID":
        return scenario.ids[noun_of(holder, name)]
    given = BY_NAME.get(name, BY_TYPE.get(inner.name))
    assert given is not None, f"{holder}.{name}: no value of the type {inner.name} is known here"
    return given(scenario) if callable(given) else given


def record(type_: GraphQLInputObjectType, path: Way, scenario: Scenario) -> dict[str, Any]:
    chosen = {
        n: f
        for n, f in type_.fields.items()
        if is_required_input_field(f) or path[:1] == (n,) or (type_.name, n) in NEEDED_FIELDS
    }
    if type_.is_one_of and not chosen:
        chosen = dict(list(type_.fields.items())[:1])
    return {n: value(f.type, n, type_.name, path[1:], scenario) for n, f in chosen.items()}


def id_paths(type_: Any, name: str, above: Way = ()) -> Iterator[Way]:
    """The paths through arguments and input types that end in an id."""
    inner = get_named_type(type_)
    if inner.name == "ID":
        yield (*above, name)
    for n, f in inner.fields.items() if isinstance(inner, GraphQLInputObjectType) and inner.name not in PARTS else ():
        yield from id_paths(f.type, n, (*above, name))


def selection(type_: Any, depth: int, alias: str = "") -> str:
    """A selection of all fields without arguments, up to a depth. `alias` keeps fields of several types apart."""
    named = get_named_type(type_)
    if is_abstract_type(named):
        members = GRAPH.get_possible_types(named)
        fragments = (f"... on {t.name} {selection(t, depth, alias=f'{t.name}_')}" for t in members)
        return " ".join(["{ __typename", *fragments, "}"]) if depth else ""
    if not isinstance(named, GraphQLObjectType):
        return "-"
    parts = [(n, selection(f.type, depth - 1)) for n, f in named.fields.items() if _bare(f)] if depth else []
    return (
        "{ __typename " + " ".join(f"{alias and f'{alias}{n}: '}{n} {'' if s == '-' else s}" for n, s in parts if s) + " }"
        if parts
        else ""
    )


def _bare(field_: GraphQLField) -> bool:
    return not any(is_required_argument(argument) for argument in field_.args.values())


def document(kind: str, name: str, field_: GraphQLField, arguments: Mapping[str, Any]) -> str:
    """The field with its arguments as variables."""
    types = ", ".join(f"${n}: {field_.args[n].type}" for n in arguments)
    given = ", ".join(f"{n}: ${n}" for n in arguments)
    body = selection(field_.type, 3).removeprefix("-")
    return f"{kind}{f'({types})' if types else ''} {{ {name}{f'({given})' if given else ''} {body} }}"


def arguments(field_: GraphQLField, path: Way, scenario: Scenario) -> dict[str, Any]:
    chosen = {n: a for n, a in field_.args.items() if is_required_argument(a) or path[:1] == (n,)}
    return {n: value(a.type, n, get_named_type(field_.type).name, path[1:], scenario) for n, a in chosen.items()}


Call = tuple[str, str, GraphQLField, Way]


def calls() -> list[Call]:
    """Every mutation, and every path to an id in a mutation or query."""
    found: list[Call] = []
    for kind, fields in (("mutation", MUTATIONS), ("query", QUERIES)):
        for name, field_ in fields.items():
            paths = [path for n, a in field_.args.items() for path in id_paths(a.type, n)]
            found += [(kind, name, field_, path) for path in paths]
    return found


# ------------------------------------------------------------------------------------------------ the world


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of the server."""
    return tmp_path_factory.mktemp("tenants")


@pytest_asyncio.fixture(scope="module")
async def shop(postgres: str, template: str, folder: Path) -> AsyncIterator[Client]:
    """A server of its own: its tables are compared as a whole."""
    # Jobs are created, but not run.
    options: dict[str, Any] = {"webhook_http": True, "webhook_networks": "127.0.0.1/32", "job_workers": 0}
    # The documents select every field, each of an interface under an alias.
    options |= {"max_aliases": 1_000, "max_tokens": 10_000, "max_fields": 2_000, "max_cost": 10_000_000}
    async with serving(fresh(postgres, template), folder, **options) as shared:
        yield shared


async def make_world(database: Database) -> World:
    owner, stranger = await make_user(database), await make_user(database)
    await make_product(database, await make_store(database, user_id=stranger))
    connected = {"shopify": {"domain": "my-shop.myshopify.com", "accessToken": "sealed"}}
    closed = await make_store(database, user_id=owner, is_published=False, integrations=connected)
    public = await make_store(database, user_id=owner, integrations=connected)
    inside = await _rows(database, owner, closed)
    inactive = await _rows(database, owner, public, status="inactive")
    opened = await _rows(database, owner, public)
    unavailable = await make_variant(database, opened.ids["product"], is_available=False, sku="secret-sku")
    withheld = replace(opened, ids={**opened.ids, "variant": unavailable}, sku="secret-sku")
    hidden = {"store": inside, "product": inactive, "variant": withheld}
    return World(database, owner, stranger, hidden, opened)


async def _rows(database: Database, owner: str, store: str, **values: Any) -> Scenario:
    handle = f"handle-{uuid7().hex}"
    product = await make_product(database, store, handle=handle, category="Cups", **values)
    variant = await make_variant(database, product, sku=f"sku-{handle}")
    review = await make_review(database, product, user_id=owner)
    hook = await insert(database, "webhooks", config_id=store, url=BY_NAME["url"], read_as="owner", secret="none", position=0)
    about = {
        "config_id": store,
        "webhook_id": hook,
        "type": "product.updated",
        "position": 0,
        "lane": product,
        "state": "delivered",
    }
    delivery = await insert(database, "webhook_deliveries", **about)
    image, upload = await make_image(database, product), await make_upload(database, store, size=len(PICTURE))
    ids = {"config": store, "product": product, "variant": variant, "review": review, "webhook": hook, "delivery": delivery}
    jobs = {
        noun: await make_job(database, store, owner, kind, status=status, is_cancelled=status == "cancelled")
        for noun, (kind, status) in JOBS.items()
    }
    return Scenario({**ids, **jobs, "image": image, "imageupload": upload}, handle, f"sku-{handle}")


@pytest_asyncio.fixture(scope="module")
async def world(shop: Client) -> World:
    return await make_world(shop.database)


def absent(scenario: Scenario, *nouns: str) -> Scenario:
    """The same scenario with ids and names that do not exist."""
    ids = {noun: str(uuid7()) if noun in nouns else id_ for noun, id_ in scenario.ids.items()}
    return Scenario(ids, "nothing-has-this", "nothing-has-this")


async def answer(client: Client, call: Call, scenario: Scenario) -> str:
    """The whole response, without the request id and the ids that were sent."""
    kind, name, field_, path = call
    given = arguments(field_, path, scenario)
    response = await client.post(document(kind, name, field_, given), **given)
    body = response.json()
    for error in body.get("errors", ()):
        error["extensions"].pop("requestId")
        assert error["extensions"]["code"] not in ("GRAPHQL_VALIDATION_FAILED", "INTERNAL_SERVER_ERROR"), error
    text = orjson.dumps(body).decode()
    for noun, id_ in scenario.ids.items():
        text = text.replace(id_, noun)
    return f"{response.status_code} {text}"


# ------------------------------------------------------------------------------------------------ the tests

# The types that must be hidden from others. The store of an inactive product is visible to all.
SECRET = {
    "store": ("config", *JOBS, "product", "variant", "review", "webhook", "delivery", "image", "imageupload"),
    "product": ("product", "variant", "review", "image"),
    "variant": ("variant",),
}
CALLS = calls()
NAMES = [f"{name}-{'.'.join(path)}" for _, name, _, path in CALLS]


@pytest.mark.parametrize("hidden", list(SECRET))
@pytest.mark.parametrize("call", CALLS, ids=NAMES)
async def test_hidden_rows_respond_like_missing_ones(shop: Client, world: World, call: Call, hidden: str) -> None:
    kind, _, field_, path = call
    scenario, nothing = world.hidden[hidden], absent(world.hidden[hidden], *SECRET[hidden])
    if arguments(field_, path, scenario) == arguments(field_, path, nothing) or _is_of_all(call, hidden):
        return
    before = await fetch_row_versions(shop.database)
    for client in (shop, shop.signed_in(world.stranger)):
        assert await answer(client, call, scenario) == await answer(client, call, nothing)
    assert await fetch_row_versions(shop.database) == before
    if kind == "mutation":
        assert ('"UNAUTHENTICATED"' in await answer(shop, call, scenario)) is (call[1] not in PUBLIC)
    else:
        # The same call finds something for the owner: the rows exist.
        owner = shop.signed_in(world.owner)
        assert await answer(owner, call, scenario) != await answer(owner, call, nothing)


def _is_of_all(call: Call, hidden: str) -> bool:
    # The product of an unavailable variant is itself visible to all.
    return hidden == "variant" and noun_of(get_named_type(call[2].type).name, call[3][-1]) != "variant"


@pytest.mark.parametrize("name", [name for name in MUTATIONS if name not in PUBLIC])
async def test_every_mutation_needs_a_token(shop: Client, world: World, name: str) -> None:
    before = await fetch_row_versions(shop.database)
    text = await answer(shop, ("mutation", name, MUTATIONS[name], ()), world.open)
    assert '"UNAUTHENTICATED"' in text and await fetch_row_versions(shop.database) == before


@pytest.mark.parametrize(
    "call", [c for c in CALLS if c[0] == "mutation"], ids=[n for n, c in zip(NAMES, CALLS, strict=True) if c[0] == "mutation"]
)
async def test_visible_rows_of_others_cannot_be_changed(shop: Client, world: World, call: Call) -> None:
    if call[1] in FOR_ALL | PUBLIC:
        return
    before = await fetch_row_versions(shop.database)
    assert '"FORBIDDEN"' in await answer(shop.signed_in(world.stranger), call, world.open)
    assert await fetch_row_versions(shop.database) == before


@pytest.mark.parametrize("name", list(MUTATIONS))
async def test_every_mutation_succeeds_for_the_owner(shop: Client, folder: Path, name: str) -> None:
    own = await make_world(shop.database)
    # The upload to be confirmed exists in storage.
    await DiskStorage(folder / "objects", "", "").put(upload_key(own.open.ids["imageupload"]), PICTURE, "image/png")
    field_ = MUTATIONS[name]
    paths = [path for n, a in field_.args.items() for path in id_paths(a.type, n)] or [()]
    assert paths != [()] or name in OF_ONESELF, f"{name}: has no id to ask about. Is it about oneself?"
    scenario = own.open if name not in FOR_ALL else Scenario(dict(own.hidden["store"].ids) | await _unreviewed(own))
    text = await answer(shop.signed_in(own.owner), ("mutation", name, field_, paths[0]), scenario)
    body = orjson.loads(text.partition(" ")[2])
    assert "errors" not in body, body["errors"]
    assert body["data"][name]["userErrors"] == []


async def _unreviewed(world: World) -> dict[str, str]:
    return {"product": await make_product(world.database, world.open.ids["config"])}


def test_every_id_argument_is_covered() -> None:
    assert {call[1] for call in CALLS if call[0] == "mutation"} == set(MUTATIONS) - OF_ONESELF
    assert len(CALLS) > len(MUTATIONS)
