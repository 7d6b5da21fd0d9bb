"""The HTTP status and headers of a response: by its first error, its media type, and the edition of GraphQL over HTTP."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from storefront.core.errors import LimitExceeded, RequestError, TimedOut, Unauthenticated, Unavailable
from storefront.serving.errors import BAD_USER_INPUT, INTERNAL_SERVER_ERROR, PARSE_FAILED, VALIDATION_FAILED
from storefront.serving.http.negotiation import GRAPHQL_JSON, JSON
from storefront.serving.protection.rate_limit import RateLimited

# Errors that do not depend on the document.
_STATUS_BY_CODE = {
    "UNAUTHENTICATED": 401,
    "FORBIDDEN": 403,
    INTERNAL_SERVER_ERROR: 500,
    Unavailable.code: 503,
    "RATE_LIMITED": 429,
    TimedOut.code: 504,
}
# Errors of the document or the variables.
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

    `unexecutable_status`: for a well-formed request that cannot be executed; `partial_status`: for data with errors.
    `is_lenient`: whether application/json has status 200 for any well-formed request, as older clients expect.
    `media_types`: those of responses, the preferred one first.
    """

    unexecutable_status: int
    partial_status: int
    is_lenient: bool
    media_types: tuple[str, ...]

    def choose_status(self, response: Mapping[str, Any], media_type: str) -> int:
        """The HTTP status of a response."""
        if "data" in response:
            if code := _find_code_without_data(response):
                return _STATUS_BY_CODE[code]
            return self.partial_status if "errors" in response and media_type == GRAPHQL_JSON else 200
        code = response["errors"][0]["extensions"]["code"]
        if code in _STATUS_BY_CODE:
            return _STATUS_BY_CODE[code]
        if code in _UNEXECUTABLE_CODES and self.is_lenient and media_type == JSON:
            return 200
        return 400 if code == PARSE_FAILED else self.unexecutable_status

    def choose_media_type(self, status: int, accepted_type: str) -> str:
        """The media type of a response. A strict edition sends errors as application/graphql-response+json only."""
        return accepted_type if self.is_lenient or status < 300 else GRAPHQL_JSON


def _find_code_without_data(response: Mapping[str, Any]) -> str | None:
    """The code of all errors of a response without data, if a retry may succeed: clients and proxies see it by the status."""
    if "errors" not in response or any(value is not None for value in (response["data"] or {}).values()):
        return None
    codes = {error["extensions"]["code"] for error in response["errors"]}
    return codes.pop() if codes in ({Unavailable.code}, {TimedOut.code}) else None


def build_error_headers(error: Exception) -> dict[str, str]:
    """The response headers of an error: WWW-Authenticate, Retry-After and RateLimit."""
    challenge = {"www-authenticate": "Bearer"} if isinstance(error, Unauthenticated) else {}
    retry_after = {"retry-after": str(error.retry_after)} if isinstance(error, RequestError) and error.retry_after else {}
    rate_limit = error.state.to_headers() if isinstance(error, RateLimited) else {}
    return challenge | retry_after | rate_limit


# The draft that the audit suite graphql-http tests, and that clients are written for.
DRAFT = SpecEdition(unexecutable_status=400, partial_status=200, is_lenient=True, media_types=(JSON, GRAPHQL_JSON))
SEPTEMBER_2026 = SpecEdition(unexecutable_status=422, partial_status=294, is_lenient=False, media_types=(GRAPHQL_JSON, JSON))
EDITIONS = {"draft": DRAFT, "2026-09": SEPTEMBER_2026}
