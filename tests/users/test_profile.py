"""The viewer's own profile over GraphQL: name and image."""

import asyncio
from typing import Any

import pytest

from tests.client import Client
from tests.factories import make_product, make_review, make_store, make_user

UPDATE = """mutation($i: UpdateProfileInput!) { updateProfile(input: $i) {
  user { id name image email version updatedAt } replayed clientMutationId
  userErrors { code message path ... on StaleVersionError { currentVersion changedFields } } } }"""
PICTURE = "https://example.com/me.jpg"


@pytest.fixture
async def user_value(shopper: Client) -> Client:
    return shopper.signed_in(await make_user(shopper.database, name="Ada", image=PICTURE))


async def mutate(client: Client, **input_: Any) -> dict[str, Any]:
    payload = (await client.ask(UPDATE, i=input_))["updateProfile"]
    return dict(payload)


async def version(client: Client) -> int:
    return int((await client.ask("{ me { version } }"))["me"]["version"])


async def test_omitted_fields_stay_and_null_clears(user_value: Client) -> None:
    answer = await mutate(user_value, name=" Grace ", clientMutationId="p")
    assert (answer["user"]["name"], answer["user"]["image"], answer["userErrors"]) == ("Grace", PICTURE, [])
    assert (answer["user"]["version"], answer["clientMutationId"]) == (2, "p")
    answer = await mutate(user_value, image=None)
    assert (answer["user"]["name"], answer["user"]["image"]) == ("Grace", None)
    assert (await user_value.ask("{ me { name image } }"))["me"] == {"name": "Grace", "image": None}


async def test_profile_uses_optimistic_locking(user_value: Client) -> None:
    await mutate(user_value, name="Ada")
    await mutate(user_value)
    assert await version(user_value) == 1
    created = (await user_value.ask("{ me { createdAt updatedAt } }"))["me"]
    assert created["createdAt"] == created["updatedAt"]
    answer = await mutate(user_value, name="Grace", expectedVersion=1)
    assert await version(user_value) == 2 and answer["user"]["updatedAt"] > created["updatedAt"]
    [error] = (await mutate(user_value, name="Eve", expectedVersion=1))["userErrors"]
    assert (error["code"], error["path"], error["currentVersion"], error["changedFields"]) == (
        "STALE_VERSION", ["expectedVersion"], 2, [],
    )  # fmt: skip


@pytest.mark.parametrize("given", [{"name": ""}, {"name": "a" * 256}, {"name": "\x00"}, {"image": "javascript:1"}, {"image": ""}])
async def test_invalid_name_or_image_is_rejected(user_value: Client, given: dict[str, str]) -> None:
    answer = await mutate(user_value, **given)
    assert [(e["code"], e["path"]) for e in answer["userErrors"]] == [("INVALID_INPUT", list(given))] and answer["user"] is None
    assert await version(user_value) == 1


async def test_users_change_their_own_profile(user_value: Client, shopper: Client) -> None:
    other = shopper.signed_in(await make_user(shopper.database, name="Other"))
    await mutate(other, name="Changed", idempotencyKey="k")
    answer = await mutate(user_value, name="Mine", idempotencyKey="k")
    assert answer["replayed"] is False and answer["user"]["name"] == "Mine"
    assert (await mutate(other, name="Changed", idempotencyKey="k"))["replayed"] is True
    assert (await shopper.refusal(UPDATE, i={"name": "Nobody"}))["extensions"]["code"] == "UNAUTHENTICATED"


# ---------------------------------------------------------------------------------------- where it is shown

POSITION = "query($c: ID!) { config(by: {id: $c}) { position } }"
CHANGES = 'query($c: ID!) { productChanges(configId: $c, after: "0") { position hasMore changes { __typename } } }'
REVIEW = "mutation($p: ID!) { createReview(input: {productId: $p, rating: 5}) { userErrors { message } } }"


async def positions(client: Client, *stores: str) -> list[int]:
    return [int((await client.ask(POSITION, c=store))["config"]["position"]) for store in stores]


async def test_logs_of_stores_showing_name_move_silently(shopper: Client) -> None:
    database = shopper.database
    user = await make_user(database)
    own, reviewed, other = [await make_store(database, **given) for given in ({"user_id": user}, {}, {})]
    await make_review(database, await make_product(database, reviewed), user_id=user)
    await make_review(database, await make_product(database, other))
    ada = shopper.signed_in(user)
    await mutate(ada, name="Ada")
    assert await positions(shopper, own, reviewed, other) == [1, 1, 0]
    await mutate(ada, name="Ada")
    await mutate(ada, image=PICTURE, name="Grace")
    assert await positions(shopper, own, reviewed, other) == [2, 2, 0]
    for viewer in (shopper, ada):
        page = (await viewer.ask(CHANGES, c=own))["productChanges"]
        assert page == {"position": "2", "hasMore": False, "changes": []}


async def test_concurrent_review_sees_name_change(shopper: Client) -> None:
    """No store may start to show the name between the query for these stores and the commit."""
    database = shopper.database
    user = await make_user(database)
    product = await make_product(database, store := await make_store(database))
    ada = shopper.signed_in(user)
    async with database.transaction() as connection:
        await connection.raw.execute("SELECT FROM products WHERE id = %s FOR UPDATE", [product])
        await connection.raw.execute(
            "INSERT INTO reviews (config_id, id, product_id, user_id, rating) VALUES (%s, gen_random_uuid(), %s, %s, 5)",
            [store, product, user],
        )
        renaming = asyncio.create_task(mutate(ada, name="Ada"))
        await asyncio.sleep(0.3)
        assert not renaming.done()
    await renaming
    assert await positions(shopper, store) == [1]


async def test_concurrent_reviews_and_profile_updates_do_not_deadlock(shopper: Client) -> None:
    database = shopper.database
    user = await make_user(database)
    products = [await make_product(database, await make_store(database)) for _ in range(6)]
    ada = shopper.signed_in(user)
    done = await asyncio.gather(
        *(mutate(ada, name=f"Ada {number}") for number in range(6)), *(ada.ask(REVIEW, p=product) for product in products)
    )
    assert all(not (answer.get("createReview") or answer)["userErrors"] for answer in done)
