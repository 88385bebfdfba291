"""A third party's backend, with the faults that a server on a network has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import pytest
from pytest_django import Settings

from django_ws.exceptions import BroadcastError
from django_ws.pubsub.backends.base import Backend, Gap, Received
from django_ws.pubsub.backends.memory import MemoryBackend, MemoryPublisher

CONFIG = {"default": {"BACKEND": "tests.support.fickle.FickleBackend"}}


class FicklePublisher(MemoryPublisher):
    def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        if FickleBackend.is_down:
            raise BroadcastError("publish", "fickle", "it is down")
        super().publish(messages)


class FickleBackend(Backend):
    """The memory backend, down for everybody while ``is_down``."""

    sync_publisher = FicklePublisher
    server = "fickle"
    is_down: ClassVar[bool] = False
    made: ClassVar[list[FickleBackend]] = []

    def __init__(self, location: Any, prefix: str, options: Mapping[str, Any]) -> None:
        super().__init__(location, prefix, options)
        self.made.append(self)
        self.asked: list[str] = []
        self.given_back: list[str] = []
        self.is_closed = False
        self._memory = MemoryBackend(location, prefix, options)
        self._received: asyncio.Queue[Received | Exception] = asyncio.Queue()

    async def connect(self) -> None:
        await self._memory.connect()
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for received in self._memory.stream():
            self._received.put_nowait(received)

    async def subscribe(self, topics: Collection[str]) -> None:
        self.asked += topics
        while self.is_down:  # noqa: ASYNC110  # any test sets it
            await asyncio.sleep(0.001)
        await self._memory.subscribe(topics)

    async def unsubscribe(self, topics: Collection[str]) -> None:
        self.given_back += topics
        if self.is_down:
            raise RuntimeError("a defect: it should not mind")
        await self._memory.unsubscribe(topics)

    async def publish_many(self, messages: Sequence[tuple[str, bytes]]) -> None:
        if self.is_down:
            raise BroadcastError("publish", "fickle", "it is down")
        await self._memory.publish_many(messages)

    async def close(self) -> None:
        self.is_closed = True
        await self._memory.close()
        await self._reader

    def lose(self, *topics: str) -> None:
        """The server was away: something to these topics may be lost."""
        self._received.put_nowait(Gap(frozenset(topics)))

    def crash(self) -> None:
        """A defect ends the stream."""
        self._received.put_nowait(RuntimeError("a defect in the backend"))

    async def stream(self) -> AsyncIterator[Received]:
        while True:
            received = await self._received.get()
            if isinstance(received, Exception):
                raise received
            yield received


@pytest.fixture
def fickle(settings: Settings) -> Iterator[type[FickleBackend]]:
    settings.WS_BROADCAST = CONFIG
    FickleBackend.is_down = False
    FickleBackend.made.clear()
    yield FickleBackend
    FickleBackend.made.clear()
