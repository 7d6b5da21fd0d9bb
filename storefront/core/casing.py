"""The two spellings of a field: compareAtPrice in GraphQL and in documents, compare_at_price in Python and in tables."""

import re
from functools import cache

_UPPER_CASE_LETTER = re.compile(r"(?<=[a-z0-9])[A-Z]")


@cache
def to_camel_case(name: str) -> str:
    """The spelling in GraphQL."""
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


@cache
def to_snake_case(name: str) -> str:
    """The spelling of columns."""
    return _UPPER_CASE_LETTER.sub(lambda match: "_" + match[0], name).lower()
