"""The WebSocket routes of the live server's tests."""

from tests.integration.testing.test_live import websocket_urlpatterns as urlpatterns

__all__ = ["urlpatterns"]
