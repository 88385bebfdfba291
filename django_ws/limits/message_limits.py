"""Enforces ``rate_limit`` and ``idle_timeout`` for one connection."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable
from typing import Literal, Protocol

from django.core.exceptions import ImproperlyConfigured

from django_ws import conf
from django_ws.close_codes import CloseCode
from django_ws.conf.rate import parse_rate
from django_ws.connection.connection import OPEN, Connection
from django_ws.limits.token_bucket import TokenBucket
from django_ws.logs.throttled import ThrottledLog
from django_ws.types import Event

logger = logging.getLogger("django.ws.request")

_over_the_limit = ThrottledLog(logger, logging.WARNING, "messages above a rate_limit")
_idle = ThrottledLog(logger, logging.INFO, "idle connections")


class Handler(Protocol):
    """What the limits need of the user's handler."""

    rate_limit: str | Literal[False] | None
    idle_timeout: float | None
    _rate_limited: int

    @property
    def _own_id(self) -> str: ...


def message_limits_of(
    handler: Handler, connection: Connection, on_rate_limited: Callable[[], Awaitable[None]]
) -> MessageLimits | None:
    """The limits of one connection; None where the handler sets none: then they cost nothing.

    Raises ``ImproperlyConfigured`` for a wrong value. ``on_rate_limited`` calls the hook.
    """
    rate_limit, idle_timeout = handler.rate_limit, handler.idle_timeout
    name = "rate_limit"
    try:
        rate = conf.get().ws_rate_limit if rate_limit is None else parse_rate(rate_limit)
        name = "idle_timeout"
        seconds = None if idle_timeout is None else conf.seconds(idle_timeout)
    except ValueError as error:
        raise ImproperlyConfigured(f"{type(handler).__qualname__}.{name}: {error}.") from None
    if rate is None and seconds is None:
        return None
    bucket = None if rate is None else TokenBucket(rate)
    return MessageLimits(handler, connection, on_rate_limited, bucket, seconds)


class MessageLimits:
    """Stands between the events of one connection and its handler. For the loop's thread only.

    There is no timer for a message. One for the connection looks when the client would have
    been idle for too long, and, since a message has come meanwhile, when it would be next.
    """

    __slots__ = (
        "_bucket", "_connection", "_handler", "_idle_seconds", "_on_rate_limited", "_timer",
        "_waits_since",
    )  # fmt: skip

    def __init__(
        self,
        handler: Handler,
        connection: Connection,
        on_rate_limited: Callable[[], Awaitable[None]],
        bucket: TokenBucket | None,
        idle_seconds: float | None,
    ) -> None:
        self._handler = handler
        self._connection = connection
        self._on_rate_limited = on_rate_limited
        self._bucket = bucket
        self._idle_seconds = idle_seconds
        self._waits_since: float | None = None  # None while a hook runs
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """The connection is open, and its hook ``on_open`` has returned."""
        if self._idle_seconds is not None:
            self._look_in(self._idle_seconds)

    def end(self) -> None:
        """The connection is over: no timer is left."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def next(self) -> Event:
        """The next event that is to be handled. Raises what the server's ``receive`` raises."""
        inbound, bucket = self._connection.inbound, self._bucket
        while True:
            self._waits_since = self._connection.loop.time()
            event = await (inbound.next() if inbound.ahead else inbound.receive())
            self._waits_since = None
            if bucket is None or event["type"] != "websocket.receive" or bucket.take():
                return event
            await self._over_the_limit()

    async def _over_the_limit(self) -> None:
        """A message is not handled. The hook decides whether the connection goes on."""
        handler = self._handler
        handler._rate_limited += 1
        _over_the_limit.log(
            self._connection.path,
            "WebSocket %s: more messages than its rate_limit allows (connection %s): "
            "%d not handled so far",
            self._connection.path,
            handler._own_id,
            handler._rate_limited,
        )
        await self._on_rate_limited()

    def _look_in(self, seconds: float) -> None:
        # In an empty context: a cancelled timer keeps its own alive until its time has come.
        self._timer = self._connection.loop.call_later(
            seconds, self._look, context=contextvars.Context()
        )

    def _look(self) -> None:
        self._timer = None
        connection, seconds = self._connection, self._idle_seconds
        if connection.state is not OPEN or seconds is None:
            return
        if self._waits_since is None:
            self._look_in(seconds)
            return
        left = self._waits_since + seconds - connection.loop.time()
        if left > 0:
            self._look_in(left)
            return
        path = connection.path
        _idle.log(path, "WebSocket %s: no message for %g s: closed with 4408", path, seconds)
        connection.close(CloseCode.IDLE, f"no message for {seconds:g} s")
