"""Runs one connection, from the middleware to ``on_close``. The end is in ``ending.py``.

A ``Life`` is the context in which the middleware chain runs, within ``WS_CONNECT_TIMEOUT``: at
its exit whatever came out of the chain is answered. The innermost of the chain is ``live``:
``on_connect``, accept, ``on_open``, messages, and always the end. ``Life`` inherits it from
``Ending``, by way of ``Restarting`` and ``FirstMessage``.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from django_ws import conf
from django_ws.close_codes import CloseCode
from django_ws.connection.connection import CONNECTING, HANDED_OVER, OPEN, REFUSED
from django_ws.connection.inbound import STOPPED
from django_ws.connection.outbound import data_size
from django_ws.exceptions import (
    BroadcastError,
    ConnectionClosed,
    DecodeError,
    InvalidMessage,
    MessageDropped,
)
from django_ws.lifecycle.first_message_login import FirstMessage
from django_ws.lifecycle.hook_calls import HANDLER_CLASS, LOG_IN, MIDDLEWARE
from django_ws.limits.handshake_queue import handshake_queue_of
from django_ws.limits.message_limits import MessageLimits, message_limits_of
from django_ws.logs.printable import printable
from django_ws.logs.throttled import ThrottledLog
from django_ws.pubsub.hub.registry import DEFAULT, hub_of
from django_ws.threads.any_thread import Done, current_task, done, own_context
from django_ws.types import ASGIApplication, Login, Scope

logger = logging.getLogger("django.ws.request")

_dead_ends = ThrottledLog(logger, logging.WARNING, "handshakes that a middleware left unanswered")
_time_outs = ThrottledLog(logger, logging.WARNING, "handshakes that took too long")
_undecodable = ThrottledLog(logger, logging.WARNING, "messages that could not be decoded")
_too_large = ThrottledLog(logger, logging.WARNING, "messages that were too large")


_nobody = Done(True)  # is logged in: nothing to look at


class Life(FirstMessage):
    """The life of one connection. Runs in the task in which the server called the application.

    Nothing here makes a task, a queue or a timer for a message, and few coroutines wait while
    the connection is idle: each is memory, and time whenever a message wakes the task.
    """

    __slots__ = ()

    # The handshake

    def __aenter__(self) -> Awaitable[None]:
        connection = self.connection
        connection.inbound.hook_starts()
        self._bound_handshake()
        return done(connection.loop)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """Answer what came out of the middleware chain; whether that was all with it."""
        connection = self.connection
        try:
            if error is None:
                if connection.state is CONNECTING:
                    _dead_ends.log(
                        connection.path,
                        "WebSocket %s: a middleware neither called the next one nor rejected: "
                        "refused with 403",
                        connection.path,
                    )
                    connection.refuse(403)
                return True
            if isinstance(error, asyncio.CancelledError):
                return self._take_back_cancel()
            if not isinstance(error, Exception) or connection.state is HANDED_OVER:
                return False  # the server answers it, as it would without us
            # Without the frame of our own caller: a report that shows variables would show the
            # scope, and in it cookies and tokens.
            error.__traceback__ = traceback.tb_next if traceback is not None else None
            await self.calls.failed(MIDDLEWARE, error)
            return True
        finally:
            try:
                await self._finish()  # does nothing where ``live`` has done it
                if connection.outbound.writer is not None:
                    await self._flush(connection.outbound.writer)
                if connection.state is REFUSED:
                    await connection.settle()
            finally:
                self._set_timer(None)
                self.calls.context = None
                connection.release()
                self._subscriptions = None  # they refer back here
                self.handler._let_go()

    async def hand_over(self, application: ASGIApplication, scope: Scope) -> None:
        """The innermost for an ASGI application: the connection is its own from here on."""
        connection = self.connection
        if connection.state is CONNECTING and await self._log_in():
            self._set_timer(None)
            handshake_queue_of(connection.loop).leave(connection)
            connection.inbound.hook_ends()
            self._is_handed_over = True
            await connection.hand_over(application, scope)

    def _bound_handshake(self) -> None:
        seconds = conf.get().ws_connect_timeout
        self._set_timer(self.connection.loop.call_later(seconds, self._connect_timed_out))

    def _connect_timed_out(self) -> None:
        _time_outs.log(
            (self.connection.path, self.calls.place),
            "WebSocket %s: %s took longer than WS_CONNECT_TIMEOUT (%g s): refused with 503",
            self.connection.path,
            self.calls.place,
            conf.get().ws_connect_timeout,
        )
        self.connection.refuse(503)
        self._cancel_task()

    # Open

    async def live(self) -> None:
        """The innermost: from ``on_connect`` to ``on_close``."""
        connection, handler, calls = self.connection, self.handler, self.calls
        if connection.state is not CONNECTING:
            return  # a middleware rejected, and called the next one all the same
        # A middleware may run this in a task of its own, as asyncio.wait_for() on Python 3.11.
        servers_task, connection.task = connection.task, current_task() or connection.task
        limits: MessageLimits | None = None
        try:
            calls.context = await own_context()
            if connection.state is not CONNECTING:
                return
            if handler._hooks.fault:
                await calls.failed(HANDLER_CLASS, ImproperlyConfigured(handler._hooks.fault))
                return
            if "authenticate_first" in handler._hooks.overridden:
                if not await self._log_in_by_first_message():
                    return
                self._bound_handshake()
            if not await self._log_in():
                return
            if "authorize" in handler._hooks.overridden:
                await calls.decide("authorize")
                if connection.state is not CONNECTING:
                    return
            if "on_connect" in handler._hooks.overridden:
                await calls.decide("on_connect")
                if connection.state is not CONNECTING:
                    return
            if handler.topics or "get_topics" in handler._hooks.overridden:
                await self._join_topics()
                if connection.state is not CONNECTING:
                    return
            try:
                limits = message_limits_of(handler, connection, self._tell_rate_limited)
            except Exception as error:
                await calls.failed("rate_limit or idle_timeout", error)
                return
            self._set_timer(None)
            handshake_queue_of(connection.loop).leave(connection)
            try:
                self._set_accept_headers()
            except Exception as error:
                await calls.failed("accept_headers", error)
                return
            try:
                await connection.accept()
            except ConnectionClosed:
                connection.client_left({"type": "websocket.disconnect", "code": 1006})
                return
            self._opened = True
            if "on_open" in handler._hooks.overridden:
                await calls.call("on_open")
            self._is_started = True
            if handler._hooks.takes_turns and not handler.concurrent_broadcasts:
                calls.take_turns(is_locked=False)
            if self._subscriptions is not None:
                self._subscriptions.release()
            inbound = connection.inbound
            inbound.hook_ends()
            receive, next_event = inbound.receive, inbound.next
            if limits is not None:  # otherwise they cost nothing here
                receive = next_event = limits.next
                limits.begin()
            watch, busy = inbound.watch, inbound.watch.busy
            on_message = calls.function("on_message")
            takes_bytes = "on_bytes" in handler._hooks.overridden
            on_bytes = calls.function("on_bytes")
            takes_text = "on_text" in handler._hooks.overridden
            on_text = calls.function("on_text")
            decode = handler.codec.decode
            max_size = handler.max_message_size or conf.get().ws_max_message_size
            surely_small = max_size // 4  # characters; UTF-8 takes at most four bytes for one
            calls.place = "on_message"
            while True:  # hot, and therefore all in one place
                try:
                    event = await (next_event() if inbound.ahead else receive())
                except Exception as error:
                    logger.debug("WebSocket %s: receive failed: %r", connection.path, error)
                    event = {"type": "websocket.disconnect", "code": 1006}
                data = event.get("text")
                if data is None:
                    if event is STOPPED:
                        if connection.state is OPEN:
                            self._close_for_restart()
                        return
                    if event["type"] != "websocket.receive":
                        connection.client_left(event)
                        return
                    data = event["bytes"]
                if len(data) > surely_small and data_size(data) > max_size:
                    self._refuse_size(data_size(data), max_size)
                    return
                busy[inbound] = False  # as inbound.hook_starts(), without the calls
                if watch.timer is None:
                    watch.start()
                if calls.turns is not None and not await self._turn_comes(calls.turns):
                    continue
                try:
                    if takes_bytes and isinstance(data, bytes):
                        calls.place = "on_bytes"
                        await on_bytes(data)
                        calls.place = "on_message"
                    elif takes_text and isinstance(data, str) and await self._takes(on_text, data):
                        pass
                    else:
                        try:
                            message = decode(data)
                        except DecodeError as error:
                            path = connection.path
                            _undecodable.log(path, "WebSocket %s: %s", path, printable(str(error)))
                            await calls.call("on_decode_error", error)
                            calls.place = "on_message"
                        else:
                            await on_message(message)
                except (Exception, asyncio.CancelledError) as error:
                    await calls.failed(calls.place, error)
                    calls.place = "on_message"
                    if not isinstance(error, ConnectionClosed | InvalidMessage | MessageDropped):
                        return
                finally:
                    del busy[inbound]
                    if calls.turns is not None:  # the hook may have made it
                        calls.turns.release()
        except asyncio.CancelledError:
            if not self._take_back_cancel():
                connection.close(CloseCode.GOING_AWAY)
                raise
        finally:
            if limits is not None:
                limits.end()
            if connection.state is OPEN:
                connection.close(CloseCode.INTERNAL_ERROR)
            await self._finish()
            connection.task = servers_task

    async def _tell_rate_limited(self) -> None:
        inbound = self.connection.inbound
        inbound.hook_starts()
        try:
            async with self.calls.turn():
                await self.calls.call("on_rate_limited")
        finally:
            self.calls.place = "on_message"
            inbound.hook_ends()

    async def _takes(self, on_text: Callable[[str], Awaitable[Any]], text: str) -> bool:
        """Whether ``on_text`` was all that is to be done with this text."""
        self.calls.place = "on_text"
        is_done = await on_text(text)
        self.calls.place = "on_message"
        return bool(is_done) or self.connection.inbound.stopped

    async def _turn_comes(self, turns: asyncio.Lock) -> bool:
        """Wait until no other hook runs. False if we have closed meanwhile: what came before is
        not handled then.
        """
        inbound, calls = self.connection.inbound, self.calls
        place, calls.place = calls.place, "on_broadcast"
        try:
            await turns.acquire()
        except BaseException:
            inbound.hook_ends()
            raise
        calls.place = place
        if inbound.stopped:
            turns.release()
            inbound.hook_ends()
            return False
        return True

    def _log_in(self) -> Awaitable[bool]:
        """Register the log-in, then look once more whether it still holds.

        In this order, and before anything else: whenever it ends from now on, this is told.
        """
        login = self.handler.request.login
        return self._watch(login) if login is not None else _nobody

    async def _watch(self, login: Login) -> bool:
        self.calls.place = LOG_IN
        may_hold = self.subscriptions.belongs_to(login.owners, hub_of(DEFAULT))
        try:
            if not (may_hold and await login.begin(self._login_ended)):
                self._login_ended()
        except Exception as error:
            await self.calls.failed(LOG_IN, error)
        return self.connection.state is CONNECTING

    def _login_ended(self) -> None:
        self.connection.close(CloseCode.LOGIN_ENDED, "the log-in has ended")

    async def _join_topics(self) -> None:
        """The topics that the connection has from the start."""
        self.calls.place = "get_topics"
        try:
            topics = self.handler.get_topics()
            if inspect.isawaitable(topics):
                topics = await topics
            if topics:
                await self.subscriptions.join(topics)
        except BroadcastError:  # logged by the hub
            self.connection.refuse(503)
        except (Exception, asyncio.CancelledError) as error:
            await self.calls.failed("get_topics", error)

    def _refuse_size(self, size: int, max_size: int) -> None:
        path = self.connection.path
        _too_large.log(
            path, "WebSocket %s: a message of %d bytes, %d allowed", path, size, max_size
        )
        self.connection.close(CloseCode.TOO_LARGE, f"the message is larger than {max_size} bytes")
