"""HTML of merchants: sanitised, so that it is safe to insert into a page, and converted from and to plain text.

`nh3` decides what is safe. Before it, `_Normalizer` nests the tags properly: parsers of HTML repair misnested ones, which may
take minutes and a gigabyte for 130 kB of them.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from html import escape, unescape
from itertools import groupby

import nh3

_TEXT_BLOCKS = frozenset({"p", "h1", "h2", "h3", "h4", "h5", "h6"})
_BLOCKS = _TEXT_BLOCKS | {
    *("address", "article", "aside", "blockquote", "details", "div", "dl", "figcaption", "figure", "footer", "header", "hr"),
    *("main", "ol", "pre", "section", "summary", "table", "ul"),
}
# The items that a new one ends, and the lists that they are in.
_ITEMS = {"li": ({"li"}, {"ul", "ol"}), "dt": ({"dt", "dd"}, {"dl"}), "dd": ({"dt", "dd"}, {"dl"})}
_ROW_GROUPS = frozenset({"tbody", "thead", "tfoot"})
_CELLS = frozenset({"td", "th"})
_PARENTS_OF_TABLE_PARTS = {
    **dict.fromkeys(("caption", *_ROW_GROUPS), frozenset({"table"})),
    "tr": _ROW_GROUPS,
    **dict.fromkeys(_CELLS, frozenset({"tr"})),
}
# What a part is put into where its parent is missing, as browsers do.
_MISSING_PARENTS = {"tr": "tbody", **dict.fromkeys(_CELLS, "tr")}
_TABLE_PARTS = frozenset(_PARENTS_OF_TABLE_PARTS)
_BETWEEN_CELLS = frozenset({"table", "tr", *_ROW_GROUPS})
_INLINE = frozenset(
    {
        *("a", "abbr", "b", "bdi", "bdo", "cite", "code", "del", "dfn", "em", "i", "ins", "kbd", "mark", "q", "s", "samp"),
        *("small", "span", "strong", "sub", "sup", "time", "u", "var"),
    }
)
_VOID = frozenset({"br", "wbr"})
# Removed with what is in them. Of other elements that are not allowed, the content stays.
_REMOVED = frozenset(
    {
        *("applet", "audio", "canvas", "datalist", "iframe", "map", "math", "noembed", "noframes", "noscript", "object"),
        *("plaintext", "script", "select", "style", "svg", "template", "textarea", "title", "video", "xmp"),
    }
)
# Nothing that loads, runs, or is addressed by styles and scripts of the page: no `id`, `class`, `style` and `data-*`.
_ATTRIBUTES = {
    "*": {"dir", "lang", "title"},
    "a": {"href"},
    "li": {"value"},
    "ol": {"reversed", "start", "type"},
    "td": {"colspan", "rowspan"},
    "th": {"colspan", "rowspan", "scope"},
    "time": {"datetime"},
}
_CLEANER = nh3.Cleaner(
    tags=set(_BLOCKS | _ITEMS.keys() | _TABLE_PARTS | _INLINE | _VOID),
    clean_content_tags=set(_REMOVED),
    attributes=_ATTRIBUTES,
    url_schemes={"http", "https", "mailto", "tel"},
    link_rel="noopener noreferrer",
)

# Elements that are nested deeper are left out, and their content stays. A table is opened only where its parts have room.
MAX_BLOCK_DEPTH, MAX_INLINE_DEPTH, TABLE_DEPTH = 32, 16, 4
MAX_HTML_TAGS = 10_000

# Browsers read no tags in them. Of the other removed elements the content stays if they do not end.
_RAW = frozenset({"iframe", "noembed", "noframes", "noscript", "plaintext", "script", "style", "textarea", "title", "xmp"})

# A comment, another declaration, or a tag, about as browsers read them. `nh3` reads what comes of it again.
_MARKUP = re.compile(
    r"<!--(?:.*?-->|.*+)|<[!?][^>]*+>?|</[^a-zA-Z>][^>]*+>?|</>"
    r"|<(?P<end>/?)(?P<name>[a-zA-Z][^\s/>]*+)(?P<attributes>(?:[^>=]++|=\s*+(?:\"[^\"]*+\"|'[^']*+'|[^\s>\"'][^\s>]*+)?+)*+)>?",
    re.DOTALL,
)
_ATTRIBUTE = re.compile(r"([^\s/>=]++)(?:\s*+=\s*+(?:\"([^\"]*+)\"|'([^']*+)'|([^\s>]*+)))?+")
_END_TAGS = {name: re.compile(f"</{name}", re.IGNORECASE) for name in _REMOVED}
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")
# In text that is being extracted: between paragraphs, and between items and rows. "\n" is a line break.
_PARAGRAPH, _ITEM = "\r", "\f"
_BREAKS = re.compile(r" ?[\r\n\f][ \r\n\f]*")
_SPACES = re.compile(r"[ \t\n\f\r]+")
_SPACES_IN_LINE = re.compile(r"[ \t\f\r]+")


class HtmlLimitError(ValueError):
    """HTML that is too long once it is sanitised, or has too many tags. The message is for clients."""


@dataclass(frozen=True, slots=True)
class SafeHtml:
    """A sanitised fragment, and its text: empty lines between blocks."""

    html: str
    text: str


# Exports compare what they write with what an import would read.
@lru_cache(16)
def sanitize_html(html: str, max_characters: int, max_text_characters: int) -> SafeHtml:
    """The text, structure and links of a fragment, without all that loads or runs: a fixed point. Raises HtmlLimitError."""
    normalizer, tag_count = _Normalizer(max_characters), 0
    for text, tag in _tokenize(_CONTROL_CHARACTERS.sub("", html)):
        if (tag_count := tag_count + 1) > MAX_HTML_TAGS:
            raise HtmlLimitError(f"must have at most {MAX_HTML_TAGS:,} tags.")
        normalizer.add_text(unescape(text))
        if tag:
            normalizer.add_tag(tag["name"].lower(), tag["attributes"], is_end=bool(tag["end"]))
    # References may stand for control characters.
    clean = _CONTROL_CHARACTERS.sub("", _CLEANER.clean(normalizer.render())).strip()
    if len(clean) > max_characters:
        raise _make_length_error(max_characters)
    text = normalizer.extract_text()
    if len(text) > max_text_characters:
        raise HtmlLimitError(f"must have at most {max_text_characters:,} characters of text, not {len(text):,}.")
    return SafeHtml(clean, text)


def _make_length_error(max_characters: int) -> HtmlLimitError:
    return HtmlLimitError(f"must have at most {max_characters:,} characters once it is sanitised.")


def render_text_as_html(text: str, max_characters: int) -> str | None:
    """Plain text as HTML, in which empty lines separate paragraphs; None if it would have too many characters or tags."""
    lines = [line.strip() for line in text.splitlines()]
    paragraphs = [[*group] for is_text, group in groupby(lines, bool) if is_text]
    html = "\n".join(f"<p>{'<br>'.join(escape(line, quote=False) for line in lines)}</p>" for lines in paragraphs)
    return html if len(html) <= max_characters and html.count("<") <= MAX_HTML_TAGS else None


def _tokenize(html: str) -> Iterator[tuple[str, re.Match[str] | None]]:
    """Runs of text, each with the tag that follows it, without removed elements."""
    start, unended = 0, set[str]()
    while markup := _MARKUP.search(html, start):
        name = (markup["name"] or "").lower()
        yield html[start : markup.start()], markup if name else None
        start = markup.end()
        if name in _REMOVED and not markup["end"] and name not in unended:
            if end := _END_TAGS[name].search(html, start):
                start = end.start()
            elif name in _RAW:
                return
            else:
                unended.add(name)
    yield html[start:], None


class _Normalizer:
    """Nests tags: blocks in blocks, and inline elements around runs of text, so that they begin again in each block."""

    def __init__(self, max_characters: int) -> None:
        self._max_characters = max_characters
        # `nh3` may shorten it.
        self._room = 2 * max_characters
        self._html: list[str] = []
        self._text: list[str] = []
        # Open blocks, with the number of inline elements that were open before.
        self._blocks: list[tuple[str, int]] = []
        # Open inline elements with their start tags: the first `_rendered` of them surround the current run of text.
        self._inline: list[tuple[str, str]] = []
        self._rendered = 0

    def render(self) -> str:
        """The HTML, in which all elements end."""
        self._close_blocks(0)
        return "".join(self._html)

    def extract_text(self) -> str:
        """The plain text."""
        return _BREAKS.sub(_render_break, "".join(self._text)).strip()

    def add_text(self, text: str) -> None:
        """Add a run of text."""
        is_preformatted = any(name == "pre" for name, _ in self._blocks)
        plain = (_SPACES_IN_LINE if is_preformatted else _SPACES).sub(" ", text)
        if plain.startswith(" ") and (not self._text or self._text[-1][-1].isspace()):
            plain = plain[1:]
        if not text or (text.isspace() and self._is_between_cells()):
            return
        if not text.isspace():
            self._open_cell()
            self._open_inline()
        self._write(escape(text, quote=False), plain)

    def add_tag(self, name: str, attributes: str, *, is_end: bool) -> None:
        """Add a start or end tag. Those that are not allowed, or are nested too deep, are left out."""
        if name in _INLINE:
            self._end_inline(name, is_end=is_end)
            if not is_end and len(self._inline) < MAX_INLINE_DEPTH:
                self._inline.append((name, _render_tag(name, attributes)))
        elif name in ("br", "wbr") and not is_end:
            self._open_cell()
            self._open_inline()
            self._write(f"<{name}>", "\n" if name == "br" else "")
        elif is_end:
            barriers = () if name == "table" or name in _TABLE_PARTS else _CELLS
            self._close_last({name}, barriers)
        elif name in _TABLE_PARTS:
            self._start_table_part(name, attributes)
        elif name in _ITEMS:
            siblings, lists = _ITEMS[name]
            self._close_last(siblings, lists | _CELLS)
            self._open_block(name, attributes, _ITEM)
        elif name in _BLOCKS:
            self._open_block(name, attributes, _PARAGRAPH)

    def _start_table_part(self, name: str, attributes: str) -> None:
        parents = _PARENTS_OF_TABLE_PARTS[name]
        depth = self._find_last({*parents, "table"})
        if depth is None:
            return
        if self._blocks[depth][0] not in parents:
            self._start_table_part(_MISSING_PARENTS[name], "")
            depth = len(self._blocks) - 1
        self._close_blocks(depth + 1)
        self._open_block(name, attributes, " " if name in _CELLS else _ITEM)

    def _is_between_cells(self) -> bool:
        return bool(self._blocks) and self._blocks[-1][0] in _BETWEEN_CELLS

    def _open_cell(self) -> None:
        """What is in a table is in a cell of it."""
        if self._is_between_cells():
            self._start_table_part("td", "")

    def _open_block(self, name: str, attributes: str, separator: str) -> None:
        self._close_inline(0)
        if self._blocks and self._blocks[-1][0] in _TEXT_BLOCKS:
            self._close_blocks(len(self._blocks) - 1)
        if name not in _TABLE_PARTS:
            self._open_cell()
        if len(self._blocks) + (TABLE_DEPTH if name == "table" else 1) <= MAX_BLOCK_DEPTH:
            self._write(_render_tag(name, attributes), separator)
            if name != "hr":
                self._blocks.append((name, len(self._inline)))

    def _find_last(self, names: Collection[str], barriers: Collection[str] = ()) -> int | None:
        """The innermost open block of these, unless it is outside of a barrier."""
        for depth in range(len(self._blocks) - 1, -1, -1):
            name = self._blocks[depth][0]
            if name in names:
                return depth
            if name in barriers:
                return None
        return None

    def _close_last(self, names: Collection[str], barriers: Collection[str]) -> None:
        if (depth := self._find_last(names, barriers)) is not None:
            self._close_blocks(depth)

    def _close_blocks(self, depth: int) -> None:
        """End the blocks from this depth on."""
        self._close_inline(0)
        while len(self._blocks) > depth:
            name, inline_count = self._blocks.pop()
            if name in _CELLS:
                del self._inline[inline_count:]
            is_item = name in _TABLE_PARTS or name in _ITEMS
            self._write(f"</{name}>", "" if name in _CELLS else _ITEM if is_item else _PARAGRAPH)

    def _open_inline(self) -> None:
        for _, tag in self._inline[self._rendered :]:
            self._write(tag)
        self._rendered = len(self._inline)

    def _close_inline(self, depth: int) -> None:
        for name, _ in reversed(self._inline[depth : self._rendered]):
            self._write(f"</{name}>")
        self._rendered = min(self._rendered, depth)

    def _end_inline(self, name: str, *, is_end: bool) -> None:
        """End the innermost element of this name: by its end tag, or a link by the next one."""
        if is_end or name == "a":
            depth = next((n for n in range(len(self._inline) - 1, -1, -1) if self._inline[n][0] == name), None)
            if depth is not None:
                self._close_inline(depth)
                del self._inline[depth]

    def _write(self, html: str, text: str = "") -> None:
        self._room -= len(html)
        if self._room < 0:
            raise _make_length_error(self._max_characters)
        self._html.append(html)
        if text:
            self._text.append(text)


def _render_break(breaks: re.Match[str]) -> str:
    return "\n\n" if _PARAGRAPH in breaks[0] or breaks[0].count("\n") > 1 else "\n"


def _render_tag(name: str, attributes: str) -> str:
    """A start tag with the allowed attributes."""
    allowed = _ATTRIBUTES["*"] | _ATTRIBUTES.get(name, set())
    values: dict[str, str] = {}
    for match in _ATTRIBUTE.finditer(attributes):
        if (key := match[1].lower()) in allowed:
            values.setdefault(key, unescape(match[2] or match[3] or match[4] or ""))
    return f"<{name}" + "".join(f' {key}="{escape(value)}"' for key, value in values.items()) + ">"
