"""The fast protocol: uvicorn's WebSocket implementation with two short paths beside it.

Give it to uvicorn as ``ws``. Uvicorn's own class, around the websockets library, does the
handshake, the closing, the pings, and all else that is unusual. What is common goes past it:
a small message in one frame, in both directions, and a broadcast whose frame was made once
for all connections (the ASGI extension ``django_ws.frames``).

The two never disagree about the state of a connection, since only one of them has any: whenever
a short path is taken the general implementation is open, between two frames, and not within a
fragmented message; and it never sees a part of a frame that takes a short path. These leave
nothing behind that it would have to know.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.extensions.permessage_deflate import (
    PerMessageDeflate,
    ServerPerMessageDeflateFactory,
)
from websockets.protocol import State
from websockets.server import ServerProtocol

from django_ws.frame_extension import NAME, FrameExtension
from django_ws.server.events import Events
from django_ws.server.frames import (
    BINARY,
    BINARY_HEADS,
    COMPRESSION,
    CONTINUATION,
    FIN,
    FIN_BINARY,
    FIN_TEXT,
    OPCODE,
    TEXT,
    TEXT_HEADS,
    WORTH_COMPRESSING,
    Frames,
    frame,
    sizes_of_frame,
)
from django_ws.server.leftovers import let_go, let_go_of_pages

try:
    from websockets.speedups import apply_mask
except ImportError:  # pragma: no cover - where websockets was installed without its C code
    from websockets.utils import apply_mask

if TYPE_CHECKING:
    from uvicorn._types import ASGIReceiveEvent, ASGISendEvent

if "pause_writing" not in vars(WebSocketsSansIOProtocol):  # pragma: no cover - depends on uvicorn
    raise ImportError("FastProtocol needs uvicorn 0.53 or newer: pip install --upgrade uvicorn")

SMALL = 4096  # bytes of payload; what is larger is read by the general implementation
LARGEST_WRITTEN = 65535  # bytes of payload; what is larger is written by it
WINDOW_BITS = 12  # uvicorn's, both ways


class FastProtocol(WebSocketsSansIOProtocol):
    """A protocol class for uvicorn's option ``ws``. One instance is one connection."""

    # Beside the dict of uvicorn's class: it is as large as it may be before it doubles.
    __slots__ = (
        "_bits", "_can_write", "_held", "_in_message", "_is_between", "_is_open", "_is_paused",
        "_may_shorten", "_owed", "_transport",
    )  # fmt: skip

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.queue: Events = Events()  # type: ignore[assignment]
        if config.ws_per_message_deflate:
            # As uvicorn's, but each message by itself: so that one can be sent to all.
            self.conn.parser.close()  # see ``leftovers``
            self.conn = ServerProtocol(
                extensions=[
                    ServerPerMessageDeflateFactory(
                        server_no_context_takeover=True,
                        server_max_window_bits=WINDOW_BITS,
                        client_max_window_bits=WINDOW_BITS,
                        compress_settings=COMPRESSION,
                    )
                ],
                max_size=config.ws_max_size,
                logger=self.logger,
            )
        # At that level the general implementation logs each frame; and no hot path asks whether
        # 125 bytes are too many.
        self._may_shorten = not self.logger.isEnabledFor(logging.DEBUG) and config.ws_max_size > 125
        self._is_open = False  # handshake done, and no close sent or received
        self._is_paused = False  # the transport's buffer is full
        self._can_write = False  # open, and not paused
        self._bits: int | None = None  # of the window, where messages may be compressed
        # What was read:
        self._held = b""  # the begin of a frame: of its head, or of a whole one that is small
        self._owed = 0  # bytes of a frame that the general implementation has begun to read
        self._in_message = False  # between the fragments of one
        self._is_between = self._may_shorten  # nothing held or owed, and in no message

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
        await super().send(message)
        self._note_state()

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
            self.transport.resume_reading()
        return event  # type: ignore[no-any-return]

    # The transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._transport = self.transport
        let_go_of_pages(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        let_go(self.transport, self.conn)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._is_paused = True
        self._can_write = False

    def resume_writing(self) -> None:
        super().resume_writing()
        self._is_paused = False
        self._can_write = self._is_open

    def shutdown(self) -> None:
        super().shutdown()
        self._note_state()

    def _general(self, data: bytes) -> None:
        super().data_received(data)
        self._note_state()

    def _note_state(self) -> None:
        """After whatever may open or close the connection. All else that closes it closes the
        transport at once: so whoever writes asks that, too.
        """
        self._is_open = self.conn.state is State.OPEN
        self._can_write = self._is_open and not self._is_paused

    def data_received(self, data: bytes) -> None:
        # Hot path: nothing but one short frame, all of it.
        if (
            5 < len(data) < 132
            and data[1] == len(data) + 122  # 128 for the mask, less the 6 bytes of the head
            and (data[0] == FIN_TEXT or data[0] == FIN_BINARY)
            and self._is_between
            and self._is_open
        ):
            self._read(data, 6)
        else:
            self._take_apart(data)

    def _take_apart(self, data: bytes) -> None:
        """Each frame to where it belongs, in order."""
        if not self.handshake_initiated:
            self._general(data)  # the request, which uvicorn hands over by itself
            return
        if self._held:
            data, self._held = self._held + data, b""
        start = 0
        # What follows a close is not read any more.
        while start < len(data) and not self.transport.is_closing():
            if self._owed:
                part = data[start : start + self._owed]
                start += len(part)
                self._owed -= len(part)
                self._general(part)
            elif (sizes := sizes_of_frame(data, start)) is None:
                self._held = data[start:]
                break
            else:
                head, payload = sizes
                first = data[start]
                if self._is_short_frame(first, payload):
                    end = start + head + payload
                    if end > len(data):
                        self._held = data[start:]
                        break
                    self._read(data[start:end], head)
                    start = end
                else:
                    self._owed = head + payload
                    self._follow(first)
        self._is_between = self._may_shorten and not (self._held or self._owed or self._in_message)

    def _is_short_frame(self, first: int, payload: int) -> bool:
        return (
            self._may_shorten
            and first in (FIN_TEXT, FIN_BINARY)
            and payload <= SMALL
            and payload <= self.config.ws_max_size
            and not self._in_message
            and self._is_open
        )

    def _follow(self, first: int) -> None:
        """Note whether a message will be half read after the frame with this first byte."""
        if first & OPCODE in (TEXT, BINARY) and not first & FIN:
            self._in_message = True
        elif first & OPCODE == CONTINUATION and first & FIN:
            self._in_message = False

    def _read(self, data: bytes, head: int) -> None:
        """One whole frame with a message."""
        payload = apply_mask(data[head:], data[head - 4 : head])
        event: dict[str, Any] = {"type": "websocket.receive"}
        if data[0] == FIN_TEXT:
            try:
                event["text"] = payload.decode()
            except UnicodeDecodeError:
                self._general(data)  # which closes
                return
        else:
            event["bytes"] = payload
        events = self.queue
        events.put_nowait(event)
        if (
            events.waiting is not None
            and len(events.waiting) >= self.config.ws_max_queue
            and not self.read_paused
        ):
            self.read_paused = True
            self.transport.pause_reading()
