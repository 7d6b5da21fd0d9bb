"""Validates merchants' custom CSS with allow-lists of at-rules and functions, so that it loads no external resource.

The checks look at tokens, not at rules: browsers and parsers disagree on where a rule ends, and browsers gain rules and
functions every few weeks. Everything that is not on a list is rejected.
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import tinycss2

from storefront.core.cooperative import run_in_thread_if_long

# Without at-rules that load or declare a style sheet (@import, @charset, @namespace) or define a function (@function).
ALLOWED_AT_RULES = frozenset(
    "-webkit-keyframes container counter-style font-face keyframes layer media page property scope starting-style "
    "supports".split()
)
_GRADIENT_FUNCTIONS = frozenset(
    "linear-gradient radial-gradient conic-gradient repeating-linear-gradient repeating-radial-gradient repeating-conic-gradient "
    "-webkit-linear-gradient -webkit-radial-gradient -webkit-repeating-linear-gradient -webkit-repeating-radial-gradient".split()
)
_COLOUR_FUNCTIONS = frozenset("rgb rgba hsl hsla hwb lab lch oklab oklch color color-mix light-dark".split())
# Functions whose strings are URLs. `src()` and `image()` are on no list: no browser needs them.
LOADING_FUNCTIONS = frozenset("url image-set -webkit-image-set cross-fade -webkit-cross-fade".split())
# Inside them, functions with a result unknown here (var, attr, env, if) are not allowed: it might be a URL.
_ALLOWED_WHILE_LOADING = LOADING_FUNCTIONS | _GRADIENT_FUNCTIONS | _COLOUR_FUNCTIONS | {"type", "calc"}
ALLOWED_FUNCTIONS = _ALLOWED_WHILE_LOADING | frozenset(
    # Mathematics and values.
    "min max clamp round mod rem sin cos tan asin acos atan atan2 pow sqrt hypot log exp abs sign calc-size var env attr "
    "counter counters symbols minmax repeat fit-content format local "
    # Transforms, filters, timing.
    "matrix matrix3d perspective rotate rotate3d rotatex rotatey rotatez scale scale3d scalex scaley scalez skew skewx skewy "
    "translate translate3d translatex translatey translatez blur brightness contrast drop-shadow grayscale hue-rotate invert "
    "opacity saturate sepia cubic-bezier steps linear scroll view "
    # Shapes and anchors.
    "circle ellipse inset polygon path rect xywh shape ray anchor anchor-size "
    # Selectors and conditions.
    "not is where has matches -webkit-any lang dir nth-child nth-last-child nth-of-type nth-last-of-type host host-context "
    "slotted part cue highlight state selector style font-tech font-format "
    # Keywords of conditions, without a space before the bracket.
    "and or".split()
)
# Limits of characters and (approximate) tokens: parsing that many takes about 100 ms of CPU.
MAX_CHARACTERS, MAX_TOKENS = 50_000, 40_000
# Of 2 µs each.
_CHARACTERS_PER_STEP = 25
_TOKEN = re.compile(r"[^\W\d][\w-]*|\d+|\s+|.", re.DOTALL)
# Characters of names in CSS Syntax since 2023. Older browsers accept everything beyond ASCII, so that the same text contains a
# function in some browsers and none in others.
_PORTABLE_NAME = re.compile(
    "[\\x00-\\x7f\u00b7\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u037d\u037f-\u1fff\u200c\u200d\u203f\u2040\u2070-\u218f\u2c00-\u2fef"
    "\u3001-\ud7ff\uf900-\ufdcf\ufdf0-\ufffd\U00010000-\U0010ffff]*"
)
# The attribute of each token type that holds its name.
_NAME_ATTRIBUTES = {"ident": "value", "hash": "value", "at-keyword": "value", "function": "name", "dimension": "unit"}
# Appended to every checked text: if it is not the last token, something before it was not closed.
_END_MARKER = "storefront-end-of-text"


class UnsafeCSSError(ValueError):
    """CSS that is malformed, or may load an external resource. The message names the problem and the line."""


async def prevalidate_stylesheet(sheet: str) -> None:
    """Validate a style sheet, a long one off the event loop: `validate_stylesheet` then finds the result cached."""
    if len(sheet) <= MAX_CHARACTERS:
        await run_in_thread_if_long(len(sheet) // _CHARACTERS_PER_STEP, _find_problem, sheet)


def validate_stylesheet(sheet: str) -> None:
    """Check a style sheet for a <style> element. Raises UnsafeCSSError."""
    if problem := _find_problem(sheet):
        raise UnsafeCSSError(problem)


@lru_cache(maxsize=32)
def _find_problem(sheet: str) -> str | None:
    try:
        _validate(sheet)
    except UnsafeCSSError as error:
        return str(error)
    return None


def _validate(sheet: str) -> None:
    if "<" in sheet or "-->" in sheet:
        raise UnsafeCSSError("must not contain < or -->, which could end the style element it stands in.")
    if "\ufeff" in sheet:
        raise UnsafeCSSError("must not contain a byte order mark (U+FEFF).")
    if len(sheet) > MAX_TOKENS and len(_TOKEN.findall(sheet)) > MAX_TOKENS:
        raise UnsafeCSSError(f"must have at most {MAX_TOKENS:,} words, numbers, signs and spaces.")
    for token, function, is_loading in _walk_tokens(_parse_tokens(sheet)):
        _check_token(token, function, is_loading)


def _parse_tokens(text: str) -> list[Any]:
    tokens: list[Any]
    try:
        *tokens, last = tinycss2.parse_component_value_list(f"{text}\n{_END_MARKER}")
    except ValueError:
        # Python reads no integer of more than 4,300 digits.
        raise UnsafeCSSError("must not contain numbers of thousands of digits.") from None
    if last.type != "ident" or last.value != _END_MARKER:
        raise UnsafeCSSError("must close every bracket, string and comment that it opens.")
    return tokens


def _walk_tokens(tokens: Sequence[Any]) -> Iterator[tuple[Any, str, bool]]:
    """Yield each token with its enclosing function, and whether any enclosing function loads a URL."""
    # An explicit stack: brackets may be nested deeper than the recursion limit.
    stack = [(token, "", False) for token in reversed(tokens)]
    while stack:
        token, function, is_loading = stack.pop()
        yield token, function, is_loading
        if token.type == "function":
            children, function, is_loading = (
                token.arguments,
                token.lower_name,
                is_loading or token.lower_name in LOADING_FUNCTIONS,
            )
        else:
            children, function = getattr(token, "content", None) or (), ""
        stack += [(child, function, is_loading) for child in reversed(children)]


def _check_token(token: Any, function: str, is_loading: bool) -> None:
    location = f"at line {token.source_line}"
    if token.type == "error" or (token.type == "literal" and token.value == "\\"):
        raise UnsafeCSSError(f"is not CSS {location}: {getattr(token, 'message', 'a backslash escapes nothing')}.")
    if (name_attribute := _NAME_ATTRIBUTES.get(token.type)) and not _PORTABLE_NAME.fullmatch(getattr(token, name_attribute)):
        raise UnsafeCSSError(
            f"must not use {getattr(token, name_attribute)[:40]!r} {location}: not all browsers take it for one word."
        )
    if token.type == "at-keyword" and token.lower_value not in ALLOWED_AT_RULES:
        raise UnsafeCSSError(
            f"must not use @{token.lower_value[:40]} {location}. Allowed are @{', @'.join(sorted(ALLOWED_AT_RULES))}."
        )
    if token.type == "function" and token.lower_name not in (_ALLOWED_WHILE_LOADING if is_loading else ALLOWED_FUNCTIONS):
        context = " inside a function that loads an image" if is_loading else ""
        raise UnsafeCSSError(f"must not use {token.lower_name[:40]}(){context} {location}.")
    if (token.type == "url" or (token.type == "string" and is_loading and function != "type")) and not _is_inline(token.value):
        raise UnsafeCSSError(f"must not load from elsewhere {location}: only addresses that begin with data:image/ are allowed.")


def _is_inline(address: str) -> bool:
    return address.lower().startswith("data:image/")
