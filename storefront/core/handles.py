"""Handles of products and slugs of stores: names in URLs, in any script. All writers and lookups share `normalize_handle`."""

import re
import unicodedata
from collections.abc import Iterator

# A generated handle leaves room for a number.
MAX_GENERATED_CHARACTERS = 80
# NFKC composes a letter of at most so many characters.
MAX_CHARACTERS_PER_LETTER = 4

# Lower-case Latin letters that have no decomposition.
PLAIN_LATIN_LETTERS = {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "ı": "i", "ß": "ss", "æ": "ae", "œ": "oe", "þ": "th"}

_ASCII_HANDLE = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
# Apostrophes, and characters that are letters or marks for Unicode but are not shown: fillers and variation selectors.
_DROPPED_CHARACTERS = re.compile(
    "['\u2018\u2019\u201b\u02bc\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
# Letters, decimal and other digits, and the marks that follow them: Thai and Indic vowels are marks.
_WORD_CATEGORIES, _MARK_CATEGORIES = frozenset({"Lu", "Ll", "Lt", "Lm", "Lo", "Nd", "Nl", "No"}), frozenset({"Mn", "Mc"})
# Format characters, such as joiners, and enclosing marks, such as that of keycap emoji.
_DROPPED_CATEGORIES = frozenset({"Cf", "Me"})
# Before compatibility forms are replaced: that of ™ is "TM".
_SYMBOL_CATEGORIES = frozenset({"So", "Sk"})
_LATIN_ACCENTS = re.compile("([a-z])[\u0300-\u036f]+")


def normalize_handle(text: str) -> str:
    """The handle of a text: its words in lower case (NFKC), joined by hyphens; empty if it has neither letters nor digits.

    Letters, marks and digits of any script stay. Apostrophes are dropped; symbols, punctuation and spaces separate words.
    Idempotent.
    """
    if _ASCII_HANDLE.fullmatch(text):
        return text
    shown = "".join(" " if unicodedata.category(letter) in _SYMBOL_CATEGORIES else letter for letter in _drop_hidden(text))
    # "İ" becomes "i" with a dot above, which looks like "i".
    folded = unicodedata.normalize("NFKC", shown).lower().replace("i\u0307", "i")
    return unicodedata.normalize("NFKC", "-".join(_split_words(_drop_hidden(folded))))


def generate_handle(text: str, default: str) -> str:
    """A handle for a title or name, of at most MAX_GENERATED_CHARACTERS: without accents on Latin letters. `default` if empty."""
    plain = _LATIN_ACCENTS.sub(r"\1", unicodedata.normalize("NFD", text.lower()).translate(_PLAIN_LATIN_TABLE))
    handle = normalize_handle(plain)
    if len(handle) > MAX_GENERATED_CHARACTERS:
        end = MAX_GENERATED_CHARACTERS
        # Marks stay with their letter.
        while end and unicodedata.category(handle[end]) in _MARK_CATEGORIES:
            end -= 1
        handle = handle[:end].rstrip("-")
    return handle or default


_PLAIN_LATIN_TABLE = str.maketrans(PLAIN_LATIN_LETTERS)


def _drop_hidden(text: str) -> str:
    kept = _DROPPED_CHARACTERS.sub("", text)
    return "".join(letter for letter in kept if unicodedata.category(letter) not in _DROPPED_CATEGORIES)


def _split_words(text: str) -> Iterator[str]:
    word = ""
    for letter in text:
        category = unicodedata.category(letter)
        if category in _WORD_CATEGORIES or (word and category in _MARK_CATEGORIES):
            word += letter
        elif word:
            yield word
            word = ""
    if word:
        yield word
