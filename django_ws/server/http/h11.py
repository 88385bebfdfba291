"""uvicorn's HTTP protocol on h11, with our limits."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from django_ws.server.http.limited import INVALID, TOO_LARGE, LimitedHTTP, is_too_large
from django_ws.server.http.waiting import Phase


class Connection(h11.Connection):
    """What it refuses, it notes, and says that it needs more."""

    def __init__(self, max_header_size: int) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size=max_header_size)
        self.max_header_size = max_header_size
        self.refusal: tuple[int, str] | None = None
        self.reads: Phase | None = None  # what it was in the middle of, when it refused
        self.method = self.target = b""  # of the request that was read last
        self.is_whole = False  # it is the one that was refused

    def next_event(self) -> Any:
        state = self.their_state
        try:
            event = super().next_event()
        except h11.RemoteProtocolError as error:
            self.reads = Phase.BODY if state is h11.SEND_BODY else Phase.HEAD
            is_size = error.error_status_hint == 431
            self.refusal = (431, TOO_LARGE) if is_size else (400, INVALID)
            error.__traceback__ = None  # h11's frames in it refer to the error
            return h11.NEED_DATA
        if isinstance(event, h11.Request):
            self.method, self.target = event.method, event.target
            if is_too_large(self.max_header_size, event.target, event.headers):
                self.reads = Phase.HEAD
                self.is_whole = True
                self.refusal = (431, TOO_LARGE)
                return h11.NEED_DATA
        return event


class LimitedH11(LimitedHTTP, H11Protocol):  # type: ignore[misc]
    """Give it to uvicorn as ``http``."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.conn: Connection = Connection(self.limits.max_header_size)

    def _parse(self, data: bytes) -> None:
        H11Protocol.data_received(self, data)
        self._note_refusal()

    def _response_complete(self) -> None:
        super()._response_complete()  # which reads the next request, where that is there
        self._note_refusal()

    def _note_refusal(self) -> None:
        if self.conn.refusal is not None and self._refusal is None:
            self.refuse(*self.conn.refusal)

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self.upgrade(event.method, event.target, self.headers, self.conn.trailing_data[0])

    # For LimitedHTTP

    def _reads(self) -> Phase | None:
        if self.conn.refusal is not None:
            return self.conn.reads
        if self.conn.their_state is h11.SEND_BODY:
            return Phase.BODY
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            return Phase.HEAD
        return None

    def _head_begin(self) -> tuple[bytes, bytes]:
        if self._reads() is Phase.BODY or self.conn.is_whole:
            return self.conn.method, self.conn.target
        line = self.conn.trailing_data[0][:300].partition(b"\r\n")[0].split(b" ")
        return (line[0], line[1]) if len(line) > 1 else (b"Request", b"")
