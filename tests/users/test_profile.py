"""One's own name and picture, over GraphQL."""

import asyncio
from typing import Any

import pytest

from tests.client import Client
from tests.factories import make_product, make_review, make_store, make_user

UPDATE = """mutation($i: UpdateProfileInput!) { updateProfile(input: $i) {
  user { id name image email } position replayed clientMutationId
  userErrors { code message path ... on StaleVersionError { currentVersion changedFields } } } }"""
PICTURE = "https://example.com/me.jpg"


@pytest.fixture
async def somebody(shopper: Client) -> Client:
    return shopper.signed_in(await make_user(shopper.database, name="Ada", image=PICTURE))


async def told(client: Client, **input_: Any) -> dict[str, Any]:
    payload = (await client.ask(UPDATE, i=input_))["updateProfile"]
    return dict(payload)


async def version(client: Client) -> int:
    me = (await client.ask("{ me { id } }"))["me"]["id"]
    async with client.database.transaction() as connection:
        [(found,)] = await (await connection.raw.execute("SELECT version FROM users WHERE id = %s", [me])).fetchall()
    return int(found)


async def test_what_is_left_out_stays_and_null_empties(somebody: Client) -> None:
    answer = await told(somebody, name=" Grace ", clientMutationId="p")
    assert (answer["user"]["name"], answer["user"]["image"], answer["userErrors"]) == ("Grace", PICTURE, [])
    assert (answer["position"], answer["clientMutationId"]) == (None, "p")
    answer = await told(somebody, image=None)
    assert (answer["user"]["name"], answer["user"]["image"]) == ("Grace", None)
    assert (await somebody.ask("{ me { name image } }"))["me"] == {"name": "Grace", "image": None}


async def test_versions_count_changes_and_guard_them(somebody: Client) -> None:
    await told(somebody, name="Ada")
    await told(somebody)
    assert await version(somebody) == 1
    await told(somebody, name="Grace", expectedVersion=1)
    assert await version(somebody) == 2
    [error] = (await told(somebody, name="Eve", expectedVersion=1))["userErrors"]
    assert (error["code"], error["path"], error["currentVersion"], error["changedFields"]) == (
        "STALE_VERSION", ["expectedVersion"], 2, [],
    )  # fmt: skip


@pytest.mark.parametrize("given", [{"name": ""}, {"name": "a" * 256}, {"name": "\x00"}, {"image": "javascript:1"}, {"image": ""}])
async def test_what_is_no_name_or_picture_is_refused(somebody: Client, given: dict[str, str]) -> None:
    answer = await told(somebody, **given)
    assert [(e["code"], e["path"]) for e in answer["userErrors"]] == [("INVALID_INPUT", list(given))] and answer["user"] is None
    assert await version(somebody) == 1


async def test_everybody_changes_their_own(somebody: Client, shopper: Client) -> None:
    other = shopper.signed_in(await make_user(shopper.database, name="Other"))
    await told(other, name="Changed", idempotencyKey="k")
    answer = await told(somebody, name="Mine", idempotencyKey="k")
    assert answer["replayed"] is False and answer["user"]["name"] == "Mine"
    assert (await told(other, name="Changed", idempotencyKey="k"))["replayed"] is True
    assert (await shopper.refusal(UPDATE, i={"name": "Nobody"}))["extensions"]["code"] == "UNAUTHENTICATED"


# ---------------------------------------------------------------------------------------- where it is shown

POSITION = "query($c: ID!) { config(by: {id: $c}) { position } }"
CHANGES = 'query($c: ID!) { productChanges(configId: $c, after: "0") { position hasMore changes { __typename } } }'
REVIEW = "mutation($p: ID!) { createReview(input: {productId: $p, rating: 5}) { userErrors { message } } }"


async def positions(client: Client, *stores: str) -> list[int]:
    return [int((await client.ask(POSITION, c=store))["config"]["position"]) for store in stores]


async def test_the_logs_of_all_stores_that_show_the_name_move_and_tell_listeners_nothing(shopper: Client) -> None:
    database = shopper.database
    user = await make_user(database)
    own, reviewed, other = [await make_store(database, **given) for given in ({"user_id": user}, {}, {})]
    await make_review(database, await make_product(database, reviewed), user_id=user)
    await make_review(database, await make_product(database, other))
    ada = shopper.signed_in(user)
    await told(ada, name="Ada")
    assert await positions(shopper, own, reviewed, other) == [1, 1, 0]
    await told(ada, name="Ada")
    await told(ada, image=PICTURE, name="Grace")
    assert await positions(shopper, own, reviewed, other) == [2, 2, 0]
    for asker in (shopper, ada):
        page = (await asker.ask(CHANGES, c=own))["productChanges"]
        assert page == {"position": "2", "hasMore": False, "changes": []}


async def test_a_review_on_its_way_shows_the_new_name_or_its_store_is_told(shopper: Client) -> None:
    """Between the look for the stores that show the name and the commit, no further store may come to show it."""
    database = shopper.database
    user = await make_user(database)
    product = await make_product(database, store := await make_store(database))
    ada = shopper.signed_in(user)
    async with database.transaction() as connection:
        await connection.raw.execute("SELECT FROM products WHERE id = %s FOR UPDATE", [product])
        await connection.raw.execute(
            "INSERT INTO reviews (id, product_id, user_id, rating) VALUES (gen_random_uuid(), %s, %s, 5)", [product, user]
        )
        renaming = asyncio.create_task(told(ada, name="Ada"))
        await asyncio.sleep(0.3)
        assert not renaming.done()
    await renaming
    assert await positions(shopper, store) == [1]


async def test_reviews_and_names_at_the_same_time_leave_no_deadlock_behind(shopper: Client) -> None:
    database = shopper.database
    user = await make_user(database)
    products = [await make_product(database, await make_store(database)) for _ in range(6)]
    ada = shopper.signed_in(user)
    done = await asyncio.gather(
        *(told(ada, name=f"Ada {number}") for number in range(6)), *(ada.ask(REVIEW, p=product) for product in products)
    )
    assert all(not (answer.get("createReview") or answer)["userErrors"] for answer in done)
