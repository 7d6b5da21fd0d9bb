"""How well searches rank: nDCG@10 of the judged searches of the tests, beside what a shop gets without a search of its own."""

import asyncio
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from math import log2
from pathlib import Path
from statistics import fmean

from psycopg.rows import tuple_row

from benchmarks.imports import new_store
from benchmarks.report import Cell, Table
from storefront.core.db import migrations
from storefront.core.db.database import Database
from storefront.core.db.embedded_postgres import embedded_postgres
from storefront.imports.product_writer import import_products
from storefront.imports.shopify.csv_file import read_csv_products
from storefront.queries.keyset import Window
from storefront.queries.listing import Listing, Order, Selection, StoreScope
from storefront.queries.search import parse_search
from storefront.queries.spelling import CorrectionBudget, SpellingCorrector
from storefront.queries.visibility import Audience
from tests.search.judgements import LANGUAGES, Judgement, open_catalogue, read_judgements

# Full-text search as the documentation of Postgres has it.
FULL_TEXT = """
SELECT title FROM products, websearch_to_tsquery('english', %(search)s) AS query,
  to_tsvector('english', concat_ws(' ', title, vendor, product_type, category, tags::text, description)) AS document
WHERE config_id = %(store)s AND document @@ query ORDER BY ts_rank(document, query) DESC, id DESC LIMIT 10
"""
# The search as a part of the text, the newest first.
LIKE = """
SELECT title FROM products WHERE config_id = %(store)s AND (title ILIKE %(part)s OR description ILIKE %(part)s)
ORDER BY id DESC LIMIT 10
"""


def measure() -> Iterator[Table]:
    """nDCG@10 by language: of searches as shoppers have them, of websearch_to_tsquery, and of LIKE."""
    folder = Path(tempfile.mkdtemp(prefix="storefront-"))
    try:
        with embedded_postgres(folder) as url:
            migrations.migrate(url)
            gains = asyncio.run(_measure_gains(url))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    rows = [_build_row(language, gains[language]) for language in LANGUAGES]
    rows.append(_build_row("**all**", [of for language in LANGUAGES for of in gains[language]]))
    columns = "language", "searches", "nDCG@10", "websearch_to_tsquery", "LIKE"
    yield Table(
        "relevance", "Relevance", columns, rows, "1 is the best possible order of the judged products, 0 finds none of them."
    )


def _build_row(name: str, gains: Sequence[Sequence[float]]) -> list[Cell]:
    return [name, len(gains), *(fmean(column) for column in zip(*gains, strict=True))]


async def _measure_gains(url: str) -> dict[str, list[list[float]]]:
    gains: dict[str, list[list[float]]] = {language: [] for language in LANGUAGES}
    async with Database(url, size=2) as database:
        stores = {language: await _import_catalogue(database, language) for language in LANGUAGES}
        corrector = SpellingCorrector()
        for judgement in read_judgements():
            if judgement.first:
                store = stores[judgement.language]
                rankings = (
                    await _search(database, corrector, store, judgement.search),
                    *[await _select(database, sql, store, judgement.search) for sql in (FULL_TEXT, LIKE)],
                )
                gains[judgement.language].append([_compute_ndcg(titles, judgement) for titles in rankings])
    return gains


def _compute_ndcg(titles: Sequence[str], judgement: Judgement) -> float:
    gain = sum(1 / log2(place + 2) for place, title in enumerate(titles) if title in judgement.first)
    return gain / sum(1 / log2(place + 2) for place in range(len(judgement.first)))


async def _search(database: Database, corrector: SpellingCorrector, store: str, search: str) -> list[str]:
    selection = Selection(Audience.OWNER, search=parse_search(search))
    listing = Listing(selection, Order("relevance", descending=True), Window(10))
    [found] = await corrector.load_pages(database, [StoreScope(store)], listing, CorrectionBudget())
    return [row.title for row in found.page.rows]


async def _select(database: Database, sql: str, store: str, search: str) -> list[str]:
    async with database.transaction() as connection:
        cursor = connection.raw.cursor(row_factory=tuple_row)
        parameters = {"store": store, "search": search, "part": f"%{search}%"}
        return [title for (title,) in await (await cursor.execute(sql.encode(), parameters)).fetchall()]


async def _import_catalogue(database: Database, language: str) -> str:
    store = await new_store(database)
    with open_catalogue(language) as file:
        await import_products(database, store, read_csv_products(file, f"{language}.csv"))
    return store
