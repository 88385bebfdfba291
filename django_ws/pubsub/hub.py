"""One event loop's listener: dispatches each broadcast once, to all local subscribers.

It never awaits a handler or a socket, and lets the event loop turn after a few milliseconds of
work. Which topics it listens to, and for whom, is in ``rooms``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable
from typing import Any

from django_ws.exceptions import DecodeError
from django_ws.pubsub.backends.base import Backend, Gap
from django_ws.pubsub.chores import Chores
from django_ws.pubsub.envelope import CHECK, DISCONNECT, Broadcast
from django_ws.pubsub.outbox import Outbox
from django_ws.pubsub.owners import Owners
from django_ws.pubsub.rooms import Rooms
from django_ws.pubsub.topics import CONTROL_TOPIC
from django_ws.pubsub.turns import Turns
from django_ws.types import Subscriber

logger = logging.getLogger("django.ws")

SLICE_MEMBERS = 32  # after how many the clock is asked
RESTART_SECONDS = 1.0


class Hub:
    """For one event loop, and its thread only."""

    def __init__(self, make_backend: Callable[[], Backend], on_end: Callable[[], None]) -> None:
        self._make_backend = make_backend
        self._on_end = on_end
        self._chores = Chores(asyncio.get_running_loop())
        self._turns = Turns()
        self.rooms = Rooms(self._chores, self._tell_gap)
        self.rooms.listen_to(make_backend())
        self.rooms.keep(CONTROL_TOPIC)
        self._hears_orders = False
        loop = asyncio.get_running_loop()
        self.owners = Owners(loop)
        self.outbox = Outbox(loop, self._publish_many, lambda: self.rooms.backend)
        self._chores.start(self._listen)

    # Receiving

    async def _listen(self) -> None:
        try:
            await self._listen_always()
        finally:
            self._on_end()

    async def _listen_always(self) -> None:
        while True:
            backend = self.rooms.backend
            try:
                await backend.connect()
                self.rooms.is_open.set()
                await self._receive(backend)
            except Exception:
                logger.exception("the listener of %s failed: it starts anew", backend.server)
            finally:
                self.rooms.is_open.clear()
                await backend.close()
            await asyncio.sleep(RESTART_SECONDS)
            self.rooms.listen_to(self._make_backend())

    async def _receive(self, backend: Backend) -> None:
        turns = self._turns
        async for received in backend.stream():
            turns.begin()
            try:
                if isinstance(received, Gap):
                    await self._tell_gap(received.topics)
                else:
                    await self._dispatch(*received)
            except Exception:  # whatever was published, the listener goes on
                logger.exception("what %s sent could not be handed on", backend.server)
            if turns.finish():
                await turns.pass_on()

    async def _dispatch(self, topic: str, data: bytes) -> None:
        try:
            broadcast = Broadcast(topic, data)
        except DecodeError as error:
            logger.warning("a broadcast to %r was dropped: %s", topic, error)
            return
        if broadcast.kind == DISCONNECT:
            whose, code, reason = broadcast.message()
            self.owners.end(whose)
            await self._for_each(self._found(whose), lambda each: each.disconnect(code, reason))
            return
        if broadcast.kind == CHECK:
            await self._for_each(self._found(broadcast.message()), lambda each: each.check_login())
            return
        members = self.rooms.members_of(topic)
        if len(members) <= SLICE_MEMBERS:
            self._deliver(broadcast, members)
            return
        everybody = tuple(members)
        for start in range(0, len(everybody), SLICE_MEMBERS):
            if self._turns.are_over():
                await self._turns.pass_on()
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
                except Exception:  # of a codec of the user's, perhaps
                    member.deliver(broadcast)  # which tells
                    continue
                codec = member.codec
            send(dict(event))

    def _found(self, owner_or_topic: str) -> set[Subscriber]:
        return self.owners.of(owner_or_topic).union(self.rooms.members_of(owner_or_topic))

    async def _tell_gap(self, topics: Collection[str]) -> None:
        missed: dict[Subscriber, set[str]] = {}
        for topic in topics:
            for member in self.rooms.members_of(topic):
                missed.setdefault(member, set()).add(topic)
        await self._for_each(missed, lambda member: member.missed(frozenset(missed[member])))
        if CONTROL_TOPIC in topics:
            await self._check_all()

    async def _check_all(self) -> None:
        """Orders may have been missed: when the topic was lost, or before it was confirmed."""
        everybody = self.owners.everybody()
        if everybody and self._hears_orders:
            logger.warning(
                "Orders to disconnect users may not have arrived from %s: all log-ins of this "
                "process are checked again. Repeat what disconnect() was called for meanwhile.",
                self.rooms.backend.server,
            )
        self._hears_orders = True
        await self._for_each(everybody, lambda each: each.check_login())

    async def _for_each(
        self, members: Iterable[Subscriber], action: Callable[[Subscriber], None]
    ) -> None:
        for member in members:
            try:
                action(member)
            except Exception:  # the others shall not go without
                logger.exception("one subscriber could not be told")
            if self._turns.are_over():
                await self._turns.pass_on()

    # Sending, and the end

    async def _publish_many(self, messages: list[tuple[str, bytes]]) -> None:
        await self.rooms.is_open.wait()
        await self.rooms.backend.publish_many(messages)

    async def close(self) -> None:
        """Hand out what waits to be published, end all tasks, close the backend."""
        await self.outbox.flush()
        self.outbox.close()
        await self._chores.end()
