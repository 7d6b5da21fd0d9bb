"""What can be wrong with a request, whatever carried it. Everything else that is raised is our own fault."""

from typing import Any

# The problem of a number that JSON and GraphQL can write, and a double cannot hold.
NUMBER_TOO_LARGE_PROBLEM = "must be a number between -1.8e308 and 1.8e308: this one is too large."


class RequestError(Exception):
    """A failure that its caller may read. `code` is the machine's word for it, `field` the input that it is about."""

    code = "BAD_REQUEST"
    # Seconds after which it may be tried again, where that helps.
    retry_after: int | None = None

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field

    @property
    def details(self) -> dict[str, Any]:
        """What is told to machines besides the code."""
        return {"field": self.field} if self.field else {}


class InvalidInput(RequestError):
    """A value that cannot be used. The message names the field and the mend."""

    code = "BAD_USER_INPUT"

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}", field)


class InputTooLarge(InvalidInput):
    """An input beyond its limit: `found`, where it was counted to the end, of at most `maximum` items, characters, …"""

    def __init__(self, field: str, unit: str, maximum: int, actual: int | None) -> None:
        suffix = f", not {actual:,}" if actual is not None else ""
        super().__init__(field, f"must have at most {maximum:,} {unit}{suffix}.")
        self._size_details = {"limit": unit, "maximum": maximum} | ({"found": actual} if actual is not None else {})

    @property
    def details(self) -> dict[str, Any]:
        """The field, the limit's name, what it is, and what was found."""
        return {**super().details, **self._size_details}


class Unauthenticated(RequestError):
    """Nobody, or a token that proves nothing."""

    code = "UNAUTHENTICATED"


class Forbidden(RequestError):
    """Somebody, but not the one who may."""

    code = "FORBIDDEN"


class NotFound(RequestError):
    """Nothing there that the asker may know of."""

    code = "NOT_FOUND"


class LimitExceeded(RequestError):
    """More than a limit allows: `found`, where it was counted to the end, of at most `maximum`."""

    code = "LIMIT_EXCEEDED"

    def __init__(self, limit: str, maximum: int, actual: int | None, problem: str, unit: str = "") -> None:
        allowed = f"at most {maximum:,} {unit}".rstrip()
        super().__init__(
            f"{problem}: {allowed} allowed, not {actual:,}." if actual is not None else f"{problem}: {allowed} allowed."
        )
        self.limit, self.maximum, self.actual = limit, maximum, actual

    @property
    def details(self) -> dict[str, Any]:
        """The limit's name, what it is, and what was found."""
        actual_detail = {"found": self.actual} if self.actual is not None else {}
        return {"limit": self.limit, "maximum": self.maximum, **actual_detail}


class Unavailable(RequestError):
    """More at a time than can be done."""

    code = "SERVICE_UNAVAILABLE"
    retry_after = 1


class TimedOut(RequestError):
    """It took too long, and was given up. `more` is told to machines."""

    code = "TIMEOUT"

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self._details = details

    @property
    def details(self) -> dict[str, Any]:
        """What became of the request's parts, where it had several."""
        return self._details
