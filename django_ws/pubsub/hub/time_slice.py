"""Limits how long the hub works before it lets the event loop turn."""

from __future__ import annotations

import asyncio
from time import monotonic

TURN_SECONDS = 0.005
SHORT_TURN_SECONDS = 0.001  # in a flood, which must be read, too


class TimeSlice:
    """Counts the time in which the hub holds up the event loop, over all that it receives.

    The clock runs between ``begin`` and ``finish``; whoever works long in between asks
    ``is_over`` now and then, and if so awaits ``pass_on``.
    """

    __slots__ = ("_left", "_until")

    def __init__(self) -> None:
        self._left = TURN_SECONDS
        self._until = 0.0

    def begin(self) -> None:
        self._until = monotonic() + self._left

    def is_over(self) -> bool:
        return monotonic() > self._until

    async def pass_on(self, *, is_flooded: bool = False) -> None:
        """Let everybody else run."""
        await asyncio.sleep(0)
        self._left = SHORT_TURN_SECONDS if is_flooded else TURN_SECONDS
        self._until = monotonic() + self._left

    def finish(self) -> None:
        self._left = self._until - monotonic()
