"""Keeps topics subscribed in a Redis Cluster, at the node that serves their slot.

Not by redis-py's ``ClusterPubSub``: in 8.1 it moves subscriptions only after a command of its own
client has refreshed the slots, so after a failover a process that only listens receives nothing
more; and a frozen node raises no error.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import suppress

from redis.exceptions import ClusterDownError, MovedError

from django_ws.exceptions import BroadcastError
from django_ws.pubsub.backends.backoff import backoff, jitter
from django_ws.pubsub.backends.base import Received, channel_of
from django_ws.pubsub.backends.redis.listener import Listener
from django_ws.pubsub.backends.redis.outage import Outage
from django_ws.pubsub.backends.redis_cluster.contact import Contact
from django_ws.pubsub.backends.redis_cluster.delivery import NO_NODE
from django_ws.pubsub.backends.redis_cluster.node import Inbox, NodeListener, Topic
from django_ws.pubsub.backends.redis_cluster.nodes import Nodes, name_of
from django_ws.pubsub.backends.redis_cluster.slots import Node

ASK_SECONDS = 1.0  # at most, between two questions for the slots while topics have no place
FIRST_ASK_SECONDS = 0.05
SHUN_SECONDS = 2.0  # a node that has dropped a topic does not get it again for so long
QUICK_MOVES = 3  # a topic may be sent on so often at once; then the nodes must agree first


class ClusterListener:
    """One connection to each node that serves a topic. For one event loop's thread only.

    A topic without a place (its node is lost, its slot has moved or is served by nobody) waits
    in ``_unassigned`` for the task that finds it a new one.
    """

    def __init__(
        self, nodes: Nodes, site: str, contact: Callable[[Node], Awaitable[Contact]]
    ) -> None:
        self._nodes = nodes
        self._site = site
        self.contact = contact  # asks a node how it stands with the others
        self._unassigned: dict[bytes, Topic] = {}
        self._unconfirmed: set[Topic] = set()
        self._listeners: dict[Node, NodeListener] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._rests: dict[Node, tuple[int, float]] = {}  # failures in a row, and until when
        self._questions = 0  # answered since every topic had its place
        self._questions_failed = 0  # in a row
        self._ask_at = 0.0
        self._outage = Outage(nodes.server, "Some broadcasts")
        self._inbox = Inbox(nodes.server)
        self._second_gaps: deque[tuple[float, Topic]] = deque()  # when they are due
        self._topics = self._inbox.topics
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._find_places(), name="django_ws: redis cluster")

    async def close(self) -> None:
        if self._task is not None:
            tasks = [self._task, *self._tasks]
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        self.unsubscribe([topic.name for topic in self._topics.values()])
        self._inbox.is_closed = True
        self._inbox.wake.set()

    def stream(self) -> AsyncIterator[Received]:
        return self._inbox.stream()

    def read_nowait(self) -> Sequence[Received]:
        return self._inbox.read_nowait()

    async def subscribe(self, names: Collection[str]) -> None:
        loop = asyncio.get_running_loop()
        waiters = []
        for name in names:
            channel = channel_of(self._site, name)
            topic = self._topics.get(channel)
            if topic is None:
                topic = self._topics[channel] = self._unassigned[channel] = Topic(name, channel)
                self._unconfirmed.add(topic)
            if not topic.is_confirmed:
                topic.waiter = topic.waiter or loop.create_future()
                waiters.append(topic.waiter)
        if waiters:
            self._wake.set()
            # Not gather: when one who waits is cancelled, the others still wait.
            await asyncio.wait(waiters)
            if not all(waiter.result() for waiter in waiters):
                raise BroadcastError("subscribe", self._nodes.server, "it was taken back meanwhile")

    def is_confirmed(self, name: str) -> bool:
        topic = self._topics.get(channel_of(self._site, name))
        return topic is not None and topic.is_confirmed

    def unsubscribe(self, names: Collection[str]) -> None:
        for name in names:
            topic = self._topics.pop(channel_of(self._site, name), None)
            if topic is None:
                continue
            self._unassigned.pop(topic.channel, None)
            self._unconfirmed.discard(topic)
            if topic.node is not None:
                topic.node.leave(topic)
            if topic.waiter is not None:
                topic.waiter.set_result(False)
        self._wake.set()  # connections without topics are closed

    # What the nodes say

    def confirmed(self, node: NodeListener, channel: bytes) -> None:
        topic = self._topics.get(channel)
        if topic is None or topic.node is not node:
            return
        topic.is_confirmed = True
        topic.moves = 0
        topic.shunned = None
        self._unconfirmed.discard(topic)
        if topic.is_lost:
            topic.is_lost = False
            self._inbox.put_gap(topic.name)
            if topic.left not in (None, node.address):
                # Its old node may not know yet that it has been replaced.
                due = time.monotonic() + node.contact.doubt_seconds
                self._second_gaps.append((due, topic))
                self._wake.set()
        topic.left = None
        if topic.waiter is not None:
            topic.waiter.set_result(True)
            topic.waiter = None
        if not self._unconfirmed:
            self._outage.end()

    def dropped(self, node: NodeListener, channel: bytes) -> None:
        """Its slot has left the node.

        The node may still name itself, or be named, as the owner, and as a replica it accepts
        the topic. But until the shard's nodes have agreed, not all messages would reach it.
        """
        topic = self._topics.get(channel)
        if topic is not None and topic.node is node:
            self._nodes.slots.is_stale = True
            topic.shunned = node.address
            topic.rests_until = time.monotonic() + SHUN_SECONDS
            self._unassign(node, topic)

    def moved(self, node: NodeListener, error: MovedError) -> None:
        """The slot is not at the node, and the node knows where it is."""
        self._nodes.slots.moved(node.address, error)
        for topic in list(node.topics.get(error.slot_id, ())):
            topic.shunned = None
            self._send_on(node, topic)

    def is_older(self, node: NodeListener) -> None:
        """The node knows no sharded pub/sub."""
        self._nodes.slots.is_sharded = False
        for topic in [topic for topic in node.all_topics() if topic.is_sharded]:
            self._send_on(node, topic)

    def lost(self, node: NodeListener, error: Exception) -> None:
        """The connection has ended, or there was none."""
        now = time.monotonic()
        address = node.address
        self._listeners = {a: each for a, each in self._listeners.items() if each is not node}
        failures, _ = self._rests.get(address, (0, 0.0))
        is_steady = node.connected_at and now - node.connected_at >= Listener.STEADY_SECONDS
        failures = 1 if is_steady else failures + 1
        self._rests = {a: rest for a, rest in self._rests.items() if rest[1] > now - 60}
        self._rests[address] = failures, now + _wait(failures)
        self._nodes.slots.lost(address)
        for topic in node.all_topics():
            topic.left = topic.left or address
            self._unassign(node, topic)
        self._outage.go_on(name_of(address), error, node.heard_at)

    def _send_on(self, node: NodeListener, topic: Topic) -> None:
        """It was refused. Elsewhere, or in another way, at once; but not in circles."""
        node.was_refused(topic)
        topic.moves += 1
        if topic.moves > QUICK_MOVES:
            topic.rests_until = time.monotonic() + jitter(ASK_SECONDS)
        self._unassign(node, topic)

    def _unassign(self, node: NodeListener, topic: Topic) -> None:
        node.forget(topic)
        topic.is_lost = topic.is_lost or topic.is_confirmed
        topic.is_confirmed = False
        self._unconfirmed.add(topic)
        self._unassigned[topic.channel] = topic
        self._wake.set()

    # Finding places

    async def _find_places(self) -> None:
        while True:
            self._wake.clear()
            second_gap = self._tell_second_gaps()
            if self._unassigned and self._nodes.slots.is_stale and time.monotonic() >= self._ask_at:
                await self._ask_slots()
            wait = self._place()
            for listener in list(self._listeners.values()):
                if not listener.topics:
                    del self._listeners[listener.address]
                    listener.task.cancel()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(wait, second_gap)):
                    await self._wake.wait()

    def _tell_second_gaps(self) -> float:
        """Returns in how many seconds there is one to tell."""
        now = time.monotonic()
        gaps = self._second_gaps
        while gaps and gaps[0][0] <= now:
            topic = gaps.popleft()[1]
            # Where it is not confirmed now, a gap is told as soon as it is again.
            if topic.is_confirmed and self._topics.get(topic.channel) is topic:
                self._inbox.put_gap(topic.name)
        return gaps[0][0] - now if gaps else math.inf

    async def _ask_slots(self) -> None:
        errors: list[tuple[Node, Exception]] = []
        self._slots_asked(
            await self._nodes.ask_slots(lambda node, error: errors.append((node, error))), errors
        )

    def _slots_asked(self, found: bool, errors: list[tuple[Node, Exception]]) -> None:
        if found:
            self._questions_failed = 0
            wait = backoff(self._questions, FIRST_ASK_SECONDS, ASK_SECONDS)
            self._questions += 1
        else:
            self._questions_failed += 1
            wait = _wait(self._questions_failed)
            node, error = errors[-1]
            self._outage.go_on(name_of(node), error)
        self._ask_at = time.monotonic() + wait

    def _place(self) -> float:
        """Returns in how many seconds to try again."""
        slots = self._nodes.slots
        now = time.monotonic()
        again_at = math.inf
        is_known = not slots.is_stale
        for topic in list(self._unassigned.values()):
            address = slots.node_of(topic.channel)
            if address is None:
                if is_known:
                    self._outage.go_on(self._nodes.server, ClusterDownError(NO_NODE))
                slots.is_stale = True
                continue
            rests_until = self._rests.get(address, (0, 0.0))[1]
            if topic.shunned in (None, address):
                rests_until = max(rests_until, topic.rests_until)
            if rests_until > now:
                slots.is_stale = True  # meanwhile another node may get the slot
                again_at = min(again_at, rests_until)
                continue
            del self._unassigned[topic.channel]
            listener = self._listeners.get(address)
            if listener is None:
                listener = NodeListener(address, self._nodes.pool(address), self._inbox, self)
                self._listeners[address] = listener
                self._tasks.add(listener.task)
                listener.task.add_done_callback(self._tasks.discard)
            listener.join(topic, slots.is_sharded)
        if not self._unassigned:
            self._questions = 0
            return math.inf
        return max(0.0, min(again_at, self._ask_at) - now)


def _wait(failures: int) -> float:
    """Seconds before the next attempt after so many failures in a row."""
    return backoff(failures - 1, Listener.FIRST_WAIT, Listener.LONGEST_WAIT)
