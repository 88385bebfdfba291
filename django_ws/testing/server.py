"""An ASGI server of one WebSocket, in this event loop and without a network."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from django.core.signals import got_request_exception

from django_ws.types import ASGIApplication, Event, Scope

STOP_SECONDS = 5.0


class InProcessServer:
    """Runs the application in a task and speaks ASGI with it, as a real server would.

    ``events`` holds what the application has sent. ``error`` is the exception that the
    application, or a hook of its handler, ended with.
    """

    def __init__(self, application: ASGIApplication, scope: Scope) -> None:
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.error: BaseException | None = None
        self._scope = scope
        self._to_application: asyncio.Queue[Event] = asyncio.Queue()
        self._disconnected = False
        self._task = asyncio.create_task(
            self._run(application), name=f"application for {scope['path']}"
        )

    def feed(self, event: Event) -> None:
        """Give the application one event; only one disconnect reaches it."""
        if not self._disconnected:
            self._disconnected = event["type"] == "websocket.disconnect"
            self._to_application.put_nowait(event)

    async def ended(self, seconds: float) -> bool:
        """Wait until the application has returned; False if it has not in this time."""
        await asyncio.wait([self._task], timeout=seconds)
        return self._task.done()

    async def stop(self) -> None:
        """End an application that does not return; one that ignores this is left behind."""
        self._task.cancel()
        await asyncio.wait([self._task], timeout=STOP_SECONDS)

    async def _run(self, application: ASGIApplication) -> None:
        got_request_exception.connect(self._note_error)
        try:
            await application(self._scope, self._to_application.get, self._send)
        except Exception as error:
            self.error = error
        finally:
            got_request_exception.disconnect(self._note_error)
            self.events.put_nowait({"type": "ended"})

    async def _send(self, event: Event) -> None:
        self.events.put_nowait(event)
        if event["type"] == "websocket.close":
            self.feed({"type": "websocket.disconnect", **_closing(event)})

    def _note_error(self, *, request: Any = None, **kwargs: Any) -> None:
        if getattr(request, "scope", None) is self._scope:
            self.error = sys.exc_info()[1]


def _closing(event: Event) -> dict[str, Any]:
    return {"code": event.get("code", 1000), "reason": event.get("reason") or ""}
