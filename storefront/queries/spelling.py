"""Spelling correction for searches without results, from the words of each store's products.

The words are cached in the process, and read again after the store's log has moved.
"""

import gzip
from bisect import bisect_left
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from itertools import groupby
from time import monotonic

from cachetools import LRUCache
from rapidfuzz import process
from rapidfuzz.distance import OSA
from sqlalchemy import Text, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY

from storefront.core.db.database import Database, Statement, compile_statement
from storefront.core.errors import InputTooLarge
from storefront.core.search_words import STOP_WORDS
from storefront.models.product import STORE_SEARCH_VECTOR_SQL
from storefront.models.row_keys import (
    IN_STORES_SQL,
    bind_store_type,
    build_store_parameters,
    build_store_sql,
    depend_on_stores,
    have_single_store,
)
from storefront.queries.configs import load_log_positions
from storefront.queries.listing import Listing, ScopedPage, Selection, StoreScope, load_pages
from storefront.queries.search import Search, build_word_query, check_search_size, fold_text
from storefront.queries.visibility import Audience

WordCounts = dict[str, int]

# The cached words may be this old even if the store has changed: under constant writes, reading them at every typo would cost
# too much. Results always come from the tables, so an outdated word reveals nothing that is no longer visible.
MAX_WORDS_AGE_SECONDS = 5.0

# Words of a store, the most used ones. A comparison takes about 0.1 µs: an operation may spend some 5 ms on corrections, for any
# number of words and stores. Words beyond this budget stay as typed.
MAX_WORDS = 10_000
MAX_COMPARISONS = 50_000
# Searches corrected per operation; each takes statements of its own.
MAX_CORRECTED_SEARCHES = 5
MIN_WORD_CHARACTERS, MAX_WORD_CHARACTERS = 3, 40
# What a correction needs that is more than a guess: so many products with the word, and letters in the typed word, unless two
# neighbours of these changed places.
MIN_USES, MIN_CORRECTED_CHARACTERS = 2, 5

_WORDS_SQL = f"""
SELECT config_id, word, uses
FROM (
  SELECT config_id, word, count(DISTINCT id) AS uses,
         row_number() OVER (PARTITION BY config_id ORDER BY count(DISTINCT id) DESC, word) AS rank
  FROM products, regexp_split_to_table(storefront_fold(concat_ws(
    ' ', title, vendor, product_type, category, tags::text, jsonb_path_query_array(options, '$[*].values[*].value')::text)),
    '[^[:alnum:]]+') AS word
  WHERE {IN_STORES_SQL} AND (status = 'active' OR :everything)
    AND length(word) BETWEEN {MIN_WORD_CHARACTERS} AND {MAX_WORD_CHARACTERS}
  GROUP BY config_id, word
) AS ranked
WHERE rank <= {MAX_WORDS}
"""


def _build_known_words_sql(is_single_store: bool) -> str:
    """Which typed words the products of a store have anywhere: found by the index, each on its own."""
    store, stores = (":config_id", "") if is_single_store else ("parent.id", "unnest(:config_ids) AS parent (id), ")
    return f"""
SELECT CAST({store} AS uuid) AS config_id, typed.word FROM {stores}unnest(:words, :queries) AS typed (word, query)
WHERE EXISTS (
  SELECT FROM products WHERE (products.config_id = {store} AND (status = 'active' OR :everything)) IS TRUE
    AND {STORE_SEARCH_VECTOR_SQL} @@ (typed.query::tsquery && quote_literal(CAST({store} AS text))::tsquery)
)
"""


# Common words of English, each on a line between line ends: what is spelt like one is not a typo, but absent. Extracted from the
# frequency dictionary of SymSpell (MIT license), which has those of Google's n-grams that are in SCOWL.
_ENGLISH_WORDS_FILE = "english_words.txt.gz"


@dataclass(frozen=True, slots=True)
class StoreWords:
    """The words of a store with their numbers of uses."""

    use_counts: WordCounts
    # In alphabetical order.
    sorted_words: list[str]

    def has_word_with_prefix(self, prefix: str) -> bool:
        """Whether a word has this prefix."""
        index = bisect_left(self.sorted_words, prefix)
        return index < len(self.sorted_words) and self.sorted_words[index].startswith(prefix)


class CorrectionBudget:
    """The budget of one operation: searches to correct, and word comparisons for them.

    A word that needs more comparisons than are left ends the budget.
    """

    def __init__(self, comparisons: int = MAX_COMPARISONS, searches: int = MAX_CORRECTED_SEARCHES) -> None:
        self._comparisons_left, self._max_searches = comparisons, searches
        self._searches: set[Search] = set()

    def spend_search(self, search: Search) -> bool:
        """Spend a search, once however often it is corrected. False if no search or no comparison is left."""
        if self._comparisons_left <= 0:
            return False
        if search not in self._searches:
            if len(self._searches) >= self._max_searches:
                return False
            self._searches.add(search)
        return True

    def spend_comparisons(self, comparisons: int) -> bool:
        """Spend comparisons. False, and none are left, if there are too few."""
        is_enough = comparisons <= self._comparisons_left
        self._comparisons_left = self._comparisons_left - comparisons if is_enough else 0
        return is_enough


def _choose_page(typed_page: ScopedPage, corrected: ScopedPage | None) -> ScopedPage:
    if corrected is None:
        return typed_page
    return replace(typed_page, scope=corrected.scope.offer_correction()) if corrected.scope.is_guess else corrected


@dataclass(frozen=True, slots=True)
class _CachedWords:
    position: int
    read_at: float
    words: StoreWords


def _get_scope_key(scope: StoreScope) -> tuple[str, str | None]:
    return scope.config_id, scope.category


class SpellingCorrector:
    """Corrects searches. Caches words per store and audience, for the `max_stores` most recently used ones (LRU)."""

    def __init__(self, max_stores: int = 200) -> None:
        self._cache: LRUCache[tuple[str, Audience], _CachedWords] = LRUCache(max_stores)

    async def load_pages(
        self, database: Database, scopes: Sequence[StoreScope], listing: Listing, budget: CorrectionBudget
    ) -> list[ScopedPage]:
        """Pages of products; a search without results is run again with corrected words."""
        typed_pages = await load_pages(database, scopes, listing)
        empty_scopes = [
            scoped_page.scope
            for scoped_page in typed_pages
            if listing.selection.search and not scoped_page.page.rows and not listing.window.cursor
        ]
        corrected_scopes = await self.correct_scopes(database, empty_scopes, listing.selection, budget)
        corrected_pages = {
            _get_scope_key(corrected.scope): corrected
            for corrected in (await load_pages(database, corrected_scopes, listing) if corrected_scopes else ())
            if corrected.page.rows
        }
        return [_choose_page(typed_page, corrected_pages.get(_get_scope_key(typed_page.scope))) for typed_page in typed_pages]

    async def correct_scopes(
        self, database: Database, scopes: Sequence[StoreScope], selection: Selection, budget: CorrectionBudget
    ) -> list[StoreScope]:
        """The scopes with misspelt words replaced by the store's own, or guesses; scopes without a correction are left out."""
        if selection.search is None or not scopes or not budget.spend_search(selection.search):
            return []
        search, config_ids = selection.search, [*dict.fromkeys(scope.config_id for scope in scopes)]
        words_by_store = await self._load_words(database, config_ids, selection.audience)
        known_words = await _load_known_words(database, config_ids, selection.audience, search.list_plain_words())
        corrections = {
            config_id: correct_search(search, known_words[config_id], store_words, budget)
            for config_id, store_words in words_by_store.items()
        }
        return [
            replace(scope, corrected_search=correction.search, is_guess=correction.is_guess)
            for scope in scopes
            if (correction := corrections.get(scope.config_id)) is not None
        ]

    async def _load_words(self, database: Database, config_ids: Sequence[str], audience: Audience) -> dict[str, StoreWords]:
        position_by_store = dict(zip(config_ids, await load_log_positions(database, config_ids), strict=True))
        # Taken before the stale ones are read: those may evict them.
        fresh_words = {
            config_id: self._cache[config_id, audience].words
            for config_id in config_ids
            if self._is_fresh((config_id, audience), position_by_store[config_id])
        }
        stale_ids = [config_id for config_id in config_ids if config_id not in fresh_words]
        if any(self._cache[config_id, audience].position != position_by_store[config_id] for config_id in fresh_words):
            database.mark_uncacheable()
        return fresh_words | (await self._read_words(database, stale_ids, audience, position_by_store) if stale_ids else {})

    def _is_fresh(self, key: tuple[str, Audience], position: int) -> bool:
        cached = self._cache.get(key)
        return cached is not None and (cached.position == position or monotonic() - cached.read_at < MAX_WORDS_AGE_SECONDS)

    async def _read_words(
        self, database: Database, config_ids: list[str], audience: Audience, position_by_store: dict[str, int]
    ) -> dict[str, StoreWords]:
        words_by_store = {config_id: StoreWords({}, []) for config_id in config_ids}
        everything = audience is Audience.OWNER
        parameters = {**build_store_parameters(config_ids), "everything": everything}
        for row in await database.fetch(_select_words(have_single_store(config_ids)), parameters):
            words_by_store[row.config_id].use_counts[row.word] = row.uses
        for config_id, words in words_by_store.items():
            words.sorted_words.extend(sorted(words.use_counts))
            self._cache[config_id, audience] = _CachedWords(position_by_store[config_id], monotonic(), words)
        return words_by_store


@cache
def _select_words(is_single_store: bool) -> Statement:
    sql = text(build_store_sql(_WORDS_SQL, is_single_store))
    return compile_statement(sql.bindparams(bind_store_type(is_single_store)), depends_on=depend_on_stores(is_single_store))


async def _load_known_words(
    database: Database, config_ids: Sequence[str], audience: Audience, words: Sequence[str]
) -> dict[str, set[str]]:
    """Which of these words visible products of each store have, in any field."""
    known_words: dict[str, set[str]] = {config_id: set() for config_id in config_ids}
    parameters = {
        **build_store_parameters(config_ids),
        "words": [*words],
        "queries": [build_word_query(word) for word in words],
        "everything": audience is Audience.OWNER,
    }
    for row in await database.fetch(_select_known_words(have_single_store(config_ids)), parameters):
        known_words[row.config_id].add(row.word)
    return known_words


@cache
def _select_known_words(is_single_store: bool) -> Statement:
    lists = (bindparam(name, type_=ARRAY(Text)) for name in ("words", "queries"))
    sql = text(_build_known_words_sql(is_single_store)).bindparams(bind_store_type(is_single_store), *lists)
    return compile_statement(sql, depends_on=depend_on_stores(is_single_store))


@dataclass(frozen=True, slots=True)
class Correction:
    """A search with corrected words. `is_guess`: the typed words may be right, so it is offered, but not run instead."""

    search: Search
    is_guess: bool


def correct_search(search: Search, known_words: Set[str], store_words: StoreWords, budget: CorrectionBudget) -> Correction | None:
    """The search with each misspelt word replaced by the nearest word of the store; None without a correction.

    A word is misspelt if the store has it nowhere and English neither.
    """
    folded = {word: fold_text(word) for word in search.list_plain_words()}
    misspelt = [word for word in folded if word not in known_words and not is_english(folded[word])]
    if search.tail in misspelt and store_words.has_word_with_prefix(folded[search.tail]):
        misspelt.remove(search.tail)
    # In order: the budget goes to the first words.
    candidates = CorrectionCandidates(store_words.use_counts)
    replacements = {word: find_nearest_word(folded[word], candidates, budget) for word in misspelt}
    guesses = {word: replacement for word, replacement in replacements.items() if replacement is not None}
    corrections = {
        word: replacement
        for word, replacement in guesses.items()
        if store_words.use_counts[replacement] >= MIN_USES and _is_long_enough(folded[word], replacement)
    }
    corrected = _replace_words(search, corrections or guesses) if guesses else None
    return Correction(corrected, is_guess=not corrections) if corrected else None


def is_english(folded: str) -> bool:
    """Whether this is a common English word."""
    return folded in STOP_WORDS or f"\n{folded}\n" in _load_english_words().get(folded[:2], "")


@cache
def _load_english_words() -> dict[str, str]:
    """The lines of the words by their first two letters. As a set of strings they would take ten times the memory."""
    lines = gzip.decompress(files(__package__).joinpath(_ENGLISH_WORDS_FILE).read_bytes()).decode().split()
    return {start: "\n".join(("", *words, "")) for start, words in groupby(lines, lambda word: word[:2])}


def _is_long_enough(typed: str, replacement: str) -> bool:
    return len(typed) >= MIN_CORRECTED_CHARACTERS or sorted(typed) == sorted(replacement)


def _replace_words(search: Search, corrections: dict[str, str]) -> Search | None:
    corrected = search.replace_words(corrections)
    try:
        check_search_size("search", corrected.text)
    except InputTooLarge:
        # Cursors hold the corrected search, under the same limits as a typed one.
        return None
    return corrected


class CorrectionCandidates:
    """The words of a store as candidates for a correction, and their prefixes, which are built once per length."""

    def __init__(self, use_counts: WordCounts) -> None:
        self.use_counts = use_counts
        self._prefixes_by_length: dict[int, Mapping[str, str]] = {}

    def get_prefixes(self, length: int) -> Mapping[str, str]:
        """The prefixes of this length, by the word: of all words that are longer."""
        prefixes = self._prefixes_by_length.get(length)
        if prefixes is None:
            longer_words = (word for word in self.use_counts if len(word) > length)
            prefixes = self._prefixes_by_length[length] = {word: word[:length] for word in longer_words}
        return prefixes


def find_nearest_word(word: str, candidates: CorrectionCandidates, budget: CorrectionBudget) -> str | None:
    """The nearest known word: one edit away (two from six letters on), else by prefix; ties go to the more used word."""
    use_counts = candidates.use_counts
    if not MIN_WORD_CHARACTERS <= len(word) <= MAX_WORD_CHARACTERS + 2 or not budget.spend_comparisons(len(use_counts)):
        return None
    max_edits = 1 if len(word) < 6 else 2
    whole_matches = process.extract(word, use_counts.keys(), scorer=OSA.distance, score_cutoff=max_edits, limit=20)
    if whole_matches:
        return min(whole_matches, key=lambda match: (match[1], match[0][0] != word[0], -use_counts[match[0]], match[0]))[0]
    if not budget.spend_comparisons(len(use_counts)):
        return None
    # Words of this length or shorter were compared whole above.
    prefix_matches = process.extract(word, candidates.get_prefixes(len(word)), scorer=OSA.distance, score_cutoff=1, limit=20)
    return min(prefix_matches, key=lambda match: (match[1], -use_counts[match[2]], match[2]))[2] if prefix_matches else None
