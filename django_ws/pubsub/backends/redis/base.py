"""The base class of the Redis backends: a listener, and something that publishes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from typing import Generic, Protocol, TypeVar

from django_ws.pubsub.backends.base import Backend, Received


class TopicListener(Protocol):
    """As the methods of ``Backend``."""

    async def subscribe(self, topics: Collection[str], /) -> None: ...

    def is_confirmed(self, topic: str, /) -> bool: ...

    def unsubscribe(self, topics: Collection[str], /) -> None: ...

    def stream(self) -> AsyncIterator[Received]: ...

    def read_nowait(self) -> Sequence[Received]: ...


L = TypeVar("L", bound=TopicListener)


class ListeningBackend(Backend, Generic[L]):
    """Leaves the topics to its listener."""

    _listener: L

    async def subscribe(self, topics: Collection[str]) -> None:
        await self._listener.subscribe(topics)

    def is_confirmed(self, topic: str) -> bool:
        return self._listener.is_confirmed(topic)

    async def unsubscribe(self, topics: Collection[str]) -> None:
        self._listener.unsubscribe(topics)

    def stream(self) -> AsyncIterator[Received]:
        return self._listener.stream()

    def read_nowait(self) -> Sequence[Received]:
        return self._listener.read_nowait()
