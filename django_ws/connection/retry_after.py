"""The value of ``Retry-After``: at random, so that clients do not return all at once."""

from __future__ import annotations

import random

RETRY_SECONDS = 10


def retry_after() -> int:
    """A whole number of seconds from 1 to 10, at random."""
    return random.randint(1, RETRY_SECONDS)
