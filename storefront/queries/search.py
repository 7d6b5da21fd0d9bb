"""Search text as a Postgres tsquery: words, "phrases", -exclusions, or, and a prefix match on the last word."""

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import Boolean, ColumnElement, FromClause, Text, case, column, func
from sqlalchemy.dialects.postgresql import TSQUERY, TSVECTOR, array

from storefront.core.errors import InputTooLarge
from storefront.models import products

# Folding may expand a character to 18 (U+FDFA), and a Hangul syllable to three.
MAX_CHARACTERS = 200
MAX_FOLDED_CHARACTERS = 600
MAX_WORDS = 32

_WORD_PATTERN = re.compile(r"\w+")
_TOKEN_PATTERN = re.compile(r'-?"[^"]*"?|\S+')
_FOLD_TABLE = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "ı": "i", "ß": "ss", "æ": "ae", "œ": "oe", "þ": "th", "ς": "σ"}
)
_COMBINING_MARKS = re.compile("[\u0300-\u036f]")
# A Postgres regex: hyphens before another hyphen, which exclude nothing. Postgres fails on more than 32 of them.
_REDUNDANT_HYPHENS = column(r"'(?<!\w)-[\s!&|()<]*(?=-)'", Text, is_literal=True)


def fold_text(text: str) -> str:
    """Lower case without accents, as `storefront_fold` in SQL."""
    return _COMBINING_MARKS.sub("", unicodedata.normalize("NFKD", text)).lower().translate(_FOLD_TABLE)


def check_search_size(field: str, text: str) -> None:
    """Raises InputTooLarge for a search with too many characters (before or after folding) or words."""
    if len(text) > MAX_CHARACTERS:
        raise InputTooLarge(field, "characters", MAX_CHARACTERS, len(text))
    folded = fold_text(text)
    if len(folded) > MAX_FOLDED_CHARACTERS:
        raise InputTooLarge(field, "folded characters", MAX_FOLDED_CHARACTERS, len(folded))
    words = len(_WORD_PATTERN.findall(folded))
    if words > MAX_WORDS:
        raise InputTooLarge(field, "words", MAX_WORDS, words)


@dataclass(frozen=True, slots=True)
class Search:
    """A search split before its last word, which may be incomplete.

    It matches `alternatives`, or `head` and `tail`, where the tail is a word or a prefix.
    """

    text: str
    alternatives: str
    head: str
    tail: str

    @property
    def prefix(self) -> str:
        """The tail as a prefix tsquery; empty unless it is one plain word."""
        word = fold_text(self.tail)
        return f"{word}:*" if word.isalnum() else ""

    def list_plain_words(self) -> list[str]:
        """The plain words, which may be misspelt. Quoted and excluded words are not corrected."""
        return [token for token in tokenize(self.text) if is_word(token)]

    def replace_words(self, corrections: dict[str, str]) -> "Search":
        """The same search with some of its words replaced."""
        return parse_search(" ".join(corrections.get(token, token) for token in tokenize(self.text)))


@lru_cache(1_000)
def parse_search(text: str) -> Search:
    """Parse a search. Never raises: invalid syntax is read as words, as in web search engines."""
    remaining_tokens = tokenize(text)
    tail = remaining_tokens.pop() if remaining_tokens and is_word(remaining_tokens[-1]) else ""
    last_or = max((n for n, token in enumerate(remaining_tokens) if token.lower() == "or"), default=-1)
    alternatives, head = remaining_tokens[: max(last_or, 0)], remaining_tokens[last_or + 1 :]
    return Search(text, " ".join(alternatives), " ".join(head), tail)


def tokenize(text: str) -> list[str]:
    """Words, phrases and exclusions, in order. NUL is replaced: Postgres text cannot hold it."""
    return _TOKEN_PATTERN.findall(text.replace("\0", " "))


def is_word(token: str) -> bool:
    """Whether the token is one bare word."""
    return token.isalnum() and token.lower() != "or"


SEARCH_COMPONENTS = ("alternatives", "head", "tail", "prefix")


def list_components(search: Search) -> tuple[str, ...]:
    """The non-empty components of a search; of an empty search, the tail."""
    return tuple(component for component in SEARCH_COMPONENTS if getattr(search, component)) or ("tail",)


def build_tsquery(parent: FromClause) -> ColumnElement[Any]:
    """The tsquery of a row with search components as columns. Absent and empty components are ignored."""

    def build_web_query(component: str) -> ColumnElement[Any]:
        folded = func.storefront_fold(parent.c[component])
        # The tail is a bare word without hyphens.
        cleaned = (
            folded
            if component == "tail"
            else func.regexp_replace(folded, _REDUNDANT_HYPHENS, _sql_literal(""), _sql_literal("g"))
        )
        return func.websearch_to_tsquery(_text_search_config("english"), cleaned, type_=TSQUERY)

    def combine(left: ColumnElement[Any], operator: str, right: ColumnElement[Any]) -> ColumnElement[Any]:
        return left.op(operator, return_type=TSQUERY())(right.self_group())

    component_queries = {component: build_web_query(component) for component in SEARCH_COMPONENTS[:3] if component in parent.c}
    tail = component_queries.get("tail")
    if tail is not None and "prefix" in parent.c:
        tail = combine(tail, "||", func.to_tsquery(_text_search_config("simple"), parent.c.prefix, type_=TSQUERY))
    if tail is not None and "head" in component_queries:
        # After other words, a stop word such as "for" is ignored, also as a prefix.
        is_empty_tail = (func.numnode(component_queries["tail"]) == 0) & (func.numnode(component_queries["head"]) > 0)
        tail = case((is_empty_tail, component_queries["head"]), else_=combine(component_queries["head"], "&&", tail))
    branches = [
        query
        for query in (component_queries.get("alternatives"), component_queries.get("head") if tail is None else tail)
        if query is not None
    ]
    return branches[0] if len(branches) == 1 else combine(branches[0], "||", branches[1])


def restrict_to_store(store_id: ColumnElement[Any], query: ColumnElement[Any]) -> ColumnElement[Any]:
    """The tsquery restricted to one store, for `is_match`. An empty tsquery would match all products of the store."""
    quote = _sql_literal("''")
    return query.op("&&", return_type=TSQUERY())((quote + store_id.cast(Text) + quote).cast(TSQUERY))


def is_match(query: ColumnElement[Any]) -> ColumnElement[bool]:
    """Whether a product matches a store's tsquery, in the expression of the full-text index."""
    store_vector = func.array_to_tsvector(array([products.c.config_id.cast(Text)]), type_=TSVECTOR)
    search_vector: ColumnElement[Any] = products.c.search_vector.op("||", return_type=TSVECTOR())(store_vector)
    return search_vector.self_group().op("@@", return_type=Boolean())(query)


def _sql_literal(text: str) -> ColumnElement[str]:
    return column(f"'{text}'", Text, is_literal=True)


def _text_search_config(name: str) -> ColumnElement[str]:
    return column(f"'{name}'::regconfig", Text, is_literal=True)
