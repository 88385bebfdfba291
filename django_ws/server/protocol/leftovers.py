"""Breaks the reference cycles of closed connections, so that their memory is freed at once.

Only the garbage collector would find them, and it looks seldom (see ``garbage``).
"""

from __future__ import annotations

import asyncio
from typing import Any

from websockets.server import ServerProtocol

from django_ws.server.protocol.transports import let_go_of_transport


def let_go_of_pages(transport: asyncio.BaseTransport) -> None:
    """As a connection becomes a WebSocket. What read the handshake, uvicorn's protocol for pages,
    reads no more, but it and its parser refer to each other.
    """
    pages: Any = transport.get_protocol()
    if getattr(pages, "parser", None) is not None:  # httptools' alone
        pages.parser = None


def let_go(transport: asyncio.BaseTransport, conn: ServerProtocol) -> None:
    """When the connection is lost. Nothing is read any more."""
    # A generator, whose frame refers to the object that it is an attribute of.
    conn.parser.close()
    # A traceback's frames do so, too.
    for error in (conn.parser_exc, conn.handshake_exc):
        if error is not None:
            error.__traceback__ = None
    let_go_of_transport(transport)
