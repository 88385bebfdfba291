"""The default backend: it reaches all event loops and threads of this process."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from typing import Any

from django_ws.exceptions import BroadcastError
from django_ws.pubsub.backends import base
from django_ws.pubsub.backends.base import Backend, Received, SyncPublisher, channel_of

# For each event loop; one message always fits. A quarter of what its hub has room for, which
# takes it from here: so no hub has to drop anything (``arrivals``).
MAX_WAITING_BYTES = 8 * 1024 * 1024
MESSAGE_BYTES = 200  # what a waiting message takes beside its data, roughly
ROOM_SECONDS = 0.01  # between two looks whether a full event loop has read
AT_ONCE = 100  # messages that the stream gives before it lets the event loop turn
SERVER = "this process"


class _Bus:
    """Who listens to what, in all event loops of the process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.listeners: dict[bytes, set[MemoryBackend]] = {}  # by channel

    def offer(self, prefix: str, topic: str, data: bytes) -> bool:
        """To all listeners, or to none of them where one is full."""
        with self.lock:  # until all have it: each sees a publisher's messages in order
            listeners = self.listeners.get(channel_of(prefix, topic), ())
            if any(listener.is_full(topic) for listener in listeners):
                return False
            for listener in list(listeners):
                listener.put(topic, data)
            return True


# After a fork the child starts afresh: the parent's event loops do not run there, and its lock
# may have been held.
_buses: dict[int, _Bus] = {}


def _bus() -> _Bus:
    pid = os.getpid()
    return _buses.get(pid) or _buses.setdefault(pid, _Bus())


def _waits(prefix: str, messages: Sequence[tuple[str, bytes]]) -> Iterable[float]:
    """Publish, and tell how long to wait wherever an event loop has to read first."""
    bus = _bus()
    end = 0.0
    for index, (topic, data) in enumerate(messages):
        while not bus.offer(prefix, topic, data):
            end = end or time.monotonic() + base.PUBLISH_SECONDS
            if time.monotonic() > end:
                error = BroadcastError(
                    "broadcast",
                    SERVER,
                    f"too much of {topic!r} waits for an event loop that does not deliver it: "
                    "it is blocked, or the broadcasts come too fast",
                )
                raise base.error_of(dict.fromkeys(range(index, len(messages)), error))
            yield ROOM_SECONDS


class MemoryPublisher(SyncPublisher):
    """Publishes to the event loops of this process."""

    def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        for seconds in _waits(self.prefix, messages):
            time.sleep(seconds)

    def close(self) -> None: ...


class MemoryBackend(Backend):
    """Needs no server and reaches this process alone."""

    sync_publisher = MemoryPublisher
    server = SERVER

    def __init__(self, location: Any, prefix: str, options: Mapping[str, Any]) -> None:
        super().__init__(location, prefix, options)
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._size = 0
        self._given = 0  # since the event loop could turn
        self._topics: set[str] = set()
        self._is_closed = False
        self._wake = asyncio.Event()

    async def connect(self) -> None:
        self._loop = asyncio.get_running_loop()

    async def close(self) -> None:
        await self.unsubscribe(self._topics)
        self._is_closed = True
        self._wake.set()

    async def subscribe(self, topics: Collection[str]) -> None:
        bus = _bus()
        with bus.lock:
            for topic in topics:
                bus.listeners.setdefault(channel_of(self.prefix, topic), set()).add(self)
                self._topics.add(topic)

    async def unsubscribe(self, topics: Collection[str]) -> None:
        with _bus().lock:
            self._forget(topics)

    def _forget(self, topics: Collection[str]) -> None:
        listeners = _bus().listeners
        for topic in self._topics.intersection(topics):
            channel = channel_of(self.prefix, topic)
            listeners[channel].discard(self)
            if not listeners[channel]:
                del listeners[channel]
            self._topics.discard(topic)

    async def publish_many(self, messages: Sequence[tuple[str, bytes]]) -> None:
        for seconds in _waits(self.prefix, messages):
            await asyncio.sleep(seconds)
        await asyncio.sleep(0)  # who publishes without end in this loop lets it read, too

    def is_full(self, topic: str) -> bool:
        """From any thread: whether no more of this topic is taken now."""
        return self._size > MAX_WAITING_BYTES or self.is_crowded(topic)

    def put(self, topic: str, data: bytes) -> None:
        """From any thread, with the bus locked."""
        self._waiting.append((topic, data))
        self._size += len(data) + MESSAGE_BYTES
        if len(self._waiting) > 1:
            return  # the reader is awake, or about to be
        try:
            self._loop.call_soon_threadsafe(self._wake.set)  # after the append: it looks at once
        except RuntimeError:  # the loop was closed without a shutdown
            self._forget(self._topics)
            self._waiting.clear()

    async def stream(self) -> AsyncIterator[Received]:
        while not self._is_closed:
            self._wake.clear()
            self._given = 0
            while self._waiting and self._given < AT_ONCE:
                yield self._next()
                if self._is_closed:
                    return
            if self._waiting:
                await asyncio.sleep(0)
            else:
                await self._wake.wait()

    def read_nowait(self) -> Sequence[Received]:
        return [self._next() for _ in range(min(len(self._waiting), AT_ONCE - self._given))]

    def _next(self) -> tuple[str, bytes]:
        self._given += 1
        with _bus().lock:
            topic, data = self._waiting.popleft()
            self._size -= len(data) + MESSAGE_BYTES
        return topic, data
