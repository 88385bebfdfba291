"""Logs broadcasts that were lost, where no caller waited for the result."""

from __future__ import annotations

import asyncio
import logging
from contextvars import Context

from django_ws.exceptions import BroadcastError
from django_ws.logs.counted import counted

logger = logging.getLogger("django.ws")

FIRST_INTERVAL = 10.0  # seconds between two lines; doubled each time
LONGEST_INTERVAL = 600.0


class LossLog:
    """The first loss is logged at once, later ones together at growing intervals, the end once.

    When nothing was lost for a whole interval, the intervals are short again. For the loop's
    thread only.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._number = 0  # not logged yet
        self._error: BroadcastError | None = None  # the last one
        self._interval = 0.0
        self._next = 0.0  # when the next line may be written
        self._timer: asyncio.TimerHandle | None = None
        self._is_logged = False

    def add(self, number: int, error: BroadcastError) -> None:
        """Count ``number`` lost messages, and log them now or later."""
        self._number += number
        self._error = error
        if self._timer is None:
            if self._loop.time() >= self._next:
                self.tell()
            else:
                self._timer = self._loop.call_at(self._next, self.tell, context=Context())

    def tell(self) -> None:
        """Log the losses that have not been logged yet."""
        self._stop_timer()
        if self._number:
            now = self._loop.time()
            was_quiet = now >= self._next + self._interval
            self._interval = (
                FIRST_INTERVAL if was_quiet else min(2 * self._interval, LONGEST_INTERVAL)
            )
            self._next = now + self._interval
            lost = counted(self._number, "broadcast was lost", "broadcasts were lost")
            logger.warning("%s: %s", lost, self._error)
            self._number = 0
            self._is_logged = True

    def end(self) -> None:
        """Log that broadcasts are taken again, if a loss was logged before."""
        if self._is_logged:
            assert self._error is not None
            self._is_logged = False
            self._stop_timer()
            logger.warning(
                "Broadcasts are taken again by %s; %s lost meanwhile.",
                self._error.server,
                counted(self._number, "more was", "more were"),
            )
            self._number = 0

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
