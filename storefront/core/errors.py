"""Errors of requests, independent of the protocol. Every other exception is an internal error of the server."""

from typing import Any

# JSON and GraphQL can express numbers beyond the range of a double.
NUMBER_TOO_LARGE_PROBLEM = "must be a number between -1.8e308 and 1.8e308: this one is too large."


class RequestError(Exception):
    """An error that the client may see. `code` is its machine-readable code, `field` the path of the invalid input."""

    code = "BAD_REQUEST"
    # Seconds after which the client may retry, where a retry can succeed.
    retry_after: int | None = None

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field

    @property
    def details(self) -> dict[str, Any]:
        """Machine-readable details besides the code (GraphQL extensions)."""
        return {"field": self.field} if self.field else {}


class InvalidInput(RequestError):
    """Invalid input. The message names the field and the fix."""

    code = "BAD_USER_INPUT"

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}", field)


class InputTooLarge(InvalidInput):
    """An input exceeds its limit of `maximum` items, characters, …; `actual` is None where counting stopped early."""

    def __init__(self, field: str, unit: str, maximum: int, actual: int | None) -> None:
        suffix = f", not {actual:,}" if actual is not None else ""
        super().__init__(field, f"must have at most {maximum:,} {unit}{suffix}.")
        self._size_details = {"limit": unit, "maximum": maximum} | ({"found": actual} if actual is not None else {})

    @property
    def details(self) -> dict[str, Any]:
        """The field, the limit's name, its maximum, and the actual number where it is known."""
        return {**super().details, **self._size_details}


class Unauthenticated(RequestError):
    """Credentials are missing or invalid."""

    code = "UNAUTHENTICATED"


class Forbidden(RequestError):
    """The viewer lacks permission."""

    code = "FORBIDDEN"


class NotFound(RequestError):
    """The object does not exist, or the viewer may not see it."""

    code = "NOT_FOUND"


class LimitExceeded(RequestError):
    """A request exceeds a limit of `maximum`; `actual` is None where counting stopped early."""

    code = "LIMIT_EXCEEDED"

    def __init__(self, limit: str, maximum: int, actual: int | None, problem: str, unit: str = "") -> None:
        allowed = f"at most {maximum:,} {unit}".rstrip()
        super().__init__(
            f"{problem}: {allowed} allowed, not {actual:,}." if actual is not None else f"{problem}: {allowed} allowed."
        )
        self.limit, self.maximum, self.actual = limit, maximum, actual

    @property
    def details(self) -> dict[str, Any]:
        """The limit's name, its maximum, and the actual number where it is known."""
        actual_detail = {"found": self.actual} if self.actual is not None else {}
        return {"limit": self.limit, "maximum": self.maximum, **actual_detail}


class Unavailable(RequestError):
    """The server is overloaded (load shedding). A retry may succeed."""

    code = "SERVICE_UNAVAILABLE"
    retry_after = 1


class LockTimeout(Unavailable):
    """Other transactions have locked the same rows for too long. Nothing was done."""


class TimedOut(RequestError):
    """The deadline was exceeded and the request cancelled. `details` go into the extensions."""

    code = "TIMEOUT"

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self._details = details

    @property
    def details(self) -> dict[str, Any]:
        """The outcome of each part of the request, where it had several."""
        return self._details
