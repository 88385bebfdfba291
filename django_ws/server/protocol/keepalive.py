"""Protocol pings, and when a connection counts as dead.

uvicorn's class counts answers alone. Here any byte of the client's is a sign of life; and where the
server itself does not read, because the application is behind, nothing is missed.
"""

from __future__ import annotations

import logging
from abc import abstractmethod

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from django_ws.logs.printable import printable
from django_ws.logs.throttled import ThrottledLog

logger = logging.getLogger("uvicorn.error")

# Until what has come is read, where the event loop was busy when the time was over.
GRACE_SECONDS = 0.25
REASON = "keepalive ping timeout"

_deaths = ThrottledLog(logger, logging.INFO, "connections closed for want of a pong")


class Keepalive(WebSocketsSansIOProtocol):
    """Sets ``heard`` to False with each ping: whoever hears of the client sets it to True."""

    # Beside the dict of uvicorn's class: it is as large as it may be before it doubles.
    __slots__ = ("_is_late", "heard")

    @property
    @abstractmethod
    def is_held_back(self) -> bool:
        """Whether reading is paused for the application's sake."""

    def send_keepalive_ping(self) -> None:
        self.heard = self._is_late = False
        super().send_keepalive_ping()

    def keepalive_timeout(self) -> None:
        """The time for an answer is over."""
        if self.heard or self.is_held_back:
            self.pong_timer = None
            # As uvicorn's after a pong: the next ping is due an interval after the last one.
            self.last_ping_rtt = self.loop.time() - self.ping_sent_at
            self.schedule_ping()
        elif not self._is_late:
            self._is_late = True
            self.pong_timer = self.loop.call_later(GRACE_SECONDS, self.keepalive_timeout)
        else:
            self._end_for_want_of_a_pong()

    def _end_for_want_of_a_pong(self) -> None:
        if not self.close_sent and not self.transport.is_closing():
            path = printable(self.scope["path"])
            _deaths.log(
                path,
                "WebSocket %s: nothing came from the client (%s) for %g s after a ping: closed "
                "with 1011",
                path,
                self.client[0] if self.client else "unknown",
                self.ping_timeout,
            )
            event = {"type": "websocket.disconnect", "code": 1011, "reason": REASON}
            self.queue.put_nowait(event)  # type: ignore[arg-type]
        super().keepalive_timeout()
