"""One connection to Redis: opened, looked at, and closed, whatever is cancelled meanwhile."""

from __future__ import annotations

import selectors
from typing import Any


async def connect(pool: Any) -> Any:
    """A new connection, connected. The caller limits the time, and ``abort``s it at the end."""
    connection = pool.make_connection()
    # With a socket_timeout redis-py would use asyncio.wait_for, which can swallow a cancellation.
    socket_timeout, connection.socket_timeout = connection.socket_timeout, None
    try:
        await connection.connect()
        connection.socket_timeout = socket_timeout
    except BaseException:
        await abort(connection)
        raise
    return connection


def connect_sync(connection: Any, seconds: float) -> None:
    """Connect within ``seconds``, of which connecting and what follows (TLS, AUTH) may have
    half each."""
    connection.socket_connect_timeout = connection.socket_timeout = seconds / 2
    connection.connect()


async def abort(connection: Any) -> None:
    """Close at once. Closing in order would wait for what a frozen server does not take."""
    writer = connection._writer
    if writer is not None:
        writer.transport.abort()
    await connection.disconnect(nowait=True)


async def abort_all(pool: Any) -> None:
    """Close at once what a pool has. Its own ``disconnect`` leaves them open where it is
    cancelled in its first step."""
    for connection in (*pool._available_connections, *pool._in_use_connections):
        await abort(connection)


def is_silent(connection: Any) -> bool:
    """Whether the server has neither closed an async connection nor said something unasked.

    The system is asked, not asyncio: the event loop may not have looked at the socket yet.
    """
    with selectors.DefaultSelector() as selector:
        selector.register(connection._writer.get_extra_info("socket"), selectors.EVENT_READ)
        return not (selector.select(0) or connection._reader.at_eof())
