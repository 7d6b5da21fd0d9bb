"""Amounts in the currency of their store: what is accepted, how it is printed, and what a change of the currency does."""

import asyncio
import io
from decimal import Decimal
from typing import Any

import pytest

from storefront.imports.exports import export_products
from storefront.imports.product_writer import import_products
from storefront.imports.shopify.csv_file import read_csv_products
from tests.client import Client
from tests.factories import make_product, make_store, make_user, make_variant

ERRORS = "userErrors { code message path }"
CREATE = f"mutation($i: CreateProductInput!) {{ createProduct(input: $i) {{ product {{ id price }} {ERRORS} }} }}"
UPDATE = f"mutation($i: UpdateProductInput!) {{ updateProduct(input: $i) {{ product {{ price currency }} {ERRORS} }} }}"
PRICES = f"""mutation($i: UpdateProductPricesInput!) {{ updateProductPrices(input: $i) {{
  products {{ price }} {ERRORS} }} }}"""
BULK = f"""mutation($i: BulkUpdateProductsInput!) {{ bulkUpdateProducts(input: $i) {{
  results {{ product {{ price }} userErrors {{ code path }} }} {ERRORS} }} }}"""
ADD = f"mutation($i: CreateVariantInput!) {{ createVariant(input: $i) {{ variant {{ price cost }} {ERRORS} }} }}"
CHANGE = f"mutation($i: UpdateVariantInput!) {{ updateVariant(input: $i) {{ variant {{ price cost }} {ERRORS} }} }}"
SET = f"""mutation($i: SetProductVariantsInput!) {{ setProductVariants(input: $i) {{
  product {{ variants {{ nodes {{ price }} }} }} {ERRORS} }} }}"""
CONFIG = f"mutation($i: UpdateConfigInput!) {{ updateConfig(input: $i) {{ config {{ currency }} {ERRORS} }} }}"
AMOUNTS = """price compareAtPrice currency priceRange { min max currency }
  variants { nodes { price compareAtPrice currency cost } }"""
# `gallery` is read by row, so that the second list takes the other read path.
LISTS = f"""query($c: ID!) {{
  json: products(configId: $c, sort: {{key: PRICE}}) {{ nodes {{ {AMOUNTS} }} }}
  rows: products(configId: $c, sort: {{key: PRICE}}) {{
    nodes {{ {AMOUNTS} gallery {{ url }} }} facets {{ price {{ min max currency }} }} }}
}}"""
VALID = [("JPY", "1000", "1000"), ("JPY", "1000.00", "1000"), ("EUR", "19.9", "19.90"), ("KWD", "1.255", "1.255"),
         ("KWD", "1.2", "1.200"), ("IDR", "150000000", "150000000.00"), ("IDR", "999999999999999.99", "999999999999999.99"),
         ("VND", "999999999999999", "999999999999999"), ("CLF", "1.2345", "1.2345"), ("DEM", "1.5", "1.50"),
         ("ISK", "0", "0")]  # fmt: skip
INVALID = [("JPY", "1000.5"), ("VND", "0.01"), ("EUR", "19.999"), ("KWD", "1.2555"), ("USD", "0.0000000001"),
           ("KRW", "1000000000000000"), ("USD", "-0.01")]  # fmt: skip


@pytest.fixture
async def owner(shopper: Client) -> Client:
    return shopper.signed_in(await make_user(shopper.database))


async def own_store(owner: Client, currency: str) -> str:
    me = (await owner.ask("{ me { id } }"))["me"]["id"]
    return await make_store(owner.database, user_id=me, currency=currency)


async def mutate(owner: Client, document: str, **given: Any) -> Any:
    [payload] = (await owner.ask(document, i=given)).values()
    return payload


async def import_text(owner: Client, store: str, text: str, **options: Any) -> Any:
    return await import_products(owner.database, store, read_csv_products(io.BytesIO(text.encode()), "shop.csv"), **options)


@pytest.mark.parametrize(("currency", "amount", "printed"), VALID)
async def test_amounts_are_printed_with_digits_of_currency(owner: Client, currency: str, amount: str, printed: str) -> None:
    store = await own_store(owner, currency)
    cell = f"Handle,Title,Variant Price,Variant Compare At Price,Cost per item\nfile,File,{amount},,{amount}\n"
    assert (await import_text(owner, store, cell)).rejected == 0
    variant = {"price": amount, "cost": amount, "attributes": [{"name": "n", "value": "1"}]}
    made = await mutate(owner, CREATE, configId=store, title="A", price=amount, compareAtPrice=amount, variants=[variant])
    assert made["userErrors"] == [] and made["product"]["price"] == printed
    lists = await owner.ask(LISTS, c=store)
    for node in lists["json"]["nodes"] + lists["rows"]["nodes"]:
        assert node["price"] == printed and node["currency"] == currency
        assert node["priceRange"] == {"min": printed, "max": printed, "currency": currency}
        [only] = node["variants"]["nodes"]
        assert only == {"price": printed, "compareAtPrice": None, "currency": currency, "cost": printed}
    assert lists["rows"]["facets"]["price"] == {"min": printed, "max": printed, "currency": currency}
    file = b"".join([chunk async for chunk in export_products(owner.database, store)]).decode()
    assert file.count(f",{printed},") >= 2


@pytest.mark.parametrize(("currency", "amount"), INVALID)
async def test_amount_that_currency_has_not_is_refused(owner: Client, currency: str, amount: str) -> None:
    """By every input that takes one, with the path to its field."""
    store = await own_store(owner, currency)
    product = await make_product(owner.database, store, price="5", compare_at_price=None)
    variant = await make_variant(owner.database, product, price="5")
    second = {"attributes": [{"name": "n", "value": "2"}]}
    bad, good, row = {"price": amount}, {"price": "7"}, {"id": product}
    cases: list[tuple[str, dict[str, Any], list[str]]] = [
        (CREATE, {"configId": store, "title": "A", **bad}, ["price"]),
        (CREATE, {"configId": store, "title": "A", "price": "1", "compareAtPrice": amount}, ["compareAtPrice"]),
        (CREATE, {"configId": store, "title": "A", "variants": [good, {**second, **bad}]}, ["variants", "1", "price"]),
        (CREATE, {"configId": store, "title": "A", "variants": [{**good, "cost": amount}]}, ["variants", "0", "cost"]),
        (UPDATE, {**row, **bad}, ["price"]),
        (PRICES, {"prices": [{**row, **bad}]}, ["prices", "0", "price"]),
        (BULK, {"rows": [{**row, "title": "B", "compareAtPrice": amount}]}, ["rows", "0", "compareAtPrice"]),
        (ADD, {"productId": product, **bad, **second}, ["price"]),
        (ADD, {"productId": product, **good, **second, "cost": amount}, ["cost"]),
        (CHANGE, {"id": variant, "compareAtPrice": amount}, ["compareAtPrice"]),
        (SET, {"productId": product, "variants": [{"id": variant, **bad}]}, ["variants", "0", "price"]),
    ]
    for document, given, path in cases:
        payload = await mutate(owner, document, **given)
        [error] = payload["userErrors"]
        assert (error["code"], error["path"]) == ("INVALID_INPUT", path), document
        assert amount in error["message"]
    cells = f"Handle,Title,Option1 Name,Option1 Value,Variant Price\na,A,Size,S,6\na,,,M,{amount}\nb,B,Size,S,{amount}\nb,,,,\n"
    imported = await import_text(owner, store, cells)
    assert (imported.created, imported.rejected) == (1, 3)
    assert [(error.line, error.handle, error.column) for error in imported.row_errors][:2] == [
        (3, "a", "Variant Price"), (4, "b", "Variant Price"),
    ]  # fmt: skip


async def test_bulk_rows_have_currencies_of_their_stores(owner: Client) -> None:
    yen, dinar = await own_store(owner, "JPY"), await own_store(owner, "KWD")
    products = [await make_product(owner.database, store, price="5") for store in (yen, dinar, yen)]
    rows = [{"id": key, "price": price} for key, price in zip(products, ("1000", "1.255", "1.5"), strict=True)]
    payload = await mutate(owner, BULK, rows=rows, errorPolicy="VALID_ROWS")
    assert [result["product"] and result["product"]["price"] for result in payload["results"]] == ["1000", "1.255", None]
    assert payload["results"][2]["userErrors"] == [{"code": "INVALID_INPUT", "path": ["rows", "2", "price"]}]


async def test_fifteen_digits_are_compared_exactly(owner: Client) -> None:
    store = await own_store(owner, "IDR")
    price, lower = "999999999999999.99", "999999999999999.98"
    refused = await mutate(owner, CREATE, configId=store, title="A", price=price, compareAtPrice=lower)
    assert refused["userErrors"][0]["path"] == ["compareAtPrice"]
    made = await mutate(owner, CREATE, configId=store, title="A", price=lower, compareAtPrice=price)
    assert made["userErrors"] == []
    found = "query($c: ID!, $p: Decimal) { products(configId: $c, filter: {minPrice: $p}) { totalCount } }"
    assert [(await owner.ask(found, c=store, p=p))["products"]["totalCount"] for p in (lower, price)] == [1, 0]


# -------------------------------------------------------------------------------------- change of currency


async def read_amounts(owner: Client, store: str) -> Any:
    document = "query($c: ID!) { products(configId: $c) { nodes { price compareAtPrice variants { nodes { cost } } } } }"
    return (await owner.ask(document, c=store))["products"]["nodes"]


@pytest.mark.parametrize(
    ("former", "currency", "price"), [("EUR", "JPY", "20"), ("JPY", "KWD", "20.000"), ("EUR", "USD", "20.00")]
)
async def test_change_of_currency_prints_amounts_anew(owner: Client, former: str, currency: str, price: str) -> None:
    store = await own_store(owner, former)
    product = await make_product(owner.database, store, price="20", compare_at_price="30")
    others = await make_store(owner.database, currency=former)
    await make_product(owner.database, others, price="20")
    changed = await mutate(owner, CONFIG, id=store, currency=currency)
    assert changed == {"config": {"currency": currency}, "userErrors": []}
    compare_at_price = price.replace("20", "30")
    nodes = [{"price": price, "compareAtPrice": compare_at_price, "variants": {"nodes": [{"cost": None}]}}]
    assert await read_amounts(owner, store) == nodes
    # The amounts as commands compare them: the same price is no change.
    same = await mutate(owner, UPDATE, id=product, price=price)
    assert same == {"product": {"price": price, "currency": currency}, "userErrors": []}
    foreign = "query($c: ID!) { products(configId: $c) { nodes { price } } }"
    [other] = (await owner.ask(foreign, c=others))["products"]["nodes"]
    assert Decimal(other["price"]) == 20 and other["price"] == ("20" if former == "JPY" else "20.00")


@pytest.mark.parametrize("column", ["price", "compare_at_price", "cost"])
async def test_currency_without_digits_of_an_amount_is_refused(owner: Client, column: str) -> None:
    store = await own_store(owner, "EUR")
    product = await make_product(owner.database, store, title="Mug")
    await make_variant(owner.database, product, **{"price": "20", "compare_at_price": "30", "name": "S", column: "25.50"})
    before = await read_amounts(owner, store)
    payload = await mutate(owner, CONFIG, id=store, currency="JPY", storeName="Renamed")
    [error] = payload["userErrors"]
    assert (error["code"], error["path"]) == ("INVALID_STATE", ["currency"])
    assert "25.50 of 'Mug', 'S'" in error["message"]
    assert await read_amounts(owner, store) == before
    assert (await owner.ask("query($i: ID!) { config(by: {id: $i}) { currency } }", i=store))["config"]["currency"] == "EUR"


async def test_known_currency_is_checked_by_the_insert(owner: Client) -> None:
    """A process that remembers the former currency does not create a product with its digits."""
    store = await own_store(owner, "EUR")
    for _ in range(2):
        assert (await mutate(owner, CREATE, configId=store, title="A", price="20"))["product"]["price"] == "20.00"
    async with owner.database.transaction() as connection:
        # As another process does.
        await connection.raw.execute("UPDATE configs SET currency = 'JPY' WHERE id = %s", [store])
    assert (await mutate(owner, CREATE, configId=store, title="A", price="20"))["product"]["price"] == "20"
    assert (await mutate(owner, CREATE, configId=store, title="A", price="20.5"))["userErrors"][0]["path"] == ["price"]


async def test_concurrent_writes_and_changes_of_currency_agree(owner: Client) -> None:
    store = await own_store(owner, "EUR")
    product = await make_product(owner.database, store, price="1")
    variant = await make_variant(owner.database, product, price="1")
    cells = "Handle,Title,Variant Price\n" + "".join(f"f-{n},F,{n}\n" for n in range(20))

    async def change(n: int) -> None:
        await mutate(owner, CONFIG, id=store, currency=("JPY", "KWD", "EUR")[n % 3])

    async def write(n: int) -> None:
        match n % 4:
            case 0:
                await mutate(owner, CREATE, configId=store, title="A", price=str(n))
            case 1:
                await mutate(owner, UPDATE, id=product, price=str(n))
            case 2:
                await mutate(owner, CHANGE, id=variant, price=str(n), cost=str(n))
            case 3:
                await import_text(owner, store, cells.replace("F,", f"F{n},"))

    for round_ in range(6):
        await asyncio.gather(change(round_), *(write(4 * round_ + n) for n in range(8)), change(round_ + 1))
        async with owner.database.transaction() as connection:
            digits = "CASE currency WHEN 'JPY' THEN 0 WHEN 'KWD' THEN 3 ELSE 2 END"
            wrong = f"""SELECT count(*) FROM configs JOIN product_variants AS v ON v.config_id = configs.id
              JOIN products AS p ON p.id = v.product_id
              WHERE configs.id = %s AND {digits} <> ANY(ARRAY[scale(v.price), scale(v.cost), scale(p.price)])"""
            assert await (await connection.raw.execute(wrong, [store])).fetchone() == (0,)
