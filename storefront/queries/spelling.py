"""The words of each store's products, to mend searches that find nothing. Kept in the process, made anew when the store moves."""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from time import monotonic

from rapidfuzz import process
from rapidfuzz.distance import OSA
from sqlalchemy import Text, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from storefront.core.cache_dependencies import WITHIN, Named
from storefront.core.db.database import Database, Statement, compiled
from storefront.core.errors import InputTooLarge
from storefront.queries.configs import positions_of
from storefront.queries.listing import Found, Listing, Scope, Selection, pages
from storefront.queries.search import Search, check_size, fold
from storefront.queries.visibility import Audience

Counts = dict[str, int]

# A search that the store's words cannot mend is answered from words of up to this age: under constant writing, reading
# them anew at every typo would cost more than a new word's first seconds without its typos are worth. What a search
# finds is read from the tables in any case, so an old word shows nothing that has left view.
MOST_SECONDS = 5.0

# Words of a store, the most used ones. A comparison takes about 0.1 µs: what an operation may spend on its searches,
# however many words they have and stores they are about, is some 5 ms. The rest stays as it was typed.
MAX_WORDS = 10_000
MAX_COMPARISONS = 50_000
# Searches of an operation that are mended; each of them takes statements of its own.
MAX_MENDED_SEARCHES = 10
MIN_WORD_CHARACTERS, MAX_WORD_CHARACTERS = 3, 40

_WORDS = f"""
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

# A word that says nothing, such as "the", has no stem.
_STEMS = "SELECT word, (ts_lexize('english_stem', storefront_fold(word)))[1] AS stem FROM unnest(:words) AS word"


@dataclass(frozen=True, slots=True)
class Words:
    """The words of a store with the number of their uses, and the stems by which a search finds them."""

    uses: Counts
    stems: set[str]
    # In alphabetical order.
    ordered: list[str]

    def has_beginning(self, beginning: str) -> bool:
        """Whether a word begins like this."""
        at = bisect_left(self.ordered, beginning)
        return at < len(self.ordered) and self.ordered[at].startswith(beginning)


class Allowance:
    """The searches that one operation may have mended, and the comparisons of words for them.

    Once there are too few comparisons for a word there are none.
    """

    def __init__(self, comparisons: int = MAX_COMPARISONS, searches: int = MAX_MENDED_SEARCHES) -> None:
        self._left, self._searches = comparisons, searches

    def take_search(self) -> bool:
        """Take a search, if there is one left, and any comparisons for it."""
        if self._searches <= 0 or self._left <= 0:
            return False
        self._searches -= 1
        return True

    def take(self, comparisons: int) -> bool:
        """Take as many, if there are."""
        is_enough = comparisons <= self._left
        self._left = self._left - comparisons if is_enough else 0
        return is_enough


@dataclass(frozen=True, slots=True)
class _Kept:
    position: int
    read_at: float
    words: Words


class Vocabularies:
    """Words per store and audience, the `stores` most recently used ones."""

    def __init__(self, stores: int = 200) -> None:
        self._stores = stores
        self._kept: OrderedDict[tuple[str, Audience], _Kept] = OrderedDict()

    async def pages(self, database: Database, scopes: Sequence[Scope], listing: Listing, allowance: Allowance) -> list[Found]:
        """Pages of products; where the words as typed find nothing, of what they were probably meant to be."""
        found = await pages(database, scopes, listing)
        nothing = [f.scope for f in found if listing.selection.search and not f.page.rows and not listing.window.cursor]
        again = await self.mended(database, nothing, listing.selection, allowance)
        better = {f.scope.config_id: f for f in await pages(database, again, listing) if f.page.rows} if again else {}
        return [better.get(f.scope.config_id, f) for f in found]

    async def mended(
        self, database: Database, scopes: Sequence[Scope], selection: Selection, allowance: Allowance
    ) -> list[Scope]:
        """The scopes with misspelt words replaced by the store's own, less those whose store has none that are near."""
        if selection.search is None or not scopes or not allowance.take_search():
            return []
        words = await self._words(database, [scope.config_id for scope in scopes], selection.audience)
        stems = {row.word: row.stem for row in await database.fetch(_stems(), {"words": selection.search.words()})}
        searches = {config_id: mend(selection.search, stems, known, allowance) for config_id, known in words.items()}
        return [Scope(config_id, search) for config_id, search in searches.items() if search is not None]

    async def _words(self, database: Database, config_ids: Sequence[str], audience: Audience) -> dict[str, Words]:
        positions = dict(zip(config_ids, await positions_of(database, config_ids), strict=True))
        # Taken out before the rest is read: what is kept meanwhile may push them out.
        fresh = {c: self._kept[c, audience].words for c in config_ids if self._fresh((c, audience), positions[c])}
        stale = [c for c in config_ids if c not in fresh]
        if any(self._kept[c, audience].position != positions[c] for c in fresh):
            database.unrecorded()
        return fresh | (await self._read(database, stale, audience, positions) if stale else {})

    def _fresh(self, key: tuple[str, Audience], position: int) -> bool:
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
        return kept is not None and (kept.position == position or monotonic() - kept.read_at < MOST_SECONDS)

    async def _read(
        self, database: Database, config_ids: list[str], audience: Audience, positions: dict[str, int]
    ) -> dict[str, Words]:
        found = {config_id: Words({}, set(), []) for config_id in config_ids}
        everything = audience is Audience.OWNER
        for row in await database.fetch(_words(), {"ids": config_ids, "everything": everything}):
            found[row.config_id].uses[row.word] = row.uses
            found[row.config_id].stems.add(row.stem)
        for config_id, words in found.items():
            words.ordered.extend(sorted(words.uses))
            self._kept[config_id, audience] = _Kept(positions[config_id], monotonic(), words)
            self._kept.move_to_end((config_id, audience))
        while len(self._kept) > self._stores:
            self._kept.popitem(last=False)
        return found


@cache
def _words() -> Statement:
    return compiled(text(_WORDS).bindparams(bindparam("ids", type_=ARRAY(UUID)), bindparam("everything")), reads=Named("ids"))


@cache
def _stems() -> Statement:
    return compiled(text(_STEMS).bindparams(bindparam("words", type_=ARRAY(Text))), reads=WITHIN)


def mend(search: Search, stems: Mapping[str, str | None], known: Words, allowance: Allowance) -> Search | None:
    """The search with each wrong word replaced by the nearest known one; None where nothing is near."""
    folded = {word: fold(word) for word in search.words()}
    wrong = {word for word in folded if not _is_right(folded[word], stems[word], known)}
    wrong -= {search.tail} if search.tail in folded and known.has_beginning(folded[search.tail]) else set()
    # In their order: an allowance that ends is spent on the first ones.
    found = {word: nearest(folded[word], known.uses, allowance) for word in folded if word in wrong}
    corrections = {word: near for word, near in found.items() if near is not None}
    return _replaced(search, corrections) if corrections else None


def _replaced(search: Search, corrections: dict[str, str]) -> Search | None:
    corrected = search.replacing(corrections)
    try:
        check_size("search", corrected.text)
    except InputTooLarge:
        # A cursor has to hold it, and is checked like what was typed.
        return None
    return corrected


def _is_right(folded: str, stem: str | None, known: Words) -> bool:
    return stem is None or stem in known.stems or folded in known.uses


def nearest(word: str, uses: Counts, allowance: Allowance) -> str | None:
    """The known word within one edit (two from six letters on), the beginning of one otherwise; the more used the better."""
    if not MIN_WORD_CHARACTERS <= len(word) <= MAX_WORD_CHARACTERS + 2 or not allowance.take(len(uses)):
        return None
    edits = 1 if len(word) < 6 else 2
    whole = process.extract(word, uses.keys(), scorer=OSA.distance, score_cutoff=edits, limit=20)
    if whole:
        return min(whole, key=lambda match: (match[1], match[0][0] != word[0], -uses[match[0]], match[0]))[0]
    if not allowance.take(len(uses)):
        return None
    # Words that are no longer were compared whole.
    beginnings = {known: known[: len(word)] for known in uses if len(known) > len(word)}
    begun = process.extract(word, beginnings, scorer=OSA.distance, score_cutoff=1, limit=20)
    return min(begun, key=lambda match: (match[1], -uses[match[2]], match[2]))[2] if begun else None
