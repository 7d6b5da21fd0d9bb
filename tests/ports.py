"""Ports for the servers of tests."""

import random
import socket
from contextlib import ExitStack
from pathlib import Path

# The range from which Linux gives ports to connections: such a port may be taken by one of them before its server starts.
EPHEMERAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
FIRST_PORT, LAST_PORT = 10_000, 32_767


def free_port(count: int = 1) -> int:
    """A port that no server has, and that no connection gets; with the ports that follow it, if there are to be several."""
    last = min(LAST_PORT, int(EPHEMERAL_PORTS.read_text().split()[0]) - 1) if EPHEMERAL_PORTS.exists() else LAST_PORT
    while True:
        # Not seeded: several processes look for ports at the same time.
        first = random.SystemRandom().randint(FIRST_PORT, last - count)
        try:
            with ExitStack() as stack:
                for port in range(first, first + count):
                    stack.enter_context(socket.create_server(("127.0.0.1", port)))
        except OSError:
            continue
        return first
