"""Searches as people type them: compounds, symbols, scripts without spaces, codes and option values."""

from typing import Any

import orjson
import pytest
import pytest_asyncio

from tests.client import Client
from tests.factories import make_product, make_store, make_variant, write_documents
from tests.products.test_search import SUGGEST, search

# What is sold, and the searches that find it.
FOUND_BY: dict[str, tuple[str, ...]] = {
    "T-Shirt Basic": (
        "t-shirt",
        "tshirt",
        "t shirt",
        "T‑Shirt",
        "t-s",
        "t-shi",
        "tshi",
        "t shi",
        "basic tshirt",
        '"t-shirt basic"',
        "t shirts",
    ),
    "Teeshirt": ("teeshirt", "tee shirt", "tee-shirt", "TeeShirt"),
    "X Ray Lamp": ("xray", "x-ray", "x ray lamp", "xra"),
    "Wi-Fi Router": ("wifi", "wi-fi", "WiFi", "wi fi", "wi-f", "wif", "router wi-fi"),
    "Women's Shoes": ("women’s", "women's", "womens", "women", "womenʼs shoes", "women`s", "women’s sh"),
    "O'Reilly Handbook": ("o'r", "o’reilly", "oreilly", "o reilly", "o'reilly hand"),
    "L’Oréal Shampoo": ("l'oreal", "loreal", "l'or", "L´Oreal"),
    "Sneaker 5XL": ("5xl", "5 xl", "5-xl", "5x"),
    "Nail 12 mm": ("12mm", "12 mm", "12-mm", "nail 12m"),
    'Drill 3/4"': ('3/4"', "3/4", "¾", "drill 3/4", "3 4 drill"),
    "Hose 1,5 m": ("1,5", "1.5 m", "1.5m", "hose 1,5m"),
    "MacBook Sleeve": ("macbook", "MacBook", "mac book", "macb", "mac-book"),
    "iPhone 15 Case": ("iphone 15", "iPhone15", "i-phone", "iphone15 case"),
    "Learn C# Fast": ("c#", "C#", "learn c#"),
    "C++ Primer": ("c++", "C++", "c++ primer"),
    ".NET in Action": (".net", ".NET", ".ne", ".net action"),
    "R&B Classics": ("r&b", "R & B", "R&B class"),
    "Salt&Pepper Mill": ("salt pepper", "salt & pepper", "pepper mill"),
    "Blue/Green Bowl": ("blue green bowl", "blue/green", "green bow"),
    "U.S.A. Flag": ("usa", "u.s.a.", "U.S.A flag"),
    "Straßenkarte": ("strassenkarte", "straßen"),
    "เสื้อยืดผ้าฝ้าย": ("เสื้อยืด", "ผ้าฝ้าย", "เสื", "เสื้อย"),
    "सूती कुर्ता": ("सू", "सूती", "कुर्ता", "सूती कुर्"),
    "日本の抹茶茶碗": ("抹茶", "茶碗", "日本", "抹", "抹茶 茶碗", "日本抹茶"),
    "红色夏季连衣裙": ("连衣裙", "红色", "红色连衣裙", "夏季"),
    "かわいいメガネケース": ("メガネ", "めがね", "ケース", "めがねけ"),
    "ກະເປົາຫນັງ": ("ກະເປົາ", "ຫນັງ"),
    "ស្បែកជើង": ("ស្បែក", "ជើង"),
    "လက်ဖက်ရည်": ("လက်ဖက်", "ရည်"),
    "티셔츠 흰색": ("티셔츠", "티셔", "티셔츠 흰", "흰색"),
    "أحذية رياضية": ("احذية", "أحذيه", "رياض", "احذ"),
    "إسوارة ذهب": ("اسوارة", "أسوارة", "ذهب"),
    "Зелёная кружка": ("зеленая", "зелёная", "кружки", "круж"),
    "Йогурт": ("иогурт", "йогурт"),
    "Γυαλιά ηλίου": ("γυαλια", "ΓΥΑΛΙΑ", "ηλιου"),
    "חולצה לבנה": ("חולצה", "חול", "לבנה"),
}
# Searches that find other things only.
NOT_FOUND_BY = {
    "Learn C# Fast": ("c++", "f#", "c primer"),
    "C++ Primer": ("c#", "c fast"),
    "R&B Classics": ("r&d", "b&b"),
    'Drill 3/4"': ("34", "4/3", "3/5"),
    "日本の抹茶茶碗": ("碗茶", "茶抹"),
    "เสื้อยืดผ้าฝ้าย": ("ผ้าไหม",),
    "Salt&Pepper Mill": ("salt&vinegar",),
    "Fishing Net": (".net",),
}


@pytest_asyncio.fixture(scope="module")
async def shop(shopper: Client) -> str:
    store = await make_store(shopper.database)
    for title in dict.fromkeys((*FOUND_BY, *NOT_FOUND_BY)):
        await make_product(shopper.database, store, title=title)
    return store


async def find_titles(client: Client, store: str, words: str, **more: Any) -> list[str]:
    found = await search(client, store, words, **more)
    assert found["correctedSearch"] is None
    return [node["title"] for node in found["nodes"]]


@pytest.mark.parametrize(("words", "title"), [(words, title) for title, searches in FOUND_BY.items() for words in searches])
async def test_words_are_found_as_people_type_them(shopper: Client, shop: str, words: str, title: str) -> None:
    assert title in await find_titles(shopper, shop, words)


@pytest.mark.parametrize(("words", "title"), [(words, title) for title, searches in NOT_FOUND_BY.items() for words in searches])
async def test_different_words_stay_apart(shopper: Client, shop: str, words: str, title: str) -> None:
    assert {"title": title} not in (await search(shopper, shop, words))["nodes"]


@pytest_asyncio.fixture(scope="module")
async def coded(shopper: Client) -> str:
    store = await make_store(shopper.database)
    product = await make_product(shopper.database, store, title="Mug")
    options = {"Color": "Crimson", "Size": "XL"}, {"Color": "White", "Size": "XL"}
    for number, attributes in enumerate(options):
        code = ("AB-123/4", "0012345678905") if number == 0 else ("GX200", "4006381333931")
        await make_variant(shopper.database, product, attributes=attributes, sku=code[0], barcode=code[1])
    editor = [
        {"id": name, "name": name, "values": [{"id": value, "value": value, "swatch": None} for value in values]}
        for name, values in (("Color", ("Crimson", "White")), ("Size", ("XL",)))
    ]
    await set_options(shopper, product, editor)
    await make_product(shopper.database, store, title="Plate", description="Goes with the mug AB-123/4")
    return store


async def set_options(client: Client, product: str, options: list[dict[str, Any]]) -> None:
    async with client.database.transaction() as connection:
        statement = "UPDATE products SET options = %s WHERE id = %s"
        await connection.raw.execute(statement, [orjson.dumps(options).decode(), product])
    await write_documents(client.database, product)


@pytest.mark.parametrize(
    "words",
    ["AB-123/4", "ab-123", "AB123", "ab1234", "123", "123/4", "AB", "1234", "gx200", "GX 200", "gx2", "0012345678905",
     "12345678905", "4006381333931", "40063", "crimson", "CRIMSON", "crims", "white mug", "mug white", "mug xl", "mug ab-123"],
)  # fmt: skip
async def test_variants_are_found_by_codes_and_option_values(shopper: Client, coded: str, words: str) -> None:
    assert (await find_titles(shopper, coded, words))[0] == "Mug"


async def test_words_of_the_language_are_not_corrected(shopper: Client) -> None:
    store = await make_store(shopper.database)
    for title in ("Soft Pouch", "Soft Blanket", "Leather Pouch"):
        await make_product(shopper.database, store, title=title)
    for word in ("sofa", "couch"):
        found = await search(shopper, store, word)
        assert (found["nodes"], found["correctedSearch"]) == ([], None)
    assert (await search(shopper, store, "puoch"))["correctedSearch"] == "pouch"


async def test_suggestions_are_titles_with_words_that_begin_so(shopper: Client) -> None:
    store = await make_store(shopper.database)
    await make_product(shopper.database, store, title="Oak Shelf", popularity=1)
    await make_product(shopper.database, store, title="Floor Lamp", description="With a linen shade", tags=["shop"], popularity=9)
    await make_product(shopper.database, store, title="T-Shirt", popularity=5)
    result = await shopper.ask(SUGGEST, c=store, p="sh")
    assert [found["text"] for found in result["config"]["predictiveSearch"]["suggestions"]] == ["T-Shirt", "Oak Shelf"]


async def test_predicted_products_have_the_words_in_their_titles(shopper: Client) -> None:
    store = await make_store(shopper.database)
    await make_product(shopper.database, store, title="Oak Shelf", popularity=1)
    await make_product(shopper.database, store, title="Oak Shelf", popularity=2)
    await make_product(shopper.database, store, title="Floor Lamp", description="With a shelf", tags=["shelf"], popularity=9)
    query = """query($c: ID!, $p: String!) { config(by: {id: $c}) { predictiveSearch(search: $p) {
      suggestions { text } products { title popularity } correctedSearch } } }"""
    for typed, corrected in (("she", None), ("oak s", None), ("s oak", None), ("oaks shelf", None), ("shelff", "shelf")):
        found = (await shopper.ask(query, c=store, p=typed))["config"]["predictiveSearch"]
        popularities = [] if typed == "s oak" else [2, 1]
        assert [product["popularity"] for product in found["products"]] == popularities, typed
        assert found["suggestions"] == ([{"text": "Oak Shelf"}] if popularities else [])
        assert found["correctedSearch"] == corrected


async def test_predicted_categories_have_the_words_in_their_names(shopper: Client) -> None:
    store = await make_store(shopper.database)
    paths = [
        "Home > Lamps",
        "Home>Lamps>Floor Lamps",
        "Home > Lamps > Floor Lamps",
        "Home > Rugs",
        "Men > T-Shirts",
        "日本 > 日本酒",
    ]
    for number, category in enumerate([*paths, *paths[3:5]]):
        await make_product(shopper.database, store, title=f"Number {number}", category=category)
    await make_product(shopper.database, store, title="Hidden", category="Home > Lanterns", status="archived")
    query = """query($c: ID!, $p: String!, $n: Int! = 8) { config(by: {id: $c}) { predictiveSearch(search: $p, first: $n) {
      categories { path productCount } } } }"""

    async def find(typed: str, first: int = 8) -> list[tuple[str, int]]:
        found = (await shopper.ask(query, c=store, p=typed, n=first))["config"]["predictiveSearch"]["categories"]
        return [(category["path"], category["productCount"]) for category in found]

    lamps, floor_lamps, shirts = ("Home > Lamps", 3), ("Home > Lamps > Floor Lamps", 2), ("Men > T-Shirts", 2)
    expected = {
        "la": [lamps, floor_lamps],
        "lamp": [lamps, floor_lamps],
        "lamp fl": [floor_lamps],
        "floor lamp": [floor_lamps],
        "fl lamp": [],
        "home": [("Home", 5)],
        "home lamp": [],
        "tshirt": [shirts],
        "t sh": [shirts],
        "t-shir": [shirts],
        "本酒": [("日本 > 日本酒", 1)],
        "lantern": [],
        "-lamp": [],
        "": [],
    }
    assert {typed: await find(typed) for typed in expected} == expected
    assert await find("la", first=1) == [lamps]


FIELDS: list[dict[str, Any]] = [
    {"title": "Amber"},
    {"title": "Amber lamp"},
    {"sku": "amber-1"},
    {"value": "Amber"},
    {"vendor": "Amber"},
    {"product_type": "Amber"},
    {"category": "Amber"},
    {"tags": ["amber"]},
    {"description": "amber"},
]


async def test_matches_are_ranked_by_field(shopper: Client) -> None:
    store = await make_store(shopper.database)
    for number, given in reversed([*enumerate(FIELDS)]):
        values: dict[str, Any] = {"title": f"Product {number}", **given}
        sku, value = values.pop("sku", None), values.pop("value", None)
        product = await make_product(shopper.database, store, **values)
        if sku:
            await make_variant(shopper.database, product, sku=sku)
        if value:
            choice = {"id": "1", "value": value, "swatch": None}
            await set_options(shopper, product, [{"id": "1", "name": "Color", "values": [choice]}])
    titles = await find_titles(shopper, store, "amber")
    assert titles == ["Amber", "Amber lamp", *(f"Product {n}" for n in range(2, len(FIELDS)))]


async def test_whole_title_or_sku_ranks_first(shopper: Client) -> None:
    store = await make_store(shopper.database)
    await make_product(shopper.database, store, title="T-shirt", tags=[])
    for number in range(3):
        title = f"T-Shirt T-Shirt tshirt {number}"
        await make_product(
            shopper.database, store, title=title, tags=["tshirt", "t-shirt"], category="T-Shirt", description="tshirt"
        )
    product = await make_product(shopper.database, store, title="Cap")
    await make_variant(shopper.database, product, sku="TSH-1")
    await make_product(shopper.database, store, title="tsh 1 tsh 1 sign", tags=["tsh-1"])
    for words, first in (("tshirt", "T-shirt"), ("T Shirt", "T-shirt"), ("tsh1", "Cap"), ("TSH-1", "Cap")):
        assert (await find_titles(shopper, store, words))[0] == first
