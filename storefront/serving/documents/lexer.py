"""A lexer that reads ignored text, names and strings with regular expressions, where graphql-core reads each character in Python.

A document of few tokens may still be long: by comments, blank lines and strings.
"""

import json
import re

from graphql import GraphQLSyntaxError, Lexer, Token, TokenKind

# Whitespace, line terminators, commas, byte order marks and comments (Ignored, in the specification's grammar). A lone surrogate
# ends a comment: graphql-core reports it.
_IGNORED = re.compile(r"(?:[\ufeff\t ,\n\r]++|#[^\n\r\ud800-\udfff]*+)*+")
_NAME = re.compile(r"[A-Za-z_][0-9A-Za-z_]*+")
# Escape sequences of one character that is no surrogate: all but pairs of surrogates, leading zeros, and invalid ones.
_HEX_OF_NO_SURROGATE = r"(?:[0-9A-CEFa-cef][0-9A-Fa-f]{3}|[Dd][0-7][0-9A-Fa-f]{2})"
_ESCAPE = re.compile(
    rf"""\\(?:["\\/bfnrt]|u(?:{_HEX_OF_NO_SURROGATE}|\{{(?:[0-9A-Fa-f]{{1,3}}|{_HEX_OF_NO_SURROGATE}|(?:[1-9A-Fa-f]|10)[0-9A-Fa-f]{{4}})\}}))"""
)
_STRING_CHARACTERS = re.compile(rf'(?:[^"\\\n\r\ud800-\udfff]++|{_ESCAPE.pattern})*+')
_BLOCK_STRING_CHARACTERS = re.compile(r'(?:[^"\\\ud800-\udfff]++|\\"""|\\|"(?!""))*+')
_INDENTATION = re.compile(r"\n([ \t]*+)[^ \t\n]")
_SIMPLE_ESCAPES = {'\\"': '"', "\\\\": "\\", "\\/": "/", "\\b": "\b", "\\f": "\f", "\\n": "\n", "\\r": "\r", "\\t": "\t"}


class FastLexer(Lexer):
    """Returns the tokens of graphql-core's lexer without comments, and raises its errors."""

    def lookahead(self) -> Token:
        """The token after the current one, which stays the current one.

        Tokens are not linked to the ones before them: such reference cycles are freed by the garbage collector only.
        """
        token = self.token
        if token.kind is TokenKind.EOF:
            return token
        if token.next is None:
            token.next = self.read_next_token(token.end)
        return token.next

    def read_next_token(self, start: int) -> Token:
        """The next token from this position on, after ignored text."""
        body = self.source.body
        position = _end_of(_IGNORED, body, start)
        if position > start:
            self._count_lines(start, position)
        return super().read_next_token(position)

    def _count_lines(self, start: int, end: int) -> None:
        body = self.source.body
        line_feeds, returns = body.count("\n", start, end), body.count("\r", start, end)
        if line_feeds or returns:
            self.line += line_feeds + returns - (body.count("\r\n", start, end) if returns else 0)
            self.line_start = max(body.rfind("\n", start, end), body.rfind("\r", start, end)) + 1

    def read_name(self, start: int) -> Token:
        """Read a name."""
        end = _end_of(_NAME, self.source.body, start)
        return self.create_token(TokenKind.NAME, start, end, self.source.body[start:end])

    def read_string(self, start: int) -> Token:
        """Read a string in quotes."""
        body, chunks, position = self.source.body, list[str](), start + 1
        while True:
            chunk_start, position = position, _end_of(_STRING_CHARACTERS, body, position)
            chunks.append(_unescape_all(body[chunk_start:position]))
            character = body[position : position + 1]
            if character == '"':
                return self.create_token(TokenKind.STRING, start, position + 1, "".join(chunks))
            if character != "\\":
                raise self._make_string_error(position)
            escape = (
                self.read_escaped_character(position)
                if body[position + 1 : position + 2] != "u"
                else self.read_escaped_unicode_variable_width(position)
                if body[position + 2 : position + 3] == "{"
                else self.read_escaped_unicode_fixed_width(position)
            )
            chunks.append(escape.value)
            position += escape.size

    def read_block_string(self, start: int) -> Token:
        """Read a string in triple quotes."""
        body = self.source.body
        end = _end_of(_BLOCK_STRING_CHARACTERS, body, start + 3)
        if not body.startswith('"""', end):
            raise self._make_string_error(end)
        text = body[start + 3 : end].replace('\\"""', '"""').replace("\r\n", "\n").replace("\r", "\n")
        token = self.create_token(TokenKind.BLOCK_STRING, start, end + 3, _dedent(text))
        self._count_lines(start, end)
        return token

    def _make_string_error(self, position: int) -> GraphQLSyntaxError:
        character = self.source.body[position : position + 1]
        if character in ("", "\n", "\r"):
            return GraphQLSyntaxError(self.source, position, "Unterminated string.")
        problem = f"Invalid character within String: {self.print_code_point_at(position)}."
        return GraphQLSyntaxError(self.source, position, problem)


def _end_of(pattern: re.Pattern[str], text: str, start: int) -> int:
    match = pattern.match(text, start)
    return match.end() if match else start


def _unescape_all(characters: str) -> str:
    # Without this one escape GraphQL has those of JSON, whose parser is twenty times as fast.
    if "\\u{" in characters:
        return _ESCAPE.sub(_unescape, characters)
    unescaped: str = json.loads(f'"{characters}"', strict=False)
    return unescaped


def _unescape(escape: re.Match[str]) -> str:
    text = escape[0]
    return _SIMPLE_ESCAPES.get(text) or chr(int(text[2:].strip("{}"), 16))


def _dedent(text: str) -> str:
    """The text without the common indentation of its lines, and without blank lines at both ends (BlockStringValue)."""
    # The first line has no indentation to remove, and blank lines do not count.
    indent = min(map(len, _INDENTATION.findall(text)), default=0)
    if indent:
        text = re.sub(rf"\n[ \t]{{1,{indent}}}", "\n", text)
    start, end = len(text) - len(text.lstrip(" \t\n")), len(text.rstrip(" \t\n"))
    last_line_end = text.find("\n", end)
    return "" if not end else text[text.rfind("\n", 0, start) + 1 : None if last_line_end < 0 else last_line_end]
