"""The floor of broadcasts: one Redis subscription, and `await send` for each member in turn."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import suppress
from typing import Any

from redis import asyncio as redis

Event = MutableMapping[str, Any]
Send = Callable[[Event], Awaitable[None]]

_rooms: dict[str, set[Send]] = {}
_listening: list[Any] = []


async def _listen(pubsub: Any) -> None:
    async for message in pubsub.listen():
        if message["type"] == "message":
            event = {"type": "websocket.send", "text": message["data"]}
            for send in tuple(_rooms[message["channel"]]):
                # Who is gone is about to be taken out.
                with suppress(OSError):
                    await send(event)


async def _pubsub() -> Any:
    if not _listening:
        url = os.environ["BENCHMARK_REDIS"]
        pubsub = redis.Redis.from_url(url, decode_responses=True).pubsub()
        _listening.append(pubsub)
        await pubsub.subscribe("nobody")
        _listening.append(asyncio.create_task(_listen(pubsub)))
    return _listening[0]


async def join(topics: Iterable[str], send: Send) -> None:
    for topic in topics:
        if topic not in _rooms:
            _rooms[topic] = set()
            await (await _pubsub()).subscribe(topic)
        _rooms[topic].add(send)


def leave(topics: Iterable[str], send: Send) -> None:
    for topic in topics:
        _rooms[topic].discard(send)
