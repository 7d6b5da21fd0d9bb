"""Request headers that are lists (RFC 9110, section 5.3: several lines are one list), and the conditions among them."""

import re

from starlette.datastructures import Headers

# An entity tag without its W/: If-None-Match compares weakly.
_ENTITY_TAG = re.compile(r'"[^"]*"')


def join_header_lines(headers: Headers, name: str) -> str | None:
    """The value of a list header over all its lines; None where there is none."""
    lines = headers.getlist(name)
    return ", ".join(lines) if lines else None


def is_any_entity_tag(if_none_match: str | None) -> bool:
    """Whether If-None-Match is `*`, which is true of whatever there is."""
    return if_none_match is not None and if_none_match.strip() == "*"


def is_not_modified(headers: Headers, entity_tag: str) -> bool:
    """Whether If-None-Match names this entity tag, or any: then the answer to GET is 304 (RFC 9110, section 13.1.2)."""
    if_none_match = join_header_lines(headers, "if-none-match")
    return is_any_entity_tag(if_none_match) or entity_tag.removeprefix("W/") in _ENTITY_TAG.findall(if_none_match or "")
