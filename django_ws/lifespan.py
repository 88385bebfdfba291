"""ASGI's lifespan: start-up and shutdown, also of the HTTP application.

https://asgi.readthedocs.io/en/latest/specs/lifespan.html
"""

from __future__ import annotations

import asyncio
import logging

from django_ws.logs.throttled import flush_all
from django_ws.pubsub.hub.registry import close_all, open_all
from django_ws.threads import stalls
from django_ws.types import ASGIApplication, Event, Receive, Scope, Send

logger = logging.getLogger("django.ws")


async def lifespan(
    scope: Scope, receive: Receive, send: Send, http_app: ASGIApplication | None
) -> None:
    """Let ``http_app`` take part in the lifespan; answer in its place where it does not.

    Broadcast backends are opened before and closed after it, and meanwhile the event loop is
    watched for stalls. Django's own application knows no lifespan (``http_app`` is None for it).
    One that does not either says so by raising, or returning, before it answered anything.
    """

    async def closing_send(event: Event) -> None:
        if event["type"].startswith("lifespan.shutdown"):  # after the answer a server goes on
            await close_all()
        await send(event)

    await open_all()
    stop_watching = stalls.watch(asyncio.get_running_loop())
    try:
        await _take_part(scope, receive, closing_send, http_app)
    finally:
        stop_watching()
        await close_all()
        flush_all()


async def _take_part(
    scope: Scope, receive: Receive, send: Send, http_app: ASGIApplication | None
) -> None:
    unanswered: list[Event] = []
    has_answered = False

    async def observed_receive() -> Event:
        event = await receive()
        unanswered.append(event)
        return event

    async def observed_send(event: Event) -> None:
        nonlocal has_answered
        has_answered = True
        await send(event)

    if http_app is not None:
        try:
            await http_app(scope, observed_receive, observed_send)
        except Exception as error:
            if has_answered:
                raise
            logger.debug("the HTTP application takes no part in the lifespan: %r", error)
        if has_answered:
            return
    while True:
        event = unanswered.pop() if unanswered else await receive()
        await send({"type": f"{event['type']}.complete"})
        if event["type"] == "lifespan.shutdown":
            return
