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
    """The server was not asked, since it does not answer."""


class Breaker:
    """Open after a time-out: then calls are refused at once, until a probe is answered.

    One of the callers makes the probe, at most one each second. For any thread, but not for a
    forked child.
    """

    PROBE_SECONDS = 0.5  # the longest that a probe may take
    EVERY_SECONDS = 1.0

    def __init__(self, server: str) -> None:
        self.server = server
        self.is_open = False
        self._reason = ""  # for those that are refused
        self._cause: Exception | None = None
        self._next_probe = 0.0
        self._lock = threading.Lock()

    def open(self, reason: str, cause: Exception) -> None:
        """A call has ended in vain after all the time that it had."""
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
        """A call has failed: for want of an answer, or at once, as where nobody listens."""
        if is_silence:
            self.open(reason, error)
        elif not isinstance(error, NotTried):
            self.close()

    def close(self) -> None:
        """It has answered, be it that it refuses."""
        if self.is_open:
            self.is_open = False
            _closed.log(self.server, "Broadcasts are taken again: %s answers.", self.server)

    def probe_soon(self) -> None:
        """There is reason to think that it answers again."""
        self._next_probe = 0.0

    def admit(self) -> bool:
        """Ask before a call. Returns whether it is to probe first; raises ``NotTried`` where it
        is refused.
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
