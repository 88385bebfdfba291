"""One event loop's listener: delivers what arrives, once, to all local subscribers.

It never awaits a handler or a socket, and lets the event loop turn after a few milliseconds of
work. Which topics it listens to, and for whom, is in ``topics``; what arrives faster than it can be
delivered waits in ``arrivals``, from which topics take turns.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import (
    Callable,
    Collection,
    Container,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import suppress
from typing import Any

from django_ws.exceptions import DecodeError
from django_ws.logs.throttled import ThrottledLog
from django_ws.pubsub.backends.base import Backend, Gap
from django_ws.pubsub.envelope import CHECK, ORDERS, Broadcast
from django_ws.pubsub.hub.addresses import addresses_of
from django_ws.pubsub.hub.arrivals import ALL_TOPICS, Arrivals
from django_ws.pubsub.hub.batch import Batch, Item, next_batch
from django_ws.pubsub.hub.task_group import HubTasks
from django_ws.pubsub.hub.time_slice import TimeSlice
from django_ws.pubsub.hub.topic_registry import TopicRegistry
from django_ws.pubsub.hub.user_index import UserIndex
from django_ws.pubsub.outbox.outbox import Outbox
from django_ws.pubsub.topics import CONTROL_TOPIC, connection_topic
from django_ws.types import Subscriber

logger = logging.getLogger("django.ws")

_unknown = ThrottledLog(logger, logging.WARNING, "broadcasts in an unknown envelope")
_not_handed_on = ThrottledLog(logger, logging.ERROR, "broadcasts that could not be handed on")
_not_told = ThrottledLog(logger, logging.ERROR, "subscribers that could not be told")

READ_AT_ONCE = 500  # in a flood, before somebody else may have a turn
SLICE_MEMBERS = 32  # after how many the clock is asked
RESTART_SECONDS = 1.0
READY_SECONDS = 0.5

Work = Iterator[None]  # a delivery, in small steps: between them somebody else may have a turn


class Hub:
    """For one event loop, and its thread only."""

    def __init__(self, make_backend: Callable[[], Backend], on_end: Callable[[Hub], None]) -> None:
        loop = asyncio.get_running_loop()
        self._make_backend = make_backend
        self._on_end = on_end
        self._hub_tasks = HubTasks(loop)
        self._time_slice = TimeSlice()
        self._arrivals = Arrivals()
        self._is_behind = asyncio.Event()  # something waits in there
        self._addresses = addresses_of(loop)
        self.topics = TopicRegistry(self._hub_tasks, self._tell_gap)
        self.topics.listen_to(self._new_backend())
        self.topics.keep(CONTROL_TOPIC, tells_gap=True)
        self.topics.keep(self._addresses.topic)
        self._hears_orders = False
        self._has_waited = False  # until single connections could be reached
        self.users = UserIndex(loop)
        self.outbox = Outbox(loop, self._publish_many, lambda: self.topics.backend)
        self._hub_tasks.start(self._listen)
        self._hub_tasks.start(self._catch_up)

    @property
    def is_connected(self) -> bool:
        """Whether what is published now arrives here, as far as is known."""
        return self.topics.is_open.is_set() and self.topics.backend.is_confirmed(CONTROL_TOPIC)

    async def ready(self) -> None:
        """Wait until single connections can be reached, but no longer than half a second."""
        if not self.topics.is_ready.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(READY_SECONDS):
                    await self.topics.is_ready.wait()

    def _new_backend(self) -> Backend:
        backend = self._make_backend()
        backend.is_crowded = self._arrivals.is_crowded
        return backend

    # Receiving

    async def _listen(self) -> None:
        try:
            await self._listen_always()
        finally:
            self._on_end(self)

    async def _listen_always(self) -> None:
        while True:
            backend = self.topics.backend
            try:
                await backend.connect()
                self.topics.is_open.set()
                await self._receive(backend)
            except Exception:
                logger.exception("the listener of %s failed: it starts again", backend.server)
            finally:
                self.topics.is_open.clear()
                await backend.close()
            await asyncio.sleep(RESTART_SECONDS)
            self.topics.listen_to(self._new_backend())

    async def _receive(self, backend: Backend) -> None:
        arrivals = self._arrivals
        read = 0
        async for received in backend.stream():
            waiting: deque[Item] = deque((received, *backend.read_nowait()))
            if arrivals or not self._deliver_at_once(waiting):
                for item in waiting:
                    arrivals.put(item)
                self._is_behind.set()
                read += len(waiting)
                if read >= READ_AT_ONCE:  # there may be no end of what the stream has
                    read = 0
                    await asyncio.sleep(0)

    def _deliver_at_once(self, waiting: deque[Item]) -> bool:
        """In the order in which it came. Whether that was all, before the turn was over."""
        time_slice = self._time_slice
        time_slice.begin()
        while waiting and not time_slice.is_over():
            item = next_batch(waiting)
            work = self._work(item)
            if not self._run(work):
                channel = item.broadcasts[0].channel if isinstance(item, Batch) else ALL_TOPICS
                self._arrivals.put_begun(channel, work)
                return False
        time_slice.finish()
        return not waiting

    async def _catch_up(self) -> None:
        """Deliver what waits, as long as anything does."""
        while True:
            await self._is_behind.wait()
            self._is_behind.clear()
            while True:
                await self._time_slice.pass_on(is_flooded=self._arrivals.are_many)
                if self._deliver_in_turn():
                    break
            self._time_slice.finish()

    def _deliver_in_turn(self) -> bool:
        """A batch of each topic after the other. Whether nothing waits any more."""
        arrivals, time_slice = self._arrivals, self._time_slice
        while (queue := arrivals.next()) is not None:
            if queue.work is None:
                queue.work = self._work(arrivals.take(queue))
            if self._run(queue.work):
                queue.work = None
            arrivals.end_turn()
            if time_slice.is_over():
                break
        return not arrivals

    def _run(self, work: Work) -> bool:
        """Whether it came to its end before the turn was over."""
        try:
            for _ in work:
                if self._time_slice.is_over():
                    return False
        except Exception as error:  # whatever was published, the listener goes on
            server = self.topics.backend.server
            _not_handed_on.log(
                (server, type(error).__qualname__),
                "what %s sent could not be handed on",
                server,
                exc_info=error,
            )
        return True

    def _work(self, item: Batch | Gap | DecodeError) -> Work:
        if isinstance(item, Gap):
            return self._gap(item.topics)
        if isinstance(item, DecodeError):
            return self._not_known(item)
        if item.broadcasts[0].kind in ORDERS:
            return self._obey(item.broadcasts[0])
        return self._send_all(item)

    def _not_known(self, error: DecodeError) -> Work:
        _unknown.log(self.topics.backend.server, "dropped: %s", error)
        return iter(())

    # Orders

    def _obey(self, order: Broadcast) -> Work:
        if order.kind == CHECK:
            found = self._found(order.message())
            yield from self._for_each(found, lambda member: member.check_login())
            return
        whose, code, reason = order.message()
        self.users.end(whose)
        if order.to:
            found = {*_those_of(self._addresses.find(order.to, for_message=False))}
        else:
            found = self._found(whose)
        exclude = order.exclude

        def disconnect(member: Subscriber) -> None:
            if not (exclude and member.is_called(exclude)):
                member.disconnect(code, reason)

        yield from self._for_each(found, disconnect)

    def _found(self, identity_or_topic: str) -> set[Subscriber]:
        return self.users.of(identity_or_topic).union(self.topics.members_of(identity_or_topic))

    # Messages

    def _send_all(self, batch: Batch) -> Work:
        """To all members of the topic, of whom some may leave between two steps."""
        first = batch.broadcasts[0]
        members = self._members_for(first)
        receivers: Iterable[Subscriber] = members
        if first.id:
            receivers = self.topics.copies.receivers(first.id, members)
        excluded = batch.excluded
        left: list[Subscriber] = []
        for here in _slices(tuple(receivers), members):
            left += self._write_frames(batch, here, excluded)
            yield
        if left:  # no message waits for a later one
            for broadcast in batch.broadcasts:
                for here in _slices(left, members):
                    self._send(broadcast, here)
                    yield

    def _members_for(self, broadcast: Broadcast) -> dict[Subscriber, int]:
        if not broadcast.to:
            return self.topics.members_of(broadcast.topic)
        return _those_of(self._addresses.find(broadcast.to))

    def _write_frames(
        self, batch: Batch, members: Iterable[Subscriber], excluded: Container[str]
    ) -> list[Subscriber]:
        """All at once to each subscriber whose server has frames. Gives those that are left.

        Hot path: one call for each, all else once for each codec.
        """
        left: list[Subscriber] = []
        codec: Any = None
        prepare: Any = None
        frames: Any = None
        for member in members:
            write_frames = member.write_frames
            if write_frames is not None and not (excluded and member.is_called(excluded)):
                if member.codec is not codec or member.prepare is not prepare:
                    codec, prepare = member.codec, member.prepare
                    frames = batch.frames_for(codec, prepare)
                if frames is not None and write_frames(frames):
                    continue
            left.append(member)
        return left

    def _send(self, broadcast: Broadcast, members: Iterable[Subscriber]) -> None:
        """One by one. Hot path where the server has no frames: one encoding for each codec."""
        exclude = broadcast.exclude
        if exclude:
            members = [member for member in members if not member.is_called(exclude)]
        codec: Any = None
        for member in members:
            send = member.send
            if send is None:
                member.deliver(broadcast)
                continue
            if member.codec is not codec:
                try:
                    event = broadcast.event_for(member.codec)
                except Exception:  # of a codec of the user's, perhaps
                    member.deliver(broadcast)  # which tells
                    continue
                codec = member.codec
            send(dict(event))

    # Gaps

    async def _tell_gap(self, topics: Collection[str]) -> None:
        """For the topic registry: what was lost has nothing to do with what arrives now."""
        self._time_slice.begin()
        for _ in self._gap(topics):
            if self._time_slice.is_over():
                await self._time_slice.pass_on()
        self._time_slice.finish()

    def _gap(self, topics: Collection[str]) -> Work:
        missed: dict[Subscriber, set[str]] = {}
        for topic in topics:
            for member in self.topics.members_of(topic):
                missed.setdefault(member, set()).add(topic)
        if self._addresses.topic in topics:
            for connection_id, member in self._addresses.those_who_hear_gaps():
                missed.setdefault(member, set()).add(connection_topic(connection_id))
        yield from self._for_each(missed, lambda member: member.missed(frozenset(missed[member])))
        if CONTROL_TOPIC in topics:
            yield from self._check_all()

    def _check_all(self) -> Work:
        """Orders may have been missed: when the topic was lost, or before it was confirmed."""
        everybody = self.users.everybody()
        if everybody and self._hears_orders:
            logger.warning(
                "Orders to disconnect users may not have arrived from %s: all log-ins of this "
                "process are checked again. Repeat what disconnect() was called for meanwhile.",
                self.topics.backend.server,
            )
        self._hears_orders = True
        yield from self._for_each(everybody, lambda each: each.check_login())

    def _for_each(
        self, members: Iterable[Subscriber], action: Callable[[Subscriber], None]
    ) -> Work:
        for member in members:
            try:
                action(member)
            except Exception as error:  # the others shall not go without
                _not_told.log(
                    type(error).__qualname__, "one subscriber could not be told", exc_info=error
                )
            yield

    # Sending, and the end

    async def _publish_many(self, messages: list[tuple[str, bytes]]) -> None:
        await self.topics.is_open.wait()
        if not self._has_waited:  # the first may be to a connection of this very loop
            await self.ready()
            self._has_waited = True
        await self.topics.backend.publish_many(messages)

    async def close(self) -> None:
        """Hand out what waits to be published, end all tasks, close the backend."""
        await self.outbox.flush()
        self.outbox.close()
        self.topics.close()
        await self._hub_tasks.end()
        self._on_end(self)  # also where the listener was cancelled before its first step


def _those_of(member: Subscriber | None) -> dict[Subscriber, int]:
    """One that has joined before all others, or nobody."""
    return {member: 0} if member is not None else {}


def _slices(
    some: Sequence[Subscriber], members: Container[Subscriber]
) -> Iterator[Sequence[Subscriber]]:
    """A few at a time, without those who have left while others had their turn."""
    for start in range(0, len(some), SLICE_MEMBERS):
        yield [member for member in some[start : start + SLICE_MEMBERS] if member in members]
