"""From the middleware to the accept: log-in, ``authorize``, ``on_connect``, topics."""

from __future__ import annotations

import asyncio
import inspect
from functools import partial

from django.core.exceptions import ImproperlyConfigured

from django_ws import conf
from django_ws.connection.connection import CONNECTING
from django_ws.exceptions import BroadcastError, ConnectionClosed
from django_ws.lifecycle.first_message_login import log_in_by_first_message, set_accept_headers
from django_ws.lifecycle.hook_calls import HANDLER_CLASS, LOG_IN
from django_ws.lifecycle.life import Life
from django_ws.lifecycle.phases import Event, Phase
from django_ws.limits.handshake_queue import handshake_queue_of
from django_ws.pubsub.hub.registry import DEFAULT, hub_of
from django_ws.threads.any_thread import own_context


async def connect(life: Life) -> bool:
    """Whether the connection may be accepted; otherwise it is refused, or the client is gone."""
    connection, handler, calls = life.connection, life.handler, life.calls
    overridden = handler._hooks.overridden
    life.phase = Phase.CONNECTING
    calls.context = await own_context()
    if connection.state is not CONNECTING:
        return False
    if handler._hooks.fault:
        await calls.failed(HANDLER_CLASS, ImproperlyConfigured(handler._hooks.fault))
        return False
    if "authenticate_first" in overridden:
        if not await log_in_by_first_message(life):
            return False
        life.start_timer(conf.get().ws_connect_timeout)
    if not await watch_login(life):
        return False
    for hook in ("authorize", "on_connect"):
        if hook in overridden:
            await calls.decide(hook)
            if connection.state is not CONNECTING:
                return False
    if handler.topics or "get_topics" in overridden:
        await _join_topics(life)
    return connection.state is CONNECTING


async def watch_login(life: Life) -> bool:
    """Register the log-in, then look once more whether it still holds.

    In this order, and before anything else: if it ends from now on, the connection is notified.
    """
    login = life.handler.request.login
    if login is not None:
        life.calls.place = LOG_IN
        ended = partial(life.handle, Event.LOGIN_ENDED)
        try:
            may_hold = life.subscriptions.belongs_to(login.identities, hub_of(DEFAULT))
            if not (may_hold and await login.begin(ended)):
                ended()
        except Exception as error:
            await life.calls.failed(LOG_IN, error)
    return life.connection.state is CONNECTING


async def _join_topics(life: Life) -> None:
    """The topics that the connection has from the start."""
    life.calls.place = "get_topics"
    try:
        topics = life.handler.get_topics()
        if inspect.isawaitable(topics):
            topics = await topics
        if topics:
            await life.subscriptions.join(topics)
    except BroadcastError:  # logged by the hub
        life.connection.refuse(503)
    except (Exception, asyncio.CancelledError) as error:
        await life.calls.failed("get_topics", error)


async def accept(life: Life) -> bool:
    """Accept the handshake; whether the client is still there."""
    connection = life.connection
    life.stop_timer()
    handshake_queue_of(connection.loop).leave(connection)
    try:
        set_accept_headers(life)
    except Exception as error:
        await life.calls.failed("accept_headers", error)
        return False
    try:
        await connection.accept()
    except ConnectionClosed:
        connection.client_left({"type": "websocket.disconnect", "code": 1006})
        return False
    life.accepted()
    return True
