"""Search text as Postgres tsqueries: words, "phrases", -exclusions, or, and a prefix match on the last word.

Words are split as those of documents (`storefront/core/search_words.py`, `storefront/models/search_document.py`).
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

from sqlalchemy import Boolean, ColumnElement, Double, FromClause, Select, Text, case, column, func, literal_column, select
from sqlalchemy.dialects.postgresql import TSQUERY, TSVECTOR, array

from storefront.core.errors import InputTooLarge
from storefront.core.handles import PLAIN_LATIN_LETTERS
from storefront.core.search_words import (
    STOP_WORDS,
    Chunk,
    count_words,
    fold_spelling,
    is_unspaced,
    list_pairs,
    split_chunks,
    stem,
)
from storefront.models import products, search_synonyms
from storefront.models.search_document import DESCRIPTION_MARK, MAX_SHORT_CHARACTERS, TITLE_WEIGHT, build_exact_lexeme

# Folding may expand a character to 18 (U+FDFA), and a Hangul syllable to three.
MAX_CHARACTERS = 200
MAX_FOLDED_CHARACTERS = 600
MAX_WORDS = 32
# A half-typed word of fewer characters is not looked for in descriptions, where it begins too many words.
MIN_DESCRIPTION_PREFIX = 3
# A run of a script without spaces is several words. The only run of a search may be found in two parts, if it is not longer.
MAX_SPLIT_RUN = 12

# The first words of a search have synonyms, each up to ten: of all words, a tsquery with synonyms would have hundreds.
MAX_REPLACED_KEYS = 8

_TOKEN_PATTERN = re.compile(r'-?"[^"]*"?|\S+')
_FOLD_TABLE = str.maketrans({**PLAIN_LATIN_LETTERS, "ς": "σ"})
# In names such as R & B.
_SPACED_AMPERSAND = re.compile(r"(?<=(?<!\S)[^\W\d_]) & (?=[^\W\d_](?!\S))")
_QUOTES = str.maketrans(dict.fromkeys("“”„‟«»＂", '"') | {"\0": " "})
_COMBINING_MARKS = re.compile("[\u0300-\u036f]")
_HANGUL = re.compile("[\u1100-\u11ff]")
# What lexemes of descriptions and of other fields begin with.
MARKS = ("", DESCRIPTION_MARK)
# Of tags and the like, codes and option values, titles, and what equals the search. So far apart that several words that begin
# like a half-typed one do not outweigh a title, and all words of a title not what equals the search.
_WEIGHTS_SQL = "'{0.02,0.06,0.15,1}'::real[]"


def fold_text(text: str) -> str:
    """Lower case without accents, as `storefront_fold` in SQL."""
    return _COMBINING_MARKS.sub("", unicodedata.normalize("NFKD", text)).lower().translate(_FOLD_TABLE)


def check_search_size(field: str, text: str) -> None:
    """Raises InputTooLarge for a search with too many characters (before or after folding) or words."""
    if len(text) > MAX_CHARACTERS:
        raise InputTooLarge(field, "characters", MAX_CHARACTERS, len(text))
    folded = unicodedata.normalize("NFKD", text)
    if len(folded) > MAX_FOLDED_CHARACTERS:
        raise InputTooLarge(field, "folded characters", MAX_FOLDED_CHARACTERS, len(folded))
    words = count_words(fold_spelling(text))
    if words > MAX_WORDS:
        raise InputTooLarge(field, "words", MAX_WORDS, words)


@dataclass(frozen=True, slots=True)
class Search:
    """A search as tsqueries: what matches, what ranks the matches, and what titles match.

    Each is empty without words, and matches nothing.
    """

    text: str
    # Not part of the identity that cursors have.
    query: str = field(repr=False)
    ranking: str = field(repr=False)
    title_query: str = field(repr=False)
    # What the index finds titles by: it would read each document to know in which field a word is.
    title_candidates: str = field(repr=False)
    # The keys of its words, separated by spaces: those whose synonyms are searched, too.
    words: str = field(repr=False)

    def match_titles(self) -> "Search":
        """The search of titles: `query` finds what has the words anywhere but in descriptions, `ranking` those of titles."""
        return replace(self, query=self.title_candidates, ranking=self.title_query)

    def list_plain_words(self) -> list[str]:
        """The plain words, which may be misspelt. Quoted and excluded words are not corrected."""
        return [token for token in tokenize(self.text) if is_word(token)]

    @property
    def tail(self) -> str:
        """The last word, which may be incomplete; empty unless it is one plain word."""
        tokens = tokenize(self.text)
        return tokens[-1] if tokens and is_word(tokens[-1]) else ""

    def replace_words(self, corrections: dict[str, str]) -> "Search":
        """The same search with some of its words replaced."""
        return parse_search(" ".join(corrections.get(token, token) for token in tokenize(self.text)))


def tokenize(text: str) -> list[str]:
    """Words, phrases and exclusions, in order. NUL is replaced: Postgres text cannot hold it."""
    return _TOKEN_PATTERN.findall(_SPACED_AMPERSAND.sub("&", text.translate(_QUOTES)))


def is_word(token: str) -> bool:
    """Whether the token is one bare word."""
    return token.isalnum() and token.lower() != "or"


def build_word_query(word: str) -> str:
    """The tsquery of a whole word, in any field."""
    return _build_phrase([*split_chunks(fold_spelling(word))])


@lru_cache(1_000)
def parse_search(text: str) -> Search:
    """Parse a search. Never raises: invalid syntax is read as words, as in web search engines."""
    tokens = tokenize(text)
    groups = [_Group()]
    for n, token in enumerate(tokens):
        if token.lower() == "or":
            groups.append(_Group())
        else:
            groups[-1].add_token(token, is_last=n == len(tokens) - 1)
    groups = [group for group in groups if group.included or group.phrases or group.excluded]
    has_one_run = sum(is_unspaced(word) for group in groups for chunk, _ in group.included for word in chunk.words) == 1
    matched = _combine("|", (group.build_query(splits_runs=has_one_run) for group in groups))
    is_plain = len(groups) == 1 and not groups[0].excluded
    exact = quote_lexeme(build_exact_lexeme(split_chunks(fold_spelling(text)))) if is_plain else ""
    return Search(
        text,
        query=_combine("|", (matched, exact)),
        ranking=_combine("|", (exact, *(operand for group in groups for operand in group.list_ranked()))),
        title_query=_combine("|", (group.build_title_query(TITLE_WEIGHT) for group in groups)),
        title_candidates=_combine("|", (group.build_title_query() for group in groups)),
        words=" ".join([*dict.fromkeys(key for group in groups for key in group.list_word_keys())][:MAX_REPLACED_KEYS]),
    )


def build_name_matcher(search: Search) -> Callable[[str], bool]:
    """A function that tells whether a name has all words of a search, of which the last may be a beginning."""
    tokens = [token for token in tokenize(search.text) if not token.startswith("-") and token.lower() != "or"]
    chunks = [chunk for token in tokens for chunk in split_chunks(fold_spelling(token))]
    wanted = [chunk for chunk in chunks if not _is_stop_word(chunk)] or chunks

    def has_words(name: str) -> bool:
        words = _list_name_words(name)
        return bool(wanted) and all(_has_chunk(words, chunk, chunk is wanted[-1]) for chunk in wanted)

    return has_words


@lru_cache(5_000)
def _list_name_words(name: str) -> frozenset[str]:
    chunks = [*split_chunks(fold_spelling(name))]
    words = {word for chunk in chunks for word in (*chunk.words, chunk.joined) if word}
    return frozenset(words | {stem(word) for word in words})


def _has_chunk(words: frozenset[str], chunk: Chunk, is_half_typed: bool) -> bool:
    def has_word(word: str, is_beginning: bool) -> bool:
        if is_unspaced(word):
            return any(word in other for other in words)
        return word in words or stem(word) in words or (is_beginning and any(other.startswith(word) for other in words))

    *heads, last = chunk.words
    is_joined = bool(chunk.joined) and has_word(chunk.joined, is_half_typed)
    return is_joined or (all(has_word(word, False) for word in heads) and has_word(last, is_half_typed))


@dataclass(slots=True)
class _Group:
    """The words between two `or`: chunks with whether they are half typed, phrases, and exclusions."""

    included: list[tuple[Chunk, bool]] = field(default_factory=list)
    phrases: list[list[Chunk]] = field(default_factory=list)
    excluded: list[list[Chunk]] = field(default_factory=list)

    def add_token(self, token: str, *, is_last: bool) -> None:
        """Add a word, a phrase or an exclusion."""
        is_excluded = token.startswith("-") and len(token) > 1
        chunks = list(split_chunks(fold_spelling(token)))
        if not chunks:
            return
        if is_excluded:
            self.excluded.append(chunks)
        elif token.startswith('"'):
            self.phrases.append(chunks)
        else:
            self.included += [(chunk, is_last and chunk is chunks[-1]) for chunk in chunks]

    def build_query(self, *, splits_runs: bool) -> str:
        """The tsquery of what matches all words and no exclusion."""
        words = self._drop_stop_words()
        return self._add_phrases(
            [
                _combine("|", (*_build_chunk(chunk, is_half_typed, splits_runs), *self._build_joined_words(words, n)))
                for n, (chunk, is_half_typed) in enumerate(words)
            ]
        )

    def build_title_query(self, weight: str = "") -> str:
        """The tsquery of titles that match: of each word a beginning, if it is the last one.

        Without a weight, a short beginning is left to the title where there is another word: it would find half of the store.
        """
        words = self._drop_stop_words()
        if not weight and len(words) > 1:
            words = [(chunk, is_half_typed) for chunk, is_half_typed in words if not (is_half_typed and _is_short(chunk))]
        alternatives = (_build_chunk(chunk, is_half_typed, False, weight, [""]) for chunk, is_half_typed in words)
        return self._add_phrases([_combine("|", operands) for operands in alternatives], weight, [""])

    def _add_phrases(self, clauses: list[str], weight: str = "", marks: Sequence[str] = MARKS) -> str:
        clauses += [_build_phrase(chunks, weight, marks) for chunks in self.phrases]
        clauses += [f"!{_build_phrase(chunks)}" for chunks in self.excluded]
        return _combine("&", clauses)

    def list_ranked(self) -> Iterable[str]:
        """The operands that rank a match: its words."""
        for chunk, is_half_typed in (*self._drop_stop_words(), *((chunk, False) for phrase in self.phrases for chunk in phrase)):
            for word in (*chunk.words, *([chunk.joined] if chunk.joined else [])):
                lexemes = list_pairs(word) or [word] if is_unspaced(word) else [stem(word) if not chunk.is_symbol else word]
                yield from map(quote_lexeme, lexemes)
                if is_half_typed and not is_unspaced(word):
                    yield quote_lexeme(word, "*")

    def list_word_keys(self) -> Iterable[str]:
        """The keys of the words, and of each with the next one. Phrases and exclusions have no synonyms."""
        chunks = [chunk for chunk, _ in self._drop_stop_words()]
        yield from (build_word_key([chunk]) for chunk in chunks)
        yield from (build_word_key(pair) for pair in pairwise(chunks))

    def _drop_stop_words(self) -> list[tuple[Chunk, bool]]:
        """The words without stop words, unless there are no others."""
        words = [(chunk, is_half_typed) for chunk, is_half_typed in self.included if not _is_stop_word(chunk)]
        return words if words or self.phrases else self.included

    def _build_joined_words(self, words: Sequence[tuple[Chunk, bool]], n: int) -> Iterable[str]:
        """The word as one with its left and its right neighbour: `t shirt` finds `tshirt`."""
        for first, second in ((n - 1, n), (n, n + 1)):
            if first < 0 or second >= len(words):
                continue
            (left, _), (right, is_half_typed) = words[first], words[second]
            if any(len(chunk.words) > 1 or chunk.is_symbol or is_unspaced(chunk.words[0]) for chunk in (left, right)):
                continue
            word = left.words[0] + right.words[0]
            yield quote_lexeme(word, "*") if is_half_typed else quote_lexeme(stem(word))
            if min(len(left.words[0]), len(right.words[0])) <= MAX_SHORT_CHARACTERS:
                yield quote_lexeme(DESCRIPTION_MARK + stem(word))


def build_word_key(chunks: Iterable[Chunk]) -> str:
    """The key of a word, or of several that are written as one, by which synonyms are found; plurals have the same."""
    return stem("".join(word for chunk in chunks for word in chunk.words))


def _is_short(chunk: Chunk) -> bool:
    return 0 < len(chunk.plain) <= MAX_SHORT_CHARACTERS


def _is_stop_word(chunk: Chunk) -> bool:
    return len(chunk.words) == 1 and chunk.words[0] in STOP_WORDS


def _build_chunk(
    chunk: Chunk, is_half_typed: bool, splits_runs: bool, weight: str = "", marks: Sequence[str] = MARKS
) -> list[str]:
    """The alternatives of a chunk: as one word and as several, in descriptions and elsewhere."""
    alternatives = list[str]()
    for mark in marks:
        if any(is_unspaced(word) for word in chunk.words):
            parts = [
                _build_run(word, mark, weight, splits_runs)
                if is_unspaced(word)
                else _combine("|", _build_word(word, mark, weight, False))
                for word in chunk.words
            ]
            alternatives.append(_combine("&", parts))
            continue
        if chunk.joined:
            alternatives += _build_word(chunk.joined, mark, weight, is_half_typed)
        if len(chunk.words) == 1:
            alternatives += _build_word(chunk.words[0], mark, weight, is_half_typed, is_symbol=chunk.is_symbol)
        else:
            *heads, last = chunk.words
            parts = [quote_lexeme(mark + stem(word), weight) for word in heads]
            parts.append(_combine("|", _build_word(last, mark, weight, is_half_typed)))
            alternatives.append(f"({' <-> '.join(parts)})")
    return alternatives


def _build_word(word: str, mark: str, weight: str, is_half_typed: bool, *, is_symbol: bool = False) -> list[str]:
    """A word and, if it is half typed, the words that it begins. Korean words have endings: they are beginnings always."""
    stemmed = word if is_symbol else stem(word)
    is_prefix = (is_half_typed and not (mark and len(word) < MIN_DESCRIPTION_PREFIX)) or _HANGUL.match(word) is not None
    if not is_prefix:
        return [quote_lexeme(mark + stemmed, weight)]
    prefix = quote_lexeme(mark + word, f"{weight}*")
    return [prefix] if word == stemmed else [quote_lexeme(mark + stemmed, weight), prefix]


def _build_run(run: str, mark: str, weight: str, splits: bool) -> str:
    """A run of a script without spaces: its pairs in order. It may be two words that stand apart in the product."""
    if len(run) == 1:
        return quote_lexeme(mark + run, f"{weight}*")
    pairs = [quote_lexeme(mark + pair, weight) for pair in list_pairs(run)]
    if not (splits and 4 <= len(run) <= MAX_SPLIT_RUN):
        return f"({' <-> '.join(pairs)})"
    # The pair at the split is of both words.
    halves = ((pairs[: n - 1], pairs[n:]) for n in range(2, len(run) - 1))
    return _combine("|", (f"(({' <-> '.join(first)}) & ({' <-> '.join(second)}))" for first, second in halves))


def _build_phrase(chunks: Sequence[Chunk], weight: str = "", marks: Sequence[str] = MARKS) -> str:
    """Chunks one after the other, as of documents. A single chunk may be written as one word, too."""
    if len(chunks) == 1:
        return _combine("|", _build_chunk(chunks[0], False, False, weight, marks))
    return _combine("|", (_build_sequence(chunks, mark, weight) for mark in marks))


def _build_sequence(chunks: Sequence[Chunk], mark: str, weight: str) -> str:
    placed, position = list[tuple[int, str]](), 0
    for chunk in chunks:
        for word in chunk.words:
            if is_unspaced(word):
                placed += [(position + n, pair) for n, pair in enumerate(list_pairs(word) or [word])]
                position += len(word)
            else:
                # Descriptions have no stop words.
                if not (mark and _is_stop_word(chunk)):
                    placed.append((position, word if chunk.is_symbol else stem(word)))
                position += 1
    if not placed:
        return ""
    sequence = quote_lexeme(mark + placed[0][1], weight)
    for (former, _), (place, lexeme) in pairwise(placed):
        sequence += f" <{place - former}> {quote_lexeme(mark + lexeme, weight)}"
    return f"({sequence})"


def quote_lexeme(lexeme: str, flags: str = "") -> str:
    """An operand of a tsquery. No lexeme has a quote or backslash."""
    return f"'{lexeme}'{':' if flags else ''}{flags}" if lexeme else ""


def _combine(operator: str, operands: Iterable[str]) -> str:
    """Operands joined with an operator, in parentheses if there are several. Empty ones are left out."""
    unique = [*dict.fromkeys(operand for operand in operands if operand)]
    return unique[0] if len(unique) == 1 else f"({f' {operator} '.join(unique)})" if unique else ""


@dataclass(frozen=True, slots=True)
class SynonymRules:
    """The rules of a word: its operands are replaced by markers, and these by the operands with their synonyms."""

    word: str
    targets: list[str]
    markers: list[str]
    replaced_markers: list[str]
    replacements: list[str]


# As searches have operands: with and without the mark of descriptions, of titles alone, whole and half typed.
_OPERAND_FORMS = ("", ""), (DESCRIPTION_MARK, ""), ("", TITLE_WEIGHT)
MAX_SYNONYM_WORDS = 2


def split_synonym(text: str) -> list[Chunk]:
    """The words of a synonym, of which there may be MAX_SYNONYM_WORDS."""
    return [*split_chunks(fold_spelling(text))]


def build_synonym_rules(synonyms: Sequence[Sequence[Chunk]]) -> list[SynonymRules]:
    """The rules of each word of a list of synonyms."""
    alternatives = {
        (mark, weight): [_build_phrase(chunks, weight, [mark]) for chunks in synonyms] for mark, weight in _OPERAND_FORMS
    }
    return [_build_rules(chunks, alternatives) for chunks in synonyms]


def _build_rules(chunks: Sequence[Chunk], alternatives: Mapping[tuple[str, str], Sequence[str]]) -> SynonymRules:
    rules = SynonymRules(build_word_key(chunks), [], [], [], [])
    for (mark, weight), synonyms in alternatives.items():
        for is_half_typed in (False, True):
            operands = _list_operands(chunks, mark, weight, is_half_typed)
            marker = quote_lexeme(f"%{mark}{weight}{int(is_half_typed)}{rules.word}")
            targets = [target for target in operands if target not in rules.targets]
            rules.targets.extend(targets)
            rules.markers.extend(marker for _ in targets)
            rules.replaced_markers.append(marker)
            rules.replacements.append(_combine("|", (*operands, *synonyms)))
    return rules


def _list_operands(chunks: Sequence[Chunk], mark: str, weight: str, is_half_typed: bool) -> list[str]:
    """The operands of a word in the tsquery of a search; of two words, those of both as one."""
    if len(chunks) == 1:
        return _build_chunk(chunks[0], is_half_typed, False, weight, [mark])
    return _build_word("".join(chunk.plain for chunk in chunks), mark, weight, is_half_typed)


# The components of a Search that a statement needs, the last only to rank; and the columns of its tsqueries.
SEARCH_COMPONENTS = ("query", "words", "ranking")
_TSQUERY_NAMES = {name: f"{name}_tsquery" for name in ("query", "ranking")}
QUERY_COLUMN, _RANKING_COLUMN = (column(name, TSQUERY) for name in _TSQUERY_NAMES.values())
# Rules that replace the operands of typed words: the first ones by markers, and then these by all synonyms. So a synonym that
# was put in is not replaced again.
_RULES_SQL = """SELECT rule.target, rule.replacement FROM (
  SELECT config_id, word, 1 AS step, unnest(targets), unnest(markers) FROM search_synonyms UNION ALL
  SELECT config_id, word, 2, unnest(replaced_markers), unnest(replacements) FROM search_synonyms
) AS rule (config_id, word, step, target, replacement)
WHERE rule.config_id = %L AND rule.word = ANY (string_to_array(%L, ' ')) ORDER BY rule.step"""


def parse_tsqueries(parent: FromClause, components: Sequence[str], store: ColumnElement[Any]) -> FromClause:
    """The tsqueries of these components of a parent row's search, with the synonyms of its store."""
    has_synonyms: Select[Any] = (
        select(literal_column("1")).select_from(search_synonyms).where(search_synonyms.c.config_id == store)
    )
    rules = func.format(_sql_literal(_RULES_SQL.replace("'", "''")), store, parent.c.words)

    def add_synonyms(query: ColumnElement[Any]) -> ColumnElement[Any]:
        is_needed = has_synonyms.correlate_except(search_synonyms).exists()
        return case((is_needed, func.ts_rewrite(query, rules, type_=TSQUERY())), else_=query)

    tsqueries = (
        add_synonyms(parent.c[name].cast(TSQUERY)).label(column_name)
        for name, column_name in _TSQUERY_NAMES.items()
        if name in components
    )
    # OFFSET 0 is an optimization fence: the tsqueries are parsed once, not for the rank of every row.
    return select(*tsqueries).correlate(parent).offset(0).lateral("searched")


def restrict_to_store(store_id: ColumnElement[Any], query: ColumnElement[Any]) -> ColumnElement[Any]:
    """The tsquery restricted to one store, for `is_match`. An empty tsquery would match all products of the store."""
    quote = _sql_literal("''")
    return query.op("&&", return_type=TSQUERY())((quote + store_id.cast(Text) + quote).cast(TSQUERY))


def is_match(query: ColumnElement[Any]) -> ColumnElement[bool]:
    """Whether a product matches a store's tsquery, in the expression of the full-text index."""
    store_vector = func.array_to_tsvector(array([products.c.config_id.cast(Text)]), type_=TSVECTOR)
    search_vector: ColumnElement[Any] = products.c.search_vector.op("||", return_type=TSVECTOR())(store_vector)
    return search_vector.self_group().op("@@", return_type=Boolean())(query)


def has_ranked_words(search_vector: ColumnElement[Any]) -> ColumnElement[bool]:
    """Whether a product matches the tsquery that ranks."""
    return search_vector.op("@@", return_type=Boolean())(_RANKING_COLUMN)


def build_relevance() -> ColumnElement[Any]:
    """The relevance of a product: by the fields that have the words."""
    return func.ts_rank(literal_column(_WEIGHTS_SQL), products.c.search_vector, _RANKING_COLUMN).cast(Double)


def _sql_literal(text: str) -> ColumnElement[str]:
    return column(f"'{text}'", Text, is_literal=True)
