"""New connections are accepted many at a time: under overload, a turn of the loop takes long."""

import asyncio
import socket
from contextlib import ExitStack

import uvloop

from storefront.cli.serve import ACCEPTED_PER_TURN, copy_listener

CONNECTIONS, TURNS = 4 * ACCEPTED_PER_TURN, 12


async def accept() -> int:
    """How many connections are accepted in a few turns of the loop."""
    accepted: list[asyncio.BaseTransport] = []

    class Accepted(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            accepted.append(transport)

    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=CONNECTIONS))
        servers = [await asyncio.get_running_loop().create_server(Accepted, sock=one) for one in copy_listener(listener)]
        for _ in range(CONNECTIONS):
            stack.enter_context(socket.create_connection(listener.getsockname()))
        for _ in range(TURNS):
            await asyncio.sleep(0)
        for server in servers:
            server.close()
        for transport in accepted:
            transport.close()
    return len(accepted)


def test_turn_of_the_loop_accepts_several_connections() -> None:
    assert uvloop.run(accept()) == CONNECTIONS
