"""The project's application behind a server that describes the handshake in its own way."""

from typing import Any

from django_ws.types import ASGIApplication, Receive, Scope, Send
from tests.asgi import application as site


def with_scope(**changes: Any) -> ASGIApplication:
    """For ``WebSocketClient(application=...)``: the scope with these keys instead."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await site({**scope, **changes}, receive, send)

    return application


def with_headers(*headers: tuple[bytes, bytes]) -> ASGIApplication:
    """The same, with these raw headers after those of the client."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await site({**scope, "headers": [*scope["headers"], *headers]}, receive, send)

    return application


def without_header(name: bytes) -> ASGIApplication:
    """The same, without one header."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [item for item in scope["headers"] if item[0] != name]
        await site({**scope, "headers": headers}, receive, send)

    return application
