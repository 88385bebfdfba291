"""WebSocket routes of a project that has none yet."""

from typing import Any

urlpatterns: list[Any] = []
