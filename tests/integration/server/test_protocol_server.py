"""The fast protocol and uvicorn's class on real sockets: the same bytes get the same answers."""

from __future__ import annotations

import asyncio
import base64
import logging
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from django_ws.connection.shared_frames import NAME
from django_ws.server.protocol.protocol import FastProtocol
from tests.support.asgi_peer import until
from tests.support.wire import (
    BINARY,
    CLOSE,
    CONTINUATION,
    FIN,
    PING,
    PONG,
    RSV1,
    TEXT,
    frame,
    frames_in,
)

SECONDS = 20.0
MAX_SIZE = 10_000
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: %b\r\n\r\n" % base64.b64encode(bytes(16))
)
GOODBYE = frame(CLOSE, b"\x03\xe8")
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def echo(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            await send({**event, "type": "websocket.send"})


@asynccontextmanager
async def serving(kind: type[Any], application: Any = echo) -> AsyncIterator[int]:
    config = uvicorn.Config(
        application,
        interface="asgi3",
        ws=kind,
        ws_max_size=MAX_SIZE,
        ws_per_message_deflate=False,
        log_config=None,
        lifespan="off",
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config.load()
        server.lifespan = config.lifespan_class(config)
        await server.startup([listening])
        try:
            yield listening.getsockname()[1]
        finally:
            async with asyncio.timeout(SECONDS):
                await server.shutdown([listening])


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(HANDSHAKE)
        async with asyncio.timeout(SECONDS):
            answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 101 ")
        yield reader, writer
    finally:
        writer.close()


async def rest(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(SECONDS):
        return await reader.read()


async def answer(port: int, data: bytes, size: int) -> list[tuple[int, bytes]]:
    """What comes back for data in pieces of a size, to the end of the connection: messages
    first, since pongs may come before or after them.

    It begins with an echo, so that the handshake is over; and says good-bye after what will be
    the last echo, since nothing is sent to who has.
    """
    async with connected(port) as (reader, writer):
        writer.write(frame(TEXT, b"hello"))
        async with asyncio.timeout(SECONDS):
            assert await reader.readexactly(7) == b"\x81\x05hello"
            for start in range(0, len(data), size):
                writer.write(data[start : start + size])
                await asyncio.sleep(0)
            got = b""
            if data.endswith(LAST):
                got = await reader.readuntil(b"\x81\x04last")
                writer.write(GOODBYE)
        return sorted(frames_in(got + await rest(reader)), key=lambda each: each[0] & 0x0F > 2)


LAST = frame(TEXT, b"last")
GOOD = {
    "text": frame(TEXT, b"short"),
    "binary": frame(BINARY, b"\xff\x00"),
    "empty": frame(TEXT, b""),
    "not ASCII": frame(TEXT, "é€😀".encode()),
    "medium": frame(TEXT, b"x" * 300),
    "large": frame(BINARY, b"x" * (MAX_SIZE - 1)),
    "long length": frame(TEXT, b"x", length_size=9),
    "fragments": frame(TEXT, b"a", flags=0) + frame(PING, b"!") + frame(CONTINUATION, b"b"),
    "several": frame(TEXT, b"1") + frame(PING, b"2") + frame(TEXT, b"3") + frame(PONG, b"4"),
}
BAD = {
    "no mask": frame(TEXT, b"x", mask=None),
    "no such opcode": frame(3, b"x"),
    "no such control": frame(11, b"x"),
    "reserved bit": frame(TEXT, b"x", flags=FIN | 0x20),
    "compressed": frame(TEXT, b"x", flags=FIN | RSV1),
    "continuation of nothing": frame(CONTINUATION, b"x"),
    "message in a message": frame(TEXT, b"x", flags=0) + frame(TEXT, b"y"),
    "control in fragments": frame(PING, b"x", flags=0),
    "long control": frame(PING, b"x" * 126),
    "UTF-8": frame(TEXT, b"\xc3("),
    "half a character": frame(TEXT, b"\xc3"),
    "UTF-8 in fragments": frame(TEXT, b"\xc3", flags=0) + frame(CONTINUATION, b"("),
    "too large": frame(TEXT, b"x" * (MAX_SIZE + 1)),
    "too large in sum": frame(TEXT, b"x" * MAX_SIZE, flags=0) + frame(CONTINUATION, b"x"),
    "much too large": frame(TEXT)[:1] + b"\xff" + struct.pack("!Q", 2**62),
    "close code": frame(CLOSE, b"\x03\xed"),
    "close of one byte": frame(CLOSE, b"\x03"),
    "close reason": frame(CLOSE, b"\x03\xe8\xff"),
}


async def answers(inputs: dict[str, bytes], size: int) -> dict[str, list[tuple[int, bytes]]]:
    """Those of the fast one, which must be those of uvicorn's class, too."""
    found = []
    for kind in (WebSocketsSansIOProtocol, FastProtocol):
        async with serving(kind) as port:
            got = await asyncio.gather(*[answer(port, data, size) for data in inputs.values()])
        found.append(dict(zip(inputs, got, strict=True)))
    theirs, ours = found
    assert ours == theirs
    return ours


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
async def test_good_bytes_get_the_same_answers(size: int) -> None:
    ours = await answers({name: data + LAST for name, data in GOOD.items()}, size)
    assert all(ours[name][-1] == (FIN | CLOSE, b"\x03\xe8") for name in GOOD)
    assert [payload for _, payload in ours["several"][:-1]] == [b"1", b"3", b"last", b"2"]


async def test_bad_bytes_get_the_same_answers(caplog: pytest.LogCaptureFixture) -> None:
    # In one piece each: what comes after the server's close would take its answer away.
    caplog.set_level(logging.CRITICAL, "uvicorn.error")  # it logs bad UTF-8 as an error
    ours = await answers(BAD, 1 << 20)
    codes = {name: struct.unpack("!H", ours[name][-1][1][:2])[0] for name in BAD}
    assert {name for name, code in codes.items() if code == 1007} == {
        "UTF-8",
        "half a character",
        "UTF-8 in fragments",
        "close reason",
    }
    assert {name for name, code in codes.items() if code == 1009} == {
        "too large",
        "too large in sum",
        "much too large",
    }
    assert set(codes.values()) == {1002, 1007, 1009}


async def test_a_client_that_does_not_read_is_noticed_by_the_short_path() -> None:
    """A real transport says when it is full, and when it is not any more."""
    written: list[bool] = []
    resumed = asyncio.Event()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        offered = scope["extensions"][NAME]
        frames = offered["prepare"](["x" * 10_000])
        while offered["write"](frames):
            written.append(True)
        await send({"type": "websocket.send", "text": "after the wait"})
        resumed.set()
        while (await receive())["type"] == "websocket.receive":
            pass

    async with serving(FastProtocol, application) as port, connected(port) as (reader, writer):
        async with asyncio.timeout(SECONDS):
            messages = 0
            while not resumed.is_set():
                messages += len(await reader.read(65536))
            writer.write(GOODBYE)
            messages += len(await reader.read())
        head, end = 4, len(b"\x81\x0eafter the wait") + len(b"\x88\x02\x03\xe8")
        assert messages == len(written) * (head + 10_000) + end
        assert len(written) > 1


async def test_a_fast_client_is_held_back_while_the_application_is_busy() -> None:
    may_read = asyncio.Event()
    received: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await may_read.wait()
        while (event := await receive())["type"] == "websocket.receive":
            received.append(event["text"])

    async with serving(FastProtocol, application) as port, connected(port) as (reader, writer):
        # More than the kernel holds; the mask of zeros costs nothing.
        messages = [f"{number:06} {'x' * 4000}" for number in range(6_000)]
        writer.writelines([b"\x81\xfe\x0f\xa7" + bytes(4) + text.encode() for text in messages])
        sending = asyncio.create_task(writer.drain())
        await until(lambda: writer.transport.get_write_buffer_size() > 0)
        may_read.set()
        await sending
        writer.write(GOODBYE)
        assert await rest(reader) == b"\x88\x02\x03\xe8"
        assert received == messages
