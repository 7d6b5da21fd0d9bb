"""Bot detection by user agent: a maintained list of crawlers, without the HTTP libraries that shops send events with."""

import re
from functools import cache, lru_cache

from crawleruseragents import CRAWLER_USER_AGENTS_DATA

# Several expressions: a single one of all patterns takes longer to search than these together.
_PATTERNS_PER_EXPRESSION = 50


@lru_cache(maxsize=4_096)
def is_bot(user_agent: str) -> bool:
    """Whether a user agent is a crawler, a monitor or a headless browser.

    HTTP libraries in the list do not count as bots: a shop's server uses them to forward the events of its shoppers.
    """
    return any(expression.search(user_agent) for expression in _compile_expressions())


@cache
def _compile_expressions() -> list[re.Pattern[str]]:
    patterns = [crawler["pattern"] for crawler in CRAWLER_USER_AGENTS_DATA if "http-library" not in crawler.get("tags", ())]
    return [
        re.compile("|".join(patterns[n : n + _PATTERNS_PER_EXPRESSION]))
        for n in range(0, len(patterns), _PATTERNS_PER_EXPRESSION)
    ]
