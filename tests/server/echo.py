"""An ASGI application that sends back what it gets, for suites that test a server with that."""

from __future__ import annotations

from django_ws.types import Receive, Scope, Send


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "websocket":
        raise ValueError(f"only sockets are served here, not {scope['type']}")
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({**event, "type": "websocket.send"})
