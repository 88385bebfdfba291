"""The local subscribers of each topic; subscribes the backend to these topics."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from itertools import islice
from typing import NamedTuple, TypeVar

from django_ws.exceptions import BroadcastError
from django_ws.logs.throttled import ThrottledLog
from django_ws.pubsub.backends.base import PUBLISH_SECONDS, Backend
from django_ws.pubsub.hub.copies import Copies
from django_ws.pubsub.hub.task_group import HubTasks
from django_ws.threads.any_thread import Failed, Pending, done
from django_ws.types import Subscriber

logger = logging.getLogger("django.ws")

_unconfirmed = ThrottledLog(logger, logging.WARNING, "subscriptions that were not confirmed")

SUBSCRIBE_SECONDS = PUBLISH_SECONDS
TOGETHER_SECONDS = 0.5  # then each topic is asked for by itself
AGAIN_SECONDS = 0.1  # before a backend that refused is asked again
GRACE_SECONDS = 1.0  # a page that reloads leaves its topics and joins them again at once
LOOK_SECONDS = 0.02  # the shortest timer: times that end together are handled together
AT_ONCE = 500  # topics, at most, that the backend is asked for, or given back, in one go
MAX_LEFT = 1000  # topics without a subscriber that are kept for the grace

T = TypeVar("T")

Waiting = dict[Subscriber, Pending]
_NOBODY: Waiting = {}  # one for all topics that are confirmed, to which nobody is added


class Entry:
    """The local subscribers of one topic."""

    __slots__ = ("confirmed", "is_asked", "members", "missed", "waiting")

    def __init__(self) -> None:
        self.members: dict[Subscriber, int] = {}  # in the order of joining, with their age
        self.is_asked = False  # the backend was asked for it, and may have to be told of its end
        self.confirmed = False
        self.missed = False  # a listener failed: something was lost before the confirmation
        self.waiting: Waiting = {}  # for the confirmation


class _Limit(NamedTuple):
    """Until when a subscriber waits for a confirmation; ``is_new`` if it is out again then."""

    time: float
    subscriber: Subscriber
    topic: str
    is_new: bool


class TopicRegistry:
    """For one event loop, and its thread only.

    A topic is asked for when the first subscriber comes, and given back a little after the
    last has gone. ``tell_gap(topics)`` is called where something may have been missed.

    Clients may change their topics as fast as they can send messages, and the server answers
    each topic that it is asked for or given back. So only one request is under way at a time,
    what was left again before its turn is never sent, and few topics are kept for the grace.
    """

    def __init__(
        self, hub_tasks: HubTasks, tell_gap: Callable[[Collection[str]], Awaitable[None]]
    ) -> None:
        self._hub_tasks = hub_tasks
        self._tell_gap = tell_gap
        self._loop = asyncio.get_running_loop()
        self._entries: dict[str, Entry] = {}
        self._to_ask: dict[str, Entry] = {}
        self._to_give_back: dict[str, None] = {}
        self._is_asking = False  # a task works on these two
        self._left: dict[str, float] = {}  # until when each is kept, the oldest first
        self._left_timer: asyncio.TimerHandle | None = None
        self._limits: dict[Pending, _Limit] = {}  # of all who wait, the oldest first
        self._limits_timer: asyncio.TimerHandle | None = None
        self._is_closed = False
        self._kept: set[str] = set()  # and not confirmed yet
        self.is_ready = asyncio.Event()  # all that is kept was confirmed once
        self.copies = Copies(self._loop)
        self.backend: Backend  # set by the first ``listen_to``
        self.is_open = asyncio.Event()

    def __contains__(self, topic: str) -> bool:
        return topic in self._entries

    def members_of(self, topic: str) -> dict[Subscriber, int]:
        """Not a copy. Empty where the last one has just left. With their age (``copies``)."""
        entry = self._entries.get(topic)
        return entry.members if entry is not None else {}

    # The backend

    def listen_to(self, backend: Backend) -> None:
        """Ask this backend from now on, for all that the one before was asked for, too."""
        self.backend = backend
        for topic in self._left:
            del self._entries[topic]
        self._left.clear()
        for topic, entry in self._entries.items():
            entry.missed = entry.missed or entry.confirmed
            self._ask_again(topic, entry)

    def keep(self, topic: str, *, tells_gap: bool = False) -> None:
        """Ask for a topic without a local subscriber, for good.

        With ``tells_gap`` its first confirmation tells one, too.
        """
        entry = self._entries[topic] = Entry()
        entry.missed = tells_gap
        self._kept.add(topic)
        self._ask(topic, entry)

    def close(self) -> None:
        """The backend is asked for nothing any more; who waits gets ``BroadcastError``."""
        self._is_closed = True
        for pending, limit in list(self._limits.items()):
            self._fail(pending, limit, self._closed_error(limit.topic))
        if self._left_timer is not None:
            self._left_timer.cancel()

    def _closed_error(self, topic: str) -> BroadcastError:
        reason = "the event loop's hub has been closed"
        return BroadcastError(f"subscribe({topic!r})", self.backend.server, reason)

    # Joining and leaving

    def join(self, subscriber: Subscriber, topic: str) -> Awaitable[None]:
        """Subscribe. Awaiting returns when the backend has confirmed the topic, and raises
        ``BroadcastError`` if it has not after 5 s: who had not joined before is out again then.
        """
        entry = self._entries.get(topic)
        is_new = entry is None or subscriber not in entry.members
        if self._is_closed:
            if is_new:
                subscriber.not_joined(topic)
            return Failed(self._closed_error(topic))
        if entry is None:
            entry = self._entries[topic] = Entry()
            if topic in self._to_give_back:
                del self._to_give_back[topic]
                entry.is_asked = True
            self._ask(topic, entry)
        elif self._left:
            self._left.pop(topic, None)
        if is_new:
            entry.members[subscriber] = self.copies.age
        if entry.confirmed:
            if self.backend.is_confirmed(topic):
                return done(self._loop)
            self._ask_again(topic, entry)
        if subscriber not in entry.waiting:
            entry.waiting[subscriber] = self._wait(subscriber, topic, is_new)
        return entry.waiting[subscriber]

    def leave(self, subscriber: Subscriber, topic: str) -> None:
        """Take back a ``join`` that has not failed."""
        entry = self._entries[topic]
        del entry.members[subscriber]
        if subscriber in entry.waiting:
            self._finish(entry.waiting.pop(subscriber))  # who left on purpose waits for nothing
        if not entry.members and not self._is_closed:
            self._empty(topic)

    def replace(self, subscriber: Subscriber, other: Subscriber, topic: str) -> None:
        """Let another subscriber have the place of one that has joined."""
        members = self._entries[topic].members
        members[other] = members.pop(subscriber)

    # Waiting for confirmations

    def _wait(self, subscriber: Subscriber, topic: str, is_new: bool) -> Pending:
        pending = Pending()
        time = self._loop.time() + SUBSCRIBE_SECONDS
        self._limits[pending] = _Limit(time, subscriber, topic, is_new)
        if self._limits_timer is None:
            self._limits_timer = self._hub_tasks.later(SUBSCRIBE_SECONDS, self._give_up)
        return pending

    def _finish(self, pending: Pending, error: BroadcastError | None = None) -> None:
        del self._limits[pending]
        if not self._limits and self._limits_timer is not None:
            self._limits_timer.cancel()
            self._limits_timer = None
        pending.finish(error)

    def _give_up(self) -> None:
        """Fail those who have waited for too long."""
        self._limits_timer = None
        now = self._loop.time()
        for pending, limit in list(self._limits.items()):
            if limit.time > now:
                seconds = max(limit.time - now, LOOK_SECONDS)
                self._limits_timer = self._hub_tasks.later(seconds, self._give_up)
                return
            error = BroadcastError(
                f"subscribe({limit.topic!r})",
                self.backend.server,
                f"not confirmed after {SUBSCRIBE_SECONDS:g} s",
            )
            _unconfirmed.log(self.backend.server, "%s", error)
            self._fail(pending, limit, error)

    def _fail(self, pending: Pending, limit: _Limit, error: BroadcastError) -> None:
        _, subscriber, topic, is_new = limit
        del self._entries[topic].waiting[subscriber]
        if is_new:
            self.leave(subscriber, topic)
            subscriber.not_joined(topic)
        self._finish(pending, error)

    # Asking for topics, and giving them back

    def _ask_again(self, topic: str, entry: Entry) -> None:
        if entry.confirmed:
            entry.confirmed = False
            entry.waiting = {}
        self._ask(topic, entry)

    def _ask(self, topic: str, entry: Entry) -> None:
        self._to_ask[topic] = entry
        self._start_asking()

    def _empty(self, topic: str) -> None:
        """The last subscriber has left."""
        if topic in self._to_ask:
            self._give_back(topic)
            return
        self._left[topic] = self._loop.time() + GRACE_SECONDS
        if len(self._left) > MAX_LEFT:
            oldest = next(iter(self._left))
            del self._left[oldest]
            self._give_back(oldest)
        if self._left_timer is None:
            self._left_timer = self._hub_tasks.later(GRACE_SECONDS, self._end_graces)

    def _end_graces(self) -> None:
        self._left_timer = None
        now = self._loop.time()
        for topic, time in list(self._left.items()):
            if time > now:
                seconds = max(time - now, LOOK_SECONDS)
                self._left_timer = self._hub_tasks.later(seconds, self._end_graces)
                return
            del self._left[topic]
            self._give_back(topic)

    def _give_back(self, topic: str) -> None:
        entry = self._entries.pop(topic)
        self._to_ask.pop(topic, None)
        if entry.is_asked:
            self._to_give_back[topic] = None
            self._start_asking()

    def _start_asking(self) -> None:
        if not self._is_asking:
            self._is_asking = True
            self._hub_tasks.start(self._ask_in_turn)

    async def _ask_in_turn(self) -> None:
        """One request after the other: the next when the one before was answered."""
        await asyncio.sleep(0)  # what is asked for in one turn of the loop goes together
        while self._to_ask or self._to_give_back:
            if topics := _taken(self._to_give_back):
                giving_back = self._hub_tasks.start(self.backend.unsubscribe, list(topics))
                await asyncio.wait([giving_back], timeout=TOGETHER_SECONDS)
            if entries := _taken(self._to_ask):
                for entry in entries.values():
                    entry.is_asked = True
                await self._confirm(entries)
        self._is_asking = False

    async def _confirm(self, entries: dict[str, Entry]) -> None:
        together = self._hub_tasks.start(self._subscribe, entries)
        await asyncio.wait([together], timeout=TOGETHER_SECONDS)
        if len(entries) > 1 and together.cancel():
            # In a cluster one server may be away, and the topics of the others are not.
            for topic, entry in entries.items():
                self._hub_tasks.start(self._subscribe, {topic: entry})

    async def _subscribe(self, entries: dict[str, Entry]) -> None:
        while True:
            await self.is_open.wait()
            try:
                await self.backend.subscribe(list(entries))
                break
            except BroadcastError:  # some were given back meanwhile; the others still wait
                entries = {
                    topic: entry for topic, entry in entries.items() if self._is(topic, entry)
                }
                if not entries:
                    return
                await asyncio.sleep(AGAIN_SECONDS)
        missed = [topic for topic, entry in entries.items() if self._confirmed(topic, entry)]
        if missed:
            self._hub_tasks.start(self._tell_gap, missed)

    def _confirmed(self, topic: str, entry: Entry) -> bool:
        """Whether something was missed before."""
        if entry.confirmed or not self._is(topic, entry):
            return False
        entry.confirmed = True
        for pending in entry.waiting.values():
            self._finish(pending)
        entry.waiting = _NOBODY
        if self._kept:
            self._kept.discard(topic)
            if not self._kept:
                self.is_ready.set()
        missed, entry.missed = entry.missed, False
        return missed

    def _is(self, topic: str, entry: Entry) -> bool:
        """Whether it has not been given back, and perhaps asked for again."""
        return self._entries.get(topic) is entry


def _taken(waiting: dict[str, T]) -> dict[str, T]:
    """The first ``AT_ONCE``, taken out."""
    taken = dict(islice(waiting.items(), AT_ONCE))
    for topic in taken:
        del waiting[topic]
    return taken
