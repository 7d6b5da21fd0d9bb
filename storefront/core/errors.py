"""What can be wrong with a request, whatever carried it. Everything else that is raised is our own fault."""


class RequestError(Exception):
    """A failure that its caller may read. `code` is the machine's word for it, `field` the input that it is about."""

    code = "BAD_REQUEST"

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class InvalidInput(RequestError):
    """A value that cannot be used. The message names the field and the mend."""

    code = "BAD_USER_INPUT"

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}", field)


class Unauthenticated(RequestError):
    """Nobody, or a token that proves nothing."""

    code = "UNAUTHENTICATED"


class Forbidden(RequestError):
    """Somebody, but not the one who may."""

    code = "FORBIDDEN"


class NotFound(RequestError):
    """Nothing there that the asker may know of."""

    code = "NOT_FOUND"
