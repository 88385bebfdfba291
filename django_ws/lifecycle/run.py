"""Runs one connection: the middleware around it, its hooks, and its messages."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Any

from django_ws import conf
from django_ws.close_codes import CloseCode
from django_ws.connection.connection import CONNECTING, HANDED_OVER, REFUSED, Connection
from django_ws.connection.inbound import STOPPED, Inbound
from django_ws.connection.outbound import data_size
from django_ws.exceptions import ConnectionClosed, DecodeError, InvalidMessage, MessageDropped
from django_ws.lifecycle.handshake import accept, connect, watch_login
from django_ws.lifecycle.hook_calls import MIDDLEWARE, Calls
from django_ws.lifecycle.life import Life
from django_ws.lifecycle.phases import Event, Phase
from django_ws.limits.handshake_queue import handshake_queue_of
from django_ws.limits.message_limits import MessageLimits, message_limits_of
from django_ws.logs.printable import printable
from django_ws.logs.throttled import ThrottledLog
from django_ws.threads.any_thread import current_task, done
from django_ws.types import ASGIApplication, Scope

logger = logging.getLogger("django.ws.request")

_undecodable = ThrottledLog(logger, logging.WARNING, "messages that could not be decoded")
_too_large = ThrottledLog(logger, logging.WARNING, "messages that were too large")


class Serving:
    """The context in which the middleware chain runs, within ``WS_CONNECT_TIMEOUT``.

    At its exit the connection ends, and what came out of the chain is answered.
    """

    __slots__ = ("_life",)

    def __init__(self, life: Life) -> None:
        self._life = life

    def __aenter__(self) -> Awaitable[None]:
        connection = self._life.connection
        connection.inbound.hook_starts()
        self._life.start_timer(conf.get().ws_connect_timeout)
        return done(connection.loop)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        life, connection = self._life, self._life.connection
        try:
            if error is None:
                life.handle(Event.RETURNED)
                return True
            if isinstance(error, asyncio.CancelledError):
                return life.take_back_cancel()
            if not isinstance(error, Exception) or connection.state is HANDED_OVER:
                return False  # the server answers it, as it would without us
            # Without the frame of our own caller: a report that shows variables would show the
            # scope, and in it cookies and tokens.
            error.__traceback__ = traceback.tb_next if traceback is not None else None
            await life.calls.failed(MIDDLEWARE, error)
            return True
        finally:
            try:
                await life.finish()  # does nothing where ``live`` has done it
                await life.flush()
                if connection.state is REFUSED:
                    await connection.settle()
            finally:
                life.release()


async def hand_over(life: Life, application: ASGIApplication, scope: Scope) -> None:
    """Let an ASGI application have the connection: the innermost of the chain on its route."""
    connection = life.connection
    if connection.state is CONNECTING and await watch_login(life):
        life.stop_timer()
        handshake_queue_of(connection.loop).leave(connection)
        connection.inbound.hook_ends()
        life.phase = Phase.HANDED_OVER
        await connection.hand_over(application, scope)


async def live(life: Life) -> None:
    """From ``on_connect`` to ``on_close``: the innermost of the middleware chain.

    It runs in the task in which the server called the application. Nothing here makes a task, a
    queue or a timer for a message, and no other coroutine waits while the connection is idle:
    each is memory, and time whenever a message wakes the task.
    """
    connection, handler, calls = life.connection, life.handler, life.calls
    if connection.state is not CONNECTING:
        return  # a middleware rejected, and called the next one all the same
    # A middleware may run this in a task of its own, as asyncio.wait_for() on Python 3.11.
    servers_task, connection.task = connection.task, current_task() or connection.task
    limits: MessageLimits | None = None
    try:
        if not await connect(life):
            return
        try:
            limits = message_limits_of(handler, connection, partial(_rate_limited, life))
        except Exception as error:
            await calls.failed("rate_limit or idle_timeout", error)
            return
        if not await accept(life):
            return
        overridden = handler._hooks.overridden
        if "on_open" in overridden:
            await calls.call("on_open")
        if handler._hooks.takes_turns and not handler.concurrent_broadcasts:
            calls.add_lock(is_locked=False)
        life.opened()
        inbound = connection.inbound
        inbound.hook_ends()
        receive, next_event = inbound.receive, inbound.next
        if limits is not None:  # otherwise they cost nothing here
            receive = next_event = limits.next
            limits.begin()
        watch, busy = inbound.watch, inbound.watch.busy
        on_message = calls.function("on_message")
        takes_bytes = "on_bytes" in overridden
        on_bytes = calls.function("on_bytes")
        takes_text = "on_text" in overridden
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
                    life.handle(Event.RESTART)  # or we have closed it: then this is nothing
                    return
                if event["type"] != "websocket.receive":
                    connection.client_left(event)
                    return
                data = event["bytes"]
            if len(data) > surely_small and data_size(data) > max_size:
                _refuse_size(connection, data_size(data), max_size)
                return
            busy[inbound] = False  # as inbound.hook_starts(), without the calls
            if watch.timer is None:
                watch.start()
            if calls.lock is not None and not await _lock_for_message(inbound, calls, calls.lock):
                continue
            try:
                if takes_bytes and isinstance(data, bytes):
                    calls.place = "on_bytes"
                    await on_bytes(data)
                    calls.place = "on_message"
                elif (
                    takes_text
                    and isinstance(data, str)
                    and await _takes(inbound, calls, on_text, data)
                ):
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
                if calls.lock is not None:  # the hook may have made it
                    calls.lock.release()
    except asyncio.CancelledError:
        if not life.take_back_cancel():
            life.handle(Event.CANCELLED)
            raise
    finally:
        if limits is not None:
            limits.end()
        life.handle(Event.RETURNED)
        await life.finish()
        connection.task = servers_task


async def _rate_limited(life: Life) -> None:
    inbound, calls = life.connection.inbound, life.calls
    inbound.hook_starts()
    try:
        async with calls.locked():
            await calls.call("on_rate_limited")
    finally:
        calls.place = "on_message"
        inbound.hook_ends()


async def _takes(
    inbound: Inbound, calls: Calls, on_text: Callable[[str], Awaitable[Any]], text: str
) -> bool:
    """Whether ``on_text`` was all that is to be done with this text."""
    calls.place = "on_text"
    is_done = await on_text(text)
    calls.place = "on_message"
    return bool(is_done) or inbound.stopped


async def _lock_for_message(inbound: Inbound, calls: Calls, lock: asyncio.Lock) -> bool:
    """Wait until no other hook runs. False if we have closed meanwhile: what came before is
    not handled then.
    """
    place, calls.place = calls.place, "on_broadcast"
    try:
        await lock.acquire()
    except BaseException:
        inbound.hook_ends()
        raise
    calls.place = place
    if inbound.stopped:
        lock.release()
        inbound.hook_ends()
        return False
    return True


def _refuse_size(connection: Connection, size: int, max_size: int) -> None:
    path = connection.path
    _too_large.log(path, "WebSocket %s: a message of %d bytes, %d allowed", path, size, max_size)
    connection.close(CloseCode.TOO_LARGE, f"the message is larger than {max_size} bytes")
