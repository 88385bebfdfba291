"""Handlers that subscribe and broadcast."""

from __future__ import annotations

from typing import Any

from django_ws import WebSocketHandler


class Room(WebSocketHandler):
    """Passes on what its client says to everybody in the room, and tells of gaps."""

    def get_topics(self) -> list[str]:
        return [f"room:{self.kwargs['key']}"]

    async def on_message(self, message: Any) -> None:
        await self.broadcast(self.get_topics(), message)

    async def on_broadcast_gap(self, topics: frozenset[str]) -> None:
        await self.send({"gap": sorted(topics)})
