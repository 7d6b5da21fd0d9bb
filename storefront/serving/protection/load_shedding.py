"""How many requests are let into the house. Beyond that each gets one answer, which costs next to nothing to give.

Whoever refuses a request as late as it would be executed has done half of what an answer takes by then. Under twice the load
that a process can bear it would be busy with refusing.
"""

from collections.abc import Callable

import orjson

from storefront.core.db.pool import BUSY

# Where a server's state, and so each connection, has it.
STATE = "storefront.admission"
# What tells whether a process is well has to be answered just then.
ALWAYS = frozenset({"/healthz", "/readyz"})

_BODY = orjson.dumps({"errors": [{"message": BUSY, "extensions": {"code": "SERVICE_UNAVAILABLE"}}]})
_HEAD = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json; charset=utf-8\r\ncache-control: no-store\r\n"
    b"retry-after: 1\r\nx-content-type-options: nosniff\r\ncontent-length: %d\r\n" % len(_BODY)
)


class Admission:
    """At most so many requests at a time, those `aside` not counted: responses that go on, which are bounded by themselves."""

    def __init__(self, most: int, aside: Callable[[], int] = lambda: 0) -> None:
        self._most, self._aside = most, aside
        self.inside = self.refused = 0

    def admits(self, path: str) -> bool:
        """Whether a request of this path may come in. Who comes in is `inside` until they leave."""
        if self.inside - self._aside() >= self._most and path not in ALWAYS:
            self.refused += 1
            return False
        self.inside += 1
        return True

    def leave(self) -> None:
        """One of those who are inside goes."""
        self.inside -= 1


def refusal(request_id: str, *, keeps_open: bool) -> bytes:
    """The whole answer to a request that is not let in."""
    last = b"" if keeps_open else b"connection: close\r\n"
    return b"%bx-request-id: %b\r\n%b\r\n%b" % (_HEAD, request_id.encode(), last, _BODY)
