"""Testing handlers: a client for the whole stack without a network, a live server, and what was
broadcast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django_ws.testing.broadcasts import CapturedBroadcast, captured_broadcasts
from django_ws.testing.client import HandshakeRejected, SyncWebSocketClient, WebSocketClient

if TYPE_CHECKING:
    from django_ws.testing.live import WebSocketLiveServerTestCase

__all__ = [
    "CapturedBroadcast",
    "HandshakeRejected",
    "SyncWebSocketClient",
    "WebSocketClient",
    "WebSocketLiveServerTestCase",
    "captured_broadcasts",
]


def __getattr__(name: str) -> Any:
    if name == "WebSocketLiveServerTestCase":  # needs uvicorn; the client does not
        from django_ws.testing.live import WebSocketLiveServerTestCase

        return WebSocketLiveServerTestCase
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
