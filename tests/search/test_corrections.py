"""Corrections help with typos, and leave words alone that people mean."""

import random
import string
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest_asyncio

from storefront.core.search_words import fold_spelling, split_chunks
from storefront.demo.plan import build_plan
from storefront.queries.listing import Selection, StoreScope
from storefront.queries.search import parse_search
from storefront.queries.spelling import CorrectionBudget, SpellingCorrector, is_english
from storefront.queries.visibility import Audience
from tests.client import Client
from tests.factories import make_store, make_user
from tests.products.test_search import search

CREATE = """mutation($i: BulkCreateProductsInput!) { bulkCreateProducts(input: $i) { userErrors { message } } }"""
TYPOS = 300


@pytest_asyncio.fixture(scope="module")
async def demo(shopper: Client) -> tuple[str, list[str]]:
    """A store with the products of the biggest demo store, and their titles."""
    plan = build_plan(800, 0, datetime(2026, 11, 22, tzinfo=UTC), "http://127.0.0.1")
    titles = [product.title for product in plan.products if product.store.rank == 0][:250]
    user = await make_user(shopper.database)
    store = await make_store(shopper.database, user_id=user)
    rows = [{"title": title, "price": "5"} for title in titles]
    answer = await shopper.signed_in(user).ask(CREATE, i={"configId": store, "rows": rows, "errorPolicy": "ALL_OR_NOTHING"})
    assert answer["bulkCreateProducts"]["userErrors"] == []
    return store, titles


def list_words(title: str) -> Iterator[str]:
    for chunk in split_chunks(fold_spelling(title)):
        yield from chunk.words


def plant_typo(word: str, chance: random.Random) -> str:
    """The word with two letters exchanged, or one left out, added or replaced; the first letter stays."""
    place = chance.randrange(1, len(word) - 1)
    letter = chance.choice(string.ascii_lowercase)
    before, after = word[:place], word[place:]
    return chance.choice(
        (before + after[1] + after[0] + after[2:], before + after[1:], before + letter + after, before + letter + after[1:])
    )


async def correct(client: Client, corrector: SpellingCorrector, store: str, word: str) -> StoreScope | None:
    selection = Selection(Audience.SHOPPER, search=parse_search(word))
    scopes = await corrector.correct_scopes(client.database, [StoreScope(store)], selection, CorrectionBudget())
    return scopes[0] if scopes else None


async def test_planted_typos_are_found(shopper: Client, demo: tuple[str, list[str]]) -> None:
    store, titles = demo
    known = [word for title in titles for word in {*list_words(title)}]
    frequent = sorted({word for word in known if len(word) >= 5 and word.isascii() and known.count(word) > 1})
    chance, corrector, lost, count = random.Random(5), SpellingCorrector(), list[tuple[str, str]](), 0
    while count < TYPOS:
        word = chance.choice(frequent)
        typo = plant_typo(word, chance)
        if len(typo) < 5 or typo in known or is_english(typo) or any(other.startswith(typo) for other in known):
            continue
        count += 1
        scope = await correct(shopper, corrector, store, typo)
        if scope is None or scope.is_guess or scope.corrected_search is None or scope.corrected_search.text != word:
            lost.append((word, typo))
    assert len(lost) <= 0.05 * TYPOS, lost


async def test_absent_words_are_not_corrected(shopper: Client, demo: tuple[str, list[str]]) -> None:
    store, titles = demo
    known = {word for title in titles for word in list_words(title)}
    words = [*dict.fromkeys((Path(__file__).parent / "absent_words.txt").read_text().split())]
    absent = [word for word in words if word not in known]
    assert len(absent) >= 300
    corrector, corrected = SpellingCorrector(), dict[str, str]()
    for word in absent:
        scope = await correct(shopper, corrector, store, word)
        if scope and not scope.is_guess and scope.corrected_search:
            corrected[word] = scope.corrected_search.text
    assert len(corrected) <= 0.03 * len(absent), corrected


async def test_short_words_are_corrected_only_if_letters_changed_places(shopper: Client) -> None:
    user = await make_user(shopper.database)
    store = await make_store(shopper.database, user_id=user)
    rows: list[dict[str, Any]] = [{"title": f"{name} mug", "price": "5"} for name in ("Qarz", "Qarz", "Vexil", "Vexil", "Zorbul")]
    answer = await shopper.signed_in(user).ask(CREATE, i={"configId": store, "rows": rows, "errorPolicy": "ALL_OR_NOTHING"})
    assert answer["bulkCreateProducts"]["userErrors"] == []
    found = {word: await search(shopper, store, word) for word in ("qraz", "qarx", "vexxil", "zorbil")}
    outcome = {word: (page["correctedSearch"], page["didYouMean"], page["totalCount"]) for word, page in found.items()}
    assert outcome == {
        "qraz": ("qarz", None, 2),
        # Four letters.
        "qarx": (None, "qarz", 0),
        "vexxil": ("vexil", None, 2),
        # Only one product has the word.
        "zorbil": (None, "zorbul", 0),
    }
