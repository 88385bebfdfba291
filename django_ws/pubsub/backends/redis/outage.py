"""The log lines about an outage: when it begins, goes on, and ends."""

from __future__ import annotations

import logging
import time

from django_ws.pubsub.backends.redis.location import cause

logger = logging.getLogger("django.ws")


class Outage:
    """One line when it begins, then one at growing intervals, then one when it is over.

    ``what`` does not arrive. All times in seconds.
    """

    FIRST_REMINDER = 10.0  # doubled each time
    LONGEST_REMINDER = 600.0

    def __init__(self, server: str, what: str) -> None:
        self._server = server
        self._what = what
        self._since: float | None = None
        self._reminder = 0.0
        self._next_reminder = 0.0

    def go_on(self, where: str, error: Exception, heard_at: float | None = None) -> None:
        """``heard_at``, by time.monotonic(): the last sign of life, if there was one."""
        now = time.monotonic()
        if self._since is None:
            self._since = now if heard_at is None else heard_at
            self._reminder = self.FIRST_REMINDER
            logger.warning(
                "%s do not arrive: no connection to %s (%s). It is tried again and again.",
                self._what,
                where,
                cause(error),
            )
        elif now >= self._next_reminder:
            self._reminder = min(self._reminder * 2, self.LONGEST_REMINDER)
            logger.warning(
                "%s do not arrive for %.0f s: still no connection to %s (%s).",
                self._what,
                now - self._since,
                where,
                cause(error),
            )
        else:
            return
        self._next_reminder = now + self._reminder

    def end(self) -> None:
        if self._since is not None:
            away = time.monotonic() - self._since
            self._since = None
            logger.warning("Broadcasts arrive again from %s, after %.1f s.", self._server, away)
