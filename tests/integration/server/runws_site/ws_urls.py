"""A room whose members are told which worker they are with."""

import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from django.urls import path, reverse

from django_ws import WebSocketHandler, ws_reverse
from django_ws.exceptions import BroadcastError

if Path(os.environ.get("RUNWS_TOLD", os.devnull)).read_text() == "raise in the routes":
    raise RuntimeError("the routes are broken")


class Room(WebSocketHandler):
    topics = ("room",)

    async def on_open(self) -> None:
        await self.send({"pid": os.getpid()})

    async def on_message(self, message: Any) -> None:
        with suppress(BroadcastError):  # the broker may have been killed just now
            await self.broadcast("room", message)


class Blocks(WebSocketHandler):
    """Says which worker it is with, and blocks its event loop."""

    async def on_open(self) -> None:
        await self.send({"pid": os.getpid()})

    async def on_message(self, message: Any) -> None:
        if message == "regex":  # which gives no other thread a turn
            re.match(r"(a+)+$", "a" * 60 + "b")
        elif isinstance(message, float):
            time.sleep(message)  # noqa: ASYNC251 - which is what is wrong with it
        else:
            time.sleep(1000)  # noqa: ASYNC251
        await self.send("awake")


class Sleeps(Blocks):
    """Blocks a thread, and says so."""

    def on_message(self, message: Any) -> None:  # type: ignore[override]
        self.send("asleep")
        time.sleep(1000)


class Where(WebSocketHandler):
    """Says what a socket knows of its place, as the page does."""

    async def on_open(self) -> None:
        await self.send(
            {
                "path": self.request.path,
                "path_info": self.request.path_info,
                "page": reverse("where"),
                "socket": ws_reverse("where"),
            }
        )


urlpatterns = [path("room/", Room), path("blocks/", Blocks), path("sleeps/", Sleeps)]
urlpatterns += [path("where/", Where, name="where")]
