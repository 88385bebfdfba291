"""An ASGI application that sends back what it gets, for suites that test a server with that."""

from __future__ import annotations

from contextlib import suppress

from django_ws.types import Receive, Scope, Send


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "websocket":
        raise ValueError(f"only sockets are served here, not {scope['type']}")
    await receive()
    await send({"type": "websocket.accept"})
    # The second is what uvicorn's class raises where it has closed by itself.
    with suppress(OSError, RuntimeError):
        while (event := await receive())["type"] == "websocket.receive":
            await send({**event, "type": "websocket.send"})
