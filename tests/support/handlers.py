"""Handlers that many tests need."""

from django_ws import WebSocketHandler


class Quiet(WebSocketHandler):
    """Overrides nothing."""
