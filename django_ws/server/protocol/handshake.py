"""The handshake, from the head of a request to an object of the websockets library.

The library's own parser is passed by: it takes lines of 8 KiB and 128 headers, whatever the page
beside it takes, and says nothing to those that send more.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine
from typing import Any

from uvicorn.config import Config
from uvicorn.server import ServerState
from websockets.datastructures import Headers
from websockets.exceptions import WebSocketException
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.version import version

from django_ws.connection.retry_after import retry_after
from django_ws.server.http.limited import HAS_BODY, INVALID, has_body
from django_ws.server.protocol.frames import COMPRESSION
from django_ws.server.protocol.keepalive import Keepalive

NO_GET = "A WebSocket handshake is a GET."
UNAVAILABLE = "The server restarts."
VERSION_HEADER, VERSION = b"sec-websocket-version", b"13"
OTHER_VERSION = "Only version 13 of the WebSocket protocol is spoken here."
WINDOW_BITS = 12  # uvicorn's, both ways

# What the library looks at; all others go past it.
OF_THE_LIBRARY = (b"connection", b"host", b"origin", b"sec-websocket-", b"upgrade")
# How it has bytes in its texts, and uvicorn gets them back.
IS_LATIN = int(version.partition(".")[0]) >= 17
CODEC, ERRORS = ("latin-1", "strict") if IS_LATIN else ("ascii", "surrogateescape")

_deflate = ServerPerMessageDeflateFactory(
    server_no_context_takeover=True,
    server_max_window_bits=WINDOW_BITS,
    client_max_window_bits=WINDOW_BITS,
    compress_settings=COMPRESSION,
)


class Handshaking(Keepalive):
    """The part of ``FastProtocol`` that begins."""

    __slots__ = ("_headers",)

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        # As uvicorn's, but each message compressed by itself, so that one can be sent to all; and
        # as if the request had been read, since only frames are given to it.
        self.conn.parser.close()  # a generator, which refers to what refers to it
        self.conn = ServerProtocol(
            extensions=[_deflate] if config.ws_per_message_deflate else [],
            max_size=config.ws_max_size,
            logger=self.logger,
            state=State.OPEN,
        )
        self.conn.state = State.CONNECTING

    def begin(self, method: bytes, target: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        """With a request that our HTTP protocols have read. uvicorn's give it as bytes."""
        if method != b"GET":
            self._refuse(405, NO_GET)
        elif has_body(headers):
            self._refuse(400, HAS_BODY)
        elif any(value != VERSION for name, value in headers if name == VERSION_HEADER):
            # https://www.rfc-editor.org/rfc/rfc6455#section-4.4
            self._refuse(426, OTHER_VERSION, "Sec-WebSocket-Version", VERSION.decode())
        else:
            try:
                request = request_of(without_host(target), headers)
            except (ValueError, WebSocketException):
                self._refuse(400, INVALID)
            else:
                self._headers = headers
                self.handle_connect(request)

    def run_asgi(self) -> Coroutine[Any, Any, None]:
        """Called by ``handle_connect``, as soon as there is a scope."""
        self.scope["headers"] = self._headers
        del self._headers
        return super().run_asgi()

    def shutdown(self) -> None:
        if self.handshake_complete or self.initial_response is not None:
            super().shutdown()
        else:  # as to those who come now; the application is still at work on its own answer
            self.queue.put_nowait({"type": "websocket.disconnect", "code": 1006})
            self._refuse(503, UNAVAILABLE, "Retry-After", str(retry_after()))

    def _refuse(self, status: int, text: str, header: str = "", value: str = "") -> None:
        self.handshake_initiated = self.handshake_complete = self.close_sent = True
        response = self.conn.reject(status, text)
        if header:
            response.headers[header] = value
        self.conn.send_response(response)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.transport.close()


def without_host(target: bytes) -> bytes:
    """The path and the query of ``http://host/path?query``, which clients may send to any server.

    https://www.rfc-editor.org/rfc/rfc9112#section-3.2.2
    """
    if target.startswith(b"/"):
        return target
    found = re.fullmatch(rb"[a-zA-Z][a-zA-Z0-9+.-]*://[^/?]*(.*)", target)
    if found is None:
        return target
    return found[1] if found[1].startswith(b"/") else b"/" + found[1]


def request_of(target: bytes, headers: list[tuple[bytes, bytes]]) -> Request:
    """With as many of the headers as the library looks at. Raises ``ValueError``, and the
    library's own errors, for what no request may have in it.
    """
    pairs = [
        (name.decode("ascii"), value.decode(CODEC, ERRORS))
        for name, value in headers
        if name.startswith(OF_THE_LIBRARY)
    ]
    return Request(target.decode("ascii"), Headers(pairs))


def split_head(data: bytes) -> tuple[bytes, bytes, list[tuple[bytes, bytes]]]:
    """Method, target and headers of a whole head, as uvicorn's HTTP protocols write it."""
    first, *lines = data.removesuffix(b"\r\n\r\n").split(b"\r\n")
    method, _, more = first.partition(b" ")
    return method, more.rpartition(b" ")[0], [_pair(line) for line in lines]


def _pair(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b": ")
    return name, value
