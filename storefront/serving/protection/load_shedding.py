"""How many requests are let into the house. Beyond that each gets one answer, which costs next to nothing to give.

Whoever refuses a request as late as it would be executed has done half of what an answer takes by then. Under twice the load
that a process can bear it would be busy with refusing.
"""

from collections.abc import Callable

import orjson

from storefront.core.db.pool import POOL_EXHAUSTED_MESSAGE

# Where a server's state, and so each connection, has it.
LOAD_SHEDDER_STATE_KEY = "storefront.admission"
# What tells whether a process is well has to be answered just then.
EXEMPT_PATHS = frozenset({"/healthz", "/readyz"})

_OVERLOAD_BODY = orjson.dumps({"errors": [{"message": POOL_EXHAUSTED_MESSAGE, "extensions": {"code": "SERVICE_UNAVAILABLE"}}]})
_OVERLOAD_HEAD = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json; charset=utf-8\r\ncache-control: no-store\r\n"
    b"retry-after: 1\r\nx-content-type-options: nosniff\r\ncontent-length: %d\r\n" % len(_OVERLOAD_BODY)
)


class LoadShedder:
    """At most so many requests at a time, those `aside` not counted: responses that go on, which are bounded by themselves."""

    def __init__(self, max_requests: int, count_exempt: Callable[[], int] = lambda: 0) -> None:
        self._max_requests, self._count_exempt = max_requests, count_exempt
        self.in_flight = self.rejected_count = 0

    def try_admit(self, path: str) -> bool:
        """Whether a request of this path may come in. Who comes in is `inside` until they leave."""
        if self.in_flight - self._count_exempt() >= self._max_requests and path not in EXEMPT_PATHS:
            self.rejected_count += 1
            return False
        self.in_flight += 1
        return True

    def release(self) -> None:
        """One of those who are inside goes."""
        self.in_flight -= 1


def render_overload_response(request_id: str, *, keep_alive: bool) -> bytes:
    """The whole answer to a request that is not let in."""
    connection_header = b"" if keep_alive else b"connection: close\r\n"
    return b"%bx-request-id: %b\r\n%b\r\n%b" % (_OVERLOAD_HEAD, request_id.encode(), connection_header, _OVERLOAD_BODY)
