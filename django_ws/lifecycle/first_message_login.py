"""Log-in by the first message: from the early accept to the first hook.

The socket is accepted, but for everything else the handshake is still under way: nothing can be
sent, no topic is joined, and a refusal closes with 4000 + status.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from asgiref.sync import sync_to_async

from django_ws import conf
from django_ws.connection.connection import CONNECTING
from django_ws.connection.outbound import data_size
from django_ws.exceptions import ConnectionClosed, DecodeError, InvalidMessage
from django_ws.headers import checked_headers
from django_ws.lifecycle.hook_calls import Handler
from django_ws.lifecycle.life import Life
from django_ws.lifecycle.phases import Phase
from django_ws.limits.connection_limits import limits
from django_ws.limits.handshake_queue import handshake_queue_of
from django_ws.logs.traceback_text import without_frames
from django_ws.types import Event, Login


async def log_in_by_first_message(life: Life) -> bool:
    """Ask a handler that overrides ``authenticate_first``; whether the client may go on.

    Otherwise the connection is refused, or gone.
    """
    connection, handler, calls = life.connection, life.handler, life.calls
    inbound = connection.inbound
    life.phase = Phase.FIRST_MESSAGE
    calls.place = "the first message"
    life.start_timer(handler.first_message_seconds)
    # A client that says nothing takes no place of a handshake.
    handshake_queue_of(connection.loop).leave(connection)
    try:
        set_accept_headers(life)
    except Exception as error:
        await calls.failed("accept_headers", error)
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
        login = await _login_of(handler, event)
    except (DecodeError, InvalidMessage):
        pass
    except Exception as error:
        await calls.failed("authenticate_first", without_frames(error))
    del event  # from here on a report may show what this frame holds
    if connection.state is not CONNECTING:
        return False
    if login is None:
        life.refuse_login("no valid token came as the first message")
        return False
    request: Any = handler.request
    request.login, request.user = login, login.user
    limits.admit(connection, request)
    if connection.state is not CONNECTING:
        return False
    life.phase = Phase.CONNECTING
    return True


def set_accept_headers(life: Life) -> None:
    """Raises ``TypeError`` or ``ValueError`` for headers that cannot be sent."""
    given = life.handler.accept_headers
    if given:
        place = f"{type(life.handler).__qualname__}.accept_headers"
        life.connection.accept_headers = checked_headers(place, given)


async def _login_of(handler: Handler, event: Event) -> Login | None:
    data = event.get("text")
    if data is None:
        data = event["bytes"]
    if data_size(data) > (handler.max_message_size or conf.get().ws_max_message_size):
        return None
    ask: Callable[[Any], Any] = handler.authenticate_first
    if "authenticate_first" in handler._hooks.sync:
        ask = sync_to_async(ask)
    login: Login | None = await ask(handler.codec.decode(data))
    return login
