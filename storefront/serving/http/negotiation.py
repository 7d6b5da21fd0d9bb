"""Which media types a client takes answers in, by its Accept header (RFC 9110, section 12.5.1)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from storefront.serving.http.stream_formats import EVENT_STREAM, MULTIPART, Framing

_QUALITY = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")

# Ranges that are looked at: browsers send half a dozen.
MOST_RANGES = 50

GRAPHQL_JSON = "application/graphql-response+json"
JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Accepted:
    """What a client takes: one answer as which kind of JSON, several as which kind of stream. None: not at all."""

    json: str | None
    stream: Framing | None


@dataclass(frozen=True, slots=True)
class _Range:
    """Some of the media types there are, and how much the client likes them. `precision`: 0 for all of them, 2 for one."""

    name: str
    parameters: frozenset[tuple[str, str]]
    quality: float

    @property
    def precision(self) -> int:
        return 0 if self.name == "*/*" else 1 if self.name.endswith("/*") else 2

    def has(self, offer: str, parameters: frozenset[tuple[str, str]]) -> bool:
        if self.name not in ("*/*", offer.partition("/")[0] + "/*", offer):
            return False
        # Of what a client adds, only the encoding is a wish of its own: everything is UTF-8. What an offer adds has to be named.
        return parameters <= self.parameters and dict(self.parameters).get("charset", "utf-8") == "utf-8"


@lru_cache(maxsize=256)
def accepted(header: str | None, offers: Sequence[str] = (JSON, GRAPHQL_JSON)) -> Accepted:
    """What the header says. Where it leaves the choice to us, it is the first offer; streams are for those who name them."""
    ranges = _ranges(header or "*/*")
    named = [range_ for range_ in ranges if range_.precision == 2]
    stream = _best([(framing.media_type, framing.parameters) for framing in (EVENT_STREAM, MULTIPART)], named)
    return Accepted(_best([(offer, frozenset()) for offer in offers], ranges), _FRAMINGS[stream] if stream else None)


_FRAMINGS = {framing.media_type: framing for framing in (EVENT_STREAM, MULTIPART)}


def _best(offers: Sequence[tuple[str, frozenset[tuple[str, str]]]], ranges: Sequence[_Range]) -> str | None:
    """The offer that is liked most; of equals the one that was named first."""
    liked = []
    for place, (offer, parameters) in enumerate(offers):
        fitting = [(range_.precision, -at, range_.quality) for at, range_ in enumerate(ranges) if range_.has(offer, parameters)]
        if fitting:
            # The most precise range tells of its media types, whatever a wider one says.
            precision, at, quality = max(fitting)
            liked.append((quality, precision, at, -place, offer))
    return max(liked)[-1] if liked and max(liked)[0] > 0 else None


def _ranges(header: str) -> list[_Range]:
    return [range_ for part in header.lower().split(",", MOST_RANGES)[:MOST_RANGES] if (range_ := _range(part)) is not None]


def _range(text: str) -> _Range | None:
    name, *parts = (part.strip() for part in text.split(";"))
    parameters = {key.strip(): value.strip(' "') for key, _, value in (part.partition("=") for part in parts)}
    quality = parameters.pop("q", "1")
    if "/" not in name or not _QUALITY.fullmatch(quality):
        return None
    return _Range(name, frozenset(parameters.items()), float(quality))
