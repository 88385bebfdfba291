"""The topics of one connection, and what arrives on them.

A handler without ``on_broadcast`` gets the encoded data straight into its outbound buffer.
For one with it broadcasts wait here, within the bounds of that buffer, for their turn.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, Protocol, cast

from django_ws import conf
from django_ws.acting import All, Failed, done
from django_ws.background import Background
from django_ws.calls import Calls, Handler
from django_ws.connection import Connection
from django_ws.exceptions import EncodeError, MessageDropped, TooManyTopics
from django_ws.outbound import MESSAGE_OVERHEAD
from django_ws.pubsub.envelope import Broadcast
from django_ws.pubsub.hub import Hub
from django_ws.pubsub.topics import check_topics
from django_ws.types import Event

logger = logging.getLogger("django.ws.request")


class HasBackground(Protocol):
    """Gives the background of the connection; a closure for each would be memory."""

    @property
    def background(self) -> Background: ...


class Subscriptions:
    """What the hub knows of a connection (a ``Subscriber``). For the loop's thread only."""

    __slots__ = (
        "_calls", "_connection", "_handler", "_has_hook", "_hub", "_is_held", "_life",
        "_takes_turns", "_user", "_waiting", "codec", "send", "topics",
    )  # fmt: skip

    def __init__(
        self,
        hub: Hub,
        handler: Handler,
        connection: Connection,
        calls: Calls,
        life: HasBackground,
        *,
        is_held: bool,
    ) -> None:
        self._hub = hub
        self._handler = handler
        self._connection = connection
        self._calls = calls
        self._life = life
        self._has_hook = "on_broadcast" in handler.hooks.overridden
        self._is_held = is_held  # nothing is handed on before on_open has returned
        self._waiting: deque[Broadcast | frozenset[str]] | None = None
        self._takes_turns = False  # a task calls the hooks, while anything waits
        self._user: tuple[Hub, str] | None = None
        self.topics: tuple[str, ...] = ()  # a tenth of a dict's memory
        self.codec = handler.codec
        self.send: Callable[[Event], None] | None = None
        self._look_for_send()

    def join(self, topics: str | Iterable[str]) -> Awaitable[None]:
        """Subscribe; awaiting returns when all are confirmed. Raises ``InvalidTopic``,
        ``TooManyTopics`` and, where they are awaited, ``BroadcastError``.
        """
        if self._connection.gone:
            return Failed(self._connection.closed_error())
        joining = check_topics(topics)
        limit = conf.get().ws_max_topics
        topics_then = tuple(dict.fromkeys((*self.topics, *joining)))
        if len(topics_then) > limit:
            raise TooManyTopics(limit)
        self.topics = topics_then
        return All([self._hub.join(self, topic) for topic in joining])

    def leave(self, topics: str | Iterable[str]) -> Awaitable[None]:
        for topic in check_topics(topics):
            if topic in self.topics:
                self.not_joined(topic)
                self._hub.leave(self, topic)
        return done(self._connection.loop)

    def belongs_to(self, user_topic: str, hub: Hub) -> None:
        """Let ``disconnect(user_topic(user))`` find the connection, through this hub."""
        self._user = hub, user_topic
        hub.add_user(user_topic, self)

    def release(self) -> None:
        """``on_open`` has returned: hand on what has arrived meanwhile."""
        self._is_held = False
        self._look_for_send()
        if self._waiting:
            if self._has_hook or not all(isinstance(item, Broadcast) for item in self._waiting):
                self._take_turns()
            else:
                self._deliver_all()

    def end(self) -> None:
        """The connection has begun to end: nothing is delivered any more."""
        for topic in self.topics:
            self._hub.leave(self, topic)
        self.topics = ()
        if self._user is not None:
            hub, user_topic = self._user
            hub.remove_user(user_topic, self)
            self._user = None
        self._drop_waiting()

    # What the hub calls

    def is_called(self, connection_id: str) -> bool:
        return self._handler.known_id == connection_id

    def deliver(self, broadcast: Broadcast) -> None:
        if self._is_in_line:
            self._let_wait(broadcast, len(broadcast.payload) + MESSAGE_OVERHEAD)
        else:
            self._send(broadcast)

    def _send(self, broadcast: Broadcast) -> None:
        try:
            event = broadcast.event_for(self.codec)
        except EncodeError as error:
            self._connection.outbound.count_drop(error)
            logger.warning(
                "WebSocket %s: a broadcast to %r was not sent: %s",
                self._connection.path,
                broadcast.topic,
                error,
            )
        else:
            self._connection.deliver(event)

    @property
    def _is_in_line(self) -> bool:
        """Whether a broadcast waits for its turn: for the hook, or behind something else."""
        return self._has_hook or self._is_held or self._takes_turns

    def _look_for_send(self) -> None:
        self.send = None if self._is_in_line else self._connection.deliver

    def missed(self, topics: frozenset[str]) -> None:
        if "on_broadcast_gap" in self._handler.hooks.overridden:
            self._let_wait(topics, MESSAGE_OVERHEAD)

    def not_joined(self, topic: str) -> None:
        self.topics = tuple(joined for joined in self.topics if joined != topic)

    def disconnect(self, code: int, reason: str) -> None:
        self._connection.close(code, reason)

    # What waits for its turn

    def _let_wait(self, item: Broadcast | frozenset[str], size: int) -> None:
        if self._waiting is None:
            self._waiting = deque()
        connection = self._connection
        error = connection.make_room(size, self._drop_oldest)
        if error is not None:
            connection.drop(error)
            return
        connection.outbound.size += size
        self._waiting.append(item)
        if not self._is_held:
            self._take_turns()

    def _take_turns(self) -> None:
        if not self._takes_turns:
            self._takes_turns = True
            self._look_for_send()
            self._life.background.start(self._call_hooks(), "on_broadcast")

    async def _call_hooks(self) -> None:
        try:
            for item in self._waiting_items():
                if isinstance(item, Broadcast):
                    await self._calls.call_beside("on_broadcast", item.topic, item.message())
                else:
                    await self._calls.call_beside("on_broadcast_gap", item)
        finally:
            self._takes_turns = False
            self._look_for_send()

    def _deliver_all(self) -> None:
        for item in self._waiting_items():
            self._send(cast(Broadcast, item))

    def _waiting_items(self) -> Iterator[Broadcast | frozenset[str]]:
        while self._waiting:
            item = self._waiting.popleft()
            self._connection.outbound.size -= _size(item)
            yield item

    def _drop_oldest(self) -> bool:
        for _ in self._waiting_items():
            self._connection.outbound.count_drop(MessageDropped())
            return True
        return False

    def _drop_waiting(self) -> None:
        for _ in self._waiting_items():
            pass


def _size(item: Any) -> int:
    return MESSAGE_OVERHEAD + (len(item.payload) if isinstance(item, Broadcast) else 0)
