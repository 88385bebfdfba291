"""The floor: an ASGI application without a framework, that echoes text or, by `json`, JSON."""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Event = MutableMapping[str, Any]


async def application(
    scope: Event, receive: Callable[[], Awaitable[Event]], send: Callable[[Event], Awaitable[None]]
) -> None:
    if scope["type"] != "websocket":
        raise ValueError(f"only sockets are served here, not {scope['type']}")
    await receive()
    await send({"type": "websocket.accept"})
    if scope["path"] == "/json/":
        while (event := await receive())["type"] != "websocket.disconnect":
            await send({"type": "websocket.send", "text": json.dumps(json.loads(event["text"]))})
    else:
        while (event := await receive())["type"] != "websocket.disconnect":
            await send({"type": "websocket.send", "text": event["text"]})
