"""uvicorn's server, which closes its WebSockets gently when it ends."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Coroutine
from types import FrameType
from typing import Any

import uvicorn

from django_ws.drain import drain
from django_ws.server.base import TICK_SECONDS, BaseServer

SETTLE_SECONDS = 1.0  # for who has connected just now to say what it wants
BEAT_SECONDS = 1.0  # between the calls of on_tick, as in uvicorn's main loop
CLOSING_SECONDS = 2.0  # for the answers of the clients to the last close frames
AT_ONCE_SECONDS = 0.5  # for uvicorn to end, when it has to end at once


class Server(BaseServer):
    """``uvicorn.Server``, whose end drains the sockets first (see ``django_ws.drain``).

    The time for all of its end is ``timeout_graceful_shutdown``, where that is set. Meanwhile
    HTTP is served, and new handshakes are answered with 503: a client learns more from that
    than from a port where nobody answers. Where other processes accept on the same sockets,
    ``hand_over()`` lets them have all that comes: it accepts no more, closes the connections for
    pages that are idle, and those of others after their next answer. Who has connected and not
    spoken yet is given a second, and served.

    A second signal, or ``force_exit``, ends it at once.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._hands_over = self._has_stopped_accepting = False
        self._signals: list[int] = []

    def hand_over(self) -> None:
        """Accept no more as soon as it drains: others do. May be called in any thread."""
        self._hands_over = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._signals.append(sig)
        if len(self._signals) > 2 or (len(self._signals) > 1 and not self.started):
            os._exit(128 + sig)
        # uvicorn must not take it for a second one, where an order came before the signal.
        self.should_exit = False
        super().handle_exit(sig, frame)
        self.force_exit = self.force_exit or len(self._signals) > 1

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        self.should_exit = True  # so that on_tick does not look whether it should
        budget = self.config.timeout_graceful_shutdown
        await self._watch(self._settle(), sockets)
        await self._watch(self._drain(budget), sockets)
        if budget is not None:
            left = began + budget - loop.time()
            self.config.timeout_graceful_shutdown = max(1, round(left))
        await self._watch(super().shutdown(sockets), sockets, AT_ONCE_SECONDS)
        if self.force_exit:
            # Hooks that still run, in threads too, would be waited for.
            logging.shutdown()
            os._exit(128 + (self._signals or [signal.SIGTERM])[-1])

    async def _settle(self) -> None:
        # What was accepted just now is no connection yet, and the order to hand over may come
        # only when the parent has heard that this worker leaves.
        loop = asyncio.get_running_loop()
        soon, late = loop.time() + 2 * TICK_SECONDS, loop.time() + SETTLE_SECONDS
        while loop.time() < (  # noqa: ASYNC110  # no event
            late if self._hands_over and self._has_silent else soon
        ):
            await asyncio.sleep(TICK_SECONDS)

    async def _drain(self, budget: float | None) -> None:
        await drain(budget=budget)
        # What they have not read yet would be lost if the TCP connection ended before.
        loop = asyncio.get_running_loop()
        deadline = loop.time() + CLOSING_SECONDS
        while self._has_websockets and loop.time() < deadline:  # noqa: ASYNC110  # no event
            await asyncio.sleep(TICK_SECONDS)

    @property
    def _has_silent(self) -> bool:
        """Whether there are connections without any request yet."""
        connections = self.server_state.connections
        return any(getattr(connection, "cycle", connection) is None for connection in connections)

    @property
    def _has_websockets(self) -> bool:
        protocol: Any = self.config.ws_protocol_class
        return protocol is not None and any(
            isinstance(connection, protocol) for connection in self.server_state.connections
        )

    async def _watch(
        self,
        step: Coroutine[Any, Any, None],
        sockets: list[socket.socket] | None,
        seconds_if_forced: float = 0.0,
    ) -> None:
        """Run one step of the end; cut it off where it has to end at once."""
        loop = asyncio.get_running_loop()
        task = loop.create_task(step)
        beat = loop.time()
        forced_at: float | None = None
        try:
            while not task.done():
                if self._hands_over and not self._has_stopped_accepting:
                    self._stop_accepting(sockets)
                if self.force_exit:
                    forced_at = forced_at or loop.time()
                    if loop.time() >= forced_at + seconds_if_forced:
                        return
                if loop.time() >= beat:
                    beat += BEAT_SECONDS
                    await self.on_tick(0)
                    self._stalled.look_at_the_end(loop.time())
                    if self._hands_over:
                        self._close_idle()
                await asyncio.wait([task], timeout=TICK_SECONDS)
            task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait([task], timeout=TICK_SECONDS)

    def _stop_accepting(self, sockets: list[socket.socket] | None) -> None:
        self._has_stopped_accepting = True
        for server in self.servers:
            server.close()
        for sock in sockets or ():
            sock.close()
        self._close_idle()

    def _close_idle(self) -> None:
        """So that the next request of who keeps a connection goes to another process."""
        for connection in list(self.server_state.connections):
            if getattr(connection, "cycle", None) is not None:
                self._shut_down(connection)  # a busy one ends with its answer
