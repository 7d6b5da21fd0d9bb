"""Content negotiation by the Accept header (RFC 9110, section 12.5.1)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from storefront.serving.http.stream_formats import EVENT_STREAM, MULTIPART, StreamFormat

_QUALITY_PATTERN = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")

# The number of media ranges that are read. Browsers send half a dozen.
MAX_RANGES = 50

GRAPHQL_JSON = "application/graphql-response+json"
JSON = "application/json"


@dataclass(frozen=True, slots=True)
class AcceptedTypes:
    """What a client accepts: the media type of a single JSON response, and the format of a stream. None: not accepted."""

    json: str | None
    stream: StreamFormat | None


@dataclass(frozen=True, slots=True)
class _MediaRange:
    """A media range with its quality. `specificity`: 0 for `*/*`, 1 for `type/*`, 2 for one media type."""

    name: str
    parameters: frozenset[tuple[str, str]]
    quality: float

    @property
    def specificity(self) -> int:
        return 0 if self.name == "*/*" else 1 if self.name.endswith("/*") else 2

    def matches(self, offer: str, parameters: frozenset[tuple[str, str]]) -> bool:
        if self.name not in ("*/*", offer.partition("/")[0] + "/*", offer):
            return False
        # Parameters of the range are ignored, except for charset: responses are UTF-8. Parameters of the offer are required.
        return parameters <= self.parameters and dict(self.parameters).get("charset", "utf-8") == "utf-8"


@lru_cache(maxsize=256)
def negotiate_media_types(header: str | None, offers: Sequence[str] = (JSON, GRAPHQL_JSON)) -> AcceptedTypes:
    """Negotiate by the header. Of equal offers the first one is chosen; streams have to be named, `*/*` does not match them."""
    ranges = _parse_ranges(header or "*/*")
    exact_ranges = [range_ for range_ in ranges if range_.specificity == 2]
    stream = _choose_best_offer(
        [(format_.media_type, format_.required_parameters) for format_ in _STREAM_FORMATS.values()], exact_ranges
    )
    return AcceptedTypes(
        _choose_best_offer([(offer, frozenset()) for offer in offers], ranges),
        _STREAM_FORMATS[stream] if stream else None,
    )


_STREAM_FORMATS = {format_.media_type: format_ for format_ in (EVENT_STREAM, MULTIPART)}


def _choose_best_offer(offers: Sequence[tuple[str, frozenset[tuple[str, str]]]], ranges: Sequence[_MediaRange]) -> str | None:
    """The offer with the highest quality; of equal ones the most specific, then the one that the header names first."""
    candidates = []
    for offer_index, (offer, parameters) in enumerate(offers):
        matching = [
            (range_.specificity, -range_index, range_.quality)
            for range_index, range_ in enumerate(ranges)
            if range_.matches(offer, parameters)
        ]
        if matching:
            # The most specific range that matches takes precedence.
            specificity, range_index, quality = max(matching)
            candidates.append((quality, specificity, range_index, -offer_index, offer))
    return max(candidates)[-1] if candidates and max(candidates)[0] > 0 else None


def _parse_ranges(header: str) -> list[_MediaRange]:
    return [range_ for item in header.lower().split(",", MAX_RANGES)[:MAX_RANGES] if (range_ := _parse_range(item)) is not None]


def _parse_range(text: str) -> _MediaRange | None:
    name, *parameter_texts = (part.strip() for part in text.split(";"))
    parameters = {key.strip(): value.strip(' "') for key, _, value in (part.partition("=") for part in parameter_texts)}
    quality = parameters.pop("q", "1")
    if "/" not in name or not _QUALITY_PATTERN.fullmatch(quality):
        return None
    return _MediaRange(name, frozenset(parameters.items()), float(quality))
