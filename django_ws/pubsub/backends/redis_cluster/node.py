"""The connection that listens to one node of a Redis Cluster."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MovedError, RedisError

from django_ws.pubsub.backends.base import Gap, Received
from django_ws.pubsub.backends.redis.connection import abort, connect
from django_ws.pubsub.backends.redis.listener import SetListener
from django_ws.pubsub.backends.redis.wire import replies_of
from django_ws.pubsub.backends.redis_cluster.contact import Contact
from django_ws.pubsub.backends.redis_cluster.delivery import is_unknown_command
from django_ws.pubsub.backends.redis_cluster.slots import Node
from django_ws.pubsub.backends.sequence import Receiver


class Topic:
    """A topic that was asked for: where it is listened to, and whether that is confirmed."""

    __slots__ = (
        "channel",
        "is_confirmed",
        "is_lost",
        "is_sharded",
        "left",
        "moves",
        "name",
        "node",
        "rests_until",
        "shunned",
        "waiter",
    )

    def __init__(self, name: str, channel: bytes) -> None:
        self.name = name
        self.channel = channel
        self.node: NodeListener | None = None
        self.is_sharded = True
        self.is_confirmed = False
        self.waiter: asyncio.Future[bool] | None = None
        self.is_lost = False  # was confirmed once, and is not now
        self.left: Node | None = None  # its node was lost, without a word of its own
        self.moves = 0  # since it was last confirmed
        self.rests_until = 0.0
        self.shunned: Node | None = None  # it has dropped the topic lately


class Inbox:
    """What has come from all nodes and waits for the one reader of the stream."""

    def __init__(self, server: str) -> None:
        self.topics: dict[bytes, Topic] = {}  # by channel
        self.server = server
        self.receivers: dict[Node, Receiver] = {}
        self.waiting: deque[Received | set[str]] = deque()  # a set: a gap that may still grow
        self.size = 0  # bytes read since the stream was empty
        self.wake = asyncio.Event()
        self.has_room = asyncio.Event()
        self.has_room.set()
        self.is_closed = False

    def receiver_of(self, node: Node) -> Receiver:
        """It outlives the connection: what is late may come over the next one."""
        if node not in self.receivers:
            self.receivers[node] = Receiver(self.server)
        return self.receivers[node]

    def put_gap(self, topic: str) -> None:
        if not (self.waiting and isinstance(self.waiting[-1], set)):
            self.waiting.append(set())
        last = self.waiting[-1]
        assert isinstance(last, set)
        last.add(topic)
        self.wake.set()

    async def stream(self) -> AsyncIterator[Received]:
        while True:
            while self.waiting:
                yield self._next()
            self.size = 0
            self.has_room.set()
            if self.is_closed:
                return
            self.wake.clear()
            await self.wake.wait()

    def read_nowait(self) -> Sequence[Received]:
        return [self._next() for _ in range(len(self.waiting))]

    def _next(self) -> Received:
        received = self.waiting.popleft()
        return Gap(frozenset(received)) if isinstance(received, set) else received


class Placement(Protocol):
    """Who decides which node listens to what, and is told what the nodes say."""

    contact: Callable[[Node], Awaitable[Contact]]

    def confirmed(self, node: NodeListener, channel: bytes) -> None: ...

    def dropped(self, node: NodeListener, channel: bytes) -> None: ...

    def moved(self, node: NodeListener, error: MovedError) -> None: ...

    def lost(self, node: NodeListener, error: Exception) -> None: ...

    def is_older(self, node: NodeListener) -> None: ...


class NodeListener:
    """Subscribes at one node. Ends when the connection is lost, or the node has lost contact with
    the others, and tells so.

    All times and limits are those of ``SetListener``.
    """

    def __init__(self, address: Node, pool: Any, inbox: Inbox, placement: Placement) -> None:
        self.address = address
        self.topics: dict[int, set[Topic]] = {}  # by slot
        self.connected_at: float | None = None
        self.heard_at: float | None = None
        self.contact = Contact()
        self._pool = pool
        self._inbox = inbox
        self._placement = placement
        # Commands on their way to the server, by channel:
        self._subscribes: dict[bytes, int] = {}
        self._unsubscribes: dict[bytes, int] = {}
        self._commands: deque[tuple[str | bytes, ...]] = deque()
        self._wake = asyncio.Event()
        self._heard = asyncio.Event()
        name = f"django_ws: listens to {address[0]}:{address[1]}"
        self.task = asyncio.create_task(self._run(), name=name)

    def all_topics(self) -> list[Topic]:
        return [topic for topics in self.topics.values() for topic in topics]

    def join(self, topic: Topic, is_sharded: bool) -> None:
        self.topics.setdefault(key_slot(topic.channel), set()).add(topic)
        topic.node = self
        topic.is_sharded = is_sharded
        self._subscribes[topic.channel] = self._subscribes.get(topic.channel, 0) + 1
        self._commands.append(("SSUBSCRIBE" if is_sharded else "SUBSCRIBE", topic.channel))
        self._wake.set()

    def leave(self, topic: Topic) -> None:
        self.forget(topic)
        self._unsubscribes[topic.channel] = self._unsubscribes.get(topic.channel, 0) + 1
        command = "SUNSUBSCRIBE" if topic.is_sharded else "UNSUBSCRIBE"
        self._commands.append((command, topic.channel))
        self._wake.set()

    def was_refused(self, topic: Topic) -> None:
        """No confirmation will come."""
        self._subscribes.pop(topic.channel, None)

    def forget(self, topic: Topic) -> None:
        """It is not subscribed here any more."""
        topic.node = None
        slot = key_slot(topic.channel)
        topics = self.topics[slot]
        topics.discard(topic)
        if not topics:
            del self.topics[slot]

    async def _run(self) -> None:
        try:
            async with asyncio.timeout(SetListener.CONNECT_SECONDS):
                connection = await connect(self._pool)
            self.connected_at = time.monotonic()
            try:
                await self._check()
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._watch())
                    group.create_task(self._read(connection))
                    group.create_task(self._write(connection))
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None
            finally:
                await abort(connection)
        except Exception as error:
            self._placement.lost(self, error)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(SetListener.PING_SECONDS)
            await self._check()

    async def _check(self) -> None:
        """Raises ``LostContact`` where the node may have been replaced."""
        with suppress(RedisError, OSError):  # whether it answers, a PING tells
            self.contact = await self._placement.contact(self.address)
        if self.contact.asked_at > -math.inf:
            self.contact.require()

    async def _read(self, connection: Any) -> None:
        inbox = self._inbox
        read = inbox.receiver_of(self.address).read
        async for replies, size in replies_of(connection):
            self._heard.set()
            self.heard_at = time.monotonic()
            for reply in replies:  # hot: each message of this process comes through here
                if type(reply) is list and reply[0] in (b"smessage", b"message"):
                    topic = inbox.topics.get(reply[1])
                    if topic is not None and topic.node is self:
                        data = read(reply[2])
                        if data is None:
                            inbox.put_gap(topic.name)
                        else:
                            inbox.waiting.append((topic.name, data))
                else:
                    self._answered(reply)
            if inbox.waiting:
                inbox.wake.set()
                inbox.size += size
                if inbox.size > SetListener.MAX_WAITING_BYTES:
                    inbox.has_room.clear()
                    await inbox.has_room.wait()

    def _answered(self, reply: Any) -> None:
        """An answer to a command, or a move that the server tells of."""
        if isinstance(reply, Exception):
            words = str(reply).split()
            if words[0] == "MOVED":
                # It may have answered an unsubscription, which gets no other answer then. Better
                # to take an answer for a lost topic than a lost topic for an answer.
                self._unsubscribes.clear()
                self._placement.moved(self, MovedError(" ".join(words[1:])))
            elif is_unknown_command(reply):
                self._placement.is_older(self)
            else:
                raise reply
            return
        # A PONG is no list where nothing is subscribed.
        kind, channel = reply[:2] if isinstance(reply, list) else (b"", b"")
        if kind in (b"ssubscribe", b"subscribe"):
            if _count_down(self._subscribes, channel) == 0:
                self._placement.confirmed(self, channel)
        elif kind in (b"sunsubscribe", b"unsubscribe") and (
            _count_down(self._unsubscribes, channel) < 0
        ):  # nobody asked for it: the slot has left the node
            self._placement.dropped(self, channel)

    async def _write(self, connection: Any) -> None:
        """All commands, and a PING now and then. Raises when nothing at all comes back."""
        while True:
            if not self._commands:
                self._wake.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(SetListener.PING_SECONDS):
                        await self._wake.wait()
            number = min(len(self._commands), SetListener.NAMES)
            commands = [self._commands.popleft() for _ in range(number)] or [("PING",)]
            await self._ask(connection, commands)

    async def _ask(self, connection: Any, commands: list[tuple[str | bytes, ...]]) -> None:
        """Send, and wait until anything comes back."""
        self._heard.clear()
        asking = asyncio.ensure_future(self._send_and_hear(connection, commands))
        try:
            # In two halves: time in which this process itself stood still counts once.
            for _ in range(2):
                if (await asyncio.wait([asking], timeout=SetListener.PONG_SECONDS / 2))[0]:
                    asking.result()
                    return
        finally:
            asking.cancel()
        if self._inbox.has_room.is_set():
            raise RedisConnectionError(f"no answer to a PING in {SetListener.PONG_SECONDS:g} s")

    async def _send_and_hear(
        self, connection: Any, commands: list[tuple[str | bytes, ...]]
    ) -> None:
        packed = connection.pack_commands(commands)
        await connection.send_packed_command(packed, check_health=False)
        await self._heard.wait()


def _count_down(numbers: dict[bytes, int], channel: bytes) -> int:
    """How many are left; -1 where none was expected."""
    left = numbers.pop(channel, 0) - 1
    if left > 0:
        numbers[channel] = left
    return left
