"""One's own name and picture, over GraphQL."""

from typing import Any

import pytest

from tests.client import Client
from tests.factories import make_user

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
