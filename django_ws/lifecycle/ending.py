"""The end of a connection: hooks and tasks get their time, then ``on_close`` runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any

from django_ws import conf
from django_ws.connection.connection import REFUSED, Connection
from django_ws.lifecycle.background_tasks import Background
from django_ws.lifecycle.hook_calls import Calls, Handler
from django_ws.lifecycle.subscriptions import Subscriptions
from django_ws.lifecycle.tasks import StartedTask
from django_ws.logs.printable import printable
from django_ws.logs.throttled import ThrottledLog
from django_ws.pubsub.hub.registry import hub_of
from django_ws.threads.any_thread import done

logger = logging.getLogger("django.ws.request")

_late = ThrottledLog(logger, logging.WARNING, "hooks and tasks that outlived WS_CLOSE_TIMEOUT")
_stubborn = ThrottledLog(logger, logging.ERROR, "hooks that ignored their cancellation")

LAST_SECONDS = 1.0  # what on_close gets at least, and a hook to heed its cancellation


class Ending:
    """The end of one connection: tasks, deadlines, ``on_close``. For the loop's thread only.

    All that is left when the connection begins to end gets ``WS_CLOSE_TIMEOUT`` together.
    Timers exist during the handshake and while the connection ends.
    """

    __slots__ = (
        "_background", "_cancels", "_deadline", "_finishing", "_is_handed_over", "_is_started",
        "_opened", "_subscriptions", "_timer", "calls", "connection", "handler", "is_restarting",
    )  # fmt: skip

    def __init__(self, connection: Connection, handler: Handler) -> None:
        self.connection = connection
        self.handler = handler
        self.calls = Calls(handler, connection)
        self._timer: asyncio.TimerHandle | None = None
        self._deadline: float | None = None  # by when all that is left must have ended
        self._cancels = 0  # how often the task was cancelled here, and by nobody else
        self._opened = False
        self._finishing = False
        self._is_started = False  # on_open has returned
        self.is_restarting = False
        self._is_handed_over = False  # to an ASGI application, which learns of the end itself
        self._background: Background | None = None
        self._subscriptions: Subscriptions | None = None
        connection.on_closing = self._closing_begins

    @property
    def background(self) -> Background:
        """Made for the first background task: most connections have none."""
        if self._background is None:
            self._background = Background(self.handler, self.connection, self.calls)
        return self._background

    @property
    def running_tasks(self) -> dict[str, StartedTask]:
        background = self._background
        return dict(background.tasks.running) if background is not None else {}

    def cancel(self, task_id: str) -> StartedTask | None:
        """Cancel a background task of the user's and give it, or None if no such task runs."""
        return self._background.tasks.cancel(task_id) if self._background is not None else None

    @property
    def subscriptions(self) -> Subscriptions:
        """Made for the first topic, or for a user who is logged in."""
        if self._subscriptions is None:
            self._subscriptions = Subscriptions(
                hub_of(self.handler.using),
                self.handler,
                self.connection,
                self.calls,
                self,
                is_held=not self._is_started,
            )
        return self._subscriptions

    @property
    def topics(self) -> frozenset[str]:
        return (
            frozenset(self._subscriptions.topics)
            if self._subscriptions is not None
            else frozenset()
        )

    def _closing_begins(self, by_client: bool) -> None:
        """The connection has begun to end, perhaps while a hook runs."""
        if self._subscriptions is not None:
            self._subscriptions.end()
        if self._background is not None:
            self._background.tasks.cancel_all()
        if self._finishing:
            return
        if not by_client:
            self.connection.inbound.stop_handling()
        if self._is_handed_over:
            return
        if self.connection.inbound.in_hook:
            timer = self.connection.loop.call_later(self._remaining, self._out_of_time)
            self._set_timer(timer)
        elif not by_client and asyncio.current_task() is not self.connection.task:
            self._cancel_task()  # it waits for an event; the client's own close would be one

    def _out_of_time(self) -> None:
        _late.log(
            (self.connection.path, self.calls.place),
            "WebSocket %s: %s did not end within WS_CLOSE_TIMEOUT (%g s) of the close: cancelled",
            self.connection.path,
            self.calls.place,
            conf.get().ws_close_timeout,
        )
        self.connection.inbound.stop_handling()
        self._cancel_task()
        self._set_timer(self.connection.loop.call_later(LAST_SECONDS, self._leave_behind))

    def _leave_behind(self) -> None:
        _stubborn.log(
            (self.connection.path, self.calls.place),
            "WebSocket %s: %s ignores its cancellation; the connection ends without it. "
            "Raise asyncio.CancelledError again after catching it.",
            self.connection.path,
            self.calls.place,
        )
        if self.connection.state is not REFUSED:
            self.background.start(self._finish_elsewhere(), "django_ws final clean-up")

    async def _finish_elsewhere(self) -> None:
        await self._finish()

    def _finish(self) -> Awaitable[None]:
        """Tasks end, then ``on_close`` runs where the connection had opened. Once."""
        if self._finishing:
            return done(self.connection.loop)
        self._finishing = True
        self._set_timer(None)
        if self.handler.request.login is not None:
            self.handler.request.login.finish()
        self.connection.over()
        on_close = self._opened and "on_close" in self.handler._hooks.overridden
        if self._background is None and not on_close:
            return done(self.connection.loop)
        return self._last_rites(on_close)

    async def _last_rites(self, on_close: bool) -> None:
        try:
            if self._background is not None:
                await self._await_background(self._background)
        finally:
            if on_close:
                await self._call_on_close()

    async def _flush(self, writer: asyncio.Task[None]) -> None:
        """Let the server take what still waits."""
        await self._wait_or_log({writer})
        self.connection.outbound.fail(self.connection.closed_error())

    async def _await_background(self, background: Background) -> None:
        await self._wait_or_log(background.tasks.alive)
        side = background.side - {asyncio.current_task()}
        await self._wait_or_log(side, LAST_SECONDS)
        for hook in side:  # one that has not ended would overlap ``on_close``, and outlive it
            hook.cancel()

    async def _call_on_close(self) -> None:
        seconds = max(self._remaining, LAST_SECONDS)
        on_close = self.background.start(self.calls.call("on_close"), "on_close")
        await asyncio.wait([on_close], timeout=seconds)
        if on_close.done():
            return
        if "on_close" in self.handler._hooks.sync:
            _late.log(
                (self.connection.path, "on_close in a thread"),
                "WebSocket %s: on_close is still running, or waiting for a thread, %g s after "
                "its turn came; it is left to itself",
                self.connection.path,
                seconds,
            )
            return
        _late.log(
            (self.connection.path, "on_close"),
            "WebSocket %s: on_close did not end within WS_CLOSE_TIMEOUT: cancelled",
            self.connection.path,
        )
        on_close.cancel()
        await asyncio.wait([on_close], timeout=LAST_SECONDS)

    async def _wait_or_log(self, tasks: set[Any], at_least: float = 0.0) -> None:
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=max(self._remaining, at_least))
        if late:
            names = printable(", ".join(sorted(task.get_name() for task in late)))
            _late.log(
                (self.connection.path, "tasks"),
                "WebSocket %s: still running WS_CLOSE_TIMEOUT after the close, left behind: %s",
                self.connection.path,
                names,
            )

    @property
    def _remaining(self) -> float:
        """Seconds until the deadline, which the first who asks sets."""
        now = self.connection.loop.time()
        if self._deadline is None:
            self._deadline = now + conf.get().ws_close_timeout
        return max(0.0, self._deadline - now)

    def _set_timer(self, timer: asyncio.TimerHandle | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = timer

    def _cancel_task(self) -> None:
        self._cancels += 1
        self.connection.task.cancel()

    def _take_back_cancel(self) -> bool:
        """Take the cancellations of this class back; whether there was one, and no other's."""
        if not self._cancels:
            return False
        left = 0
        while self._cancels:
            self._cancels -= 1
            left = self.connection.task.uncancel()
        return left == 0
