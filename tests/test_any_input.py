"""Property-based tests: any input of the right types gets a payload or typed errors, never an internal error.

The inputs are generated from the schema's input types, so that new mutations are covered, too.
"""

import random
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
import pytest_asyncio
from graphql import (
    GraphQLEnumType,
    GraphQLField,
    GraphQLInputObjectType,
    GraphQLList,
    get_nullable_type,
    is_nullable_type,
    is_required_input_field,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storefront.schema import schema
from tests.client import Client
from tests.conftest import fresh, serving
from tests.factories import make_image, make_product, make_review, make_store, make_upload, make_user, make_variant

MUTATIONS: Mapping[str, GraphQLField] = schema._schema.mutation_type.fields if schema._schema.mutation_type else {}
NOUNS = "config", "product", "variant", "review", "image", "upload"

# Texts that tend to break things: empty, spaces, NUL, long words, letters that grow by folding, markup, and plausible ones.
ODD = [
    *("", " ", "\x00", "a\x00b", "\n", "\\", "'", '"', "%s", "%(id)s", "{}", "null", "\u202e", "\ufeff", "\ufffe", "é" * 300),
    *("x" * 70_000, "ﷺ" * 255, "㌀" * 255, "😀" * 255, "İ" * 255, "<script>", "../..", "-1", "1e400", "NaN"),
    *("USD", "EUR", "red", "my-store", "https://example.com/a.jpg", "a { color: red }", "my-shop.myshopify.com"),
    *("G-12345678", "pk_live_12345678", "Mug", "size", "018f0000-0000-7000-8000-000000000000"),
]
TEXTS = st.sampled_from(ODD) | st.text(max_size=12)
AMOUNTS = st.sampled_from(
    [
        "0",
        "-0",
        "-0.00",
        "0.01",
        "10",
        "999999999999999.9999",
        "1000000000000000",
        "-1",
        "1.999",
        "12345678901234567890.0123456789",
    ]
)
NUMBERS = st.sampled_from([0, 1, -1, 2, 5, 6, 2**31 - 1, -(2**31), 32_768]) | st.integers(-(2**31), 2**31 - 1)
PLAIN: dict[str, st.SearchStrategy[Any]] = {
    "String": TEXTS,
    "Int": NUMBERS,
    "Float": st.floats(allow_nan=False, allow_infinity=False),
    "Boolean": st.booleans(),
    "Decimal": AMOUNTS | st.decimals(-1_000, 1_000, places=3).map(str) | st.decimals(0, 100, places=2).map(str),
    "DateTime": st.datetimes().map(lambda moment: f"{moment.isoformat()}Z"),
    "Position": st.integers(0, 10**17).map(str),
    "CurrencyCode": st.sampled_from(["EUR", "USD", "JPY", "XXX", "usd"]),
    "FileSize": st.integers(0, 2**53 - 1),
    "JSON": st.recursive(st.none() | st.booleans() | TEXTS, lambda inner: st.lists(inner, max_size=3), max_leaves=5),
    # Names of types stand for ids of existing rows.
    "ID": st.sampled_from([*(f"${noun}" for noun in NOUNS)] * 6 + ODD[:9]),
}


def values(type_: Any) -> st.SearchStrategy[Any]:
    """Any value of an input type."""
    if is_nullable_type(type_):
        return st.none() | solid(type_)
    return solid(get_nullable_type(type_))


def solid(type_: Any) -> st.SearchStrategy[Any]:
    if isinstance(type_, GraphQLList):
        return st.lists(values(type_.of_type), max_size=3)
    if isinstance(type_, GraphQLEnumType):
        return st.sampled_from(list(type_.values))
    return records(type_) if isinstance(type_, GraphQLInputObjectType) else PLAIN[type_.name]


def records(type_: GraphQLInputObjectType) -> st.SearchStrategy[dict[str, Any]]:
    """All required fields, and some of the others."""
    required = {n: values(f.type) for n, f in type_.fields.items() if is_required_input_field(f)}
    optional = {n: values(f.type) for n, f in type_.fields.items() if n not in required}
    return st.fixed_dictionaries(required, optional=optional)


def with_ids(value: Any, ids: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: with_ids(inner, ids) for name, inner in value.items()}
    if isinstance(value, list):
        return [with_ids(inner, ids) for inner in value]
    return ids.get(value, value) if isinstance(value, str) else value


@pytest_asyncio.fixture(scope="module")
async def owner(postgres: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    async with serving(fresh(postgres, template), tmp_path_factory.mktemp("any")) as shared:
        yield shared.signed_in(await make_user(shared.database))


@pytest_asyncio.fixture(scope="module")
async def me(owner: Client) -> str:
    return str((await owner.ask("{ me { id } }"))["me"]["id"])


async def rows(owner: Client, me: str) -> dict[str, str]:
    """One row of each type that belongs to the viewer."""
    store = await make_store(owner.database, user_id=me)
    product = await make_product(owner.database, store)
    variant = await make_variant(owner.database, product)
    review = await make_review(owner.database, product, user_id=me)
    image = await make_image(owner.database, product)
    upload = await make_upload(owner.database, store)
    return {f"${noun}": id_ for noun, id_ in zip(NOUNS, (store, product, variant, review, image, upload), strict=True)}


async def check(owner: Client, me: str, ids: Mapping[str, str], name: str, input_: dict[str, Any]) -> None:
    field = MUTATIONS[name]
    payload = "{ clientMutationId userErrors { code message path } }"
    document = f"mutation($input: {field.args['input'].type}) {{ {name}(input: $input) {payload} }}"
    # A new token each time: one of the mutations signs the user out everywhere.
    answer = await owner.signed_in(me).post(document, input=with_ids(input_, ids))
    body = answer.json()
    codes = [error["extensions"]["code"] for error in body.get("errors", ())]
    assert set(codes) <= {"BAD_USER_INPUT"}, f"{codes} for {input_!r:.500}"
    assert codes or isinstance(body["data"][name]["userErrors"], list)


@pytest.mark.parametrize("name", list(MUTATIONS))
async def test_any_input_gets_payload_or_typed_error(owner: Client, me: str, name: str) -> None:
    assert set(MUTATIONS[name].args) == {"input"}
    drawn: list[dict[str, Any]] = []

    # Drawn first and sent afterwards: hypothesis does not support async tests.
    @settings(max_examples=EXAMPLES, database=None, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
    @given(values(MUTATIONS[name].args["input"].type))
    def draw(input_: dict[str, Any]) -> None:
        drawn.append(input_)

    draw()
    ids: dict[str, str] = {}
    for n, input_ in enumerate(drawn):
        # Some mutations delete them.
        ids = ids if n % ROWS_EVERY else await rows(owner, me)
        await check(owner, me, ids, name, input_)


EXAMPLES = 40
# Inputs for which the rows are the same.
ROWS_EVERY = 4


@pytest.mark.parametrize("text", ["㌀㌂㌄㌆㌈㌊㌌㌎", "ﷺﷻ", "İıſß", "😀🏳️‍🌈"], ids=["squared", "ligatures", "case", "emoji"])
async def test_text_growing_by_folding_is_stored_or_rejected(owner: Client, me: str, text: str) -> None:
    ids = await rows(owner, me)
    letters = [text[n % len(text)] + (chr(0x3300 + n * 7 % 88) if text[0] == "㌀" else "") for n in range(40_000)]
    title = "".join(letters)[:255]
    tags = ["".join(letters[n * 97 :])[:240] + f" {n}" for n in range(250)]
    description = " ".join("".join(letters[n : n + 3]) for n in range(0, 39_000, 3))[:65_000]
    for given_ in (
        {"title": title},
        {"tags": tags},
        {"description": description},
        {"title": title, "tags": tags, "description": description},
    ):
        await check(owner, me, ids, "updateProduct", {"id": ids["$product"], **given_})


async def test_text_beyond_search_limit_is_stored(owner: Client, me: str) -> None:
    # Each of these characters folds into up to five, and nearly all words of four differ.
    dice, letters = random.Random(1), [chr(code) for code in range(0x3300, 0x3358)]
    words = ["".join(dice.choices(letters, k=4)) for _ in range(26_000)]
    given_ = {
        "description": " ".join(words[:13_000]),
        "tags": [" ".join(words[13_000 + n : 26_000 : 250][:51]) for n in range(250)],
    }
    document = "mutation($i: UpdateProductInput!) { updateProduct(input: $i) { userErrors { code path } } }"
    answer = await owner.signed_in(me).ask(document, i={"id": (await rows(owner, me))["$product"], **given_})
    assert answer["updateProduct"]["userErrors"] == []
