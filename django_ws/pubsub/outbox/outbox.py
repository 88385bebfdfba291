"""What one event loop publishes, in the order of the calls."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextvars import Context

from django_ws.exceptions import BroadcastError
from django_ws.pubsub.backends.base import PUBLISH_SECONDS, Backend
from django_ws.pubsub.outbox.loss_log import LossLog
from django_ws.pubsub.outbox.publish_queue import Call, Message, Part, PublishQueue

MAX_WAITING_BYTES = 64 * 1024 * 1024  # one message always fits
MESSAGE_BYTES = 700  # memory of a waiting message in addition to its data, roughly
EXPIRY_SECONDS = 0.02  # at least, between two checks of the deadlines
MAX_QUEUES = 64  # more than that: idle ones are removed


class Outbox:
    """For one event loop, and its thread only.

    ``publish_many`` publishes through the backend; ``backend`` returns the current backend.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        publish_many: Callable[[list[Message]], Awaitable[None]],
        backend: Callable[[], Backend],
    ) -> None:
        self._loop = loop
        self._publish_many = publish_many
        self._backend = backend
        self._queues: dict[Hashable, PublishQueue] = {}
        # By topic: its queue, and the number of its messages there. While messages wait, a topic
        # keeps its queue, and so their order, even if the backend now names another one.
        self._places: dict[str, tuple[PublishQueue, int]] = {}
        self._size = 0
        self._expiry: asyncio.TimerHandle | None = None
        self._is_closed = False
        self._refused = LossLog(loop)

    def put(self, messages: Sequence[Message]) -> Awaitable[None]:
        """Publish. Awaiting returns when the backend has taken all, or raises ``BroadcastError``
        after at most 5 s, and at once while too much waits, or after ``close``. A failure that
        nobody awaits is logged.
        """
        size = sum(len(data) + MESSAGE_BYTES for _, data in messages)
        if self._is_closed or (self._size and self._size + size > MAX_WAITING_BYTES):
            return self._refuse(len(messages))
        self._refused.end()
        self._size += size
        parts: dict[PublishQueue, list[Message]] = {}
        for message in messages:
            parts.setdefault(self._queue_of(message[0]), []).append(message)
        call = Call(len(parts), self._loop.time() + PUBLISH_SECONDS)
        for queue, part in parts.items():
            queue.put(Part(call, part))
        if not parts:
            call.pending.finish()
        elif self._expiry is None:
            self._expiry = self._loop.call_at(call.deadline, self._expire, context=Context())
        return call.pending

    async def flush(self) -> None:
        """Wait until nothing is left to publish, at most 5 s."""
        writers = [queue.writer for queue in self._queues.values() if queue.writer is not None]
        if writers:
            await asyncio.wait(writers, timeout=PUBLISH_SECONDS)

    def close(self) -> None:
        """Fail what is left (``flush`` before), and all that is put from now on."""
        self._is_closed = True
        error = self._failure("the event loop's hub was closed before")
        for queue in list(self._queues.values()):
            queue.close(error)
        self._refused.tell()
        if self._expiry is not None:
            self._expiry.cancel()

    def _refuse(self, number: int) -> Awaitable[None]:
        if self._is_closed:
            error = self._failure("the event loop's hub has been closed")
        else:
            error = BroadcastError(
                "broadcast", "the outbox", f"{self._size} bytes wait to be published already"
            )
        call = Call(1, self._loop.time())
        # A little later: by then it is known whether it is awaited, or to be logged.
        self._loop.call_soon(call.end_part, error, number, self._refused, context=Context())
        return call.pending

    def _failure(self, reason: str) -> BroadcastError:
        return BroadcastError("broadcast", self._backend().server, reason)

    def _expire(self) -> None:
        following = [queue.expire() for queue in list(self._queues.values())]
        ahead = [deadline for deadline in following if deadline is not None]
        self._expiry = None
        if ahead:
            when = max(min(ahead), self._loop.time() + EXPIRY_SECONDS)
            self._expiry = self._loop.call_at(when, self._expire, context=Context())

    # Queues

    def _queue_of(self, topic: str) -> PublishQueue:
        place = self._places.get(topic)
        if place is None:
            key = self._backend().queue_of(topic)
            place = self._queues.get(key) or self._new_queue(key), 0
        self._places[topic] = place[0], place[1] + 1
        return place[0]

    def _new_queue(self, key: Hashable) -> PublishQueue:
        queue = PublishQueue(
            self._loop, self._publish_many, self._failure, self._release, self._remove_idle_queues
        )
        self._queues[key] = queue
        return queue

    def _remove_idle_queues(self) -> None:
        """Remove idle queues if there are many. Their servers may be gone."""
        if len(self._queues) > MAX_QUEUES:
            for key, queue in list(self._queues.items()):
                if queue.is_idle:
                    queue.losses.tell()
                    del self._queues[key]

    def _release(self, part: Part) -> None:
        for topic, data in part.messages:
            self._size -= len(data) + MESSAGE_BYTES
            queue, number = self._places[topic]
            if number > 1:
                self._places[topic] = queue, number - 1
            else:
                del self._places[topic]
