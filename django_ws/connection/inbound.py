"""Reading events of one connection; reading ahead while a hook takes long.

Hot path: the connection's own task awaits the server's ``receive`` and nothing stands between.
Only when one hook has run for about half a second does a reader task go on reading in its
place, so that a closing client is noticed while the hook still runs. It stops again after the
hook, or when enough waits (backpressure).
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections import deque
from collections.abc import Callable
from threading import get_ident

from django_ws.connection.outbound import data_size
from django_ws.threads.per_loop import PerLoop
from django_ws.types import Event, Receive

logger = logging.getLogger("django.ws.request")

MAX_WAITING_MESSAGES = 16
MAX_WAITING_BYTES = 1024 * 1024
STOPPED: Event = {"type": "django_ws.stopped"}
SWEEP_SECONDS = 0.4  # a hook is noticed as slow after one to two of these


class Inbound:
    """The events of one connection, in order. For the event loop's thread only.

    ``on_disconnect(event)`` is called as soon as the disconnect event is read, possibly while
    a hook still runs and messages before it wait.
    """

    __slots__ = (
        "_events", "_on_disconnect", "_reader", "_size", "_stopped", "_waiter",
        "ahead", "receive", "watch",
    )  # fmt: skip

    def __init__(
        self,
        receive: Receive,
        loop: asyncio.AbstractEventLoop,
        on_disconnect: Callable[[Event], None],
    ) -> None:
        self.receive = receive
        self.ahead = False  # whether a reader reads, or has left events to be handled
        self._on_disconnect = on_disconnect
        self._stopped = False
        self._events: deque[Event] | None = None
        self._size = 0
        self._reader: asyncio.Task[None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.watch = watch_of(loop)

    async def next(self) -> Event:
        """The next event. Raises what the server's ``receive`` raises.

        While ``ahead`` is False, ``receive()`` is the same and faster; what it returns must
        then be shown to ``on_disconnect`` by the caller.
        """
        while True:
            if self._stopped:
                return STOPPED
            if self._events:
                event = self._events.popleft()
                self._size -= _size(event)
                self.ahead = bool(self._events) or self._reader is not None
                return event
            if self._reader is None:
                self.ahead = False
                event = await self.receive()
                if event["type"] == "websocket.disconnect":
                    self._on_disconnect(event)
                return event
            # The reader is in the middle of a receive, which must not be cancelled: an event
            # could be lost. It ends with that event.
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def stop_handling(self) -> None:
        """Whatever the client sent or sends, ``next`` gives ``STOPPED`` from now on."""
        self._stopped = self.ahead = True

    def hook_starts(self) -> None:
        """The connection's own task reads no more until ``hook_ends``."""
        self.watch.busy[self] = False
        if self.watch.timer is None:
            self.watch.start()

    def hook_ends(self) -> None:
        del self.watch.busy[self]

    @property
    def stopped(self) -> bool:
        """Whether ``stop_handling`` was called."""
        return self._stopped

    @property
    def in_hook(self) -> bool:
        return self in self.watch.busy

    def read_ahead(self, loop: asyncio.AbstractEventLoop) -> None:
        """Read in the place of the connection's own task, which is busy."""
        if self._reader is None and not self._full:
            self.ahead = True
            # Not loop.create_task(): an eager factory would run it before it is known here.
            self._reader = asyncio.Task(self._read_ahead(), loop=loop, name="django_ws reader")

    def stop(self) -> None:
        """End reading ahead: the connection is over."""
        self._on_disconnect = _nothing
        self.watch.busy.pop(self, None)
        if self._reader is not None:
            self._reader.cancel()

    @property
    def _full(self) -> bool:
        events = self._events
        return events is not None and (
            len(events) > MAX_WAITING_MESSAGES
            or self._size > MAX_WAITING_BYTES
            or (bool(events) and events[-1]["type"] == "websocket.disconnect")
        )

    async def _read_ahead(self) -> None:
        if self._events is None:
            self._events = deque()
        try:
            while True:
                try:
                    event = await self.receive()
                except Exception as error:
                    logger.debug("receive failed: %r", error)
                    event = {"type": "websocket.disconnect", "code": 1006}
                self._events.append(event)
                self._size += _size(event)
                if event["type"] == "websocket.disconnect":
                    self._on_disconnect(event)
                if self._full or not self.in_hook:
                    return
        finally:
            self._reader = None
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_result(None)


class Watch:
    """Finds the hooks of one event loop that take long: one timer for all connections."""

    __slots__ = ("busy", "thread", "timer")

    def __init__(self) -> None:
        self.thread = get_ident()  # the loop's
        # Connections with a hook under way; True once a sweep has seen that very call.
        self.busy: dict[Inbound, bool] = {}
        self.timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        # In an empty context: that of the connection which starts it would be kept alive.
        self.timer = asyncio.get_running_loop().call_later(
            SWEEP_SECONDS, self._sweep, context=contextvars.Context()
        )

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        for inbound, seen in self.busy.items():
            if seen:
                inbound.read_ahead(loop)
            else:
                self.busy[inbound] = True  # no new key: the dict may be iterated
        self.timer = None
        if self.busy:
            self.start()


watch_of = PerLoop(Watch)


def _nothing(event: Event) -> None: ...


def _size(event: Event) -> int:
    return data_size(event.get("text") or event.get("bytes") or b"")
