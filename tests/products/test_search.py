"""Search: syntax, ranking, accents, typo correction and autocomplete."""

import unicodedata
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY, TEXT

from storefront.core.db.database import compile_statement
from storefront.queries.search import fold_text, parse_search
from storefront.queries.spelling import MAX_CORRECTED_SEARCHES, CorrectionBudget, SpellingCorrector, StoreWords, correct_search
from storefront.queries.visibility import Audience
from tests.client import Client
from tests.factories import count_statements, make_product, make_store

SEARCH = """
query Search($c: ID!, $q: String!, $first: Int = 50, $after: String, $filter: ProductFilterInput) {
  products(configId: $c, search: $q, first: $first, after: $after, filter: $filter) {
    nodes { title } correctedSearch didYouMean totalCount pageInfo { hasNextPage endCursor }
    facets { categories { value count } }
  }
}
"""
SUGGEST = """query($c: ID!, $p: String!, $n: Int = 8) {
  config(by: {id: $c}) { predictiveSearch(search: $p, first: $n) { suggestions { text } } } }"""


async def store_with(client: Client, *products: dict[str, Any] | str) -> str:
    """A store with these products, or with products of these titles."""
    store = await make_store(client.database)
    for product in products:
        await make_product(client.database, store, **({"title": product} if isinstance(product, str) else product))
    return store


async def search(client: Client, store: str, words: str, **more: Any) -> Any:
    return (await client.ask(SEARCH, c=store, q=words, **more))["products"]


async def titles(client: Client, store: str, words: str) -> list[str]:
    """The titles that this search finds, sorted."""
    found = await search(client, store, words)
    assert found["correctedSearch"] is None
    return sorted(node["title"] for node in found["nodes"])


@pytest_asyncio.fixture(scope="module")
async def shoes(shopper: Client) -> str:
    """A store to search in, shared read-only."""
    return await store_with(
        shopper,
        {"title": "Red Shoe", "category": "Footwear"},
        {"title": "Red Shoe in Blue Box", "category": "Footwear"},
        {"title": "Shoe Polish", "category": "Care", "tags": ["red tin"]},
        {"title": "Running Shoes", "category": "Footwear", "tags": ["sport"], "description": "Light, for the marathon"},
        {"title": "Café au lait", "category": "Drinks"},
        {"title": "Cafe Table", "category": "Furniture"},
        {"title": "Smørrebrød", "category": "Food"},
        {"title": "Straße", "category": "Maps"},
        {"title": "ΣΊΣΥΦΟΣ", "category": "Myths"},
        {"title": "Hidden Shoe", "status": "inactive"},
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("red", ["Red Shoe", "Red Shoe in Blue Box", "Shoe Polish"]),
        ("RED shoes", ["Red Shoe", "Red Shoe in Blue Box", "Shoe Polish"]),
        ('"red shoe"', ["Red Shoe", "Red Shoe in Blue Box"]),
        ('"red shoe" -blue', ["Red Shoe"]),
        ('-blue "red shoe"', ["Red Shoe"]),
        ("shoe -red", ["Running Shoes"]),
        ('shoe -"blue box" -polish', ["Red Shoe", "Running Shoes"]),
        ('"shoe red"', []),
        ('"polish care"', []),
        ('"box footwear"', []),
        ("polish or running", ["Running Shoes", "Shoe Polish"]),
        ("blue box OR polish tin", ["Red Shoe in Blue Box", "Shoe Polish"]),
        ("polish or running red", ["Shoe Polish"]),
        ("or polish", ["Shoe Polish"]),
        ("polish or", ["Shoe Polish"]),
        ('"red shoe', ["Red Shoe", "Red Shoe in Blue Box"]),
        ("marathon", ["Running Shoes"]),
        ("polish for", ["Shoe Polish"]),
        ("for", []),
        ("hidden", []),
        ('!!! & | ( :* "" -', []),
        ("red & ( shoe", ["Red Shoe", "Red Shoe in Blue Box", "Shoe Polish"]),
    ],
)
async def test_search_syntax(shopper: Client, shoes: str, words: str, expected: list[str]) -> None:
    assert await titles(shopper, shoes, words) == expected


@pytest.mark.parametrize(
    "beginning", ["r", "ru", "runn", "runni", "runnin", "running", "shoes runni", "sport runni", "SHOES RUNNI"]
)
async def test_last_word_matches_by_prefix(shopper: Client, shoes: str, beginning: str) -> None:
    assert "Running Shoes" in await titles(shopper, shoes, beginning)


async def test_only_last_word_matches_by_prefix(shopper: Client, shoes: str) -> None:
    found = await search(shopper, shoes, 'runni "shoes"')
    assert (found["nodes"], found["didYouMean"]) == ([], 'running "shoes"')


@pytest.mark.parametrize("word", ["cafe", "café", "CAFÉ", "caf", "cafe\u0301"])
async def test_accents_are_ignored_in_both_directions(shopper: Client, shoes: str, word: str) -> None:
    assert await titles(shopper, shoes, word) == ["Cafe Table", "Café au lait"]


@pytest.mark.parametrize(
    ("word", "title"),
    [
        ("smorrebrod", "Smørrebrød"),
        ("SMØRRE", "Smørrebrød"),
        ("strasse", "Straße"),
        ("straß", "Straße"),
        ("STRASSE", "Straße"),
        ("σισυφοσ", "ΣΊΣΥΦΟΣ"),
        ("ΣΙΣΥΦΟΣ", "ΣΊΣΥΦΟΣ"),
    ],
)
async def test_special_letters_match_plain_spelling(shopper: Client, shoes: str, word: str, title: str) -> None:
    assert await titles(shopper, shoes, word) == [title]


async def test_ranking_prefers_titles_then_tags_then_descriptions(shopper: Client) -> None:
    store = await store_with(
        shopper,
        {"title": "Third", "description": "amber"},
        {"title": "Amber"},
        {"title": "Second", "tags": ["amber"]},
        {"title": "Also second", "category": "Amber"},
    )
    found = [node["title"] for node in (await search(shopper, store, "amber"))["nodes"]]
    assert (found[0], set(found[1:3]), found[3]) == ("Amber", {"Second", "Also second"}, "Third")


@pytest.fixture(scope="module")
def lamp_titles() -> tuple[str, ...]:
    return ("Copper Lantern", "Copper Kettle", "Wooden Lantern", "Silver Spoon", "Wooden Spoon", "Lampshade")


@pytest_asyncio.fixture(scope="module")
async def lamps(shopper: Client, lamp_titles: tuple[str, ...]) -> str:
    return await store_with(shopper, *({"title": title, "category": title.split()[0]} for title in lamp_titles))


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("lanxern", "lantern"),
        ("latnern", "lantern"),
        ("lanern", "lantern"),
        ("lanttern", "lantern"),
        ("xantern", "lantern"),
        ("copper lanxern", "copper lantern"),
        ("coper lantern", "copper lantern"),
        ("coper lanxern", "copper lantern"),
        ("COPER", "copper"),
        ("spooon", "spoon"),
        ("lantarnn", "lantern"),
        ("copper lanxe", "copper lantern"),
        ("LAMTERN", "lantern"),
        ('"wooden" lanxern', '"wooden" lantern'),
        ("lanxern -wooden", "lantern -wooden"),
    ],
)
async def test_typo_is_corrected_and_reported(
    shopper: Client, lamps: str, lamp_titles: tuple[str, ...], typed: str, meant: str
) -> None:
    found = await search(shopper, lamps, typed)
    assert found["correctedSearch"] == meant
    wanted = {word for word in meant.replace('"', "").split() if not word.startswith("-")}
    unwanted = {word[1:] for word in meant.split() if word.startswith("-")}
    expected = [t for t in lamp_titles if wanted <= {*t.lower().split()} and not unwanted & {*t.lower().split()}]
    assert sorted(node["title"] for node in found["nodes"]) == sorted(expected)


@pytest.mark.parametrize(
    "words", ["lantern", "LANTERNS", "lanterns", "wooden", "copper spoon", '"lanxern"', "zzzzzz", "xy", "-lanxern spoon"]
)
async def test_correct_and_uncorrectable_words_stay(shopper: Client, lamps: str, words: str) -> None:
    assert (await search(shopper, lamps, words))["correctedSearch"] is None


async def test_correct_word_stays_beside_misspelt_one(shopper: Client) -> None:
    store = await store_with(shopper, "Running Shoes", "Fun Shoes")
    found = await search(shopper, store, "run shose")
    assert [node["title"] for node in found["nodes"]] == ["Running Shoes"]
    assert found["correctedSearch"] == "run shoes"


async def test_prefix_stays_beside_misspelt_word(shopper: Client) -> None:
    store = await store_with(shopper, "Blue Sweater", "Blue Hat", "She", "Swim")
    assert (await search(shopper, store, "bleu swe"))["correctedSearch"] == "blue swe"


async def test_stop_words_are_not_corrected(shopper: Client) -> None:
    store = await store_with(shopper, "Lantern", "Lantern", "Tee")
    assert (await search(shopper, store, "the lanxern"))["correctedSearch"] == "the lantern"


async def test_correct_word_stays_when_filters_match_nothing(shopper: Client) -> None:
    store = await store_with(shopper, {"title": "Shoes", "category": "Feet"}, *({"title": "Show", "category": "Theatre"},) * 2)
    found = await search(shopper, store, "shoe", filter={"categories": ["Theatre"]})
    assert found["nodes"] == []
    assert found["correctedSearch"] is None


async def test_corrected_search_is_paginated(shopper: Client) -> None:
    store = await store_with(shopper, *({"title": f"Lantern {n}", "category": "odd" if n % 2 else "even"} for n in range(7)))
    seen, cursor, more = list[str](), None, True
    while more:
        page = await search(shopper, store, "lanxern", first=3, after=cursor)
        seen += [node["title"] for node in page["nodes"]]
        assert page["correctedSearch"] == "lantern"
        assert page["totalCount"] == 7
        assert page["facets"]["categories"] == [{"value": "even", "count": 4}, {"value": "odd", "count": 3}]
        cursor, more = page["pageInfo"]["endCursor"], page["pageInfo"]["hasNextPage"]
    assert sorted(seen) == [f"Lantern {n}" for n in range(7)]


async def test_two_pages_of_one_search_count_separately(shopper: Client) -> None:
    store = await store_with(shopper, "Lantern", "Lantern Two")
    cursor = (await search(shopper, store, "lanxern", first=1))["pageInfo"]["endCursor"]
    await make_product(shopper.database, store, title="Lanxern")
    query = """query($c: ID!, $after: String!) {
      old: products(configId: $c, search: "lanxern", after: $after) { totalCount facets { availability { count } } }
      new: products(configId: $c, search: "lanxern") { totalCount facets { availability { count } } } }"""
    found = await shopper.ask(query, c=store, after=cursor)
    assert {name: part["totalCount"] for name, part in found.items()} == {"old": 2, "new": 1}
    assert {name: part["facets"]["availability"] for name, part in found.items()} == {
        "old": [{"count": 2}],
        "new": [{"count": 1}],
    }


async def test_each_store_corrects_by_own_vocabulary(shopper: Client) -> None:
    for title in ("Lantern", "Lectern", "Nothing"):
        await store_with(shopper, title, title)
    query = '{ configs(first: 3) { nodes { products(search: "lentern") { nodes { title } correctedSearch } } } }'
    found = [store["products"] for store in (await shopper.ask(query))["configs"]["nodes"]]
    assert [part["correctedSearch"] for part in found] == [None, "lectern", "lantern"]
    assert [[node["title"] for node in part["nodes"]] for part in found] == [[], ["Lectern"] * 2, ["Lantern"] * 2]


async def test_more_stores_than_cached_are_corrected(shopper: Client) -> None:
    stores = [await store_with(shopper, "Lantern") for _ in range(4)]
    few = SpellingCorrector(max_stores=1)
    for asked in (stores[:1], stores[1:2], stores[:2], stores[1:]):
        assert {*await few._load_words(shopper.database, asked, Audience.SHOPPER)} == {*asked}


async def test_offset_pages_correct_typos(shopper: Client, lamps: str) -> None:
    query = """query($c: ID!) { searchProducts(input: {configId: $c, q: "spooon", limit: 1}) {
      products { title } pagination { total hasNext } } }"""
    found = (await shopper.ask(query, c=lamps))["searchProducts"]
    assert found["pagination"] == {"total": 2, "hasNext": True}
    assert len(found["products"]) == 1


async def test_suggestions_are_distinct_most_popular_first(shopper: Client) -> None:
    store = await store_with(
        shopper,
        {"title": "Lantern", "popularity": 1},
        {"title": "Lantern", "popularity": 3},
        {"title": "Large Lamp", "popularity": 9},
        {"title": "Ladder", "popularity": 2},
        {"title": "Lasso", "popularity": 50, "status": "archived"},
        {"title": "Rope", "popularity": 99},
    )

    async def suggest(prefix: str, **more: int) -> Any:
        found = (await shopper.ask(SUGGEST, c=store, p=prefix, **more))["config"]["predictiveSearch"]["suggestions"]
        return [suggestion["text"] for suggestion in found]

    assert await suggest("la") == ["Large Lamp", "Lantern", "Ladder"]
    assert await suggest("la", n=1) == ["Large Lamp"]
    assert await suggest("lanxe") == ["Lantern"]
    assert await suggest("lanx") == []
    assert await suggest("lamp lar") == ["Large Lamp"]
    assert await suggest("lass") != ["Lasso"]
    assert await suggest("") == []


async def test_successful_search_loads_no_vocabulary(shopper: Client, lamps: str) -> None:
    query = "query($c: ID!, $q: String!) { products(configId: $c, search: $q) { nodes { title } correctedSearch } }"
    with count_statements(shopper.database) as statements:
        await shopper.ask(query, c=lamps, q="lantern")
    assert len(statements) == 1


async def test_folding_is_equal_in_python_and_sql(shopper: Client) -> None:
    letters = [
        chr(n) for n in (*range(0x20, 0x180), *range(0x370, 0x530), *range(0x1E00, 0x2000)) if unicodedata.name(chr(n), "")
    ]
    samples = [*letters, *(f"A{letter}" for letter in letters), *(f"a{letter}b" for letter in letters)]
    statement = text("SELECT storefront_fold(sample) AS folded FROM unnest(:samples) WITH ORDINALITY AS s (sample, n) ORDER BY n")
    rows = await shopper.database.fetch(
        compile_statement(statement.bindparams(bindparam("samples", type_=ARRAY(TEXT)))), {"samples": samples}
    )
    assert {s: row.folded for s, row in zip(samples, rows, strict=True)} == {sample: fold_text(sample) for sample in samples}


def words_of(*words: str) -> StoreWords:
    return StoreWords(dict.fromkeys(words, 2), sorted(words))


def test_allowance_ends_corrections_of_one_operation() -> None:
    known = words_of("lantern", "wooden", *(f"w{n:05}" for n in range(998)))
    search_ = parse_search("lanxern woxden zzz")
    corrected = correct_search(search_, set(), known, CorrectionBudget())
    assert corrected is not None and corrected.search.text == "lantern wooden zzz"
    few = CorrectionBudget(1_500)
    corrected = correct_search(search_, set(), known, few)
    assert corrected is not None and corrected.search.text == "lantern woxden zzz"
    assert not few.spend_search(search_)
    assert correct_search(search_, set(), known, few) is None


def test_corrected_search_stays_within_limits() -> None:
    typed = " ".join(["lanx"] * 31 + ["x" * 45])
    assert correct_search(parse_search(typed), set(), words_of("lanterns" * 4), CorrectionBudget()) is None


async def test_operation_shares_one_allowance(shopper: Client) -> None:
    store = await store_with(shopper, "Lantern", "Lantern")
    # Searches of one text would be one search.
    searches = {f"x{n}": "lanxern" + " " * n for n in range(MAX_CORRECTED_SEARCHES + 3)}
    declared = ", ".join(f"${name}: String!" for name in searches)
    fields = " ".join(f"{name}: products(configId: $s, search: ${name}) {{ correctedSearch }}" for name in searches)
    with count_statements(shopper.database) as statements:
        found = await shopper.ask(f"query($s: ID!, {declared}) {{ {fields} }}", s=store, **searches)
    corrected = [one["correctedSearch"] for one in found.values()]
    assert sorted(corrected, key=str) == [None] * 3 + ["lantern"] * MAX_CORRECTED_SEARCHES
    # What is beyond the allowance is not looked for at all.
    assert sum("AS typed" in sql for sql in statements) == MAX_CORRECTED_SEARCHES
