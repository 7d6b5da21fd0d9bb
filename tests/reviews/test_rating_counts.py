"""The rating counts of a product are those of its published reviews, whoever writes these, one by one or at once."""

import asyncio
from collections import Counter
from random import Random
from typing import Any

import pytest

from storefront.core.db.database import Database
from tests.client import Client
from tests.factories import count_reviews, make_product, make_review, make_store, make_user

ERRORS = "userErrors { code message path }"
CREATE = f"mutation($i: CreateReviewInput!) {{ createReview(input: $i) {{ review {{ id }} {ERRORS} }} }}"
UPDATE = f"mutation($i: UpdateReviewInput!) {{ updateReview(input: $i) {{ review {{ id }} {ERRORS} }} }}"
DELETE = f"mutation($i: DeleteReviewInput!) {{ deleteReview(input: $i) {{ deletedId {ERRORS} }} }}"
MODERATE = f"mutation($i: ModerateReviewsInput!) {{ moderateReviews(input: $i) {{ reviews {{ id }} {ERRORS} }} }}"
REPLY = f"mutation($i: ReplyToReviewInput!) {{ replyToReview(input: $i) {{ review {{ id }} {ERRORS} }} }}"
POLICY = f"mutation($i: UpdateConfigInput!) {{ updateConfig(input: $i) {{ config {{ id }} {ERRORS} }} }}"
SUMMARY = "query($id: ID!) { product(by: {id: $id}) { reviewSummary { average count distribution { count } } } }"


async def fetch(database: Database, sql: str, *values: object) -> list[Any]:
    async with database.transaction() as connection:
        return await (await connection.raw.execute(sql.encode(), values)).fetchall()


async def load_counts(database: Database, store: str) -> dict[str, list[int]]:
    """The counts of a store's products. Fails if they are not those of the reviews, counted plainly."""
    stored = dict(await fetch(database, "SELECT id::text, rating_counts FROM products WHERE config_id = %s", store))
    reviews = "SELECT product_id::text, rating FROM reviews WHERE config_id = %s AND status = 'published'"
    counted = Counter((product, rating) for product, rating in await fetch(database, reviews, store))
    assert stored == {product: [counted[product, rating] for rating in range(1, 6)] for product in stored}
    return stored


async def mutate(client: Client, document: str, **given: Any) -> bool:
    """Whether there were no errors."""
    [payload] = (await client.ask(document, i=given)).values()
    return not payload["userErrors"]


async def test_summary_follows_every_write(shopper: Client) -> None:
    owner, author = [await make_user(shopper.database) for _ in range(2)]
    product = await make_product(shopper.database, await make_store(shopper.database, user_id=owner))

    async def load() -> tuple[float | None, list[int]]:
        summary = (await shopper.ask(SUMMARY, id=product))["product"]["reviewSummary"]
        counts = [each["count"] for each in summary["distribution"]]
        assert summary["count"] == sum(counts)
        return summary["average"], counts

    assert await load() == (None, [0, 0, 0, 0, 0])
    [first, second] = [shopper.signed_in(await make_user(shopper.database)) for _ in range(2)]
    one = (await first.ask(CREATE, i={"productId": product, "rating": 1}))["createReview"]["review"]["id"]
    two = (await second.ask(CREATE, i={"productId": product, "rating": 4}))["createReview"]["review"]["id"]
    assert await load() == (2.5, [1, 0, 0, 1, 0])
    assert await mutate(first, UPDATE, id=one, rating=5, title="x") and await mutate(second, UPDATE, id=two, body="x")
    assert await load() == (4.5, [0, 0, 0, 1, 1])
    assert await mutate(shopper.signed_in(owner), MODERATE, ids=[one, two], status="HIDDEN")
    assert await load() == (None, [0, 0, 0, 0, 0])
    assert await mutate(shopper.signed_in(owner), MODERATE, ids=[two], status="PUBLISHED")
    assert await load() == (4.0, [0, 0, 0, 1, 0])
    assert await mutate(first, DELETE, id=one) and await mutate(second, DELETE, id=two)
    assert await load() == (None, [0, 0, 0, 0, 0])
    assert not await mutate(shopper.signed_in(author), DELETE, id=two)


@pytest.mark.parametrize("seed", [1, 2])
async def test_counts_stay_correct_under_random_writes(shopper: Client, seed: int) -> None:
    database, random = shopper.database, Random(seed)
    owner_id = await make_user(database)
    store, owner = await make_store(database, user_id=owner_id), shopper.signed_in(owner_id)
    products = [await make_product(database, store) for _ in range(3)]
    authors = {user: shopper.signed_in(user) for user in [await make_user(database) for _ in range(6)] + [owner_id]}
    done = Counter[str]()
    for _ in range(60):
        reviews = await fetch(database, "SELECT id::text, user_id::text FROM reviews WHERE config_id = %s ORDER BY id", store)
        kinds = ["create", "create", "policy", *(["update", "update", "delete", "moderate", "reply", "user"] if reviews else [])]
        kind = random.choice(kinds)
        review, author = random.choice(reviews) if reviews else ("", "")
        stars = random.randint(1, 5)
        match kind:
            case "create":
                client = authors[random.choice([*authors])]
                is_written = await mutate(client, CREATE, productId=random.choice(products), rating=stars)
            case "update":
                fields: dict[str, Any] = random.choice(({"rating": stars}, {"title": "x"}, {"rating": stars, "body": "y"}))
                is_written = await mutate(authors[author], UPDATE, id=review, **fields)
            case "delete":
                is_written = await mutate(authors[author], DELETE, id=review)
            case "moderate":
                ids = random.sample([id_ for id_, _ in reviews], random.randint(1, len(reviews)))
                is_written = await mutate(owner, MODERATE, ids=ids, status=random.choice(("PUBLISHED", "HIDDEN", "PENDING")))
            case "reply":
                is_written = await mutate(owner, REPLY, id=review, reply=random.choice(("x", None)))
            case "policy":
                is_written = await mutate(owner, POLICY, id=store, reviewPolicy=random.choice(("PUBLISH", "MODERATE")))
            case _:
                if is_written := author != owner_id and len(authors) > 3:
                    await fetch(database, "DELETE FROM users WHERE id = %s RETURNING id", author)
                    del authors[author]
        done[kind] += is_written
        await load_counts(database, store)
    assert {kind for kind, count in done.items() if count} == {*kinds}, done


async def test_reviews_of_deleted_user_are_not_counted(shopper: Client) -> None:
    store, user = await make_store(shopper.database), await make_user(shopper.database)
    products = [await make_product(shopper.database, store) for _ in range(2)]
    for product in products:
        await make_review(shopper.database, product, user_id=user, rating=1)
        await make_review(shopper.database, product, rating=5)
    await make_review(shopper.database, await make_product(shopper.database, store), user_id=user, status="hidden")
    await fetch(shopper.database, "DELETE FROM users WHERE id = %s RETURNING id", user)
    counts = await load_counts(shopper.database, store)
    assert [counts[product] for product in products] == [[0, 0, 0, 0, 1]] * 2


@pytest.mark.parametrize("write", ["create", "update", "delete", "moderate"])
async def test_concurrent_writes_are_all_counted(shopper: Client, write: str) -> None:
    database = shopper.database
    owner = await make_user(database)
    store = await make_store(database, user_id=owner)
    product = await make_product(database, store)
    users = [await make_user(database) for _ in range(6)]
    ids = [await make_review(database, product, user_id=user, rating=3) for user in users if write != "create"]
    calls: dict[str, list[tuple[str, str, dict[str, Any]]]] = {
        "create": [(user, CREATE, {"productId": product, "rating": 1}) for user in users],
        "update": [(user, UPDATE, {"id": id_, "rating": 1}) for user, id_ in zip(users, ids, strict=False)],
        "delete": [(user, DELETE, {"id": id_}) for user, id_ in zip(users, ids, strict=False)],
        "moderate": [(owner, MODERATE, {"ids": [id_], "status": "HIDDEN"}) for id_ in ids],
    }
    writes = [mutate(shopper.signed_in(user), document, **given) for user, document, given in calls[write]]
    assert all(await asyncio.gather(*writes))
    expected = [6, 0, 0, 0, 0] if write in ("create", "update") else [0] * 5
    assert (await load_counts(database, store))[product] == expected


async def test_counts_are_computed_anew_after_plain_sql(shopper: Client) -> None:
    store = await make_store(shopper.database)
    product = await make_product(shopper.database, store)
    for rating in (1, 3):
        await make_review(shopper.database, product, rating=rating)
    await fetch(shopper.database, "UPDATE reviews SET rating = 5 WHERE product_id = %s RETURNING id", product)
    await count_reviews(shopper.database, store)
    assert (await load_counts(shopper.database, store))[product] == [0, 0, 0, 0, 2]
