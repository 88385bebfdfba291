"""The lines that `runserver` prints: one for each request, and for each socket's doings.

They go to Django's own logger ``django.server``, with what its formatter takes the colour and the
time from, so that ``LOGGING`` may change them as it may change those of Django's command.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from django_ws.close_codes import CloseCode
from django_ws.logs.printable import printable
from django_ws.types import ASGIApplication, Event, Receive, Scope, Send

logger = logging.getLogger("django.server")

# The colours of statuses are used for sockets, too.
OPENED, CLOSED, FAILED = 101, 101, 500
# The socket's end as it should be: nobody has to look at the line.
QUIET = {1000, CloseCode.GOING_AWAY, 1005, CloseCode.RESTARTING}


class Lines:
    """An ASGI application around another, which tells what becomes of requests and sockets."""

    def __init__(self, application: ASGIApplication) -> None:
        self.application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                await _tell_request(self.application, scope, receive, send)
            case "websocket":
                await _Socket(self.application, scope, receive, send).run()
            case _:
                await self.application(scope, receive, send)


async def _tell_request(
    application: ASGIApplication, scope: Scope, receive: Receive, send: Send
) -> None:
    """When it is answered. The server answers 500 where the application does not."""
    status, size = 0, 0

    async def observed_send(event: Event) -> None:
        nonlocal status, size
        await send(event)
        if event["type"] == "http.response.start":
            status = event["status"]
        else:
            size += len(event.get("body", b""))

    try:
        await application(scope, receive, observed_send)
    except BaseException:
        _log_request(scope, status or 500, size)
        raise
    if status:  # otherwise the client has left
        _log_request(scope, status, size)


def _log_request(scope: Scope, status: int, size: int) -> None:
    """With the query string, as Django's server does it."""
    path = _path(scope)
    if query := scope["query_string"].decode("latin-1"):
        path += f"?{query}"
    line = printable(f"{scope['method']} {path} HTTP/{scope['http_version']}")
    _log(status, '"%s" %s %s', line, status, size)


class _Socket:
    """One connection: opened or refused, and closed. Its query string is never shown."""

    def __init__(
        self, application: ASGIApplication, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._application = application
        self._scope = scope
        self._path = printable(_path(scope))
        self._receive = receive
        self._send = send
        self._opened_at: float | None = None
        self._is_over = False

    async def run(self) -> None:
        try:
            await self._application(self._scope, self.receive, self.send)
        except Exception:
            self._end(500, CloseCode.INTERNAL_ERROR)
            raise
        finally:
            self._end(500, 1006)  # where nothing was said before

    async def receive(self) -> Event:
        event = await self._receive()
        if event["type"] == "websocket.disconnect":
            if self._opened_at is None:
                self._is_over = True  # it left before it was answered
            self._end(0, event.get("code") or 1005)
        return event

    async def send(self, event: Event) -> None:
        await self._send(event)
        match event["type"]:
            case "websocket.accept":
                self._opened_at = time.monotonic()
                _log(OPENED, "WebSocket %s opened", self._path)
            case "websocket.close":
                self._end(403, event.get("code", 1000))
            case "websocket.http.response.start":
                self._end(event["status"], 0)

    def _end(self, status: int, code: int) -> None:
        """Once: with the status of the refusal, or the code of the close."""
        if self._is_over:
            return
        self._is_over = True
        if self._opened_at is None:
            _log(status, "WebSocket %s refused with %d", self._path, status)
        else:
            seconds = time.monotonic() - self._opened_at
            colour = CLOSED if code in QUIET else FAILED if code == 1011 else 400
            _log(colour, "WebSocket %s closed with %d after %.1f s", self._path, code, seconds)


def _path(scope: Scope) -> str:
    """As it stood on the wire, where the server tells."""
    raw = scope.get("raw_path")
    return raw.decode("latin-1") if raw else str(scope["path"])


def _log(status: int, message: str, *arguments: Any) -> None:
    level = logging.INFO if status < 400 else logging.WARNING if status < 500 else logging.ERROR
    extra = {"status_code": status, "server_time": time.strftime("%d/%b/%Y %H:%M:%S")}
    logger.log(level, message, *arguments, extra=extra)
