"""An ASGI application that tells how long its event loop was ever busy with one turn.

In processor time of its thread, so that a busy machine changes nothing.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any

worst = 0.0  # seconds, since it was asked last


async def watch() -> None:
    global worst
    last = time.thread_time()
    while True:
        await asyncio.sleep(0)
        now = time.thread_time()
        worst = max(worst, now - last)
        last = now


async def application(scope: Any, receive: Any, send: Any) -> None:
    match scope["type"]:
        case "lifespan":
            watching = asyncio.create_task(watch())
            for name in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{name}.complete"})
            watching.cancel()
        case "http":
            await _page(scope["path"], receive, send)
        case _:
            with suppress(OSError):
                await _socket(scope["path"], receive, send)


async def _page(path: str, receive: Any, send: Any) -> None:
    global worst
    while (event := await receive()).get("more_body"):
        pass
    if event["type"] == "http.disconnect":
        return
    body = b"ok"
    if path == "/worst":
        body, worst = b"%d" % (worst * 1e6), 0.0
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _socket(path: str, receive: Any, send: Any) -> None:
    """Echoes; behind /closes it answers the first message with a close."""
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        if path == "/closes":
            await send({"type": "websocket.close", "code": 4429})
            return
        await send({**event, "type": "websocket.send"})
