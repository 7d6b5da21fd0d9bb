"""The limit on open connections. A new connection beyond it closes the longest idle one.

Without it, idle connections use up the file descriptors of the process, and new clients wait until one of them times out.
"""

import resource
from collections import OrderedDict
from collections.abc import Callable
from itertools import islice
from typing import Any

# The key of the server's state, which each connection has, with the ConnectionLimit.
CONNECTION_LIMIT_STATE_KEY = "storefront.connections"

# Open files that are not connections of clients: those of database pools, outbound requests, imports and uploads. An eighth of
# the files that a process may open, and at least so many.
MIN_RESERVED_FILES, RESERVED_RATIO = 100, 1 / 8
# More connections than WebSockets and streams by default take needless memory, whatever the operating system allows.
MAX_DEFAULT_CONNECTIONS = 30_000
# How many of the longest idle connections are searched for one to close.
MAX_SEARCHED = 20


def compute_default_max_connections() -> int:
    """The maximum of connections for the files that this process may open (RLIMIT_NOFILE)."""
    max_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if max_files == resource.RLIM_INFINITY:
        return MAX_DEFAULT_CONNECTIONS
    return max(1, min(MAX_DEFAULT_CONNECTIONS, max_files - max(MIN_RESERVED_FILES, round(RESERVED_RATIO * max_files))))


class ConnectionLimit:
    """The open connections of a process by their transport, and the idle ones among them, the longest idle first."""

    def __init__(self, max_connections: int) -> None:
        self._max_connections = max_connections
        self._open: set[Any] = set()
        self._idle: OrderedDict[Any, Callable[[], bool]] = OrderedDict()
        self.closed_count = self.rejected_count = 0
        # Whether the server shuts down.
        self.is_draining = False

    @property
    def count(self) -> int:
        """The number of open connections."""
        return len(self._open)

    def try_open(self, transport: Any, has_unread_request: Callable[[], bool]) -> bool:
        """Register a new connection, which is idle. Closes another idle one if there are too many.

        `has_unread_request`: whether a request has arrived that is not read yet. Returns False if no connection is idle.
        """
        if len(self._open) >= self._max_connections and not self._close_longest_idle():
            self.rejected_count += 1
            return False
        self._open.add(transport)
        self._idle[transport] = has_unread_request
        return True

    def drain(self) -> None:
        """Graceful shutdown: from now on each connection ends with its response, and is closed if its client is silent."""
        self.is_draining = True

    def set_busy(self, transport: Any) -> None:
        """A request has begun on the connection, or it became a WebSocket."""
        self._idle.pop(transport, None)

    def set_idle(self, transport: Any, has_unread_request: Callable[[], bool]) -> None:
        """All requests of the connection have been answered."""
        if transport in self._open:
            self._idle[transport] = has_unread_request

    def close(self, transport: Any) -> None:
        """The connection has been closed."""
        self._open.discard(transport)
        self._idle.pop(transport, None)

    def _close_longest_idle(self) -> bool:
        candidates = list(islice(self._idle.items(), MAX_SEARCHED))
        transport = next((transport for transport, has_unread_request in candidates if not has_unread_request()), None)
        if transport is None:
            return False
        self.close(transport)
        self.closed_count += 1
        transport.close()
        return True
