"""Closes connections whose client has stopped reading, and that would never end.

A transport that was closed waits until the client has read what is left: asyncio waits for ever.
As long as the client takes anything, it has all the time it needs.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any
from weakref import WeakKeyDictionary

from django_ws.logs.throttled import ThrottledLog
from django_ws.server.faults import abort_faulty

try:
    import fcntl
    import termios
except ImportError:  # pragma: no cover - Windows has neither of them
    fcntl = termios = None  # type: ignore[assignment]

logger = logging.getLogger("uvicorn.error")

# Without any progress, until it is aborted:
CLOSED_SECONDS = 10.0  # a connection that is closed
PAGE_SECONDS = 60.0  # one on which a page is sent
CLOSED_AT_THE_END_SECONDS = 2.0  # the same, when the server ends
PAGE_AT_THE_END_SECONDS = 10.0

ROUND_SECONDS = 2.0  # between two looks at one connection, at least
AT_ONCE = 500  # connections that are looked at in one go: some 0.2 ms

_aborts = ThrottledLog(logger, logging.INFO, "connections aborted whose client reads nothing")


class Stalled:
    """Finds them among the connections of one server."""

    def __init__(self, connections: Iterable[Any]) -> None:
        self._connections = connections
        self._round: Iterator[Any] = iter(())
        self._next_round = 0.0
        # How much waited for the client when that changed last, and when that was.
        self._seen: WeakKeyDictionary[Any, tuple[int, float]] = WeakKeyDictionary()

    def look(self, now: float) -> None:
        """At some of them, so that it takes no time: call it often."""
        for connection in islice(self._round, AT_ONCE):
            self._look_safely_at(connection, now, CLOSED_SECONDS, PAGE_SECONDS)
        if now >= self._next_round:
            self._next_round = now + ROUND_SECONDS
            self._round = iter(list(self._connections))

    def look_at_the_end(self, now: float) -> None:
        """At all of them, when the server ends."""
        for connection in list(self._connections):
            self._look_safely_at(
                connection, now, CLOSED_AT_THE_END_SECONDS, PAGE_AT_THE_END_SECONDS
            )

    def _look_safely_at(
        self, connection: Any, now: float, closed_seconds: float, page_seconds: float
    ) -> None:
        """Nothing about one connection may end the server, and with it all others."""
        try:
            self._look_at(connection, now, closed_seconds, page_seconds)
        except Exception as error:
            abort_faulty(connection, "looked at", error)

    def _look_at(
        self, connection: Any, now: float, closed_seconds: float, page_seconds: float
    ) -> None:
        transport = connection.transport
        if transport.is_closing():
            seconds = closed_seconds
        elif transport.get_write_buffer_size() and hasattr(connection, "cycle"):
            seconds = page_seconds
        else:  # what waits for an open socket is bounded by WS_SEND_BUFFER
            self._seen.pop(connection, None)
            return
        size = _untaken(transport)
        before = self._seen.get(connection)
        if before is None or before[0] != size:
            self._seen[connection] = (size, now)
        elif now - before[1] >= seconds:
            transport.abort()
            client = connection.client
            _aborts.log(
                None,
                "Connection of %s aborted: its client has read nothing for %g s",
                client[0] if client else "unknown",
                now - before[1],
            )


def _untaken(transport: Any) -> int:
    """The bytes that the client has yet to take: of the transport's buffer, which a slow client
    does not empty for minutes, and of the kernel's.
    """
    size: int = transport.get_write_buffer_size()
    sock = transport.get_extra_info("socket")
    try:
        answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
        [in_kernel] = struct.unpack("i", answer)
    except (AttributeError, OSError, ValueError):  # another system; closed meanwhile
        return size
    return size + int(in_kernel)
