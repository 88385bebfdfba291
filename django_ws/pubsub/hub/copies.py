"""Delivers a broadcast to several topics only once to each connection."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from django_ws.types import Subscriber

REMEMBERED_SECONDS = 60.0  # the copies may come by several servers, and topics take turns
MAX_REMEMBERED = 100_000  # who got a copy, over all broadcasts: some 8 MB


class _Broadcast:
    """Who has got a copy; ``began`` when the first one came, in the order of joinings."""

    __slots__ = ("began", "reached", "until")

    def __init__(self, began: int, until: float) -> None:
        self.began = began
        self.until = until
        # By id(), not to keep alive who leaves. A later subscriber that has the same one joined
        # after ``began``.
        self.reached: set[int] = set()


class Copies:
    """For one event loop's hub, and its thread only.

    There is one copy for each topic, and it has the broadcast's id. A connection gets the first
    one that comes to a topic which it had joined before any came. So none is left out: whoever
    had joined when the broadcast was made had so when its first copy came.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._broadcasts: dict[str, _Broadcast] = {}  # the oldest first
        self._size = 0  # receivers in all of them
        self.age = 0  # of whoever joins a topic now: how many broadcasts had come before

    def receivers(
        self, broadcast_id: str, members: Mapping[Subscriber, int]
    ) -> dict[Subscriber, None]:
        """Who gets this copy of the members of its topic, which come with their age."""
        broadcast = self._broadcasts.get(broadcast_id)
        if broadcast is None:
            now = self._loop.time()
            self._forget(now)
            broadcast = _Broadcast(self.age, now + REMEMBERED_SECONDS)
            self._broadcasts[broadcast_id] = broadcast
            self.age += 1
        began, reached = broadcast.began, broadcast.reached
        before = len(reached)
        receivers = {
            member: None
            for member, age in members.items()
            if age <= began and id(member.stands_for) not in reached
        }
        reached.update([id(member.stands_for) for member in receivers])
        self._size += len(reached) - before
        return receivers

    def _forget(self, now: float) -> None:
        while self._broadcasts:
            oldest = next(iter(self._broadcasts))
            if self._broadcasts[oldest].until > now and self._size <= MAX_REMEMBERED:
                return
            self._size -= len(self._broadcasts.pop(oldest).reached)
