"""Splits text into the words that search compares: one rule for documents and queries.

Words are in lower case, without accents and vowel points. What is written with a hyphen, apostrophe, slash or dot, with inner
capitals, or as a number with a unit, is a compound of several words, which is also searched as one: `T-Shirt` is `t`, `shirt` and
`tshirt`. Scripts without spaces between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese) are indexed by overlapping pairs of
characters.
"""

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import Stemmer

# The words of Postgres's English list that never distinguish products. Single letters do: `T shirt`.
STOP_WORDS = frozenset(
    """a about above after again against all am an and any are as at be because been before being below between both but by can
    did do does doing don down during each few for from further had has have having he her here hers herself him himself his how
    i if in into is it its itself just me more most my myself no nor not now of off on once only or other our ours ourselves out
    over own same she should so some such than that the their theirs them themselves then there these they this those through to
    too under until up very was we were what when where which while who whom why will with you your yours yourself yourselves
    """.split()
)
# A longer word is cut. Postgres accepts lexemes of 2,046 bytes.
MAX_WORD_CHARACTERS = 64
# What changes more often between letters and digits, such as a hexadecimal number, is not split there.
MAX_SPLIT_WORDS = 3
# Words of which the chunk and the stem are cached.
MAX_CACHED_WORDS = 10_000

# Dropped: accents of Latin, Greek and Cyrillic, Hebrew and Arabic vowel points with the hamza over and under letters, the Arabic
# tatweel, nuktas of Indic scripts, variation selectors.
_DROPPED_RANGES = (
    *("\u0300-\u036f", "\u0483-\u0487", "\u0591-\u05bd", "\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7", "\u0610-\u061a", "\u0640"),
    *("\u064b-\u065f", "\u0670", "\u06d6-\u06dc", "\u06df-\u06e4", "\u06e7\u06e8", "\u06ea-\u06ed"),
    *("\u093c\u09bc\u0a3c\u0abc\u0b3c\u0cbc", "\u1ab0-\u1aff", "\u1dc0-\u1dff", "\u20d0-\u20ff", "\ufe00-\ufe0f"),
)
_DROPPED = re.compile(f"[{''.join(_DROPPED_RANGES)}]")

_HYPHENS = "\u2010\u2011\u2012\u2013\u2212\u058a\u05be\u1806\u30a0\u200c"
_APOSTROPHES = "\u2018\u2019\u201a\u201b\u02b9\u02bb\u02bc\u02bd\u2032\u00b4`\u055a\u05f3\uff07"
_INVISIBLE = "\u00ad\u200b\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff"
# Before decomposition, which turns some of them into spaces.
_SPELLING_TABLE = str.maketrans(
    dict.fromkeys(_HYPHENS, "-") | dict.fromkeys(_APOSTROPHES, "'") | dict.fromkeys(_INVISIBLE, "") | {"\0": " "}
)
# After decomposition, in lower case.
_LETTER_TABLE = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "ı": "i", "ß": "ss", "æ": "ae", "œ": "oe", "þ": "th", "ς": "σ"}
    # Arabic letters that are typed for each other, also by Persian and Urdu keyboards.
    | {"ٱ": "ا", "ى": "ي", "ی": "ي", "ے": "ي", "ة": "ه", "ۀ": "ه", "ہ": "ه", "ھ": "ه", "ک": "ك", "ء": ""}
    | {"\u2044": "/", "\u2215": "/", "・": "-", "·": "-"}
    # Katakana are read as hiragana.
    | {chr(code): chr(code - 0x60) for code in range(0x30A1, 0x30F7)}
    # Decimal digits of other scripts.
    | {
        chr(zero + digit): str(digit)
        for zero in (0x660, 0x6F0, 0x966, 0x9E6, 0xA66, 0xAE6, 0xB66, 0xBE6, 0xC66, 0xCE6, 0xD66, 0xE50, 0xED0, 0x1040, 0x17E0)
        for digit in range(10)
    }
)

# Letters, digits, and the marks that are part of a word in Indic and other scripts: \w without the underscore has no marks.
_MARK_RANGES = (
    *(
        "\u0900-\u0903\u093a-\u094f\u0951-\u0957\u0962\u0963\u0981-\u0983\u09be-\u09cd\u09d7\u0a01-\u0a03\u0a3e-\u0a4d\u0a70\u0a71",
    ),
    *("\u0a81-\u0a83\u0abe-\u0acd\u0b01-\u0b03\u0b3e-\u0b4d\u0b56\u0b57\u0b82\u0bbe-\u0bcd\u0bd7\u0c00-\u0c04\u0c3e-\u0c4d",),
    *(
        "\u0c55\u0c56\u0c81-\u0c83\u0cbe-\u0ccd\u0cd5\u0cd6\u0d00-\u0d03\u0d3b-\u0d4d\u0d57\u0d81-\u0d83\u0dca-\u0ddf\u0df2\u0df3",
    ),
    *("\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ece\u0f18\u0f19\u0f35-\u0f3f\u0f71-\u0f84\u0f8d-\u0fbc",),
    *("\u102b-\u103e\u1056-\u1059\u105e-\u1060\u1062-\u1064\u1067-\u106d\u1071-\u1074\u1082-\u108d\u135d-\u135f\u17b4-\u17d3",),
    *(
        "\u1885\u1886\u18a9\u1920-\u193b\u1a17-\u1a1b\u1a55-\u1a7f\u1b00-\u1b04\u1b34-\u1b44\ua8b4-\ua8c5\uaa29-\uaa4d\uaa7b-\uaa7d",
    ),
    *("\uaab0-\uaac1\uabe3-\uabed\u3099\u309a\u0730-\u074a\u07a6-\u07b0\u07eb-\u07f3",),
)
_MARKS = f"[{''.join(_MARK_RANGES)}]"
_WORD = f"(?:[^\\W_]++|{_MARKS}++)++"
# Where a word in lower case goes on with a capital; and the same with the capital first, by which a search skips all else.
_INNER_CAPITAL = re.compile("(?<=[a-zα-ωа-я])(?=[A-ZΑ-ΩА-Я])")
_HAS_INNER_CAPITAL = re.compile("[A-ZΑ-ΩА-Я](?<=[a-zα-ωа-я].)")
_CAPITAL_MARK = "\x1f"
_JOINER = rf"[-'/.{_CAPITAL_MARK}_]|(?<=\d),(?=\d)"


def _compile_chunk(word: str, *symbols: str) -> re.Pattern[str]:
    return re.compile("|".join((*symbols, f"{word}(?:(?:{_JOINER}){word})*+")))


# The first is for ASCII. Symbols are H&M, C#, C++ and .NET.
_LETTER = r"[^\W\d_]"
_NOT_IN_WORD, _NOT_BEHIND_WORD = rf"(?![^\W_]|{_MARKS})", rf"(?<![\w.])(?<!{_MARKS})"
_ASCII_CHUNK = _compile_chunk("[a-z0-9]++")
_CHUNK = _compile_chunk(_WORD)
_CHUNK_OR_SYMBOL = _compile_chunk(
    _WORD,
    f"{_NOT_BEHIND_WORD}{_LETTER}{{1,2}} ?& ?{_LETTER}{{1,2}}{_NOT_IN_WORD}",
    f"{_NOT_BEHIND_WORD}{_LETTER}{{1,2}}#{_NOT_IN_WORD}",
    rf"{_NOT_BEHIND_WORD}{_LETTER}{{1,20}}\+\+{_NOT_IN_WORD}",
    rf"{_NOT_BEHIND_WORD}\.{_LETTER}{_WORD}",
)
_HAS_DOT_SYMBOL = re.compile(rf"\.(?<![\w.].){_LETTER}")
_SEPARATOR = re.compile(_JOINER)
_IS_SYMBOL = re.compile(r"[&#]|\+\+")
_DIGITS_OR_OTHERS = re.compile(r"\d+|\D+")

# Thai, Lao, Burmese, Khmer; CJK: ideographs with their marks, hiragana and katakana, bopomofo.
_UNSPACED = (
    "\u0e01-\u0e4e\u0e81-\u0edf\u1000-\u103f\u1050-\u109f\u1780-\u17d3\ua9e0-\ua9fe\uaa60-\uaa7f"
    "\u3005-\u3007\u3041-\u309f\u30a1-\u30ff\u3105-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\U00020000-\U0003ffff"
)
_UNSPACED_OR_OTHERS = re.compile(f"[{_UNSPACED}]+|[^{_UNSPACED}]+")
_IS_UNSPACED = re.compile(f"[{_UNSPACED}]")

_STEMMERS = tuple(
    (re.compile(f"[{letters}]+"), Stemmer.Stemmer(algorithm, 0))
    for letters, algorithm in (
        ("a-z", "english"),
        ("\u0400-\u04ff", "russian"),
        ("\u0370-\u03ff", "greek"),
        ("\u0620-\u06ff", "arabic"),
        ("\u0900-\u0963", "hindi"),
        ("\u0b80-\u0bff", "tamil"),
        ("\u0561-\u0587", "armenian"),
    )
)


_ENDING_WITH_SHORT_I = re.compile("(?<=[аеиоуыэюя])и$")


class Chunk(NamedTuple):
    """What is written without a space: a word, a compound of several, or a run of a script without spaces."""

    words: tuple[str, ...]
    # The words as one; empty for a single word, numbers such as 3/4, and where a word is a run without spaces.
    joined: str = ""
    # Searched as it is written, such as `c++`: it has no stem.
    is_symbol: bool = False
    # The only word, if it is nothing of the above; and its stem.
    plain: str = ""
    stemmed: str = ""


def fold_spelling(text: str) -> str:
    """The text in lower case without accents, with one kind of hyphen and apostrophe. Marks inner capitals."""
    if not text.isascii():
        text = _DROPPED.sub("", unicodedata.normalize("NFKD", text.translate(_SPELLING_TABLE)))
    marked = text.replace("`", "'").replace("\0", " ")
    if _HAS_INNER_CAPITAL.search(marked):
        marked = _INNER_CAPITAL.sub(_CAPITAL_MARK, marked)
    marked = marked.lower()
    return marked if marked.isascii() else marked.translate(_LETTER_TABLE)


def count_words(text: str) -> int:
    """The number of words of a folded text; those of compounds count, except for numbers with units."""
    return sum(1 + len(_SEPARATOR.findall(chunk)) for chunk in _choose_pattern(text).findall(text))


def split_chunks(folded: str) -> Iterator[Chunk]:
    """The chunks of a folded text, in order."""
    return map(_split_chunk, _choose_pattern(folded).findall(folded))


def _choose_pattern(folded: str) -> re.Pattern[str]:
    if "&" in folded or "#" in folded or "++" in folded or ("." in folded and _HAS_DOT_SYMBOL.search(folded)):
        return _CHUNK_OR_SYMBOL
    return _ASCII_CHUNK if folded.isascii() else _CHUNK


def _split_chunk(chunk: str) -> Chunk:
    # Codes and numbers, most of which occur once, would only displace words. Long ones would not fit into memory.
    is_repeated = chunk[-1].isalpha() and len(chunk) <= MAX_WORD_CHARACTERS
    return _split_repeated_chunk(chunk) if is_repeated else _split_any_chunk(chunk)


@lru_cache(MAX_CACHED_WORDS)
def _split_repeated_chunk(chunk: str) -> Chunk:
    return _split_any_chunk(chunk)


def _split_any_chunk(chunk: str) -> Chunk:
    if chunk.isascii() and (chunk.isalpha() or chunk.isdigit()):
        return _build_plain_chunk(chunk[:MAX_WORD_CHARACTERS])
    if chunk[0] == "." or _IS_SYMBOL.search(chunk):
        return Chunk((chunk.replace(" ", "")[:MAX_WORD_CHARACTERS],), is_symbol=True)
    words = list[str]()
    for piece in _SEPARATOR.split(chunk):
        split = _DIGITS_OR_OTHERS.findall(piece)
        words += split if len(split) <= MAX_SPLIT_WORDS else [piece]
    if not chunk.isascii() and _IS_UNSPACED.search(chunk):
        return Chunk(tuple(run for word in words for run in _UNSPACED_OR_OTHERS.findall(word)))
    words = [word[:MAX_WORD_CHARACTERS] for word in words]
    if len(words) == 1:
        return _build_plain_chunk(words[0])
    is_number = all(word.isdigit() for word in words)
    return Chunk(tuple(words), "" if is_number else "".join(words)[:MAX_WORD_CHARACTERS])


def _build_plain_chunk(word: str) -> Chunk:
    return Chunk((word,), plain=word, stemmed=stem(word))


def is_unspaced(word: str) -> bool:
    """Whether the word is a run of a script without spaces."""
    return _IS_UNSPACED.match(word) is not None


def list_pairs(run: str) -> list[str]:
    """The overlapping pairs of characters of a run."""
    return [run[n : n + 2] for n in range(len(run) - 1)]


def stem(word: str) -> str:
    """The stem of a word, by the language that its script suggests: singular and plural have the same."""
    # No stemmer takes digits.
    return word if word.isascii() and not word.isalpha() else _stem_letters(word)


@lru_cache(MAX_CACHED_WORDS)
def _stem_letters(word: str) -> str:
    # Folding has made и of й, by which Russian endings are recognized.
    word = _ENDING_WITH_SHORT_I.sub("й", word)
    for letters, stemmer in _STEMMERS:
        if letters.fullmatch(word):
            stemmed: str = stemmer.stemWord(word)
            return stemmed
    return word
