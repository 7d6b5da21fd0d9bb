"""Which user agents are programs that visit by themselves: a kept list, without the libraries that shops send events with."""

import re
from functools import cache, lru_cache

from crawleruseragents import CRAWLER_USER_AGENTS_DATA

# The list in few pieces: one expression of all its patterns takes longer to search than these together.
_PATTERNS_PER_EXPRESSION = 50


@lru_cache(maxsize=4_096)
def is_bot(user_agent: str) -> bool:
    """Whether it is that of a crawler, a monitor or a browser that nobody sits in front of.

    What the list knows as a plain HTTP library is not: a shop's own server that passes events on is no visitor at all.
    """
    return any(expression.search(user_agent) for expression in _compile_expressions())


@cache
def _compile_expressions() -> list[re.Pattern[str]]:
    patterns = [crawler["pattern"] for crawler in CRAWLER_USER_AGENTS_DATA if "http-library" not in crawler.get("tags", ())]
    return [
        re.compile("|".join(patterns[n : n + _PATTERNS_PER_EXPRESSION]))
        for n in range(0, len(patterns), _PATTERNS_PER_EXPRESSION)
    ]
