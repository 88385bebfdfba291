"""Broadcasts to one topic that arrived together: what is sent of them is made once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
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
    """Never empty. Orders, to disconnect for example, are alone in theirs."""

    __slots__ = ("_frames", "broadcasts", "size", "topic")

    def __init__(self, broadcast: Broadcast) -> None:
        self.topic = broadcast.topic
        self.broadcasts = [broadcast]
        self.size = len(broadcast.payload) + MESSAGE_BYTES
        self._frames: dict[tuple[int, int], tuple[Codec, Any]] = {}

    def add(self, broadcast: Broadcast) -> bool:
        """Whether it belongs to the others, and is now the last of them."""
        size = self.size + len(broadcast.payload) + MESSAGE_BYTES
        if (
            broadcast.topic != self.topic
            or size > MAX_BYTES
            or broadcast.kind in ORDERS
            or self.broadcasts[0].kind in ORDERS
        ):
            return False
        self.broadcasts.append(broadcast)
        self.size = size
        return True

    @property
    def excluded(self) -> set[str]:
        """The ids of connections that shall not get all of them."""
        return {broadcast.exclude for broadcast in self.broadcasts if broadcast.exclude}

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


def batches(received: Iterable[Received]) -> Iterator[Batch | Gap | DecodeError]:
    """What came together, in order; an error for each that this version does not know."""
    batch: Batch | None = None
    for item in map(_read, received):
        if isinstance(item, Broadcast):
            if batch is None:
                batch = Batch(item)
            elif not batch.add(item):
                yield batch
                batch = Batch(item)
            continue
        if batch is not None:
            yield batch
            batch = None
        yield item
    if batch is not None:
        yield batch


def _read(received: Received) -> Broadcast | Gap | DecodeError:
    if isinstance(received, Gap):
        return received
    try:
        return Broadcast(*received)
    except DecodeError as error:
        return error
