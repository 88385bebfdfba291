"""The handler of the README, and its two variations."""

import os
from typing import Any

from django_ws import WebSocketHandler, broadcast
from django_ws.codecs import TextCodec


class EchoHandler(WebSocketHandler):
    async def on_message(self, message: Any) -> None:
        await self.send(message)


class TextEchoHandler(EchoHandler):
    codec = TextCodec()


class PingHandler(EchoHandler):
    async def on_open(self) -> None:
        await self.start_ping()


class TopicsHandler(EchoHandler):
    send_overflow = "drop_oldest"  # who does not read stays, and goes on to cost what it costs

    def get_topics(self) -> list[str]:
        topics = str(self.kwargs["topics"])
        return topics.split(",") if topics != "none" else []


class SpeakHandler(WebSocketHandler):
    """Broadcasts from the event loop and, in a thread, from sync code; answers after that."""

    topics = ("spoken",)

    def on_broadcast(self, topic: str, message: Any) -> None: ...

    def on_message(self, message: Any) -> None:
        self.broadcast("spoken", message)
        broadcast("spoken", message)
        self.send(message)


class StoreHandler(WebSocketHandler):
    """Acknowledges a message when it is stored, and says so when the server restarts."""

    async def on_open(self) -> None:
        await self.send({"pid": os.getpid()})

    async def on_message(self, message: int) -> None:
        self._store(message)
        await self.send(message)

    async def on_restart(self) -> None:
        await self.send("restart")

    @staticmethod
    def _store(message: int) -> None:
        file = os.open(os.environ["BENCHMARK_STORE"], os.O_APPEND | os.O_CREAT | os.O_WRONLY)
        try:
            os.write(file, f"{message}\n".encode())
        finally:
            os.close(file)
