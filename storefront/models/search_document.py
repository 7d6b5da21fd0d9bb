"""The search document of a product: a tsvector of the words of its fields and of its variants' SKUs and barcodes.

It is a derived column: commands write it with the fields (`build_search_vector`), or after them
(`storefront/writes/search_documents.py`). Lexemes are

- words and their stems, with positions for phrases, and compounds as one word;
- words of the description, which begin with `~`: a half-typed word finds the beginnings of other words first;
- the whole title and each whole SKU and barcode, squeezed, which begin with `=`: what equals the search comes first.
"""

import re
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

from storefront.core.search_words import (
    MAX_WORD_CHARACTERS,
    STOP_WORDS,
    Chunk,
    fold_spelling,
    is_unspaced,
    list_pairs,
    split_chunks,
    stem,
)
from storefront.models.rows import ProductRow

# What documents are built of; of variants, the codes.
SEARCHED_COLUMNS = ("title", "options", "vendor", "product_type", "category", "tags", "description")
SEARCHED_VARIANT_COLUMNS = ("sku", "barcode")

DESCRIPTION_MARK, EXACT_MARK = "~", "="
MAX_EXACT_CHARACTERS = 200
# ts_rank has four weights. A higher level within one weight repeats the positions of its words, which counts up to 1.6 times:
# what equals a title or code; title; SKUs and barcodes, option values; vendor, type, category, tags. Descriptions do not rank.
TITLE_WEIGHT = "B"
_EXACT, _TITLE, _CODE, _OPTION_VALUE = ("A", 1), (TITLE_WEIGHT, 1), ("C", 2), ("C", 1)
_VENDOR, _TYPE, _CATEGORY, _TAG, _DESCRIPTION = ("D", 4), ("D", 3), ("D", 2), ("D", 1), ("D", 1)

# Postgres stores positions up to 16,383 and tsvectors up to 1 MB. Fields are added in the order of their weights.
_MAX_POSITION, _MAX_LEXEME_CHARACTERS = 16_000, 150_000
_MAX_FIELD_CHARACTERS = 70_000
# Repeated positions, which are so far from each other that no phrase reaches over them.
_REPEATED_POSITIONS = (16_383, 16_343, 16_303)
# Between fields: no phrase reaches over it.
_FIELD_GAP = 50
# A word this short is joined with its neighbours: `t shirt`, `5 xl`, `12 mm`.
MAX_SHORT_CHARACTERS = 2

# Of a description, about as many as are split in 50 µs.
_STEP_CHARACTERS = 200

_IS_BARCODE = re.compile(r"\d{8,14}")


def build_search_vector(product: Mapping[str, Any], codes: Iterable[str]) -> str:
    """The search document as a tsvector literal: of the SEARCHED_COLUMNS of a product, and the codes of its variants."""
    document = _Document()
    document.add_title(product["title"])
    for code in dict.fromkeys(codes):
        document.add_code(code)
    for option in product.get("options") or ():
        for value in option["values"]:
            document.add_field(value["value"], *_OPTION_VALUE)
    for name, level in (("vendor", _VENDOR), ("product_type", _TYPE), ("category", _CATEGORY)):
        document.add_field(product.get(name) or "", *level)
    for tag in product.get("tags") or ():
        document.add_field(tag, *_TAG)
    document.add_field(product.get("description") or "", *_DESCRIPTION, mark=DESCRIPTION_MARK)
    return document.render()


def get_searched_values(product: ProductRow) -> dict[str, Any]:
    """The values of a stored product that documents are built of."""
    return {name: getattr(product, name) for name in SEARCHED_COLUMNS}


def count_steps(product: Mapping[str, Any]) -> int:
    """The steps of building a document, for `run_in_thread_if_long`; besides those of codes, each of which is one."""
    values = sum(len(option["values"]) for option in product.get("options") or ())
    return len(product.get("description") or "") // _STEP_CHARACTERS + len(product.get("tags") or ()) + values


def list_codes(variants: Iterable[Mapping[str, Any]]) -> list[str]:
    """The SKUs and barcodes of variants."""
    return [code for row in variants for name in SEARCHED_VARIANT_COLUMNS if (code := row[name])]


def build_exact_lexeme(chunks: Iterable[Chunk]) -> str:
    """The lexeme of a whole text, the same whatever its spaces and punctuation; empty if it has no words."""
    squeezed = "".join(word for chunk in chunks for word in chunk.words)
    return f"{EXACT_MARK}{squeezed[:MAX_EXACT_CHARACTERS]}" if squeezed else ""


def may_join(first: Chunk, second: Chunk) -> bool:
    """Whether two words are also indexed as one, because one of them is short."""
    left, right = first.plain, second.plain
    is_short = len(left) <= MAX_SHORT_CHARACTERS or len(right) <= MAX_SHORT_CHARACTERS
    return bool(is_short and left and right and left not in STOP_WORDS and right not in STOP_WORDS)


class _Document:
    def __init__(self) -> None:
        # By lexeme, positions with weights.
        self._positions: dict[str, list[str]] = {}
        self._position = 0
        self._characters = 0

    def render(self) -> str:
        """The tsvector literal. No lexeme has a quote or backslash."""
        return " ".join(f"'{lexeme}':{','.join(positions)}" for lexeme, positions in self._positions.items())

    def add_title(self, title: str) -> None:
        """Add the title: its words, and the whole."""
        chunks = [*split_chunks(fold_spelling(title))]
        self._add_chunks(chunks, *_TITLE)
        self._add_exact(chunks)

    def add_code(self, code: str) -> None:
        """Add a SKU or barcode. Numbers in it are also found as one, and a number without its leading zeros."""
        if self._is_full():
            return
        start = self._position + _FIELD_GAP
        chunks = [*split_chunks(fold_spelling(code))]
        self._add_chunks(chunks, *_CODE)
        for chunk in chunks:
            if len(chunk.words) > 2 and not chunk.joined:
                self._add("".join(chunk.words)[:MAX_WORD_CHARACTERS], start, *_CODE)
            for n, (first, second) in enumerate(pairwise(chunk.words)):
                if first.isdigit() and second.isdigit():
                    self._add(first + second, start + n, *_CODE)
            if chunk.words[0].isdigit() and (stripped := chunk.words[0].lstrip("0")) != chunk.words[0]:
                self._add(stripped or "0", start, *_CODE)
        # A number that is long enough for a barcode equals nothing else.
        if not _IS_BARCODE.fullmatch(code):
            self._add_exact(chunks)

    def add_field(self, text: str, weight: str, repeats: int, mark: str = "") -> None:
        """Add the words of a field. With a mark, only their stems."""
        if text and not self._is_full():
            chunks = split_chunks(fold_spelling(text[:_MAX_FIELD_CHARACTERS])[:_MAX_FIELD_CHARACTERS])
            self._add_chunks(chunks, weight, repeats, mark)

    def _add_exact(self, chunks: Iterable[Chunk]) -> None:
        if lexeme := build_exact_lexeme(chunks):
            self._add(lexeme, 1, *_EXACT)

    def _add_chunks(self, chunks: Iterable[Chunk], weight: str, repeats: int, mark: str = "") -> None:
        self._position += _FIELD_GAP
        former: Chunk | None = None
        is_short = False
        for chunk in chunks:
            if self._position > _MAX_POSITION or self._is_full():
                return
            word, was_short = chunk.plain, is_short
            is_short = len(word) <= MAX_SHORT_CHARACTERS
            if former and (is_short or was_short) and may_join(former, chunk):
                self._add_word(former.plain + word, self._position - 1, weight, repeats, mark)
            former = chunk
            if not word:
                self._add_compound(chunk, weight, repeats, mark)
                continue
            if not mark:
                self._add(chunk.stemmed, self._position, weight, repeats)
                if chunk.stemmed != word:
                    self._add(word, self._position, weight, repeats)
            elif word not in STOP_WORDS:
                self._add(mark + chunk.stemmed, self._position, weight, repeats)
            self._position += 1

    def _add_compound(self, chunk: Chunk, weight: str, repeats: int, mark: str) -> None:
        start = self._position
        for word in chunk.words:
            if is_unspaced(word):
                self._add_run(word, weight, repeats, mark)
            else:
                self._add_word(word, self._position, weight, repeats, mark, is_symbol=chunk.is_symbol)
                self._position += 1
        if chunk.joined:
            self._add_word(chunk.joined, start, weight, repeats, mark)
            if weight == TITLE_WEIGHT:
                # Also at the last of its words, so that a phrase goes on: `iphone 15` in "iPhone 15".
                self._add_word(chunk.joined, self._position - 1, weight, repeats, mark)

    def _add_word(self, word: str, position: int, weight: str, repeats: int, mark: str, *, is_symbol: bool = False) -> None:
        stemmed = word if is_symbol else stem(word)
        self._add(mark + stemmed, position, weight, repeats)
        if not mark and stemmed != word:
            self._add(word, position, weight, repeats)

    def _add_run(self, run: str, weight: str, repeats: int, mark: str) -> None:
        run = run[: _MAX_POSITION - self._position]
        if not run:
            return
        for pair in (*list_pairs(run), run[-1:]):
            self._add(mark + pair, self._position, weight, repeats)
            self._position += 1

    def _add(self, lexeme: str, position: int, weight: str, repeats: int) -> None:
        positions = self._positions.get(lexeme)
        if positions is None:
            if self._is_full():
                return
            positions = self._positions[lexeme] = [f"{repeated}{weight}" for repeated in _REPEATED_POSITIONS[: repeats - 1]]
            self._characters += len(lexeme)
        positions.append(f"{position}{weight}")

    def _is_full(self) -> bool:
        return self._characters > _MAX_LEXEME_CHARACTERS
