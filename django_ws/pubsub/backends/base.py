"""What a backend is: it moves bytes between processes, and knows no handler.

Two halves, since neither can do the other's work: a ``Backend`` lives in one event loop and
listens there; a ``SyncPublisher`` serves all threads of a process and needs no event loop.
Both are made with the same three arguments.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

PUBLISH_SECONDS = 5.0  # the longest that handing a broadcast over may take


@dataclass(frozen=True, slots=True)
class Gap:
    """Something published to these topics may not have arrived: the listener was away."""

    topics: frozenset[str]


Received = tuple[str, bytes] | Gap


class SyncPublisher(ABC):
    """Publishes from sync code. For any thread; after a fork the child starts afresh."""

    def __init__(self, location: Any, prefix: str, options: Mapping[str, Any]) -> None:
        self.location = location
        self.prefix = prefix
        self.options = options

    @abstractmethod
    def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Hand over (topic, data) pairs, in order, in as few round trips as possible.

        Returns when the server has taken all of them. Raises ``BroadcastError``, and nothing
        else, after at most ``PUBLISH_SECONDS``; some may have been taken then.
        """

    @abstractmethod
    def close(self) -> None:
        """Give all connections back. A later ``publish`` opens new ones."""


class Backend(ABC):
    """One event loop's way to all other processes. For that loop's thread only.

    ``location`` and ``options`` are those of the setting ``WS_BROADCAST``; ``prefix`` keeps
    several sites on one server apart. Nothing is opened before ``connect``.
    """

    sync_publisher: ClassVar[type[SyncPublisher]]

    def __init__(self, location: Any, prefix: str, options: Mapping[str, Any]) -> None:
        self.location = location
        self.prefix = prefix
        self.options = options

    @property
    @abstractmethod
    def server(self) -> str:
        """Where the server is, for logs and errors: without user and password."""

    @abstractmethod
    async def connect(self) -> None:
        """Begin to listen. Does not wait for a server that is down: that is retried for ever.

        Called once, before anything else.
        """

    @abstractmethod
    async def close(self) -> None:
        """End every task and connection, and the stream. Nothing may be called afterwards."""

    @abstractmethod
    async def subscribe(self, topics: Collection[str]) -> None:
        """Ask for topics. Returns when the server has confirmed all: what is published after
        that arrives in the stream.

        While the server is down this waits; the caller sets the limit by cancelling it, and
        ``unsubscribe`` takes back what it asked for. A topic may be asked for again.
        """

    @abstractmethod
    async def unsubscribe(self, topics: Collection[str]) -> None:
        """Give topics back. Does not wait for the server. Unknown ones do nothing."""

    @abstractmethod
    async def publish(self, topic: str, data: bytes) -> None:
        """Hand one message over. As ``publish_many`` otherwise."""

    async def publish_many(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Hand over (topic, data) pairs, in order, in as few round trips as possible.

        Returns when the server has taken all of them. Raises ``BroadcastError``, and nothing
        else, after at most ``PUBLISH_SECONDS``; some may have been taken then.
        """
        for topic, data in messages:
            await self.publish(topic, data)

    @abstractmethod
    def stream(self) -> AsyncIterator[Received]:
        """What is published to the subscribed topics, in the order of each publisher, at most
        once; and a ``Gap`` as soon as the listener is back after a loss. Has one consumer.
        """
