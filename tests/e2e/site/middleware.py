"""Middleware of the site: one tells the test about each life, one raises when asked to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from django_ws import WebSocketHandler
from tests.e2e.site.journal import note

Chain = Callable[[WebSocketHandler], Awaitable[None]]


class NoteLife:
    """The outermost: ``ended`` comes after everything else of a connection."""

    def __init__(self, func: Chain) -> None:
        self.func = func

    async def __call__(self, ws: WebSocketHandler) -> None:
        note(ws.kwargs["key"], "began")
        try:
            await self.func(ws)
        finally:
            note(ws.kwargs["key"], "ended")


def raise_on_demand(func: Chain) -> Chain:
    """``?raise=before`` and ``?raise=after``."""

    async def middleware(ws: WebSocketHandler) -> None:
        when = ws.request.GET.get("raise")
        if when == "before":
            raise RuntimeError("before the handler")
        await func(ws)
        if when == "after":
            raise RuntimeError("after the handler")

    return middleware
