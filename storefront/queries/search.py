"""What a searcher typed, as a Postgres text query: words, "phrases", -without, or, and a prefix on the last word."""

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import Boolean, ColumnElement, FromClause, Text, case, column, func
from sqlalchemy.dialects.postgresql import TSQUERY, TSVECTOR, array

from storefront.core.errors import InputTooLarge
from storefront.models import products

# One character may stand for 18 once it is folded (U+FDFA). What is written in Hangul has three for each.
MAX_CHARACTERS = 200
MAX_FOLDED_CHARACTERS = 600
MAX_WORDS = 32

_WORD_PATTERN = re.compile(r"\w+")
_TOKEN_PATTERN = re.compile(r'-?"[^"]*"?|\S+')
_FOLD_TABLE = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "ı": "i", "ß": "ss", "æ": "ae", "œ": "oe", "þ": "th", "ς": "σ"}
)
_COMBINING_MARKS = re.compile("[\u0300-\u036f]")
# In Postgres' notation: hyphens that stand before another one and exclude nothing. More than 32 of them are an error to it.
_REDUNDANT_HYPHENS = column(r"'(?<!\w)-[\s!&|()<]*(?=-)'", Text, is_literal=True)


def fold_text(text: str) -> str:
    """Lower case without accents: what `storefront_fold` makes of the text in SQL."""
    return _COMBINING_MARKS.sub("", unicodedata.normalize("NFKD", text)).lower().translate(_FOLD_TABLE)


def check_search_size(field: str, text: str) -> None:
    """Raise InputTooLarge for a search with too many characters, before or after it is folded, or too many words."""
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
    """A search split where the last word begins, which may be half typed.

    It finds `alternatives`, or `head` together with `tail` as a word or as the beginning of one.
    """

    text: str
    alternatives: str
    head: str
    tail: str

    @property
    def prefix(self) -> str:
        """The tail as a tsquery of its own; empty where it is not one plain word."""
        word = fold_text(self.tail)
        return f"{word}:*" if word.isalnum() else ""

    def list_plain_words(self) -> list[str]:
        """The plain words, which may be misspelt. Quoted and excluded ones are meant as they stand."""
        return [token for token in tokenize(self.text) if is_word(token)]

    def replace_words(self, corrections: dict[str, str]) -> "Search":
        """The same search with some of its words replaced."""
        return parse_search(" ".join(corrections.get(token, token) for token in tokenize(self.text)))


@lru_cache(1_000)
def parse_search(text: str) -> Search:
    """Split a search. Never fails: odd syntax means the words themselves, as search engines have taught people."""
    remaining_tokens = tokenize(text)
    tail = remaining_tokens.pop() if remaining_tokens and is_word(remaining_tokens[-1]) else ""
    last_or = max((n for n, token in enumerate(remaining_tokens) if token.lower() == "or"), default=-1)
    alternatives, head = remaining_tokens[: max(last_or, 0)], remaining_tokens[last_or + 1 :]
    return Search(text, " ".join(alternatives), " ".join(head), tail)


def tokenize(text: str) -> list[str]:
    """Words, phrases and exclusions, in order. NUL cannot stand in Postgres text and carries no meaning."""
    return _TOKEN_PATTERN.findall(text.replace("\0", " "))


def is_word(token: str) -> bool:
    """Whether the token is one bare word."""
    return token.isalnum() and token.lower() != "or"


SEARCH_COMPONENTS = ("alternatives", "head", "tail", "prefix")


def list_components(search: Search) -> tuple[str, ...]:
    """The parts that the search has. One that says nothing has an empty tail."""
    return tuple(component for component in SEARCH_COMPONENTS if getattr(search, component)) or ("tail",)


def build_tsquery(parent: FromClause) -> ColumnElement[Any]:
    """The text query of a row that has the parts of a search as columns. A part that is left out is not there, or empty."""

    def build_web_query(component: str) -> ColumnElement[Any]:
        folded = func.storefront_fold(parent.c[component])
        # The tail is a bare word.
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
        # Behind other words one that says nothing, such as "for", is not looked for, not even as the beginning of another.
        is_empty_tail = (func.numnode(component_queries["tail"]) == 0) & (func.numnode(component_queries["head"]) > 0)
        tail = case((is_empty_tail, component_queries["head"]), else_=combine(component_queries["head"], "&&", tail))
    branches = [
        query
        for query in (component_queries.get("alternatives"), component_queries.get("head") if tail is None else tail)
        if query is not None
    ]
    return branches[0] if len(branches) == 1 else combine(branches[0], "||", branches[1])


def restrict_to_store(store_id: ColumnElement[Any], query: ColumnElement[Any]) -> ColumnElement[Any]:
    """The text query as `finds` takes it, for the products of one store. One that says nothing would find all of them."""
    quote = _sql_literal("''")
    return query.op("&&", return_type=TSQUERY())((quote + store_id.cast(Text) + quote).cast(TSQUERY))


def is_match(query: ColumnElement[Any]) -> ColumnElement[bool]:
    """Whether a product has what a store's text query asks for: said as the index of words says it."""
    store_vector = func.array_to_tsvector(array([products.c.config_id.cast(Text)]), type_=TSVECTOR)
    search_vector: ColumnElement[Any] = products.c.search_vector.op("||", return_type=TSVECTOR())(store_vector)
    return search_vector.self_group().op("@@", return_type=Boolean())(query)


def _sql_literal(text: str) -> ColumnElement[str]:
    return column(f"'{text}'", Text, is_literal=True)


def _text_search_config(name: str) -> ColumnElement[str]:
    return column(f"'{name}'::regconfig", Text, is_literal=True)
