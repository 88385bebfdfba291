"""The local subscribers of each topic, and what the backend is asked for on their behalf."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection

from django_ws.acting import Pending, done
from django_ws.exceptions import BroadcastError
from django_ws.pubsub.backends.base import PUBLISH_SECONDS, Backend
from django_ws.pubsub.chores import Chores
from django_ws.throttled_log import ThrottledLog
from django_ws.types import Subscriber

logger = logging.getLogger("django.ws")

_unconfirmed = ThrottledLog(logger, logging.WARNING, "subscriptions that were not confirmed")

SUBSCRIBE_SECONDS = PUBLISH_SECONDS
TOGETHER_SECONDS = 0.5  # then each topic is asked for by itself
GRACE_SECONDS = 1.0  # a page that reloads leaves its topics and joins them again at once

Waiting = dict[Subscriber, tuple[Pending, asyncio.TimerHandle]]
_NOBODY: Waiting = {}  # one for all rooms that are confirmed, to which nobody is added


class Room:
    """The local subscribers of one topic."""

    __slots__ = ("confirmed", "leaving", "members", "missed", "waiting")

    def __init__(self) -> None:
        self.members: dict[Subscriber, None] = {}  # in the order of joining
        self.confirmed = False
        self.missed = False  # a listener failed: something was lost before the confirmation
        self.waiting: Waiting = {}  # for the confirmation
        self.leaving: asyncio.TimerHandle | None = None  # while nobody is here


class Rooms:
    """For one event loop, and its thread only.

    A topic is asked for when the first subscriber comes, and given back a little after the
    last has gone. ``tell_gap(topics)`` is called where something may have been missed.
    """

    def __init__(
        self, chores: Chores, tell_gap: Callable[[Collection[str]], Awaitable[None]]
    ) -> None:
        self._chores = chores
        self._tell_gap = tell_gap
        self._rooms: dict[str, Room] = {}
        self._to_ask: dict[str, Room] = {}
        self._to_give_back: list[str] = []
        self.backend: Backend  # set by the first ``listen_to``
        self.is_open = asyncio.Event()

    def __contains__(self, topic: str) -> bool:
        return topic in self._rooms

    def members_of(self, topic: str) -> dict[Subscriber, None]:
        """Not a copy. Empty where the last one has just left."""
        room = self._rooms.get(topic)
        return room.members if room is not None else {}

    # The backend

    def listen_to(self, backend: Backend) -> None:
        """Ask this backend from now on, for all that the one before was asked for, too."""
        self.backend = backend
        for topic, room in self._rooms.items():
            room.missed = room.missed or room.confirmed
            self._ask_again(topic, room)

    def keep(self, topic: str) -> None:
        """Ask for a topic without a local subscriber, for good.

        ``tell_gap`` is called when it is confirmed for the first time, too.
        """
        room = self._rooms[topic] = Room()
        room.missed = True
        self._ask(topic, room)

    # Joining and leaving

    def join(self, subscriber: Subscriber, topic: str) -> Awaitable[None]:
        """Subscribe. Awaiting returns when the backend has confirmed the topic, and raises
        ``BroadcastError`` if it has not after 5 s: the subscriber is out again then.
        """
        room = self._rooms.get(topic)
        if room is None:
            room = self._rooms[topic] = Room()
            self._ask(topic, room)
        elif room.leaving is not None:
            room.leaving.cancel()
            room.leaving = None
        room.members[subscriber] = None
        if room.confirmed:
            if self.backend.is_confirmed(topic):
                return done(asyncio.get_running_loop())
            self._ask_again(topic, room)
        if subscriber not in room.waiting:
            timer = self._chores.later(SUBSCRIBE_SECONDS, self._give_up, subscriber, topic)
            room.waiting[subscriber] = Pending(), timer
        return room.waiting[subscriber][0]

    def leave(self, subscriber: Subscriber, topic: str) -> None:
        """Take back a ``join`` that has not failed."""
        room = self._rooms[topic]
        del room.members[subscriber]
        if subscriber in room.waiting:
            pending, timer = room.waiting.pop(subscriber)
            timer.cancel()
            pending.finish()  # who left on purpose waits for nothing
        if not room.members:
            room.leaving = self._chores.later(GRACE_SECONDS, self._give_back, topic)

    def _give_up(self, subscriber: Subscriber, topic: str) -> None:
        pending, _ = self._rooms[topic].waiting.pop(subscriber)
        error = BroadcastError(
            f"subscribe({topic!r})",
            self.backend.server,
            f"not confirmed after {SUBSCRIBE_SECONDS:g} s",
        )
        _unconfirmed.log(self.backend.server, "%s", error)
        self.leave(subscriber, topic)
        subscriber.not_joined(topic)
        pending.finish(error)

    # Asking for topics: all of one turn of the loop together

    def _ask_again(self, topic: str, room: Room) -> None:
        if room.confirmed:
            room.confirmed = False
            room.waiting = {}
        self._ask(topic, room)

    def _ask(self, topic: str, room: Room) -> None:
        if not self._to_ask:
            self._chores.later(0, self._ask_now)
        self._to_ask[topic] = room

    def _ask_now(self) -> None:
        rooms, self._to_ask = self._to_ask, {}
        self._chores.start(self._confirm, rooms)

    async def _confirm(self, rooms: dict[str, Room]) -> None:
        together = self._chores.start(self._subscribe, rooms)
        await asyncio.wait([together], timeout=TOGETHER_SECONDS)
        if len(rooms) > 1 and together.cancel():
            # In a cluster one server may be away, and the topics of the others are not.
            for topic, room in rooms.items():
                self._chores.start(self._subscribe, {topic: room})

    async def _subscribe(self, rooms: dict[str, Room]) -> None:
        while True:
            await self.is_open.wait()
            try:
                await self.backend.subscribe(list(rooms))
                break
            except BroadcastError:  # some were given back meanwhile; the others still wait
                rooms = {topic: room for topic, room in rooms.items() if self._is(topic, room)}
        missed = [topic for topic, room in rooms.items() if self._confirmed(topic, room)]
        if missed:
            await self._tell_gap(missed)

    def _confirmed(self, topic: str, room: Room) -> bool:
        """Whether something was missed before."""
        if room.confirmed or not self._is(topic, room):
            return False
        room.confirmed = True
        for pending, timer in room.waiting.values():
            timer.cancel()
            pending.finish()
        room.waiting = _NOBODY
        missed, room.missed = room.missed, False
        return missed

    def _is(self, topic: str, room: Room) -> bool:
        """Whether it has not been given back, and perhaps asked for anew."""
        return self._rooms.get(topic) is room

    # Giving topics back

    def _give_back(self, topic: str) -> None:
        del self._rooms[topic]
        if not self._to_give_back:
            self._chores.later(0, self._give_back_now)
        self._to_give_back.append(topic)

    def _give_back_now(self) -> None:
        topics, self._to_give_back = self._to_give_back, []
        topics = [topic for topic in topics if topic not in self._rooms]  # joined again meanwhile
        self._chores.start(self.backend.unsubscribe, topics)
