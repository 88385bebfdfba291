"""Log lines that clients or broadcasts can cause: bounded in number, and the rest is counted.

Whoever can cause a log line can cause a million of them. Each kind of such a line has one
``ThrottledLog``.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Hashable
from contextvars import Context
from typing import Any
from weakref import WeakSet

SECONDS = 10.0
MAX_KEYS = 10  # lines of one kind within SECONDS

_all: WeakSet[ThrottledLog] = WeakSet()


class ThrottledLog:
    """One kind of log line. Safe in any thread.

    In 10 seconds there is at most one line for each key (a path, for example), and at most 10
    lines in all. Further ones are counted, and the count is logged when the 10 seconds are over,
    with the text of the last. ``kind`` names the lines in the plural, for that count:
    "refused origins".
    """

    def __init__(
        self,
        logger: logging.Logger,
        level: int,
        kind: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logger = logger
        self._level = level
        self._kind = kind
        self._clock = clock
        self._lock = threading.Lock()
        self._logged: dict[Hashable, float] = {}  # when each key was logged; the oldest first
        self._count = 0  # lines that were left out
        self._last = ""  # the text of the last of them
        self._count_due = 0.0  # when the count is to be logged
        _all.add(self)

    def log(self, key: Hashable, message: str, *args: Any, exc_info: Any = None) -> bool:
        """Log one line, or count it. Returns whether it was logged."""
        is_logged = self.admits(key, message, *args)
        if is_logged:
            self._logger.log(self._level, message, *args, exc_info=exc_info, stacklevel=2)
        return is_logged

    def admits(self, key: Hashable, message: str, *args: Any) -> bool:
        """Whether the line may be logged now, by the caller; otherwise it is counted."""
        if not self._logger.isEnabledFor(self._level):
            return False
        now = self._clock()
        with self._lock:
            is_count_due = self._count > 0 and now >= self._count_due
            for old in [each for each, at in self._logged.items() if at <= now - SECONDS]:
                del self._logged[old]
            is_logged = key not in self._logged and len(self._logged) < MAX_KEYS
            if is_logged:
                self._logged[key] = now
        if is_count_due:
            self.flush()
        if not is_logged:
            self._leave_out(message % args, now)
        return is_logged

    def _leave_out(self, text: str, now: float) -> None:
        with self._lock:
            self._count += 1
            self._last = text
            if self._count > 1:
                return
            self._count_due = now + SECONDS
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # the next line, or ``flush_all``, logs the count
        # In an empty context: whoever happens to cause this would be kept alive by its own.
        loop.call_later(SECONDS, self.flush, context=Context())

    def flush(self) -> None:
        """Log the count now, if there is one."""
        with self._lock:
            count, last = self._count, self._last
            self._count, self._last = 0, ""
        if count:
            self._logger.log(
                self._level,
                "Further %s in %g s: %d. The last: %s",
                self._kind,
                SECONDS,
                count,
                last,
            )

    def reset(self) -> None:
        """Forget everything, without a word: for tests."""
        with self._lock:
            self._logged.clear()
            self._count, self._last = 0, ""


def flush_all() -> None:
    """Log all counts: the process, or an event loop of it, ends."""
    for each in list(_all):
        each.flush()


def reset_all() -> None:
    """Start afresh, so that a test sees its own lines whatever tests before it caused."""
    for each in list(_all):
        each.reset()
