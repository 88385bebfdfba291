"""One connection without a network: a protocol class of uvicorn's, an application, and the bytes.

The transport is the test's, so that every split of the bytes, and every moment in which it is
full, can be had. It holds back what is sent while the protocol has paused reading, as a real one.
"""

from __future__ import annotations

import asyncio
import base64
import struct
import zlib
from collections.abc import Sequence
from typing import Any, Self

from uvicorn.config import Config
from uvicorn.server import ServerState

from django_ws.server.protocol.protocol import FastProtocol
from django_ws.types import Event
from tests.support.asgi_peer import until

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
FIN, RSV1 = 0x80, 0x40
TURNS = 12  # of the event loop: more than an application here needs to come to rest


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    flags: int = FIN,
    mask: bytes | None = b"\x37\xfa\x21\x3d",
    length_size: int | None = None,
) -> bytes:
    """One frame; ``length_size`` of 1, 3 or 9 bytes, by default the shortest that holds it."""
    length = len(payload)
    size = length_size or (1 if length < 126 else 3 if length < 65536 else 9)
    second = 0x80 if mask is not None else 0
    if size == 1:
        head = bytes([flags | opcode, second | length])
    elif size == 3:
        head = bytes([flags | opcode, second | 126]) + struct.pack("!H", length)
    else:
        head = bytes([flags | opcode, second | 127]) + struct.pack("!Q", length)
    if mask is None:
        return head + payload
    return head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


def compressed(payload: bytes) -> bytes:
    """A payload as permessage-deflate has it, by itself."""
    compressor = zlib.compressobj(wbits=-12)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def frames_in(data: bytes) -> list[tuple[int, bytes]]:
    """A server's frames: the first byte and the payload of each."""
    found = []
    while data:
        first, length = data[0], data[1]
        start = 2
        if length == 126:
            [length] = struct.unpack_from("!H", data, 2)
            start = 4
        elif length == 127:
            [length] = struct.unpack_from("!Q", data, 2)
            start = 10
        found.append((first, data[start : start + length]))
        assert len(data) >= start + length, "a frame is not whole"
        data = data[start + length :]
    return found


class Wire(asyncio.Transport):
    """The server's end of a connection."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 50000), "sockname": ("127.0.0.1", 8000)})
        self.written: list[bytes] = []
        self.late: list[bytes] = []  # written after the close
        self.objects: list[Any] = []  # the same, as they were given
        self.is_reading_ = True
        self.pauses = 0
        self.closing = False
        self.aborted = False

    def write(self, data: Any) -> None:
        (self.late if self.closing else self.written).append(bytes(data))
        self.objects.append(data)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return asyncio.Protocol()  # of the one that has read the handshake

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = self.aborted = True

    def pause_reading(self) -> None:
        self.is_reading_ = False
        self.pauses += 1

    def resume_reading(self) -> None:
        self.is_reading_ = True


class Client:
    """The other end of it. Its application, unless another one is given, notes every event;
    ``scope``, ``receive`` and ``send`` are what that was called with.
    """

    def __init__(
        self,
        protocol_class: type[Any] = FastProtocol,
        deflate: bool = False,
        application: Any = None,
        **options: Any,
    ) -> None:
        self.events: list[Event] = []
        self.receives = asyncio.Event()  # while it is not set the application receives nothing
        self.receives.set()
        self._is_noting = application is None
        config = Config(
            application or self._application,
            interface="asgi3",
            ws=protocol_class,
            ws_ping_interval=options.pop("ws_ping_interval", None),
            ws_per_message_deflate=deflate,
            log_config=options.pop("log_config", None),
            **options,
        )
        config.load()
        self.state = ServerState()
        self.wire = Wire()
        self.protocol = protocol_class(config, self.state, {})
        self.protocol.connection_made(self.wire)
        self.deflate = deflate

    async def _application(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope, self.receive, self.send = scope, receive, send
        while True:
            await self.receives.wait()
            event = await receive()
            self.events.append(event)
            if event["type"] == "websocket.disconnect":
                return

    async def open(
        self, *, accept: bool = True, path: bytes = b"/path", headers: Sequence[bytes] = ()
    ) -> Self:
        lines = [
            b"GET %b HTTP/1.1" % path,
            b"host: testserver",
            b"connection: Upgrade",
            b"upgrade: websocket",
            b"sec-websocket-version: 13",
            b"sec-websocket-key: " + base64.b64encode(bytes(16)),
            *(headers or [b"sec-websocket-extensions: permessage-deflate"] * self.deflate),
        ]
        self.protocol.data_received(b"\r\n".join(lines) + b"\r\n\r\n")
        await self.turns()
        if accept:
            await self.accept()
        return self

    async def accept(self) -> None:
        if self._is_noting:
            await self.send({"type": "websocket.accept"})
        await until(lambda: self.wire.written)
        assert self.wire.written[0].startswith(b"HTTP/1.1 101 ")
        self.answer = b"".join(self.wire.written)
        self.wire.written.clear()

    async def turns(self) -> None:
        """Until the application has come to rest."""
        for _ in range(TURNS):
            await asyncio.sleep(0)

    async def feed(self, *chunks: bytes) -> None:
        """What a transport does with these: not while reading is paused, nor once it closes."""
        for chunk in chunks:
            for _ in range(20):
                if not self.wire.is_reading_:
                    await self.turns()
            if self.wire.closing:
                return
            assert self.wire.is_reading_, "reading was not resumed"
            self.protocol.data_received(chunk)

    async def left(self) -> list[Event]:
        """The events that the application has not received, and will not, since it has returned."""
        found = []
        while getattr(self.protocol.queue, "waiting", None) or getattr(
            self.protocol.queue, "_queue", None
        ):
            found.append(await self.protocol.receive())
        return found

    async def lose(self) -> None:
        """The TCP connection ends, and with it the application."""
        self.wire.close()
        self.protocol.connection_lost(None)
        self.receives.set()
        await until(lambda: not self.state.tasks)

    @property
    def output(self) -> bytes:
        return b"".join(self.wire.written)

    @property
    def frames(self) -> list[tuple[int, bytes]]:
        return frames_in(self.output)

    @property
    def messages(self) -> list[str | bytes]:
        return [
            event["text"] if "text" in event else event["bytes"]
            for event in self.events
            if event["type"] == "websocket.receive"
        ]
