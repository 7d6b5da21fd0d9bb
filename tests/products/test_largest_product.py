"""The largest product that the declared limits of the inputs allow is written in one mutation."""

import asyncio
import http.client
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from graphql import get_named_type, get_nullable_type, is_input_object_type, is_list_type

from storefront.models.variant import MAX_VARIANTS
from storefront.schema import schema
from storefront.serving.documents.input_limits import get_declared_limit
from tests.client import Client
from tests.factories import make_store, make_user
from tests.loop_load import MAX_STALL_SECONDS, measured_load

# Other processes take the processor's caches and its cores: the least of several attempts counts.
ATTEMPTS = 5

PAYLOAD = "{ product { id variants(first: 1) { totalCount } } userErrors { path message } }"
CREATE = f"mutation($input: CreateProductInput!) {{ createProduct(input: $input) {PAYLOAD} }}"
SET = f"mutation($input: SetProductVariantsInput!) {{ setProductVariants(input: $input) {PAYLOAD} }}"

# Of each field that a largest input has, by its name: a text of usual length, or what the position in the list makes of it.
VALUES: Mapping[str, Any] = {
    "alt": "Picture of the product",
    "barcode": lambda n: f"40063813{n:05}",
    "category": "Clothing > Shirts > Long sleeves",
    "color": lambda n: f"#{n:06x}",
    "compareAtPrice": "129.00",
    "cost": "45.50",
    "descriptionHtml": "<p>" + "A long description. " * 200 + "</p>",
    "giftCard": False,
    "image": "https://images.example/products/0.jpeg",
    "images": lambda n: f"https://images.example/products/{n}.jpeg",
    "inventory": lambda n: n,
    "inventoryPolicy": "CONTINUE",
    "isAvailable": True,
    "name": lambda n: f"Name {n} of something",
    "price": "99.95",
    "productType": "Shirt",
    "requiresShipping": True,
    "seoDescription": "A description for search engines",
    "seoTitle": "A title for search engines",
    "sku": lambda n: f"SKU-2026-{n:06}",
    "status": "ACTIVE",
    "tags": lambda n: f"A tag of some words {n}",
    "taxable": True,
    "title": "The largest product",
    "trackInventory": True,
    "unit": "KILOGRAM",
    "value": lambda n: f"Value {n} of something",
    "vendor": "A manufacturer",
}
# Fields of requests, ids of what exists, and fields that exclude others.
UNSET = {"clientMutationId", "idempotencyKey", "configId", "id", "handle", "description", "productId", "expectedVersion"}


def build_largest(type_: Any, n: int = 0) -> Any:
    """A value of an input type with all fields, and lists as long as declared. `n`: its position in the list around it."""
    fields = get_named_type(type_).fields
    return {name: build_field(name, field, n) for name, field in fields.items() if name not in UNSET}


def build_field(name: str, field: Any, n: int) -> Any:
    type_: Any = get_nullable_type(field.type)
    if is_list_type(type_):
        items = range(get_declared_limit(field).items or 0)
        is_object = is_input_object_type(get_named_type(type_))
        return [build_largest(type_, m) if is_object else VALUES[name](m) for m in items]
    if is_input_object_type(type_):
        return build_largest(type_, n)
    value = VALUES[name]
    return value(n) if callable(value) else value


@cache
def build_product_json(type_name: str) -> str:
    """The largest input of a type, as JSON. Its options have as many values as variants may have together."""
    product = build_largest(schema._schema.get_type(type_name))
    options, variants = product["options"], product["variants"]
    values_per_option = len(options[0]["values"]) // len(options)
    for n, option in enumerate(options):
        option["name"] = f"Option {n}"
        option["values"] = option["values"][:values_per_option]
    for n, variant in enumerate(variants):
        variant["weight"]["value"] = "1.25"
        for m, attribute in enumerate(variant["attributes"]):
            # The first two options tell the variants apart.
            number = (n // values_per_option if m == 1 else n) % values_per_option
            attribute["name"], attribute["value"] = options[m]["name"], options[m]["values"][number]["value"]
    return json.dumps(product)


@pytest.mark.parametrize("name", ["createProduct", "setProductVariants"])
async def test_largest_product_is_written(shopper: Client, name: str) -> None:
    user = await make_user(shopper.database)
    owner, store = shopper.signed_in(user), await make_store(shopper.database, user_id=user)
    stalls: list[float] = []
    while len(stalls) < ATTEMPTS and not (stalls and stalls[-1] <= MAX_STALL_SECONDS):
        product = json.loads(build_product_json(f"{name[0].upper()}{name[1:]}Input"))
        if name == "createProduct":
            document, product["configId"] = CREATE, store
        else:
            images = json.loads(build_product_json("CreateProductInput"))["images"]
            created = await owner.ask(CREATE, input={"configId": store, "title": "New", "price": "1.00", "images": images})
            document, product["productId"] = SET, created["createProduct"]["product"]["id"]
        content = json.dumps({"query": document, "variables": {"input": product}}).encode()
        async with measured_load() as load:
            payload = (await asyncio.to_thread(post, owner, content))["data"][name]
        stalls.append(load.longest_stall_seconds)
        assert payload["userErrors"] == []
        assert payload["product"]["variants"]["totalCount"] == len(product["variants"]) == MAX_VARIANTS
    assert min(stalls) <= MAX_STALL_SECONDS


# Of the same size, and refused: what a strange and what a signed-in client gets.
HOSTILE: Mapping[str, tuple[bytes, str, str]] = {
    "50,000 objects": (b"[%b]" % b",".join(b'{"%d":1}' % n for n in range(50_000)), "LIMIT_EXCEEDED", "BAD_USER_INPUT"),
    "a million lists in lists": (b"[%b]" % b",".join([b"[" * 400 + b"]" * 400] * 1_700), "LIMIT_EXCEEDED", "LIMIT_EXCEEDED"),
    "commas in strings": (b"[%b1]" % (b'",,,",' * 200_000), "LIMIT_EXCEEDED", "LIMIT_EXCEEDED"),
    "a string of commas": (b'"%b"' % (b"," * 1_400_000), "BAD_USER_INPUT", "BAD_USER_INPUT"),
    "a string of 3 MB": (b'"%b"' % (b"x" * 3_000_000), "BAD_REQUEST", "BAD_USER_INPUT"),
    "a body of 5 MB": (b'"%b"' % (b"x" * 5_000_000), "BAD_REQUEST", "BAD_REQUEST"),
}


@pytest.mark.parametrize("is_signed_in", [False, True])
@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_body_of_that_size_gives_way(shopper: Client, name: str, is_signed_in: bool) -> None:
    value, *codes = HOSTILE[name]
    client = shopper.signed_in(await make_user(shopper.database)) if is_signed_in else shopper
    content = b'{"query":"query($x: ID!) { product(by: {id: $x}) { id } }","variables":{"x":%b}}' % value
    stalls: list[float] = []
    while len(stalls) < ATTEMPTS and not (stalls and stalls[-1] <= MAX_STALL_SECONDS):
        async with measured_load() as load:
            [error] = (await asyncio.to_thread(post, client, content))["errors"]
        stalls.append(load.longest_stall_seconds)
        assert error["extensions"]["code"] == codes[is_signed_in], error
    assert min(stalls) <= MAX_STALL_SECONDS


async def test_large_body_with_invalid_credentials_is_refused(shopper: Client) -> None:
    content = b'{"query":"%b"}' % (b"x" * 2_000_000)
    [error] = (await asyncio.to_thread(post, replace(shopper, token="none"), content))["errors"]
    assert error["extensions"]["code"] == "UNAUTHENTICATED"


def post(client: Client, content: bytes) -> Any:
    """Post a body in this thread, and return the response."""
    connection = http.client.HTTPConnection("127.0.0.1", client.http.base_url.port, timeout=60)
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {client.token}"} if client.token else {})
    with suppress(ConnectionError):
        # The server may answer and close before it has read everything.
        connection.request("POST", "/graphql", content, headers)
    response = json.loads(connection.getresponse().read())
    connection.close()
    return response
