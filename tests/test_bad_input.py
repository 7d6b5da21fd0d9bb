"""Invalid input: errors have a code, the field and the fix, and are never internal errors."""

import gc
import itertools
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from storefront.core.ids import uuid7
from tests.client import Client
from tests.factories import count_statements, make_product, make_store, make_user, make_variant


@dataclass(frozen=True)
class Shop:
    """A store with twelve products, a shopper, and its owner."""

    client: Client
    owner: Client
    store: str
    product: str


@pytest_asyncio.fixture(scope="module")
async def shop(shopper: Client) -> Shop:
    user = await make_user(shopper.database)
    store = await make_store(shopper.database, user_id=user)
    product_ids = [
        await make_product(shopper.database, store, title=f"Lantern {n}", category="Light", tags=["a"]) for n in range(12)
    ]
    for product in product_ids:
        await make_variant(shopper.database, product, attributes={"Size": "S"})
    return Shop(shopper, shopper.signed_in(user), store, product_ids[0])


def products(arguments: str, variables: str = "") -> str:
    found = "totalCount nodes { id } facets { price { min } }"
    return f"query($s: ID!{variables}) {{ products(configId: $s, {arguments}) {{ {found} }} }}"


def filter_products(name: str, type_: str) -> str:
    """A list of products with one filter, $v."""
    return products(f"filter: {{{name}: $v}}", f", $v: {type_}")


SEARCH = products("search: $v", ", $v: String!")
NUMBERED = "query($v: ProductSearchInput!) { searchProducts(input: $v) { pagination { total } } }"
SUGGEST = "query($s: ID!, $v: String!) { config(by: {id: $s}) { predictiveSearch(search: $v) { suggestions { text } } } }"
PRODUCT = "query($v: ProductByInput!) { product(by: $v) { id } }"
CONFIG = "query($v: ConfigByInput!) { config(by: $v) { id } }"
VARIANT = "query($p: ID!, $v: [AttributeInput!]!) { product(by: {id: $p}) { variant(by: {attributes: $v}) { id } } }"
CHANGES = "query($s: ID!, $v: Position!) { productChanges(configId: $s, after: $v) { position hasMore } }"


def post_value(shop: Shop, query: str, value: object) -> dict[str, Any]:
    known = {"s": shop.store, "p": shop.product, "v": value}
    return {name: known[name] for name in known if f"${name}:" in query}


async def refusal(shop: Shop, query: str, value: object = None) -> Any:
    return await shop.client.refusal(query, **post_value(shop, query, value))


async def expect_data(shop: Shop, query: str, value: object) -> Any:
    return await shop.client.ask(query, **post_value(shop, query, value))


# -------------------------------------------------------------------------------------------- pages and arguments


@pytest.mark.parametrize("number", [0, 101, -1, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize(
    "query",
    [
        products("first: $v", ", $v: Int"),
        "query($s: ID!, $v: Int!) { config(by: {id: $s}) { products(first: $v) { totalCount } } }",
        "query($v: Int!) { configs(first: $v) { totalCount } }",
        "query($s: ID!, $v: Int!) { config(by: {id: $s}) { owner { configs(first: $v) { totalCount } } } }",
        "query($p: ID!, $v: Int!) { product(by: {id: $p}) { reviews(first: $v) { totalCount } } }",
        "query($p: ID!, $v: Int!) { product(by: {id: $p}) { related(first: $v) { id } } }",
        'query($s: ID!, $v: Int!) { config(by: {id: $s}) { predictiveSearch(search: "l", first: $v) { suggestions { text } } } }',
    ],
)
async def test_first_must_be_1_to_100(shop: Shop, query: str, number: int) -> None:
    error = await refusal(shop, query, number)
    assert (error["extensions"]["code"], error["extensions"]["field"]) == ("BAD_USER_INPUT", "first")
    maximum = 20 if "predictiveSearch" in query else 100
    assert error["message"] == f"first: must be between 1 and {maximum}, not {number}."


@pytest.mark.parametrize("number", [2**31, -(10**12), 10**25, 1.5, "1", True, [1], {}])
async def test_first_must_be_an_integer(shop: Shop, number: object) -> None:
    error = await refusal(shop, products("first: $v", ", $v: Int"), number)
    assert error["extensions"]["code"] == "BAD_USER_INPUT"
    assert "Int" in error["message"]


# fmt: off
MANY = '"x" ' * 101
UNFIT = [
    ("last: 0", "last"), ("last: 101", "last"), ("first: 1, last: 1", "last"), ('after: "x", before: "x"', "last"),
    ('first: 1, before: "x"', "last"), ('last: 1, after: "x"', "last"),
    *((f'after: "{text}"', "after") for text in ("", "x", "%%%", "é", "W" * 2_001, "W" * 1_999)),
    ('before: "x"', "before"), ("sort: {key: RELEVANCE}", "sort.key"), ('search: "  ", sort: {key: RELEVANCE}', "sort.key"),
    ('filter: {minPrice: "2", maxPrice: "1.99"}', "filter.minPrice"),
    *((f"filter: {{{name}: [{MANY}]}}", f"filter.{name}") for name in ("tags", "categories", "ids")),
    ("filter: {attributes: [" + '{name: "a", values: ["b"]} ' * 11 + "]}", "filter.attributes"),
]
UNFIT_NUMBERED = [
    ({"limit": 0}, "limit"), ({"limit": 101}, "limit"), ({"offset": -1}, "offset"), ({"offset": 100_001}, "offset"),
    ({"minPrice": "2", "maxPrice": "1"}, "minPrice"), ({"category": "a\0"}, "category"), ({"q": "a\0"}, "q"),
    ({"q": "x" * 10_000}, "q"), ({"configId": "x"}, "configId"),
]
# fmt: on


@pytest.mark.parametrize(("arguments", "field"), UNFIT, ids=lambda text: text[:40])
async def test_conflicting_arguments_are_named(shop: Shop, arguments: str, field: str) -> None:
    error = await refusal(shop, products(arguments))
    assert (error["extensions"]["code"], error["extensions"]["field"]) == ("BAD_USER_INPUT", field)
    assert error["message"].startswith(f"{field}: ")
    # Most are rejected before execution.
    assert error.get("path") in (None, ["products"])
    assert error["locations"]


@pytest.mark.parametrize(("value", "field"), UNFIT_NUMBERED)
async def test_offset_page_error_names_its_fields(shop: Shop, value: dict[str, Any], field: str) -> None:
    error = await refusal(shop, NUMBERED, {"configId": shop.store, **value})
    assert (error["extensions"]["code"], error["extensions"]["field"]) == ("BAD_USER_INPUT", f"input.{field}")


CURSOR_LISTS = [
    'products(first: 1, after: "x") { nodes { id } }',
    'products(first: 1, after: "@", sort: {key: RATING}) { totalCount nodes { id } }',
    'products(first: 1, after: "@", sort: {key: CREATED_AT}) { edges { cursor } }',
    'reviews(first: 1, after: "@") { nodes { id } }',
]


@pytest.mark.parametrize(
    "query", ["{{ configs {{ nodes {{ a: {} b: {} }} }} }}", "{{ config(by: {{id: $s}}) {{ a: {} b: {} }} }}"]
)
async def test_two_bad_cursors_leave_nothing_in_the_log(shop: Shop, query: str, caplog: pytest.LogCaptureFixture) -> None:
    found = await shop.client.ask(
        products("first: 1, sort: {key: NAME}").replace("totalCount", "pageInfo { endCursor }"), s=shop.store
    )
    cursor = found["products"]["pageInfo"]["endCursor"]
    for first, second in itertools.product(CURSOR_LISTS, repeat=2):
        text = query.format(first, second).replace("@", cursor)
        text = text if "$s" not in text else f"query($s: ID!) {text}"
        assert (await refusal(shop, text))["extensions"]["field"] == "after"
    gc.collect()
    # Not of the server, which reports slow operations: of futures whose exceptions nothing retrieved.
    assert not [record for record in caplog.records if record.name == "asyncio"]


# ------------------------------------------------------------------------------------------------------------- ids


@pytest.mark.parametrize("id_", ["x", "", " ", "1", "0" * 31, "0" * 33, "g" * 32, "é" * 36, "1" * 10_000, "\0" * 32])
@pytest.mark.parametrize(
    ("query", "path"),
    [
        (CONFIG, "by.id"),
        (PRODUCT, "by.id"),
        (PRODUCT, "by.handle.configId"),
        (PRODUCT, "by.sku.configId"),
        ("query($v: ID!) { products(configId: $v) { totalCount } }", "configId"),
        (NUMBERED, "input.configId"),
        ('query($v: ID!) { productChanges(configId: $v, after: "0") { position } }', "configId"),
        (filter_products("ids", "[ID!]"), "filter.ids"),
    ],
    ids=["config", "product", "handle", "sku", "products", "search", "changes", "ids"],
)
async def test_malformed_id_is_named(shop: Shop, query: str, path: str, id_: str) -> None:
    value: Any = id_
    if path.startswith(("by.", "input.")):
        first, *rest = path.split(".")[1:]
        value = {first: id_} if not rest else {first: {"configId": id_, first: "x"}}
    error = await refusal(shop, query, value)
    assert (error["extensions"]["code"], error["extensions"]["field"]) == ("BAD_USER_INPUT", path)
    mends = ("is not an id. Ids look like", "at most 200 characters", "NUL")
    assert any(mend in error["message"] for mend in mends)
    assert len(error["message"]) < 300


async def test_unknown_id_is_null_or_not_found(shop: Shop) -> None:
    unknown_id = str(uuid7())
    for by in ({"id": unknown_id}, {"slug": "no-such-store"}, {"slug": ""}, {"slug": "Ä b"}):
        assert (await shop.client.ask(CONFIG, v=by))["config"] is None
    for inner in (
        {"id": unknown_id},
        {"handle": {"configId": unknown_id, "handle": "x"}},
        {"sku": {"configId": shop.store, "sku": "x"}},
    ):
        assert (await shop.client.ask(PRODUCT, v=inner))["product"] is None
    for field in (
        "products(configId: $s) { totalCount }",
        "searchProducts(input: {configId: $s}) { pagination { total } }",
        'productChanges(configId: $s, after: "0") { position }',
    ):
        error = await shop.client.refusal(f"query($s: ID!) {{ {field} }}", s=unknown_id)
        assert (error["extensions"]["code"], error["extensions"]["field"]) == ("NOT_FOUND", "configId")
        assert unknown_id in error["message"]


@pytest.mark.parametrize("query", [PRODUCT, CONFIG])
@pytest.mark.parametrize(
    "value", [{}, {"id": None}, {"id": str(uuid7()), "slug": "x"}, {"id": str(uuid7()), "handle": None}, None, "x"]
)
async def test_exactly_one_lookup_key_is_required(shop: Shop, query: str, value: object) -> None:
    assert (await refusal(shop, query, value))["extensions"]["code"] == "BAD_USER_INPUT"


async def test_null_lookup_key_is_rejected(shop: Shop) -> None:
    for query in (
        "{ product(by: {id: null}) { id } }",
        "{ product(by: {}) { id } }",
        '{ product(by: {id: "x", sku: null}) { id } }',
        '{ config(by: {id: "x", slug: "x"}) { id } }',
        "query($v: ProductByInput = {}) { product(by: $v) { id } }",
        "query($v: ID) { product(by: {id: $v}) { id } }",
        'query($v: ID = "x") { product(by: {id: $v}) { id } }',
        "query($v: String) { ...F } fragment F on Query { config(by: {slug: $v}) { id } }",
    ):
        error = await refusal(shop, query)
        assert error["extensions"]["code"] == "GRAPHQL_VALIDATION_FAILED"
        assert error["locations"]
        assert "path" not in error


# --------------------------------------------------------------------------------------------------------- cursors

SORTED = products(
    "sort: $sort, search: $q, first: 2, after: $after", ", $sort: ProductSortInput, $q: String, $after: String"
).replace("totalCount", "correctedSearch pageInfo { endCursor }")


async def cursor(shop: Shop, key: str, search: str | None = None) -> list[Any]:
    """The content of a cursor of this list: a fingerprint, the sort value, the id."""
    page = await shop.client.ask(SORTED, s=shop.store, sort={"key": key}, q=search)
    text = page["products"]["pageInfo"]["endCursor"]
    held: list[Any] = orjson.loads(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    return held


def encode_cursor(held: object) -> str:
    return urlsafe_b64encode(orjson.dumps(held)).decode().rstrip("=")


# fmt: off
ALTERED: dict[str, list[Any]] = {
    "CREATED_AT": ["", "x", 5, None, True, [], {}, "2026-W01-1", "2026-01-01x10:00:00", "2026-01-01", "20260101T101010Z",
                   "2026-01-01T10:00:00,5Z", "9999-12-31T23:59:59-23:59", "infinity", "now", "x" * 1_000],
    "PRICE": [5, None, "x", "1.", ".5", "١.٠٠", "-1.00", "NaN", "1e3", "1234567890123456.00", "1.00000", True, {}],
    "NAME": [5, None, "a\0b", ["x"], True],
    "POPULARITY": [True, -1, 2**31, 2**63, 1.5, "1", None],
    "RATING": [True, "1", None, [], {"a": 1}],
    "RELEVANCE": [True, "1", None],
}
EXTREME: dict[str, list[Any]] = {"RATING": [1e308, -1e308, 10**18, 0], "POPULARITY": [0, 2**31 - 1], "NAME": ["", "\U0010ffff"]}
# fmt: on


@pytest.mark.parametrize("key", ALTERED)
async def test_altered_cursor_is_rejected(shop: Shop, key: str) -> None:
    search = "lantern" if key == "RELEVANCE" else None
    fingerprint, value, id_ = await cursor(shop, key, search)
    altered: list[Any] = [[fingerprint, other, id_] for other in ALTERED[key]]
    no_ids: list[Any] = ["x", 5, None, "0" * 31, [1] * 32, {}]
    altered += [[fingerprint, value, other] for other in no_ids]
    altered += [[], {}, "abc", 5, None, [fingerprint], {"a": 1, "b": 2, "c": 3}]
    altered += [[fingerprint, value, id_, 5], [value, fingerprint, id_]]
    for held in altered:
        error = await shop.client.refusal(SORTED, s=shop.store, sort={"key": key}, q=search, after=encode_cursor(held))
        assert (error["extensions"]["code"], error["extensions"]["field"]) == ("BAD_USER_INPUT", "after"), held
    for extreme in EXTREME.get(key, []):
        edge = encode_cursor([fingerprint, extreme, id_])
        await shop.client.ask(SORTED, s=shop.store, sort={"key": key}, q=search, after=edge)


async def test_cursor_is_bound_to_its_list(shop: Shop) -> None:
    other = await make_store(shop.client.database)
    await make_product(shop.client.database, other)
    held = encode_cursor(await cursor(shop, "PRICE"))
    query = products(
        "sort: $sort, filter: $f, search: $q, after: $v",
        ", $sort: ProductSortInput, $f: ProductFilterInput, $q: String, $v: String",
    )
    changes: list[dict[str, Any]] = [{"sort": {"key": "PRICE", "order": "DESC"}}, {"sort": {"key": "NAME"}}, {"s": other}]
    for changed in [*changes, {"f": {"inStock": True}}, {"f": {"tags": ["copper"]}}, {"q": "lantern"}]:
        error = await shop.client.refusal(query, **{"s": shop.store, "sort": {"key": "PRICE"}, "v": held, **changed})
        assert (error["extensions"]["code"], error["extensions"]["field"]) == ("BAD_USER_INPUT", "after")
        assert "another sort, filter or parent" in error["message"]


async def test_cursor_of_another_list_type_is_rejected(shop: Shop) -> None:
    held = encode_cursor(await cursor(shop, "CREATED_AT"))
    for query in (
        "query($v: String!) { configs(after: $v) { totalCount } }",
        "query($s: ID!, $v: String!) { config(by: {id: $s}) { owner { configs(after: $v) { nodes { id } } } } }",
        "query($p: ID!, $v: String!) { product(by: {id: $p}) { reviews(after: $v) { nodes { id } } } }",
    ):
        error = await refusal(shop, query, held)
        assert (error["extensions"]["code"], error["extensions"]["field"]) == ("BAD_USER_INPUT", "after")


async def test_altered_correction_in_cursor_is_harmless(shop: Shop) -> None:
    *held, corrected = await cursor(shop, "NAME", "lantren")
    assert corrected == "lantern"
    for other in ("", "\0", "a\0b", '"', "or", "-", "a:*&!|", "ﷲ" * 400, "x" * 1_300, "x " * 600, "or " * 400, "x or " * 250):
        answer = await shop.client.post(
            SORTED, s=shop.store, sort={"key": "NAME"}, q="lantren", after=encode_cursor([*held, other])
        )
        for error in answer.json().get("errors", []):
            assert (error["extensions"]["code"], error["extensions"]["field"]) == ("BAD_USER_INPUT", "after")


# ------------------------------------------------------------------------------------------------------------ text


@pytest.mark.parametrize("text", ["x" * 10_000, "x" * 201, "a\0b", "\0"], ids=["10,000", "201", "NUL inside", "NUL"])
@pytest.mark.parametrize(
    ("query", "wrap", "field"),
    [
        (SEARCH, None, "search"),
        (SUGGEST, None, "search"),
        (CONFIG, "slug", "by.slug"),
        (PRODUCT, "handle", "by.handle.handle"),
        (PRODUCT, "sku", "by.sku.sku"),
        (filter_products("categories", "[String!]"), None, "filter.categories"),
        (filter_products("tags", "[String!]"), None, "filter.tags"),
        (filter_products("attributes", "[AttributeFilterInput!]"), "filter name", "filter.attributes.0.name"),
        (filter_products("attributes", "[AttributeFilterInput!]"), "filter value", "filter.attributes.0.values.0"),
        (VARIANT, "name", "by.attributes.0.name"),
        (VARIANT, "value", "by.attributes.0.value"),
    ],
)
async def test_text_too_long_or_with_nul_is_named(shop: Shop, query: str, wrap: str | None, field: str, text: str) -> None:
    shapes: dict[str | None, Any] = {
        None: text,
        "slug": {"slug": text},
        "handle": {"handle": {"configId": shop.store, "handle": text}},
        "sku": {"sku": {"configId": shop.store, "sku": text}},
        "name": [{"name": text, "value": "x"}],
        "value": [{"name": "x", "value": text}],
        "filter name": [{"name": text, "values": ["x"]}],
        "filter value": [{"name": "x", "values": [text]}],
    }
    error = await refusal(shop, query, shapes[wrap])
    assert (error["extensions"]["code"], error["extensions"]["field"]) == ("BAD_USER_INPUT", field)
    assert ("NUL" if "\0" in text else "at most 200 characters") in error["message"]
    assert len(error["message"]) < 300


async def test_lone_surrogate_is_rejected(shop: Shop) -> None:
    headers = {"content-type": "application/json"}
    for query in (SEARCH, SUGGEST, CONFIG, PRODUCT):
        valid_request = {"query": query, "variables": {"s": shop.store, "v": "words"}}
        for request, code in (
            (valid_request | {"variables": {"s": shop.store, "v": "?"}}, "BAD_USER_INPUT"),
            (valid_request | {"operationName": "?"}, "BAD_REQUEST"),
        ):
            body = orjson.dumps(request).replace(b'"?"', rb'"\ud800"')
            answer = await shop.client.http.post("/graphql", content=body, headers=headers)
            assert answer.json()["errors"][0]["extensions"]["code"] == code, answer.text
    for literal in (r'"\ud800"', r'"\udc00\ud800"', r'"\u{d800}"', r'"\u{110000}"', '"\\ud83d\\u0041"'):
        error = await refusal(shop, f"{{ config(by: {{slug: {literal}}}) {{ id }} }}")
        assert error["extensions"]["code"] == "GRAPHQL_PARSE_FAILED"


# fmt: off
ODD = ["", " ", '"', '""', '"""', "'", "-", "--", "- -", "or", "or or", "OR or", "and not", "the", "the of a", "a:*&!|", ":*",
       "<->", "!!", "()", "((", "\\", "%", "_", "*", "🏮", "👨‍👩‍👧", "عربي نص", "שלום", "\u202eabc", "\u200b", "\ufeff", "\n\t",
       "²", "①", "ⅷ", "Σς", "İ", "1 2 3", "1e400", "'; DROP TABLE products", "or " * 32, "x " * 32, "각" * 200,
       *(sign * (200 // len(sign)) for sign in ("ß", "-", "- ", "-!", "-<", "－", '-"', '"'))]
# Texts that exceed a limit after folding, and the unit of the limit.
TOO_MUCH = [("ﷺ" * 200, "folded characters"), ("ﷲ" * 200, "folded characters"), ("㍿" * 151, "folded characters"),
            ("ﷺ " * 9, "words"), ("x " * 33, "words"), ("x or " * 33, "words"), ("-(x" * 66, "words"), ("a.b" * 50, "words")]
NO_MOMENTS = ["２026-11-22T10:00:00Z", "2026-11-22🏮10:00:00Z", "20261122T100000Z", " 2026-11-22T10:00:00Z", 1.5, {},
              "2026-11-22T10:00:00", "2026-11-22", "22.11.2026", "now", "infinity", "", "0", 5, True, "2026-02-30T00:00:00Z",
              "0000-01-01T00:00:00Z", "10000-01-01T00:00:00Z", "0001-01-01T00:00:00+10:00", "9999-12-31T23:59:59-10:00"]
NO_DECIMALS = ["NaN", "Infinity", "1e9", "1e999999", "+1", "１２", "١٠", "1_0", "1\n", "1\0",
               "abc", "", " 1", "1,5", "0x1", "--1", "1.", ".5", "1" * 21, "1.12345678901",
               True, 1.5, [], {}]
DECIMALS = [("99999999999999999999", 12), ("-99999999999999999999.9999999999", 0), (2**63, 12), (-1, 0), ("10.0000000000", 12),
            ("9.9999999999", 0), ("0010", 12)]
MOMENTS = [("0001-01-01T00:00:00Z", 12), ("0001-01-01T10:00:00+10:00", 12), ("9999-12-31T23:59:59.999999Z", 0),
           ("2026-01-01T00:00:00+23:59", 12), ("2020-06-30T23:59:59.9999999Z", 12)]
# fmt: on


@pytest.mark.parametrize("text", ODD, ids=lambda text: ascii(text[:12]))
async def test_unusual_text_can_be_searched(shop: Shop, text: str) -> None:
    for query in (SEARCH, SUGGEST, filter_products("categories", "[String!]"), filter_products("tags", "[String!]")):
        await expect_data(shop, query, text)
    await expect_data(shop, NUMBERED, {"configId": shop.store, "q": text, "category": text})
    await expect_data(shop, CONFIG, {"slug": text})
    await expect_data(shop, PRODUCT, {"handle": {"configId": shop.store, "handle": text}})
    await expect_data(shop, VARIANT, [{"name": text, "value": text}])


@pytest.mark.parametrize(("text", "unit"), TOO_MUCH, ids=lambda text: ascii(text[:12]))
async def test_search_too_large_after_folding_is_rejected(shop: Shop, text: str, unit: str) -> None:
    for query, value, field in (
        (SEARCH, text, "search"),
        (SUGGEST, text, "search"),
        (NUMBERED, {"configId": shop.store, "q": text}, "input.q"),
        ("query($s: ID!, $v: String) { config(by: {id: $s}) { products(search: $v) { totalCount } } }", text, "search"),
        (products(f'search: "{text}"'), None, "search"),
        (
            f'query($s: ID!) {{ config(by: {{id: $s}}) {{ predictiveSearch(search: "{text}") {{ suggestions {{ text }} }} }} }}',
            None,
            "search",
        ),
    ):
        with count_statements(shop.client.database) as statements:
            error = await refusal(shop, query, value)
        extensions = error["extensions"]
        assert (extensions["code"], extensions["field"], extensions["limit"]) == ("BAD_USER_INPUT", field, unit)
        assert error["message"].startswith(f"{field}: must have at most {extensions['maximum']} {unit}, not ")
        assert not statements


async def test_empty_prefix_and_search_are_valid(shop: Shop) -> None:
    assert (await expect_data(shop, SUGGEST, ""))["config"]["predictiveSearch"]["suggestions"] == []
    assert (await expect_data(shop, SEARCH, " \t"))["products"]["totalCount"] == 12


LISTS = {"ids": "ID!", "statuses": "ProductStatus!", "attributes": "AttributeFilterInput!"}


@pytest.mark.parametrize("name", ["ids", "categories", "vendors", "productTypes", "tags", "attributes", "statuses"])
async def test_empty_filter_list_is_no_condition(shop: Shop, name: str) -> None:
    query = filter_products(name, f"[{LISTS.get(name, 'String!')}]")
    for value in ([], None, *([[{"name": "Color", "values": []}]] if name == "attributes" else ())):
        assert (await expect_data(shop, query, value))["products"]["totalCount"] == 12


# ------------------------------------------------------------------------------------- decimals, timestamps, numbers


@pytest.mark.parametrize("name", ["minPrice", "maxPrice"])
@pytest.mark.parametrize("value", NO_DECIMALS)
async def test_invalid_decimal_is_rejected(shop: Shop, name: str, value: object) -> None:
    error = await refusal(shop, filter_products(name, "Decimal"), value)
    assert error["extensions"]["code"] == "BAD_USER_INPUT"
    assert 'such as "19.90"' in error["message"].replace("\\", "")
    assert len(error["message"]) < 300


@pytest.mark.parametrize(("value", "cheaper"), DECIMALS)
async def test_valid_decimal_is_compared(shop: Shop, value: object, cheaper: int) -> None:
    assert (await expect_data(shop, filter_products("maxPrice", "Decimal"), value))["products"]["totalCount"] == cheaper
    await expect_data(shop, filter_products("minPrice", "Decimal"), value)


@pytest.mark.parametrize("value", NO_MOMENTS)
async def test_invalid_datetime_is_rejected(shop: Shop, value: object) -> None:
    error = await refusal(shop, filter_products("updatedSince", "DateTime"), value)
    assert error["extensions"]["code"] == "BAD_USER_INPUT"
    assert "2026-11-22T10:00:00Z" in error["message"]


@pytest.mark.parametrize(("value", "count"), MOMENTS)
async def test_valid_datetime_is_compared(shop: Shop, value: str, count: int) -> None:
    assert (await expect_data(shop, filter_products("updatedSince", "DateTime"), value))["products"]["totalCount"] == count


@pytest.mark.parametrize("literal", ["NaN", "Infinity", '"1"', "true", "-", "1e"])
async def test_invalid_rating_is_rejected(shop: Shop, literal: str) -> None:
    error = await refusal(shop, products(f"filter: {{minRating: {literal}}}"))
    assert error["extensions"]["code"] in ("GRAPHQL_VALIDATION_FAILED", "GRAPHQL_PARSE_FAILED")


async def test_rating_accepts_any_number(shop: Shop) -> None:
    for value, count in ((1e308, 0), (-1e308, 12), (5e-324, 0), (0, 12), (10**18, 0)):
        assert (await expect_data(shop, filter_products("minRating", "Float"), value))["products"]["totalCount"] == count


@pytest.mark.parametrize("literal", ["1e400", "-1e400", "1" * 400, "1" * 4_400])
async def test_infinite_rating_is_rejected(shop: Shop, literal: str) -> None:
    error = await refusal(shop, products(f"filter: {{minRating: {literal}}}"))
    assert error["extensions"]["code"] in ("GRAPHQL_VALIDATION_FAILED", "BAD_USER_INPUT")


@pytest.mark.parametrize(
    "value",
    [
        "-1",
        -1,
        10**18,
        str(10**18),
        "1.0",
        "",
        "x",
        1.5,
        1.0,
        "+1",
        "１",
        "١",
        "1_0",
        " 1",
        "1 ",
        "NaN",
        "1e9",
        {},
        True,
        None,
        [],
        "99999999999999999999",
    ],
)
async def test_invalid_position_is_rejected(shop: Shop, value: object) -> None:
    error = await refusal(shop, CHANGES, value)
    assert error["extensions"]["code"] == "BAD_USER_INPUT"
    assert "Position" in error["message"]


async def test_position_beyond_the_log_is_reset(shop: Shop) -> None:
    for value in ("0", 0, 10**18 - 1):
        assert (await expect_data(shop, CHANGES, value))["productChanges"] == {"position": "0", "hasMore": False}


async def test_huge_numbers_in_a_document_are_rejected(shop: Shop) -> None:
    digits = "9" * 5_000
    for query in (
        products(f"first: {digits}"),
        products(f"filter: {{minPrice: {digits}}}"),
        products(f"filter: {{ids: [{digits}]}}"),
        products(f"filter: {{updatedSince: {digits}}}"),
        f"query($s: ID!) {{ productChanges(configId: $s, after: {digits}) {{ position }} }}",
    ):
        error = await refusal(shop, query)
        assert error["extensions"]["code"] in ("GRAPHQL_VALIDATION_FAILED", "BAD_USER_INPUT")
        assert "sys." not in error["message"]


# -------------------------------------------------------------------------------------------------------- any text

EVERYWHERE = """query($s: ID!, $p: ID!, $t: String!) {
  products(configId: $s, search: $t) { totalCount correctedSearch nodes { id } facets { categories { value } } }
  chosen: products(configId: $s, filter: {categories: [$t], tags: [$t], attributes: [{name: $t, values: [$t]}]}) {
    totalCount facets { attributes { name } tags { value } } }
  searchProducts(input: {configId: $s, q: $t, category: $t}) { pagination { total } }
  typed: config(by: {id: $s}) { predictiveSearch(search: $t) { suggestions { text } products { id } } }
  product(by: {handle: {configId: $s, handle: $t}}) { id }
  by_sku: product(by: {sku: {configId: $s, sku: $t}}) { id }
  config(by: {slug: $t}) { id }
  variant: product(by: {id: $p}) { variant(by: {attributes: [{name: $t, value: $t}]}) { id } }
}"""
BEHIND = products("after: $v", ", $v: String")
RANKED = products("search: $v, sort: {key: RELEVANCE, order: ASC}", ", $v: String")
WORDS = ["or", "-", '"', "the", "lantren", "lantern", "a:*", "1", "Ω", "&", "ﬃ"]
SIGNS = "\"'-:*&|!()<>\\ aorОЯ0²ﷲßé\u0301\u200d\n"
TEXT = st.text(max_size=300) | st.text(SIGNS, max_size=60) | st.lists(st.sampled_from(WORDS), max_size=40).map(" ".join)
PLAIN = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(-1e300, 1e300) | st.text(max_size=20)
KEYS = st.sampled_from(["id", "name", "value", "x"])
VALUE = st.recursive(PLAIN, lambda v: st.lists(v, max_size=3) | st.dictionaries(KEYS, v, max_size=3), max_leaves=6)
FILTERS = {"minPrice": "Decimal", "updatedSince": "DateTime", "minRating": "Float", "tags": "[String!]", "ids": "[ID!]"}
QUERIES = [
    *(filter_products(name, type_) for name, type_ in FILTERS.items()),
    filter_products("attributes", "[AttributeFilterInput!]"),
]


@settings(max_examples=80, deadline=None, derandomize=True)
@given(text=TEXT)
async def test_no_text_causes_internal_error(shop: Shop, text: str) -> None:
    for query, named in ((EVERYWHERE, {"p": shop.product, "t": text}), (BEHIND, {"v": text}), (RANKED, {"v": text})):
        answer = (await shop.client.post(query, s=shop.store, **named)).json()
        assert {error["extensions"]["code"] for error in answer.get("errors", [])} <= {"BAD_USER_INPUT"}, answer


@settings(max_examples=50, deadline=None, derandomize=True)
@given(value=VALUE)
async def test_no_wrong_type_causes_internal_error(shop: Shop, value: object) -> None:
    for query in (*QUERIES, CHANGES, PRODUCT, SEARCH):
        answer = (await shop.client.post(query, **post_value(shop, query, value))).json()
        assert {error["extensions"]["code"] for error in answer.get("errors", [])} <= {"BAD_USER_INPUT"}, (query, value)
