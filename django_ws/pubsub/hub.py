"""One event loop's listener: dispatches what arrives, once, to all local subscribers.

It never awaits a handler or a socket, and lets the event loop turn after a few milliseconds of
work. Which topics it listens to, and for whom, is in ``rooms``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Container, Iterable, Sequence
from typing import Any

from django_ws.exceptions import DecodeError
from django_ws.pubsub.backends.base import Backend, Gap
from django_ws.pubsub.batch import Batch, batches
from django_ws.pubsub.chores import Chores
from django_ws.pubsub.envelope import CHECK, DISCONNECT, Broadcast
from django_ws.pubsub.outbox import Outbox
from django_ws.pubsub.owners import Owners
from django_ws.pubsub.rooms import Rooms
from django_ws.pubsub.topics import CONTROL_TOPIC
from django_ws.pubsub.turns import Turns
from django_ws.throttled_log import ThrottledLog
from django_ws.types import Subscriber

logger = logging.getLogger("django.ws")

_unknown = ThrottledLog(logger, logging.WARNING, "broadcasts in an unknown envelope")
_not_handed_on = ThrottledLog(logger, logging.ERROR, "broadcasts that could not be handed on")
_not_told = ThrottledLog(logger, logging.ERROR, "subscribers that could not be told")

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

    @property
    def is_connected(self) -> bool:
        """Whether what is published now arrives here, as far as is known."""
        return self.rooms.is_open.is_set() and self.rooms.backend.is_confirmed(CONTROL_TOPIC)

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
            for item in batches([received, *backend.at_hand()]):
                try:
                    await self._handle(item)
                except Exception as error:  # whatever was published, the listener goes on
                    _not_handed_on.log(
                        (backend.server, type(error).__qualname__),
                        "what %s sent could not be handed on",
                        backend.server,
                        exc_info=error,
                    )
                if turns.are_over():
                    await turns.pass_on()
            turns.finish()

    async def _handle(self, item: Batch | Gap | DecodeError) -> None:
        match item:
            case Batch():
                await self._dispatch(item)
            case Gap():
                await self._tell_gap(item.topics)
            case _:
                _unknown.log(self.rooms.backend.server, "dropped: %s", item)

    async def _dispatch(self, batch: Batch) -> None:
        broadcast = batch.broadcasts[0]
        if broadcast.kind == DISCONNECT:
            whose, code, reason = broadcast.message()
            self.owners.end(whose)
            await self._for_each(self._found(whose), lambda each: each.disconnect(code, reason))
            return
        if broadcast.kind == CHECK:
            await self._for_each(self._found(broadcast.message()), lambda each: each.check_login())
            return
        members = self.rooms.members_of(batch.topic)
        excluded = batch.excluded
        left: list[Subscriber] = []
        async for here in self._slices(tuple(members), members):
            left += self._write_frames(batch, here, excluded)
        if left:  # no message waits for a later one
            for broadcast in batch.broadcasts:
                async for here in self._slices(left, members):
                    self._send(broadcast, here)

    async def _slices(
        self, some: Sequence[Subscriber], members: Container[Subscriber]
    ) -> AsyncIterator[Sequence[Subscriber]]:
        """A few at a time, without those who have left while the event loop turned."""
        for start in range(0, len(some), SLICE_MEMBERS):
            if self._turns.are_over():
                await self._turns.pass_on()
            here = some[start : start + SLICE_MEMBERS]
            yield [member for member in here if member in members]

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
        if broadcast.exclude:
            exclude = (broadcast.exclude,)
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
            except Exception as error:  # the others shall not go without
                _not_told.log(
                    type(error).__qualname__, "one subscriber could not be told", exc_info=error
                )
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
        self.rooms.close()
        await self._chores.end()
