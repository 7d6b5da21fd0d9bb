"""List headers of requests (RFC 9110, section 5.3: several lines form one list), and If-None-Match."""

import re

from starlette.datastructures import Headers

# An entity tag without its W/: If-None-Match compares weakly.
_ENTITY_TAG = re.compile(r'"[^"]*"')


def join_header_lines(headers: Headers, name: str) -> str | None:
    """The value of a list header over all its lines; None if it is missing."""
    lines = headers.getlist(name)
    return ", ".join(lines) if lines else None


def is_any_entity_tag(if_none_match: str | None) -> bool:
    """Whether If-None-Match is `*`, which matches any entity tag."""
    return if_none_match is not None and if_none_match.strip() == "*"


def is_not_modified(headers: Headers, entity_tag: str) -> bool:
    """Whether If-None-Match matches this entity tag: then the response to GET is 304 (RFC 9110, section 13.1.2)."""
    if_none_match = join_header_lines(headers, "if-none-match")
    return is_any_entity_tag(if_none_match) or entity_tag.removeprefix("W/") in _ENTITY_TAG.findall(if_none_match or "")
