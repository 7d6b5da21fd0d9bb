"""Which user agents are programs that visit by themselves: a kept list, without the libraries that shops send events with."""

import re
from functools import cache, lru_cache

from crawleruseragents import CRAWLER_USER_AGENTS_DATA

# The list in few pieces: one expression of all its patterns takes longer to search than these together.
_PIECE = 50


@lru_cache(maxsize=4_096)
def is_bot(user_agent: str) -> bool:
    """Whether it is that of a crawler, a monitor or a browser that nobody sits in front of.

    What the list knows as a plain HTTP library is not: a shop's own server that passes events on is no visitor at all.
    """
    return any(piece.search(user_agent) for piece in _pieces())


@cache
def _pieces() -> list[re.Pattern[str]]:
    patterns = [known["pattern"] for known in CRAWLER_USER_AGENTS_DATA if "http-library" not in known.get("tags", ())]
    return [re.compile("|".join(patterns[n : n + _PIECE])) for n in range(0, len(patterns), _PIECE)]
