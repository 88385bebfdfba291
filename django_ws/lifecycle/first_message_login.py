"""Log-in by the first message: from the early accept to the first hook.

The socket is accepted, but for everything else the handshake is still under way: nothing can be
sent, no topic is joined, and a refusal closes with 4000 + status.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from asgiref.sync import sync_to_async

from django_ws import conf
from django_ws.connection.connection import CONNECTING
from django_ws.connection.outbound import data_size
from django_ws.exceptions import ConnectionClosed, DecodeError, InvalidMessage
from django_ws.headers import checked_headers
from django_ws.lifecycle.restart import Restarting
from django_ws.limits.connection_limits import limits
from django_ws.limits.handshake_queue import handshake_queue_of
from django_ws.logs.throttled import ThrottledLog
from django_ws.logs.traceback_text import without_frames
from django_ws.types import Event, Login

logger = logging.getLogger("django.ws.request")

_refused = ThrottledLog(logger, logging.INFO, "connections without a valid first message")


class FirstMessage(Restarting):
    """Asks a handler that overrides ``authenticate_first``. For the loop's thread only."""

    __slots__ = ()

    async def _log_in_by_first_message(self) -> bool:
        """Whether the connection may live: it is refused or gone otherwise."""
        connection, inbound = self.connection, self.connection.inbound
        self.calls.place = "the first message"
        seconds = self.handler.first_message_seconds
        self._set_timer(connection.loop.call_later(seconds, self._no_first_message))
        # A client that says nothing takes no place of a handshake.
        handshake_queue_of(connection.loop).leave(connection)
        try:
            self._set_accept_headers()
        except Exception as error:
            await self.calls.failed("accept_headers", error)
            return False
        try:
            await connection.accept_early()
        except ConnectionClosed:
            connection.client_left({"type": "websocket.disconnect", "code": 1006})
            return False
        inbound.hook_ends()  # so that nothing is read ahead of it
        event = await inbound.next()
        inbound.hook_starts()
        if event["type"] != "websocket.receive":
            connection.client_left(event)
        if connection.state is not CONNECTING:
            return False
        login = None
        try:
            login = await self._login_of(event)
        except (DecodeError, InvalidMessage):
            pass
        except Exception as error:
            await self.calls.failed("authenticate_first", without_frames(error))
        del event  # from here on a report may show what this frame holds
        if connection.state is not CONNECTING:
            return False
        if login is None:
            self._refuse("no valid token came as the first message")
            return False
        request: Any = self.handler.request
        request.login, request.user = login, login.user
        limits.admit(connection, request)
        return connection.state is CONNECTING

    def _set_accept_headers(self) -> None:
        """Raises ``TypeError`` or ``ValueError`` for headers that cannot be sent."""
        given = self.handler.accept_headers
        if given:
            place = f"{type(self.handler).__qualname__}.accept_headers"
            self.connection.accept_headers = checked_headers(place, given)

    async def _login_of(self, event: Event) -> Login | None:
        data = event.get("text")
        if data is None:
            data = event["bytes"]
        if data_size(data) > (self.handler.max_message_size or conf.get().ws_max_message_size):
            return None
        ask: Callable[[Any], Any] = self.handler.authenticate_first
        if "authenticate_first" in self.handler._hooks.sync:
            ask = sync_to_async(ask)
        login: Login | None = await ask(self.handler.codec.decode(data))
        return login

    def _no_first_message(self) -> None:
        seconds = self.handler.first_message_seconds
        self._refuse(f"no first message came in {seconds:g} s")
        self._cancel_task()

    def _refuse(self, why: str) -> None:
        path = self.connection.path
        _refused.log((path, why), "WebSocket %s: %s: closed with 4401", path, why)
        self.connection.refuse(401, "Unauthorized")
