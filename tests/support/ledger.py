"""Who was told that a broadcast was taken, who has received it, and who was told of a gap."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from itertools import count, cycle
from typing import Any, NamedTuple

from django_ws.exceptions import BroadcastError
from django_ws.pubsub.backends.base import Backend, Gap, SyncPublisher
from django_ws.pubsub.backends.redis import RedisBackend, RedisPublisher

PREFIX = "ledger:"
Publish = Callable[[Sequence[tuple[str, bytes]]], Awaitable[None]]


class Taken(NamedTuple):
    topic: str
    data: bytes
    began: float
    ended: float


class Hearing:
    """One process's listener."""

    def __init__(self, location: Any, topics: list[str]) -> None:
        self._backend = RedisBackend.for_location(location, PREFIX, {})
        self._topics = topics
        self.since = 0.0  # when its topics were confirmed
        self.received: set[bytes] = set()
        self.order: list[bytes] = []
        self.gaps: list[tuple[float, frozenset[str]]] = []

    async def start(self) -> None:
        await self._backend.connect()
        self._reading = asyncio.create_task(self._read())
        async with asyncio.timeout(20):
            await self._backend.subscribe(self._topics)
        self.since = time.monotonic()

    async def _read(self) -> None:
        async for received in self._backend.stream():
            if isinstance(received, Gap):
                self.gaps.append((time.monotonic(), received.topics))
            else:
                self.received.add(received[1])
                self.order.append(received[1])

    async def close(self) -> None:
        await self._backend.close()
        await self._reading

    def was_told(self, taken: Taken) -> bool:
        """Of a gap, after the publisher had been told that the broadcast was taken."""
        return any(at >= taken.ended and taken.topic in topics for at, topics in self.gaps)


class Ledger:
    """Publishers of all kinds, and listeners."""

    def __init__(self, location: Any, topics: list[str]) -> None:
        self.location = location
        self.topics = topics
        self.hearing: list[Hearing] = []
        self.taken: list[Taken] = []
        self.refused: list[BroadcastError] = []
        self._numbers = count()
        self._publishers: list[SyncPublisher] = []
        self._backends: list[Backend] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def add_listener(self) -> Hearing:
        hearing = Hearing(self.location, self.topics)
        self.hearing.append(hearing)
        await hearing.start()
        return hearing

    def publisher(self) -> Publish:
        """One that lives on, with its connection."""
        publisher = RedisPublisher.for_location(self.location, PREFIX, {})
        self._publishers.append(publisher)
        return lambda messages: asyncio.to_thread(publisher.publish, messages)

    async def backend(self) -> Publish:
        backend = RedisBackend.for_location(self.location, PREFIX, {})
        self._backends.append(backend)
        await backend.connect()
        return backend.publish_many

    async def once(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """As by a command that ends then."""
        publisher = RedisPublisher.for_location(self.location, PREFIX, {})
        try:
            await asyncio.to_thread(publisher.publish, messages)
        finally:
            publisher.close()

    async def publish(self, publish: Publish, topic: str) -> None:
        data = b"%d" % next(self._numbers)
        began = time.monotonic()
        try:
            await publish([(topic, data)])
        except BroadcastError as error:
            self.refused.append(error)
        else:
            self.taken.append(Taken(topic, data, began, time.monotonic()))

    def keep_publishing(self, publish: Publish, every: float = 0.02) -> None:
        async def keep() -> None:
            for topic in cycle(self.topics):
                await self.publish(publish, topic)
                await asyncio.sleep(every)

        self._tasks.append(asyncio.create_task(keep()))

    async def stop_publishing(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    def received_by_all(self, number: int) -> bool:
        """Whether that many of the last messages were, as far as they have had time for it."""
        old = [taken for taken in self.taken if taken.ended < time.monotonic() - 0.5]
        return len(old) >= number and all(
            taken.data in hearing.received for taken in old[-number:] for hearing in self.hearing
        )

    def missed(self) -> list[tuple[int, Taken]]:
        """By which listener, and what."""
        return [
            (number, taken)
            for number, hearing in enumerate(self.hearing)
            for taken in self.taken
            if hearing.since <= taken.began and taken.data not in hearing.received
        ]

    def lost_in_silence(self) -> list[tuple[int, Taken]]:
        """What was missed, and not followed by a gap."""
        return [
            (number, taken)
            for number, taken in self.missed()
            if not self.hearing[number].was_told(taken)
        ]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for backend in self._backends:
            await backend.close()
        for hearing in self.hearing:
            with suppress(AttributeError):  # it was not started
                await hearing.close()
        for publisher in self._publishers:
            publisher.close()
