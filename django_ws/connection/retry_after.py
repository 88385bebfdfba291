"""When a client that is sent away may come back: spread, so that not all do in the same second."""

from __future__ import annotations

import random

RETRY_SECONDS = 10


def retry_after() -> int:
    """A whole number of seconds from 1 to 10, at random."""
    return random.randint(1, RETRY_SECONDS)
