"""Image URLs are unguessable, and hidden images are not disclosed."""

import re
from typing import Any

import pytest
from alembic import command

from storefront.core.db.database import Database
from storefront.core.db.migrations import build_config, connect
from storefront.core.ids import uuid7
from storefront.core.logs import redact_secrets
from tests.client import Client
from tests.factories import make_image, make_product, make_store
from tests.media.flow import REMOVE, UPDATE, Merchant, external_id
from tests.pictures import picture

KEY = re.compile(r"/media/([0-9a-f-]{36})-([0-9a-f]{32})/")
NO_TOKEN = "0" * 32

PRODUCT = "id images gallery(first: 10) { id url alt placeholder }"
# All queries by which other viewers reach products of a store.
LOOKS = [
    f"query($s: ID!, $p: ID!) {{ product(by: {{ id: $p }}) {{ {PRODUCT} }} config(by: {{ id: $s }}) {{ id }} }}",
    f"query($s: ID!) {{ products(configId: $s, first: 50) {{ nodes {{ {PRODUCT} related(first: 5) {{ {PRODUCT} }} }} }} }}",
    f"query($s: ID!) {{ config(by: {{ id: $s }}) {{ products(first: 50) {{ nodes {{ {PRODUCT} }} }} }} }}",
    f'query($s: ID!) {{ searchProducts(input: {{ configId: $s, q: "walnut" }}) {{ products {{ {PRODUCT} }} }} }}',
    'query($s: ID!) { config(by: {id: $s}) { predictiveSearch(search: "wal") { suggestions { text } } } }',
    f"query {{ configs(first: 100) {{ nodes {{ id products(first: 5) {{ nodes {{ {PRODUCT} }} }} }} }} }}",
    f"""query($s: ID!) {{ productChanges(configId: $s, after: "0") {{ changes {{ __typename
      ... on ProductCreated {{ product {{ {PRODUCT} }} }} ... on ProductUpdated {{ product {{ {PRODUCT} }} }} }} }} }}""",
]
HIDE_PRODUCT = "mutation($i: UpdateProductInput!) { updateProduct(input: $i) { userErrors { message } } }"
HIDE_STORE = "mutation($i: ID!) { unpublishConfig(input: { id: $i }) { userErrors { message } } }"


def parts_of(url: str) -> tuple[str, str]:
    """The id and the token in an image URL."""
    found = KEY.search(url)
    assert found, url
    return found[1], found[2]


async def hide(merchant: Merchant, what: str) -> None:
    if what == "product":
        await merchant.client.ask(HIDE_PRODUCT, i={"id": merchant.product, "status": "INACTIVE"})
    else:
        await merchant.client.ask(HIDE_STORE, i=merchant.store)


async def test_image_url_has_random_token(merchant: Merchant) -> None:
    images = [await merchant.add_image(picture(), alt="A") for _ in range(3)]
    parts = [parts_of(image["url"]) for image in images]
    assert [id_ for id_, _ in parts] == [image["id"] for image in images]
    tokens = {token for _, token in parts}
    assert len(tokens) == 3
    # 128 random bits: about half of them are set.
    assert 140 < sum(int(token, 16).bit_count() for token in tokens) < 244
    assert {parts_of(image["small"])[1] for image in images} == tokens


async def test_image_url_requires_its_token(merchant: Merchant) -> None:
    image, other = await merchant.add_image(picture()), await merchant.add_image(picture())
    (id_, token), (_, others) = parts_of(image["url"]), parts_of(other["url"])
    host = image["url"].partition("/media/")[0]
    keys = [id_, f"{id_}-", f"{id_}-{NO_TOKEN}", f"{id_}-{others}", f"{id_}-{token[:-1]}", f"{id_}-{token}0", token]
    keys += [
        f"{id_}-{token.upper()}",
        f"{id_.upper()}-{token}",
        f"{id_}{token}",
        f"{merchant.product}-{token}",
        f"{id_}-{token}%0a",
    ]
    unknown = await merchant.http.get(f"{host}/media/{uuid7()}-{NO_TOKEN}/full.jpg")
    assert unknown.status_code == 404
    for key in keys:
        if key != f"{id_}-{token}":
            answer = await merchant.http.get(f"{host}/media/{key}/full.jpg")
            assert (answer.status_code, answer.content) == (404, unknown.content), key
    assert (await merchant.http.get(image["url"])).status_code == 200
    assert (await merchant.http.get(f"{host}/media/")).status_code == 404


@pytest.mark.parametrize("what", ["product", "store"])
async def test_hidden_images_are_not_disclosed(merchant: Merchant, shop: tuple[Client, Any], what: str) -> None:
    await merchant.client.ask(HIDE_PRODUCT, i={"id": merchant.product, "title": "Walnut bowl"})
    await hide(merchant, what)
    await make_product(shop[0].database, merchant.store, title="Walnut spoon")
    image = await merchant.add_image(picture(), alt="A secret bowl")
    id_, token = parts_of(image["url"])
    stranger = Client(shop[0].http, shop[0].database)
    for look in LOOKS:
        answer = (await stranger.post(look, s=merchant.store, p=merchant.product)).text
        assert "GRAPHQL" not in answer, answer
        assert id_ not in answer and token not in answer and "secret bowl" not in answer, look
    for document, input_ in ((UPDATE, {"id": id_, "alt": "Mine"}), (REMOVE, {"id": id_})):
        refusal = (await stranger.post(document, input=input_)).text
        assert token not in refusal
    # The owner's front end displays it by an <img>, which sends no credentials.
    seen = await merchant.load_product()
    assert image["url"] in seen["images"] and (await merchant.http.get(image["url"])).status_code == 200


async def test_visible_images_are_public(merchant: Merchant, shop: tuple[Client, Any]) -> None:
    # Guards the test above: the same queries do find visible images.
    await merchant.client.ask(HIDE_PRODUCT, i={"id": merchant.product, "title": "Walnut bowl"})
    image = await merchant.add_image(picture())
    stranger = Client(shop[0].http, shop[0].database)
    answers = [(await stranger.post(look, s=merchant.store, p=merchant.product)).text for look in LOOKS]
    assert sum(image["url"] in answer for answer in answers) >= 5


async def test_wrong_token_discloses_nothing(merchant: Merchant) -> None:
    image = await merchant.add_image(picture(), alt="A mug")
    id_, _ = parts_of(image["url"])
    guess = f"http://a.example/media/{id_}-{NO_TOKEN}/full.jpg"
    await merchant.client.ask(HIDE_PRODUCT, i={"id": merchant.product, "images": [image["url"], guess]})
    known, guessed = (await merchant.load_product())["gallery"]
    assert known["alt"] == "A mug" and (guessed["id"], guessed["alt"], guessed["url"]) == (external_id(guess), None, guess)


def test_logs_redact_image_tokens() -> None:
    id_, token = str(uuid7()), "0123456789abcdef" * 2
    line = redact_secrets(f'127.0.0.1 - "GET /media/{id_}-{token}/full.jpg HTTP/1.1" 200')
    assert id_ in line and token not in line


async def test_migration_adds_image_tokens(database: Database, empty_url: str) -> None:
    store = await make_store(database)
    product = await make_product(database, store, images=["https://elsewhere.example/media/a.jpg"])
    image = await make_image(database, product)
    asked = "SELECT images, (SELECT product_id::text FROM images WHERE id = %s) FROM products WHERE id = %s"

    async def stored() -> Any:
        async with database.transaction() as connection:
            return await (await connection.raw.execute(asked, [image, product])).fetchone()

    before, _ = await stored()
    with connect(empty_url) as connection:
        command.downgrade(build_config(connection), "20261204_products_by_grain")
        connection.commit()
    assert (await stored())[0] == ["https://elsewhere.example/media/a.jpg", f"http://localhost/media/{image}/full.jpg"]
    with connect(empty_url) as connection:
        command.upgrade(build_config(connection), "head")
        connection.commit()
    after, shown_by = await stored()
    assert after[0] == before[0] and after[1] != before[1] and shown_by == product
    assert parts_of(after[1])[0] == image
