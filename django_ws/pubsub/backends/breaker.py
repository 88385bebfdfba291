"""A circuit breaker: callers do not wait for a server that has just timed out."""

from __future__ import annotations

import logging
import threading
import time

from django_ws.logs.throttled import ThrottledLog

logger = logging.getLogger("django.ws")

_opened = ThrottledLog(logger, logging.WARNING, "servers that do not answer")
_closed = ThrottledLog(logger, logging.WARNING, "servers that answer again")


class NotTried(ConnectionError):
    """The call was refused without asking the server, since it has not answered before."""


class Breaker:
    """Opens when a call times out. While it is open, calls are refused at once.

    Once a second at most, one caller probes the server first; an answer closes the breaker. Safe
    in any thread, but not in a forked child.
    """

    PROBE_SECONDS = 0.5  # the longest that a probe may take
    EVERY_SECONDS = 1.0

    def __init__(self, server: str) -> None:
        self.server = server
        self.is_open = False
        self._reason = ""  # why calls are refused
        self._cause: Exception | None = None
        self._next_probe = 0.0
        self._lock = threading.Lock()

    def open(self, reason: str, cause: Exception) -> None:
        """Refuse calls from now on: a call has timed out."""
        with self._lock:
            self._next_probe = time.monotonic() + self.EVERY_SECONDS
            was_open, self.is_open = self.is_open, True
            self._cause = cause
            self._reason = f"it does not answer ({reason}): refused until it answers a probe"
        if not was_open:
            _opened.log(
                self.server,
                "Broadcasts are refused at once: %s does not answer (%s). It is probed each "
                "second, when somebody broadcasts.",
                self.server,
                reason,
            )

    def failed(self, error: Exception, reason: str, *, is_silence: bool) -> None:
        """A call has failed. ``is_silence``: the server gave no answer in time."""
        if is_silence:
            self.open(reason, error)
        elif not isinstance(error, NotTried):
            self.close()

    def close(self) -> None:
        """Take calls again: the server has answered, even if only with a refusal."""
        if self.is_open:
            self.is_open = False
            _closed.log(self.server, "Broadcasts are taken again: %s answers.", self.server)

    def probe_soon(self) -> None:
        """Let the next call probe the server, since it may answer again."""
        self._next_probe = 0.0

    def admit(self) -> bool:
        """To be called before each call. Returns whether the caller must probe first. Raises
        ``NotTried`` if the call is refused.
        """
        if not self.is_open:
            return False
        now = time.monotonic()
        with self._lock:
            if now < self._next_probe:
                raise self._refusal()
            self._next_probe = now + self.EVERY_SECONDS
            return True

    def check(self) -> None:
        """Raises ``NotTried`` while it is open."""
        if self.is_open:
            raise self._refusal()

    def _refusal(self) -> NotTried:
        refusal = NotTried(self._reason)
        refusal.__cause__ = self._cause
        return refusal
