"""ASGI events of one connection that the application has not received yet."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any


class Events:
    """As ``asyncio.Queue``, with a tenth of its memory. For the event loop's thread only.

    Nearly always the application waits for the next event, which is then handed to it at once:
    ``waiting``, for those that come too early, is made when there are any.
    """

    __slots__ = ("_waiter", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[Any] | None = None  # never an empty one
        self._waiter: asyncio.Future[Any] | None = None  # of who receives now

    def put_nowait(self, event: Any) -> None:
        if (waiter := self.waiter) is not None:
            self._waiter = None
            waiter.set_result(event)
        elif self.waiting is None:
            self.waiting = deque((event,))
        else:
            self.waiting.append(event)

    def take(self) -> Any:
        """The next event; only where any waits."""
        waiting = self.waiting
        event = waiting.popleft()  # type: ignore[union-attr]
        if not waiting:
            self.waiting = None
        return event

    @property
    def waiter(self) -> asyncio.Future[Any] | None:
        """Of a task that receives now, and has not been cancelled."""
        waiter = self._waiter
        return None if waiter is None or waiter.done() else waiter

    def new_waiter(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[Any]:
        """Gets the next event; only where none waits, and no other waiter does."""
        waiter = self._waiter = loop.create_future()
        return waiter

    def cancelled(self, waiter: asyncio.Future[Any]) -> None:
        """Who awaited it was cancelled: an event that it had got already is not lost."""
        if waiter.cancelled() or not waiter.done():
            return
        event = waiter.result()
        if self.waiting is None:
            self.put_nowait(event)
        else:
            self.waiting.appendleft(event)
