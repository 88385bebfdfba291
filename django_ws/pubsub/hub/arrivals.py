"""Messages that have arrived and wait for delivery: topics take turns."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator

from django_ws.exceptions import DecodeError
from django_ws.logs.printable import printable
from django_ws.logs.throttled import ThrottledLog
from django_ws.pubsub.backends.base import Gap
from django_ws.pubsub.envelope import ORDERS, Broadcast
from django_ws.pubsub.hub.batch import Batch, Item, next_batch

logger = logging.getLogger("django.ws")

MAX_WAITING_BYTES = 32 * 1024 * 1024  # of all topics together
MESSAGE_BYTES = 200  # what a waiting message takes beside its data, roughly
ALL_TOPICS = ""  # where a topic's name stands otherwise

_dropped = ThrottledLog(logger, logging.WARNING, "times that broadcasts were dropped")


class Queue:
    """What waits of one topic, in order."""

    __slots__ = ("_sizes", "items", "size", "topic", "work")

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.items: deque[Item] = deque()
        self._sizes: deque[int] = deque()  # bytes of each of them
        self.size = 0
        self.work: Iterator[None] | None = None  # what has been begun with the last of it

    def put(self, item: Item, size: int) -> None:
        self.items.append(item)
        self._sizes.append(size)
        self.size += size

    def take(self) -> Batch | Gap | DecodeError:
        """The next batch."""
        batch = next_batch(self.items)
        while len(self._sizes) > len(self.items):
            self.size -= self._sizes.popleft()
        return batch

    def clear(self) -> int:
        """Take all messages away, and tell in their place that they are missing. How many.

        Orders stay: one of them may end the flood.
        """
        orders = [each for each in zip(self.items, self._sizes, strict=True) if _is_order(each[0])]
        if sum(size for _, size in orders) > MAX_WAITING_BYTES // 2:
            orders = []
        number = sum(not isinstance(item, Gap) for item in self.items) - len(orders)
        self.items.clear()
        self._sizes.clear()
        self.size = 0
        self.put(Gap(frozenset({self.topic})), 0)
        for item, size in orders:
            self.put(item, size)
        return number


def _is_order(item: Item) -> bool:
    if isinstance(item, tuple):
        return item[1][1:2] in ORDERS
    return isinstance(item, Broadcast) and item.kind in ORDERS


class Arrivals:
    """For one event loop's hub, and its thread only.

    When more waits than ``MAX_WAITING_BYTES``, the topic of which the most waits loses its
    broadcasts: its subscribers are told a gap, and get what comes after.
    """

    def __init__(self) -> None:
        self._queues: dict[str, Queue] = {}
        self._in_turn: deque[Queue] = deque()  # the next topic first
        self.size = 0
        self.dropped = 0  # messages

    def __bool__(self) -> bool:
        """Whether anything waits, or is under way."""
        return bool(self._queues)

    @property
    def are_many(self) -> bool:
        """Whether the room may be full soon: to read what comes is more urgent than to deliver."""
        return self.size > MAX_WAITING_BYTES // 8

    def is_crowded(self, topic: str) -> bool:
        """Whether so much of this topic waits that who publishes to it should wait, if it can.

        Of three quarters of the room one topic may fill the half, two a third each, and so on:
        a quarter is left for what is on its way. For any thread.
        """
        queue = self._queues.get(topic)
        return queue is not None and queue.size > MAX_WAITING_BYTES * 3 // 4 - self.size

    def put(self, item: Item) -> None:
        """Hot path of a flood."""
        if isinstance(item, tuple):
            topic, data = item
            size = len(data) + MESSAGE_BYTES
        elif isinstance(item, Broadcast):
            topic, size = item.channel, len(item.payload) + MESSAGE_BYTES
        else:
            for topic in item.topics:  # behind what waits of each
                self._queue(topic).put(Gap(frozenset({topic})), 0)
            return
        self._queue(topic).put(item, size)
        self.size += size
        if self.size > MAX_WAITING_BYTES:
            self._make_room()

    def put_begun(self, topic: str, work: Iterator[None]) -> None:
        """Something was begun with the last of this topic, or of ``ALL_TOPICS``, and nothing
        waits.
        """
        self._queue(topic).work = work

    def next(self) -> Queue | None:
        """The queue whose turn it is; None where nothing waits. ``end_turn`` must follow."""
        return self._in_turn[0] if self._in_turn else None

    def take(self, queue: Queue) -> Batch | Gap | DecodeError:
        """The next batch of this queue, in which something waits."""
        before = queue.size
        batch = queue.take()
        self.size += queue.size - before
        return batch

    def end_turn(self) -> None:
        """The turn of the next queue is over."""
        queue = self._in_turn[0]
        if queue.topic == ALL_TOPICS and queue.work is not None:
            return  # what comes later of any topic waits for it
        self._in_turn.popleft()
        if queue.work is not None or queue.items:
            self._in_turn.append(queue)
        else:
            del self._queues[queue.topic]

    def _queue(self, topic: str) -> Queue:
        queue = self._queues.get(topic)
        if queue is None:
            queue = self._queues[topic] = Queue(topic)
            self._in_turn.append(queue)
        return queue

    def _make_room(self) -> None:
        largest = max(self._queues.values(), key=lambda queue: queue.size)
        before = largest.size
        number = largest.clear()
        self.size += largest.size - before
        self.dropped += number
        _dropped.log(
            largest.topic,
            "All broadcasts to %r that waited were dropped, %d of them: they come faster than "
            "this process can deliver them. Its subscribers are told a gap. Dropped so far: %d.",
            printable(largest.topic),
            number,
            self.dropped,
        )
