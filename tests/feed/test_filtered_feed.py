"""The product feed with a filter, and with chosen kinds of changes: what enters and leaves, live and after a resume."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from decimal import Decimal
from random import Random
from typing import Any

import pytest
from sqlalchemy import Column, Table
from sqlalchemy.sql import visitors

from storefront.core.db.database import Database
from storefront.feed import log
from storefront.graph.inputs import AttributeFilterInput, ProductFilterInput, ProductStatus, build_selection
from storefront.models import products, variants
from storefront.models.former_values import FILTERED_PRODUCT_COLUMNS, FILTERED_VARIANT_COLUMNS
from storefront.models.row_keys import bind_store
from storefront.models.rows import ChangeRow
from storefront.queries.keyset import Window
from storefront.queries.listing import (
    FILTER_CONDITIONS,
    UNORDERED,
    VARIANT_FILTER_CONDITIONS,
    Listing,
    StoreScope,
    build_filter_conditions,
    load_pages,
)
from storefront.queries.memberships import Membership, load_memberships
from storefront.queries.visibility import Audience
from tests.client import Client
from tests.factories import make_product, make_review, make_store, make_user, make_variant
from tests.feed.test_feed import DELETE, UPDATE, Listener, create, listening
from tests.products.test_variant_summary import CREATE_VARIANT, UPDATE_PRODUCT, UPDATE_VARIANT, Walk

Row = dict[str, Any]

PRICES = {name: Decimal(name) for name in ("6", "8", "9.99", "10", "19", "20")}
FILTERS = {
    "cheap": ProductFilterInput(max_price=PRICES["9.99"]),
    "middle": ProductFilterInput(min_price=PRICES["6"], max_price=PRICES["9.99"]),
    "between": ProductFilterInput(min_price=PRICES["8"], max_price=PRICES["19"]),
    "dear": ProductFilterInput(min_price=PRICES["20"]),
    "small": ProductFilterInput(attributes=[AttributeFilterInput(name="SIZE", values=["s", "Tiny"])]),
    "medium": ProductFilterInput(attributes=[AttributeFilterInput(name="size", values=["S", "m"])], max_price=PRICES["10"]),
    "in stock": ProductFilterInput(in_stock=True),
    "sold out": ProductFilterInput(in_stock=False),
    "red": ProductFilterInput(tags=["red", "crimson"]),
    "mugs": ProductFilterInput(categories=["Mugs"]),
    "good": ProductFilterInput(min_rating=3),
    "hidden": ProductFilterInput(statuses=[ProductStatus.INACTIVE, ProductStatus.ARCHIVED]),
    "several": ProductFilterInput(tags=["red"], max_price=PRICES["10"], in_stock=True),
}
SELECTIONS = {name: build_selection(filter_, None, Audience.OWNER) for name, filter_ in FILTERS.items()}
ERRORS = "userErrors { code path message }"
SET_VARIANTS = f"mutation($i: SetProductVariantsInput!) {{ setProductVariants(input: $i) {{ {ERRORS} }} }}"
CREATE_REVIEW = f"mutation($i: CreateReviewInput!) {{ createReview(input: $i) {{ review {{ id }} {ERRORS} }} }}"
UPDATE_REVIEW = f"mutation($i: UpdateReviewInput!) {{ updateReview(input: $i) {{ {ERRORS} }} }}"
MODERATE_REVIEWS = f"mutation($i: ModerateReviewsInput!) {{ moderateReviews(input: $i) {{ {ERRORS} }} }}"
DELETE_REVIEW = f"mutation($i: DeleteReviewInput!) {{ deleteReview(input: $i) {{ {ERRORS} }} }}"


class FilteredWalk(Walk):
    """Random writes to everything that filters depend on."""

    def __init__(self, owner: Client, reviewers: list[Client], *given: Any) -> None:
        super().__init__(owner, *given)
        self.reviewers, self.reviews = reviewers, dict[str, Client]()

    async def update_details(self) -> bool:
        details: Row = {
            "tags": self.random.choice(([], ["red"], ["green", "crimson"])),
            "category": self.random.choice((None, "Mugs", "Cups")),
            "status": self.random.choice(("ACTIVE", "INACTIVE", "ARCHIVED")),
            **self.pick_prices(),
        }
        given = self.random.sample([*details], self.random.randrange(1, 4))
        return await self.mutate(UPDATE_PRODUCT, id=self.pick_products(1)[0], **{name: details[name] for name in given})

    async def rename_options(self) -> bool:
        product = self.products[self.pick_products(1)[0]]
        renamed = [
            {
                "id": option["id"],
                "name": option["name"],
                "values": [{"id": value["id"], "value": value["value"].replace("S", "Tiny")} for value in option["values"]],
            }
            for option in product["options"]
        ]
        return await self.mutate(UPDATE_PRODUCT, id=str(product["id"]), options=renamed, **self.pick_prices())

    async def set_variants(self) -> bool:
        product = self.products[self.pick_products(1)[0]]
        stored = [{"id": str(row["id"])} for row in product["variants"] if self.random.random() < 0.7]
        rows = [row if self.random.random() < 0.5 else {**row, **self.pick_prices()} for row in stored]
        new = {"attributes": [{"name": "Size", "value": self.random.choice("SMLX")}], **self.pick_prices()}
        return await self.mutate(SET_VARIANTS, productId=str(product["id"]), variants=[*rows, new])

    async def review(self) -> bool:
        reviewer = self.random.choice(self.reviewers)
        given = {"productId": self.pick_products(1)[0], "rating": self.random.randint(1, 5)}
        payload = (await reviewer.ask(CREATE_REVIEW, i=given))["createReview"]
        if payload["review"]:
            self.reviews[payload["review"]["id"]] = reviewer
        return payload["review"] is not None

    async def update_review(self) -> bool:
        if not self.reviews:
            return False
        id_, reviewer = self.random.choice([*self.reviews.items()])
        given = {"id": id_, "rating": self.random.randint(1, 5)}
        return not (await reviewer.ask(UPDATE_REVIEW, i=given))["updateReview"]["userErrors"]

    async def moderate_review(self) -> bool:
        if not self.reviews:
            return False
        given = {"ids": [self.random.choice([*self.reviews])], "status": self.random.choice(("PUBLISHED", "HIDDEN", "PENDING"))}
        return await self.mutate(MODERATE_REVIEWS, **given)

    async def delete_review(self) -> bool:
        if not self.reviews:
            return False
        id_, reviewer = self.reviews.popitem()
        return not (await reviewer.ask(DELETE_REVIEW, i={"id": id_}))["deleteReview"]["userErrors"]


async def load_members(database: Database, store: str) -> Mapping[str, set[str]]:
    """The ids of the products that match each filter now."""
    members = {}
    for name, selection in SELECTIONS.items():
        [result] = await load_pages(database, [StoreScope(store)], Listing(selection, UNORDERED, Window(100)))
        members[name] = {row.id for row in result.page.rows}
    return members


def expect_memberships(entries: list[ChangeRow], before: set[str], after: set[str]) -> dict[int, Membership]:
    """The memberships by position: of several entries of a transaction about one product, the last one makes the difference."""
    last_positions = {entry.product_id: entry.position for entry in entries}
    return {
        entry.position: Membership(
            entry.product_id in before,
            entry.product_id in (after if last_positions[entry.product_id] == entry.position else before),
        )
        for entry in entries
    }


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_log_tells_what_matched_before_and_after_each_change(shopper: Client, seed: int) -> None:
    database, user = shopper.database, await make_user(shopper.database)
    store = await make_store(database, user_id=user)
    reviewers = [shopper.signed_in(await make_user(database)) for _ in range(3)]
    walk = FilteredWalk(shopper.signed_in(user), reviewers, store, Random(seed))
    writes: tuple[Callable[[], Awaitable[bool]], ...] = (
        *(walk.create_product, walk.update_product, walk.bulk_update_products, walk.update_product_prices),
        *(walk.create_variant, walk.create_variant, walk.update_variant, walk.update_variant, walk.delete_variant),
        *(walk.adjust_inventory, walk.import_file, walk.update_details, walk.update_details, walk.rename_options),
        *(walk.set_variants, walk.review, walk.update_review, walk.moderate_review, walk.delete_review),
    )
    for _ in range(4):
        await make_product(database, store)
    members = await load_members(database, store)
    expected: dict[str, dict[int, Membership]] = {name: {} for name in FILTERS}
    seen, written, all_entries = Counter[str](), Counter[str](), list[ChangeRow]()
    for _ in range(120):
        write = walk.random.choice(writes)
        walk.products = await walk.load_products()
        await write()
        position = all_entries[-1].position if all_entries else 0
        entries = await log.read_entries(database, store, position, 100)
        written[write.__name__] += bool(entries)
        all_entries += entries
        new_members = await load_members(database, store)
        for name, selection in SELECTIONS.items():
            found = expect_memberships(entries, members[name], new_members[name])
            expected[name] |= found
            seen.update(f"{name} {membership.before:d}{membership.after:d}" for membership in found.values())
            # Live: the last change is the newest.
            assert await load_memberships(database, store, entries, selection) == found, (write.__name__, name)
        members = new_members
    for name, selection in SELECTIONS.items():
        # After a resume, from anywhere.
        for start in (0, 30, 90):
            rest = all_entries[start:]
            positions = {entry.position for entry in rest}
            resumed = await load_memberships(database, store, rest, selection)
            assert resumed == {position: one for position, one in expected[name].items() if position in positions}, name
    # The ids of rows differ each time, and with them what is chosen: some of these may not occur.
    assert len({write.__name__ for write in writes} - {name for name, count in written.items() if count}) <= 4
    changes = {f"{name} {change}" for name in ("cheap", "small", "between") for change in ("01", "10", "11", "00")}
    assert len(changes - {*seen}) <= 4


def test_former_values_have_every_column_that_a_filter_depends_on() -> None:
    names = [*FILTER_CONDITIONS, *VARIANT_FILTER_CONDITIONS]
    used: dict[Table, set[str]] = {products: set(), variants: set()}
    for condition in build_filter_conditions(names, bind_store()):
        for element in visitors.iterate(condition):
            if isinstance(element, Column) and element.table in used:
                used[element.table].add(element.name)
    keys = {"id", "config_id", "product_id"}
    # The paths follow from the category.
    assert used[products] - keys == {*FILTERED_PRODUCT_COLUMNS, "category_paths"} - {"category"}
    # The attributes without case follow from the attributes.
    assert used[variants] - keys == {*FILTERED_VARIANT_COLUMNS, "folded_attributes"} - {"attributes"}


@pytest.fixture
async def owner(shopper: Client) -> Client:
    return shopper.signed_in(await make_user(shopper.database))


@pytest.fixture
async def store(owner: Client) -> str:
    return await make_store(owner.database, user_id=(await owner.ask("{ me { id } }"))["me"]["id"])


async def receive(listener: Listener, count: int) -> list[tuple[str, str]]:
    """Events as position, and type or reason of the deletion."""
    found = []
    for _ in range(count):
        event = await listener.event()
        name = event["__typename"].removeprefix("Product")
        found.append((event["position"], event.get("deletedReason") or name))
    return found


async def test_resumed_feed_has_the_events_of_the_live_one(shopper: Client, owner: Client, store: str) -> None:
    filter_ = {"maxPrice": "10"}
    # Outside, in, inside, hidden, shown, out, outside, in: what the filtered list hears, and what a list of all hears.
    writes: tuple[tuple[Row, str | None, str], ...] = (
        ({"price": "30"}, None, "Updated"),
        ({"price": "9"}, "Created", "Updated"),
        ({"price": "8"}, "Updated", "Updated"),
        ({"status": "INACTIVE"}, "REMOVED", "REMOVED"),
        ({"status": "ACTIVE"}, "Created", "Created"),
        ({"price": "40"}, "FILTERED", "Updated"),
        ({"title": "Cup"}, None, "Updated"),
        ({"price": "7"}, "Created", "Updated"),
    )
    events = list[tuple[str, str]]()
    async with listening(shopper, store, filter=filter_) as live, listening(shopper, store, filter={"maxPrice": "99"}) as wider:
        product = await create(owner, store, price="20")
        assert await receive(wider, 1) == [("1", "Created")]
        for position, (values, kind, wider_kind) in enumerate(writes, 2):
            await owner.ask(UPDATE, input={"id": product, **values})
            # One after the other: what is hidden by the time of sending is sent as removed.
            assert await receive(wider, 1) == [(str(position), wider_kind)]
            if kind:
                events += await receive(live, 1)
                assert events[-1] == (str(position), kind)
    for after in range(9):
        missed = [event for event in events if int(event[0]) > after]
        async with listening(shopper, store, filter=filter_, after=str(after)) as resumed:
            assert await receive(resumed, len(missed)) == missed
            assert await resumed.silence(0.1)


async def test_variants_bring_a_product_into_a_filter_and_out_of_it(shopper: Client, owner: Client, store: str) -> None:
    product = await make_product(owner.database, store)
    variant = await make_variant(owner.database, product, attributes={"Size": "M"})
    small = {"attributes": [{"name": "size", "values": ["s"]}]}
    async with listening(shopper, store, filter=small) as listener:
        await owner.ask(CREATE_VARIANT, i={"productId": product, "price": 5, "attributes": [{"name": "Size", "value": "S"}]})
        await owner.ask(UPDATE_VARIANT, i={"id": variant, "price": "7"})
        await owner.ask(UPDATE_PRODUCT, i={"id": product, "title": "Shirt"})
        ids = (await owner.ask("query($p: ID!) { product(by: {id: $p}) { variants { nodes { id name } } } }", p=product))[
            "product"
        ]
        new = next(node["id"] for node in ids["variants"]["nodes"] if node["id"] != variant)
        await owner.ask(UPDATE_VARIANT, i={"id": new, "isAvailable": False})
        await owner.ask(UPDATE_VARIANT, i={"id": new, "price": "9"})
        assert await receive(listener, 4) == [("1", "Created"), ("2", "Updated"), ("3", "Updated"), ("4", "FILTERED")]
        assert await listener.silence(0.1)


async def test_hidden_reviews_do_not_hide_what_leaves_a_filter(shopper: Client, owner: Client, store: str) -> None:
    product = await make_product(owner.database, store)
    ids = [await make_review(owner.database, product, rating=5, status="pending") for _ in range(2)]
    async with listening(shopper, store, filter={"minRating": 4}) as listener:
        # One of the reviews was public when both are hidden: the entry of the other one is before or after it.
        for public in ids:
            await owner.ask(MODERATE_REVIEWS, i={"ids": [public], "status": "PUBLISHED"})
            await owner.ask(MODERATE_REVIEWS, i={"ids": ids, "status": "HIDDEN", "note": f"After {public}."})
        assert [kind for _, kind in await receive(listener, 4)] == ["Created", "FILTERED"] * 2
        assert await listener.silence(0.1)


async def test_ids_filter_hears_of_its_products_only(shopper: Client, owner: Client, store: str) -> None:
    first, second = [await create(owner, store) for _ in range(2)]
    async with listening(shopper, store, filter={"ids": [second]}, after="0") as listener:
        await owner.ask(DELETE, input={"id": first})
        await owner.ask(UPDATE, input={"id": second, "price": "6"})
        # Before it is deleted: an entry about a product that is gone is a deletion.
        updated = await receive(listener, 2)
        await owner.ask(DELETE, input={"id": second})
        deleted = await receive(listener, 1)
    assert [*updated[1:], *deleted] == [("4", "Updated"), ("5", "REMOVED")]


TYPED = """subscription($c: ID!, $types: [FeedChangeType!]!, $filter: ProductFilterInput) {
  productFeed(configId: $c, types: $types, filter: $filter, after: "0") {
  __typename position ... on ProductUpdated { changedFields } ... on ProductDeleted { deletedReason }
  ... on ConfigUpdated { changedFields config { storeName isPublished } } } }"""
UPDATE_CONFIG = f"mutation($i: UpdateConfigInput!) {{ updateConfig(input: $i) {{ {ERRORS} }} }}"


async def test_types_choose_kinds_of_changes(shopper: Client, owner: Client, store: str) -> None:
    product = await make_product(owner.database, store)
    variant = await make_variant(owner.database, product, inventory=5)
    expected = {"PRODUCT": ["1", "3", "5"], "VARIANT": ["2", "3"], "REVIEW": ["4"], "CONFIG": ["6"]}
    types: list[list[str]] = [*([name] for name in expected), ["REVIEW", "CONFIG"], []]
    reviewer = shopper.signed_in(await make_user(owner.database))
    async with AsyncExitStack() as stack:
        listeners = [await stack.enter_async_context(listening(shopper, store, TYPED, types=chosen)) for chosen in types]
        plain = await stack.enter_async_context(listening(shopper, store, after="0"))
        steps: tuple[tuple[Client, str, dict[str, Any]], ...] = (
            (owner, UPDATE_PRODUCT, {"i": {"id": product, "title": "Cup"}}),
            (owner, UPDATE_VARIANT, {"i": {"id": variant, "barcode": "123"}}),
            # The price of the product follows its variant.
            (owner, UPDATE_VARIANT, {"i": {"id": variant, "price": "3"}}),
            (reviewer, CREATE_REVIEW, {"i": {"productId": product, "rating": 5}}),
            (owner, DELETE, {"input": {"id": product}}),
            (owner, UPDATE_CONFIG, {"i": {"id": store, "storeName": "Renamed"}}),
        )
        for position, (client, document, variables) in enumerate(steps, 1):
            await client.ask(document, **variables)
            # Each change is received before the next one: the product of a later one may be gone.
            for listener, chosen in zip(listeners, types, strict=True):
                if any(str(position) in expected[name] for name in chosen):
                    event = await listener.event()
                    assert event["position"] == str(position), chosen
            if position < len(steps):
                assert (await plain.event())["position"] == str(position)
        assert event["__typename"] == "ConfigUpdated" and event["changedFields"] == ["storeName"]
        assert event["config"] == {"storeName": "Renamed", "isPublished": True}
        for listener in listeners:
            assert await listener.silence(0.1)


async def test_types_do_not_hide_what_enters_and_leaves_a_filter(shopper: Client, owner: Client, store: str) -> None:
    product = await make_product(owner.database, store)
    await make_variant(owner.database, product, price="5")
    variant = await make_variant(owner.database, product, price="5", attributes={"Size": "S"})
    small = {"attributes": [{"name": "Size", "values": ["S"]}]}
    async with listening(shopper, store, TYPED, types=["PRODUCT"], filter=small) as listener:
        for is_available in (False, True):
            await owner.ask(UPDATE_VARIANT, i={"id": variant, "isAvailable": is_available})
        assert await receive(listener, 2) == [("1", "FILTERED"), ("2", "Created")]


async def test_closed_store_tells_shoppers_nothing_of_itself(shopper: Client, owner: Client, store: str) -> None:
    unpublish = "mutation($i: UnpublishConfigInput!) { unpublishConfig(input: $i) { userErrors { code } } }"
    async with listening(shopper, store, TYPED, types=["CONFIG"]) as one, listening(owner, store, TYPED, types=["CONFIG"]) as own:
        await owner.ask(unpublish, i={"id": store})
        await owner.ask(UPDATE_CONFIG, i={"id": store, "storeName": "Secret"})
        assert (await one.event())["__typename"] == "FeedReset"
        assert await one.silence(0.2)
        assert [(await own.event())["changedFields"] for _ in range(2)] == [["isPublished"], ["storeName"]]
