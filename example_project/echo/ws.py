"""The handler of the echo demo."""

from typing import Any

from django_ws import WebSocketHandler


class EchoHandler(WebSocketHandler):
    """Says who it takes the visitor for, then sends each message back as it came."""

    async def on_open(self) -> None:
        user = await self.request.auser()
        self.start_ping(interval=20)
        await self.send({"you": user.get_username() or None})

    async def on_message(self, message: Any) -> None:
        await self.send({"echo": message})
