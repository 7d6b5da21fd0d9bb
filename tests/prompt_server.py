"""A Uvicorn server that ends when it is asked to, without Uvicorn's waits of a tenth of a second: hundreds of tests start one."""

import asyncio
import socket

import uvicorn

_POLL_SECONDS = 0.005


class PromptServer(uvicorn.Server):
    """Ends as Uvicorn does, in the same order, and waits only as long as a connection or a task is open."""

    async def main_loop(self) -> None:
        """Run until `should_exit`."""
        ticks = 0
        while not await self.on_tick(ticks):
            # The date header changes with every tenth of them.
            ticks += 1
            for _ in range(20):
                await asyncio.sleep(_POLL_SECONDS)
                if self.should_exit:
                    break

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more connections, end the open ones, then the application."""
        for server in self.servers:
            server.close()
        for one in sockets or []:
            one.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        while self.server_state.connections or self.server_state.tasks:  # noqa: ASYNC110  Uvicorn reports neither
            await asyncio.sleep(_POLL_SECONDS)
        for server in self.servers:
            await server.wait_closed()
        await self.lifespan.shutdown()
