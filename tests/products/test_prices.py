"""updateProductPrices: prices of products, and of single variants, all or nothing."""

from typing import Any

from tests.client import Client
from tests.factories import count_statements, make_product, make_store, make_user, make_variant

PRICES = """mutation($i: UpdateProductPricesInput!) { updateProductPrices(input: $i) {
  position replayed products { id price compareAtPrice priceRange { min max } version }
  userErrors { code path message ... on StaleVersionError { currentVersion } ... on InvalidInputError { reason } } } }"""
VARIANT = "query($v: ID!) { variant(by: {id: $v}) { price compareAtPrice version } }"
CHANGES = """query($c: ID!, $after: Position!) { productChanges(configId: $c, after: $after) { changes {
  __typename ... on ProductUpdated { changedFields product { id } } } } }"""


async def new_store(client: Client) -> tuple[Client, str]:
    user = await make_user(client.database)
    return client.signed_in(user), await make_store(client.database, user_id=user)


async def set_prices(client: Client, *prices: dict[str, Any], **values: Any) -> dict[str, Any]:
    return dict((await client.ask(PRICES, i={"prices": [*prices], **values}))["updateProductPrices"])


async def read_variant(client: Client, id_: str) -> dict[str, Any]:
    return dict((await client.ask(VARIANT, v=id_))["variant"])


async def test_variants_and_products_are_priced_in_one_request(shopper: Client) -> None:
    owner, store = await new_store(shopper)
    shirt, mug, hat = [await make_product(shopper.database, store) for _ in range(3)]
    small, large = [await make_variant(shopper.database, shirt, price="10", compare_at_price="15") for _ in range(2)]
    hats = [await make_variant(shopper.database, hat, price="7") for _ in range(2)]
    payload = await set_prices(
        owner,
        {"id": large, "price": "12"},
        {"id": mug, "price": "3.5"},
        {"id": small, "price": "11", "compareAtPrice": None},
        {"id": hat, "price": "8"},
        idempotencyKey="prices",
    )
    assert payload["userErrors"] == []
    shown = [(row["id"], row["price"], row["compareAtPrice"], row["priceRange"]["max"]) for row in payload["products"]]
    of_shirt = (shirt, "11.00", None, "12.00")
    assert shown == [of_shirt, (mug, "3.50", None, "3.50"), of_shirt, (hat, "8.00", None, "8.00")]
    assert await read_variant(shopper, large) == {"price": "12.00", "compareAtPrice": "15.00", "version": 2}
    assert await read_variant(shopper, small) == {"price": "11.00", "compareAtPrice": None, "version": 2}
    assert [(await read_variant(shopper, id_))["price"] for id_ in hats] == ["8.00", "8.00"]
    # The log has each change, with what shows it.
    events = (await shopper.ask(CHANGES, c=store, after="0"))["productChanges"]["changes"]
    logged = {event["product"]["id"]: set[str]() for event in events}
    for event in events:
        logged[event["product"]["id"]] |= {*event["changedFields"]}
    assert logged == {
        shirt: {"variants.price", "variants.compareAtPrice", "price", "compareAtPrice"},
        mug: {"price"},
        hat: {"price"},
    }
    again = await set_prices(
        owner,
        {"id": large, "price": "12"},
        {"id": mug, "price": "3.5"},
        {"id": small, "price": "11", "compareAtPrice": None},
        {"id": hat, "price": "8"},
        idempotencyKey="prices",
    )
    assert (again["replayed"], again["position"]) == (True, payload["position"])


async def test_invalid_price_changes_nothing(shopper: Client) -> None:
    owner, store = await new_store(shopper)
    _, foreign_store = await new_store(shopper)
    shirt, mug = [await make_product(shopper.database, store) for _ in range(2)]
    small, large = [await make_variant(shopper.database, shirt, price=price) for price in ("10", "20")]
    hidden = await make_variant(
        shopper.database, await make_product(shopper.database, foreign_store), price="1", is_available=False
    )
    unknown = "018f0000-0000-7000-8000-00000000ffff"
    payload = await set_prices(
        owner,
        {"id": mug, "price": "3"},
        {"id": small, "price": "10.001"},
        {"id": large, "price": "30", "expectedVersion": 7},
        {"id": unknown, "price": "3"},
        {"id": hidden, "price": "3"},
        {"id": shirt, "price": "5"},
    )
    assert [(error["code"], error["path"]) for error in payload["userErrors"]] == [
        ("INVALID_INPUT", ["prices", "1", "id"]),
        ("INVALID_INPUT", ["prices", "1", "price"]),
        ("INVALID_INPUT", ["prices", "2", "id"]),
        ("STALE_VERSION", ["prices", "2", "expectedVersion"]),
        ("NOT_FOUND", ["prices", "3", "id"]),
        ("NOT_FOUND", ["prices", "4", "id"]),
        ("INVALID_STATE", ["prices", "5", "price"]),
    ]
    assert payload["products"] == [] and payload["position"] is None
    for row, errors in (
        ({"id": small, "price": "10", "compareAtPrice": "9"}, [("INVALID_INPUT", ["prices", "0", "compareAtPrice"])]),
        ({"id": small, "price": "-1"}, [("INVALID_INPUT", ["prices", "0", "price"])]),
    ):
        payload = await set_prices(owner, row)
        assert [(error["code"], error["path"]) for error in payload["userErrors"]] == errors
    payload = await set_prices(owner, {"id": small, "price": "11"}, {"id": small, "price": "12"})
    [error] = payload["userErrors"]
    assert (error["path"], error["reason"]) == (["prices", "1", "id"], "DUPLICATE")
    assert [(await read_variant(shopper, id_))["price"] for id_ in (small, large)] == ["10.00", "20.00"]


async def test_hidden_variants_of_others_are_like_missing_ones(shopper: Client) -> None:
    user = await make_user(shopper.database)
    closed = await make_store(shopper.database, user_id=user, is_published=False)
    open_ = await make_store(shopper.database, user_id=user)
    hidden_product = await make_product(shopper.database, closed)
    hidden = [
        hidden_product,
        await make_variant(shopper.database, hidden_product),
        await make_variant(shopper.database, await make_product(shopper.database, open_), is_available=False),
    ]
    stranger, _ = await new_store(shopper)
    for id_ in (*hidden, "018f0000-0000-7000-8000-00000000ffff"):
        [error] = (await set_prices(stranger, {"id": id_, "price": "1"}))["userErrors"]
        message = f"prices.0.id: there is no variant or product with the id {id_}."
        assert (error["code"], error["path"], error["message"]) == ("NOT_FOUND", ["prices", "0", "id"], message)


async def test_variants_of_others_cannot_be_priced(shopper: Client) -> None:
    _, store = await new_store(shopper)
    variant = await make_variant(shopper.database, await make_product(shopper.database, store), price="10")
    stranger, _ = await new_store(shopper)
    response = (await stranger.post(PRICES, i={"prices": [{"id": variant, "price": "1"}]})).json()
    assert [error["extensions"]["code"] for error in response["errors"]] == ["FORBIDDEN"]
    assert (await read_variant(shopper, variant))["price"] == "10.00"


async def test_statement_count_is_that_of_one_row(shopper: Client) -> None:
    owner, store = await new_store(shopper)
    counts = []
    for products in (1, 20):
        rows = []
        for _ in range(products):
            product = await make_product(shopper.database, store)
            variants = [await make_variant(shopper.database, product, price="10") for _ in range(3)]
            rows += [{"id": id_, "price": "12"} for id_ in variants[:2]]
            rows.append({"id": await make_product(shopper.database, store), "price": "12"})
        with count_statements(shopper.database) as statements:
            assert (await set_prices(owner, *rows))["userErrors"] == []
        counts.append(len(statements))
    assert counts[0] == counts[1]
