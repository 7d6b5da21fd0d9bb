"""Which HTTP status an answer has: by the code of its first error, its media type, and the edition of the specification."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from storefront.core.errors import LimitExceeded, TimedOut, Unavailable
from storefront.serving.errors import BAD_USER_INPUT, INTERNAL, PARSE_FAILED, VALIDATION_FAILED
from storefront.serving.http.negotiation import GRAPHQL_JSON, JSON

# What keeps a request from being run, whatever it asks for.
_STATUS = {
    "UNAUTHENTICATED": 401,
    "FORBIDDEN": 403,
    INTERNAL: 500,
    Unavailable.code: 503,
    "RATE_LIMITED": 429,
    TimedOut.code: 504,
}
# What is wrong with what it asks for.
_UNFIT = {
    PARSE_FAILED,
    VALIDATION_FAILED,
    BAD_USER_INPUT,
    LimitExceeded.code,
    "PERSISTED_QUERY_NOT_FOUND",
    "PERSISTED_QUERY_NOT_SUPPORTED",
    "PERSISTED_QUERY_NOT_IN_LIST",
}


@dataclass(frozen=True, slots=True)
class Edition:
    """An edition of GraphQL over HTTP.

    `unfit`: the status of a request that can be read but not run; `partial`: of an answer with both data and errors;
    `is_lenient`: whether plain application/json is 200 for whatever is a GraphQL request, which older clients count on.
    `offers`: the media types of answers, the preferred one first.
    """

    unfit: int
    partial: int
    is_lenient: bool
    offers: tuple[str, ...]

    def status(self, answer: Mapping[str, Any], media_type: str) -> int:
        """The status of an answer."""
        if "data" in answer:
            if _is_unavailable(answer):
                return 503
            return self.partial if "errors" in answer and media_type == GRAPHQL_JSON else 200
        code = answer["errors"][0]["extensions"]["code"]
        if code in _STATUS:
            return _STATUS[code]
        if code in _UNFIT and self.is_lenient and media_type == JSON:
            return 200
        return 400 if code == PARSE_FAILED else self.unfit

    def media_type(self, status: int, accepted: str) -> str:
        """In which media type to answer: what is no success says of itself that it is an answer, where it may."""
        return accepted if self.is_lenient or status < 300 else GRAPHQL_JSON


def _is_unavailable(answer: Mapping[str, Any]) -> bool:
    """Whether nothing was answered because the server or its database had no time: clients and proxies may try again."""
    if "errors" not in answer or any(value is not None for value in (answer["data"] or {}).values()):
        return False
    return all(error["extensions"]["code"] == Unavailable.code for error in answer["errors"])


# The draft by which the audit suite graphql-http tests, and which clients have been written for.
DRAFT = Edition(unfit=400, partial=200, is_lenient=True, offers=(JSON, GRAPHQL_JSON))
SEPTEMBER_2026 = Edition(unfit=422, partial=294, is_lenient=False, offers=(GRAPHQL_JSON, JSON))
EDITIONS = {"draft": DRAFT, "2026-09": SEPTEMBER_2026}
