"""Reads the frames of a client, in turns of the event loop.

Small messages take a short path; all else goes to uvicorn's class, one frame at a time. What one
read gives is not taken apart in one go, whatever it is: when enough messages wait, or enough other
frames were handled, the rest is held, and nothing more is read meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from uvicorn.config import Config
from uvicorn.server import ServerState
from websockets.frames import Frame, Opcode
from websockets.protocol import State

from django_ws.logs.printable import printable
from django_ws.logs.throttled import ThrottledLog
from django_ws.server.protocol.events import Events
from django_ws.server.protocol.frames import (
    BINARY,
    CLOSE,
    CONTROL,
    ENDLESS,
    FIN,
    FIN_BINARY,
    FIN_TEXT,
    OPCODE,
    TEXT,
    sizes_of_frame,
)
from django_ws.server.protocol.handshake import Handshaking, split_head

try:
    from websockets.speedups import apply_mask
except ImportError:  # pragma: no cover - where websockets was installed without its C code
    from websockets.utils import apply_mask

logger = logging.getLogger("uvicorn.error")

SMALL = 4096  # bytes of payload; what is larger is read by the general implementation

# What one connection may do in one turn of the event loop: about two milliseconds.
FRAMES_IN_A_TURN = 64  # by the general implementation
FRAMES_SKIPPED_IN_A_TURN = 2048  # after our own close

# Frames that carry nothing: who sends more is closed with 1008.
CONTROL_FRAMES, CONTROL_SECONDS = 1000, 10.0
# Fragments of one message, and one more for so many bytes: who sends more is closed with 1009.
FRAGMENTS, BYTES_OF_A_FRAGMENT = 1024, 64
# After our own close: as much as the message that the client was sending, and so many bytes.
SKIPPED_BYTES = 64 * 1024

_closes = ThrottledLog(logger, logging.WARNING, "connections closed for what their client sent")


class Reading(Handshaking):
    """The half of ``FastProtocol`` that reads. ``_general`` is uvicorn's class."""

    # Beside the dict of uvicorn's class: it is as large as it may be before it doubles.
    __slots__ = (
        "_controls", "_controls_since", "_fragments", "_held", "_is_between", "_is_open",
        "_is_paused", "_is_rest", "_is_scheduled", "_may_shorten", "_owed", "_size", "_skipped",
        "_waits_to_write",
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
        # At that level the general implementation logs each frame; and no hot path asks whether
        # 125 bytes are too many.
        self._may_shorten = not self.logger.isEnabledFor(logging.DEBUG) and config.ws_max_size > 125
        self._is_open = False  # handshake done, and no close sent or received
        self._is_paused = False  # the transport's buffer is full
        self._held = b""  # not taken apart yet: the begin of a frame, or
        self._is_rest = False  # whole frames, for which it was not the time
        self._owed = 0  # bytes of a frame that the general implementation has begun to read
        self._fragments = 0  # of the message that is read now
        self._size = 0  # bytes in these
        self._is_between = self._may_shorten  # nothing held or owed, and in no message
        self._is_scheduled = False  # the rest, for the next turn
        self._waits_to_write = False  # reads nothing before the client has read its pongs
        self._controls = 0  # control frames of late,
        self._controls_since = 0.0  # since when
        self._skipped = 0  # bytes after our own close

    # Frames

    def data_received(self, data: bytes) -> None:
        # Hot path: nothing but one short frame, all of it.
        self.heard = True
        if (
            5 < len(data) < 132
            and data[1] == len(data) + 122  # 128 for the mask, less the 6 bytes of the head
            and (data[0] == FIN_TEXT or data[0] == FIN_BINARY)
            and self._is_between
            and self._is_open
        ):
            self._read(data, 6)
        elif self.handshake_initiated:
            self._take_apart(data)
        else:
            self.begin(*split_head(data))

    def _take_apart(self, data: bytes) -> None:
        """Each frame to where it belongs, in order, until enough was done or waits."""
        if not self.handshake_complete:
            # The client has not waited for the answer, which must be the first that it gets.
            self._held, self._is_rest = self._held + data, True
            self.transport.pause_reading()
            return
        if self._held:
            data, self._held, self._is_rest = self._held + data, b"", False
        if self.close_sent:
            self._look_for_a_close(data)
            return
        start, turn = 0, FRAMES_IN_A_TURN
        # What follows a close is not read any more.
        while start < len(data) and not self.transport.is_closing():
            if self.read_paused or self._waits_to_write or not turn:
                self._hold(data[start:])
                break
            if self._owed:
                part = data[start : start + self._owed]
                start += len(part)
                self._owed -= len(part)
                turn -= 1
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
                elif self._is_allowed(first, payload):
                    self._owed = head + payload
        self._is_between = self._may_shorten and not (self._held or self._owed or self._fragments)

    def _is_short_frame(self, first: int, payload: int) -> bool:
        return (
            self._may_shorten
            and first in (FIN_TEXT, FIN_BINARY)
            and payload <= SMALL
            and payload <= self.config.ws_max_size
            and not self._fragments
            and self._is_open
        )

    def _is_allowed(self, first: int, payload: int) -> bool:
        """Count a frame with this first byte: of no kind may there be any number. Closes where
        there are too many.
        """
        opcode = first & OPCODE
        if opcode & CONTROL:
            now = self.loop.time()
            if now - self._controls_since > CONTROL_SECONDS:
                self._controls, self._controls_since = 0, now
            self._controls += 1
            if self._controls > CONTROL_FRAMES:
                self._fail(1008, "too many control frames")
                return False
            return True
        if opcode in (TEXT, BINARY):
            self._fragments = self._size = 0
        self._fragments += 1
        self._size += payload
        if self._fragments > FRAGMENTS + self._size // BYTES_OF_A_FRAGMENT:
            self._fail(1009, "too many fragments")
            return False
        if first & FIN:
            self._fragments = 0
        return True

    def _read(self, data: bytes, head: int) -> None:
        """One whole frame with a message."""
        payload = apply_mask(data[head:], data[head - 4 : head])
        event: dict[str, Any] = {"type": "websocket.receive"}
        if data[0] == FIN_TEXT:
            try:
                event["text"] = payload.decode()
            except UnicodeDecodeError:
                self._fail(1007, "")
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

    def _general(self, data: bytes) -> None:
        super().data_received(data)
        self._note_state()

    def _note_state(self) -> None:
        """After whatever may open or close the connection. All else that closes it closes the
        transport at once: so whoever writes asks that, too.
        """
        self._is_open = self.conn.state is State.OPEN

    # Reading later

    @property
    def is_held_back(self) -> bool:
        return self.read_paused or self._is_scheduled

    @property
    def _is_kept_from_reading(self) -> bool:
        return self.read_paused or self._waits_to_write or not self.handshake_complete

    def _hold(self, rest: bytes) -> None:
        self._held, self._is_rest = rest, True
        if not self._is_kept_from_reading:  # which is how it is called again otherwise
            self.transport.pause_reading()
            self._schedule()

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self.loop.call_soon(self._take_rest)

    def _take_rest(self) -> None:
        self._is_scheduled = False
        if not (self._is_kept_from_reading or self.transport.is_closing()):
            self._take_apart(b"")
            self._read_on()

    def _read_on(self) -> None:
        """Nothing keeps from reading, or one reason does so less."""
        if self._is_kept_from_reading or self._is_scheduled:
            return
        self.heard = True  # what the client has said meanwhile is still to be read
        if self._is_rest:
            self._schedule()
        else:
            self.transport.resume_reading()

    def handle_ping(self) -> None:
        super().handle_ping()
        if self._is_paused:
            self._waits_to_write = True
            self.transport.pause_reading()

    # Closing

    def send_receive_event_to_app(self) -> None:
        """A whole message, by the general implementation."""
        frames, self.frames = self.frames, []
        data = frames[0] if len(frames) == 1 else b"".join(frames)
        event: Any = {"type": "websocket.receive"}
        if self.curr_msg_data_type == "text":
            # uvicorn's class logs a traceback for what is none.
            try:
                event["text"] = data.decode()
            except UnicodeDecodeError:
                self._fail(1007, "")
                return
        else:
            event["bytes"] = data
        self.queue.put_nowait(event)
        self.read_paused = True
        self.transport.pause_reading()

    def _fail(self, code: int, reason: str) -> None:
        """Close by ourselves, for what the client has sent."""
        path = printable(self.scope["path"])
        _closes.log(
            (path, code, reason),
            "WebSocket %s closed with %d: %s (client %s)",
            path,
            code,
            reason or "no valid UTF-8",
            self.client[0] if self.client else "unknown",
        )
        event = {"type": "websocket.disconnect", "code": code, "reason": reason}
        self.queue.put_nowait(event)
        self.conn.fail(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.transport.close()
        self._note_state()

    def _look_for_a_close(self, data: bytes) -> None:
        """After our own close. Nothing else is worth its time."""
        self._skipped += len(data)
        if self._skipped > self.config.ws_max_size + SKIPPED_BYTES:
            self.transport.abort()
            return
        start = min(self._owed, len(data))
        self._owed -= start
        for _ in range(FRAMES_SKIPPED_IN_A_TURN):
            if start >= len(data):
                return
            sizes = sizes_of_frame(data, start)
            if sizes is None:
                break
            head, payload = sizes
            if payload == ENDLESS or data[start] & OPCODE == CLOSE:
                self.handle_close(Frame(Opcode.CLOSE, b""))  # ends the wait for it
                return
            self._owed = max(0, start + head + payload - len(data))
            start += head + payload
        else:
            self._skipped -= len(data) - start
            self._hold(data[start:])
            return
        self._skipped -= len(data) - start
        self._held = data[start:]
