"""An ASGI server of one WebSocket, in this event loop and without a network."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from django.core.signals import got_request_exception

from django_ws.logs import throttled
from django_ws.types import ASGIApplication, Event, Scope

STOP_SECONDS = 5.0

_running: set[InProcessServer] = set()


class InProcessServer:
    """Runs the application in a task and speaks ASGI with it, as a real server would.

    ``events`` holds what the application has sent. What it raises, in its hooks and tasks too,
    is kept until it is told: as the cause of an exception of the client, or at the very end.
    """

    def __init__(self, application: ASGIApplication, scope: Scope) -> None:
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self._errors: list[BaseException] = []  # in the order in which they came
        self._errors_before_close: int | None = None
        self._told = 0  # how many of them
        self._scope = scope
        self._to_application: asyncio.Queue[Event] = asyncio.Queue()
        self._disconnected = False
        if not _running:  # what an earlier test caused keeps no line of this one out of the log
            throttled.reset_all()
        _running.add(self)
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

    def tell(self) -> BaseException | None:
        """All that was raised so far, as one exception: it counts as told from now on."""
        self._told = len(self._errors)
        return self._as_one(self._errors)

    def tell_close(self) -> BaseException | None:
        """As ``tell``, but only what led to the close: what is raised after it is news."""
        count = self._errors_before_close or 0
        self._told = max(self._told, count)
        return self._as_one(self._errors[:count])

    def raise_untold(self) -> None:
        """Raise what nobody was told of: one exception as it is, several as a group."""
        untold = self._errors[self._told :]
        self._told = len(self._errors)
        error = self._as_one(untold)
        if error is not None:
            # A cancellation as it is would be taken for one of the test.
            raise error if isinstance(error, Exception) else self._group(untold)

    def _as_one(self, errors: list[BaseException]) -> BaseException | None:
        if len(errors) < 2:
            return errors[0] if errors else None
        return self._group(errors)

    def _group(self, errors: list[BaseException]) -> BaseException:
        return BaseExceptionGroup(f"raised for {self._scope['path']}", errors)

    async def _run(self, application: ASGIApplication) -> None:
        got_request_exception.connect(self._note_error)
        try:
            await application(self._scope, self._to_application.get, self._send)
        except Exception as error:
            self._keep(error)
        finally:
            got_request_exception.disconnect(self._note_error)
            _running.discard(self)
            self.events.put_nowait({"type": "ended"})

    async def _send(self, event: Event) -> None:
        self.events.put_nowait(event)
        if event["type"] == "websocket.close":
            self._errors_before_close = len(self._errors)
            self.feed({"type": "websocket.disconnect", **_closing(event)})

    def _note_error(self, *, request: Any = None, **kwargs: Any) -> None:
        error = sys.exc_info()[1]
        if error is not None and getattr(request, "scope", None) is self._scope:
            self._keep(error)

    def _keep(self, error: BaseException) -> None:
        # on_error may raise again what it was given.
        if not any(known is error for known in self._errors):
            self._errors.append(error)


def _closing(event: Event) -> dict[str, Any]:
    return {"code": event.get("code", 1000), "reason": event.get("reason") or ""}
