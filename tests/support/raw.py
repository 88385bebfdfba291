"""A WebSocket client that sends what no client library would, or vanishes in the middle."""

from __future__ import annotations

import base64
import os
import socket
import struct
from collections.abc import Sequence
from types import TracebackType
from typing import Self

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
TIMEOUT = 10.0


def frame(opcode: int, payload: bytes, *, final: bool = True) -> bytes:
    """One masked frame; the mask is all zeros, so that the payload stays as it is."""
    length = len(payload)
    head = bytes([opcode | (0x80 if final else 0)])
    if length < 126:
        head += bytes([0x80 | length])
    elif length < 65536:
        head += bytes([0x80 | 126]) + struct.pack("!H", length)
    else:
        head += bytes([0x80 | 127]) + struct.pack("!Q", length)
    return head + bytes(4) + payload


class RawClient:
    """A blocking socket. Making it sends the handshake; ``status`` reads the answer."""

    def __init__(
        self,
        port: int,
        path: bytes,
        headers: Sequence[tuple[bytes, bytes]] = (),
        *,
        host: bytes | None = None,
        receive_buffer: int | None = None,
        behind: bytes = b"",
    ) -> None:
        """``behind`` is sent together with the handshake, in one segment if it is short."""
        self._socket = socket.socket()
        self._socket.settimeout(TIMEOUT)
        if receive_buffer is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.connect(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._read = self._socket.makefile("rb")
        lines = [
            b"GET %b HTTP/1.1" % path,
            b"Host: %b" % (host or b"127.0.0.1:%d" % port),
            b"Connection: Upgrade",
            b"Upgrade: websocket",
            b"Sec-WebSocket-Version: 13",
            b"Sec-WebSocket-Key: %b" % base64.b64encode(os.urandom(16)),
            *(b"%b: %b" % header for header in headers),
        ]
        self.send(b"\r\n".join(lines) + b"\r\n\r\n" + behind)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._read.close()
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def patience(self, seconds: float) -> None:
        """Wait longer than usual for what comes."""
        self._socket.settimeout(seconds)

    def status(self) -> int:
        """The status of the answer to the handshake, whose head is read to its end."""
        status = int(self._read.readline().split()[1])
        while self._read.readline().strip():
            pass
        return status

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._socket.sendall(data)

    def send_frame(self, opcode: int, payload: bytes, *, final: bool = True) -> None:
        self.send(frame(opcode, payload, final=final))

    def receive_frame(self) -> tuple[int, bytes]:
        """The next frame's opcode and payload, from a server that does not fragment or compress."""
        first, length = self._take(2)
        if length == 126:
            [length] = struct.unpack("!H", self._take(2))
        elif length == 127:
            [length] = struct.unpack("!Q", self._take(8))
        return first & 0x0F, self._take(length)

    def receive_message(self) -> bytes:
        """The next message's payload; raises ``EOFError`` at the end, ``ConnectionError`` at a RST.

        Raises ``AssertionError`` for a close frame.
        """
        while True:
            opcode, payload = self.receive_frame()
            if opcode in (TEXT, BINARY):
                return payload
            assert opcode != CLOSE, payload

    def receive_close(self) -> int:
        """Read on until the close frame; its code."""
        while True:
            opcode, payload = self.receive_frame()
            if opcode == CLOSE:
                code: int = struct.unpack("!H", payload[:2])[0]
                return code

    def read_to_end(self) -> None:
        """Read until the server has closed the TCP connection, by whatever means."""
        try:
            while self._read.read(65536):
                pass
        except ConnectionError:
            pass

    def reset(self) -> None:
        """Vanish without a close frame: the server's side sees a RST."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._read.close()
        self._socket.close()

    def _take(self, length: int) -> bytes:
        data = self._read.read(length)
        if len(data) < length:
            raise EOFError("the server has closed the TCP connection")
        return data
