"""Testing handlers: a client for the whole stack without a network, and a live server."""

from django_ws.testing.client import HandshakeRejected, SyncWebSocketClient, WebSocketClient
from django_ws.testing.live import WebSocketLiveServerTestCase

__all__ = [
    "HandshakeRejected",
    "SyncWebSocketClient",
    "WebSocketClient",
    "WebSocketLiveServerTestCase",
]
