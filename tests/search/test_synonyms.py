"""Synonyms of a store: words that are searched for each other."""

from typing import Any

import pytest

from storefront.queries.search import MAX_REPLACED_KEYS
from tests.client import Client
from tests.factories import make_product, make_store
from tests.products.test_categories import sign_in_owner
from tests.products.test_search import SUGGEST, search

UPDATE = """mutation($i: UpdateSearchSettingsInput!) { updateSearchSettings(input: $i) {
  config { searchSettings { synonyms } } position userErrors { code path message } } }"""
SETTINGS = "query($s: ID!) { config(by: { id: $s }) { searchSettings { synonyms } } }"
LISTS = [["sofa", "Couch", "day bed"], ["T-Shirt", "tee"], ["ソファ", "長椅子"]]


async def make_owned_store(shopper: Client, *titles: str) -> tuple[Client, str]:
    store = await make_store(shopper.database)
    for title in titles:
        await make_product(shopper.database, store, title=title)
    return await sign_in_owner(shopper, store), store


async def update(owner: Client, store: str, synonyms: list[list[str]]) -> dict[str, Any]:
    return dict((await owner.ask(UPDATE, i={"configId": store, "synonyms": synonyms}))["updateSearchSettings"])


async def test_synonyms_are_searched_for_each_other_at_once(shopper: Client) -> None:
    titles = "Red Sofa", "Blue Couch", "Oak Day Bed", "Plain T-Shirt", "Striped Tee", "Red Lamp", "白いソファ", "白い長椅子"
    owner, store = await make_owned_store(shopper, *titles)
    sofas = {"Red Sofa", "Blue Couch", "Oak Day Bed"}
    expected = {
        "sofa": sofas,
        "couches": sofas,
        "COUCH": sofas,
        "day bed": sofas,
        "red couch": {"Red Sofa"},
        "couch red": {"Red Sofa"},
        "sofa couch day bed": sofas,
        "couch -sofa": {"Blue Couch", "Oak Day Bed"},
        '"couch"': {"Blue Couch"},
        "couch or lamp": {*sofas, "Red Lamp"},
        "tee": {"Plain T-Shirt", "Striped Tee"},
        "t shirt": {"Plain T-Shirt", "Striped Tee"},
        "t-shirts": {"Plain T-Shirt", "Striped Tee"},
        "plain tee": {"Plain T-Shirt"},
        "sof": {"Red Sofa"},
        "ソファ": {"白いソファ", "白い長椅子"},
        "lamp": {"Red Lamp"},
    }
    assert (await search(shopper, store, "red couch"))["nodes"] == []
    assert (await update(owner, store, LISTS))["position"] == "1"
    found = {typed: {node["title"] for node in (await search(shopper, store, typed))["nodes"]} for typed in expected}
    assert found == expected
    suggested = (await shopper.ask(SUGGEST, c=store, p="couch"))["config"]["predictiveSearch"]["suggestions"]
    assert {one["text"] for one in suggested} == sofas
    # Each store has its own.
    _, other = await make_owned_store(shopper, "Red Sofa")
    assert (await search(shopper, other, "couch"))["nodes"] == []
    await update(owner, store, [])
    assert (await search(shopper, store, "red couch"))["nodes"] == []


async def test_searches_for_all_synonyms_of_a_list_stay_small(shopper: Client) -> None:
    words = [f"word{letter}" for letter in "abcdefghij"]
    owner, store = await make_owned_store(shopper, "Worda")
    await update(owner, store, [words])
    for count, titles in ((MAX_REPLACED_KEYS, ["Worda"]), (MAX_REPLACED_KEYS + 1, [])):
        found = await search(shopper, store, " ".join(words[:count]))
        assert [node["title"] for node in found["nodes"]] == titles


async def test_owner_reads_and_replaces_synonyms(shopper: Client) -> None:
    owner, store = await make_owned_store(shopper)
    assert (await owner.ask(SETTINGS, s=store))["config"]["searchSettings"] == {"synonyms": []}
    first = await update(owner, store, LISTS)
    assert (first["config"]["searchSettings"], first["position"]) == ({"synonyms": LISTS}, "1")
    assert (await update(owner, store, LISTS))["position"] is None
    assert (await update(owner, store, LISTS[1:]))["position"] == "2"
    assert (await owner.ask(SETTINGS, s=store))["config"]["searchSettings"] == {"synonyms": LISTS[1:]}
    assert (await shopper.ask(SETTINGS, s=store))["config"]["searchSettings"] is None


@pytest.mark.parametrize(
    ("synonyms", "path"),
    [
        ([["sofa"]], ["synonyms", "0"]),
        ([["sofa", "couch"], []], ["synonyms", "1"]),
        ([["sofa", "couch"], ["settee", "Couches"]], ["synonyms", "1", "1"]),
        ([["sofa", "-"]], ["synonyms", "0", "1"]),
        ([["sofa", "a very big couch"]], ["synonyms", "0", "1"]),
        ([["sofa", "c++ couch"]], ["synonyms", "0", "1"]),
        ([["sofa", ""]], ["synonyms", "0", "1"]),
        ([[f"word{letter}" for letter in "abcdefghijk"]], ["synonyms", "0"]),
    ],
)
async def test_invalid_synonyms_are_refused(shopper: Client, synonyms: list[list[str]], path: list[str]) -> None:
    owner, store = await make_owned_store(shopper)
    payload = await update(owner, store, synonyms)
    assert [(one["code"], one["path"]) for one in payload["userErrors"]] == [("INVALID_INPUT", path)]
    assert (payload["config"], payload["position"]) == (None, None)
