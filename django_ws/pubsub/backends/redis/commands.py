"""PUBLISH commands as bytes, and the errors for those that fail."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import redis

from django_ws.exceptions import BroadcastError
from django_ws.pubsub.backends.base import channel_of
from django_ws.pubsub.backends.redis.location import cause
from django_ws.pubsub.backends.sequence import HEAD, order_of_gap

_COMMAND = b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%b\r\n$%d\r\n%b%b\r\n"


def packed(
    site: str, head: bytes, messages: Iterable[tuple[str, bytes]], gaps: Iterable[str] = ()
) -> bytes:
    """The commands for topics that get a gap, and then for (topic, data) pairs."""
    commands = []
    for topic in gaps:
        channel = channel_of(site, topic)
        order = order_of_gap(head)
        commands.append(_COMMAND % (len(channel), channel, len(order), order, b""))
    for topic, data in messages:
        channel = channel_of(site, topic)
        commands.append(_COMMAND % (len(channel), channel, HEAD.size + len(data), head, data))
    return commands[0] if len(commands) == 1 else b"".join(commands)


def is_silence(error: BaseException) -> bool:
    """The server has not answered in time."""
    return isinstance(error, (TimeoutError, redis.TimeoutError))


def failure(server: str, seconds: float, error: Exception) -> BroadcastError:
    is_bare = isinstance(error, TimeoutError) and not str(error)
    reason = f"no answer in {seconds:g} s" if is_bare else cause(error)
    failed = BroadcastError("broadcast", server, reason)
    failed.__cause__ = error
    return failed


async def answer_of(connection: Any) -> redis.ResponseError | None:
    """What the server has against one message: the next may be taken all the same."""
    try:
        await connection.read_response()
    except redis.ResponseError as error:
        return error
    return None
