"""Broadcasts to one topic that arrived together: each is encoded once for all."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from django_ws.codecs import Codec
from django_ws.exceptions import DecodeError
from django_ws.pubsub.backends.base import Gap, Received
from django_ws.pubsub.envelope import ORDERS, Broadcast, shared

# Written to a client in one piece, so not much more than a server lets wait before it says
# that the client reads too slowly (64 KiB, in asyncio and uvloop).
MAX_BYTES = 64 * 1024
MESSAGE_BYTES = 100  # counted for each besides its own: a batch is prepared without a pause


class Batch:
    """Never empty. Orders, to disconnect for example, are alone in theirs, and so are the
    copies of a broadcast to several topics, since their receivers are not all of the topic's.
    """

    __slots__ = ("_frames", "broadcasts", "size")

    def __init__(self, broadcast: Broadcast) -> None:
        self.broadcasts = [broadcast]
        self.size = len(broadcast.payload) + MESSAGE_BYTES
        self._frames: dict[tuple[int, int], tuple[Codec, Any]] = {}

    def add(self, broadcast: Broadcast) -> bool:
        """Whether it belongs to the others, and is now the last of them."""
        size = self.size + len(broadcast.payload) + MESSAGE_BYTES
        first = self.broadcasts[0]
        if (
            broadcast.topic != first.topic
            or size > MAX_BYTES
            or broadcast.kind in ORDERS
            or first.kind in ORDERS
            or broadcast.id
            or first.id
        ):
            return False
        self.broadcasts.append(broadcast)
        self.size = size
        return True

    @property
    def excluded(self) -> frozenset[str]:
        """The names of connections that shall not get all of them."""
        return frozenset().union(*[each.exclude for each in self.broadcasts if each.exclude])

    def frames_for(self, codec: Codec, prepare: Callable[[Sequence[str | bytes]], Any]) -> Any:
        """All of them as ``prepare`` makes them for a codec; None where it cannot encode one."""
        codec = shared(codec)
        key = (id(codec), id(prepare))
        if key not in self._frames:
            frames: Any = None
            with suppress(Exception):  # of a codec of the user's, perhaps
                frames = prepare([broadcast.data_for(codec) for broadcast in self.broadcasts])
            self._frames[key] = codec, frames
        return self._frames[key][1]


Item = Received | Broadcast  # as it has arrived, or read already


def next_batch(waiting: deque[Item]) -> Batch | Gap | DecodeError:
    """What comes first of what waits, with what of the same topic follows at once, taken out.

    An error for what this version does not know. ``waiting`` must not be empty.
    """
    first = _read(waiting.popleft())
    if not isinstance(first, Broadcast):
        return first
    batch = Batch(first)
    while waiting:
        item = waiting[0]
        if not isinstance(item, tuple) or item[0] != first.channel:
            break
        following = _read(item)
        if not isinstance(following, Broadcast):
            break
        if not batch.add(following):
            waiting[0] = following
            break
        waiting.popleft()
    return batch


def _read(item: Item) -> Broadcast | Gap | DecodeError:
    if not isinstance(item, tuple):
        return item
    try:
        return Broadcast(*item)
    except DecodeError as error:
        return error
