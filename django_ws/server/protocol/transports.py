"""Works around details of asyncio's own transports."""

from __future__ import annotations

import asyncio
from asyncio.sslproto import _SSLProtocolTransport
from typing import Any


class ClosedOnce(_SSLProtocolTransport):
    """All but the first ``close()`` do nothing.

    asyncio's second one takes the transport's insides away: from then on it raises
    ``AttributeError`` for whatever it is asked, and ``abort()`` does nothing. Protocols, uvicorn's
    too, close what is closed already: when an application returns, when the server ends.
    """

    def close(self) -> None:
        if not self.is_closing():
            super().close()


def close_once(transport: asyncio.BaseTransport) -> None:
    """To be called with each new transport. Those of other kinds are left alone."""
    if type(transport) is _SSLProtocolTransport:
        made: Any = transport
        made.__class__ = ClosedOnce


def let_go_of_transport(transport: asyncio.BaseTransport) -> None:
    """When the connection is lost: its own bound method, which is never called again."""
    if hasattr(transport, "_read_ready_cb"):
        transport._read_ready_cb = None
