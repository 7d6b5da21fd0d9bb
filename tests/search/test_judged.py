"""Judged searches hold: what people search for is among the first five products, in any language."""

import asyncio

import pytest_asyncio

from storefront.imports.product_writer import import_products
from storefront.imports.shopify.csv_file import read_csv_products
from tests.client import Client
from tests.factories import make_store
from tests.search.judgements import LANGUAGES, Judgement, open_catalogue, read_judgements

MIN_SHARE = 0.97

SEARCH = "query($c: ID!, $q: String!) { products(configId: $c, search: $q, first: 50) { nodes { title } } }"


@pytest_asyncio.fixture(scope="module")
async def stores(shopper: Client) -> dict[str, str]:
    """A store for each catalogue."""
    made = {}
    for language in LANGUAGES:
        made[language] = await make_store(shopper.database)
        with open_catalogue(language) as file:
            summary = await import_products(shopper.database, made[language], read_csv_products(file, f"{language}.csv"))
        assert summary.created > 5 and not summary.row_errors
    return made


async def test_judged_searches_hold(shopper: Client, stores: dict[str, str]) -> None:
    judgements = list(read_judgements())
    assert len(judgements) >= 400 and len(LANGUAGES) >= 12
    few = asyncio.Semaphore(8)

    async def find_fault(judgement: Judgement) -> str | None:
        async with few:
            answer = await shopper.ask(SEARCH, c=stores[judgement.language], q=judgement.search)
        found = [node["title"] for node in answer["products"]["nodes"]]
        if judgement.first <= {*found[:5]} and judgement.absent.isdisjoint(found):
            return None
        return f"{judgement.language}: {judgement.search!r} finds {found}"

    faults = [fault for fault in await asyncio.gather(*map(find_fault, judgements)) if fault]
    assert len(faults) <= len(judgements) * (1 - MIN_SHARE), "\n".join([f"{len(faults)} of {len(judgements)}", *faults])
