"""The floor: an ASGI application without a framework, that echoes text or, by `json`, JSON."""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from benchmarks import bare_rooms

Event = MutableMapping[str, Any]


async def application(
    scope: Event, receive: Callable[[], Awaitable[Event]], send: Callable[[Event], Awaitable[None]]
) -> None:
    if scope["type"] != "websocket":
        raise ValueError(f"only sockets are served here, not {scope['type']}")
    _, place, *parts = scope["path"].split("/")
    topics = parts[0].split(",") if place == "topics" else []
    await receive()
    await bare_rooms.join(topics, send)
    await send({"type": "websocket.accept"})
    if place == "text":
        while (event := await receive())["type"] != "websocket.disconnect":
            await send({"type": "websocket.send", "text": event["text"]})
    else:
        while (event := await receive())["type"] != "websocket.disconnect":
            await send({"type": "websocket.send", "text": json.dumps(json.loads(event["text"]))})
    bare_rooms.leave(topics, send)
