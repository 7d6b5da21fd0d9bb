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

_WORD = re.compile(r"\w+")
_TOKEN = re.compile(r'-?"[^"]*"?|\S+')
_FOLDED = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ð": "d", "ı": "i", "ß": "ss", "æ": "ae", "œ": "oe", "þ": "th", "ς": "σ"})
_MARKS = re.compile("[\u0300-\u036f]")
# In Postgres' notation: hyphens that stand before another one and exclude nothing. More than 32 of them are an error to it.
_IDLE_HYPHENS = column(r"'(?<!\w)-[\s!&|()<]*(?=-)'", Text, is_literal=True)


def fold(text: str) -> str:
    """Lower case without accents: what `storefront_fold` makes of the text in SQL."""
    return _MARKS.sub("", unicodedata.normalize("NFKD", text)).lower().translate(_FOLDED)


def check_size(field: str, text: str) -> None:
    """Raise InputTooLarge for a search with too many characters, before or after it is folded, or too many words."""
    if len(text) > MAX_CHARACTERS:
        raise InputTooLarge(field, "characters", MAX_CHARACTERS, len(text))
    folded = fold(text)
    if len(folded) > MAX_FOLDED_CHARACTERS:
        raise InputTooLarge(field, "folded characters", MAX_FOLDED_CHARACTERS, len(folded))
    words = len(_WORD.findall(folded))
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
        word = fold(self.tail)
        return f"{word}:*" if word.isalnum() else ""

    def words(self) -> list[str]:
        """The plain words, which may be misspelt. Quoted and excluded ones are meant as they stand."""
        return [token for token in tokens(self.text) if is_word(token)]

    def replacing(self, corrections: dict[str, str]) -> "Search":
        """The same search with some of its words replaced."""
        return parse(" ".join(corrections.get(token, token) for token in tokens(self.text)))


@lru_cache(1_000)
def parse(text: str) -> Search:
    """Split a search. Never fails: odd syntax means the words themselves, as search engines have taught people."""
    parts = tokens(text)
    tail = parts.pop() if parts and is_word(parts[-1]) else ""
    last_or = max((n for n, token in enumerate(parts) if token.lower() == "or"), default=-1)
    alternatives, head = parts[: max(last_or, 0)], parts[last_or + 1 :]
    return Search(text, " ".join(alternatives), " ".join(head), tail)


def tokens(text: str) -> list[str]:
    """Words, phrases and exclusions, in order. NUL cannot stand in Postgres text and carries no meaning."""
    return _TOKEN.findall(text.replace("\0", " "))


def is_word(token: str) -> bool:
    """Whether the token is one bare word."""
    return token.isalnum() and token.lower() != "or"


PARTS = ("alternatives", "head", "tail", "prefix")


def parts(search: Search) -> tuple[str, ...]:
    """The parts that the search has. One that says nothing has an empty tail."""
    return tuple(part for part in PARTS if getattr(search, part)) or ("tail",)


def tsquery(parent: FromClause) -> ColumnElement[Any]:
    """The text query of a row that has the parts of a search as columns. A part that is left out is not there, or empty."""

    def web(part: str) -> ColumnElement[Any]:
        folded = func.storefront_fold(parent.c[part])
        # The tail is a bare word.
        plain = folded if part == "tail" else func.regexp_replace(folded, _IDLE_HYPHENS, _literal(""), _literal("g"))
        return func.websearch_to_tsquery(_config("english"), plain, type_=TSQUERY)

    def both(one: ColumnElement[Any], operator: str, other: ColumnElement[Any]) -> ColumnElement[Any]:
        return one.op(operator, return_type=TSQUERY())(other.self_group())

    there = {part: web(part) for part in PARTS[:3] if part in parent.c}
    tail = there.get("tail")
    if tail is not None and "prefix" in parent.c:
        tail = both(tail, "||", func.to_tsquery(_config("simple"), parent.c.prefix, type_=TSQUERY))
    if tail is not None and "head" in there:
        # Behind other words one that says nothing, such as "for", is not looked for, not even as the beginning of another.
        says_nothing = (func.numnode(there["tail"]) == 0) & (func.numnode(there["head"]) > 0)
        tail = case((says_nothing, there["head"]), else_=both(there["head"], "&&", tail))
    found = [query for query in (there.get("alternatives"), there.get("head") if tail is None else tail) if query is not None]
    return found[0] if len(found) == 1 else both(found[0], "||", found[1])


def of_store(store: ColumnElement[Any], query: ColumnElement[Any]) -> ColumnElement[Any]:
    """The text query as `finds` takes it, for the products of one store. One that says nothing would find all of them."""
    quote = _literal("''")
    return query.op("&&", return_type=TSQUERY())((quote + store.cast(Text) + quote).cast(TSQUERY))


def finds(query: ColumnElement[Any]) -> ColumnElement[bool]:
    """Whether a product has what a store's text query asks for: said as the index of words says it."""
    store = func.array_to_tsvector(array([products.c.config_id.cast(Text)]), type_=TSVECTOR)
    searched: ColumnElement[Any] = products.c.search_vector.op("||", return_type=TSVECTOR())(store)
    return searched.self_group().op("@@", return_type=Boolean())(query)


def _literal(text: str) -> ColumnElement[str]:
    return column(f"'{text}'", Text, is_literal=True)


def _config(name: str) -> ColumnElement[str]:
    return column(f"'{name}'::regconfig", Text, is_literal=True)
