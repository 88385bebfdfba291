"""The local subscriptions of one event loop, and its one listener.

A hub asks its backend for a topic when the first local subscriber comes, and gives it back a
little after the last has gone. What is received is dispatched here: once for each broadcast,
to all subscribers, without waiting for any of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextvars import Context
from typing import Any

from django_ws.acting import Pending, done
from django_ws.exceptions import BroadcastError, DecodeError, EncodeError
from django_ws.pubsub.backends.base import PUBLISH_SECONDS, Backend, Gap
from django_ws.pubsub.envelope import DISCONNECT, Broadcast
from django_ws.pubsub.outbox import Outbox
from django_ws.pubsub.topics import CONTROL_TOPIC
from django_ws.types import Subscriber

logger = logging.getLogger("django.ws")

SUBSCRIBE_SECONDS = PUBLISH_SECONDS
GRACE_SECONDS = 1.0  # a page that reloads leaves its topics and joins them again at once
SLICE_SECONDS = 0.005  # how long one dispatch may hold up the event loop
SLICE_MEMBERS = 32  # after how many the clock is asked
RESTART_SECONDS = 1.0


Waiting = dict[Subscriber, tuple[Pending, asyncio.TimerHandle]]
_NOBODY: Waiting = {}  # one for all rooms that are confirmed, to which nobody is added


class Room:
    """The local subscribers of one topic."""

    __slots__ = ("confirmed", "leaving", "members", "waiting")

    def __init__(self) -> None:
        self.members: dict[Subscriber, None] = {}  # in the order of joining
        self.confirmed = False
        self.waiting: Waiting = {}  # for the confirmation
        self.leaving: asyncio.TimerHandle | None = None  # while nobody is here


class Hub:
    """For one event loop, and its thread only."""

    def __init__(self, make_backend: Callable[[], Backend], on_end: Callable[[], None]) -> None:
        self._make_backend = make_backend
        self._on_end = on_end
        self.backend = make_backend()
        self.loop = asyncio.get_running_loop()
        self.rooms: dict[str, Room] = {}
        self.users: dict[str, set[Subscriber]] = {}
        self._to_ask: list[str] = []
        self._to_give_back: list[str] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.outbox = Outbox(self.loop, self._publish_many)
        self._ready = asyncio.Event()
        self._start(self._listen)
        self._start(self._confirm, [CONTROL_TOPIC])  # before anything can be published

    # Joining and leaving

    def join(self, subscriber: Subscriber, topic: str) -> Awaitable[None]:
        """Subscribe. Awaiting returns when the backend has confirmed the topic, and raises
        ``BroadcastError`` if it has not after 5 s: the subscriber is out again then.
        """
        room = self.rooms.get(topic)
        if room is None:
            room = self.rooms[topic] = Room()
            self._ask(topic)
        elif room.leaving is not None:
            room.leaving.cancel()
            room.leaving = None
        room.members[subscriber] = None
        if room.confirmed:
            return done(self.loop)
        if subscriber not in room.waiting:
            timer = self._later(SUBSCRIBE_SECONDS, self._give_up, subscriber, topic)
            room.waiting[subscriber] = Pending(), timer
        return room.waiting[subscriber][0]

    def leave(self, subscriber: Subscriber, topic: str) -> None:
        """Take back a ``join`` that has not failed."""
        room = self.rooms[topic]
        del room.members[subscriber]
        if subscriber in room.waiting:
            pending, timer = room.waiting.pop(subscriber)
            timer.cancel()
            pending.finish()  # who left on purpose waits for nothing
        if not room.members:
            room.leaving = self._later(GRACE_SECONDS, self._give_back, topic)

    def _give_up(self, subscriber: Subscriber, topic: str) -> None:
        pending, _ = self.rooms[topic].waiting.pop(subscriber)
        error = BroadcastError(
            f"subscribe({topic!r})",
            self.backend.server,
            f"not confirmed after {SUBSCRIBE_SECONDS:g} s",
        )
        logger.warning("%s", error)
        self.leave(subscriber, topic)
        subscriber.not_joined(topic)
        pending.finish(error)

    def _ask(self, topic: str) -> None:
        if not self._to_ask:
            self._later(0, self._ask_now)
        self._to_ask.append(topic)

    def _ask_now(self) -> None:
        topics, self._to_ask = self._to_ask, []
        self._start(self._confirm, topics)

    async def _confirm(self, topics: list[str]) -> None:
        while True:
            await self._ready.wait()
            try:
                await self.backend.subscribe(topics)
                break
            except BroadcastError:  # some were given back meanwhile; the others still wait
                topics = [t for t in topics if t in self.rooms or t == CONTROL_TOPIC]
        for topic in topics:
            room = self.rooms.get(topic)
            if room is not None:
                room.confirmed = True
                for pending, timer in room.waiting.values():
                    timer.cancel()
                    pending.finish()
                room.waiting = _NOBODY

    def _give_back(self, topic: str) -> None:
        del self.rooms[topic]
        if not self._to_give_back:
            self._later(0, self._give_back_now)
        self._to_give_back.append(topic)

    def _give_back_now(self) -> None:
        topics, self._to_give_back = self._to_give_back, []
        topics = [topic for topic in topics if topic not in self.rooms]  # joined again meanwhile
        self._start(self.backend.unsubscribe, topics)

    # Users

    def add_user(self, topic: str, subscriber: Subscriber) -> None:
        """Let ``disconnect(user_topic(user))`` find this connection."""
        self.users.setdefault(topic, set()).add(subscriber)

    def remove_user(self, topic: str, subscriber: Subscriber) -> None:
        self.users[topic].discard(subscriber)
        if not self.users[topic]:
            del self.users[topic]

    # Receiving

    async def _listen(self) -> None:
        try:
            await self._listen_always()
        finally:
            self._on_end()

    async def _listen_always(self) -> None:
        while True:
            try:
                await self.backend.connect()
                self._ready.set()
                await self._receive()
            except Exception:
                logger.exception("the listener of %s failed: it starts anew", self.backend.server)
            finally:
                self._ready.clear()
                await self.backend.close()
            await asyncio.sleep(RESTART_SECONDS)
            self.backend = self._make_backend()
            for topic in (CONTROL_TOPIC, *self.rooms):
                self._ask(topic)
            await self._tell_gap(self.rooms)

    async def _receive(self) -> None:
        async for received in self.backend.stream():
            try:
                if isinstance(received, Gap):
                    await self._tell_gap(received.topics)
                else:
                    await self._dispatch(*received)
            except Exception:  # whatever was published, the listener goes on
                logger.exception("what %s sent could not be handed on", self.backend.server)

    async def _dispatch(self, topic: str, data: bytes) -> None:
        try:
            broadcast = Broadcast(topic, data)
        except DecodeError as error:
            logger.warning("a broadcast to %r was dropped: %s", topic, error)
            return
        if broadcast.kind == DISCONNECT:
            await self._disconnect(*broadcast.message())
            return
        members = self._members_of(topic)
        if len(members) <= SLICE_MEMBERS:
            self._deliver(broadcast, members)
            return
        everybody = tuple(members)
        until = self.loop.time() + SLICE_SECONDS
        for start in range(0, len(everybody), SLICE_MEMBERS):
            if self.loop.time() > until:
                await asyncio.sleep(0)
                until = self.loop.time() + SLICE_SECONDS
            # Some may have left meanwhile.
            here = [
                member for member in everybody[start : start + SLICE_MEMBERS] if member in members
            ]
            self._deliver(broadcast, here)

    def _deliver(self, broadcast: Broadcast, members: Collection[Subscriber]) -> None:
        """Hot path: one round for each subscriber, and one encoding for each codec."""
        if broadcast.exclude:
            members = [member for member in members if not member.is_called(broadcast.exclude)]
        codec: Any = None
        for member in tuple(members):
            send = member.send
            if send is None:
                member.deliver(broadcast)
                continue
            if member.codec is not codec:
                try:
                    event = broadcast.event_for(member.codec)
                except EncodeError:
                    member.deliver(broadcast)  # which tells
                    continue
                codec = member.codec
            send(dict(event))

    def _members_of(self, topic: str) -> dict[Subscriber, None]:
        room = self.rooms.get(topic)  # none where the last member has just left
        return room.members if room is not None else {}

    async def _disconnect(self, topic: str, code: int, reason: str) -> None:
        found = self.users.get(topic, set()).union(self._members_of(topic))
        await self._for_each(found, lambda member: member.disconnect(code, reason))

    async def _tell_gap(self, topics: Collection[str]) -> None:
        missed: dict[Subscriber, set[str]] = {}
        for topic in topics:
            for member in self._members_of(topic):
                missed.setdefault(member, set()).add(topic)
        await self._for_each(missed, lambda member: member.missed(frozenset(missed[member])))

    async def _for_each(
        self, members: Iterable[Subscriber], action: Callable[[Subscriber], None]
    ) -> None:
        until = self.loop.time() + SLICE_SECONDS
        for member in members:
            action(member)
            if self.loop.time() > until:
                await asyncio.sleep(0)
                until = self.loop.time() + SLICE_SECONDS

    # Sending, and the end

    async def _publish_many(self, messages: list[tuple[str, bytes]]) -> None:
        await self._ready.wait()
        await self.backend.publish_many(messages)

    # In empty contexts: whoever happens to be first would be kept alive by its variables.

    def _later(
        self, seconds: float, function: Callable[..., None], *args: Any
    ) -> asyncio.TimerHandle:
        return self.loop.call_later(seconds, function, *args, context=Context())

    def _start(self, function: Callable[..., Awaitable[None]], *args: Any) -> None:
        task = self.loop.create_task(
            self._run(function, *args),
            name=f"django_ws hub {function.__name__}",
            context=Context(),
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, function: Callable[..., Awaitable[None]], *args: Any) -> None:
        try:
            await function(*args)
        except Exception:
            logger.exception("%s failed", function.__name__)

    async def close(self) -> None:
        """End all tasks, hand out what waits to be published, close the backend."""
        await self.outbox.flush()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
