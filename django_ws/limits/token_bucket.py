"""A token bucket: counts the messages of a client against its rate."""

from __future__ import annotations

import time
from collections.abc import Callable

from django_ws.conf.rate import Rate


class TokenBucket:
    """Full at first, holds ``rate.count`` tokens and gets as many in each period.

    Counts in whole numbers (nanoseconds times ``rate.count``, so that one token is exactly
    ``rate.period`` of them): nothing is rounded, however long it runs.
    """

    __slots__ = ("_clock", "_full_at", "_rate")

    def __init__(self, rate: Rate, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._rate = rate
        self._clock = clock
        self._full_at = clock() * rate.count  # when it is, or will be, full again

    def take(self) -> bool:
        """Take one token; False, and nothing taken, where there is none."""
        count, period = self._rate.count, self._rate.period
        now = self._clock() * count
        after = max(self._full_at, now) + period
        if after - now > count * period:
            return False
        self._full_at = after
        return True
