"""What both of our HTTP protocols add to uvicorn's: limits, and the hand-over of upgrades.

A protocol of uvicorn's reads heads of any size, for any time, and all that one read gives it at
once. Here a head has a size and a time, a body that is not sent on has one too, and what a read
gives is handed on in pieces, so that nobody keeps the event loop for itself. What it refuses is
answered, after the answers to the requests before it.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Iterable
from contextvars import copy_context
from time import perf_counter
from typing import Any

import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.server import ServerState

from django_ws.server.http.limits import MAX_HEADERS, limits_of
from django_ws.server.http.refusing import Refusing
from django_ws.server.http.waiting import Phase, waiting_of
from django_ws.server.protocol.transports import close_once, let_go_of_transport

PIECE = 8 * 1024  # bytes that are parsed in one go
TURN_SECONDS = 0.005  # of parsing, until others have their turn
# What the websockets library takes: all of uvicorn's own classes for sockets but one have it.
LIBRARYS_LINE, LIBRARYS_HEADERS = 8190, 128

TOO_LARGE = "Request header fields too large."
TOO_LATE = "The request did not come in time."
INVALID = "Invalid HTTP request received."
HAS_BODY = "A WebSocket handshake has no body."

Headers = list[tuple[bytes, bytes]]


class Flow(FlowControl):
    """Reading goes on when what was read has been used up, not before."""

    def __init__(self, transport: asyncio.Transport, go_on: Callable[[], None]) -> None:
        super().__init__(transport)
        self.go_on: Callable[[], None] | None = go_on  # refers back: gone with the connection

    def resume_reading(self) -> None:
        if self.read_paused and self.go_on is not None:
            self.read_paused = False
            self.go_on()


class LimitedHTTP(Refusing):
    """To be put in front of a protocol class of uvicorn's. One instance is one connection."""

    # Of uvicorn's, beside those in ``Refusing``:
    config: uvicorn.Config
    app_state: dict[str, Any]
    flow: Flow
    connections: set[Any]
    ws_protocol_class: Any
    pipeline: Any  # httptools' alone

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)  # type: ignore[call-arg]
        self.phase: Phase | None = None
        self.limits = limits_of(config)
        self._waiting = waiting_of(server_state, self.loop, self.limits)
        # That of the server, which no visitor has changed yet: each request begins in a copy.
        self._context = copy_context()
        self._held = b""  # read, and not parsed yet
        self._is_scheduled = False  # parsing goes on in the next turn of the loop
        self._waiting_upgrade: tuple[bytes, bytes, Headers, bytes] | None = None
        self._successor: Any = None  # what has the connection since its upgrade

    # What differs between the two of uvicorn's, beside what differs in ``Refusing``

    @abstractmethod
    def _parse(self, data: bytes) -> None:
        """Hand data on. A request that is wrong calls ``refuse``."""

    # The transport

    def connection_made(self, transport: asyncio.Transport) -> None:
        close_once(transport)
        super().connection_made(transport)  # type: ignore[misc]
        self.flow = Flow(transport, self._go_on)
        self._waiting.note(self, Phase.HEAD)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)  # type: ignore[misc]
        self._let_go()
        self._stop_lingering()
        let_go_of_transport(self.transport)

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            self._discard(data)
        elif self._held or self._waiting_upgrade is not None:
            self._held += data
        else:
            self._feed(data)

    def shutdown(self) -> None:
        if self._refusal is not None and not self._is_busy:
            self.transport.close()
        else:
            super().shutdown()  # type: ignore[misc]

    # Parsing

    def _feed(self, data: bytes) -> None:
        ends = perf_counter() + TURN_SECONDS
        start = 0
        while start < len(data):
            piece = data[start : start + PIECE]
            start += len(piece)
            self._context.copy().run(self._parse, piece)
            if self._successor is not None:
                self._pass_on(data[start:])
                return
            if self._refusal is not None or self.transport.is_closing():
                break
            if start < len(data) and (self.flow.read_paused or perf_counter() > ends):
                self._held = data[start:]
                self.transport.pause_reading()
                if not self.flow.read_paused:
                    self._go_on()
                break
        self._note()

    def _go_on(self) -> None:
        """uvicorn wants more, or has had its turn."""
        if self._waiting_upgrade is not None:
            self.flow.read_paused = True  # what comes now is for its successor
        elif not self._held:
            # asyncio reads on in the context of who asks for it: not in the visitor's.
            self._context.copy().run(self.transport.resume_reading)
        elif not self._is_scheduled:
            self._is_scheduled = True
            self.loop.call_soon(self._feed_held, context=self._context.copy())

    def _feed_held(self) -> None:
        self._is_scheduled = False
        if self.flow.read_paused or self.transport.is_closing() or self._refusal is not None:
            return  # uvicorn has had enough meanwhile
        data, self._held = self._held, b""
        self._feed(data)
        if not (self._held or self.flow.read_paused or self._successor):
            self.transport.resume_reading()

    def _send_refusal(self) -> None:
        self.flow.read_paused = False
        super()._send_refusal()

    # What it waits for

    def _note(self) -> None:
        self._waiting.note(self, self._find_phase())

    def _find_phase(self) -> Phase | None:
        if self._successor or self._waiting_upgrade or self._refusal or self.transport.is_closing():
            return None
        reads = self._reads()
        if reads is Phase.BODY or not self._is_busy:
            return reads or (Phase.HEAD if self.cycle is None else Phase.IDLE)
        return None

    @property
    def is_held_back(self) -> bool:
        return bool(self._held) or self.flow.read_paused

    def timed_out(self, phase: Phase) -> None:
        if phase is Phase.HEAD and self.cycle is None and self._reads() is None:
            # It never said a word: browsers open such connections, and would show the answer.
            self.transport.close()
        else:
            self.refuse(408, TOO_LATE)

    def drop(self) -> None:
        self.transport.abort()

    # After an answer

    def on_response_complete(self) -> None:
        self._context.copy().run(self._response_complete)

    def _response_complete(self) -> None:
        # httptools parses the requests behind one another at once; h11 waits by itself.
        if self._waiting_upgrade is not None and not self.pipeline:
            waiting, self._waiting_upgrade = self._waiting_upgrade, None
            self.server_state.total_requests += 1
            if not self.transport.is_closing():
                self.upgrade(*waiting)
                if self._successor is not None:
                    self._pass_on(self._held)
            return
        super().on_response_complete()  # type: ignore[misc]
        if self._successor is not None:  # h11's has found an upgrade behind the request
            self._pass_on(self._held)
            return
        if self._refusal is not None and not self._is_busy and self._lingering is None:
            self._send_refusal()
        self._note()

    # From HTTP to WebSocket

    def upgrade(self, method: bytes, target: bytes, headers: Headers, rest: bytes) -> None:
        """``rest`` is what has come behind the handshake."""
        if self._is_busy:
            self._waiting_upgrade = (method, target, headers, rest)
            self.flow.pause_reading()
            return
        if has_body(headers):
            self.refuse(400, HAS_BODY, (method, target))
            return
        is_ours = hasattr(self.ws_protocol_class, "begin")
        if not is_ours:
            lines = [b"%b %b HTTP/1.1" % (method, target), *map(b": ".join, headers)]
            if len(lines) > LIBRARYS_HEADERS or max(map(len, lines)) > LIBRARYS_LINE:
                self.refuse(431, TOO_LARGE, (method, target))
                return
        self.connections.discard(self)
        successor = self.ws_protocol_class(
            config=self.config, server_state=self.server_state, app_state=self.app_state
        )
        self._successor, self._rest = successor, rest
        successor.connection_made(self.transport)
        if is_ours:
            successor.begin(method, target, headers)
        else:
            successor.data_received(b"\r\n".join([*lines, b"", b""]))
        self.transport.set_protocol(successor)

    def _pass_on(self, more: bytes) -> None:
        """To the successor, what has come behind the handshake. uvicorn's own classes are no more
        ready for that than its HTTP protocols, which forget it.
        """
        successor = self._successor
        rest = self._rest + more if hasattr(successor, "begin") else b""
        was_paused = self.flow.read_paused or bool(self._held)
        self._held = b""
        self._let_go()
        if was_paused:
            self.transport.resume_reading()
        if rest and not self.transport.is_closing():
            successor.data_received(rest)

    def _let_go(self) -> None:
        """Of what refers back here: nothing shall wait for the garbage collector."""
        self._waiting.note(self, None)
        self.flow.go_on = None


def has_body(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a request announces one that is not empty."""
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip() != b"0")
        for name, value in headers
    )


def is_too_large(limit: int, target: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """A head that has come as a whole."""
    sizes = [len(name) + len(value) + 4 for name, value in headers]
    return len(sizes) > MAX_HEADERS or len(target) + sum(sizes) > limit
