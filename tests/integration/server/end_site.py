"""An ASGI application without Django that tells of its lifespan, and of how its sockets end."""

from __future__ import annotations

import asyncio
import os
from typing import Any


def tell(line: str) -> None:
    os.write(1, f"{line}\n".encode())


async def application(scope: Any, receive: Any, send: Any) -> None:
    match scope["type"]:
        case "lifespan":
            await _lifespan(receive, send)
        case "http":
            await _page(receive, send)
        case _:
            await _socket(scope["path"], receive, send)


async def _lifespan(receive: Any, send: Any) -> None:
    for name in ("startup", "shutdown"):
        event = await receive()
        tell(event["type"])
        await send({"type": f"lifespan.{name}.complete"})


async def _page(receive: Any, send: Any) -> None:
    """Answers with the body of the request."""
    body, more = b"", True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            return
        body += event["body"]
        more = event["more_body"]
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _socket(path: str, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    try:
        if path == "/floods":  # until the client takes no more; then it is left
            async with asyncio.timeout(0.5):
                while True:
                    await send({"type": "websocket.send", "bytes": bytes(100_000)})
        while (await receive())["type"] == "websocket.receive":
            pass
    except TimeoutError:
        tell("left a client that does not read")
    except OSError:
        tell("a client has gone")
