"""Accepting connections, so that all workers get their share.

All workers listen on the same sockets, and whoever wakes first could take all that come at once.
So a worker that has more connections than another one leaves new ones to that for a moment: they
wait in the sockets' queue, where any worker can take them, and none is lost when one ends.

Accepting is cheap, and is done as fast as it goes, since the queue has a bound. What follows, the
handshake, is not: it begins for a few connections at a time.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import socket
import ssl
from collections import deque
from collections.abc import Callable, Sequence, Sized
from typing import Any

from django_ws.logs.throttled import ThrottledLog
from django_ws.server.http.waiting import Phase, Waiting
from django_ws.server.workers.shared_table import Row

logger = logging.getLogger("uvicorn.error")

AT_ONCE = 256  # accepted in one turn of the event loop
BEGUN_AT_ONCE = 8
LEAD = 4  # connections that a worker may have more than the one with the fewest,
LEAD_SHARE = 1 / 16  # or so many of what that one has
PAUSE_SECONDS = 0.005  # while others are to take what comes
NO_ROOM_SECONDS = 1.0  # where there are no descriptors left
TLS_END_SECONDS = 5.0  # for a client to answer the end of TLS; asyncio's default is 30

_no_room = ThrottledLog(logger, logging.ERROR, "failures to accept connections")


class BeginsTLS:
    """A connection that has not finished TLS: one of those that wait for their client."""

    phase: Phase | None = None
    is_held_back = False

    def __init__(self, task: Any) -> None:
        self._task = task

    def timed_out(self, phase: Phase) -> None:
        self._task.cancel()

    def drop(self) -> None:
        self._task.cancel()


class Accepting:
    """Has the methods of an ``asyncio.Server`` that uvicorn calls. For the event loop's thread.

    ``connections`` are those that were made with ``new_protocol`` and have not ended. A handshake
    of TLS may take ``tls_timeout`` seconds; ``waiting`` bounds how many there may be.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        new_protocol: Callable[[], asyncio.BaseProtocol],
        connections: Sized,
        row: Row,
        tls: ssl.SSLContext | None = None,
        tls_timeout: float = 10.0,
        waiting: Waiting | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sockets = list(sockets)
        self._new_protocol = new_protocol
        self._connections = connections
        self._row = row
        self._tls = tls
        self._tls_timeout = tls_timeout
        self._waiting = waiting
        self._context = contextvars.copy_context()  # everything here runs in a copy of it
        self._arrived: deque[socket.socket] = deque()
        self._beginning: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._is_closed = self._has_no_room = False
        self.can_serve = True  # otherwise others are left what comes, where there are others
        self.accepted = 0  # connections, in all
        for listener in self._sockets:
            listener.setblocking(False)
        self._start_accepting()

    @property
    def count(self) -> int:
        """The connections that are there, and those that have just been accepted."""
        return len(self._connections) + self.beginning

    @property
    def beginning(self) -> int:
        """The connections that have been accepted, and are not made yet."""
        return len(self._arrived) + len(self._beginning)

    def show(self) -> None:
        """Tell the other workers how many there are. To be called several times a second."""
        is_away = self._is_closed or self._has_no_room or not self.can_serve
        self._row.show(self.count, accepts=not is_away)

    # As asyncio.Server

    def close(self) -> None:
        """Accept no more; what was accepted is served. Again is no harm."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._pause is None:
            self._stop_accepting()
        else:
            self._pause.cancel()
        self.show()

    async def wait_closed(self) -> None: ...

    # Accepting

    def _start_accepting(self) -> None:
        self._pause = None
        self._has_no_room = False
        for listener in self._sockets:
            self._context.copy().run(self._loop.add_reader, listener, self._accept, listener)

    def _stop_accepting(self) -> None:
        for listener in self._sockets:
            self._loop.remove_reader(listener)

    def _pause_for(self, seconds: float) -> None:
        self._stop_accepting()
        self._pause = self._loop.call_later(
            seconds, self._start_accepting, context=self._context.copy()
        )

    def _accept(self, listener: socket.socket) -> None:
        """Somebody wants to connect, or did: another worker may have been faster."""
        allowed = self._allowed
        if allowed <= 0:
            self._pause_for(PAUSE_SECONDS)
            return
        for _ in range(allowed):
            try:
                accepted, _ = listener.accept()
            except BlockingIOError:
                break
            except ConnectionAbortedError:
                continue
            except OSError as error:
                self._wait_for_room(error)
                break
            self.accepted += 1
            accepted.setblocking(False)
            if not self._arrived:
                self._loop.call_soon(self._begin_some, context=self._context.copy())
            self._arrived.append(accepted)
        self.show()

    @property
    def _allowed(self) -> int:
        """How many may be accepted now, for all workers to have about the same."""
        fewest = self._row.fewest_elsewhere()
        if fewest is None:
            return AT_ONCE
        if not self.can_serve:
            return 0
        lead = max(LEAD, fewest * LEAD_SHARE)
        return min(AT_ONCE, int(fewest + lead) - self.count)

    def _wait_for_room(self, error: OSError) -> None:
        self._has_no_room = True
        _no_room.log(
            error.errno,
            "No connection can be accepted: %s. The next attempt is in %g s; %d connections are "
            "open. Raise the limit (docs/capacity.md), or start more workers",
            error.strerror,
            NO_ROOM_SECONDS,
            self.count,
        )
        self._pause_for(NO_ROOM_SECONDS)

    def _begin_some(self) -> None:
        for _ in range(min(BEGUN_AT_ONCE, len(self._arrived))):
            accepted = self._arrived.popleft()
            if self._tls is None or self._waiting is None:
                begins = self._begin(accepted)
            else:
                begins = self._begin_tls(accepted, self._waiting)
            task = self._loop.create_task(begins, context=self._context.copy())
            self._beginning.add(task)
            task.add_done_callback(self._beginning.discard)
        if self._arrived:
            self._loop.call_soon(self._begin_some, context=self._context.copy())

    async def _begin_tls(self, accepted: socket.socket, waiting: Waiting) -> None:
        connection = BeginsTLS(asyncio.current_task())
        waiting.note(connection, Phase.HEAD)
        try:
            await self._begin(accepted)
        finally:
            waiting.note(connection, None)

    async def _begin(self, accepted: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(
                self._new_protocol,
                accepted,
                ssl=self._tls,
                ssl_handshake_timeout=self._tls_timeout if self._tls else None,
                ssl_shutdown_timeout=TLS_END_SECONDS if self._tls else None,
            )
        except Exception as error:  # the client has gone, or does not speak TLS
            logger.debug("a connection ended before it began: %r", error)
            accepted.close()
