"""The fast protocol: uvicorn's WebSocket implementation with two short paths beside it.

Give it to uvicorn as ``ws``. Uvicorn's own class, around the websockets library, does the
handshake, the closing, the pings, and all else that is unusual. What is common goes past it:
a small message in one frame, in both directions, and a broadcast whose frame was made once
for all connections (the ASGI extension ``django_ws.frames``).

The two never disagree about the state of a connection, since only one of them has any: whenever
a short path is taken the general implementation is open, between two frames, and not within a
fragmented message; and it never sees a part of a frame that takes a short path. These leave
nothing behind that it would have to know. ``reading`` has the half of it that reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from uvicorn.config import Config
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.extensions.permessage_deflate import PerMessageDeflate

from django_ws.connection.shared_frames import NAME, FrameExtension
from django_ws.server.protocol.frames import (
    BINARY_HEADS,
    FIN_BINARY,
    FIN_TEXT,
    TEXT_HEADS,
    WORTH_COMPRESSING,
    Frames,
    frame,
)
from django_ws.server.protocol.leftovers import let_go, let_go_of_pages
from django_ws.server.protocol.reading import Reading
from django_ws.server.protocol.socket_log import log_end

if TYPE_CHECKING:
    from uvicorn._types import ASGIReceiveEvent, ASGISendEvent

if "pause_writing" not in vars(WebSocketsSansIOProtocol):  # pragma: no cover - depends on uvicorn
    raise ImportError("FastProtocol needs uvicorn 0.53 or newer: pip install --upgrade uvicorn")

LARGEST_WRITTEN = 65535  # bytes of payload; what is larger is written by uvicorn's class


class FastProtocol(Reading):
    """A protocol class for uvicorn's option ``ws``. One instance is one connection."""

    # Beside the dict of uvicorn's class: it is as large as it may be before it doubles.
    __slots__ = ("_bits", "_can_write", "_has_closed", "_transport")

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._can_write = False  # open, and the transport's buffer is not full
        self._bits: int | None = None  # of the window, where messages may be compressed
        self._has_closed = False  # the application has

    # The ASGI extension

    def run_asgi(self) -> Coroutine[Any, Any, None]:
        """Called as soon as the handshake was read."""
        windows = [
            extension.local_max_window_bits
            for extension in self.conn.extensions
            if isinstance(extension, PerMessageDeflate)
        ]
        self._bits = windows[0] if windows else None
        if self._may_shorten:
            offered: FrameExtension = {
                "prepare": Frames,
                "write": self.write,
                "write_message": self.write_message,
                "send": self.send,  # type: ignore[typeddict-item]
            }
            extensions: Any = self.scope["extensions"]
            extensions[NAME] = offered
        return super().run_asgi()

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        super().on_task_complete(task)
        # It refers back here: nothing shall wait for the garbage collector.
        (self.scope.get("extensions") or {}).pop(NAME, None)  # unless the application has

    def write(self, frames: Frames) -> bool:
        """Hot path: once for each subscriber of a broadcast."""
        if not self._can_write or self._transport.is_closing():
            return False
        self._transport.write(frames.plain if self._bits is None else frames.deflated(self._bits))
        return True

    def write_message(self, message: str | bytes) -> bool:
        """Hot path: one message that is for this connection alone."""
        if not self._can_write or self._transport.is_closing():
            return False
        return self._write(message)

    def _write(self, message: str | bytes) -> bool:
        """Whether it is one for the short path. Only while open."""
        if isinstance(message, str):
            try:
                data, heads, first = message.encode(), TEXT_HEADS, FIN_TEXT
            except UnicodeEncodeError:
                return False
        else:
            data, heads, first = message, BINARY_HEADS, FIN_BINARY
        length = len(data)
        if length < 126:
            self._transport.write(heads[length] + data)
        elif length <= LARGEST_WRITTEN and (self._bits is None or length < WORTH_COMPRESSING):
            self._transport.write(frame(first, data))
        else:
            return False
        return True

    # ASGI

    async def send(self, message: ASGISendEvent) -> None:
        if (
            self._can_write
            and self._may_shorten
            and message["type"] == "websocket.send"
            and not self._transport.is_closing()
        ):
            data: str | bytes | None = message.get("bytes")
            if data is None:
                data = message.get("text")
            if data is not None and self._write(data):
                return
        await self.writable.wait()
        if self.close_sent and not self._has_closed:
            # By the server, for what the client has done. uvicorn's class would call it a mistake
            # of the application.
            raise ClientDisconnected
        await super().send(message)
        self._has_closed = self.close_sent
        if self.close_sent:
            # uvicorn's class forgets it when a handshake is refused with a response, and calls it
            # a mistake of the application if that returns before the connection has ended.
            self.handshake_complete = True
        self._note_state()
        if self._is_rest:  # what came before the handshake was answered, or before this close
            self._read_on()

    async def receive(self) -> ASGIReceiveEvent:
        events = self.queue
        while events.waiting is None:
            if (other := events.waiter) is not None:  # a second task that receives
                await asyncio.wait([other])
                continue
            waiter = events.new_waiter(self.loop)
            try:
                event = await waiter
                break
            except asyncio.CancelledError:
                events.cancelled(waiter)
                raise
        else:
            event = events.take()
        if self.read_paused and events.waiting is None:
            self.read_paused = False
            self._read_on()
        return event  # type: ignore[no-any-return]

    # The transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._transport = self.transport
        let_go_of_pages(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        log_end(self)
        self._held = b""
        let_go(self.transport, self.conn)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._is_paused = True
        self._can_write = False

    def resume_writing(self) -> None:
        super().resume_writing()
        self._is_paused = False
        self._can_write = self._is_open
        self.heard = True
        if self._waits_to_write:
            self._waits_to_write = False
            self._read_on()

    def _note_state(self) -> None:
        super()._note_state()
        self._can_write = self._is_open and not self._is_paused

    def shutdown(self) -> None:
        # Otherwise all is said: uvicorn's class would raise where the client has just closed.
        if not self.transport.is_closing():
            super().shutdown()
        self._note_state()
