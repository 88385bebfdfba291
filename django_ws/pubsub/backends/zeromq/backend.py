"""Reaches the processes of one machine, or of a few, with a small broker that comes with it.

``LOCATION`` is the address of the broker, which all processes share:
``ipc:///run/mysite/ws`` on one machine, ``tcp://10.0.0.5:5555`` (and the next port) between
machines. ``OPTIONS``: ``high_water_mark``, the messages that may wait in each connection (1000).

ZeroMQ alone confirms nothing. So the broker acknowledges each request of a publisher, and a
subscription counts once a probe, published to it, has come back.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from itertools import count
from typing import Any

from django_ws.exceptions import BroadcastError
from django_ws.pubsub.backends import base
from django_ws.pubsub.backends.base import Backend, Gap, Received
from django_ws.pubsub.backends.breaker import Breaker, NotTried
from django_ws.pubsub.backends.sequence import Receiver, Sender

try:
    import zmq
    from zmq.utils.monitor import parse_monitor_message

    from django_ws.pubsub.backends.zeromq import broker
    from django_ws.pubsub.backends.zeromq.publisher import (
        LENGTH,
        Socket,
        ZeroMQPublisher,
        check,
        dealer,
        not_taken,
        publications_of,
        request,
        set_up,
        sized_channel_of,
    )
except ImportError as error:
    raise ImportError("ZeroMQBackend needs pyzmq: pip install 'django-ws[zmq]'") from error

__all__ = ["ZeroMQBackend", "ZeroMQPublisher"]

logger = logging.getLogger("django.ws")

INBOX = LENGTH.pack(0)  # of one backend, for its heartbeats; no channel is so short
AT_ONCE = 100  # messages that the stream gives before it lets the event loop turn


def fd_of(socket: Socket) -> int:
    return int(socket.fd)


class _Probe:
    """Where it must still come back, and who waits for it."""

    def __init__(self, channels: Iterable[bytes]) -> None:
        self.missing = set(channels)
        self.back: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.drops: int | None = None  # in the broker, when the first one passed it

    def is_done_with(self, channel: bytes) -> None:
        self.missing.discard(channel)
        if not self.missing and not self.back.done():
            self.back.set_result(None)


class ZeroMQBackend(Backend):
    """Listens to the broker; asks it whether it is there; and tells what may have been missed."""

    sync_publisher = ZeroMQPublisher
    publish_seconds = base.PUBLISH_SECONDS
    heartbeat_seconds = 5.0
    answer_seconds = 5.0  # a broker that does not answer for so long counts as gone
    probe_seconds = 0.05  # before the second probe; doubled up to a second

    def __init__(self, location: Any, prefix: str, options: Mapping[str, Any]) -> None:
        super().__init__(location, prefix, options)
        self._addresses = check(location, options)
        self._id = os.urandom(8)
        self._inbox = INBOX + self._id
        self._topics: dict[bytes, str] = {}  # what is asked for, by channel
        self._confirmed: set[bytes] = set()
        self._missed: set[bytes] = set()
        self._numbers = count(1)
        self._answers: dict[int, asyncio.Future[None]] = {}
        self._probes: dict[bytes, _Probe] = {}
        self._gaps: deque[Gap] = deque()
        self._given = 0  # since the event loop could turn
        self._drops = 0  # of the broker, when the last heartbeat passed it
        self._is_away = self._is_closed = False
        self._heard_at: float | None = None  # when the broker was there last
        self._seconds = base.publish_seconds_of(options, self.publish_seconds)
        self._breaker = Breaker(str(location))
        self._sender = Sender()
        self._receiver = Receiver(str(location))
        self._wake = asyncio.Event()
        self._lost = asyncio.Event()
        self._sending = asyncio.Lock()
        self._watching: asyncio.Task[None] | None = None
        self._closing = ExitStack()  # what was opened, in the order to close it

    @property
    def server(self) -> str:
        return str(self.location)

    # Life

    async def connect(self) -> None:
        self._loop = asyncio.get_running_loop()
        context = zmq.Context()
        self._closing.callback(context.destroy)  # with all its sockets
        self._dealer = dealer(context, self.location, self.options)
        self._sub = context.socket(zmq.SUB)
        set_up(self._sub, self.options)
        self._sub.sndhwm = 0  # these are the subscriptions: above the mark they would vanish
        self._sub.subscribe(self._inbox)
        self._monitor = self._sub.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._closing.callback(self._sub.disable_monitor)
        self._sub.connect(self._addresses[1])
        self._closing.callback(self._loop.remove_reader, fd_of(self._sub))
        self._call_when_readable(self._dealer, self._read_answers)
        self._call_when_readable(self._monitor, self._read_events)
        self._read_events()
        self._watching = asyncio.create_task(self._watch(), name="django_ws.zeromq")

    def _call_when_readable(self, socket: Socket, function: Callable[[], None]) -> None:
        self._loop.add_reader(fd_of(socket), function)
        self._closing.callback(self._loop.remove_reader, fd_of(socket))

    async def close(self) -> None:
        self._is_closed = True
        self._wake.set()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        self._closing.close()

    async def _watch(self) -> None:
        while True:
            await self._come_back()
            await self._beat()

    async def _come_back(self) -> None:
        """Until everything that is asked for is confirmed; then tell what was missed."""
        began = time.monotonic() if self._heard_at is None else self._heard_at
        patience = self.answer_seconds
        while (drops := await self._confirm_all(patience)) is None:
            self._is_away = True
            logger.error(
                "no broker answers at %s for %.0f s: broadcasts of other processes do not "
                "arrive. Is it running?",
                self.server,
                time.monotonic() - began,
            )
            patience = min(2 * patience, 3600.0)
        self._drops = drops
        self._heard_at = time.monotonic()  # also before its first heartbeat
        if self._is_away:
            logger.warning(
                "the broker at %s is back, after %.1f s", self.server, time.monotonic() - began
            )
        self._is_away = False
        self._breaker.probe_soon()
        self._tell(self._missed)
        self._missed.clear()

    async def _confirm_all(self, patience: float) -> int | None:
        """How often the broker has dropped something; None where it does not answer, or is lost
        again meanwhile.
        """
        self._lost.clear()
        drops = await self._probe([self._inbox, *self._topics], patience)
        return None if self._lost.is_set() else drops

    async def _beat(self) -> None:
        """Ask, and check the answer, until the broker is lost."""
        while not self._lost.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(self.heartbeat_seconds):
                    await self._lost.wait()
            drops = await self._probe([self._inbox], self.answer_seconds)
            if drops is None:
                self._lose("it does not answer")
                continue
            self._heard_at = time.monotonic()
            if drops != self._drops:
                # Perhaps it was another's loss: the broker cannot know. Whatever this one lost was
                # published before the heartbeat passed the broker; later losses count again.
                self._drops = drops
                self._tell(self._confirmed)

    def _lose(self, reason: str) -> None:
        if not self._is_away:
            self._is_away = True
            logger.warning("the broker at %s is lost: %s", self.server, reason)
        self._missed |= self._confirmed
        self._confirmed.clear()
        self._lost.set()

    def _tell(self, channels: Collection[bytes]) -> None:
        topics = frozenset(self._topics[c] for c in channels if c in self._topics)
        if topics:
            self._gaps.append(Gap(topics))
            self._wake.set()

    def _read_events(self) -> None:
        with suppress(zmq.Again):
            while True:
                parse_monitor_message(self._monitor.recv_multipart(zmq.NOBLOCK))
                self._lose("the connection broke")

    # Subscribing

    async def subscribe(self, topics: Collection[str]) -> None:
        channels = {sized_channel_of(self.prefix, topic): topic for topic in topics}
        for channel, topic in channels.items():
            if channel not in self._topics:
                self._topics[channel] = topic
                self._sub.subscribe(channel)
        self._wake.set()  # the call may have taken the signal that there is something to read
        await self._probe(channels.keys() - self._confirmed)

    def is_confirmed(self, topic: str) -> bool:
        return sized_channel_of(self.prefix, topic) in self._confirmed

    async def unsubscribe(self, topics: Collection[str]) -> None:
        for topic in topics:
            channel = sized_channel_of(self.prefix, topic)
            if self._topics.pop(channel, None) is not None:
                self._sub.unsubscribe(channel)
                self._confirmed.discard(channel)
                for probe in self._probes.values():
                    probe.is_done_with(channel)

    async def _probe(self, channels: Collection[bytes], patience: float = math.inf) -> int | None:
        """Returns when something published to each channel has come back; tries again and again.

        The result: how often the broker had dropped when the first of them passed it; None where
        they were not all back after ``patience``, in seconds.
        """
        if not channels:
            return 0
        number = next(self._numbers)
        token = self._id + number.to_bytes(8)
        probe = self._probes[token] = _Probe(channels)
        seconds = self.probe_seconds
        end = time.monotonic() + patience
        try:
            while probe.missing:
                if (left := end - time.monotonic()) <= 0:
                    return None
                with suppress(zmq.Again):  # not connected: later
                    self._send(number, [(channel, token, b"") for channel in probe.missing])
                await asyncio.wait([probe.back], timeout=min(seconds, left))
                seconds = min(2 * seconds, 1.0)
            return probe.drops or 0  # none, where all were given back meanwhile
        finally:
            del self._probes[token]

    # Publishing

    async def publish_many(self, messages: Sequence[tuple[str, bytes]]) -> None:
        if not messages:
            return
        began, seconds = time.monotonic(), self._seconds
        try:
            if self._breaker.admit():
                seconds = Breaker.PROBE_SECONDS
                await self._hand_over([], seconds)
                seconds = self._seconds
            with self._sender.call() as head:
                publications = publications_of(self.prefix, head, messages)
                await self._hand_over(publications, self._seconds)
        except TimeoutError as error:
            failed = not_taken(self.location, seconds)
            self._breaker.open(failed.reason, error)
            raise failed from error
        except asyncio.CancelledError:
            # Nobody waits for it any more. Was that for want of an answer?
            if time.monotonic() - began >= self._seconds / 2:
                failed = not_taken(self.location, self._seconds)
                self._breaker.open(failed.reason, failed)
            raise
        except (NotTried, zmq.ZMQError) as error:
            raise BroadcastError("broadcast", self.server, str(error)) from error
        self._breaker.close()

    async def _hand_over(self, publications: Sequence[Sequence[bytes]], seconds: float) -> None:
        number = next(self._numbers)
        answer = self._answers[number] = self._loop.create_future()
        try:
            async with asyncio.timeout(seconds):
                async with self._sending:  # in the order of the calls
                    while not self._has_sent(number, publications):  # noqa: ASYNC110
                        await asyncio.sleep(0.02)  # a socket tells no event for a connection
                await answer
        finally:
            del self._answers[number]

    def _has_sent(self, number: int, publications: Iterable[Sequence[bytes]]) -> bool:
        try:
            self._send(number, publications)
        except zmq.Again:
            return False
        return True

    def _send(self, number: int, publications: Iterable[Sequence[bytes]]) -> None:
        try:
            self._dealer.send_multipart(request(number, publications), zmq.NOBLOCK)
        finally:
            self._read_answers()  # sending may have taken the signal that there is one

    def _read_answers(self) -> None:
        with suppress(zmq.Again):
            while True:
                [number] = broker.ANSWER.unpack(self._dealer.recv(zmq.NOBLOCK))
                answer = self._answers.get(number)
                if answer and not answer.done():
                    answer.set_result(None)

    # Listening

    async def stream(self) -> AsyncIterator[Received]:
        while not self._is_closed:
            self._wake.clear()
            self._given = 0
            while self._given < AT_ONCE:
                try:
                    received = self._receive()
                except zmq.Again:
                    await self._readable()
                    break
                if received is not None:
                    yield received
                if self._is_closed:
                    return
            else:
                await asyncio.sleep(0)

    def read_nowait(self) -> Sequence[Received]:
        received = []
        with suppress(zmq.Again):
            while self._given < AT_ONCE:
                if (item := self._receive()) is not None:
                    received.append(item)
        return received

    def _receive(self) -> Received | None:
        """The next one; None for a probe. Raises ``zmq.Again`` when there is none."""
        self._given += 1
        if self._gaps:
            return self._gaps.popleft()
        channel, token, data = self._sub.recv_multipart(zmq.NOBLOCK)
        topic = self._topics.get(channel)
        if token:
            self._arrived(channel, token)
            return None
        if topic is None:
            return None
        message = self._receiver.read(data)
        return Gap(frozenset([topic])) if message is None else (topic, message)

    def _arrived(self, channel: bytes, token: bytes) -> None:
        probe = self._probes.get(token[: -broker.DROPS.size])
        if probe:
            if probe.drops is None:
                [probe.drops] = broker.DROPS.unpack(token[-broker.DROPS.size :])
            probe.is_done_with(channel)
            if channel in self._topics:
                self._confirmed.add(channel)
                if self._is_away:
                    self._missed.add(channel)  # it may have come by the old connection

    async def _readable(self) -> None:
        """Only while nothing else is to be done: a reader would be called all the time."""
        fd = fd_of(self._sub)
        self._loop.add_reader(fd, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            if not self._is_closed:  # by then the number may be another's
                self._loop.remove_reader(fd)
