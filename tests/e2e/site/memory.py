"""How much memory the server has used, and which handlers are alive."""

from __future__ import annotations

import gc
import resource
import sys
from typing import Any
from weakref import WeakSet

from django_ws import WebSocketHandler

_unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts kilobytes but on macOS


class Mortal(WebSocketHandler):
    """An echo whose living instances are counted."""

    alive: WeakSet[WebSocketHandler] = WeakSet()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.alive.add(self)

    async def on_open(self) -> None:
        self.start_task("nothing", self.nothing)

    async def on_message(self, message: Any) -> None:
        await self.send(message)

    async def on_close(self) -> None:
        pass

    async def nothing(self) -> None:
        pass


class Memory(WebSocketHandler):
    """Answers each message with the numbers; handlers are counted before garbage collection."""

    async def on_message(self, message: Any) -> None:
        alive = len(Mortal.alive)
        gc.collect()
        await self.send(
            {
                "alive": alive,
                "objects": len(gc.get_objects()),
                "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _unit,
            }
        )
