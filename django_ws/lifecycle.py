"""The whole life of a connection, from the middleware to the last clean-up, top to bottom.

``serve`` is the outermost: it runs the middleware chain, within ``WS_CONNECT_TIMEOUT``, and
answers whatever comes out of it. The innermost of the chain is ``live``: ``on_connect``,
accept, ``on_open``, messages, and always ``_finish``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from django_ws import conf
from django_ws.acting import current_task
from django_ws.background import Background
from django_ws.calls import MIDDLEWARE, Calls, Handler
from django_ws.close_codes import CloseCode
from django_ws.connection import CONNECTING, HANDED_OVER, OPEN, REFUSED, Connection
from django_ws.exceptions import ConnectionClosed, DecodeError
from django_ws.outbound import data_size
from django_ws.tasks import StartedTask
from django_ws.types import ASGIApplication, Scope

logger = logging.getLogger("django.ws.request")

LAST_SECONDS = 1.0  # what on_close gets at least, and a hook to heed its cancellation


class Life:
    """The life of one connection. Runs in the task in which the server called the application.

    Nothing here makes a task, a queue or a timer for a message. Timers exist during the
    handshake and while the connection ends.
    """

    __slots__ = (
        "_background", "_cancels", "_deadline", "_finishing", "_opened", "_stopped", "_timer",
        "calls", "connection", "handler",
    )  # fmt: skip

    def __init__(self, connection: Connection, handler: Handler) -> None:
        self.connection = connection
        self.handler = handler
        self.calls = Calls(handler, connection)
        self._timer: asyncio.TimerHandle | None = None
        self._deadline: float | None = None  # by when all that is left must have ended
        self._stopped = False  # no further message is handled
        self._cancels = 0  # how often the task was cancelled here, and by nobody else
        self._opened = False
        self._finishing = False
        self._background: Background | None = None
        connection.on_closing = self._closing_begins

    # The handshake

    async def serve(self, chain: Callable[[Any], Awaitable[None]]) -> None:
        """The outermost: the middleware chain, and an answer to whatever comes out of it."""
        connection = self.connection
        connection.inbound.hook_starts()
        self._timer = connection.loop.call_later(
            conf.get().ws_connect_timeout, self._connect_timed_out
        )
        try:
            await chain(self.handler)
            if connection.state is CONNECTING:
                logger.warning(
                    "WebSocket %s: a middleware neither called the next one nor rejected: "
                    "refused with 403",
                    connection.path,
                )
                connection.refuse(403)
        except asyncio.CancelledError:
            if not self._take_back_cancel():
                raise
        except Exception as error:
            if connection.state is HANDED_OVER:
                raise  # the server answers it, as it would without us
            await self.calls.failed(MIDDLEWARE, error)
        finally:
            try:
                await self._leave()
            finally:
                self._set_timer(None)
                connection.release()
                self.handler._let_go()

    async def live(self) -> None:
        """The innermost: from ``on_connect`` to ``on_close``."""
        connection = self.connection
        if connection.state is not CONNECTING:
            return  # a middleware rejected, and called the next one all the same
        # A middleware may run this in a task of its own, as asyncio.wait_for() on Python 3.11.
        servers_task, connection.task = connection.task, current_task() or connection.task
        try:
            await self.calls.call("on_connect")
            if connection.state is not CONNECTING:
                return
            self._set_timer(None)
            try:
                await connection.accept()
            except ConnectionClosed:
                connection.client_left({"type": "websocket.disconnect", "code": 1006})
                return
            self._opened = True
            await self.calls.call("on_open")
            connection.inbound.hook_ends()
            if not self._stopped:
                await self._handle_messages()
        except asyncio.CancelledError:
            if not self._take_back_cancel():
                connection.close(CloseCode.GOING_AWAY)
                raise
        finally:
            if connection.state is OPEN:
                connection.close(CloseCode.INTERNAL_ERROR)
            await self._finish()
            connection.task = servers_task

    async def hand_over(self, application: ASGIApplication, scope: Scope) -> None:
        """The innermost for an ASGI application: the connection is its own from here on."""
        if self.connection.state is CONNECTING:
            self._set_timer(None)
            self.connection.inbound.hook_ends()
            await self.connection.hand_over(application, scope)

    def _connect_timed_out(self) -> None:
        logger.warning(
            "WebSocket %s: %s took longer than WS_CONNECT_TIMEOUT (%g s): refused with 503",
            self.connection.path,
            self.calls.place,
            conf.get().ws_connect_timeout,
        )
        self.connection.refuse(503)
        self._cancel_task()

    # Messages

    async def _handle_messages(self) -> None:
        connection, handler, calls = self.connection, self.handler, self.calls
        inbound = connection.inbound
        receive, watch, busy = inbound.receive, inbound.watch, inbound.watch.busy
        on_message = calls.function("on_message")
        takes_bytes = "on_bytes" in handler.hooks.overridden
        on_bytes = calls.function("on_bytes")
        decode = handler.codec.decode
        max_size = handler.max_message_size or conf.get().ws_max_message_size
        surely_small = max_size // 4  # characters; UTF-8 takes at most four bytes for one
        while True:
            try:
                event = await (inbound.next() if inbound.ahead else receive())
            except asyncio.CancelledError:
                if self._take_back_cancel():
                    return
                raise
            except Exception as error:
                logger.debug("WebSocket %s: receive failed: %r", connection.path, error)
                event = {"type": "websocket.disconnect", "code": 1006}
            if event["type"] != "websocket.receive":
                connection.client_left(event)
                return
            data = event.get("text")
            if is_binary := data is None:
                data = event["bytes"]
            if len(data) > surely_small and data_size(data) > max_size:
                self._refuse_size(data_size(data), max_size)
                return
            busy[inbound] = False  # as inbound.hook_starts(), without the calls
            if watch.timer is None:
                watch.start()
            try:
                if is_binary and takes_bytes:
                    calls.place = "on_bytes"
                    await on_bytes(data)
                else:
                    calls.place = "on_message"
                    try:
                        message = decode(data)
                    except DecodeError as error:
                        logger.warning("WebSocket %s: %s", connection.path, error)
                        await calls.call("on_decode_error", error)
                    else:
                        await on_message(message)
            except (Exception, asyncio.CancelledError) as error:
                await calls.failed(calls.place, error)
                if not isinstance(error, ConnectionClosed):
                    self._stopped = True
            finally:
                del busy[inbound]
            if self._stopped:
                return

    def _refuse_size(self, size: int, max_size: int) -> None:
        path = self.connection.path
        logger.warning("WebSocket %s: a message of %d bytes, %d allowed", path, size, max_size)
        self.connection.close(CloseCode.TOO_LARGE, f"the message is larger than {max_size} bytes")

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

    # The end

    def _closing_begins(self, by_client: bool) -> None:
        """The connection has begun to end, perhaps while a hook runs."""
        if self._background is not None:
            self._background.tasks.cancel_all()
        if self._finishing:
            return
        if not by_client:
            self._stopped = True
        if self.connection.inbound.in_hook:
            timer = self.connection.loop.call_later(self._remaining, self._out_of_time)
            self._set_timer(timer)
        elif not by_client and asyncio.current_task() is not self.connection.task:
            self._cancel_task()  # it waits for an event; the client's own close would be one

    def _out_of_time(self) -> None:
        logger.warning(
            "WebSocket %s: %s did not end within WS_CLOSE_TIMEOUT (%g s) of the close: cancelled",
            self.connection.path,
            self.calls.place,
            conf.get().ws_close_timeout,
        )
        self._stopped = True
        self._cancel_task()
        self._set_timer(self.connection.loop.call_later(LAST_SECONDS, self._leave_behind))

    def _leave_behind(self) -> None:
        logger.error(
            "WebSocket %s: %s ignores its cancellation; the connection ends without it. "
            "Raise asyncio.CancelledError again after catching it.",
            self.connection.path,
            self.calls.place,
        )
        if self.connection.state is not REFUSED:
            self.background.start(self._finish(), "django_ws last rites")

    async def _finish(self) -> None:
        """Tasks end, then ``on_close`` runs where the connection had opened."""
        if self._finishing:
            return
        self._finishing = True
        self._set_timer(None)
        self.connection.over()
        try:
            if self._background is not None:
                await self._await_background(self._background)
        finally:
            if self._opened and "on_close" in self.handler.hooks.overridden:
                await self._call_on_close()

    async def _leave(self) -> None:
        """Before the application returns, whatever the middleware did."""
        connection = self.connection
        await self._finish()  # does nothing where ``live`` has done it
        if connection.outbound.writer is not None:
            await self._flush(connection.outbound.writer)
        if connection.state is REFUSED:
            await connection.settle()

    async def _flush(self, writer: asyncio.Task[None]) -> None:
        """Let the server take what still waits."""
        await self._wait_or_log({writer})
        self.connection.outbound.fail(self.connection.closed_error())

    async def _await_background(self, background: Background) -> None:
        await self._wait_or_log(background.tasks.alive)
        await self._wait_or_log(background.side - {asyncio.current_task()}, LAST_SECONDS)

    async def _call_on_close(self) -> None:
        seconds = max(self._remaining, LAST_SECONDS)
        on_close = self.background.start(self.calls.call("on_close"), "on_close")
        await asyncio.wait([on_close], timeout=seconds)
        if on_close.done():
            return
        if "on_close" in self.handler.hooks.sync:
            logger.warning(
                "WebSocket %s: on_close is still running, or waiting for a thread, %g s after "
                "its turn came; it is left to itself",
                self.connection.path,
                seconds,
            )
            return
        logger.warning(
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
            logger.warning(
                "WebSocket %s: still running WS_CLOSE_TIMEOUT after the close, left behind: %s",
                self.connection.path,
                ", ".join(sorted(task.get_name() for task in late)),
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
