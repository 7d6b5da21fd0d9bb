"""Moderation of reviews: policies, statuses, who sees what, exact counts, replies."""

from typing import Any

import pytest

from storefront.feed import log
from tests.client import Client
from tests.factories import count_statements, make_product, make_review, make_store, make_user

ERRORS = "userErrors { __typename code path }"
REVIEW = "id rating title status moderationNote reply repliedAt version"
CREATE = f"mutation($i: CreateReviewInput!) {{ createReview(input: $i) {{ review {{ {REVIEW} }} position {ERRORS} }} }}"
UPDATE = f"mutation($i: UpdateReviewInput!) {{ updateReview(input: $i) {{ review {{ {REVIEW} }} position {ERRORS} }} }}"
MODERATE = f"mutation($i: ModerateReviewsInput!) {{ moderateReviews(input: $i) {{ reviews {{ {REVIEW} }} position {ERRORS} }} }}"
REPLY = f"mutation($i: ReplyToReviewInput!) {{ replyToReview(input: $i) {{ review {{ {REVIEW} }} position {ERRORS} }} }}"
# As rows and as JSON documents.
PRODUCT = """query($p: ID!) {
  rows: product(by: {id: $p}) { reviews(first: 100) { totalCount edges { node { id status } } } }
  json: product(by: {id: $p}) { reviews(first: 100) { totalCount nodes { id status reply } }
    rated: reviews(rating: 5) { nodes { id } }
    reviewSummary { count average distribution { rating count } } } }"""
OF_STORE = """query($c: ID!, $s: [ReviewStatus!]) {
  config(by: {id: $c}) { reviews(statuses: $s, first: 100) { totalCount nodes { id } } } }"""
OWN = f"query($p: ID!) {{ product(by: {{id: $p}}) {{ viewerReview {{ {REVIEW} }} }} }}"
NODE = "query($id: ID!) { node(id: $id) { id } }"


class Shop:
    """A store with a product, its owner, an author and an anonymous client."""

    def __init__(self, shopper: Client, owner: Client, author: Client, store: str, product: str) -> None:
        self.shopper, self.owner, self.author, self.store, self.product = shopper, owner, author, store, product

    async def mutate(self, client: Client, document: str, **given: Any) -> dict[str, Any]:
        [payload] = (await client.ask(document, i=given)).values()
        return dict(payload)

    async def write(self, **given: Any) -> dict[str, Any]:
        payload = await self.mutate(self.author, CREATE, productId=self.product, **{"rating": 4, **given})
        assert payload["userErrors"] == []
        return dict(payload["review"])

    async def moderate(self, status: str, *ids: str, note: str | None = None) -> list[dict[str, Any]]:
        payload = await self.mutate(self.owner, MODERATE, ids=[*ids], status=status, note=note)
        assert payload["userErrors"] == []
        return list(payload["reviews"])

    async def set_policy(self, policy: str) -> None:
        document = (
            "mutation($c: ID!, $p: ReviewPolicy!) { updateConfig(input: {id: $c, reviewPolicy: $p}) { config { reviewPolicy } } }"
        )
        assert (await self.owner.ask(document, c=self.store, p=policy))["updateConfig"]["config"] == {"reviewPolicy": policy}

    async def load_public(self, client: Client) -> list[str]:
        """The ids of the product's reviews, after checks that all lists and counts agree."""
        found = await client.ask(PRODUCT, p=self.product)
        ids = [edge["node"]["id"] for edge in found["rows"]["reviews"]["edges"]]
        reviews, summary = found["json"]["reviews"], found["json"]["reviewSummary"]
        assert [node["id"] for node in reviews["nodes"]] == ids
        assert {node["status"] for node in reviews["nodes"]} <= {"PUBLISHED"}
        assert len(ids) == reviews["totalCount"] == found["rows"]["reviews"]["totalCount"] == summary["count"]
        assert sum(count["count"] for count in summary["distribution"]) == len(ids)
        return ids

    async def load_of_store(self, client: Client, *statuses: str) -> set[str]:
        found = (await client.ask(OF_STORE, c=self.store, s=[*statuses] or None))["config"]["reviews"]
        assert found["totalCount"] == len(found["nodes"])
        return {node["id"] for node in found["nodes"]}


@pytest.fixture
async def shop(shopper: Client) -> Shop:
    owner, author = await make_user(shopper.database), await make_user(shopper.database)
    store = await make_store(shopper.database, user_id=owner)
    product = await make_product(shopper.database, store)
    return Shop(shopper, shopper.signed_in(owner), shopper.signed_in(author), store, product)


async def test_review_is_published_at_once_by_default(shop: Shop) -> None:
    review = await shop.write()
    assert (review["status"], review["moderationNote"], review["reply"]) == ("PUBLISHED", None, None)
    assert await shop.load_public(shop.shopper) == [review["id"]]


async def test_moderated_review_is_seen_by_author_and_owner_until_published(shop: Shop) -> None:
    await shop.set_policy("MODERATE")
    review = await shop.write(rating=5)
    other = shop.shopper.signed_in(await make_user(shop.shopper.database))
    assert review["status"] == "PENDING"
    for client in (shop.shopper, other, shop.author, shop.owner):
        assert await shop.load_public(client) == []
    assert [await shop.load_of_store(client) for client in (shop.shopper, other, shop.author)] == [set()] * 3
    assert await shop.load_of_store(shop.owner) == {review["id"]}
    nodes = [(await client.ask(NODE, id=review["id"]))["node"] for client in (shop.shopper, other, shop.author, shop.owner)]
    assert nodes == [None, None, {"id": review["id"]}, {"id": review["id"]}]
    viewer_reviews = [(await client.ask(OWN, p=shop.product))["product"]["viewerReview"] for client in (shop.shopper, other)]
    assert viewer_reviews == [None, None]
    assert (await shop.author.ask(OWN, p=shop.product))["product"]["viewerReview"] == review
    [published] = await shop.moderate("PUBLISHED", review["id"])
    assert (published["status"], published["version"]) == ("PUBLISHED", 2)
    assert await shop.load_public(shop.shopper) == [review["id"]]
    assert await shop.load_of_store(shop.shopper) == {review["id"]}


async def test_edited_review_waits_again_in_moderated_store(shop: Shop) -> None:
    review = await shop.write(title="Good")
    await shop.set_policy("MODERATE")
    unchanged = await shop.mutate(shop.author, UPDATE, id=review["id"], title="Good")
    assert (unchanged["review"]["status"], unchanged["position"]) == ("PUBLISHED", None)
    assert (await shop.mutate(shop.author, UPDATE, id=review["id"], title="Bad"))["review"]["status"] == "PENDING"
    await shop.moderate("HIDDEN", review["id"], note="Rude")
    edited = (await shop.mutate(shop.author, UPDATE, id=review["id"], title="Fair"))["review"]
    assert (edited["status"], edited["moderationNote"]) == ("PENDING", None)
    await shop.moderate("HIDDEN", review["id"])
    await shop.set_policy("PUBLISH")
    assert (await shop.mutate(shop.author, UPDATE, id=review["id"], title="Bad"))["review"]["status"] == "HIDDEN"
    assert await shop.load_public(shop.shopper) == []


async def test_owner_of_moderated_store_needs_no_approval(shop: Shop) -> None:
    await shop.set_policy("MODERATE")
    payload = await shop.mutate(shop.owner, CREATE, productId=shop.product, rating=3)
    assert payload["review"]["status"] == "PUBLISHED"


async def test_owner_hides_with_note_that_strangers_never_see(shop: Shop) -> None:
    review = await shop.write()
    [hidden] = await shop.moderate("HIDDEN", review["id"], note="Off topic")
    assert (hidden["status"], hidden["moderationNote"]) == ("HIDDEN", "Off topic")
    assert (await shop.author.ask(OWN, p=shop.product))["product"]["viewerReview"]["moderationNote"] == "Off topic"
    assert await shop.load_public(shop.shopper) == [] and await shop.load_of_store(shop.owner, "HIDDEN") == {review["id"]}
    assert (await shop.shopper.ask(NODE, id=review["id"]))["node"] is None
    again = await shop.mutate(shop.owner, MODERATE, ids=[review["id"]], status="HIDDEN", note="Off topic")
    assert (again["position"], again["reviews"][0]["version"]) == (None, 2)
    [published] = await shop.moderate("PUBLISHED", review["id"], note="ignored")
    assert published["moderationNote"] is None
    assert await shop.load_public(shop.shopper) == [review["id"]]


async def test_owner_filters_reviews_of_store_by_statuses(shop: Shop) -> None:
    ids: dict[str, list[str]] = {}
    for status in ("published", "pending", "hidden"):
        ids[status.upper()] = [await make_review(shop.shopper.database, shop.product, status=status) for _ in range(3)]
    everything = {review for reviews in ids.values() for review in reviews}
    assert await shop.load_of_store(shop.owner) == everything
    for statuses in (["PENDING"], ["HIDDEN", "PENDING"], ["PUBLISHED", "PUBLISHED"], [*ids]):
        expected = {review for status in statuses for review in ids[status]}
        assert await shop.load_of_store(shop.owner, *statuses) == expected
        assert await shop.load_of_store(shop.shopper, *statuses) == {*ids["PUBLISHED"]}
    page = """query($c: ID!, $after: String) { config(by: {id: $c}) {
      reviews(statuses: [HIDDEN, PUBLISHED], first: 2, after: $after) { nodes { id } pageInfo { endCursor hasNextPage } } } }"""
    seen: list[str] = []
    after, has_next = None, True
    while has_next:
        with count_statements(shop.shopper.database) as statements:
            found = (await shop.owner.ask(page, c=shop.store, after=after))["config"]["reviews"]
        assert len(statements) <= 3
        seen += [node["id"] for node in found["nodes"]]
        after, has_next = found["pageInfo"]["endCursor"], found["pageInfo"]["hasNextPage"]
    assert seen == sorted([*ids["HIDDEN"], *ids["PUBLISHED"]], reverse=True)


@pytest.mark.parametrize("before", ["published", "pending", "hidden"])
@pytest.mark.parametrize("after", ["published", "pending", "hidden"])
async def test_counts_follow_every_change_of_status(shop: Shop, before: str, after: str) -> None:
    database = shop.shopper.database
    reviews = [await make_review(database, shop.product, status=before, rating=rating) for rating in (1, 5, 5)]
    await make_review(database, shop.product, rating=3)
    assert len(await shop.load_public(shop.shopper)) == (4 if before == "published" else 1)
    await shop.moderate(after.upper(), *reviews)
    assert len(await shop.load_public(shop.shopper)) == (4 if after == "published" else 1)
    async with database.transaction() as connection:
        authors = "SELECT user_id FROM reviews WHERE id = ANY(%s)"
        await connection.raw.execute(f"DELETE FROM users WHERE id IN ({authors})".encode(), [reviews])
    assert len(await shop.load_public(shop.shopper)) == 1


async def test_only_owner_moderates_and_replies(shop: Shop) -> None:
    public, pending = [await make_review(shop.shopper.database, shop.product, status=one) for one in ("published", "pending")]
    own = await shop.write()
    for document, more in ((MODERATE, {"status": "HIDDEN"}), (REPLY, {"reply": "x"})):
        for review, is_seen in ((public, True), (own["id"], True), (pending, False)):
            keys = {"ids": [review]} if document is MODERATE else {"id": review}
            if is_seen:
                assert (await shop.author.refusal(document, i={**keys, **more}))["extensions"]["code"] == "FORBIDDEN"
            else:
                [error] = (await shop.mutate(shop.author, document, **keys, **more))["userErrors"]
                assert error["code"] == "NOT_FOUND"


async def test_moderation_of_several_reviews_is_all_or_none(shop: Shop) -> None:
    review = await shop.write()
    other_store = await make_store(shop.shopper.database, user_id=(await shop.owner.ask("{ me { id } }"))["me"]["id"])
    other = await make_review(shop.shopper.database, await make_product(shop.shopper.database, other_store))
    for ids, expected in (
        ([review["id"], shop.store], [("NOT_FOUND", ["ids", "1"])]),
        ([review["id"], other], [("INVALID_INPUT", ["ids", "1"])]),
        ([], [("INVALID_INPUT", ["ids"])]),
        (["x"], [("INVALID_INPUT", ["ids", "0"])]),
    ):
        payload = await shop.mutate(shop.owner, MODERATE, ids=ids, status="HIDDEN")
        assert [(error["code"], error["path"]) for error in payload["userErrors"]] == expected and payload["reviews"] == []
    assert await shop.load_public(shop.shopper) == [review["id"]]
    twice = await shop.moderate("HIDDEN", review["id"], review["id"])
    assert [one["id"] for one in twice] == [review["id"]] * 2


async def test_reply_is_public_with_its_review(shop: Shop) -> None:
    review = await shop.write()
    replied = (await shop.mutate(shop.owner, REPLY, id=review["id"], reply=" Thank you "))["review"]
    assert replied["reply"] == "Thank you" and replied["repliedAt"] and replied["version"] == 2
    found = await shop.shopper.ask(PRODUCT, p=shop.product)
    assert found["json"]["reviews"]["nodes"][0]["reply"] == "Thank you"
    same = await shop.mutate(shop.owner, REPLY, id=review["id"], reply="Thank you")
    assert (same["position"], same["review"]["version"]) == (None, 2)
    stale = await shop.mutate(shop.owner, REPLY, id=review["id"], reply="x", expectedVersion=1)
    assert stale["userErrors"][0]["code"] == "STALE_VERSION"
    removed = (await shop.mutate(shop.owner, REPLY, id=review["id"], reply=None))["review"]
    assert (removed["reply"], removed["repliedAt"]) == (None, None)


async def test_feed_tells_shoppers_of_public_reviews_only(shop: Shop) -> None:
    await shop.set_policy("MODERATE")
    review = await shop.write()
    await shop.moderate("PUBLISHED", review["id"])
    await shop.moderate("HIDDEN", review["id"], note="x")
    await shop.mutate(shop.author, UPDATE, id=review["id"], rating=1)
    entries = [
        entry for entry in await log.read_entries(shop.owner.database, shop.store, 0, 20) if entry.kind == "product_updated"
    ]
    assert [(entry.is_visible, entry.changed_fields) for entry in entries] == [
        (False, ["reviews"]),
        (True, ["reviews.status"]),
        (True, ["reviews.status", "reviews.moderationNote"]),
        (False, ["reviews.rating", "reviews.status", "reviews.moderationNote"]),
    ]
    assert all(entry.was_visible == entry.is_visible for entry in entries)
