"""The topics of one connection, and what arrives on them.

A handler without ``on_broadcast`` gets the encoded data straight into its outbound buffer.
For one with it broadcasts wait here, within the bounds of that buffer, for their turn.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Container, Iterable, Iterator, Sequence
from typing import Any, Protocol, cast

from django_ws import conf
from django_ws.acting import All, Failed, done
from django_ws.background import Background
from django_ws.calls import Calls, Handler
from django_ws.connection import Connection
from django_ws.exceptions import DecodeError, MessageDropped, TooManyTopics, TopicForbidden
from django_ws.outbound import MESSAGE_OVERHEAD
from django_ws.pubsub.envelope import Broadcast
from django_ws.pubsub.hub import Hub
from django_ws.pubsub.topics import ConnectionTopic, check_topics, check_topics_to_join
from django_ws.throttled_log import ThrottledLog
from django_ws.types import Event

logger = logging.getLogger("django.ws.request")

_unsendable = ThrottledLog(logger, logging.WARNING, "broadcasts that a codec could not send")


class HasBackground(Protocol):
    """Gives the background of the connection; a closure for each would be memory."""

    @property
    def background(self) -> Background: ...


class Subscriptions:
    """What the hub knows of a connection (a ``Subscriber``). For the loop's thread only."""

    __slots__ = (
        "_calls", "_connection", "_handler", "_has_hook", "_hub", "_is_held", "_life",
        "_owners", "_size", "_takes_turns", "_waiting", "codec", "prepare", "send", "topics",
        "write_frames",
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
        self._size = 0  # bytes that wait here
        self._owners: tuple[Hub, Sequence[str]] | None = None
        self.topics: tuple[str, ...] = ()  # a tenth of a dict's memory
        self.codec = handler.codec
        self.send: Callable[[Event], None] | None = None
        self.prepare = connection.outbound.prepare
        self.write_frames: Callable[[Any], bool] | None = None
        self._look_for_send()

    def join(self, topics: str | Iterable[str]) -> Awaitable[None]:
        """Subscribe; awaiting returns when all are confirmed. Raises ``InvalidTopic``,
        ``TooManyTopics``, ``TopicForbidden`` and, where they are awaited, ``BroadcastError``.
        """
        if self._connection.gone:
            return Failed(self._connection.closed_error())
        joining = check_topics_to_join(topics)
        limit = conf.get().ws_max_topics
        topics_then = tuple(dict.fromkeys((*self.topics, *joining)))
        if len(topics_then) > limit:
            raise TooManyTopics(limit)
        if "may_subscribe" in self._handler.hooks.overridden:
            self._check_permission(joining)
        self.topics = topics_then
        return All([self._hub.rooms.join(self, topic) for topic in joining])

    def _check_permission(self, topics: Iterable[str]) -> None:
        for topic in topics:
            allowed = self._handler.may_subscribe(topic)
            if not isinstance(allowed, bool):  # a coroutine would count as true
                raise TypeError(
                    f"may_subscribe({topic!r}) gave {type(allowed).__name__} instead of True or "
                    "False. Write def, not async def, and read what it needs in on_connect."
                )
            if not allowed:
                raise TopicForbidden(topic)

    def leave(self, topics: str | Iterable[str]) -> Awaitable[None]:
        for topic in check_topics(topics):
            if topic in self.topics:
                self.not_joined(topic)
                self._hub.rooms.leave(self, topic)
        return done(self._connection.loop)

    def belongs_to(self, owners: Sequence[str], hub: Hub) -> bool:
        """Let ``disconnect(user_topic(user))`` and a log-out find it, through this hub.

        Whether no log-in among them is known to have ended.
        """
        self._owners = hub, owners
        return hub.owners.add(owners, self)

    def release(self) -> None:
        """``on_open`` has returned: hand on what has arrived meanwhile."""
        self._is_held = False
        self.codec = self._handler.codec  # on_open may have chosen it
        self._look_for_send()
        if self._waiting:
            if self._has_hook or not all(isinstance(item, Broadcast) for item in self._waiting):
                self._take_turns()
            else:
                self._deliver_all()

    def end(self) -> None:
        """The connection has begun to end: nothing is delivered any more."""
        for topic in self.topics:
            self._hub.rooms.leave(self, topic)
        self.topics = ()
        if self._owners is not None:
            hub, owners = self._owners
            hub.owners.remove(owners, self)
            self._owners = None
        closed = self._connection.closed_error()
        for item in self._waiting_items():
            if isinstance(item, Broadcast):
                self._connection.outbound.count_drop(closed)

    # What the hub calls

    def is_called(self, names: Container[str]) -> bool:
        if self._handler.known_id in names:
            return True
        return self._owners is not None and any(owner in names for owner in self._owners[1])

    def deliver(self, broadcast: Broadcast) -> None:
        if self._is_in_line:
            self._let_wait(broadcast)
        else:
            self._send(broadcast)

    def _send(self, broadcast: Broadcast) -> None:
        try:
            event = broadcast.event_for(self.codec)
        except Exception as error:  # of a codec of the user's, perhaps
            self._cannot_send(broadcast, error)
        else:
            self._connection.deliver(event)

    def _cannot_send(self, broadcast: Broadcast, error: Exception) -> None:
        self._connection.outbound.count_drop(error)
        _unsendable.log(
            (broadcast.topic, type(self.codec)),
            "WebSocket %s: a broadcast to %r was not sent: %r",
            self._connection.path,
            broadcast.topic,
            error,
        )

    @property
    def _is_in_line(self) -> bool:
        """Whether a broadcast waits for its turn: for the hook, or behind something else."""
        return self._has_hook or self._is_held or self._takes_turns

    def _look_for_send(self) -> None:
        is_in_line, connection = self._is_in_line, self._connection
        self.send = None if is_in_line else connection.deliver
        has_frames = self.prepare is not None and not is_in_line
        self.write_frames = connection.outbound.write_frames if has_frames else None

    def missed(self, topics: frozenset[str]) -> None:
        topics = frozenset(  # some may have been left meanwhile
            topic
            for topic in topics
            if topic in self.topics or isinstance(topic, ConnectionTopic)  # it is its own
        )
        if "on_broadcast_gap" not in self._handler.hooks.overridden or not topics:
            return
        # No overflow takes it away: it is told once, for all, behind what waits already.
        waiting = self._queue()
        for told in [item for item in waiting if isinstance(item, frozenset)]:
            waiting.remove(told)
            topics |= told
        self._append(topics, 0)

    def not_joined(self, topic: str) -> None:
        self.topics = tuple(joined for joined in self.topics if joined != topic)

    def disconnect(self, code: int, reason: str) -> None:
        self._connection.close(code, reason)

    def check_login(self) -> None:
        login = self._handler.request.login
        if login is not None:
            login.check()

    # What waits for its turn

    def _queue(self) -> deque[Broadcast | frozenset[str]]:
        if self._waiting is None:
            self._waiting = deque()
        return self._waiting

    def _let_wait(self, broadcast: Broadcast) -> None:
        connection = self._connection
        if connection.gone:
            return
        size = _size(broadcast)
        error = connection.make_room(size, self._drop_oldest, lambda: self._size)
        if error is not None:
            connection.drop(error)
        else:
            self._append(broadcast, size)

    def _append(self, item: Broadcast | frozenset[str], size: int) -> None:
        self._size += size
        self._queue().append(item)
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
                if isinstance(item, frozenset):
                    await self._calls.call_beside("on_broadcast_gap", item)
                elif self._has_hook:
                    await self._call_hook(item)
                else:
                    self._send(item)
        finally:
            self._takes_turns = False
            self._look_for_send()

    async def _call_hook(self, broadcast: Broadcast) -> None:
        try:
            message = broadcast.message()
        except DecodeError as error:
            self._cannot_send(broadcast, error)
        else:
            await self._calls.call_beside("on_broadcast", broadcast.topic, message)

    def _deliver_all(self) -> None:
        for item in self._waiting_items():
            self._send(cast(Broadcast, item))

    def _waiting_items(self) -> Iterator[Broadcast | frozenset[str]]:
        while self._waiting:
            item = self._waiting.popleft()
            self._size -= _size(item)
            yield item

    def _drop_oldest(self) -> bool:
        """Gaps stay: they are told whatever is dropped."""
        for item in self._queue():
            if isinstance(item, Broadcast):
                self._queue().remove(item)
                self._size -= _size(item)
                self._connection.outbound.count_drop(MessageDropped())
                return True
        return False


def _size(item: Broadcast | frozenset[str]) -> int:
    return len(item.payload) + MESSAGE_OVERHEAD if isinstance(item, Broadcast) else 0
