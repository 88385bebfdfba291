"""Logs the end of each WebSocket: ``[closed with N]``, after uvicorn's ``[accepted]``."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.utils import get_client_addr, get_path_with_query_string
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode
from websockets.protocol import State


def log_end(protocol: Any) -> None:
    """Of a ``WebSocketsSansIOProtocol``; nothing if its handshake was refused."""
    conn = protocol.conn
    if conn.state is State.CONNECTING:
        return
    first, second = conn.close_sent, conn.close_rcvd
    if conn.close_rcvd_then_sent:
        first, second = second, first
    close = first or second
    protocol.logger.info(
        '%s - "WebSocket %s" [closed with %d]',
        get_client_addr(protocol.scope),
        get_path_with_query_string(protocol.scope),
        close.code if close else CloseCode.ABNORMAL_CLOSURE,
    )


class LoggedSansIO(WebSocketsSansIOProtocol):
    """uvicorn's own class, with that line."""

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        log_end(self)
