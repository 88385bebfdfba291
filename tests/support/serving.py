"""A server in the test's own event loop, with our HTTP protocols, and clients that speak bytes."""

from __future__ import annotations

import asyncio
import base64
import re
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import uvloop

from django_ws.server.base import BaseServer
from django_ws.server.config import Config, http_protocol, ws_protocol
from django_ws.server.http.limits import Limits

SECONDS = 30.0  # the bound of every wait
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
HTTPS = ("httptools", "h11")
KEY = base64.b64encode(bytes(16))
UPGRADE = (
    b"Connection: Upgrade",
    b"Upgrade: websocket",
    b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Key: " + KEY,
)

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def run(loop: str, main: Coroutine[Any, Any, None]) -> None:
    """In a new loop of a kind. What its callbacks raise is raised."""
    errors: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.get_loop().set_exception_handler(lambda _, context: errors.append(context))
        runner.run(main)
    assert errors == []


def request(target: bytes = b"/", *headers: bytes, method: bytes = b"GET") -> bytes:
    lines = [b"%b %b HTTP/1.1" % (method, target), b"Host: 127.0.0.1", *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def handshake(target: bytes = b"/", *headers: bytes, method: bytes = b"GET") -> bytes:
    return request(target, *UPGRADE, *headers, method=method)


@asynccontextmanager
async def serving(
    application: Any,
    http: str = "httptools",
    ws: Any = None,
    limits: Limits | None = None,
    server_class: type[BaseServer] = BaseServer,
    **options: Any,
) -> AsyncIterator[BaseServer]:
    config = Config(
        application,
        interface="asgi3",
        http=http_protocol(http),
        ws=ws_protocol("auto") if ws is None else ws,
        ws_per_message_deflate=False,
        log_config=None,
        lifespan=options.pop("lifespan", "off"),
        limits=limits,
        **options,
    )
    config.load()
    server = server_class(config)
    server.lifespan = config.lifespan_class(config)
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listening:
        await server.startup([listening])
        server.port = listening.getsockname()[1]  # type: ignore[attr-defined]
        ticks = asyncio.create_task(_tick(server))
        try:
            yield server
        finally:
            ticks.cancel()
            async with asyncio.timeout(SECONDS):
                await server.shutdown([listening])


async def _tick(server: BaseServer) -> None:
    """As its main loop does."""
    while True:
        await server.on_tick(0)
        await asyncio.sleep(0.1)


class Client:
    """One TCP connection; ``async with`` closes it."""

    def __init__(self, server: Any) -> None:
        self._port: int = server.port

    async def __aenter__(self) -> Client:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *error: object) -> None:
        self.writer.close()

    def say(self, *data: bytes) -> None:
        self.writer.write(b"".join(data))

    async def answer(self) -> tuple[int, bytes]:
        """The next answer: its status, and its body where it says how long that is."""
        async with asyncio.timeout(SECONDS):
            head = await self.reader.readuntil(b"\r\n\r\n")
            found = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            body = await self.reader.readexactly(int(found[1])) if found else b""
        return int(head.split(b" ")[1]), body

    async def exactly(self, size: int) -> bytes:
        async with asyncio.timeout(SECONDS):
            return await self.reader.readexactly(size)

    async def rest(self) -> bytes:
        """All until the server ends the connection, in whatever way."""
        found = b""
        try:
            async with asyncio.timeout(SECONDS):
                while data := await self.reader.read(65536):
                    found += data
        except ConnectionError:
            pass
        return found
