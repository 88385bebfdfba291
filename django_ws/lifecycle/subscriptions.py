"""The topics of one connection (at most ``WS_MAX_TOPICS``), and what arrives on them.

A handler without ``on_broadcast`` gets the encoded data straight into its outbound buffer. What a
hook is called for goes through its ``HookQueue``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Iterable, Sequence
from functools import partial
from typing import Any

from django_ws import conf
from django_ws.connection.connection import Connection
from django_ws.exceptions import TooManyTopics, TopicForbidden
from django_ws.lifecycle.broadcast_queue import HasBackground, HookQueue, TopicHandler, cannot_send
from django_ws.lifecycle.hook_calls import Calls, Handler
from django_ws.pubsub.envelope import Broadcast
from django_ws.pubsub.hub.hub import Hub
from django_ws.pubsub.topics import ConnectionTopic, check_topics, check_topics_to_join
from django_ws.threads.any_thread import All, Failed, Pending, done
from django_ws.types import Event, Subscriber


class Subscriptions:
    """What the hub knows of a connection (a ``Subscriber``). For the loop's thread only."""

    __slots__ = (
        "_calls",
        "_connection",
        "_handler",
        "_has_ended",
        "_has_hook",
        "_hub",
        "_identities",
        "_is_held",
        "_life",
        "_members",
        "_queue",
        "codec",
        "prepare",
        "send",
        "topics",
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
        self._has_hook = "on_broadcast" in handler._hooks.overridden
        self._is_held = is_held  # nothing is handed on before on_open has returned
        self._has_ended = False
        self._queue: HookQueue | None = None  # made for the first that waits
        self._members: dict[str, TopicMember] | None = None  # for the topics with a handler
        self._identities: tuple[Hub, Sequence[str]] | None = None
        # Those joined now or, since the connection began to end, those joined then. A tuple takes
        # a tenth of a dict's memory.
        self.topics: tuple[str, ...] = ()
        self.codec = handler.codec
        self.send: Callable[[Event], None] | None = None
        self.prepare = connection.outbound.prepare
        self.write_frames: Callable[[Any], bool] | None = None
        self._look_for_send()

    def join(
        self, topics: str | Iterable[str], function: TopicHandler | None = None
    ) -> Awaitable[None]:
        """Subscribe, with a handler for these topics or without; awaiting returns when all are
        confirmed. Raises ``InvalidTopic``, ``TooManyTopics``, ``TopicForbidden`` and, where they
        are awaited, ``BroadcastError``.
        """
        if self._connection.gone:
            return Failed(self._connection.closed_error())
        joining = check_topics_to_join(topics)
        limit = conf.get().ws_max_topics
        topics_then = tuple(dict.fromkeys((*self.topics, *joining)))
        if len(topics_then) > limit:
            raise TooManyTopics(limit)
        if "may_subscribe" in self._handler._hooks.overridden:
            self._check_permission(joining)
        if function is not None and not callable(function):
            raise TypeError(
                f"subscribe(handler={function!r}): give a function that takes topic and message"
            )
        topics_before, self.topics = self.topics, topics_then
        return All([self._join(topic, function, topic not in topics_before) for topic in joining])

    def _join(self, topic: str, function: TopicHandler | None, is_new: bool) -> Awaitable[None]:
        if is_new:
            self._choose_member(topic, function, is_new=True)
            return self._hub.topics.join(self._member(topic), topic)
        joining = self._hub.topics.join(self._member(topic), topic)
        if isinstance(joining, Pending) and not joining.done:
            # As long as that may fail the topic keeps the handler that it has.
            joining.then(partial(self._choose_member, topic, function))
        elif not isinstance(joining, Failed):
            self._choose_member(topic, function)
        return joining

    def _choose_member(
        self, topic: str, function: TopicHandler | None, *, is_new: bool = False
    ) -> None:
        """Who stands for this connection in the topic: itself, or what calls the handler."""
        if topic not in self.topics or self._has_ended:
            return  # it was left meanwhile
        members = self._members
        if members is not None and topic in members:
            members[topic].function = function
        elif function is not None:
            if members is None:
                members = self._members = {}
                if not self._handler.concurrent_broadcasts:
                    is_locked = not self._is_held and self._connection.inbound.in_hook
                    self._calls.add_lock(is_locked=is_locked)
            members[topic] = TopicMember(self, function)
            if not is_new:
                self._hub.topics.replace(self, members[topic], topic)

    def _member(self, topic: str) -> Subscriber:
        return (self._members or {}).get(topic, self)

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
            if topic in self.topics and not self._has_ended:
                member = self._member(topic)
                self.not_joined(topic)
                self._hub.topics.leave(member, topic)
        return done(self._connection.loop)

    def belongs_to(self, identities: Sequence[str], hub: Hub) -> bool:
        """Let ``disconnect(user_topic(user))`` and a log-out find it, through this hub.

        Whether no log-in among them is known to have ended.
        """
        self._identities = hub, identities
        return hub.users.add(identities, self)

    def release(self) -> None:
        """``on_open`` has returned: hand on what has arrived meanwhile."""
        self._is_held = False
        self.codec = self._handler.codec  # on_open may have chosen it
        self._look_for_send()
        if self._queue is not None:
            self._queue.release(None if self._has_hook else self._send)

    def end(self) -> None:
        """The connection has begun to end: nothing is delivered any more."""
        self._has_ended = True
        for topic in self.topics:
            self._hub.topics.leave(self._member(topic), topic)
        self._members = None
        if self._identities is not None:
            hub, identities = self._identities
            hub.users.remove(identities, self)
            self._identities = None
        if self._queue is not None:
            self._queue.drop_all(self._connection.closed_error())

    # What the hub calls

    @property
    def stands_for(self) -> Subscriptions:
        return self

    def is_called(self, names: Container[str]) -> bool:
        if self._handler._known_id in names:
            return True
        return self._identities is not None and any(
            identity in names for identity in self._identities[1]
        )

    def deliver(self, broadcast: Broadcast) -> None:
        if self._has_hook or self._is_held:
            self.queue.put(broadcast, None)
        else:
            self._send(broadcast)

    def _send(self, broadcast: Broadcast) -> None:
        try:
            event = broadcast.event_for(self.codec)
        except Exception as error:  # of a codec of the user's, perhaps
            cannot_send(self._connection, self.codec, broadcast, error)
        else:
            self._connection.deliver(event)

    @property
    def queue(self) -> HookQueue:
        if self._queue is None:
            self._queue = HookQueue(
                self._handler, self._connection, self._calls, self._life, is_held=self._is_held
            )
        return self._queue

    def _look_for_send(self) -> None:
        is_direct, connection = not (self._has_hook or self._is_held), self._connection
        self.send = connection.deliver if is_direct else None
        has_frames = self.prepare is not None and is_direct
        self.write_frames = connection.outbound.write_frames if has_frames else None

    def missed(self, topics: frozenset[str]) -> None:
        topics = frozenset(  # some may have been left meanwhile
            topic
            for topic in topics
            if topic in self.topics or isinstance(topic, ConnectionTopic)  # it is its own
        )
        if self._has_ended:
            return
        if topics and "on_broadcast_gap" in self._handler._hooks.overridden:
            self.queue.put_gap(topics)

    def not_joined(self, topic: str) -> None:
        self.topics = tuple(joined for joined in self.topics if joined != topic)
        if self._members is not None:
            self._members.pop(topic, None)

    def disconnect(self, code: int, reason: str) -> None:
        self._connection.close(code, reason)

    def check_login(self) -> None:
        login = self._handler.request.login
        if login is not None:
            login.check()


class TopicMember:
    """Stands for a connection in a topic that has a handler of its own (a ``Subscriber``)."""

    __slots__ = ("function", "stands_for")

    codec: Any = None
    send: Callable[[Event], None] | None = None  # each broadcast must be delivered
    prepare: Callable[[Any], Any] | None = None
    write_frames: Callable[[Any], bool] | None = None

    def __init__(self, subscriptions: Subscriptions, function: TopicHandler) -> None:
        self.stands_for = subscriptions
        self.function: TopicHandler | None = function  # None: it was joined again without one

    def __eq__(self, other: object) -> bool:
        """As its connection: a broadcast under way may have either for the other."""
        return getattr(other, "stands_for", None) is self.stands_for

    def __hash__(self) -> int:
        return hash(self.stands_for)

    def is_called(self, names: Container[str]) -> bool:
        return self.stands_for.is_called(names)

    def deliver(self, broadcast: Broadcast) -> None:
        if self.function is None:
            self.stands_for.deliver(broadcast)
        else:
            self.stands_for.queue.put(broadcast, self.function)

    def missed(self, topics: frozenset[str]) -> None:
        self.stands_for.missed(topics)

    def not_joined(self, topic: str) -> None:
        self.stands_for.not_joined(topic)

    def disconnect(self, code: int, reason: str) -> None:
        self.stands_for.disconnect(code, reason)

    def check_login(self) -> None:
        self.stands_for.check_login()
