"""Which HTTP status an answer has: by the code of its first error, its media type, and the edition of the specification."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from storefront.core.errors import LimitExceeded, TimedOut, Unavailable
from storefront.serving.errors import BAD_USER_INPUT, INTERNAL_SERVER_ERROR, PARSE_FAILED, VALIDATION_FAILED
from storefront.serving.http.negotiation import GRAPHQL_JSON, JSON

# What keeps a request from being run, whatever it asks for.
_STATUS_BY_CODE = {
    "UNAUTHENTICATED": 401,
    "FORBIDDEN": 403,
    INTERNAL_SERVER_ERROR: 500,
    Unavailable.code: 503,
    "RATE_LIMITED": 429,
    TimedOut.code: 504,
}
# What is wrong with what it asks for.
_UNEXECUTABLE_CODES = {
    PARSE_FAILED,
    VALIDATION_FAILED,
    BAD_USER_INPUT,
    LimitExceeded.code,
    "PERSISTED_QUERY_NOT_FOUND",
    "PERSISTED_QUERY_NOT_SUPPORTED",
    "PERSISTED_QUERY_NOT_IN_LIST",
}


@dataclass(frozen=True, slots=True)
class SpecEdition:
    """An edition of GraphQL over HTTP.

    `unfit`: the status of a request that can be read but not run; `partial`: of an answer with both data and errors;
    `is_lenient`: whether plain application/json is 200 for whatever is a GraphQL request, which older clients count on.
    `offers`: the media types of answers, the preferred one first.
    """

    unexecutable_status: int
    partial_status: int
    is_lenient: bool
    media_types: tuple[str, ...]

    def choose_status(self, response: Mapping[str, Any], media_type: str) -> int:
        """The status of an answer."""
        if "data" in response:
            if _is_unavailable(response):
                return 503
            return self.partial_status if "errors" in response and media_type == GRAPHQL_JSON else 200
        code = response["errors"][0]["extensions"]["code"]
        if code in _STATUS_BY_CODE:
            return _STATUS_BY_CODE[code]
        if code in _UNEXECUTABLE_CODES and self.is_lenient and media_type == JSON:
            return 200
        return 400 if code == PARSE_FAILED else self.unexecutable_status

    def choose_media_type(self, status: int, accepted_type: str) -> str:
        """In which media type to answer: what is no success says of itself that it is an answer, where it may."""
        return accepted_type if self.is_lenient or status < 300 else GRAPHQL_JSON


def _is_unavailable(response: Mapping[str, Any]) -> bool:
    """Whether nothing was answered because the server or its database had no time: clients and proxies may try again."""
    if "errors" not in response or any(value is not None for value in (response["data"] or {}).values()):
        return False
    return all(error["extensions"]["code"] == Unavailable.code for error in response["errors"])


# The draft by which the audit suite graphql-http tests, and which clients have been written for.
DRAFT = SpecEdition(unexecutable_status=400, partial_status=200, is_lenient=True, media_types=(JSON, GRAPHQL_JSON))
SEPTEMBER_2026 = SpecEdition(unexecutable_status=422, partial_status=294, is_lenient=False, media_types=(GRAPHQL_JSON, JSON))
EDITIONS = {"draft": DRAFT, "2026-09": SEPTEMBER_2026}
