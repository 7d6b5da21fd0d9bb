"""Spelling correction for searches without results, from the words of each store's products.

The words are cached in the process, and read again after the store's log has moved.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from time import monotonic

from cachetools import LRUCache
from rapidfuzz import process
from rapidfuzz.distance import OSA
from sqlalchemy import Text, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from storefront.core.cache_dependencies import INHERITED_DEPENDENCY, ParameterDependency
from storefront.core.db.database import Database, Statement, compile_statement
from storefront.core.errors import InputTooLarge
from storefront.queries.configs import load_log_positions
from storefront.queries.listing import Listing, ScopedPage, Selection, StoreScope, load_pages
from storefront.queries.search import Search, check_search_size, fold_text
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

_WORDS_SQL = f"""
SELECT config_id, word, uses, (ts_lexize('english_stem', word))[1] AS stem
FROM (
  SELECT config_id, word, count(*) AS uses,
         row_number() OVER (PARTITION BY config_id ORDER BY count(*) DESC, word) AS rank
  FROM products,
       regexp_split_to_table(sort_title || ' ' || storefront_fold(concat_ws(' ', category, tags::text)), '[^[:alnum:]]+') AS word
  WHERE config_id = ANY(:ids) AND (status = 'active' OR :everything)
    AND length(word) BETWEEN {MIN_WORD_CHARACTERS} AND {MAX_WORD_CHARACTERS}
  GROUP BY config_id, word
) AS ranked
WHERE rank <= {MAX_WORDS}
"""

# A stop word such as "the" has no stem.
_STEMS_SQL = "SELECT word, (ts_lexize('english_stem', storefront_fold(word)))[1] AS stem FROM unnest(:words) AS word"


@dataclass(frozen=True, slots=True)
class StoreWords:
    """The words of a store with their numbers of uses, and their stems."""

    use_counts: WordCounts
    stems: set[str]
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
        self._comparisons_left, self._searches_left = comparisons, searches

    def spend_search(self) -> bool:
        """Spend a search. False if no search or no comparison is left."""
        if self._searches_left <= 0 or self._comparisons_left <= 0:
            return False
        self._searches_left -= 1
        return True

    def spend_comparisons(self, comparisons: int) -> bool:
        """Spend comparisons. False, and none are left, if there are too few."""
        is_enough = comparisons <= self._comparisons_left
        self._comparisons_left = self._comparisons_left - comparisons if is_enough else 0
        return is_enough


@dataclass(frozen=True, slots=True)
class _CachedWords:
    position: int
    read_at: float
    words: StoreWords


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
        corrected_pages = (
            {
                scoped_page.scope.config_id: scoped_page
                for scoped_page in await load_pages(database, corrected_scopes, listing)
                if scoped_page.page.rows
            }
            if corrected_scopes
            else {}
        )
        return [corrected_pages.get(scoped_page.scope.config_id, scoped_page) for scoped_page in typed_pages]

    async def correct_scopes(
        self, database: Database, scopes: Sequence[StoreScope], selection: Selection, budget: CorrectionBudget
    ) -> list[StoreScope]:
        """The scopes with misspelt words replaced by the store's own; scopes without a correction are left out."""
        if selection.search is None or not scopes or not budget.spend_search():
            return []
        words_by_store = await self._load_words(database, [scope.config_id for scope in scopes], selection.audience)
        stem_by_word = {
            row.word: row.stem for row in await database.fetch(_select_stems(), {"words": selection.search.list_plain_words()})
        }
        searches = {
            config_id: correct_search(selection.search, stem_by_word, store_words, budget)
            for config_id, store_words in words_by_store.items()
        }
        return [StoreScope(config_id, search) for config_id, search in searches.items() if search is not None]

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
        words_by_store = {config_id: StoreWords({}, set(), []) for config_id in config_ids}
        everything = audience is Audience.OWNER
        for row in await database.fetch(_select_words(), {"ids": config_ids, "everything": everything}):
            words_by_store[row.config_id].use_counts[row.word] = row.uses
            words_by_store[row.config_id].stems.add(row.stem)
        for config_id, words in words_by_store.items():
            words.sorted_words.extend(sorted(words.use_counts))
            self._cache[config_id, audience] = _CachedWords(position_by_store[config_id], monotonic(), words)
        return words_by_store


@cache
def _select_words() -> Statement:
    return compile_statement(
        text(_WORDS_SQL).bindparams(bindparam("ids", type_=ARRAY(UUID)), bindparam("everything")),
        depends_on=ParameterDependency("ids"),
    )


@cache
def _select_stems() -> Statement:
    return compile_statement(text(_STEMS_SQL).bindparams(bindparam("words", type_=ARRAY(Text))), depends_on=INHERITED_DEPENDENCY)


def correct_search(
    search: Search, stem_by_word: Mapping[str, str | None], store_words: StoreWords, budget: CorrectionBudget
) -> Search | None:
    """The search with each misspelt word replaced by the nearest known one; None without a correction."""
    folded = {word: fold_text(word) for word in search.list_plain_words()}
    misspelt = {word for word in folded if not _is_spelt_correctly(folded[word], stem_by_word[word], store_words)}
    misspelt -= {search.tail} if search.tail in folded and store_words.has_word_with_prefix(folded[search.tail]) else set()
    # In order: the budget goes to the first words.
    candidates = CorrectionCandidates(store_words.use_counts)
    replacements = {word: find_nearest_word(folded[word], candidates, budget) for word in folded if word in misspelt}
    corrections = {word: replacement for word, replacement in replacements.items() if replacement is not None}
    return _replace_words(search, corrections) if corrections else None


def _replace_words(search: Search, corrections: dict[str, str]) -> Search | None:
    corrected = search.replace_words(corrections)
    try:
        check_search_size("search", corrected.text)
    except InputTooLarge:
        # Cursors hold the corrected search, under the same limits as a typed one.
        return None
    return corrected


def _is_spelt_correctly(folded: str, stem: str | None, store_words: StoreWords) -> bool:
    return stem is None or stem in store_words.stems or folded in store_words.use_counts


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
