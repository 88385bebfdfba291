"""The one connection of an event loop that listens to Redis, and always comes back."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from itertools import islice
from typing import Any, NamedTuple

from redis import exceptions

from django_ws.exceptions import BroadcastError
from django_ws.pubsub.backends.backoff import backoff
from django_ws.pubsub.backends.base import Gap, Received, channel_of
from django_ws.pubsub.backends.redis.connection import abort
from django_ws.pubsub.backends.redis.outage import Outage
from django_ws.pubsub.backends.redis.wire import replies_of, send
from django_ws.pubsub.backends.sequence import Receiver


class Look(NamedTuple):
    """Whether a server is the one that everybody goes to."""

    is_sure: bool = True
    is_new: bool = False  # a moment ago it was another one: somebody may publish there still


class Listener:
    """Keeps the topics that were asked for subscribed. For one event loop's thread only.

    ``site`` is what stands in front of its topics. ``connect`` opens a connection of redis-py.
    ``look`` is asked at once, and then with each PING, whether that leads to the right server
    still, and raises where it does not. ``on_back`` is called when a server answers. Nothing is
    retried by redis-py: each loss is seen here, and told as a ``Gap``. All times in seconds.
    """

    CONNECT_SECONDS = 5.0  # the longest that one attempt to connect may take
    PING_SECONDS = 15.0  # how often the connection is tried
    PONG_SECONDS = 10.0  # nothing received for so long after a PING: it is dead
    FIRST_WAIT = 0.1  # before the first attempt to connect again; doubled each time, jittered
    LONGEST_WAIT = 30.0
    STEADY_SECONDS = 5.0  # a connection that held so long: the waits begin again
    NAMES = 500  # at most, in one command
    MAX_WAITING_BYTES = 8 * 1024 * 1024  # not taken from the stream: no more is read then
    DOUBT_SECONDS = 10.0  # after a new server has been found: nobody publishes to the old one then

    def __init__(
        self,
        server: str,
        site: str,
        connect: Callable[[], Awaitable[Any]],
        look: Callable[[Any], Awaitable[Look]],
        on_back: Callable[[], None],
    ) -> None:
        self.server = server
        self._site = site
        self._connect = connect
        self._look = look
        self._on_back = on_back
        self.losses = 0  # how often the connection was lost, or could not be made
        self._names: dict[bytes, str] = {}  # what is asked for: channel to topic
        self._waiters: dict[bytes, asyncio.Future[None]] = {}  # for what is not yet
        self._lost: set[bytes] = set()  # confirmed on a connection that is gone
        # What was sent on this connection:
        self._changed: dict[bytes, None] = {}  # channels to send a command for, perhaps
        self._subscribed: set[bytes] = set()  # the last command was SUBSCRIBE
        self._unanswered: set[bytes] = set()  # SUBSCRIBEs without an answer
        self._owed = 0  # answers, one for each channel of the last commands
        # What came in:
        self._receiver = Receiver(server)
        self._heard_at: float | None = None
        self._waiting: deque[Received] = deque()
        self._size = 0  # bytes read since the stream was empty
        self._outage = Outage(server, "Broadcasts")
        self._is_closed = False
        self._is_connected = False
        self._task: asyncio.Task[None] | None = None
        self._wake_writer = asyncio.Event()
        self._wake_stream = asyncio.Event()
        self._has_room = asyncio.Event()
        self._heard = asyncio.Event()
        self._nothing_owed = asyncio.Event()

    def start(self) -> None:
        self._has_room.set()
        self._task = asyncio.create_task(self._run(), name="django_ws: redis listener")

    async def close(self) -> None:
        self._is_closed = True
        while (
            self._task is not None and not self._task.done()
        ):  # redis-py may have swallowed a cancellation
            self._task.cancel()
            await asyncio.wait([self._task], timeout=0.1)
        for waiter in self._waiters.values():
            waiter.cancel()
        self._wake_stream.set()

    async def subscribe(self, topics: Collection[str]) -> None:
        waiters = []
        for topic in topics:
            channel = channel_of(self._site, topic)
            if channel not in self._names:
                self._names[channel] = topic
                self._has_changed(channel)
            if not self._holds(channel):
                waiter = self._waiters.get(channel)
                if waiter is None:
                    waiter = self._waiters[channel] = asyncio.get_running_loop().create_future()
                waiters.append(waiter)
        if waiters:
            self._wake_writer.set()
            # Not gather: when one who waits is cancelled, the others still wait.
            await asyncio.wait(waiters)
            if any(waiter.cancelled() for waiter in waiters):
                raise BroadcastError("subscribe", self.server, "it was taken back meanwhile")

    def unsubscribe(self, topics: Collection[str]) -> None:
        for topic in topics:
            channel = channel_of(self._site, topic)
            if self._names.pop(channel, None) is not None:
                self._lost.discard(channel)
                self._has_changed(channel)
                if (waiter := self._waiters.pop(channel, None)) is not None:
                    waiter.cancel()
        self._wake_writer.set()

    def _has_changed(self, channel: bytes) -> None:
        if self._is_connected:  # otherwise everything is looked at as soon as it is
            self._changed[channel] = None

    def is_confirmed(self, topic: str) -> bool:
        return self._holds(channel_of(self._site, topic))

    def _holds(self, channel: bytes) -> bool:
        """By the server, on this connection, of what is asked for."""
        return channel in self._subscribed and channel not in self._unanswered

    async def stream(self) -> AsyncIterator[Received]:
        while True:
            while self._waiting:
                yield self._waiting.popleft()
            self._size = 0
            self._has_room.set()
            if self._is_closed:
                return
            self._wake_stream.clear()
            await self._wake_stream.wait()

    def read_nowait(self) -> Sequence[Received]:
        received = list(self._waiting)
        self._waiting.clear()  # its size still counts: the stream has not been asked for more
        return received

    async def _run(self) -> None:
        failures = 0
        while True:
            connected_at = None
            try:
                async with asyncio.timeout(self.CONNECT_SECONDS):
                    connection = await self._connect()
                connected_at = time.monotonic()
                try:
                    await self._listen(connection)
                finally:
                    await abort(connection)
            except Exception as error:
                self._lose(error)
            held = time.monotonic() - connected_at if connected_at is not None else 0.0
            failures = 1 if held >= self.STEADY_SECONDS else failures + 1
            await asyncio.sleep(backoff(failures - 1, self.FIRST_WAIT, self.LONGEST_WAIT))

    async def _listen(self, connection: Any) -> None:
        """Until the connection is lost: raises the cause."""
        connection.socket_timeout = None  # waiting for messages has no end
        self._changed = dict.fromkeys(self._names)
        self._is_connected = True
        self._wake_writer.set()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read(connection))
                group.create_task(self._write(connection))
                group.create_task(self._watch(connection))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _read(self, connection: Any) -> None:
        waiting, names, read = self._waiting, self._names, self._receiver.read
        async for replies, size in replies_of(connection):
            self._heard.set()
            self._heard_at = time.monotonic()
            for reply in replies:  # hot: each message of this process comes through here
                if type(reply) is list and reply[0] == b"message":
                    topic = names.get(reply[1])
                    if topic is not None:
                        data = read(reply[2])
                        if data is None:
                            self._put_gap(topic)
                        else:
                            waiting.append((topic, data))
                else:
                    self._answered(reply)
            if waiting:
                self._wake_stream.set()
                self._size += size
                if self._size > self.MAX_WAITING_BYTES:
                    self._has_room.clear()
                    await self._has_room.wait()

    def _answered(self, reply: Any) -> None:
        """An answer to a command, not a message."""
        if isinstance(reply, Exception):
            raise reply
        if not isinstance(reply, list) or reply[0] == b"pong":  # without a topic it is +PONG
            self._back()
            return
        self._owed -= 1
        if not self._owed:
            self._nothing_owed.set()
        if reply[0] == b"subscribe":  # otherwise unsubscribe
            channel = reply[1]
            self._unanswered.discard(channel)
            if channel in self._waiters:
                self._waiters.pop(channel).set_result(None)

    async def _write(self, connection: Any) -> None:
        """All commands but later PINGs. The first PING's answer follows those to the first
        SUBSCRIBEs: everything is confirmed again then."""
        await self._send_changes(connection)
        await send(connection, "PING")
        while True:
            await self._wake_writer.wait()
            self._wake_writer.clear()
            await self._send_changes(connection)

    async def _send_changes(self, connection: Any) -> None:
        while self._changed:
            come, gone = [], []
            for channel in list(islice(self._changed, self.NAMES)):
                del self._changed[channel]
                if channel in self._names:
                    if channel not in self._subscribed:
                        self._subscribed.add(channel)
                        self._unanswered.add(channel)
                        come.append(channel)
                elif channel in self._subscribed:
                    self._subscribed.discard(channel)
                    gone.append(channel)
            # The server keeps answers for a listener up to a limit, then it cuts it off: so the
            # next names are sent when these have been answered.
            self._owed = len(gone) + len(come)
            self._nothing_owed.clear()
            if gone:
                await send(connection, "UNSUBSCRIBE", *gone)
            if come:
                await send(connection, "SUBSCRIBE", *come)
            if self._owed:
                await self._nothing_owed.wait()

    async def _watch(self, connection: Any) -> None:
        """Ask now and then whether it is there, and is the right server. Raises when nothing at
        all comes back, or when it is not.
        """
        is_first, was_sure = True, False
        again_at = math.inf
        while True:
            look = await self._look(connection)
            now = time.monotonic()
            if look.is_sure and not was_sure:
                was_sure = True
                if not is_first:  # until now the others may have been elsewhere
                    self._tell_gap()
                if look.is_new:
                    again_at = now + self.DOUBT_SECONDS
            elif now >= again_at:
                again_at = math.inf
                self._tell_gap()
            is_first = False
            await asyncio.sleep(self.PING_SECONDS)
            self._heard.clear()
            # In two halves: time in which this process itself stood still counts once.
            for half in range(2):
                try:
                    async with asyncio.timeout(self.PONG_SECONDS / 2):
                        if not half:
                            await send(connection, "PING")
                        await self._heard.wait()
                    break
                except TimeoutError:
                    pass
            if not self._heard.is_set() and self._has_room.is_set():
                raise exceptions.ConnectionError(f"no answer to a PING in {self.PONG_SECONDS:g} s")

    def _put_gap(self, topic: str) -> None:
        gap = Gap(frozenset([topic]))
        if not self._waiting or self._waiting[-1] != gap:
            self._waiting.append(gap)

    def _tell_gap(self) -> None:
        if topics := frozenset(self._names[c] for c in filter(self._holds, self._names)):
            self._waiting.append(Gap(topics))
            self._wake_stream.set()

    def _lose(self, error: Exception) -> None:
        self.losses += 1
        self._lost.update(filter(self._holds, self._names))
        self._is_connected = False
        self._changed.clear()
        self._subscribed.clear()
        self._unanswered.clear()
        self._outage.go_on(self.server, error, self._heard_at)

    def _back(self) -> None:
        self._on_back()
        self._outage.end()
        if self._lost:
            topics = frozenset(self._names[channel] for channel in self._lost)
            self._lost.clear()
            self._waiting.append(Gap(topics))


class SetListener(Listener):
    """Listens to the master of a set. Another server takes its place when it is silent: so that is
    noticed soon, and the sentinels are asked often.
    """

    PING_SECONDS = 2.0
    PONG_SECONDS = 2.5
    LONGEST_WAIT = 2.0
