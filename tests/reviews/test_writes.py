"""Review mutations over GraphQL: one review per user and product, writable by its author only."""

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import text

from storefront.core.db.database import compile_statement
from storefront.core.ids import uuid7
from storefront.feed import log
from tests.client import Client
from tests.factories import make_product, make_review, make_store, make_user

ERRORS = "userErrors { __typename code message path ... on StaleVersionError { currentVersion changedFields } }"
SUMMARY_FIELDS = "reviewSummary { average count distribution { rating count } }"
REVIEW = f"{{ id rating title body version createdAt updatedAt user {{ id email }} product {{ id {SUMMARY_FIELDS} }} }}"
CREATE = (
    f"mutation($i: CreateReviewInput!) {{ createReview(input: $i) {{ review {REVIEW} position clientMutationId {ERRORS} }} }}"
)
UPDATE = (
    f"mutation($i: UpdateReviewInput!) {{ updateReview(input: $i) {{ review {REVIEW} position clientMutationId {ERRORS} }} }}"
)
DELETE = f"""mutation($i: DeleteReviewInput!) {{ deleteReview(input: $i) {{
  deletedId position product {{ id {SUMMARY_FIELDS} }} {ERRORS} }} }}"""
SUMMARY = f"query($i: ID!) {{ product(by: {{id: $i}}) {{ version {SUMMARY_FIELDS} reviews {{ nodes {{ id }} }} }} }}"


@pytest.fixture
async def author(shopper: Client) -> Client:
    return shopper.signed_in(await make_user(shopper.database))


async def own_id(client: Client) -> str:
    return str((await client.ask("{ me { id } }"))["me"]["id"])


async def a_product(client: Client, **values: Any) -> tuple[str, str]:
    """A product of another user, and its store."""
    store = await make_store(client.database)
    return await make_product(client.database, store, **values), store


async def mutate(client: Client, document: str, **input_: Any) -> dict[str, Any]:
    [payload] = (await client.ask(document, i=input_)).values()
    return dict(payload)


def build_summary(average: float | None, *counts: int) -> dict[str, Any]:
    distribution = [{"rating": rating, "count": count} for rating, count in enumerate(counts, 1)]
    return {"average": average, "count": sum(counts), "distribution": distribution}


def get_errors(payload: dict[str, Any]) -> list[tuple[str, str]]:
    return [(error["code"], ".".join(error["path"])) for error in payload["userErrors"]]


async def test_review_is_created_and_counted(author: Client) -> None:
    product, store = await a_product(author)
    answer = await mutate(
        author, CREATE, productId=product, rating=4, title=" Good ", body="It holds tea.\nLots.", clientMutationId="r"
    )
    review = answer["review"]
    assert get_errors(answer) == [] and (answer["position"], answer["clientMutationId"]) == ("1", "r")
    assert (review["rating"], review["title"], review["body"], review["version"]) == (4, "Good", "It holds tea.\nLots.", 1)
    assert review["user"]["id"] == await own_id(author) and review["user"]["email"]
    assert review["product"] == {"id": product, "reviewSummary": build_summary(4.0, 0, 0, 0, 1, 0)}
    assert review["createdAt"] == review["updatedAt"]
    [entry] = await log.read_entries(author.database, store, 0, 10)
    assert (entry.kind, entry.entity_id, entry.product_id) == ("product_updated", review["id"], product)
    assert (entry.changed_fields, entry.actor_id, entry.client_mutation_id) == (["reviews"], review["user"]["id"], "r")


async def test_second_review_of_product_is_rejected(author: Client, shopper: Client) -> None:
    product, store = await a_product(author)
    assert get_errors(await mutate(author, CREATE, productId=product, rating=5)) == []
    assert get_errors(await mutate(author, CREATE, productId=product, rating=1)) == [("ALREADY_EXISTS", "productId")]
    other = shopper.signed_in(await make_user(shopper.database))
    assert get_errors(await mutate(other, CREATE, productId=product, rating=2)) == []
    summary = (await shopper.ask(SUMMARY, i=product))["product"]["reviewSummary"]
    assert summary == build_summary(3.5, 0, 1, 0, 0, 1)
    assert [entry.position for entry in await log.read_entries(author.database, store, 0, 10)] == [1, 2]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"rating": 0}, [("INVALID_INPUT", "rating")]),
        ({"rating": 6}, [("INVALID_INPUT", "rating")]),
        ({"title": "a" * 256, "body": "\x00"}, [("INVALID_INPUT", "title"), ("INVALID_INPUT", "body")]),
        ({"body": "a" * 10_001}, [("INVALID_INPUT", "body")]),
        ({"productId": "no id"}, [("INVALID_INPUT", "productId")]),
        ({"productId": str(uuid7())}, [("NOT_FOUND", "productId")]),
    ],
)
async def test_invalid_review_is_rejected(author: Client, given: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    product, store = await a_product(author)
    answer = await mutate(author, CREATE, **{"productId": product, "rating": 3, **given})
    assert sorted(get_errors(answer)) == sorted(expected) and answer["review"] is None
    assert await log.read_entries(author.database, store, 0, 10) == []


async def test_only_owner_reviews_hidden_product(author: Client) -> None:
    hidden, store = await a_product(author, status="inactive")
    assert get_errors(await mutate(author, CREATE, productId=hidden, rating=3)) == [("NOT_FOUND", "productId")]
    mine = await make_product(author.database, await make_store(author.database, user_id=await own_id(author)), status="inactive")
    assert get_errors(await mutate(author, CREATE, productId=mine, rating=3)) == []
    assert await log.read_entries(author.database, store, 0, 10) == []


async def test_update_changes_and_logs_given_fields(author: Client) -> None:
    product, store = await a_product(author)
    before = datetime(2020, 1, 1, tzinfo=UTC)
    values = {"user_id": await own_id(author), "rating": 5, "title": "T", "body": "B", "created_at": before}
    review = await make_review(author.database, product, **values)
    answer = await mutate(author, UPDATE, id=review, rating=2, title="T", body=None, clientMutationId="u")
    changed = answer["review"]
    assert (changed["rating"], changed["title"], changed["body"], changed["version"]) == (2, "T", None, 2)
    assert changed["product"]["reviewSummary"] == build_summary(2.0, 0, 1, 0, 0, 0)
    assert changed["createdAt"] < changed["updatedAt"]
    [entry] = await log.read_entries(author.database, store, 0, 10)
    assert sorted(entry.changed_fields) == ["reviews.body", "reviews.rating"]
    assert (entry.version, entry.client_mutation_id, entry.position) == (2, "u", 1)
    again = await mutate(author, UPDATE, id=review, rating=2)
    assert again["position"] is None and again["review"]["version"] == 2
    assert get_errors(await mutate(author, UPDATE, id=review, rating=None)) == [("INVALID_INPUT", "rating")]


async def test_stale_version_is_rejected_with_changed_fields(author: Client) -> None:
    product, _ = await a_product(author)
    review = await make_review(author.database, product, user_id=await own_id(author))
    await mutate(author, UPDATE, id=review, rating=2, body="B")
    for document in (UPDATE, DELETE):
        [error] = (await mutate(author, document, id=review, expectedVersion=1))["userErrors"]
        assert (error["code"], error["currentVersion"], error["changedFields"]) == ("STALE_VERSION", 2, ["body", "rating"])


async def test_deleted_review_is_not_counted(author: Client, shopper: Client) -> None:
    product, store = await a_product(author)
    review = await make_review(author.database, product, user_id=await own_id(author))
    answer = await mutate(author, DELETE, id=review)
    assert (answer["deletedId"], answer["position"]) == (review, "1")
    assert answer["product"] == {"id": product, "reviewSummary": build_summary(None, 0, 0, 0, 0, 0)}
    left = (await shopper.ask(SUMMARY, i=product))["product"]
    assert left["reviewSummary"] == build_summary(None, 0, 0, 0, 0, 0) and left["reviews"]["nodes"] == []
    again = await mutate(author, DELETE, id=review)
    assert get_errors(again) == [("NOT_FOUND", "id")] and again["product"] is None
    [entry] = await log.read_entries(author.database, store, 0, 10)
    assert (entry.entity_id, entry.changed_fields) == (review, ["reviews"])
    assert get_errors(await mutate(author, CREATE, productId=product, rating=1)) == []


async def test_store_owner_may_not_change_review(author: Client, shopper: Client) -> None:
    boss = await make_user(shopper.database)
    product = await make_product(shopper.database, await make_store(shopper.database, user_id=boss))
    review = await make_review(shopper.database, product, user_id=await own_id(author))
    for document, given in ((UPDATE, {"id": review, "rating": 5}), (DELETE, {"id": review})):
        assert (await shopper.signed_in(boss).refusal(document, i=given))["extensions"]["code"] == "FORBIDDEN"
        assert (await shopper.refusal(document, i=given))["extensions"]["code"] == "UNAUTHENTICATED"


async def test_deleting_product_deletes_reviews(author: Client) -> None:
    store = await make_store(author.database, user_id=await own_id(author))
    product = await make_product(author.database, store)
    review = await make_review(author.database, product, user_id=await own_id(author))
    await author.ask("mutation($i: ID!) { deleteProduct(input: {id: $i}) { deletedId } }", i=product)
    assert get_errors(await mutate(author, UPDATE, id=review, rating=1)) == [("NOT_FOUND", "id")]


async def test_review_of_hidden_product_can_be_changed(author: Client) -> None:
    product, _ = await a_product(author, status="inactive")
    review = await make_review(author.database, product, user_id=await own_id(author))
    # The product itself is not told of: there is none to its author.
    error = await author.refusal(UPDATE, i={"id": review, "rating": 1})
    assert (error["extensions"]["code"], error["path"]) == ("NOT_FOUND", ["updateReview", "review", "product"])
    [(rating,)] = await author.database.fetch(
        compile_statement(text("SELECT rating FROM reviews WHERE id = :id")), {"id": review}
    )
    assert rating == 1
