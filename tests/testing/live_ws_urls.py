"""The WebSocket routes of the live server's tests."""

from tests.testing.test_live import websocket_urlpatterns as urlpatterns

__all__ = ["urlpatterns"]
