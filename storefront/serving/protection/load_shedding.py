"""Load shedding: limits the requests in flight. Requests beyond the limit get a precomputed 503, which costs next to nothing.

A request that is rejected only when it would be executed has cost half of a response by then. Under twice the load that it can
serve, a process would be busy with rejecting.
"""

from collections.abc import Callable

import orjson

from storefront.core.db.pool import POOL_EXHAUSTED_MESSAGE

# The key of the server's state, which each connection has, with the LoadShedder.
LOAD_SHEDDER_STATE_KEY = "storefront.load_shedder"
# Health checks have to be served under overload as well.
EXEMPT_PATHS = frozenset({"/healthz", "/readyz"})

_OVERLOAD_BODY = orjson.dumps({"errors": [{"message": POOL_EXHAUSTED_MESSAGE, "extensions": {"code": "SERVICE_UNAVAILABLE"}}]})
_OVERLOAD_HEAD = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json; charset=utf-8\r\ncache-control: no-store\r\n"
    b"retry-after: 1\r\nx-content-type-options: nosniff\r\ncontent-length: %d\r\n" % len(_OVERLOAD_BODY)
)


class LoadShedder:
    """Limits the requests in flight. `count_exempt`: how many of them do not count, such as streams with their own limit."""

    def __init__(self, max_requests: int, count_exempt: Callable[[], int] = lambda: 0) -> None:
        self._max_requests, self._count_exempt = max_requests, count_exempt
        self.in_flight = self.rejected_count = 0

    def try_admit(self, path: str) -> bool:
        """Whether a request for this path is admitted. An admitted request is in flight until `release`."""
        if self.in_flight - self._count_exempt() >= self._max_requests and path not in EXEMPT_PATHS:
            self.rejected_count += 1
            return False
        self.in_flight += 1
        return True

    def release(self) -> None:
        """An admitted request has ended."""
        self.in_flight -= 1


def render_overload_response(request_id: str, *, keep_alive: bool) -> bytes:
    """The complete HTTP response to a shed request: 503 with Retry-After."""
    connection_header = b"" if keep_alive else b"connection: close\r\n"
    return b"%bx-request-id: %b\r\n%b\r\n%b" % (_OVERLOAD_HEAD, request_id.encode(), connection_header, _OVERLOAD_BODY)
