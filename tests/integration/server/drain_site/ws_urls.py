"""Handlers that say a last word, that are in the middle of something, that never end."""

import asyncio
import os
import time
from typing import Any

from django.urls import path

from django_ws import WebSocketHandler
from django_ws.drain import is_draining
from tests.e2e.site.journal import note


class Noting(WebSocketHandler):
    async def on_close(self) -> None:
        note(self.request.path, "close", code=self.close_code)


class Tells(Noting):
    """Its answers take until it has been told of the restart."""

    async def on_connect(self) -> None:
        self.told = asyncio.Event()

    async def on_open(self) -> None:
        await self.send(os.getpid())

    async def on_restart(self) -> None:
        await self.send("last word")
        self.told.set()

    async def on_message(self, message: Any) -> None:
        note(self.request.path, "begun")
        await self.told.wait()
        await self.send(f"done with {message}")


class Floods(Noting):
    async def on_message(self, message: int) -> None:
        for _ in range(message):
            self.send_bytes(bytes(100_000))
        note(self.request.path, "flooded")


class Blocks(Noting):
    """A plain function that nobody can cancel."""

    async def on_restart(self) -> None:
        await self.send("last word")

    def on_message(self, message: Any) -> None:
        note(self.request.path, "begun")
        time.sleep(600)


class Connects(Noting):
    """Its handshakes take until the server drains."""

    async def on_connect(self) -> None:
        note(self.request.path, "begun")
        while not is_draining():  # noqa: ASYNC110 - there is no event to be awaited
            await asyncio.sleep(0.01)


async def application(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    event = await receive()
    note(scope["path"], "close", code=event["code"])


urlpatterns = [
    path("tells/", Tells),
    path("tells/<int:number>/", Tells),
    path("floods/", Floods),
    path("blocks/", Blocks),
    path("connects/", Connects),
    path("application/", application),  # type: ignore[arg-type]
]
