"""uvicorn's server, but no single connection can keep it from ending."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

import uvicorn

from django_ws.server.faults import abort_faulty
from django_ws.server.http.limits import limits_of
from django_ws.server.http.waiting import waiting_of
from django_ws.server.protocol.stalled import Stalled

logger = logging.getLogger("uvicorn.error")

TICK_SECONDS = 0.05  # until it is noticed that all is over


class BaseServer(uvicorn.Server):
    """``uvicorn.Server``, but

    - what one connection raises at the end neither keeps others from theirs, nor the application
      from its ``lifespan.shutdown``;
    - a connection whose client reads nothing is aborted, at the end and before.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stalled = Stalled(self.server_state.connections)

    async def on_tick(self, counter: int) -> bool:
        self._stalled.look(asyncio.get_running_loop().time())
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, step by step."""
        logger.info("Shutting down")
        for server in self.servers:
            server.close()
        for sock in sockets or ():
            sock.close()
        loop = asyncio.get_running_loop()
        waiting_of(self.server_state, loop, limits_of(self.config)).end()
        for connection in list(self.server_state.connections):
            self._shut_down(connection)
        await asyncio.sleep(TICK_SECONDS)
        try:
            async with asyncio.timeout(self.config.timeout_graceful_shutdown):
                await self._wait_until_over()
        except TimeoutError:
            tasks = self.server_state.tasks
            logger.error("Not ended in time, and cancelled: %d of the server's tasks", len(tasks))
            for task in tasks:
                task.cancel(msg="the server's graceful time-out is over")
        if not self.force_exit:
            await self.lifespan.shutdown()

    def _shut_down(self, connection: Any) -> None:
        try:
            connection.shutdown()
        except Exception as error:
            abort_faulty(connection, "closed", error)

    async def _wait_until_over(self) -> None:
        """Until all connections are closed, and all tasks have ended; or it has to end at once."""
        loop, state = asyncio.get_running_loop(), self.server_state
        if state.connections or state.tasks:
            logger.info("Waiting for connections to close and tasks to end")
        while (state.connections or state.tasks) and not self.force_exit:
            self._stalled.look_at_the_end(loop.time())
            await asyncio.sleep(TICK_SECONDS)
