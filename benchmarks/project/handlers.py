"""The handler of the README, and its two variations."""

from typing import Any

from django_ws import WebSocketHandler
from django_ws.codecs import TextCodec


class EchoHandler(WebSocketHandler):
    async def on_message(self, message: Any) -> None:
        await self.send(message)


class TextEchoHandler(EchoHandler):
    codec = TextCodec()


class PingHandler(EchoHandler):
    async def on_open(self) -> None:
        await self.start_ping()
