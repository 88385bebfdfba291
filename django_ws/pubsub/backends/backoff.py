"""How long to wait before another attempt at a server that has just failed."""

from __future__ import annotations

import random


def backoff(attempt: int, first: float, longest: float) -> float:
    """Seconds to wait: ``first`` before attempt 0, twice as long each time, at most ``longest``.

    Then shortened by up to half, at random: processes that failed together shall not all come
    back in the same moment.
    """
    return jitter(min(first * 2.0 ** min(attempt, 30), longest))


def jitter(seconds: float) -> float:
    """Between half of it and all of it, at random."""
    return seconds * random.uniform(0.5, 1.0)
