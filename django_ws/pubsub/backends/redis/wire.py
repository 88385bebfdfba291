"""Sends commands over a connection that listens, and reads what comes in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from redis import exceptions

try:
    import hiredis
except ImportError:  # pragma: no cover - redis-py's own parser then, several times slower
    hiredis = None  # type: ignore[assignment]


async def send(connection: Any, *command: str | bytes) -> None:
    if not connection.is_connected:  # redis-py would connect again, in silence
        raise exceptions.ConnectionError("the connection is closed")
    await connection.send_command(*command, check_health=False)


async def replies_of(connection: Any) -> AsyncIterator[tuple[list[Any], int]]:
    """What comes in, and its size, as much at a time as is there."""
    if hiredis is None:
        while True:
            reply = await connection.read_response(disable_decoding=True)
            yield [reply], len(reply[2]) if reply[0] == b"message" else 0
    # Straight from the connection's StreamReader: read_response() takes ten times as long for
    # a message. Nothing is left in redis-py's own parser: it has read all answers to its
    # commands, and none was sent that makes the server speak by itself.
    stream: asyncio.StreamReader = connection._reader
    parser = hiredis.Reader(replyError=exceptions.ResponseError)
    while data := await stream.read(65536):
        parser.feed(data)
        replies = []
        while (reply := parser.gets()) is not False:
            replies.append(reply)
        yield replies, len(data)
    raise exceptions.ConnectionError("the server closed the connection")
