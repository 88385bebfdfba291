"""The interface of a backend: it moves bytes between processes, and knows no handler.

Two halves, since neither can do the other's work: a ``Backend`` lives in one event loop and
listens there; a ``SyncPublisher`` serves all threads of a process and needs no event loop.
Both are made with the same three arguments.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from django_ws.exceptions import BroadcastError

PUBLISH_SECONDS = 5.0  # the longest that handing a broadcast over may take
TOO_LATE = f"not taken within {PUBLISH_SECONDS:g} s"
BOUNDARY = b"\xff"  # is in no UTF-8, and so in no prefix and in no topic


def channel_of(prefix: str, topic: str) -> bytes:
    """What a topic is called on the server: the one place where prefix and topic are joined.

    The prefix of one site may begin with that of another, and visitors may name topics: the
    boundary keeps a topic from reaching into the other site.
    """
    return prefix.encode() + BOUNDARY + topic.encode()


def publish_seconds_of(options: Mapping[str, Any], default: float | None = None) -> float:
    """``publish_timeout`` of OPTIONS. Raises ``ValueError``."""
    longest = PUBLISH_SECONDS
    seconds = options.get("publish_timeout", longest if default is None else default)
    if type(seconds) not in (int, float) or not 0 < seconds <= longest:
        raise ValueError(
            f"OPTIONS: publish_timeout is {seconds!r}. Give seconds, more than 0 and at most "
            f"{longest:g}."
        )
    return float(seconds)


@dataclass(frozen=True, slots=True)
class Gap:
    """Something published to these topics may not have arrived: the listener was away."""

    topics: frozenset[str]


Received = tuple[str, bytes] | Gap


def error_of(errors: Mapping[int, BroadcastError]) -> BroadcastError:
    """One error for the messages of a ``publish_many`` that were not taken, by their index."""
    first = errors[min(errors)]
    error = BroadcastError(first.action, first.server, first.reason, errors)
    error.__cause__ = first.__cause__
    return error


class SyncPublisher(ABC):
    """Publishes from sync code. For any thread; after a fork the child starts afresh.

    Making one opens nothing. Raises ``ValueError``, without passwords in its text, for a
    ``location`` or ``options`` that cannot be understood.
    """

    def __init__(self, location: Any, prefix: str, options: Mapping[str, Any]) -> None:
        self.location = location
        self.prefix = prefix
        self.options = options

    @classmethod
    def for_location(cls, location: Any, prefix: str, options: Mapping[str, Any]) -> SyncPublisher:
        """As ``Backend.for_location``."""
        return cls(location, prefix, options)

    @abstractmethod
    def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Hand over (topic, data) pairs, in order, in as few round trips as possible.

        Returns when the server has taken all of them. Raises ``BroadcastError``, and nothing
        else, after at most ``PUBLISH_SECONDS``; some may have been taken then.
        """

    @abstractmethod
    def close(self) -> None:
        """Give all connections back. A later ``publish`` opens new ones."""


def _never(topic: str) -> bool:
    return False


class Backend(ABC):
    """One event loop's way to all other processes. For that loop's thread only.

    ``location`` and ``options`` are those of the setting ``WS_BROADCAST``; ``prefix`` keeps
    several sites on one server apart (``channel_of``). Nothing is opened before ``connect``. Raises
    ``ValueError`` as a ``SyncPublisher`` does.

    The hub takes everything from the stream at once. It sets ``is_crowded``, which tells, in any
    thread, whether it has more of a topic than it can deliver soon: where a publisher can wait,
    it should.
    """

    sync_publisher: ClassVar[type[SyncPublisher]]

    def __init__(self, location: Any, prefix: str, options: Mapping[str, Any]) -> None:
        self.location = location
        self.prefix = prefix
        self.options = options
        self.is_crowded: Callable[[str], bool] = _never

    @classmethod
    def for_location(cls, location: Any, prefix: str, options: Mapping[str, Any]) -> Backend:
        """What ``WS_BROADCAST`` makes of this class: a subclass may choose another class, by the
        form of LOCATION."""
        return cls(location, prefix, options)

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
        """End every task and connection, and the stream. Nothing may be called afterwards.

        Also where ``connect`` has failed half way, or was never called.
        """

    @abstractmethod
    async def subscribe(self, topics: Collection[str]) -> None:
        """Ask for topics. Returns when the server has confirmed all: what is published after
        that arrives in the stream.

        While the server is down this waits; the caller sets the limit by cancelling it, and
        ``unsubscribe`` takes back what it asked for. A topic may be asked for again.
        """

    def is_confirmed(self, topic: str) -> bool:
        """Whether what ``subscribe`` has confirmed still holds: not while the server is away.

        It may take until the loss is noticed. Backends that lose nothing need not override it.
        """
        return True

    @abstractmethod
    async def unsubscribe(self, topics: Collection[str]) -> None:
        """Give topics back. Does not wait for the server. Unknown ones do nothing."""

    async def publish(self, topic: str, data: bytes) -> None:
        """Hand one message over."""
        await self.publish_many([(topic, data)])

    @abstractmethod
    async def publish_many(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Hand over (topic, data) pairs, in order, in as few round trips as possible.

        Returns when the server has taken all of them. Raises ``BroadcastError``, and nothing
        else, after at most ``PUBLISH_SECONDS``; some may have been taken then: where it is
        known which, raise ``error_of`` the others. The outbox calls it for several
        queues (``queue_of``) at once, and for each of them when the call before has ended.
        """

    def queue_of(self, topic: str) -> Hashable:
        """A name for the queue in which messages to this topic wait now, for example of a server.

        A queue that is blocked does not hold up the others. All topics share one by default.
        """
        return None

    @abstractmethod
    def stream(self) -> AsyncIterator[Received]:
        """What is published to the subscribed topics, in the order of each publisher, at most
        once; and a ``Gap`` as soon as the listener is back after a loss. Has one consumer.
        """

    def read_nowait(self) -> Sequence[Received]:
        """What ``stream`` would give next without any waiting, given here instead.

        The hub asks after each that ``stream`` has given: what arrived together can be sent to
        each subscriber together. Backends need not override it.
        """
        return ()
