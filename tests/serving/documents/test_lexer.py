"""The lexer returns graphql-core's tokens and errors, in time that grows with the text alone."""

import time
from typing import Any

import pytest
from graphql import GraphQLSyntaxError, Lexer, Source, TokenKind
from hypothesis import given, settings
from hypothesis import strategies as st

from storefront.serving.documents.lexer import FastLexer

# What the grammar treats in different ways: parts of strings, escapes, line terminators, ignored text, names and numbers.
# fmt: off
PARTS = [
    '"', '""', '"""', "\\", '\\"""', "\\n", "\\u0041", "\\u{4}", "\\u{1F600}", "\\u{0000041}", "\\u{D800}", "\\u{110000}",
    "\\ud83d\\ude00", "\\ud800", "\\x", "a", "_b1", "é", "\n", "\r", "\r\n", "#", " ", "\t", ",", "\ufeff", "{", "...", "..",
    ".5", "-1", "01", "1.5e3", "$", "\ud800", "\0", "\U0001f600", "(", ":",
]
# fmt: on
TEXTS = st.lists(st.sampled_from(PARTS), max_size=14).map("".join)


def read_tokens(lexer: Lexer) -> list[Any]:
    """The tokens, and the error that ends them."""
    tokens: list[Any] = []
    try:
        while not tokens or tokens[-1][0] is not TokenKind.EOF:
            token = lexer.advance()
            tokens.append((token.kind, token.start, token.end, token.line, token.column, token.value))
    except GraphQLSyntaxError as error:
        tokens.append((error.message, error.positions))
    return tokens


@settings(max_examples=500)
@given(TEXTS, st.sampled_from(["{}", '"{}"', '"""{}"""', "#{}\na"]))
def test_lexer_returns_tokens_of_graphql_core(text: str, around: str) -> None:
    source = Source(around.replace("{}", text))
    assert read_tokens(FastLexer(source)) == read_tokens(Lexer(source))


LONG_TEXTS = {
    "comments": "#\n" * 49_000,
    "comments of one line": "#" * 99_000,
    "commas": "," * 99_000,
    "lines": "\r\n" * 49_000,
    "byte order marks": "\ufeff" * 99_000,
    "name": "a" * 99_000,
    "string": f'"{"a" * 99_000}"',
    "block string": f'"""{"a" * 99_000}"""',
}


@pytest.mark.parametrize("name", LONG_TEXTS)
def test_long_text_is_read_fast(name: str) -> None:
    # Of several attempts: other processes may take the processor's caches.
    def measure_seconds() -> float:
        started_at = time.thread_time()
        read_tokens(FastLexer(Source(LONG_TEXTS[name])))
        return time.thread_time() - started_at

    assert min(measure_seconds() for _ in range(5)) < 0.05
