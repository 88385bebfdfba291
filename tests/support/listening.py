"""A backend whose stream is read into a list, as a hub would read it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Self

from django_ws.exceptions import BroadcastError
from django_ws.pubsub.backends import base
from django_ws.pubsub.backends.base import Backend, Gap, SyncPublisher
from django_ws.pubsub.backends.redis import RedisBackend
from django_ws.pubsub.backends.redis.listener import Listener
from django_ws.pubsub.backends.redis.location import site_of

SECONDS = 20.0  # the longest that a test waits for anything


def channel_of(prefix: str, topic: str) -> bytes:
    """What a topic in database 0 is called in Redis."""
    return base.channel_of(site_of(prefix), topic)


async def eventually(condition: Callable[[], Any], what: str = "it") -> Any:
    """Wait for a condition that another thread, process or task will make true."""
    async with asyncio.timeout(SECONDS):
        while True:
            if result := condition():
                return result
            await asyncio.sleep(0.005)


async def until_taken(publisher: SyncPublisher, message: tuple[str, bytes]) -> None:
    """Publish to a server that is back, as soon as it has answered a probe."""
    async with asyncio.timeout(SECONDS):
        while True:
            with suppress(BroadcastError):
                await asyncio.to_thread(publisher.publish, [message])
                return
            await asyncio.sleep(0.02)


class Listening:
    """Connected; ``messages`` and ``gaps`` have what came, ``received`` both in their order."""

    def __init__(
        self,
        location: Any,
        *topics: str,
        prefix: str = "t:",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.backend: Backend = RedisBackend.for_location(location, prefix, options or {})
        self.topics = topics
        self.received: list[tuple[str, bytes] | Gap] = []

    @property
    def listener(self) -> Listener:
        assert isinstance(self.backend, RedisBackend)
        return self.backend._listener

    @property
    def messages(self) -> list[tuple[str, bytes]]:
        return [each for each in self.received if isinstance(each, tuple)]

    @property
    def gaps(self) -> list[frozenset[str]]:
        return [each.topics for each in self.received if isinstance(each, Gap)]

    async def subscribe(self, *topics: str) -> None:
        async with asyncio.timeout(SECONDS):
            await self.backend.subscribe(topics)

    async def has(self, messages: int = 0, gaps: int = 0) -> None:
        await eventually(lambda: len(self.messages) >= messages and len(self.gaps) >= gaps)

    async def __aenter__(self) -> Self:
        await self.backend.connect()
        self.reading = asyncio.create_task(self._read())
        if self.topics:
            await self.subscribe(*self.topics)
        return self

    async def _read(self) -> None:
        async for received in self.backend.stream():
            self.received.append(received)

    async def __aexit__(self, *error: object) -> None:
        async with asyncio.timeout(SECONDS):
            await self.backend.close()
            await self.reading
