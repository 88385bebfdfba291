"""Broadcasts and gaps that wait until the connection's current hook has returned."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, NamedTuple, Protocol

from django_ws.connection.connection import Connection
from django_ws.connection.outbound import MESSAGE_OVERHEAD
from django_ws.exceptions import ConnectionClosed, DecodeError, MessageDropped
from django_ws.lifecycle.background_tasks import Background
from django_ws.lifecycle.hook_calls import Calls, Handler
from django_ws.logs.throttled import ThrottledLog
from django_ws.pubsub.envelope import Broadcast

logger = logging.getLogger("django.ws.request")

_unsendable = ThrottledLog(logger, logging.WARNING, "broadcasts that a codec could not send")

TopicHandler = Callable[[str, Any], Any]
Gap = frozenset[str]


class HasBackground(Protocol):
    """Gives the background of the connection; a closure for each would be memory."""

    @property
    def background(self) -> Background: ...


class Waiting(NamedTuple):
    broadcast: Broadcast
    function: TopicHandler | None  # None: ``on_broadcast``, or nothing but to send it on


class HookQueue:
    """In order, within the bounds of the outbound buffer. For the loop's thread only.

    Hooks take turns with the other hooks of the connection, unless the handler has
    ``concurrent_broadcasts``. Nothing is called as long as ``is_held``.
    """

    __slots__ = (
        "_calls", "_connection", "_handler", "_is_running", "_items", "_life", "is_held", "size",
    )  # fmt: skip

    def __init__(
        self,
        handler: Handler,
        connection: Connection,
        calls: Calls,
        life: HasBackground,
        *,
        is_held: bool,
    ) -> None:
        self._handler = handler
        self._connection = connection
        self._calls = calls
        self._life = life
        self._items: deque[Waiting | Gap] = deque()
        self._is_running = False
        self.is_held = is_held
        self.size = 0  # bytes that wait

    def put(self, broadcast: Broadcast, function: TopicHandler | None) -> None:
        """Where there is no room, the handler's ``send_overflow`` decides."""
        connection = self._connection
        if connection.gone:
            return
        size = _size(broadcast)
        error = connection.make_room(size, self._drop_oldest, lambda: self.size)
        if error is not None:
            connection.drop(error)
        else:
            self.size += size
            self._items.append(Waiting(broadcast, function))
            self._start()

    def put_gap(self, topics: Gap) -> None:
        """No overflow takes it away: it is told once, for all, behind what waits already."""
        for gap in [item for item in self._items if isinstance(item, frozenset)]:
            self._items.remove(gap)
            topics |= gap
        self._items.append(topics)
        self._start()

    def release(self, send: Callable[[Broadcast], None] | None) -> None:
        """Hooks may be called from now on. With ``send``, what no hook is for is sent on now."""
        self.is_held = False
        items, self._items = self._items, deque()
        for item in items:
            if send is not None and isinstance(item, Waiting) and item.function is None:
                self.size -= _size(item.broadcast)
                send(item.broadcast)
            else:
                self._items.append(item)
        if self._items:
            self._start()

    def drop_all(self, error: ConnectionClosed) -> None:
        """The connection has begun to end."""
        while self._items:
            if isinstance(self._pop(), Waiting):
                self._connection.outbound.count_drop(error)

    def _start(self) -> None:
        if not self._is_running and not self.is_held:
            self._is_running = True
            is_alone = not self._handler.concurrent_broadcasts
            self._life.background.start(self._run(), "on_broadcast", is_alone=is_alone)

    async def _run(self) -> None:
        try:
            while self._items:
                async with self._turn():
                    if self._items:  # they may have been dropped meanwhile
                        await self._call(self._pop())
        finally:
            self._is_running = False

    def _turn(self) -> AbstractAsyncContextManager[None]:
        return nullcontext() if self._handler.concurrent_broadcasts else self._calls.locked()

    async def _call(self, item: Waiting | Gap) -> None:
        if isinstance(item, frozenset):
            await self._calls.call_in_task("on_broadcast_gap", item)
            return
        broadcast, function = item
        try:
            message = broadcast.message()
        except DecodeError as error:
            cannot_send(self._connection, self._handler.codec, broadcast, error)
            return
        if function is None:
            await self._calls.call_in_task("on_broadcast", broadcast.topic, message)
        else:
            await self._calls.call_topic_handler(function, broadcast.topic, message)

    def _pop(self) -> Waiting | Gap:
        item = self._items.popleft()
        if isinstance(item, Waiting):
            self.size -= _size(item.broadcast)
        return item

    def _drop_oldest(self) -> bool:
        for item in self._items:
            if isinstance(item, Waiting):
                self._items.remove(item)
                self.size -= _size(item.broadcast)
                self._connection.outbound.count_drop(MessageDropped())
                return True
        return False


def cannot_send(connection: Connection, codec: Any, broadcast: Broadcast, error: Exception) -> None:
    """Count and log a broadcast that this connection does not get."""
    connection.outbound.count_drop(error)
    _unsendable.log(
        (broadcast.topic, type(codec).__qualname__),
        "WebSocket %s: a broadcast to %r was not sent: %r",
        connection.path,
        broadcast.topic,
        error,
    )


def _size(broadcast: Broadcast) -> int:
    return len(broadcast.payload) + MESSAGE_OVERHEAD
